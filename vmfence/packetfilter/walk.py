"""Walking the rules of one table in their order: what becomes of a packet, and by which rules?  Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Callable, Optional

from vmfence.packetfilter.origins import ANYBODY, Origin
from vmfence.packetfilter.rules import UNSEEN, Match, Rule, Verdict

# Reads the rules of a chain by its name, None for one that is not there.
Chains = Callable[[str], Optional[Iterable[Rule]]]
_SHOWN_MAX = 20  # rules that stop
_WALKED_MAX = 50_000  # rules; who is left then counts as one who is not known


class _Fate(enum.Enum):
    ADMITTED = 1
    STOPPED = 2
    PASSED = 3  # came to the end of the chain


@dataclass(frozen=True)
class Stoppage:
    """That packets may be stopped: *by* these rules, as they are shown.

    *is_certain*: all are; *guests*: those that are known, and whose packets certainly are.  *is_of_origin*: rules
    there tell senders apart, so what becomes of this host's own packets shows nothing.  *is_of_address*: by their
    addresses.  *is_guarded*: to let through only the true ones of a port, and nobody may be led round that.
    """

    by: tuple[str, ...] = ()
    is_certain: bool = False
    guests: tuple[Origin, ...] = ()
    is_of_origin: bool = False
    is_of_address: bool = False
    is_guarded: bool = False

    def told_as(self, cause: str) -> Stoppage:
        """Return it as what *cause* does."""
        return replace(self, by=(cause,))


@dataclass
class _Walk:
    """One way of a packet through *chains*, and what was met."""

    chains: Chains
    walked: int = 0
    known: dict[tuple[str, bool], frozenset[_Fate]] = field(default_factory=dict)
    by: dict[str, None] = field(default_factory=dict)
    is_of_origin: bool = False
    is_of_address: bool = False
    is_guarded: bool = False

    def begin(self, base: str, is_admitting: bool, is_of_port: bool) -> frozenset[_Fate]:
        """Return what may become of a packet in the chain *base*; *is_admitting*: its policy."""
        fates = self._fates(base, is_of_port)
        if is_admitting or _Fate.PASSED not in fates:
            return fates
        self.by[f"the policy of chain {base}: drop"] = None
        return fates - {_Fate.PASSED} | {_Fate.STOPPED}

    def _fates(self, name: str, is_of_port: bool) -> frozenset[_Fate]:
        """Return what may become of a packet in the chain *name*.  The kernel admits no loops of chains.

        *is_of_port*: only the packets of one port of a bridge come there, whose sender has the addresses that rules ask
        for, unless he forges them.
        """
        place = name, is_of_port
        if place not in self.known:
            self.known[place] = frozenset({_Fate.STOPPED})  # what a loop would do
            rules = self.chains(name)
            self.known[place] = frozenset(self._through([UNSEEN] if rules is None else rules, is_of_port))
        return self.known[place]

    def _through(self, rules: Iterable[Rule], is_of_port: bool) -> set[_Fate]:
        found: set[_Fate] = set()
        for rule in rules:
            self.walked += 1
            self.is_of_origin |= rule.condition.is_of_origin
            is_here = is_of_port or rule.condition.is_of_port
            self.is_of_address |= rule.condition.is_of_address
            self.is_guarded |= rule.condition.is_of_address and is_here
            match = (rule.condition.honest if is_here else None) or rule.condition.match
            if match is Match.NO:
                continue
            fates = self._verdict(rule, is_here)
            goes_on = rule.verdict is Verdict.JUMP and _Fate.PASSED in fates
            found |= fates - {_Fate.PASSED} if rule.verdict is Verdict.JUMP else fates
            if match is Match.YES and not goes_on:
                return found
        return found | {_Fate.PASSED}

    def _verdict(self, rule: Rule, is_of_port: bool) -> frozenset[_Fate]:
        if rule.verdict in (Verdict.JUMP, Verdict.GOTO):
            return self._fates(rule.target, is_of_port)
        if rule.verdict is Verdict.DROP and len(self.by) < _SHOWN_MAX:
            self.by[rule.tell()] = None
        fates = {Verdict.ACCEPT: _Fate.ADMITTED, Verdict.DROP: _Fate.STOPPED, Verdict.RETURN: _Fate.PASSED}
        return frozenset({fates[rule.verdict]})


def find_stoppage(
    read: Callable[[Origin], Chains],
    base: str,
    is_admitting: bool,
    known: Iterable[Origin] = (),
    is_of_port: bool = False,
) -> Stoppage | None:
    """Return what may stop packets in the chain *base*, None when nothing can; *is_admitting*: its policy.

    *read* returns the chains, as they are for packets of one origin; *known*: those that are asked for.  *is_of_port*:
    only the packets of one port of a bridge come there.
    """
    anybodys = _Walk(read(ANYBODY))
    fates = anybodys.begin(base, is_admitting, is_of_port)
    by, guests, walked = anybodys.by, [], 0
    if anybodys.is_of_origin and (_Fate.STOPPED in fates or anybodys.is_guarded):  # else all are alike
        for origin in known:
            if walked > _WALKED_MAX:
                break
            own = _Walk(read(origin))
            if own.begin(base, is_admitting, is_of_port) == {_Fate.STOPPED}:
                guests.append(origin)
                by = {**own.by, **by} if _Fate.STOPPED in fates else own.by
            walked += own.walked
    if _Fate.STOPPED not in fates and not guests:
        return None
    return Stoppage(
        tuple(filter(None, by)),
        fates == {_Fate.STOPPED},
        tuple(guests),
        anybodys.is_of_origin,
        anybodys.is_of_address,
        anybodys.is_guarded,
    )
