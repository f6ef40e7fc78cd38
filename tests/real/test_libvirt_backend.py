"""The libvirt backend on libvirt's test driver, where the order of things decides."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Coroutine, Iterator
from contextlib import closing
from typing import Any, TypeVar

import libvirt
import pytest

from vmfence.errors import GuestNotFound, Unreachable
from vmfence.host.backends.libvirt import LibvirtBackend
from vmfence.host.service import Caller, OriginGone, Rules, Service
from vmfence.policy import Origin, Policy
from vmfence.protocol.reply import Code, State
from vmfence.protocol.request import Action, Request

T = TypeVar("T")
TRANSIENT = "<domain type='test'><name>{name}</name><memory>1024</memory><os><type>hvm</type></os></domain>"
NOWHERE = "qemu+unix:///system?socket=/nonexistent/libvirt-sock"
CALLER = Caller(Origin("tcp", "127.0.0.1"), None, lambda: False)


def always() -> None:
    """It is still wanted."""


def gone() -> None:
    raise OriginGone("the client left")


def end() -> float:
    return time.monotonic() + 10


def run(scenario: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(scenario, 30))


@pytest.fixture(autouse=True)
def running() -> Iterator[None]:
    """The guest "test" runs.  The default world of the test driver is shared by all of a process, and so kept open."""
    with closing(libvirt.open("test:///default")) as connection:
        guest = connection.lookupByName("test")
        if not guest.isActive():
            guest.create()
        yield


@pytest.fixture
def backend() -> Iterator[LibvirtBackend]:
    with closing(LibvirtBackend(("test:///default",))) as made:
        yield made


@pytest.fixture
def transient(backend: LibvirtBackend) -> str:
    """A running guest without a definition."""
    name = f"tran-{uuid.uuid4()}"
    xml = TRANSIENT.format(name=name)
    run(backend._hypervisors[0].call(lambda connection: connection.createXML(xml) and None, end()))
    return name


def ask(backend: LibvirtBackend, action: Action, target: str) -> Coroutine[Any, Any, Code]:
    async def answer() -> Code:
        request = Request(action, target.encode(), seqno=1)
        return (await Service(backend, Rules(Policy(None))).handle(request, CALLER, end())).code

    return answer()


def test_nothing_is_changed_that_is_not_wanted_any_more(backend: LibvirtBackend) -> None:
    async def scenario() -> None:
        guest = await backend.find("test", end())
        with pytest.raises(OriginGone):
            await backend.power_off(guest, end(), gone)
        assert (await backend.find("test", end())).is_running
        await backend.power_off(guest, end(), always)
        with pytest.raises(OriginGone):
            await backend.power_on(guest, end(), gone)
        assert (await backend.find("test", end())).is_off

    run(scenario())


def test_a_transient_guest_that_we_ended_is_unknown_and_never_off(backend: LibvirtBackend, transient: str) -> None:
    async def scenario() -> None:
        assert await ask(backend, Action.OFF, transient) is Code.SUCCESS
        assert await ask(backend, Action.STATUS, transient) is Code.FAILURE
        assert not await Service(backend, Rules(Policy(None))).knows(transient, end())
        with pytest.raises(GuestNotFound):
            await backend.find(transient, end())
        assert await ask(backend, Action.OFF, transient) is Code.SUCCESS, "a fence that is asked for again"
        assert await ask(backend, Action.ON, transient) is Code.SUCCESS
        assert (await backend.find(transient, end())).is_running

    run(scenario())


def test_a_transient_guest_survives_reboots_while_others_look(backend: LibvirtBackend, transient: str) -> None:
    async def scenario() -> None:
        over = asyncio.Event()

        async def look() -> None:
            while not over.is_set():
                await ask(backend, Action.STATUS, transient)

        lookers = [asyncio.create_task(look()) for _ in range(8)]
        codes = [await ask(backend, Action.REBOOT, transient) for _ in range(20)]
        over.set()
        await asyncio.gather(*lookers)
        assert set(codes) == {Code.SUCCESS}
        assert (await backend.find(transient, end())).state is State.RUNNING

    run(scenario())


def test_a_dead_hypervisor_elsewhere_does_not_hide_what_we_did_here() -> None:
    """Status of a guest that is off stays unknown: the silent one may run it.  Our own off is read back in place."""

    async def scenario(backend: LibvirtBackend) -> None:
        assert await ask(backend, Action.STATUS, "test") is Code.SUCCESS
        assert await ask(backend, Action.REBOOT, "test") is Code.SUCCESS
        assert await ask(backend, Action.OFF, "test") is Code.SUCCESS
        with pytest.raises(Unreachable):
            await backend.find("test", end())

    with closing(LibvirtBackend(("test:///default", NOWHERE))) as backend:
        run(scenario(backend))
