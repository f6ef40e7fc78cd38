"""What a member of a pool wants done: messages, looks at libvirt, actions, and the ends of procedures.  Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Union

from vmfence.errors import VmfenceError
from vmfence.host.pool.messages import Message
from vmfence.protocol.request import Action

# Names a procedure; of anything hashable.
Token = tuple[Any, ...]


@dataclass(frozen=True)
class Send:
    """Multicast this to the group."""

    message: Message


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
    """Carry out an action here, beginning before *until_s* while *asker* is in the group; tell acted()."""

    asker: int
    seqno: int
    action: Action
    uuid: str
    until_s: float


@dataclass(frozen=True)
class FindFenced:
    """Find out which hosts (node, wall time of departure) were fenced since, and tell fenced_found()."""

    token: Token
    hosts: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Done:
    """The procedure begun as *token* has ended with *result*, or *error*."""

    token: Token
    result: Any = None
    error: VmfenceError | None = None


Effect = Union[Send, ReadGuests, LookHere, Act, FindFenced, Done]
