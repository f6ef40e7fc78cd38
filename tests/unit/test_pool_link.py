"""The connection to Corosync in the event loop: kept up, heard, and nothing sent too late.  Corosync is a stand-in."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Coroutine
from typing import Any, Callable

import pytest

from unit.fake_corosync import WAIT_S, World, until
from unit.fake_corosync import world as world
from vmfence.errors import ToolMissing, Unreachable, VmfenceError
from vmfence.host.pool import link as module
from vmfence.host.pool.corosync import Delivery, Event, Members
from vmfence.host.pool.link import Link
from vmfence.host.pool.workers import Workers

HELLO = Delivery(2, b"hello")


class Listener:
    """Who is told; records it."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def connected(self, me: int, nodes: dict[int, str] | None) -> None:
        self.told.append(("connected", me, nodes))

    def lost(self, why: str) -> None:
        self.told.append(("lost", why))

    def happened(self, events: list[Event], is_quorate: bool) -> None:
        self.told += events


CONNECTED = ("connected", 1, {1: "h1", 2: "h2"})


def run(work: Callable[[Link, Listener], Awaitable[None]]) -> Listener:
    """Do *work* with a link, and close that."""
    listener = Listener()

    async def main() -> None:
        link = Link(listener)
        try:
            await asyncio.wait_for(work(link, listener), WAIT_S)
        finally:
            link.close()

    asyncio.run(main())
    return listener


def test_what_happens_is_told_in_order(world: World) -> None:
    async def work(link: Link, listener: Listener) -> None:
        await link.open()
        assert link.trouble == ""
        world.last.happen(Members(frozenset({1, 2})), HELLO)
        await until(lambda: HELLO in listener.told)
        link.send(b"to all")
        assert world.last.sent == [b"to all"]

    assert run(work).told == [CONNECTED, Members(frozenset({1, 2})), HELLO, ("lost", "this daemon ends")]
    assert world.last.is_closed.wait(WAIT_S)


@pytest.mark.parametrize("error", [ToolMissing("no library"), Unreachable("cannot connect to Corosync")])
def test_what_cannot_be_opened_is_told(world: World, error: VmfenceError) -> None:
    world.refuses = error

    async def work(link: Link, listener: Listener) -> None:
        with pytest.raises(type(error)):
            await link.open()
        assert link.trouble == str(error)

    assert run(work).told == []


def test_a_lost_corosync_is_told_and_joined_again(world: World) -> None:
    async def work(link: Link, listener: Listener) -> None:
        await link.open()
        world.refuses = Unreachable("cannot connect to Corosync")
        world.last.die()
        await until(lambda: len(world.made) > 3)
        assert [told[0] for told in listener.told] == ["connected", "lost"]
        assert "is gone" in listener.told[-1][1]
        with pytest.raises(Unreachable):
            await link.open()
        link.send(b"to nobody")
        world.refuses = None
        await until(lambda: len(listener.told) == 3)
        world.last.die()  # and once more
        await until(lambda: len(listener.told) == 5)
        assert world.last.sent == []

    assert [told[0] for told in run(work).told] == ["connected", "lost", "connected", "lost", "connected", "lost"]
    assert world.joined == 0


def test_a_dead_connection_is_noticed_when_something_is_sent(world: World) -> None:
    async def work(link: Link, listener: Listener) -> None:
        await link.open()
        world.last.error = Unreachable("cannot send to the other hosts")
        link.send(b"x")
        await until(lambda: len(listener.told) == 3)

    assert [told[0] for told in run(work).told] == ["connected", "lost", "connected", "lost"]


def test_what_corosync_does_not_take_is_sent_later_in_its_order(world: World) -> None:
    async def work(link: Link, listener: Listener) -> None:
        await link.open()
        world.last.takes = False
        for number in range(5):
            link.send(b"%d" % number)
        world.last.takes = True
        link.send(b"5")
        await until(lambda: len(world.last.sent) == 6)
        assert world.last.sent == [b"0", b"1", b"2", b"3", b"4", b"5"]

    run(work)


def test_what_nobody_waits_for_any_more_is_not_sent(world: World) -> None:
    """A fence that fence_virtd would carry out late is worse than none."""

    async def work(link: Link, listener: Listener) -> None:
        await link.open()
        world.last.takes = False
        link.send(b"my guests")
        link.send(b"fence", time.monotonic() + 0.001)
        for _ in range(1000):
            link.send(b"question", time.monotonic() - 1.0)
        await until(lambda: len(link._backlog) == 1)
        world.last.takes = True
        link.send(b"more of them")
        await until(lambda: len(world.last.sent) == 2)
        assert world.last.sent == [b"my guests", b"more of them"]
        link.send(b"too late", time.monotonic() - 1.0)
        assert len(world.last.sent) == 2

    run(work)


def test_a_corosync_that_takes_nothing_counts_as_lost(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """All is told anew after that; nothing is left out in silence."""
    monkeypatch.setattr(module, "BACKLOG_MAX", 10)

    async def work(link: Link, listener: Listener) -> None:
        await link.open()
        world.last.takes = False
        for _ in range(12):
            link.send(b"x")
        await until(lambda: len(listener.told) == 3)
        assert "10 wait to be sent" in listener.told[1][1]
        assert not link._backlog

    run(work)


def test_while_corosync_hangs_threads_do_not_grow_in_number(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECT_S", 0.001)

    async def work(link: Link, listener: Listener) -> None:
        world.gate.clear()
        told = set()
        for _ in range(20):
            with pytest.raises(Unreachable) as caught:
                await link.open()
            told.add(caught.value.why)
        assert len(told) == 2  # no answer, then not asked any more
        assert len(world.made) == 20
        assert sum(thread.name == "Corosync" for thread in threading.enumerate()) == 2
        world.gate.set()
        for each in world.made[:2]:  # they joined after all
            await asyncio.get_running_loop().run_in_executor(None, each.is_closed.wait, WAIT_S)
        monkeypatch.setattr(module, "CONNECT_S", WAIT_S)
        await until(lambda: not any(thread.name == "Corosync" for thread in threading.enumerate()))
        await link.open()
        assert world.joined == 1

    run(work)


def test_the_list_of_nodes_is_read_beside(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(link: Link, listener: Listener) -> None:
        assert await link.read_nodes() is None
        await link.open()
        assert await link.read_nodes() == {1: "h1", 2: "h2"}
        monkeypatch.setattr(module, "CONNECT_S", 0.001)
        world.gate.clear()
        assert await link.read_nodes() is None

    run(work)


def call(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def test_a_worker_that_hangs_is_left_behind_and_undone() -> None:
    gate, undone = threading.Event(), threading.Event()

    async def work() -> None:
        workers = Workers("it", 1)
        with pytest.raises(Unreachable, match="it does not answer. no answer within"):
            await workers.run(lambda: gate.wait(WAIT_S), 0.001, undone.set)
        with pytest.raises(Unreachable, match="1 earlier calls have not ended"):
            await workers.run(lambda: None, WAIT_S)
        gate.set()
        assert undone.wait(WAIT_S)

    call(work())


def test_a_worker_that_nobody_waits_for_is_undone() -> None:
    gate, begun, undone = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        gate.wait(WAIT_S)

    async def main() -> None:
        task = asyncio.ensure_future(Workers("it", 1).run(work, WAIT_S, undone.set))
        await until(begun.is_set)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.set()
        assert undone.wait(WAIT_S)

    call(main())


def test_a_worker_hands_on_what_it_returns_or_raises() -> None:
    async def work() -> None:
        workers = Workers("it", 1)
        undone = threading.Event()
        assert await workers.run(lambda: 5, WAIT_S, undone.set) == 5
        with pytest.raises(ZeroDivisionError):
            await workers.run(lambda: 1 // 0, WAIT_S, undone.set)
        assert not undone.is_set()

    call(work())
