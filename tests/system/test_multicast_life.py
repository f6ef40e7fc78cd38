"""Listeners on a bridge that comes and goes, while reloads are refused and descriptors run out.

A bridge of its own for every test; libvirt's test driver.  Real clients on a changing bridge:
interop/test_bridge_changes.py.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lab import wire
from lab.net import BRIDGE, HOST_IPV4, Bridge, Guest, Namespace
from lab.ours import CommandLine
from lab.rig import ALPHA, BETA, Rig, multicast_rig, no_trace
from lab.waiting import wait_until
from vmfence.config.settings import MulticastSettings
from vmfence.errors import ListenError
from vmfence.host.listeners import multicast
from vmfence.host.listeners.multicast import MulticastListener

pytestmark = pytest.mark.system
SECOND_IPV4 = "10.88.0.2"
UDP = ("udp", wire.PORT)


@pytest.fixture
def bridge() -> Iterator[Bridge]:
    with Bridge(guests=1) as bridge:
        yield bridge


def reaches(vmfence: CommandLine, rig: Rig, guest: Guest) -> bool:
    """Tell whether our agent in a guest is answered by multicast."""
    words = ("-k", str(rig.key), "-o", "status", "-n", ALPHA, "-t", "20", "-r", "5")
    return vmfence.fence(*words, netns=guest).exit == 0


def replace(rig: Rig, old: str, new: str) -> None:
    """Change the text of the configuration."""
    text = rig.config.read_text()
    assert old in text
    rig.config.write_text(text.replace(old, new))


# Reloads


@pytest.fixture
def torn(vmfence: CommandLine, tmp_path: Path, bridge: Bridge) -> Iterator[Rig]:
    """A daemon after a refused reload.

    Its tcp listener had to make room for a new one, and cannot come back: its address has left the host.
    """
    bridge.add_address(f"{SECOND_IPV4}/24")
    with Rig(
        vmfence, tmp_path, netns=bridge.host, address=SECOND_IPV4, listeners={"multicast": {"interface": BRIDGE}}
    ) as rig:
        bridge.remove_address(f"{SECOND_IPV4}/24")
        good = rig.config.read_text()
        rig.write_config(address="0.0.0.0")
        replace(rig, f'"{BRIDGE}"', '"brr0"')
        rig.reload("reload refused")
        assert rig.told("interface brr0 does not exist. did you mean br0") == 1
        rig.config.write_text(good)
        yield rig
        assert no_trace(rig.daemon.log())


def test_a_listener_that_cannot_come_back_leaves_the_others_open(
    vmfence: CommandLine, torn: Rig, bridge: Bridge
) -> None:
    assert torn.daemon.ports() == {UDP}
    assert reaches(vmfence, torn, bridge.guests[0])
    assert torn.told(f"no request can arrive at tcp {SECOND_IPV4}") == 1


def test_it_comes_back_by_itself_and_the_log_has_told_once(torn: Rig, bridge: Bridge) -> None:
    for number in range(5):  # each wakes the daemon, which tries again
        bridge.host.ip(f"link add dum{number} type bridge")
    bridge.add_address(f"{SECOND_IPV4}/24")
    torn.wait_told(f"listening again: tcp {SECOND_IPV4}")
    assert torn.told("no request can arrive") == 1
    torn.serves()


def test_corrected_settings_are_taken_after_a_refused_reload(vmfence: CommandLine, torn: Rig, bridge: Bridge) -> None:
    torn.address = HOST_IPV4
    torn.write_config(address=HOST_IPV4)
    torn.reload()
    torn.serves()
    assert reaches(vmfence, torn, bridge.guests[0])


def test_a_vanished_interface_of_the_old_settings_blocks_nothing(
    vmfence: CommandLine, tmp_path: Path, bridge: Bridge
) -> None:
    bridge.host.ip("link add br7 type bridge", "link set br7 up")
    listeners = {"multicast": {"interface": "br7"}}
    with Rig(vmfence, tmp_path, netns=bridge.host, address=HOST_IPV4, listeners=listeners) as rig:
        replace(rig, '"tcp multicast"', '"multicast tcp"')
        rig.reload()
        bridge.host.ip("link del br7")
        rig.daemon.wait_for_line("interface br7 is gone")
        good = rig.config.read_text()
        replace(rig, '"br7"', '"brr0"')
        replace(rig, f'"{HOST_IPV4}"', '"0.0.0.0"')
        rig.reload("reload refused")
        rig.serves()
        rig.config.write_text(good)
        rig.reload()  # of what is in force, with its interface still away
        rig.serves()
        assert rig.daemon.ports() == {("tcp", rig.port)}
        bridge.host.ip("link add br7 type bridge", "link set br7 up")
        rig.daemon.wait_listening(*UDP)
        replace(rig, '"br7"', f'"{BRIDGE}"')
        rig.reload()
        assert reaches(vmfence, rig, bridge.guests[0])


# Descriptors


@contextmanager
def descriptors(rig: Rig, limit: int) -> Iterator[None]:
    """Leave the daemon those that it has, and let it open none whose number is not below *limit*."""
    before = resource.prlimit(rig.daemon.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(rig.daemon.pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.prlimit(rig.daemon.pid, resource.RLIMIT_NOFILE, before)


def hears_of_a_link(rig: Rig, host: Namespace, name: str) -> None:
    """Make an interface, and wait until the daemon has read the kernel's message about it (proc(5), netlink)."""
    host.ip(f"link add {name} type bridge")
    wait_until(lambda: not unread(rig), what="the daemon reading what the kernel told")


def unread(rig: Rig) -> bool:
    folder = Path(f"/proc/{rig.daemon.pid}")
    links = {os.readlink(entry) for entry in (folder / "fd").iterdir()}
    rows = [line.split() for line in (folder / "net/netlink").read_text().splitlines()[1:]]
    ours = [row for row in rows if f"socket:[{row[9]}]" in links]
    assert ours, "the daemon has no netlink socket"
    return any(int(row[4]) for row in ours)


def test_without_descriptors_a_change_elsewhere_closes_nothing(
    vmfence: CommandLine, tmp_path: Path, bridge: Bridge
) -> None:
    with multicast_rig(vmfence, tmp_path, bridge.host) as rig:
        with descriptors(rig, 3):
            for name in ("dum0", "dum1"):  # when the second was read, the first was acted upon
                hears_of_a_link(rig, bridge.host, name)
            assert UDP in rig.daemon.ports()
        assert rig.told(" ERROR ") == 0
        assert reaches(vmfence, rig, bridge.guests[0])


def test_with_descriptors_back_it_joins_without_another_change(
    vmfence: CommandLine, tmp_path: Path, bridge: Bridge
) -> None:
    with multicast_rig(vmfence, tmp_path, bridge.host) as rig:
        with descriptors(rig, 3):
            bridge.delete()
            rig.wait_told(f"interface {BRIDGE} is gone")
            bridge.create()
            rig.wait_told("Too many open files. raise the limit of open files")
        rig.wait_told("listening again: multicast")
        assert rig.told("does not exist") == 0
        assert reaches(vmfence, rig, bridge.guests[0])


# What a listener says when it cannot open


def listener(**settings: Any) -> MulticastListener:
    return MulticastListener(MulticastSettings(**settings), None, False, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_an_interface_that_vanishes_between_look_and_join(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    """The bridge is deleted while the receive buffer is made."""
    monkeypatch.setattr(multicast, "_widen", lambda listening: bridge.delete())
    asked = listener(family=family, address={"ipv4": wire.GROUP, "ipv6": wire.GROUP6}[family], interface=BRIDGE)
    with pytest.raises(ListenError, match=f"^interface {BRIDGE} is gone.$"):
        bridge.host.call(lambda: asyncio.run(asked.open()))
    assert asked.trouble() == f"interface {BRIDGE} is gone"


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EAFNOSUPPORT])
def test_a_socket_that_cannot_be_made_is_told(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    async def scenario() -> None:
        with monkeypatch.context() as patch, pytest.raises(ListenError) as caught:
            patch.setattr(socket, "socket", refuse)
            await asked.open()
        assert caught.value.why == os.strerror(number)

    asked = listener(interface="lo")
    asyncio.run(scenario())
    assert os.strerror(number) in asked.trouble()


# Link-local addresses


def link_local(guest: Guest) -> str:
    shown = guest.run(["ip", "-j", "-6", "addr", "show", "dev", "eth0", "scope", "link"]).stdout
    return next(str(entry["local"]) for entry in json.loads(shown)[0]["addr_info"] if entry)


def ask_from(guest: Guest, rig: Rig, address: str, target: str) -> int | None:
    """Ask for the status of *target* from a link-local *address* of a guest; return the result code."""
    with guest.call(wire.listen, "::", 0) as listening:
        port = listening.getsockname()[1]
        packet = rig.packet(wire.STATUS, target, address=address, port=port)
        guest.call(send_from, address, packet)
        with wire.accept(listening, 20) or pytest.fail("no call-back") as peer:
            return peer.converse(rig.secret)


def send_from(address: str, packet: bytes) -> None:
    zone = socket.if_nametoindex("eth0")
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, zone)
        sender.bind((address, 0, 0, zone))
        sender.sendto(packet, (wire.GROUP6, wire.PORT))


def test_access_rules_name_link_local_addresses_with_their_interface(
    vmfence: CommandLine, tmp_path: Path, bridge: Bridge
) -> None:
    guest = bridge.guests[0]
    address = link_local(guest)
    listeners = {"multicast": {"family": "ipv6", "interface": BRIDGE}}
    groups = f'group {{ ip = "{address}%{BRIDGE}"; uuid = "{ALPHA}"; }}'
    with Rig(vmfence, tmp_path, netns=bridge.host, listeners=listeners, groups=groups) as rig:
        assert ask_from(guest, rig, address, ALPHA) == wire.DONE
        assert ask_from(guest, rig, address, BETA) == wire.DENIED
        assert f"origin={address}%{BRIDGE} via=multicast result=ok" in rig.daemon.log()
        groups = groups.replace(f"%{BRIDGE}", "%br7")
        replace(rig, f"%{BRIDGE}", "%br7")
        rig.reload()
        assert ask_from(guest, rig, address, ALPHA) == wire.DENIED
        rig.daemon.signal(signal.SIGTERM)
        assert rig.daemon.wait() == 0
