"""The life of the daemon under faults: keys and configuration changed below it, signals, service manager, pid file.

libvirt's test driver and loopback; SIGTERM during a request uses a libvirtd of its own with a hung guest.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab import wire
from lab.hypervisor import Hypervisor
from lab.ours import CommandLine
from lab.reference import write_key
from lab.rig import (
    ALPHA,
    BAD_KEYS,
    BETA,
    LOOPBACK,
    ON,
    Rig,
    free_port,
    hung,
    no_trace,
    powerless,
    refused,
    remove,
)
from lab.waiting import wait_until

pytestmark = pytest.mark.system
REFUSED = "reload refused"


@pytest.fixture(scope="module")
def rig(vmfence: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Rig(vmfence, tmp_path_factory.mktemp("rig"), prefix=powerless()) as rig:
        yield rig


def ask_with(rig: Rig, secret: bytes, request: int = wire.STATUS, guest: str = ALPHA) -> int | None:
    """Hold a conversation with another key than the file's."""
    with rig.send(wire.sign(wire.packet(request, guest), secret)) as peer:
        return peer.converse(secret)


# Keys


@pytest.mark.parametrize("bad", BAD_KEYS)
def test_a_bad_key_at_reload_leaves_the_old_one_in_force(rig: Rig, vmfence: CommandLine, bad: str) -> None:
    secret = rig.secret
    remove(rig.key)
    try:
        BAD_KEYS[bad](rig.key)
        assert ask_with(rig, secret) == wire.DONE  # nothing is read before SIGHUP
        rig.reload(REFUSED)
        assert ask_with(rig, secret) == wire.DONE
        assert ask_with(rig, b"") is None
        result = vmfence.fence("-T", LOOPBACK, "-p", str(rig.port), "-k", str(rig.key), "-o", "off", "-n", ALPHA)
        assert result.exit == 1
    finally:
        remove(rig.key)
        write_key(rig.key, secret)
    rig.reload()
    assert rig.hosts() == {ALPHA: ON, BETA: ON}
    assert str(rig.key) in rig.daemon.log()


def test_a_new_key_takes_the_place_of_the_old_one(rig: Rig, tmp_path: Path) -> None:
    old, recording = rig.secret, rig.packet(wire.OFF, ALPHA)
    old_file = write_key(tmp_path / "old", old)
    write_key(rig.key)
    assert ask_with(rig, old) == wire.DONE
    assert ask_with(rig, rig.secret) is None
    rig.reload()
    assert ask_with(rig, old) is None
    assert ask_with(rig, rig.secret) == wire.DONE
    with rig.send(recording) as peer:
        assert peer.closed()
    assert rig.fence("status", ALPHA, key=old_file).exit == 1
    assert rig.fence("status", ALPHA).exit == 0


def test_a_key_that_comes_back_does_not_bring_its_recordings_back(rig: Rig) -> None:
    first, second = rig.secret, os.urandom(4096)
    recording = rig.packet(wire.OFF, ALPHA)
    with rig.send(recording) as peer:
        assert peer.converse(first) == wire.DONE
    for content in (second, first):
        write_key(rig.key, content)
        rig.reload()
    rig.power_on(ALPHA)
    with rig.send(recording) as peer:
        assert peer.closed()
    assert rig.state(ALPHA) == ON


def test_a_conversation_that_began_with_the_old_key_ends_with_it(rig: Rig) -> None:
    old = rig.secret
    with rig.send(rig.packet(wire.STATUS, ALPHA)) as peer:
        assert peer.challenge(old)
        write_key(rig.key)
        rig.reload()
        peer.respond(old)
        assert peer.read(1) == bytes((wire.DONE,))


# Configuration


BROKEN = {
    "nothing": "",
    "rubbish": "\0\1\2{{{",
    "unknown key": 'fence_virtd { bogus = "1"; }',
    "half": 'fence_virtd { listener = "tcp"; backend = "libvirt"; ',
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_configuration_at_reload_keeps_serving(rig: Rig, case: str) -> None:
    good = rig.config.read_text()
    rig.config.write_text(BROKEN[case])
    rig.reload(REFUSED)
    rig.serves(ALPHA)
    rig.config.write_text(good)
    rig.reload()
    rig.serves(ALPHA)


def test_a_configuration_that_vanished_keeps_serving(rig: Rig) -> None:
    good = rig.config.read_text()
    rig.config.unlink()
    rig.reload(REFUSED)
    rig.serves(ALPHA)
    rig.config.write_text(good)
    rig.reload()


def test_a_new_port_at_reload(rig: Rig) -> None:
    old = rig.port
    rig.port = free_port()
    rig.write_config(port=rig.port)
    rig.reload()
    rig.serves(ALPHA)
    with pytest.raises(ConnectionRefusedError):
        wire.connect(LOOPBACK, old)
    assert rig.daemon.ports() == {("tcp", rig.port)}


def test_a_port_that_is_taken_at_reload_keeps_the_old_one(rig: Rig) -> None:
    with socket.create_server((LOOPBACK, 0)) as other:
        rig.write_config(port=other.getsockname()[1])
        rig.reload(REFUSED)
        rig.serves(ALPHA)
    rig.write_config(port=rig.port)
    rig.reload()
    rig.serves(ALPHA)


def test_a_listener_more_and_a_listener_less(rig: Rig) -> None:
    text = rig.write_config(port=rig.port).read_text()
    more = text.replace('listener = "tcp"', 'listener = "tcp multicast"').replace(
        "listeners {", f'listeners {{ multicast {{ interface = "lo"; port = "{rig.port}"; key_file = "{rig.key}"; }}'
    )
    rig.config.write_text(more)
    rig.reload()
    assert rig.daemon.ports() == {("tcp", rig.port), ("udp", rig.port)}
    rig.config.write_text(text)
    rig.reload()
    assert rig.daemon.ports() == {("tcp", rig.port)}
    rig.serves(ALPHA)


def test_access_rules_hold_from_the_reload_on(rig: Rig) -> None:
    text = rig.config.read_text()
    rig.config.write_text(text + f'groups {{ group {{ ip = "{LOOPBACK}"; uuid = "{ALPHA}"; }} }}\n')
    with rig.send(rig.packet(wire.OFF, BETA)) as begun:
        assert begun.challenge(rig.secret)
        rig.reload()
        begun.respond(rig.secret)
        assert begun.read(1) == bytes([wire.DENIED])  # it had not begun to act
    assert rig.ask(wire.STATUS, BETA) == wire.DENIED
    rig.config.write_text(text)
    rig.reload()
    assert rig.ask(wire.STATUS, BETA) == wire.DONE


def test_many_reloads_at_once(rig: Rig) -> None:
    for _ in range(50):
        rig.daemon.signal(signal.SIGHUP)
    rig.reload()
    rig.serves(ALPHA)


# Endings


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_signals_end_it_with_success_and_close_everything(vmfence: CommandLine, tmp_path: Path, number: int) -> None:
    with Rig(vmfence, tmp_path) as rig:
        with rig.connect() as idle, rig.send(rig.packet(wire.OFF, ALPHA)) as unproven:
            rig.daemon.wait_listening("tcp", rig.port)
            rig.daemon.signal(number)
            assert idle.closed()
            unproven.stream.close()
        assert rig.daemon.wait() == 0
        assert no_trace(rig.daemon.log())


def test_sigterm_while_libvirt_is_busy_finishes_the_request(vmfence: CommandLine, tmp_path: Path) -> None:
    """libvirt needs 10 s for a hung guest; the daemon is told to end meanwhile: it answers, truthfully, then ends."""
    with Hypervisor(tmp_path / "libvirt") as hypervisor:
        hypervisor.define("vm-01", start=True)
        hypervisor.hang("vm-01")
        with Rig(vmfence, tmp_path / "rig", uris=[hypervisor.uri]) as rig:
            with hung(rig.send(rig.packet(wire.OFF, "vm-01"))) as asking:
                assert asking.challenge(rig.secret)
                asking.respond(rig.secret)
                wait_until(lambda: hypervisor.is_told_to_end("vm-01"), what="libvirt's SIGTERM")
                rig.daemon.signal(signal.SIGTERM)
                rig.daemon.wait_for_line("stopping")
                with pytest.raises(ConnectionRefusedError):
                    rig.connect()
                assert rig.daemon.running()
            assert rig.daemon.wait(40) == 0
        assert not hypervisor.is_on("vm-01")
        log = rig.daemon.log()
        assert "action=off" in log and "result=ok" in log


def test_a_killed_daemon_starts_again(vmfence: CommandLine, tmp_path: Path) -> None:
    with Rig(vmfence, tmp_path, options=("-p", str(tmp_path / "pid"))) as rig:
        for _ in range(3):
            with rig.send(rig.packet(wire.OFF, ALPHA)):
                rig.restart(signal.SIGKILL)
            rig.serves(ALPHA)
        assert int((tmp_path / "pid").read_text()) == rig.daemon.pid


# The pid file


def test_pid_file(vmfence: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with Rig(vmfence, tmp_path / "one", options=("-p", str(path))) as rig:
        assert path.read_text() == str(rig.daemon.pid)
        told = refused(vmfence, Rig(vmfence, tmp_path / "two").config, "-p", str(path))
        assert "another daemon has the pid file" in told
        assert path.read_text() == str(rig.daemon.pid)
        rig.serves(ALPHA)
    assert not path.exists()


def test_pid_file_left_by_a_dead_daemon(vmfence: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.write_text("1")
    with Rig(vmfence, tmp_path, options=("-p", str(path))) as rig:
        assert path.read_text() == str(rig.daemon.pid)


@pytest.mark.parametrize("where", ["missing/pid", ".", "link"])
def test_pid_file_that_cannot_be_written(vmfence: CommandLine, tmp_path: Path, where: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    assert "pid file" in refused(vmfence, Rig(vmfence, tmp_path).config, "-p", str(tmp_path / where))
    assert not (tmp_path / "victim").exists()


# The service manager


class Manager:
    """What a service manager hears (sd_notify(3))."""

    def __init__(self, heard: socket.socket) -> None:
        self._heard = heard
        heard.settimeout(20)

    def next(self, ignoring: str = "WATCHDOG=1") -> dict[str, str]:
        """Return the next message other than *ignoring*."""
        while (message := self._heard.recv(4096).decode()) == ignoring:
            pass
        return dict(line.split("=", 1) for line in message.splitlines())


@contextmanager
def manager_at(address: str) -> Iterator[Manager]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind("\0" + address[1:] if address.startswith("@") else address)
        yield Manager(heard)


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_is_told(vmfence: CommandLine, tmp_path: Path, abstract: bool) -> None:
    address = f"@vmfence-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with manager_at(address) as manager, Rig(vmfence, tmp_path, env={"NOTIFY_SOCKET": address}) as rig:
        ready = manager.next()
        assert ready["READY"] == "1" and str(rig.port) in ready["STATUS"]
        for broken in (False, True):
            if broken:
                rig.config.write_text("broken {")
            rig.reload(REFUSED if broken else "reloaded: ")
            reloading = manager.next()
            assert reloading["RELOADING"] == "1" and int(reloading["MONOTONIC_USEC"]) > 0
            assert manager.next()["READY"] == "1"
        rig.daemon.signal(signal.SIGTERM)
        assert manager.next()["STOPPING"] == "1"
        assert rig.daemon.wait() == 0


def test_the_watchdog_is_fed(vmfence: CommandLine, tmp_path: Path) -> None:
    env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
    with manager_at(env["NOTIFY_SOCKET"]) as manager, Rig(vmfence, tmp_path, env=env):
        for _ in range(3):
            while manager.next(ignoring="").get("WATCHDOG") != "1":
                pass


@pytest.mark.parametrize("usec", ["", "0", "x", "-1"])
def test_no_watchdog_unless_asked_for(vmfence: CommandLine, tmp_path: Path, usec: str) -> None:
    env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": usec}
    with manager_at(env["NOTIFY_SOCKET"]) as manager, Rig(vmfence, tmp_path, env=env) as rig:
        rig.serves(ALPHA)
        rig.daemon.signal(signal.SIGTERM)
        assert [list(manager.next(ignoring=""))[0] for _ in range(2)] == ["READY", "STOPPING"]


def test_a_service_manager_that_is_gone_does_no_harm(vmfence: CommandLine, tmp_path: Path) -> None:
    with Rig(vmfence, tmp_path, env={"NOTIFY_SOCKET": str(tmp_path / "nobody")}) as rig:
        rig.serves(ALPHA)


# Two clusters


def test_two_clusters_on_one_daemon(vmfence: CommandLine, tmp_path: Path) -> None:
    """Each key reaches its own guest only, also after a reload that exchanges the two keys."""
    keys = [write_key(tmp_path / "key-a"), write_key(tmp_path / "key-b")]
    groups = "".join(f'group {{ key_file = "{k}"; uuid = "{g}"; }}\n' for k, g in zip(keys, (ALPHA, BETA)))
    with Rig(vmfence, tmp_path, groups=groups) as rig:
        for exchanged in (False, True):
            if exchanged:
                first, second = (key.read_bytes() for key in keys)
                write_key(keys[0], second)
                write_key(keys[1], first)
                rig.reload()
            for key, mine, other in ((keys[0], ALPHA, BETA), (keys[1], BETA, ALPHA)):
                secret = key.read_bytes()
                for request in (wire.OFF, wire.REBOOT, wire.ON, wire.STATUS):
                    assert ask_with(rig, secret, request, other) == wire.DENIED
                assert ask_with(rig, secret, wire.STATUS, other) == wire.DENIED
                assert ask_with(rig, secret, wire.OFF, mine) == wire.DONE
                assert ask_with(rig, secret, wire.STATUS, mine) == wire.IS_OFF
                assert ask_with(rig, secret, wire.ON, mine) == wire.DONE
