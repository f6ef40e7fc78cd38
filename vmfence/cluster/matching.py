"""Which guest each node is: pairs with the reason for each, and what stays open.  Pure.

Rules, strongest first: given by the user; the machine UUID of this node; equal name; equal name but for case; the one
name that begins or ends with the other, cut at a character that is no letter or digit.  A rule decides only where node
and guest have each other alone: two candidates are a fault, never a guess.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Callable

from vmfence.cluster.machine import swapped
from vmfence.errors import UsageError, VmfenceError
from vmfence.protocol.reply import Record, State

SHOWN_MAX = 10
NOT_RUNNING = (State.SHUT_OFF, State.CRASHED, State.SUSPENDED)
GIVEN = "given"
BY_UUID = "machine UUID of this node"
Rule = Callable[[str, Record], bool]


@dataclass(frozen=True)
class Pair:
    """Node *node* runs in *guest*; *reason* tells how that is known, *given* what the user called the guest."""

    node: str
    guest: Record
    reason: str
    given: str = ""

    @property
    def guest_state(self) -> str:
        """What the guest is doing, in libvirt's word."""
        return str(self.guest.as_dict()["state"])

    def as_dict(self) -> dict[str, str]:
        """Return it fit for JSON."""
        guest = self.guest
        return {
            "node": self.node,
            "guest": guest.name,
            "uuid": guest.uuid,
            "state": self.guest_state,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Matching:
    """*pairs* in the order of the nodes; *faults*: one for each node or guest that is left open or contradicted."""

    pairs: tuple[Pair, ...]
    faults: tuple[VmfenceError, ...]


@dataclass(frozen=True)
class Machine:
    """This machine: the *node* that it is, and the *uuid* that its firmware shows ("": unknown)."""

    node: str = ""
    uuid: str = ""

    def is_guest(self, guest: Record) -> bool:
        """Whether *guest* is this machine; some firmware and kernels turn the first three fields around."""
        return is_same(guest.uuid, self.uuid) or is_same(guest.uuid, swapped(self.uuid))


def parse_map(texts: Iterable[str]) -> dict[str, str]:
    """Return node -> guest from texts as "node:guest".  Raises UsageError for no pair, or a node given twice."""
    given: dict[str, str] = {}
    for text in texts:
        node, _, guest = text.partition(":")
        if not node or not guest:
            raise UsageError(f"{text!r} is no pair of node and guest", "", "write --map NODE:GUEST")
        if any(is_same(node, other) for other in given):
            raise UsageError(f"node {node!r} is given twice", "", "give --map once for each node")
        given[node] = guest
    return given


def unseen(names: Iterable[str]) -> list[Record]:
    """Return guests of these *names* or UUIDs that no host has shown."""
    return [Record(name, "", State.NONE) for name in names]


def match(
    nodes: Sequence[str], guests: Sequence[Record], given: Mapping[str, str], machine: Machine | None = None
) -> Matching:
    """Return which of *guests* each of *nodes* is.  *given*: node -> name or UUID of its guest."""
    return _Matcher(nodes, guests, given, machine or Machine()).match()


def stopped(pairs: Sequence[Pair], guests: Sequence[Record], online: Collection[str]) -> Iterator[VmfenceError]:
    """Yield a fault for each node that is *online* and has a guest that does not run: it must be another one."""
    taken = {pair.guest for pair in pairs}
    free = [guest for guest in dict.fromkeys(guests) if guest not in taken and guest.state not in NOT_RUNNING]
    for pair in pairs:
        if pair.guest.state in NOT_RUNNING and any(is_same(pair.node, name) for name in online):
            what = f"node {pair.node!r} is online, and guest {pair.guest.name!r} ({pair.reason}) is not running"
            why = f"it is another guest; those that run and no node has: {_shown(free)}"
            remedy = f"say which with --map {shlex.quote(f'{pair.node}:GUEST')}, or --force if the host is wrong"
            yield VmfenceError(what, why, remedy)


class _Matcher:
    def __init__(self, nodes: Sequence[str], guests: Sequence[Record], given: Mapping[str, str], me: Machine) -> None:
        self._nodes, self._guests, self._me = nodes, tuple(dict.fromkeys(guests)), me
        self._given = {node: wanted for known in nodes for node, wanted in given.items() if is_same(node, known)}
        self._strangers = [node for node in given if node not in self._given]
        self._pairs: dict[str, Pair] = {}
        self._faults: dict[str, VmfenceError] = {}

    def match(self) -> Matching:
        for node in self._strangers:
            known = f"the nodes are {_listed(self._nodes)}"
            self._faults[node] = UsageError(f"--map names {node!r}, which is no node to map", known, "mend --map")
        self._take_given()
        self._take_own()
        proven = {one.guest for one in self._pairs.values()}
        for reason, rule in _RULES:
            self._take_unique(reason, rule, proven)
        for node in self._open():
            self._faults[node] = self._missing(node)
        self._refuse_shared()
        self._refuse_contradiction()
        pairs = tuple(self._pairs[node] for node in self._nodes if node in self._pairs)
        return Matching(pairs, tuple(self._faults.values()))

    def _open(self) -> list[str]:
        return [node for node in self._nodes if node not in self._pairs and node not in self._faults]

    def _take_given(self) -> None:
        for spelled, wanted in self._given.items():
            node = next(known for known in self._nodes if is_same(spelled, known))
            found = _named(wanted, self._guests)
            if len(found) == 1:
                self._pairs[node] = Pair(node, found[0], GIVEN, wanted)
            elif found:
                remedy = f"give the UUID with --map {shlex.quote(f'{node}:UUID')}"
                self._faults[node] = VmfenceError(f"the name {wanted!r} fits several guests", _shown(found), remedy)
            else:
                why = f"it shows {_shown(self._guests)}"
                self._faults[node] = UsageError(f"the host shows no guest {wanted!r}", why, f"mend --map {node}:...")

    def _take_own(self) -> None:
        """Take the guest whose UUID this machine has; that it contradicts what was given is found at the end."""
        if self._me.node in self._open():
            found = [guest for guest in self._guests if self._me.is_guest(guest)]
            if len(found) == 1:
                self._pairs[self._me.node] = Pair(self._me.node, found[0], BY_UUID)

    def _take_unique(self, reason: str, rule: Rule, proven: Iterable[Record]) -> None:
        """Pair what *rule* pairs without doubt.

        Guests that are only named like another node still count as candidates here: what is left over is no proof.
        """
        free = [guest for guest in self._guests if guest not in proven]
        fits = {node: [guest for guest in free if rule(node, guest)] for node in self._open()}
        for node, found in fits.items():
            rivals = [other for other in fits if other != node and set(fits[other]) & set(found)]
            if len(found) == 1 and not rivals and not self._is_taken(found[0]):
                self._pairs[node] = Pair(node, found[0], reason)
            elif len(found) > 1:
                what = f"node {node!r} may be one of several guests ({reason})"
                self._faults[node] = VmfenceError(what, _shown(found), f"say which with --map {node}:GUEST")
            elif rivals:
                what, why = f"guest {found[0].name!r} may be one of several nodes ({reason})", _listed([node, *rivals])
                self._faults[node] = VmfenceError(what, why, f"say which guest with --map {node}:GUEST")

    def _is_taken(self, guest: Record) -> bool:
        return any(one.guest == guest for one in self._pairs.values())

    def _missing(self, node: str) -> VmfenceError:
        rest = [guest for guest in self._guests if not self._is_taken(guest)]
        why = f"guests that no node has yet: {_shown(rest)}" if rest else "the host shows no guest that is left"
        return VmfenceError(f"no guest fits node {node!r}", why, f"say which with --map {node}:GUEST")

    def _refuse_shared(self) -> None:
        """Two nodes must never share a guest: fencing one would kill both."""
        for guest in dict.fromkeys(one.guest for one in self._pairs.values()):
            nodes = [one.node for one in self._pairs.values() if one.guest == guest]
            if len(nodes) > 1:
                what, remedy = f"guest {guest.name!r} is given to several nodes", "each node needs a guest of its own"
                self._faults[nodes[0]] = VmfenceError(what, _listed(nodes), remedy)

    def _refuse_contradiction(self) -> None:
        """The machine UUID of this node beats every name: a guest with another one is not this machine."""
        own = self._pairs.get(self._me.node)
        if own is None or not self._me.uuid or self._me.is_guest(own.guest):
            return
        true = next((guest for guest in self._guests if self._me.is_guest(guest)), None)
        named = f", which is guest {true.name!r}" if true else ", which no guest shown has"
        what = f"node {own.node!r} is not guest {own.guest.name!r} ({own.reason})"
        why = f"this machine has the UUID {self._me.uuid}{named}; that guest has {own.guest.uuid}"
        remedy = "compare virsh domuuid on the host with --machine-uuid"
        if true:
            remedy = f"give --map {shlex.quote(f'{own.node}:{true.name}')}"
        self._faults[own.node] = VmfenceError(what, why, remedy)


def is_same(one: str, other: str) -> bool:
    """Whether two node names or two UUIDs are the same: neither has a case that counts; nothing equals nothing."""
    return bool(one) and one.lower() == other.lower()


def _named(wanted: str, guests: Iterable[Record]) -> list[Record]:
    return [guest for guest in guests if guest.name == wanted or is_same(guest.uuid, wanted)]


def _has_name(node: str, guest: Record) -> bool:
    return node == guest.name


def _has_name_but_case(node: str, guest: Record) -> bool:
    return is_same(node, guest.name)


def _has_affix(node: str, guest: Record) -> bool:
    short, long = sorted((node.lower(), guest.name.lower()), key=len)
    if not short or len(short) == len(long):
        return False
    is_end = long.endswith(short) and not long[-len(short) - 1].isalnum()
    return is_end or (long.startswith(short) and not long[len(short)].isalnum())


_RULES: tuple[tuple[str, Rule], ...] = (
    ("equal name", _has_name),
    ("equal name but for case", _has_name_but_case),
    ("unique prefix or suffix", _has_affix),
)


def _shown(guests: Sequence[Record]) -> str:
    return _listed([f"{guest.name} ({guest.uuid})" for guest in guests])


def _listed(names: Sequence[str]) -> str:
    """Return *names* for one line of a terminal: escaped, and not endless."""
    more = f" and {len(names) - SHOWN_MAX} more" if len(names) > SHOWN_MAX else ""
    return (", ".join(repr(name)[1:-1] for name in names[:SHOWN_MAX]) or "none") + more
