"""The service with a pool: the host that is asked judges the rules, the one that has the guest acts.

And the pool itself among other hosts, which the test plays through a stand-in for Corosync.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

import pytest

from unit.fake_corosync import WAIT_S, World, until
from unit.fake_corosync import world as world
from unit.fakes import ALPHA, BETA, FakeBackend, Hold
from vmfence.errors import BackendError, GuestNotFound, Unreachable, VmfenceError
from vmfence.host.backends.base import Guest
from vmfence.host.pool import messages, record, upkeep
from vmfence.host.pool.corosync import Delivery, Members, Up
from vmfence.host.pool.directory import Directory
from vmfence.host.pool.messages import Entry, Hello, Listing, Message, Order, Query, Report, Result, Sight
from vmfence.host.pool.pool import Pool, merge
from vmfence.host.service import Caller, OriginGone, Reply, Rules, Service
from vmfence.policy import Group, Origin, Policy, Source
from vmfence.protocol import cpg
from vmfence.protocol.reply import Code, State
from vmfence.protocol.request import Action, Request

ORIGIN = Origin("tcp", "10.0.0.1")


class FakePool:
    """Guests of other hosts in memory; *orders* records what was to be carried out."""

    def __init__(self, *guests: Guest) -> None:
        self._guests = {guest.name: guest for guest in guests}
        self.orders: list[tuple[Action, str]] = []
        self.failure: BackendError | None = None

    async def ping(self, deadline: float) -> None:
        if self.failure:
            raise self.failure

    async def find(self, target: str, deadline: float) -> Guest:
        if self.failure:
            raise self.failure
        if target not in self._guests:
            raise GuestNotFound(f"no guest is called {target}")
        return self._guests[target]

    async def find_for(self, action: Action, target: str, deadline: float) -> Guest:
        return await self.find(target, deadline)

    async def guests(self, deadline: float) -> list[Guest]:
        return list(self._guests.values())

    async def carry_out(self, action: Action, guest: Guest, deadline: float) -> tuple[Code, str]:
        self.orders.append((action, guest.name))
        return Code.SUCCESS, "at host 2"


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def service(pool: FakePool, policy: Policy | None = None, backend: FakeBackend | None = None) -> Service:
    made = Service(backend or FakeBackend(), Rules(policy or Policy(None)))
    made.pool = pool
    return made


def handle(made: Service, action: Action, target: str = "", gone: bool = False, seconds: float = 5.0) -> Reply:
    caller = Caller(ORIGIN, None, lambda: gone)
    request = Request(action, target.encode(), seqno=1)
    return run(made.handle(request, caller, time.monotonic() + seconds))


def test_guests_of_the_pool_are_found_and_acted_on() -> None:
    pool = FakePool(ALPHA, BETA)
    made = service(pool)
    assert handle(made, Action.STATUS, "alpha").code == Code.SUCCESS
    assert handle(made, Action.STATUS, "Beta").code == Code.OFF
    reply = handle(made, Action.OFF, "alpha")
    assert (reply.code, reply.guest, reply.detail) == (Code.SUCCESS, ALPHA, "at host 2")
    assert pool.orders == [(Action.OFF, "alpha")]
    assert [record.name for record in handle(made, Action.LIST).records or ()] == ["alpha", "Beta"]


def test_the_rules_of_the_host_that_is_asked_count() -> None:
    pool = FakePool(ALPHA, BETA)
    policy = Policy((Group("g", (Source.parse("10.0.0.1"),), ("alpha",)),))
    made = service(pool, policy)
    assert handle(made, Action.OFF, "Beta").code == Code.DENIED
    assert handle(made, Action.OFF, "nobody").code == Code.DENIED
    assert handle(made, Action.OFF, ALPHA.name).code == Code.SUCCESS
    assert pool.orders == [(Action.OFF, "alpha")]
    assert [record.name for record in handle(made, Action.LIST).records or ()] == ["alpha"]


def test_what_the_pool_cannot_tell_is_failure() -> None:
    pool = FakePool(ALPHA)
    pool.failure = BackendError("nobody can vouch that alpha is off", "host 2 is away")
    made = service(pool)
    for action in (Action.STATUS, Action.OFF, Action.MONITOR):
        reply = handle(made, action, "alpha")
        assert (reply.code, "host 2 is away" in reply.detail) == (Code.FAILURE, True)
    assert pool.orders == []


def test_a_pool_out_of_reach_is_tried_again_and_ends_in_time() -> None:
    pool = FakePool(ALPHA)
    pool.failure = Unreachable("this host is not in the group of its pool")
    assert handle(service(pool), Action.OFF, "alpha", seconds=0.5).code == Code.FAILURE


def test_nothing_is_ordered_for_a_client_that_has_left() -> None:
    pool = FakePool(ALPHA)
    with pytest.raises(OriginGone):
        handle(service(pool), Action.OFF, "alpha", gone=True)
    assert pool.orders == []


def here(
    backend: FakeBackend, action: Action, uuid: str, gone: bool = False, seconds: float = 5.0
) -> tuple[Code, str, State]:
    made = service(FakePool(), backend=backend)
    return run(made.carry_out_here(action, uuid, lambda: gone, time.monotonic() + seconds))


def test_an_order_of_another_host_is_carried_out_here() -> None:
    backend = FakeBackend(ALPHA)
    assert here(backend, Action.OFF, ALPHA.uuid) == (Code.SUCCESS, "", State.RUNNING)
    assert backend.state_of(ALPHA) is State.SHUT_OFF


def test_an_order_for_what_is_not_here_fails() -> None:
    assert here(FakeBackend(ALPHA), Action.OFF, BETA.uuid)[0] == Code.FAILURE


@pytest.mark.parametrize("how", [{"gone": True}, {"seconds": -1.0}], ids=["its host has left", "too late"])
def test_an_order_that_nobody_waits_for_is_not_carried_out(how: dict[str, Any]) -> None:
    backend = FakeBackend(ALPHA)
    assert here(backend, Action.OFF, ALPHA.uuid, **how)[0] == Code.FAILURE
    assert backend.power_calls() == []


# The pool itself


class Seat:
    """Host 1 with its pool, and hosts 2 and 3, played by the test."""

    def __init__(self, world: World, folder: Path, *guests: Guest) -> None:
        self.world, self.backend, self.folder = world, FakeBackend(*guests), folder
        world.nodes, world.echoes = {1: "h1", 2: "h2", 3: "h3"}, True
        self.pool = Pool(Service(self.backend, Rules(Policy(None))), str(folder))

    @property
    def directory(self) -> Directory:
        return self.pool.directory

    def hear(self, node: int, *heard: Message) -> None:
        self.world.last.happen(*(Delivery(node, messages.encode(message)) for message in heard))

    def sent(self, kind: type) -> list[Any]:
        found = [messages.decode(data) for data in self.world.last.sent]
        return [message for message in found if isinstance(message, kind)]

    async def meet(self, *absent: int) -> None:
        """Let all be here, but for those *absent*, and have told of their guests: none."""
        await self.pool.open()
        here = frozenset({1, 2, 3} - set(absent))
        self.world.last.happen(Up(here), Members(here))
        for node in here - {1}:
            self.hear(node, Hello(), Listing((), (), True, True))
        await until(lambda: len(self.directory.hosts) == len(here))
        await until(lambda: all(host.is_listed for host in self.directory.hosts.values()))

    async def status(self, seconds: float = WAIT_S) -> Guest:
        return await self.pool.find("alpha", time.monotonic() + seconds)


@pytest.fixture
def seated(world: World, tmp_path: Path) -> Callable[..., Seat]:
    """Play *work* with a seat at a pool."""

    def play(work: Callable[[Seat], Awaitable[None]], *guests: Guest) -> Seat:
        async def main() -> Seat:
            seat = Seat(world, tmp_path, *guests)
            try:
                await asyncio.wait_for(work(seat), 2 * WAIT_S)
            finally:
                seat.pool.close()
            return seat

        return asyncio.run(main())

    return play


Play = Callable[..., Seat]
RUNNING, OFF = Entry("alpha", ALPHA.uuid, 1), Entry("alpha", ALPHA.uuid, 5)


def poison() -> Delivery:
    return Delivery(2, cpg.encode(cpg.Ours(b'{"kind":"report","asker":1,"seqno":1,"guests":7}')))


def test_a_guest_is_found_where_it_is(seated: Play) -> None:
    async def work(seat: Seat) -> None:
        await seat.meet()
        asked = asyncio.ensure_future(seat.status())
        await until(lambda: seat.sent(Query))
        (query,) = seat.sent(Query)
        seat.hear(2, Report(1, query.seqno, (RUNNING,), 5.0))
        seat.hear(3, Report(1, query.seqno, (), 5.0))
        assert (await asked).state is State.RUNNING

    seated(work)


def test_a_message_that_cannot_be_taken_costs_nothing_of_the_rest(
    seated: Play, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Here that a host has left."""

    async def work(seat: Seat) -> None:
        await seat.meet()
        seat.world.last.happen(poison(), Members(frozenset({1, 2})))
        await until(lambda: seat.directory.members == {1, 2})
        assert "is not understood" in caplog.text

        def fail(*_: object) -> None:
            raise OverflowError("a defect")

        monkeypatch.setattr(seat.pool._member, "received", fail)
        seat.world.last.happen(Delivery(2, messages.encode(Hello())), Members(frozenset({1})))
        await until(lambda: seat.directory.members == {1})
        assert "a defect" in caplog.text

    seated(work)


def test_the_others_are_told_when_libvirt_cannot_be_read(seated: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "_AGAIN_S", 0.001)

    async def work(seat: Seat) -> None:
        await seat.meet()
        seat.backend.script("guests", Unreachable("libvirt hangs"))
        seat.pool._upkeep.read_guests()
        await until(lambda: [sight.is_blind for sight in seat.sent(Sight)][-2:] == [True, False])

    seated(work, ALPHA)


def test_without_corosync_nobody_is_here_and_no_request_waits(seated: Play) -> None:
    async def work(seat: Seat) -> None:
        await seat.meet()
        asked = asyncio.ensure_future(seat.status())
        await until(lambda: seat.sent(Query))
        seat.world.refuses = Unreachable("cannot connect to Corosync")
        seat.world.last.die()
        with pytest.raises(Unreachable):
            await asked
        assert (seat.directory.members, seat.directory.is_quorate, seat.directory.view) == (frozenset(), False, None)
        with pytest.raises(Unreachable):
            await seat.pool.ping(time.monotonic() + 1.0)
        assert "is gone" in seat.pool.describe()["trouble"]

    seated(work)


def test_who_is_up_without_a_daemon_of_the_pool_is_known(seated: Play) -> None:
    """None of them is down by having been fenced."""

    async def work(seat: Seat) -> None:
        await seat.meet()
        seat.world.last.happen(Members(frozenset({1, 2})))
        await until(lambda: seat.directory.awake() == {3})
        seat.world.last.happen(Up(frozenset({1, 2})))
        await until(lambda: seat.directory.awake() == frozenset())

    seated(work)


def test_what_a_host_had_is_on_the_disk_as_soon_as_it_has_left(seated: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "_SAVE_EVERY_S", 1e6)

    async def work(seat: Seat) -> None:
        await seat.meet()
        seat.hear(3, Listing((RUNNING,), number=1))
        await until(lambda: seat.directory.hosts[3].guests)
        seat.world.last.happen(Members(frozenset({1, 2})))
        await until((seat.folder / record.FILE_NAME).exists)
        assert json.loads((seat.folder / record.FILE_NAME).read_text())["hosts"]["3"]["guests"]

    seated(work)


def test_what_is_on_the_disk_at_the_end_is_of_before_leaving(seated: Play) -> None:
    """Those who are in the group may leave while nobody looks."""

    async def work(seat: Seat) -> None:
        await seat.meet()

    hosts = json.loads((seated(work).folder / record.FILE_NAME).read_text())["hosts"]
    assert {node: host["left_at"] for node, host in hosts.items()} == {"1": None, "2": None, "3": None}


def test_an_order_is_carried_out_for_who_is_here(seated: Play) -> None:
    async def work(seat: Seat) -> None:
        await seat.meet()
        order = Order(1, 7, Action.OFF, ALPHA.uuid, time.monotonic() + WAIT_S)
        seat.hear(2, order)
        await until(lambda: seat.sent(Result))
        assert seat.sent(Result) == [Result(2, 7, Code.SUCCESS, "", State.RUNNING)]
        assert seat.backend.state_of(ALPHA) is State.SHUT_OFF

    seated(work, ALPHA)


def test_an_order_of_a_host_that_leaves_meanwhile_is_not_carried_out(seated: Play) -> None:
    async def work(seat: Seat) -> None:
        await seat.meet()
        hold = Hold()
        seat.backend.script("find", hold)
        seat.hear(2, Order(1, 7, Action.OFF, ALPHA.uuid, time.monotonic() + WAIT_S))
        await hold.begun.wait()
        seat.world.last.happen(Members(frozenset({1, 3})))
        await until(lambda: seat.directory.members == {1, 3})
        hold.release.set()
        await until(lambda: len([call for call in seat.backend.calls if call[0] == "guests"]) >= 2)
        assert seat.backend.power_calls() == []

    seated(work, ALPHA)


def test_a_question_that_has_ended_is_not_sent_any_more(seated: Play) -> None:
    async def work(seat: Seat) -> None:
        await seat.meet()
        seat.world.last.takes = False
        for _ in range(20):
            with pytest.raises(VmfenceError):
                await seat.status(0.001)
        seat.world.last.takes = True
        seat.hear(2, Hello())
        await until(lambda: not seat.pool._link._backlog)
        assert seat.sent(Query) == []

    seated(work)


def test_who_leaves_does_not_let_fence_virtd_wait(seated: Play) -> None:
    async def work(seat: Seat) -> None:
        await seat.meet(2, 3)
        seat.world.last.happen(Members(frozenset({1, 2})))
        await until(lambda: 2 in seat.directory.members)
        seat.hear(2, cpg.Request(5, "alpha", Action.OFF))
        await until(lambda: seat.sent(Query))
        seat.pool.close()
        assert [(reply.asker, reply.seqno, reply.code) for reply in seat.sent(cpg.Reply)] == [(2, 5, Code.FAILURE)]

    seated(work, ALPHA)


def test_a_list_waits_for_those_who_have_not_told_and_fails_without_them(
    seated: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(seat: Seat) -> None:
        await seat.meet(3)
        seat.world.last.happen(Members(frozenset({1, 2, 3})))
        await until(lambda: 3 in seat.directory.members)
        seat.hear(3, Hello())
        asked = asyncio.ensure_future(seat.pool.guests(time.monotonic() + WAIT_S))
        await until(lambda: seat.directory.hosts[3].is_ours)
        seat.hear(2, Listing((), (), True, True, 1))
        seat.hear(3, Listing((RUNNING,), (), True, True))
        assert [guest.state for guest in await asked] == [State.RUNNING]
        seat.world.last.happen(Members(frozenset({1, 2})), Members(frozenset({1, 2, 3})))
        await until(lambda: not seat.directory.hosts[3].is_listed)
        seat.hear(3, Hello())
        await until(lambda: seat.directory.hosts[3].is_ours)
        with pytest.raises(Unreachable, match="host 3 has not told"):
            await seat.pool.guests(time.monotonic() + 0.01)

    seated(work)


@pytest.mark.parametrize(
    ("sightings", "last", "state"),
    [
        ([(1, OFF), (2, RUNNING)], {2}, State.RUNNING),
        ([(1, OFF)], {1}, State.SHUT_OFF),
        ([(1, OFF)], (), State.SHUT_OFF),
        ([(1, replace(OFF, moved=True))], {0}, State.NONE),
        ([(1, replace(OFF, moved=True))], (), State.NONE),
        ([(1, replace(OFF, moved=True)), (2, OFF)], {2}, State.SHUT_OFF),
        ([(1, replace(OFF, moved=True)), (2, OFF)], {3}, State.NONE),
        ([(1, OFF)], {3}, State.NONE),
        ([(1, replace(OFF, state=99))], {1}, State.NONE),
    ],
)
def test_in_a_list_only_what_has_ended_is_off(sightings: list[Any], last: Any, state: State) -> None:
    assert merge(sightings, last).state is state
