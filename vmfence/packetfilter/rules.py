"""What a request needs of a firewall, and what rules do to it: is it admitted, stopped, or can nobody tell?  Pure.

Rules are walked in their order.  A condition that we cannot judge makes a rule a perhaps: one that stops may then stop
us, one that accepts is not relied on.  So "nothing stops requests" is said only when it is certain: better one
needless piece of advice than silence.  How rules are walked: see walk.
"""

from __future__ import annotations

import enum
import functools
import ipaddress
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Callable

from vmfence.packetfilter.origins import ANYBODY, Origin, Origins

# Where the queries of IGMP go to (RFC 3376, 4.1.12).
_ALL_HOSTS, _BROADCAST = "224.0.0.1", "255.255.255.255"
# What the other end of a connection sends: that it takes it, that it has seen something, an answer, an end.
_FLAGS_OF_ANSWERS = (("syn", "ack"), ("ack",), ("ack", "psh"), ("ack", "fin"), ("ack", "psh", "fin"))


@dataclass(frozen=True)
class Opening:
    """What one listener needs: *port* of *protocol* (udp, tcp) from *interface* (None: any); *igmp* as well.

    *address*: where requests go to, "" when that is not known.  Requests by UDP are always multicast.
    *origins*: what is known of who asks; *origin*: the one whose packet it is, ANYBODY for whoever may ask.
    *answered*: None, or what comes in are answers from *port* to connections of this host, from these ports of its own,
    the first and the last; *is_tracked*: whether a chain knows which connection a packet is of.
    """

    protocol: str
    port: int
    interface: str | None
    family: str = "ipv4"
    igmp: bool = False
    address: str = field(default="", compare=False)
    origins: Origins = field(default=Origins(), compare=False)
    origin: Origin = field(default=ANYBODY, compare=False)
    answered: tuple[int, int] | None = None
    is_tracked: bool = field(default=True, compare=False)

    def __str__(self) -> str:
        where = f" on {self.interface}" if self.interface else ""
        if self.answered:
            return f"answers from {self.protocol.upper()} {self.port}{where}"
        return f"{self.protocol.upper()} {self.port}{' and IGMP' if self.igmp else ''}{where}"

    def packets(self) -> Iterator[Opening]:
        """Yield what must come in, one kind of packet at a time: requests, and queries of IGMP (protocol igmp)."""
        yield replace(self, igmp=False)
        if self.igmp:
            yield replace(self, protocol="igmp", port=0, igmp=False, address=_ALL_HOSTS)

    @property
    def is_multicast(self) -> bool:
        """Whether packets go to a group."""
        return self.protocol in ("udp", "igmp")

    @property
    def state(self) -> str:
        """What the kernel takes the packets for, "" where that is not known."""
        return "new" if not self.answered else "established" if self.is_tracked else ""


class Match(enum.Enum):
    """Whether a rule's condition holds for the packets of a request."""

    YES = 1
    NO = 2
    MAYBE = 3

    def inverted(self) -> Match:
        """Return what holds for the opposite condition."""
        return {Match.YES: Match.NO, Match.NO: Match.YES}.get(self, self)

    @staticmethod
    def of(is_so: bool) -> Match:
        """Return what is certain."""
        return Match.YES if is_so else Match.NO

    @staticmethod
    def all(found: Iterable[Match]) -> Match:
        """Return whether all of *found* hold; YES for none."""
        matches = set(found)
        return Match.NO if Match.NO in matches else Match.MAYBE if Match.MAYBE in matches else Match.YES

    @staticmethod
    def any(found: Iterable[Match]) -> Match:
        """Return whether one of *found* holds; NO for none."""
        return Match.all(match.inverted() for match in found).inverted()


class Verdict(enum.Enum):
    """What a rule does with a packet that it matches."""

    ACCEPT = "accept"
    DROP = "drop"
    RETURN = "return"
    JUMP = "jump"
    GOTO = "goto"


@dataclass(frozen=True)
class Condition:
    """One condition of a rule: *match*, and what it says of packets whose origin nobody knows.

    *honest*: what holds for a packet that bears the addresses of its sender, at a port whose sender a rule names.
    *is_of_origin*: it tells senders apart, so that what becomes of one packet shows nothing about another's.
    *is_of_port*: it names the port of a bridge; *is_of_address*: an address of the sender.
    """

    match: Match
    honest: Match | None = None
    is_of_origin: bool = False
    is_of_port: bool = False
    is_of_address: bool = False

    def inverted(self) -> Condition:
        """Return the opposite condition."""
        return replace(self, match=self.match.inverted(), honest=self.honest.inverted() if self.honest else None)

    @staticmethod
    def all(found: Iterable[Condition]) -> Condition:
        """Return whether all of *found* hold; YES for none."""
        one = tuple(found)
        return Condition(
            Match.all(each.match for each in one),
            Match.all(each.honest or each.match for each in one),
            any(each.is_of_origin for each in one),
            any(each.is_of_port for each in one),
            any(each.is_of_address for each in one),
        )

    @staticmethod
    def any(found: Iterable[Condition]) -> Condition:
        """Return whether one of *found* holds; NO for none."""
        return Condition.all(each.inverted() for each in found).inverted()


HOLDS, UNKNOWN = Condition(Match.YES), Condition(Match.MAYBE)
# Whoever it is that asks decides: his address, or a set of them, or what is not known to be about anything else.
UNKNOWN_ORIGIN = Condition(Match.MAYBE, is_of_origin=True)


@dataclass(frozen=True)
class Rule:
    """One rule as it concerns our packets; *target*: the chain of a jump or goto; *tell* returns it as it is shown."""

    condition: Condition
    verdict: Verdict
    target: str = ""
    tell: Callable[[], str] = field(default=str, compare=False)


# What a chain comes to that was told of us: see the *admitting* of the programs' modules.
ADMITTED = Rule(HOLDS, Verdict.ACCEPT)


def admitted(chain: str, admitting: Collection[str]) -> tuple[Rule, ...]:
    """Return what stands at the end of *chain* besides its rules."""
    return (ADMITTED,) if chain in admitting else ()


UNSEEN = Rule(UNKNOWN_ORIGIN, Verdict.DROP, tell=lambda: "a chain that is not shown")


# There may be thousands of rules, asked for each kind of packet and each interface.
@functools.lru_cache(maxsize=65536)
def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network(text, strict=False)


def goes_to(opening: Opening, network: str) -> Match:
    """Return whether requests go to an address in *network* (1.2.3.4, 1.2.3.0/24).  Raises ValueError."""
    if not opening.address:
        is_of_many = _network(network).is_multicast or network.partition("/")[0] == _BROADCAST
        return Match.NO if opening.answered and is_of_many else Match.MAYBE
    return Match.of(ipaddress.ip_address(opening.address) in _network(network))


def goes_to_port(opening: Opening, first: int, last: int) -> Condition:
    """Return whether the packets go to a port from *first* to *last*."""
    if not opening.answered:
        return Condition(Match.of(first <= opening.port <= last))
    least, most = opening.answered
    if first <= least and most <= last:
        return HOLDS
    return UNKNOWN if first <= most and least <= last else Condition(Match.NO)


def comes_from_port(opening: Opening, first: int, last: int) -> Condition:
    """Return whether the packets come from a port from *first* to *last*: requests from any that the sender has."""
    return Condition(Match.of(first <= opening.port <= last)) if opening.answered else UNKNOWN_ORIGIN


def has_flags(opening: Opening, mask: Collection[str], wanted: Collection[str]) -> Condition:
    """Return whether of the flags of TCP in *mask* those *wanted* are set, and no others, all in small letters."""
    if not opening.answered:
        return UNKNOWN_ORIGIN
    found = {{*flags} & {*mask} == {*wanted} for flags in _FLAGS_OF_ANSWERS}
    return UNKNOWN if len(found) > 1 else Condition(Match.of(found.pop()))


def sent_by(opening: Opening, network: str) -> Condition:
    """Return whether requests come from an address in *network*.  Raises ValueError."""
    wanted = _network(network)
    if opening.origin.address:
        return _of_address(Match.of(ipaddress.ip_address(opening.origin.address) in wanted))
    return _of_address(_expected(wanted, opening.origins), Match.YES)


def sent_by_hardware(opening: Opening, address: str) -> Condition:
    """Return whether requests come from this Ethernet *address*."""
    if opening.origin.hardware:
        return _of_address(Match.of(opening.origin.hardware == address.lower()))
    return _of_address(Match.MAYBE, Match.YES)


def _of_address(match: Match, honest: Match | None = None) -> Condition:
    return Condition(match, honest, is_of_origin=True, is_of_address=True)


def _expected(wanted: ipaddress.IPv4Network | ipaddress.IPv6Network, origins: Origins) -> Match:
    """Return whether those who may ask are in *wanted*: all of the networks there but this host itself."""
    nets = [net for net in map(_network, origins.networks) if net.version == wanted.version]
    if not nets:
        return Match.MAYBE
    if all(net.subnet_of(wanted) for net in nets):  # type: ignore[arg-type]
        return Match.YES
    is_own = wanted.num_addresses == 1 and str(wanted.network_address) in origins.own
    return Match.NO if is_own or not any(net.overlaps(wanted) for net in nets) else Match.MAYBE


def comes_from(opening: Opening, interface: str, wildcard: str) -> Condition:
    """Return whether requests come from *interface*, whose last letter may be the *wildcard* of the program.

    What this host sends to a group arrives by the same interface, what it sends to its own address by another.
    """
    if opening.interface is None:
        return UNKNOWN_ORIGIN
    is_ours = _is_named(opening.interface, interface, wildcard)
    return Condition(Match.of(is_ours), is_of_origin=is_ours or not opening.is_multicast)


def comes_through(opening: Opening, port: str, wildcard: str) -> Condition:
    """Return whether requests come through this *port* of a bridge."""
    if not opening.origin.port:
        return Condition(Match.MAYBE, is_of_origin=True, is_of_port=True)
    return Condition(Match.of(_is_named(opening.origin.port, port, wildcard)), is_of_origin=True, is_of_port=True)


def _is_named(name: str, pattern: str, wildcard: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith(wildcard) else name == pattern
