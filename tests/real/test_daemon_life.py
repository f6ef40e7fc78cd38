"""What a reload and a stop leave alone: sockets that serve, files of others, and everybody else while libvirt hangs.

libvirt's test driver and loopback; where libvirt hangs, a libvirtd of our own.  Bridges: system/test_multicast_life.py.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

from lab import wire
from lab.hypervisor import Hypervisor
from lab.ours import CommandLine, driver_uri
from lab.rig import ALPHA, BETA, GUESTS, LOOPBACK, Rig, free_port, is_open, no_trace, refused
from lab.waiting import wait_until
from unit.fakes import FakeBackend
from vmfence.config import settings as configuration
from vmfence.host import daemon as module
from vmfence.host.daemon import Daemon, Options
from vmfence.host.notify import ServiceManager

HASTE_S = 5.0  # libvirt gives a silent libvirtd up after 10 s and more: sooner means without waiting for it
GUEST = "vm-01"


@pytest.fixture
def rig(vmfence: CommandLine, tmp_path: Path) -> Iterator[Rig]:
    """A daemon with two listeners: multicast on loopback beside tcp."""
    with Rig(vmfence, tmp_path, listeners={"multicast": {"interface": "lo", "port": free_port()}}) as rig:
        yield rig


def sockets(rig: Rig) -> dict[tuple[str, int], str]:
    """Return the sockets that the daemon listens with, (protocol, port) -> inode (proc(5))."""
    found = {}
    for protocol, port in rig.daemon.ports():
        for line in Path(f"/proc/{rig.daemon.pid}/net/{protocol}").read_text().splitlines()[1:]:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == port and fields[3] in ("0A", "07"):
                found[protocol, port] = fields[9]
    return found


# Listeners


def test_a_refused_reload_closes_nothing(rig: Rig) -> None:
    """For a moment without a socket the port may be lost to another program, and requests are."""
    before = sockets(rig)
    assert len(before) == 2
    with socket.create_server((LOOPBACK, 0)) as other:
        rig.write_config(port=other.getsockname()[1])
        rig.reload("reload refused")
    assert sockets(rig) == before
    rig.serves()


def test_a_reload_that_changes_one_listener_leaves_the_other_open(rig: Rig) -> None:
    before = sockets(rig)
    old, rig.port = rig.port, free_port()
    rig.config.write_text("# one line more\n" + rig.write_config(port=rig.port).read_text())
    rig.reload()
    after = sockets(rig)
    assert after.keys() == {("tcp", rig.port)} | before.keys() - {("tcp", old)}
    assert before.items() & after.items() == {item for item in before.items() if item[0][0] == "udp"}
    rig.serves()


def test_an_address_that_covers_the_old_one(rig: Rig) -> None:
    """The old listener has to make room, and gets its place back when the rest is refused."""
    good = rig.config.read_text()
    rig.write_config(address="0.0.0.0")
    rig.config.write_text(rig.config.read_text().replace('"lo"', '"l0"'))
    rig.reload("reload refused")
    assert rig.told("interface l0 does not exist") == 1
    rig.serves()
    rig.write_config(address="0.0.0.0")
    rig.reload()
    rig.serves()
    rig.config.write_text(good)
    rig.reload()
    rig.serves()


# The control socket


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_a_control_socket_never_takes_the_place_of_anything_else(
    vmfence: CommandLine, tmp_path: Path, kind: str
) -> None:
    target, path = tmp_path / "precious", tmp_path / "control"
    target.write_text("precious")
    {"file": lambda: target.rename(path), "folder": path.mkdir, "link": lambda: path.symlink_to(target)}[kind]()
    told = refused(vmfence, Rig(vmfence, tmp_path).config)
    assert f"cannot open the control socket {path}" in told
    if kind == "folder":
        assert path.is_dir()
    else:
        assert path.is_symlink() == (kind == "link")
        assert path.read_text() == "precious"


def test_at_its_end_the_daemon_removes_its_socket_only(vmfence: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "control"
    with Rig(vmfence, tmp_path) as rig:
        path.unlink()
        path.write_text("precious")
        rig.daemon.signal(signal.SIGTERM)
        assert rig.daemon.wait() == 0
    assert path.read_text() == "precious"


# A libvirtd that hangs


@pytest.fixture(scope="module")
def hypervisor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hypervisor]:
    with Hypervisor(tmp_path_factory.mktemp("libvirt")) as hypervisor:
        hypervisor.define(GUEST)
        yield hypervisor


@pytest.fixture
def on_libvirtd(vmfence: CommandLine, tmp_path: Path, hypervisor: Hypervisor) -> Iterator[Rig]:
    """A daemon that is connected to libvirtd."""
    with Rig(vmfence, tmp_path, uris=[hypervisor.uri]) as rig:
        assert rig.ask(wire.STATUS, GUEST) == wire.IS_OFF
        yield rig


def change_backend(rig: Rig, hypervisor: Hypervisor) -> None:
    """Write a configuration with libvirt's test driver in place of libvirtd."""
    rig.config.write_text(rig.config.read_text().replace(hypervisor.uri, driver_uri(rig.folder, dict(GUESTS))))


@pytest.mark.system
def test_a_backend_that_hangs_is_left_without_waiting(on_libvirtd: Rig, hypervisor: Hypervisor) -> None:
    rig = on_libvirtd
    hypervisor.pause()
    try:
        change_backend(rig, hypervisor)
        rig.daemon.signal(signal.SIGHUP)
        rig.daemon.wait_for_line("reloaded: ", HASTE_S)
        for guest in (ALPHA, BETA):
            with rig.connect(timeout=HASTE_S) as peer:
                peer.send(rig.packet(wire.STATUS, guest))
                assert peer.converse(rig.secret) == wire.DONE
        rig.daemon.signal(signal.SIGTERM)
        assert rig.daemon.wait(HASTE_S) == 0
    finally:
        hypervisor.resume()
    assert no_trace(rig.daemon.log())


@pytest.mark.system
def test_a_stop_does_not_wait_for_a_backend_that_hangs(on_libvirtd: Rig, hypervisor: Hypervisor) -> None:
    hypervisor.pause()
    try:
        on_libvirtd.daemon.signal(signal.SIGTERM)
        assert on_libvirtd.daemon.wait(HASTE_S) == 0
    finally:
        hypervisor.resume()
    assert no_trace(on_libvirtd.daemon.log())


@pytest.mark.system
def test_an_action_ends_on_the_backend_that_it_began_with(on_libvirtd: Rig, hypervisor: Hypervisor) -> None:
    """libvirt needs 10 s for a hung guest; meanwhile a reload takes its URI away."""
    rig = on_libvirtd
    hypervisor.power_on(GUEST)
    hypervisor.hang(GUEST)
    with rig.send(rig.packet(wire.OFF, GUEST)) as asking:
        assert asking.challenge(rig.secret)
        asking.respond(rig.secret)
        wait_until(lambda: hypervisor.is_told_to_end(GUEST), what="libvirt's SIGTERM")
        change_backend(rig, hypervisor)
        rig.reload()
        rig.serves()
        assert is_open(asking), "the action was over before the reload: that shows nothing"
        assert asking.read(1) == bytes([wire.DONE])
    assert not hypervisor.is_on(GUEST)
    rig.serves()


# Inside the process


class SlowToClose(FakeBackend):
    """Its closing ends when *may_end* is set; *is_closing* tells that it has begun."""

    def __init__(self) -> None:
        super().__init__()
        self.is_closing, self.may_end = threading.Event(), threading.Event()

    def close(self) -> None:
        self.is_closing.set()
        assert self.may_end.wait(30)


def inside(rig: Rig, scenario: Callable[[Daemon], Coroutine[Any, Any, None]]) -> None:
    """Run *scenario* with a daemon made from the rig's configuration, which is not started."""

    async def run() -> None:
        daemon = Daemon(Options(config=str(rig.config)), ServiceManager({}))
        try:
            await scenario(daemon)
        finally:
            await daemon._finish()

    asyncio.run(run())


def test_until_a_replaced_backend_is_closed_the_process_has_a_thread_that_hangs(
    vmfence: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the process ends without waiting for its threads (process.py)."""
    slow = SlowToClose()
    made = iter([slow, FakeBackend()])
    monkeypatch.setattr(module.assemble, "make_backend", lambda settings: next(made))

    async def scenario(daemon: Daemon) -> None:
        daemon._swap_backend(module.assemble.make_backend(configuration.load(daemon._path)))
        assert await asyncio.get_running_loop().run_in_executor(None, slow.is_closing.wait, 30)
        assert daemon.is_busy()
        slow.may_end.set()
        while daemon.is_busy():
            await asyncio.sleep(0)

    inside(Rig(vmfence, tmp_path), scenario)


def test_housekeeping_survives_what_nobody_expected(
    vmfence: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_TICK_S", 0.0)

    async def scenario(daemon: Daemon) -> None:
        again = asyncio.Event()
        rounds = iter([ZeroDivisionError("first"), ZeroDivisionError("second")])

        def flush(now: float) -> list[str]:
            for error in rounds:
                raise error
            again.set()
            return []

        monkeypatch.setattr(daemon._reception.rejects, "flush", flush)
        task = asyncio.ensure_future(daemon._housekeep())
        await asyncio.wait_for(again.wait(), 30)
        task.cancel()

    inside(Rig(vmfence, tmp_path), scenario)
    assert caplog.text.count("housekeeping failed") == 2
