"""What a member of a pool wants done: messages, looks at libvirt, actions, and the ends of procedures.  Values only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Union

from vmfence.errors import VmfenceError
from vmfence.host.pool.messages import Message
from vmfence.protocol.request import Action

# Names a procedure; of anything hashable.
Token = tuple[Any, ...]


@dataclass(frozen=True)
class Send:
    """Multicast this to the group, not later than *until_s*: nobody waits for it any more then."""

    message: Message
    until_s: float = math.inf


@dataclass(frozen=True)
class ReadGuests:
    """Read the guests of this host anew and give them to guests_read()."""


@dataclass(frozen=True)
class LookHere:
    """Look one guest up in libvirt and give it to looked()."""

    asker: int
    seqno: int
    target: str
    is_for_start: bool


@dataclass(frozen=True)
class Act:
    """Carry out an action here, beginning before *until_s* while *asker* is in the group; tell acted().

    The outcome tells in which state the guest was directly before it was ended, if it was.
    """

    asker: int
    seqno: int
    action: Action
    uuid: str
    until_s: float


class Departed(NamedTuple):
    """A host that is away.

    It counts as fenced by a success that ended at *left_at* (wall clock) or later and is newer, by the fencer's own
    clock, than *fence_before*: the newest one that was known while the host was here, 0.0 for none, None if not known.
    """

    node: int
    left_at: float
    fence_before: float | None = None


class Standing(NamedTuple):
    """What the members had told of the guest called *target*: who has it active, who had it and saw it leave.

    *members* are those in the group, each with when it joined.
    """

    target: str
    members: frozenset[tuple[int, float]]
    active: frozenset[int]
    moved: frozenset[int]


@dataclass(frozen=True)
class FindFenced:
    """Find out which hosts were fenced since they left, and tell fenced_found()."""

    token: Token
    hosts: tuple[Departed, ...]


@dataclass(frozen=True)
class NoteFences:
    """Find out when these hosts were fenced last, and tell fences_noted(); where that cannot be told, tell nothing."""

    nodes: tuple[int, ...]


@dataclass(frozen=True)
class Done:
    """The procedure begun as *token* has ended with *result*, or *error*."""

    token: Token
    result: Any = None
    error: VmfenceError | None = None


Effect = Union[Send, ReadGuests, LookHere, Act, FindFenced, NoteFences, Done]
