"""The vsock listener: real sockets where this kernel has them, and a TCP socket in their place for who asks.

A guest with a CID needs vhost_vsock, which not every host has; a real guest is elsewhere.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab import wire
from lab.ours import CommandLine
from lab.rig import Rig, free_port, no_trace, refused
from unit.fakes import ALPHA, BETA, FakeBackend, FakeWatch
from vmfence.config.settings import VsockSettings
from vmfence.errors import Unreachable
from vmfence.host.backends.live import LiveGuest
from vmfence.host.history import History
from vmfence.host.listeners.vsock import VsockListener
from vmfence.host.reception import Reception
from vmfence.host.security import KeyEntry, Security
from vmfence.host.service import Rules, Service
from vmfence.host.signatures import SignatureMemory
from vmfence.policy import Group, Origin, Policy, Source
from vmfence.protocol.auth import Hash, Key

SECRET = b"k" * 32
SECURITY = Security(Hash.SHA256, Hash.SHA256, (KeyEntry(Key(SECRET), None),))
LIVE_ALPHA = LiveGuest(ALPHA.name, ALPHA.uuid, cid=5)


def has_vsock() -> bool:
    try:
        socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close()
    except OSError:
        return False
    return True


needs_vsock = pytest.mark.skipif(not has_vsock(), reason="needs a kernel with AF_VSOCK")


class StandIn(VsockListener):
    """Listens on loopback; every peer has the CID *cid*."""

    cid = 5

    def origin_of(self, peer: Any) -> Origin:
        return super().origin_of((self.cid, peer[1]))


class Desk:
    """A listener, and what it says to a raw peer."""

    def __init__(self, folder: Path, *groups: Group) -> None:
        self.backend, self.watch = FakeBackend(ALPHA, BETA), FakeWatch(LIVE_ALPHA)
        policy = Policy(groups) if groups else Policy()
        service = Service(self.backend, Rules(policy))
        self.reception = Reception(service, SignatureMemory(str(folder)), History(str(folder)))
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.troubled = 0
        self.listener = StandIn(
            VsockSettings(), SECURITY, self.watch, self.reception, self.note, bind=lambda _: self.server
        )

    def note(self) -> None:
        self.troubled += 1

    def run(self, scenario: Callable[[Desk], Any]) -> Any:
        """Run *scenario* in a thread while the listener is open; return what it returns."""

        async def run() -> Any:
            await self.listener.open()
            try:
                return await asyncio.get_running_loop().run_in_executor(None, scenario, self)
            finally:
                await self.listener.close()
                await self.reception.drain(10)
                self.reception.close()

        return asyncio.run(run())

    def ask(self, action: int, guest: str, secret: bytes = SECRET) -> int | None:
        with wire.connect("127.0.0.1", self.port) as peer:
            peer.send(wire.sign(wire.packet(action, guest), secret))
            return peer.converse(secret)


def group(*targets: str, source: str = "") -> Group:
    return Group("test", (Source.parse(source),) if source else (), targets)


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ((), wire.IS_OFF),
        ((group(ALPHA.uuid, BETA.uuid),), wire.IS_OFF),
        ((group(ALPHA.name, BETA.name),), wire.IS_OFF),
        ((group(BETA.uuid, source="5"),), wire.IS_OFF),
        ((group(ALPHA.uuid),), wire.DENIED),
        ((group(BETA.uuid),), wire.DENIED),
        ((group(ALPHA.uuid, BETA.uuid, source="6"),), wire.DENIED),
    ],
)
def test_the_guest_behind_the_cid_asks(tmp_path: Path, groups: tuple[Group, ...], expected: int) -> None:
    desk = Desk(tmp_path, *groups)
    assert desk.run(lambda desk: desk.ask(wire.STATUS, BETA.name)) == expected


@pytest.mark.parametrize("why", ["libvirt is silent", "another guest has it too", "nobody has it"])
def test_a_cid_of_nobody_known_is_no_guest(tmp_path: Path, why: str) -> None:
    desk = Desk(tmp_path, group(ALPHA.uuid, BETA.uuid))
    if why == "libvirt is silent":
        desk.watch.failure, desk.watch.silent = Unreachable(why), why
    elif why == "another guest has it too":
        desk.watch.put(LIVE_ALPHA, LiveGuest(BETA.name, BETA.uuid, cid=5))
    else:
        desk.watch.put(LiveGuest(ALPHA.name, ALPHA.uuid, cid=6))
    assert desk.run(lambda desk: desk.ask(wire.OFF, BETA.name)) == wire.DENIED
    assert not desk.backend.power_calls()


def test_the_key_holds_here_too(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    assert desk.run(lambda desk: desk.ask(wire.OFF, ALPHA.name, b"x" * 32)) is None
    assert not desk.backend.power_calls()
    assert desk.reception.last_rejects[0][1] == "CID 5 (vsock)"


def test_without_libvirt_it_serves_and_says_so(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.watch.failure, desk.watch.silent = Unreachable("libvirt is gone"), "libvirt is gone"

    def scenario(desk: Desk) -> int | None:
        assert "guests are not known by their CID: libvirt is gone" in desk.listener.trouble()
        return desk.ask(wire.STATUS, ALPHA.name)

    assert desk.run(scenario) == wire.DONE


def test_it_asks_to_be_opened_again_when_libvirt_goes(tmp_path: Path) -> None:
    desk = Desk(tmp_path)

    async def run() -> None:
        await desk.listener.open()
        assert (desk.listener.trouble(), desk.troubled) == ("", 0)
        desk.watch.silent = "gone"
        desk.watch.changed()
        assert desk.troubled == 1
        await desk.listener.open()
        assert desk.listener.trouble() == ""
        await desk.listener.close()
        desk.reception.close()

    asyncio.run(run())


def vsock_rig(vmfence: CommandLine, folder: Path, port: int, **settings: object) -> Rig:
    return Rig(vmfence, folder, listeners={"vsock": {"port": port, **settings}})


@needs_vsock
def test_a_real_socket(vmfence: CommandLine, tmp_path: Path) -> None:
    port = free_port()
    with vsock_rig(vmfence, tmp_path / "one", port) as rig:
        assert f"vsock port {port}" in rig.daemon.log()
        rig.serves()
        second = vsock_rig(vmfence, tmp_path / "two", port)
        assert f"listener vsock: cannot listen at vsock port {port}" in refused(vmfence, second.config)
        assert no_trace(rig.daemon.log())


@needs_vsock
def test_an_optional_listener_is_tried_again(vmfence: CommandLine, tmp_path: Path) -> None:
    """The others serve meanwhile, and the status tells why it is down."""
    port = free_port()
    holder = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    with holder:
        holder.bind((socket.VMADDR_CID_ANY, port))
        holder.listen()
        rig = vsock_rig(vmfence, tmp_path, port, optional="yes")
        rig.daemon.start()
        rig.daemon.wait_for_line(" ready: ")
        rig.serves()
        shown = vmfence.run("host", "status", "-s", str(tmp_path / "control")).stdout
        assert f"vsock port {port}: cannot listen at vsock port {port}: Address already in use" in shown
    try:
        rig.wait_told(f"listening again: vsock port {port}")
        rig.serves()
    finally:
        rig.daemon.stop()
    assert no_trace(rig.daemon.log())


@needs_vsock
def test_the_agent_says_that_nobody_listens(vmfence: CommandLine, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(SECRET)
    key.chmod(0o600)
    done = vmfence.fence("-S", "-p", str(free_port()), "-k", str(key), "-o", "status", "-n", "alpha", "-t", "3")
    assert done.exit == 1
    assert "Unable to connect to VM socket CID 2 port" in done.stderr
