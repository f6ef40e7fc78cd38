"""Who may do what to which guest.

Pure: no file, socket or clock.  Decides from the access rules alone; whether a request is genuine was
decided before, and the key that proved it is one of the things looked at here.  With groups, everything is
denied that no group allows.  The rules are those of fence_virtd's ``groups`` section, except that guests are
compared and not texts: name and UUID of a guest are the same guest, and names differ in case as they do for
libvirt.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Union

from vmfence.errors import PolicyDenied

CID_MAX = 0xFFFFFFFE  # one more means "any" to the kernel
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]


@dataclass(frozen=True)
class Origin:
    """Who asks.

    *kind* is the transport: multicast, tcp, vsock, serial, vmchannel, virtio.  *address* (numeric text), *cid* or
    *guest_uuid* (the guest behind a channel, or with that CID; *guest_name* is its name) is what the rules look at;
    *claimed* is what the request says of itself, and is only shown.
    """

    kind: str
    address: str | None = None
    cid: int | None = None
    guest_uuid: str | None = None
    claimed: str | None = None
    guest_name: str | None = None

    def __str__(self) -> str:
        parts = [self.kind]
        parts += [self.address] if self.address is not None else []
        parts += [f"CID {self.cid}"] if self.cid is not None else []
        parts += [f"guest {self.guest_uuid}"] if self.guest_uuid is not None else []
        parts += [f"(claims {self.claimed})"] if self.claimed not in (None, self.address) else []
        return " ".join(parts)


@dataclass(frozen=True)
class Source:
    """One ``ip`` entry of a group: an address (a network of one, and its zone), a network, or a vsock CID."""

    text: str
    network: Network | None = None
    zone: str | None = None
    cid: int | None = None

    @classmethod
    def parse(cls, text: str) -> Source:
        """Return the source that *text* names.  Raises ValueError with the reason when it names none."""
        if re.fullmatch("[0-9]+", text):
            return cls(text, cid=_cid(text))
        if "/" in text:
            return cls(text, _network(text))
        address, zone = _address(text)
        return cls(text, ipaddress.ip_network(address), zone)

    def matches(self, origin: Origin) -> bool:
        """Tell whether *origin* has this CID or address, or an address in this network.

        A zone (%eth0) must be the same, because a link-local address names another machine on every link; a
        network written as such covers all zones.  IPv4-mapped IPv6 counts as IPv4.
        """
        if self.network is None:
            return self.cid is not None and origin.cid == self.cid
        if origin.address is None:
            return False
        try:
            address, zone = _address(origin.address)
        except ValueError:
            return False
        return address in self.network and (zone == self.zone or "/" in self.text)


@dataclass(frozen=True)
class Group:
    """One rule: who may act on the guests *targets* (names or UUIDs).

    *key* identifies the group's own key (its fingerprint); None: the key of the listener.  With a key of its
    own the group needs no *sources*; without, no sources means that the guests behind serial channels may
    fence each other.
    """

    label: str
    sources: tuple[Source, ...]
    targets: tuple[str, ...]
    key: object | None = None

    def admits(self, origin: Origin, key_id: object | None) -> bool:
        """Tell whether this group is about requests of *origin* that were verified by the key *key_id*."""
        if self.key != key_id:
            return False
        if self.sources and (origin.address is not None or origin.cid is not None):
            return any(source.matches(origin) for source in self.sources)
        if self.key is not None and not self.sources:
            return True
        # Named guests of a group for others, by address, are its targets alone, as for fence_virtd.
        name = None if self.sources else origin.guest_name
        return origin.guest_uuid is not None and self.lists(name, origin.guest_uuid)

    def lists(self, name: str | None, uuid: str | None) -> bool:
        """Tell whether the guest of this *name* and *uuid* is a target.

        A target that reads as a UUID is compared with the UUID only (in any case), any other with the name
        (exactly).
        """
        return any(_names(target, name, uuid) for target in self.targets)


@dataclass(frozen=True)
class Policy:
    """All access rules.  *groups* None: there are none, and whoever has the key may act on every guest."""

    groups: tuple[Group, ...] | None = None

    def check(self, origin: Origin, key_id: object | None, name: str, uuid: str) -> None:
        """Raise PolicyDenied unless some group lets *origin* act on the guest *name*, *uuid*.

        *key_id* is the identity of the group key that verified the request, None for the listener's own key.
        """
        if self.shows(origin, key_id, name, uuid):
            return
        guest = f"guest {name!r} ({uuid})"
        if any(group.admits(origin, key_id) for group in self.groups or ()):
            why = f"no group that admits {origin} lists {guest}"
        else:
            why = f"no group admits {origin}, which asked for {guest}"
        raise PolicyDenied("denied by the access rules", why, "to allow it, let one group list both")

    def shows(self, origin: Origin, key_id: object | None, name: str, uuid: str) -> bool:
        """Tell whether *origin* may see, and act on, the guest *name*, *uuid*."""
        if self.groups is None:
            return True
        return any(group.admits(origin, key_id) and group.lists(name, uuid) for group in self.groups)

    def mentions(self, origin: Origin, key_id: object | None, text: str) -> bool:
        """Tell whether a group that admits *origin* lists *text* itself.

        Then it may learn that no such guest exists; everybody else is denied.
        """
        return self.shows(origin, key_id, text, text)


def is_uuid(text: str) -> bool:
    """Whether *text* is a UUID in its canonical form of 36 characters; then it never means a name."""
    return _UUID.fullmatch(text) is not None


def _names(target: str, name: str | None, uuid: str | None) -> bool:
    if is_uuid(target):
        return uuid is not None and target.lower() == uuid.lower()
    return name is not None and target == name


def _cid(text: str) -> int:
    cid = int(text) if len(text) <= len(str(CID_MAX)) else CID_MAX + 1
    if not 1 <= cid <= CID_MAX or text.startswith("0"):
        raise ValueError(f"a vsock CID is a number from 1 to {CID_MAX}")
    return cid


def _network(text: str) -> Network:
    """Return the network ADDRESS/PREFIX; one inside the IPv4-mapped range becomes IPv4."""
    base, _, prefix = text.partition("/")
    if not re.fullmatch("[0-9]{1,3}", prefix) or "%" in base:
        raise ValueError("a network is written ADDRESS/PREFIX, as in 10.0.0.0/8")
    address = _literal(base)
    network = ipaddress.ip_network((address, int(prefix)), strict=False)
    if network.network_address != address:
        raise ValueError(f"the address has bits outside the network: {network} is meant")
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        mapped = network.network_address.ipv4_mapped
        return ipaddress.ip_network((str(mapped), network.prefixlen - _MAPPED.prefixlen))
    return network


def _address(text: str) -> tuple[Address, str | None]:
    """Return the address and the zone in *text*; IPv4-mapped IPv6 becomes IPv4.  Raises ValueError."""
    base, percent, zone = text.partition("%")
    address = _literal(base)
    if not percent:
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return mapped or address, None
    if address.version == 4 or not zone or not zone.isprintable() or set(zone) & set("%/ "):
        raise ValueError("a zone is written after an IPv6 address, as in fe80::1%eth0")
    return address, zone


def _literal(text: str) -> Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise ValueError("this is neither an IPv4 nor an IPv6 address") from None
