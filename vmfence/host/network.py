"""The network of this host: its interfaces, and which guests are attached to which.

Interfaces are read from /sys/class/net (Documentation/ABI/testing/sysfs-class-net of Linux), guests come from
inventories.  Only the readers at the end ask the system; the rest is pure.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vmfence.config.values import nearest
from vmfence.errors import ListenError
from vmfence.host.backends.inventory import GuestFacts, Inventory

SYS_CLASS_NET = "/sys/class/net"
SHOWN_MAX = 6
_IFF_UP = 1
_SIOCGIFADDR = 0x8915
_IFREQ = struct.Struct("16s2xH4s16x")  # name; family, port and address of a sockaddr_in


@dataclass(frozen=True)
class Interface:
    """One interface.  *master* is the bridge, bond or team that it is a port of."""

    name: str
    is_bridge: bool = False
    is_up: bool = True
    master: str | None = None


@dataclass(frozen=True)
class Bridge:
    """A bridge of this host, or another interface that guests are attached to as if it were one (Open vSwitch)."""

    name: str
    is_up: bool
    guests: tuple[str, ...] = ()

    def __str__(self) -> str:
        guests = f"guests: {some(self.guests)}" if self.guests else "no guests"
        return f"{self.name} ({'' if self.is_up else 'down, '}{guests})"


def some(names: Sequence[str]) -> str:
    """Return *names* as text, at most six of them and the number of the others."""
    rest = len(names) - SHOWN_MAX
    return ", ".join(names[:SHOWN_MAX]) + (f" and {rest} more" if rest > 0 else "")


def bridges(interfaces: Iterable[Interface], inventories: Iterable[Inventory]) -> tuple[Bridge, ...]:
    """Return the bridges of this host, those with most guests first, then by name."""
    attached = _attached(inventories)
    found = [
        Bridge(one.name, one.is_up, tuple(attached.get(one.name, ())))
        for one in interfaces
        if one.is_bridge or one.name in attached
    ]
    return tuple(sorted(found, key=lambda bridge: (-len(bridge.guests), bridge.name)))


def only_bridge(found: Iterable[Bridge]) -> Bridge | None:
    """Return the one bridge that has guests; None when there are none or several."""
    with_guests = [bridge for bridge in found if bridge.guests]
    return with_guests[0] if len(with_guests) == 1 else None


def check_interface(name: str, interfaces: Sequence[Interface]) -> Interface:
    """Return the interface *name*.

    Raises ListenError when there is none, naming the nearest, and for a port of a bridge: what arrives there is the
    bridge's.  (fence_virtd 4.12.1 took an unknown name as "any", spec faults 4.)
    """
    by_name = {one.name: one for one in interfaces}
    if name not in by_name:
        raise ListenError(f"this host has no interface {name}", "", nearest(name, by_name))
    if by_name[name].master is not None:
        master = by_name[name].master
        raise ListenError(f"{name} is a port of {master}", "what arrives there is taken by that", f"use {master}")
    return by_name[name]


def doubts(interface: str | None, inventories: Sequence[Inventory]) -> list[str]:
    """Return what makes it doubtful that all guests reach a multicast listener on *interface* (None: any)."""
    attached = _attached(inventories)
    if interface is None:
        found = ["without an interface the kernel chooses one by its routes"] if attached else []
    else:
        found = _unheard(attached, interface)
    guests = [guest for inventory in inventories for guest in inventory.guests]
    cut_off = [guest.name for guest in guests if _is_cut_off(guest)]
    if cut_off:
        reason = "attached by macvtap only, by which no guest reaches its host: add a bridge, or use vsock or serial"
        found.append(f"{some(cut_off)} {_verb(cut_off)} {reason}")
    return found


def _unheard(attached: Mapping[str, Sequence[str]], interface: str) -> list[str]:
    heard = attached.get(interface, ())
    found = []
    for bridge, names in sorted(attached.items()):
        missing = [name for name in names if name not in heard]
        if missing:
            found.append(f"{some(missing)} {_verb(missing)} attached to {bridge}, not to {interface}, so not heard")
    return found


def _attached(inventories: Iterable[Inventory]) -> dict[str, list[str]]:
    """Return the names of the guests of every bridge that has any."""
    found: dict[str, list[str]] = {}
    for inventory in inventories:
        for guest in inventory.guests:
            for bridge in guest.bridges:
                found.setdefault(bridge, []).append(guest.name)
    return found


def _verb(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _is_cut_off(guest: GuestFacts) -> bool:
    return bool(guest.direct) and not guest.bridges and not guest.unresolved


def read_interfaces(folder: str = SYS_CLASS_NET) -> tuple[Interface, ...]:
    """Return all interfaces of this network namespace, by name.  One that vanishes meanwhile is left out."""
    found = []
    for name in sorted(os.listdir(folder)):
        path = f"{folder}/{name}"
        try:
            with open(f"{path}/flags", encoding="ascii") as file:
                is_up = bool(int(file.read(), 16) & _IFF_UP)
        except (OSError, ValueError):
            continue  # gone, or no interface (bonding_masters)
        master = os.path.basename(os.path.realpath(f"{path}/master")) if os.path.lexists(f"{path}/master") else None
        found.append(Interface(name, os.path.isdir(f"{path}/bridge"), is_up, master))
    return tuple(found)


def ipv4_address(interface: str) -> str | None:
    """Return the first IPv4 address of *interface*, None when it has none (netdevice(7), SIOCGIFADDR)."""
    request = _IFREQ.pack(interface.encode("utf-8", "surrogateescape"), socket.AF_INET, b"")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        try:
            answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
        except OSError:
            return None
    return socket.inet_ntoa(_IFREQ.unpack(answer)[2])


def check_address(address: str) -> None:
    """Raise ListenError when the literal *address* is none of this host's, found by binding to it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
            probe.bind((address, 0))
    except OSError as error:
        if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            raise ListenError(f"cannot listen at {address}", error.strerror or "", "use another address") from error
        raise ListenError(f"{address} is no address of this host", "", "see them with: ip -brief address") from error
