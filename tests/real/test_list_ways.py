"""``vmfence list`` and the cluster's questions by ways that need no network: a real daemon behind a serial line."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab import wire
from lab.channels import ChannelRig
from lab.ours import CommandLine
from lab.pipe import PATIENT, Bridge, FarEnd, Line, host_list, record
from lab.rig import ALPHA, BETA, LOOPBACK, Rig
from vmfence.client import direct
from vmfence.cluster import inquiry
from vmfence.cluster.check import facts
from vmfence.cluster.cib import Device
from vmfence.errors import KeyFileError
from vmfence.guest import guests
from vmfence.guest.guests import Inquiry

UUID = "11111111-2222-3333-4444-555555555501"


@pytest.fixture
def line(vmfence: CommandLine, tmp_path: Path) -> Iterator[Line]:
    """The serial line of guest alpha."""
    with ChannelRig(vmfence, tmp_path) as rig, Line() as made, Bridge(made.descriptor, rig.connected(ALPHA).descriptor):
        yield made


@pytest.mark.parametrize("more", [(), ("--transport", "serial"), ("--transport", "virtio"), ("--transport", "auto")])
def test_list_through_a_device(vmfence: CommandLine, line: Line, more: tuple[str, ...]) -> None:
    done = vmfence.run("list", "-D", line.device, *more, "--json")
    assert (done.exit, [guest["name"] for guest in json.loads(done.stdout)]) == (0, [ALPHA, BETA]), done
    assert (f"transport: serial ({line.device})" in done.stderr) == ("auto" in more)
    assert ALPHA in vmfence.run("guest", "list", "--serial-device", line.device, *more).stdout


@contextmanager
def channel() -> Iterator[int]:
    """A hypervisor's forwarding of a VM channel that answers one list; its port on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                end = FarEnd(connection.fileno())
                assert end.take()[0] == wire.LIST
                end.send(host_list(record("alpha", UUID)))

        server.settimeout(PATIENT)
        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join(PATIENT)


def test_list_through_a_vm_channel(vmfence: CommandLine) -> None:
    with channel() as port:
        done = vmfence.run("list", "-A", "127.0.0.1", "-p", str(port))
    assert (done.exit, done.stdout.split()) == (0, ["alpha", UUID, "on"]), done


@pytest.mark.parametrize("agent", ["fence_vmfence", "fence_virt"])
def test_a_device_over_a_serial_line_is_asked(line: Line, agent: str) -> None:
    device = Device("d", agent, {"serial_device": line.device, "key_file": "/nowhere"}, {}, ())
    assert [guest.name for guest in inquiry.guests_for(device.options, agent)] == [ALPHA, BETA]
    (found,) = facts.ask_hosts([device])
    assert found.error is None and {guest.name for guest in found.guests} == {ALPHA, BETA}
    assert facts.load_keys([device]) == (), "no key is used on this way"


def test_a_device_over_vsock_is_asked(vmfence: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TCP stands in for the kernel's VM sockets, which lead to a host only from one of its guests."""
    asked: list[tuple[int, int]] = []
    with Rig(vmfence, tmp_path) as rig:

        def connect(cid: int, port: int, left_s: float) -> socket.socket:
            asked.append((cid, port))
            return socket.create_connection((LOOPBACK, rig.port), left_s)

        monkeypatch.setattr(direct, "connect_vsock", connect)
        found = inquiry.guests_for({"vsock": "", "ipport": "1230", "key_file": str(rig.key)}, "fence_vmfence")
    assert ([guest.name for guest in found], asked) == ([ALPHA, BETA], [(2, 1230)])


def test_nothing_is_sent_without_the_key_that_vsock_needs(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError):
        guests.list_guests(Inquiry(vsock=2, key_file=str(tmp_path / "none")))
