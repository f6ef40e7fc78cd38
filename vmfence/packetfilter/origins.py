"""Who may ask: what the kernel and libvirt know of the guests behind an interface.  Only read_origins() reads.

Formats: proc(5); linux/if_bridge.h, struct __fdb_entry; seen on Linux 6.1.  Leases: as dnsmasq's helper of libvirt 9.0
writes them.  What cannot be read is left out: then less is certain.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_SYS_CLASS_NET, _PROC_NET = "/sys/class/net", "/proc/net"
_LEASES = "/var/lib/libvirt/dnsmasq"
_COMPLETE = "0x2"  # of a neighbour (ATF_COM)
_ENTRY = struct.Struct("=6sBBIBBH")  # address, port, whether it is local, age, high byte of the port
_KNOWN_MAX = 64  # each is walked through all the rules that may stop anybody


@dataclass(frozen=True)
class Origin:
    """Who asks: IP *address*, Ethernet address *hardware*, *port* of the bridge; each "" where it is not known."""

    address: str = ""
    hardware: str = ""
    port: str = ""

    def __str__(self) -> str:
        return self.address or self.hardware


ANYBODY = Origin()


@dataclass(frozen=True)
class Origins:
    """*known*: guests that are there; *networks*: where others are to be expected; *own*: addresses of this host."""

    known: tuple[Origin, ...] = ()
    networks: tuple[str, ...] = ()
    own: frozenset[str] = frozenset()


def read_origins(interface: str | None, family: str) -> Origins:
    """Return who may ask by *interface* (None: nobody knows who)."""
    if interface is None:
        return Origins()
    if family == "ipv6":
        addresses = list(_ipv6(_text(f"{_PROC_NET}/if_inet6")))
        networks = tuple(dict.fromkeys(network for _, network, device in addresses if device == interface))
        return Origins((), networks, frozenset(address for address, *_ in addresses))
    networks = tuple(dict.fromkeys(_ipv4_networks(_text(f"{_PROC_NET}/route"), interface)))
    return Origins(_known(interface), networks, frozenset(_ipv4_own(_text(f"{_PROC_NET}/fib_trie"))))


def _known(interface: str) -> tuple[Origin, ...]:
    """Return the guests there.  What a bridge has learned at a port that is hardware is another machine."""
    ports = _ports(interface)
    learned = dict(_learned(_bytes(f"{_SYS_CLASS_NET}/{interface}/brforward"), ports))
    found = {}
    neighbours = [*_neighbours(_text(f"{_PROC_NET}/arp"), interface), *_leased(_text(f"{_LEASES}/{interface}.status"))]
    for address, hardware in neighbours:
        found[address] = Origin(address, hardware, learned.get(hardware, ""))
    seen = {one.hardware for one in found.values()}
    nameless = [Origin("", hardware, port) for hardware, port in learned.items() if hardware not in seen]
    uplinks = {port for port in ports.values() if os.path.exists(f"{_SYS_CLASS_NET}/{port}/device")}
    ours = [one for one in (*found.values(), *nameless) if one.port not in uplinks and (one.port or not uplinks)]
    return tuple(ours[:_KNOWN_MAX])


def _ports(bridge: str) -> dict[int, str]:
    found = {}
    with contextlib.suppress(OSError):
        for name in os.listdir(f"{_SYS_CLASS_NET}/{bridge}/brif"):
            with contextlib.suppress(ValueError):
                found[int(_text(f"{_SYS_CLASS_NET}/{bridge}/brif/{name}/port_no"), 16)] = name
    return found


def _learned(table: bytes, ports: dict[int, str]) -> Iterator[tuple[str, str]]:
    """Yield each Ethernet address that a bridge has learned, with its port."""
    for entry in range(0, len(table) - _ENTRY.size + 1, _ENTRY.size):
        address, low, is_local, _, high, *_ = _ENTRY.unpack_from(table, entry)
        if not is_local and low | high << 8 in ports:
            yield address.hex(":"), ports[low | high << 8]


def _neighbours(text: str, interface: str) -> Iterator[tuple[str, str]]:
    for words in map(str.split, text.splitlines()[1:]):
        if len(words) > 5 and words[5] == interface and words[2] == _COMPLETE:
            with contextlib.suppress(ValueError):
                yield str(ipaddress.IPv4Address(words[0])), words[3].lower()


def _leased(text: str) -> Iterator[tuple[str, str]]:
    with contextlib.suppress(ValueError, TypeError, KeyError):
        for lease in json.loads(text or "[]"):
            yield str(ipaddress.IPv4Address(lease["ip-address"])), str(lease["mac-address"]).lower()


def _ipv4_networks(text: str, interface: str) -> Iterator[str]:
    """Yield the networks that are reached by *interface* without a gateway, from /proc/net/route."""
    for words in map(str.split, text.splitlines()[1:]):
        with contextlib.suppress(ValueError, IndexError):
            target, gateway, mask = (int(words[number], 16) for number in (1, 2, 7))
            if words[0] == interface and not gateway and mask:
                address, netmask = (ipaddress.IPv4Address(struct.pack("=I", each)) for each in (target, mask))
                yield str(ipaddress.IPv4Network(f"{address}/{netmask}"))


def _ipv4_own(text: str) -> Iterator[str]:
    """Yield the addresses of this host, from /proc/net/fib_trie."""
    leaf = ""
    for words in map(str.split, text.splitlines()):
        if words[:1] == ["|--"]:
            leaf = words[-1]
        elif words == ["/32", "host", "LOCAL"]:
            yield leaf


def _ipv6(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield address, network and interface, from /proc/net/if_inet6."""
    for words in map(str.split, text.splitlines()):
        with contextlib.suppress(ValueError, IndexError):
            address = ipaddress.IPv6Address(int(words[0], 16))
            network = ipaddress.IPv6Network((address, int(words[2], 16)), strict=False)
            yield str(address), str(network), words[5]


def _text(path: str) -> str:
    return _bytes(path).decode(errors="replace")


def _bytes(path: str) -> bytes:
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return file.read()
    return b""
