"""What the hosts of a pool tell each other beyond fence_virtd's messages: JSON bodies of type protocol.cpg.OURS.

Pure.  A host greets, lists its guests, asks all others what they see of one guest, and orders one of them to act.
A message that is not understood is a PacketError: a newer host's, or rubbish; it is never guessed at.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any, Union

from vmfence.errors import PacketError
from vmfence.protocol import cpg
from vmfence.protocol.reply import State

VERSION = 1
# Guests in one message: about 20 kB, far below what Corosync carries.
LISTED_MAX = 200


@dataclass(frozen=True)
class Entry:
    """A guest as one host sees it.

    *state* is libvirt's number.  *moved*: shut off here because it was migrated away.
    """

    name: str
    uuid: str
    state: int
    moved: bool = False

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
class Hello:
    """I am a host of this program, not fence_virtd."""

    version: int = VERSION


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
class Query:
    """What does everybody see of the guest called *target*?  *is_for_start*: also one that libvirt forgot."""

    seqno: int
    target: str
    is_for_start: bool = False


@dataclass(frozen=True)
class Away:
    """What a host remembers of a *node* that is not in the group: how it had the guest that was asked for.

    *entry* None: it did not have it.  *is_excused*: the guest was seen running elsewhere after that host had left.
    *is_seen_leaving*: the sender saw it leave, and has been where the cluster goes on since.
    *left_at* is the wall clock's time of its departure in seconds.
    """

    node: int
    left_at: float
    entry: Entry | None = None
    is_excused: bool = False
    is_seen_leaving: bool = False


@dataclass(frozen=True)
class Report:
    """The answer to a Query of *asker*.

    *trouble*: why the sender cannot tell.  *last*: node that had the guest active last, as the sender knows.
    *clock_s* is the sender's monotonic clock.
    """

    asker: int
    seqno: int
    guests: tuple[Entry, ...]
    clock_s: float
    trouble: str = ""
    away: tuple[Away, ...] = ()
    last: int | None = None


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
    """How an Order of *asker* ended: a code of the wire, and why."""

    asker: int
    seqno: int
    code: int
    detail: str = ""


Own = Union[Hello, Listing, Query, Report, Order, Result]
Message = Union[Own, cpg.Request, cpg.Reply, cpg.Store]

_KINDS: dict[str, type] = {kind.__name__.lower(): kind for kind in (Hello, Listing, Query, Report, Order, Result)}
_NUMBERS = ("state", "version", "seqno", "node", "asker", "action", "code", "number")
_TIMES = ("left_at", "clock_s", "until_s")


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
        if isinstance(value, (Entry, Away)):
            value = _plain(value)
        elif isinstance(value, tuple):
            value = [_plain(item) if isinstance(item, (Entry, Away)) else item for item in value]
        found[each.name] = value
    return found


def _build(kind: type, found: Any) -> Any:
    """Return a message of *kind* with each field of its type.  Raises TypeError, ValueError."""
    known = {each.name for each in fields(kind)}
    # What a newer version adds is passed over, as its sender must expect.
    return kind(**{name: _value(kind, name, value) for name, value in found.items() if name in known})


def _value(kind: type, name: str, value: Any) -> Any:
    if name in _NUMBERS or (name == "last" and value is not None):
        _demand(type(value) is int)
    elif name in _TIMES:
        _demand(type(value) in (int, float))
    elif name == "guests":
        _demand(isinstance(value, list))
        return tuple(_build(Entry, each) for each in value)
    elif name == "away":
        _demand(isinstance(value, list))
        return tuple(_build(Away, each) for each in value)
    elif name == "entry":
        return None if value is None else _build(Entry, value)
    elif name == "gone":
        _demand(isinstance(value, list) and all(isinstance(each, str) for each in value))
        return tuple(value)
    elif name.startswith("is_") or name == "moved":
        _demand(isinstance(value, bool))
    elif name != "last":
        _demand(isinstance(value, str))
    return value


def _demand(is_so: bool) -> None:
    if not is_so:
        raise ValueError("a field of another type")
