"""The service with a pool: the host that is asked judges the rules, the one that has the guest acts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

import pytest

from unit.fakes import ALPHA, BETA, FakeBackend
from vmfence.errors import BackendError, GuestNotFound, Unreachable
from vmfence.host.backends.base import Guest
from vmfence.host.service import Caller, OriginGone, Reply, Rules, Service
from vmfence.policy import Group, Origin, Policy, Source
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


def here(backend: FakeBackend, action: Action, uuid: str, gone: bool = False, seconds: float = 5.0) -> tuple[Code, str]:
    made = service(FakePool(), backend=backend)
    return run(made.carry_out_here(action, uuid, lambda: gone, time.monotonic() + seconds))


def test_an_order_of_another_host_is_carried_out_here() -> None:
    backend = FakeBackend(ALPHA)
    assert here(backend, Action.OFF, ALPHA.uuid)[0] == Code.SUCCESS
    assert backend.state_of(ALPHA) is State.SHUT_OFF


def test_an_order_for_what_is_not_here_fails() -> None:
    assert here(FakeBackend(ALPHA), Action.OFF, BETA.uuid)[0] == Code.FAILURE


@pytest.mark.parametrize("how", [{"gone": True}, {"seconds": -1.0}], ids=["its host has left", "too late"])
def test_an_order_that_nobody_waits_for_is_not_carried_out(how: dict[str, Any]) -> None:
    backend = FakeBackend(ALPHA)
    assert here(backend, Action.OFF, ALPHA.uuid, **how)[0] == Code.FAILURE
    assert backend.power_calls() == []
