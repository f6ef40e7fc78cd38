"""What the hosts of a pool tell each other beyond fence_virtd's messages: JSON bodies of type protocol.cpg.OURS.

Pure.  A host greets, lists its guests, asks all others what they see of one guest, and orders one of them to act.
A message that is not understood is a PacketError: a newer host's, or rubbish; it is never guessed at.  What decodes can
be reckoned with: its numbers and times are finite and bounded.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from typing import Any, Union

from vmfence.errors import PacketError
from vmfence.protocol import cpg
from vmfence.protocol.reply import State

VERSION = 1
# Guests in one message: about 20 kB, far below what Corosync carries.
LISTED_MAX = 200
_NUMBER_MAX = 1 << 63
_TIME_MAX_S = 1e12


@dataclass(frozen=True)
class Entry:
    """A guest as one host sees it.

    *state* is libvirt's number.  *moved*: shut off here because it was migrated away.  *stay* is the number of the time
    since it executes here without a break, and of no other one (lasts.py); 0: it does not, or nobody counts.
    """

    name: str
    uuid: str
    state: int
    moved: bool = False
    stay: int = 0
    is_unexplained: bool = False

    @property
    def is_active(self) -> bool:
        """Whether its process may be there: everything but shut off."""
        return self.state != State.SHUT_OFF

    @property
    def is_executing(self) -> bool:
        """Whether it runs here and nowhere else.  A paused one may be about to come from another host."""
        return self.state in (State.RUNNING, State.BLOCKED, State.SHUTTING_DOWN)

    @property
    def is_off(self) -> bool:
        """Whether it ended here, and did not only leave."""
        return self.state == State.SHUT_OFF and not self.moved


@dataclass(frozen=True)
class Start:
    """The host *node* was told to start the guest *uuid*, and for *left_s* more seconds nobody else is to start it."""

    uuid: str
    node: int
    left_s: float


@dataclass(frozen=True)
class Hello:
    """I am a host of this program, not fence_virtd.  *starts*: what I have heard that was ordered a moment ago."""

    version: int = VERSION
    starts: tuple[Start, ...] = ()


@dataclass(frozen=True)
class Sight:
    """What I told of my guests may be old (*is_blind*: my hypervisor cannot be read), or I do not know how they ended.

    *has_booted*: this host has booted since its daemon was here, so nobody knows whether a guest had left it before.
    """

    is_blind: bool = False
    has_booted: bool = False


@dataclass(frozen=True)
class Listing:
    """Guests of the sender, and UUIDs of those it does not have any more.

    *is_first* and *is_last* mark the ends of a whole list; a change is neither.  *number* counts the changes, so that
    who has the list up to there need not read it.
    """

    guests: tuple[Entry, ...]
    gone: tuple[str, ...] = ()
    is_first: bool = False
    is_last: bool = False
    number: int = 0


@dataclass(frozen=True)
class Last:
    """Who had the guest *uuid* active last, as far as the sender knows.

    *stays*: (number, node) of the last time that it executed at a node; several if nobody knows which is the later one.
    *past*: numbers of those known to be earlier.
    """

    uuid: str
    stays: tuple[tuple[int, int], ...]
    past: tuple[int, ...] = ()


@dataclass(frozen=True)
class Lasts:
    """What the sender knows of who had which guest last, told to newcomers."""

    lasts: tuple[Last, ...]


@dataclass(frozen=True)
class Missing:
    """What the host *node* had when it left, told to newcomers by one who saw that; in parts, as a Listing.

    *left_at* and *fence_before* are as in Away.
    """

    node: int
    left_at: float
    guests: tuple[Entry, ...]
    is_first: bool = False
    is_last: bool = False
    fence_before: float | None = None


@dataclass(frozen=True)
class Query:
    """What does everybody see of the guest called *target*?  *is_for_start*: also one that libvirt forgot."""

    seqno: int
    target: str
    is_for_start: bool = False


@dataclass(frozen=True)
class Away:
    """What a host remembers of a *node* that is not in the group: how it had the guest that was asked for.

    *entry* None: it did not have it.  *is_excused*: the guest was seen running elsewhere after that host had left.
    *is_seen_leaving*: the sender, or one that told it, saw it leave, and was where the cluster goes on ever since.
    *left_at*: who was fenced after this wall clock time, in seconds, was fenced since it left.  *fence_before*: time of
    the newest fencing of it that was known while it was there, by the fencer's clock; None: not known.
    """

    node: int
    left_at: float
    entry: Entry | None = None
    is_excused: bool = False
    is_seen_leaving: bool = False
    fence_before: float | None = None


@dataclass(frozen=True)
class Report:
    """The answer to a Query of *asker*.

    *trouble*: why the sender cannot tell.  *lasts*: who had the guests of that name active last, as the sender knows.
    *clock_s* is the sender's monotonic clock.
    """

    asker: int
    seqno: int
    guests: tuple[Entry, ...]
    clock_s: float
    trouble: str = ""
    away: tuple[Away, ...] = ()
    lasts: tuple[Last, ...] = ()


@dataclass(frozen=True)
class Order:
    """The host *node* is to carry out *action* on the guest *uuid*, and not to begin after *until_s* of its clock."""

    node: int
    seqno: int
    action: int
    uuid: str
    until_s: float


@dataclass(frozen=True)
class Result:
    """How an Order of *asker* ended: a code of the wire, and why.

    *ended*: the guest's state directly before it was ended; 0: it was not, or that is not known.
    """

    asker: int
    seqno: int
    code: int
    detail: str = ""
    ended: int = 0


Own = Union[Hello, Sight, Listing, Lasts, Missing, Query, Report, Order, Result]
Message = Union[Own, cpg.Request, cpg.Reply, cpg.Store]

_KINDS: dict[str, type] = {
    kind.__name__.lower(): kind for kind in (Hello, Sight, Listing, Lasts, Missing, Query, Report, Order, Result)
}
_PARTS = (Entry, Away, Last, Start)
_NUMBERS = ("state", "version", "seqno", "node", "asker", "action", "code", "number", "stay", "ended")
_TIMES = ("left_at", "clock_s", "until_s", "fence_before", "left_s")
_MANY: dict[str, type] = {"guests": Entry, "away": Away, "lasts": Last, "starts": Start}


def encode(message: Message) -> bytes:
    """Return the bytes of *message*.  Raises PacketError when fence_virtd's form cannot hold it."""
    if isinstance(message, (cpg.Request, cpg.Reply, cpg.Store)):
        return cpg.encode(message)
    body = json.dumps({"kind": type(message).__name__.lower(), **_plain(message)}, separators=(",", ":"))
    return cpg.encode(cpg.Ours(body.encode("ascii")))


def decode(data: bytes) -> Message | None:
    """Return the message in *data*, or None for a type of nobody's.  Raises PacketError."""
    message = cpg.decode(data)
    if not isinstance(message, cpg.Ours):
        return message
    try:
        found = json.loads(message.body.decode("ascii"))
        built: Own = _build(_KINDS[found.pop("kind")], found)
        return built
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise PacketError("a message of the pool is not understood", repr(error)[:200]) from error


def _plain(message: Any) -> dict[str, Any]:
    """Return the fields that differ from their defaults."""
    found = {}
    for each in fields(message):
        value = getattr(message, each.name)
        if value == each.default:
            continue
        if isinstance(value, _PARTS):
            value = _plain(value)
        elif isinstance(value, tuple):
            value = [_plain(item) if isinstance(item, _PARTS) else item for item in value]
        found[each.name] = value
    return found


def _build(kind: type, found: Any) -> Any:
    """Return a message of *kind* with each field of its type.  Raises TypeError, ValueError."""
    known = {each.name for each in fields(kind)}
    # What a newer version adds is passed over, as its sender must expect.
    return kind(**{name: _value(name, value) for name, value in found.items() if name in known})


def _value(name: str, value: Any) -> Any:
    if name in _MANY:
        return tuple(_build(_MANY[name], each) for each in _list(value))
    if name == "entry":
        return None if value is None else _build(Entry, value)
    if name == "gone":
        return tuple(_text(each) for each in _list(value))
    if name == "past":
        return tuple(number(each) for each in _list(value))
    if name == "stays":
        return tuple((number(stay), number(node)) for stay, node in _list(value))
    if name in _NUMBERS:
        return number(value)
    if name in _TIMES:
        return None if value is None and name == "fence_before" else moment(value)
    if name.startswith(("is_", "has_")) or name == "moved":
        return _checked(value, isinstance(value, bool))
    return _text(value)


def number(value: Any) -> int:
    """Return *value* if it is an integer that can be reckoned with.  Raises ValueError."""
    return int(_checked(value, type(value) is int and abs(value) < _NUMBER_MAX))


def moment(value: Any) -> float:
    """Return *value* if it is a time in seconds.  Raises ValueError."""
    is_number = type(value) in (int, float)
    return float(_checked(value, is_number and abs(value) < _TIME_MAX_S and math.isfinite(value)))


def _list(value: Any) -> list[Any]:
    return list(_checked(value, isinstance(value, list)))


def _text(value: Any) -> str:
    """Return *value* if it is a text that can be told to fence_virtd, too.  Raises ValueError."""
    text = str(_checked(value, isinstance(value, str) and "\0" not in value))
    text.encode("utf-8", "surrogateescape")  # UnicodeEncodeError is a ValueError
    return text


def _checked(value: Any, is_so: bool) -> Any:
    if not is_so:
        raise ValueError("a field of another type")
    return value
