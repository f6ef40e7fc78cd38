"""Several listeners: one that cannot start stops the daemon, unless it is optional."""

from __future__ import annotations

import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab import wire
from lab.ours import CommandLine
from lab.rig import LOOPBACK, Rig, no_trace, refused

SERIAL = {"mode": "serial", "uri": "test:///nonexistent/world.xml"}


def multicast(optional: str) -> dict[str, object]:
    return {"interface": "nonexistent0", "optional": optional}


@contextmanager
def silent_libvirt() -> Iterator[str]:
    """Lend the URI of a libvirt that is there and says nothing."""
    with tempfile.TemporaryDirectory(prefix="vmf-", dir="/tmp") as short, socket.socket(socket.AF_UNIX) as silent:
        silent.bind(f"{short}/socket")
        silent.listen(50)
        yield f"qemu+unix:///system?socket={short}/socket"


GROUPS = 'group { ip = "127.0.0.1"; uuid = "alpha"; uuid = "beta"; }'


@pytest.mark.parametrize(
    ("listeners", "told"),
    [
        ({"multicast": multicast("no")}, "listener multicast: interface nonexistent0 does not exist"),
        ({"serial": SERIAL}, "listener serial: cannot learn which guests run"),
    ],
)
def test_one_that_cannot_start_is_named(
    vmfence: CommandLine, tmp_path: Path, listeners: dict[str, dict[str, object]], told: str
) -> None:
    rig = Rig(vmfence, tmp_path, listeners=listeners, groups=GROUPS)
    assert told in refused(vmfence, rig.config)


def test_optional_ones_that_are_down_are_shown_and_the_others_serve(vmfence: CommandLine, tmp_path: Path) -> None:
    listeners: dict[str, dict[str, object]] = {
        "multicast": multicast("yes"),
        "serial": {**SERIAL, "optional": "yes"},
    }
    with Rig(vmfence, tmp_path, listeners=listeners, groups=GROUPS) as rig:
        rig.serves()
        shown = vmfence.run("host", "status", "-s", str(tmp_path / "control")).stdout
        assert "nonexistent0: interface nonexistent0 does not exist" in shown
        assert "serial lines of guests (0 of 0 connected): cannot connect to libvirt" in shown
        assert "no request can arrive at multicast" in rig.daemon.log()
        rig.reload()
        rig.serves()


def test_reload_can_bring_an_optional_listener_that_is_down(vmfence: CommandLine, tmp_path: Path) -> None:
    with Rig(vmfence, tmp_path) as rig:
        rig._listeners = {**rig._listeners, "multicast": multicast("no")}
        rig.write_config()
        rig.reload("reload refused, the settings in force stay: listener multicast: interface nonexistent0")
        rig._listeners = {**rig._listeners, "multicast": multicast("yes")}
        rig.write_config()
        rig.reload()
        assert "no request can arrive at multicast" in rig.daemon.log()
        rig.serves()
        assert no_trace(rig.daemon.log())


def test_an_optional_port_that_becomes_free_is_taken(vmfence: CommandLine, tmp_path: Path) -> None:
    rig = Rig(vmfence, tmp_path, tcp={"optional": "yes"})
    with socket.create_server((LOOPBACK, rig.port)):
        rig.daemon.start()
        rig.daemon.wait_for_line(" ready: no listener")
    try:
        rig.wait_told(f"listening again: tcp {LOOPBACK} port {rig.port}")
        rig.serves()
    finally:
        rig.daemon.stop()


def test_an_optional_listener_whose_libvirt_is_silent_holds_up_nothing(vmfence: CommandLine, tmp_path: Path) -> None:
    """Neither the start, nor a reload, nor the end: a call to libvirt ends after 12 s at the earliest."""
    with silent_libvirt() as uri:
        serial = {"mode": "serial", "uri": uri, "optional": "yes"}
        with Rig(vmfence, tmp_path, listeners={"serial": serial}, groups=GROUPS) as rig:
            assert "it is not open yet" in rig.daemon.log()
            rig.serves()
            rig.reload()
            rig.daemon.signal(signal.SIGTERM)
            assert rig.daemon.wait() == 0
            assert "cannot learn which guests run" not in rig.daemon.log(), "it did not wait for that"
            assert no_trace(rig.daemon.log())


def test_a_new_listener_whose_libvirt_is_silent_holds_up_no_reload(vmfence: CommandLine, tmp_path: Path) -> None:
    """The rules that come with it are in force at once; what is not open yet is told, and tried on."""
    with silent_libvirt() as uri, Rig(vmfence, tmp_path) as rig:
        assert rig.ask(wire.STATUS, "beta") == wire.DONE
        rig._listeners = {**rig._listeners, "serial": {"mode": "serial", "uri": uri}}
        rig._groups = 'group { ip = "127.0.0.1"; uuid = "alpha"; }'
        rig.write_config()
        rig.reload()
        assert (
            "no request can arrive at serial lines of guests (0 of 0 connected): it is not open yet" in rig.daemon.log()
        )
        assert "cannot learn which guests run" not in rig.daemon.log(), "it did not wait for that"
        assert rig.ask(wire.STATUS, "beta") == wire.DENIED
        shown = vmfence.run("host", "status", "-s", str(tmp_path / "control")).stdout
        assert "serial lines of guests (0 of 0 connected): closed" in shown
        rig.wait_told("cannot learn which guests run")
        rig.daemon.signal(signal.SIGTERM)
        assert rig.daemon.wait() == 0
        assert no_trace(rig.daemon.log())
