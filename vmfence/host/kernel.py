"""What the kernel says of the network of this host: groups joined, sockets, routes, neighbours, knobs.  Reads only.

Formats: proc(5), and Documentation/networking/ip-sysctl.rst, Documentation/ABI/testing/sysfs-class-net of Linux; seen
on Linux 6.1.  The parsers are pure; what they cannot read they leave out, because one odd line must not hide the rest.
"""

from __future__ import annotations

import contextlib
import glob
import ipaddress
import os
import socket
import struct
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from vmfence.errors import VmfenceError

PROC, SYS = "/proc", "/sys/class/net"
_UDP_BOUND, _TCP_LISTENING = "07", "0A"
_COMPLETE = 0x2  # of a neighbour (ATF_COM)
_UNPRIVILEGED = (1024, 65535)
_UP = 0x1  # of a route (RTF_UP)


@dataclass(frozen=True)
class Holder:
    """A socket bound to a port that a listener wants.  *pid* 0: a process that this user may not look into."""

    protocol: str
    address: str
    port: int
    pid: int = 0
    program: str = ""

    def __str__(self) -> str:
        who = f"{self.program or 'a process'} ({self.pid})" if self.pid else "a process of another user"
        return f"{who} has {self.protocol.upper()} {self.address} port {self.port}"


@dataclass(frozen=True)
class Route:
    """One route of the main table; *is_direct*: no gateway in between."""

    interface: str
    network: ipaddress.IPv4Network
    metric: int = 0
    is_direct: bool = True


@dataclass(frozen=True)
class Link:
    """One interface: its *state* as the kernel has it (up, down, unknown) and its strictest reverse path filter.

    *snooping* and *querier* are those of a bridge; *uplinks*: its ports that are hardware of this host.
    """

    name: str
    state: str = "up"
    rp_filter: int = 0
    snooping: bool = False
    querier: bool = False
    uplinks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Network:
    """*memberships*: interface -> groups joined; *filtered*: packets that the reverse path filter has dropped.

    *filtered_meanwhile*: those of them that it dropped while the check went on.
    """

    memberships: dict[str, frozenset[str]]
    routes: tuple[Route, ...] = ()
    neighbours: tuple[tuple[str, str], ...] = ()
    links: tuple[Link, ...] = ()
    filtered: int = 0
    filtered_meanwhile: int = 0

    def link(self, name: str) -> Link | None:
        """Return the interface of that name, None when there is none."""
        return next((link for link in self.links if link.name == name), None)


def read_network(interfaces: Iterable[str]) -> Network:
    """Return the state of the network, with the links *interfaces*.  Raises VmfenceError when /proc is not there."""
    joined = parse_igmp(_text(f"{PROC}/net/igmp"))
    for name, groups in parse_igmp6(_text(f"{PROC}/net/igmp6", must_exist=False)).items():
        joined[name] = joined.get(name, frozenset()) | groups
    return Network(
        joined,
        parse_routes(_text(f"{PROC}/net/route")),
        parse_neighbours(_text(f"{PROC}/net/arp")),
        tuple(map(_link, interfaces)),
        parse_filtered(_text(f"{PROC}/net/netstat")),
    )


def count_again(network: Network) -> Network:
    """Return *network* with what the reverse path filter has dropped since it was read."""
    now = parse_filtered(_text(f"{PROC}/net/netstat", must_exist=False))
    return replace(network, filtered=now, filtered_meanwhile=max(0, now - network.filtered))


def read_own_addresses() -> frozenset[str]:
    """Return the addresses of this host, loopback too."""
    ipv4 = parse_fib_trie(_text(f"{PROC}/net/fib_trie", must_exist=False))
    return ipv4 | parse_if_inet6(_text(f"{PROC}/net/if_inet6", must_exist=False))


def parse_fib_trie(text: str) -> frozenset[str]:
    """Return the local IPv4 addresses, from /proc/net/fib_trie: a leaf, and on a line below it "/32 host LOCAL"."""
    found, leaf = set(), ""
    for words in map(str.split, text.splitlines()):
        if words[:1] == ["|--"] and len(words) == 2:
            leaf = words[1]
        elif words == ["/32", "host", "LOCAL"]:
            found.add(leaf)
    return frozenset(found)


def parse_if_inet6(text: str) -> frozenset[str]:
    """Return the IPv6 addresses, from /proc/net/if_inet6."""
    found = set()
    for words in map(str.split, text.splitlines()):
        with contextlib.suppress(ValueError, IndexError):
            found.add(str(ipaddress.IPv6Address(int(words[0], 16))))
    return frozenset(found)


def parse_igmp(text: str) -> dict[str, frozenset[str]]:
    """Return the IPv4 groups joined on each interface, from /proc/net/igmp."""
    found: dict[str, frozenset[str]] = {}
    device = ""
    for line in text.splitlines()[1:]:
        words = line.split()
        if words and not line[:1].isspace():
            device = words[1].rstrip(":")
            found.setdefault(device, frozenset())
        elif words and device:
            with contextlib.suppress(ValueError):
                found[device] |= {_ipv4(words[0])}
    return found


def parse_igmp6(text: str) -> dict[str, frozenset[str]]:
    """Return the IPv6 groups joined on each interface, from /proc/net/igmp6."""
    found: dict[str, frozenset[str]] = {}
    for words in map(str.split, text.splitlines()):
        with contextlib.suppress(ValueError, IndexError):
            found[words[1]] = found.get(words[1], frozenset()) | {str(ipaddress.IPv6Address(int(words[2], 16)))}
    return found


def parse_routes(text: str) -> tuple[Route, ...]:
    """Return the IPv4 routes that are up, from /proc/net/route."""
    found = []
    for words in map(str.split, text.splitlines()[1:]):
        with contextlib.suppress(ValueError, IndexError):
            if int(words[3], 16) & _UP:
                network = ipaddress.IPv4Network(f"{_ipv4(words[1])}/{_ipv4(words[7])}")
                found.append(Route(words[0], network, int(words[6]), int(words[2], 16) == 0))
    return tuple(found)


def parse_neighbours(text: str) -> tuple[tuple[str, str], ...]:
    """Return the IPv4 neighbours that have answered, each with its interface, from /proc/net/arp."""
    found = []
    for words in map(str.split, text.splitlines()[1:]):
        with contextlib.suppress(ValueError, IndexError):
            if int(words[2], 16) & _COMPLETE:
                found.append((str(ipaddress.IPv4Address(words[0])), words[5]))
    return tuple(found)


def parse_filtered(text: str) -> int:
    """Return how many packets the reverse path filter has dropped, from /proc/net/netstat; 0 if that is not told."""
    rows = [line.split() for line in text.splitlines() if line.startswith("TcpExt:")]
    with contextlib.suppress(ValueError, IndexError):
        return int(rows[1][rows[0].index("IPReversePathFilter")])
    return 0


def astray(interface: str, network: Network) -> dict[str, str]:
    """Return the neighbours behind *interface* that are routed by another: address -> that other interface."""
    found = {}
    for address, device in network.neighbours:
        best = _best(ipaddress.IPv4Address(address), network.routes)
        if device == interface and best is not None and best.interface != interface:
            found[address] = best.interface
    return found


def carved_out(interface: str, network: Network) -> dict[str, str]:
    """Return the networks within those of *interface* that another leads to: network -> that other interface.

    That is as it must be where nobody behind *interface* has an address there, as with a network of libvirt's own.
    """
    own = [route.network for route in network.routes if route.interface == interface and route.is_direct]
    return {
        str(route.network): route.interface
        for route in network.routes
        if route.interface != interface
        and any(route.network.subnet_of(each) and each.prefixlen for each in own)
        and _best(route.network.network_address, network.routes) is route
    }


def is_routed(interface: str, network: Network) -> bool:
    """Whether any route leads to *interface*: without one a strict reverse path filter drops all that arrives there."""
    return any(route.interface == interface for route in network.routes)


def _best(address: ipaddress.IPv4Address, routes: Iterable[Route]) -> Route | None:
    fitting = [route for route in routes if address in route.network]
    return min(fitting, key=lambda route: (-route.network.prefixlen, route.metric), default=None)


def read_holders(ports: Collection[tuple[str, int]]) -> tuple[Holder, ...]:
    """Return the sockets bound to *ports* (protocol, number) in our network, our own left out."""
    bound = []
    for protocol, state in (("udp", _UDP_BOUND), ("tcp", _TCP_LISTENING)):
        for table in (protocol, f"{protocol}6"):
            text = _text(f"{PROC}/net/{table}", must_exist=False)
            bound += [(protocol, *each) for each in parse_sockets(text, state) if (protocol, each[1]) in ports]
    if not bound:
        return ()
    owners = _owners({inode for *_, inode in bound})
    holders = [Holder(protocol, address, port, *owners.get(inode, (0, ""))) for protocol, address, port, inode in bound]
    return tuple(each for each in holders if each.pid != os.getpid())


def parse_sockets(text: str, state: str) -> Iterator[tuple[str, int, int]]:
    """Yield address, port and inode of each socket in *state*, from /proc/net/udp and its like."""
    for words in map(str.split, text.splitlines()[1:]):
        with contextlib.suppress(ValueError, IndexError, struct.error):
            address, _, port = words[1].partition(":")
            if words[3] == state:
                yield _address(address), int(port, 16), int(words[9])


def _owners(inodes: Collection[int]) -> dict[int, tuple[int, str]]:
    """Return process and program of each of *inodes*, as far as this user may see."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found = {}
    for folder in glob.glob(f"{PROC}/[0-9]*"):
        with contextlib.suppress(OSError):
            for entry in os.scandir(f"{folder}/fd"):
                with contextlib.suppress(OSError):
                    inode = wanted.get(os.readlink(entry.path))
                    if inode is not None:
                        found[inode] = (
                            int(os.path.basename(folder)),
                            _text(f"{folder}/comm", must_exist=False).strip(),
                        )
    return found


def _link(name: str) -> Link:
    folder = f"{SYS}/{name}"
    ports = sorted(os.listdir(f"{folder}/brif")) if os.path.isdir(f"{folder}/brif") else []
    return Link(
        name,
        _text(f"{folder}/operstate", must_exist=False).strip() or "absent",
        max(_number(f"{PROC}/sys/net/ipv4/conf/{each}/rp_filter") for each in ("all", name)),
        bool(_number(f"{folder}/bridge/multicast_snooping")),
        bool(_number(f"{folder}/bridge/multicast_querier")),
        tuple(port for port in ports if os.path.exists(f"{SYS}/{port}/device")),
    )


def _address(text: str) -> str:
    """Return the address of 8 or 32 hexadecimal digits, words of four bytes in the machine's order.

    Raises ValueError, struct.error.
    """
    packed = struct.pack(f"={len(text) // 8}I", *struct.unpack(f">{len(text) // 8}I", bytes.fromhex(text)))
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


def _ipv4(text: str) -> str:
    """Return the IPv4 address of 8 hexadecimal digits.  Raises ValueError."""
    if len(text) != 8:
        raise ValueError(text)
    return _address(text)


def _number(path: str) -> int:
    with contextlib.suppress(ValueError):
        return int(_text(path, must_exist=False))
    return 0


def read_local_ports(root: str = PROC) -> tuple[int, int]:
    """Return the first and the last port that this host connects from, of both families of addresses (ip-sysctl.rst).

    Where that cannot be read: all that need no rights.
    """
    found = _text(f"{root}/sys/net/ipv4/ip_local_port_range", must_exist=False).split()
    if len(found) != 2 or not all(one.isdigit() for one in found):
        return _UNPRIVILEGED
    return int(found[0]), int(found[1])


def _text(path: str, must_exist: bool = True) -> str:
    """Return what is in *path*, "" for one that is not there and need not be.  Raises VmfenceError."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()  # in small pieces: asked for megabytes at once, a file of /proc/sys fails (Linux 6.1)
    except OSError as error:
        if isinstance(error, (FileNotFoundError, ProcessLookupError)) and not must_exist:
            return ""
        raise VmfenceError(f"cannot read {path}", error.strerror or str(error)) from error
