"""What a request needs of a firewall, and what rules do to it: is it admitted, stopped, or can nobody tell?  Pure.

Rules are walked in their order.  A condition that we cannot judge makes a rule a perhaps: one that stops may then stop
us, one that accepts is not relied on.  So "nothing stops requests" is said only when it is certain: better one
needless piece of advice than silence.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

# Where the queries of IGMP go to (RFC 3376, 4.1.12).
_ALL_HOSTS = "224.0.0.1"


@dataclass(frozen=True)
class Opening:
    """What one listener needs: *port* of *protocol* (udp, tcp) from *interface* (None: any); *igmp* as well.

    *address*: where requests go to, "" when that is not known.  Requests by UDP are always multicast.
    """

    protocol: str
    port: int
    interface: str | None
    family: str = "ipv4"
    igmp: bool = False
    address: str = field(default="", compare=False)

    def __str__(self) -> str:
        where = f" on {self.interface}" if self.interface else ""
        return f"{self.protocol.upper()} {self.port}{' and IGMP' if self.igmp else ''}{where}"

    def packets(self) -> Iterator[Opening]:
        """Yield what must come in, one kind of packet at a time: requests, and queries of IGMP (protocol igmp)."""
        yield replace(self, igmp=False)
        if self.igmp:
            yield Opening("igmp", 0, self.interface, self.family, address=_ALL_HOSTS)

    @property
    def is_multicast(self) -> bool:
        """Whether packets go to a group."""
        return self.protocol in ("udp", "igmp")


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
class Rule:
    """One rule as it concerns our packets; *target*: the chain of a jump or goto."""

    match: Match
    verdict: Verdict
    target: str = ""


# What a chain comes to that was told of us: see the *admitting* of the programs' modules.
ADMITTED = Rule(Match.YES, Verdict.ACCEPT)
_UNSEEN = (Rule(Match.MAYBE, Verdict.DROP),)


class _Fate(enum.Enum):
    ADMITTED = 1
    STOPPED = 2
    PASSED = 3  # came to the end of the chain


def may_stop(chains: Mapping[str, Sequence[Rule]], base: str, is_admitting: bool) -> bool:
    """Whether the chain *base* may stop our packets; *is_admitting*: its policy."""
    fates = _fates(chains, base, {})
    return _Fate.STOPPED in fates or (_Fate.PASSED in fates and not is_admitting)


def _fates(chains: Mapping[str, Sequence[Rule]], name: str, known: dict[str, set[_Fate]]) -> set[_Fate]:
    """Return what may become of our packets in the chain *name*.  The kernel admits no loops of chains."""
    if name in known:
        return known[name]
    known[name] = {_Fate.STOPPED}  # what a loop would do
    found: set[_Fate] = set()
    for rule in chains.get(name, _UNSEEN):
        if rule.match is not Match.NO:
            fates, goes_on = _follow(rule, chains, known)
            found |= fates
            if rule.match is Match.YES and not goes_on:
                break
    else:
        found.add(_Fate.PASSED)
    known[name] = found
    return found


def _follow(rule: Rule, chains: Mapping[str, Sequence[Rule]], known: dict[str, set[_Fate]]) -> tuple[set[_Fate], bool]:
    """Return what *rule* may do to a packet that it matches, and whether that may go on to the next rule."""
    if rule.verdict is Verdict.ACCEPT:
        return {_Fate.ADMITTED}, False
    if rule.verdict is Verdict.DROP:
        return {_Fate.STOPPED}, False
    if rule.verdict is Verdict.RETURN:
        return {_Fate.PASSED}, False
    fates = _fates(chains, rule.target, known)
    if rule.verdict is Verdict.GOTO:
        return fates, False
    return fates - {_Fate.PASSED}, _Fate.PASSED in fates


def goes_to(opening: Opening, network: str) -> Match:
    """Return whether requests go to an address in *network* (1.2.3.4, 1.2.3.0/24).  Raises ValueError."""
    if not opening.address:
        return Match.MAYBE
    return Match.of(ipaddress.ip_address(opening.address) in ipaddress.ip_network(network, strict=False))


def comes_from(opening: Opening, interface: str, wildcard: str) -> Match:
    """Return whether requests come from *interface*, whose last letter may be the *wildcard* of the program."""
    if opening.interface is None:
        return Match.MAYBE
    if interface.endswith(wildcard):
        return Match.of(opening.interface.startswith(interface[:-1]))
    return Match.of(opening.interface == interface)
