"""Count the hosts that answer one multicast question, each proven by the key: there must be one, or all must agree.

The first answer alone, which a fence takes, does not tell that a second host would have answered something else
(spec faults 8).
"""

from __future__ import annotations

import os
import time

from vmfence.client import multicast
from vmfence.client.stream import Answer, Waiting
from vmfence.protocol.auth import Hash, Key
from vmfence.protocol.request import Action, Request

# The call-back port is held that long after the first answer.  fence_xvm, which knows no other port, tries again for
# as long as its timeout, so it outlives this.
SETTLE_S = 0.7
_RETRANS_S = 1.0


def count(
    action: Action,
    target: str,
    *,
    address: str = "",
    family: str = "auto",
    port: int,
    key: Key | None,
    hash_type: Hash,
    auth: Hash,
    timeout_s: float,
    settle_s: float = SETTLE_S,
) -> list[Answer]:
    """Return one answer for each host, in order of arrival: those within *settle_s* seconds after the first.

    *action* must be one that changes nothing.  Hosts are told apart by their address.  Raises what ask() raises when
    none answers within *timeout_s*.
    """
    assert action in (Action.LIST, Action.STATUS, Action.MONITOR), "a census never acts"
    number, group = multicast.family_of(family, address)
    request = Request(action, target.encode("utf-8", "surrogateescape"), seqno=int.from_bytes(os.urandom(4), "little"))
    waiting = Waiting(key, auth, time.monotonic() + timeout_s, lambda _: None, is_census=True)
    try:
        first = multicast.ask(request, group, number, port, key, hash_type, _RETRANS_S, waiting)
        return _others(first, waiting, settle_s)
    finally:
        waiting.close()


def _others(first: Answer, waiting: Waiting, settle_s: float) -> list[Answer]:
    """Return *first* and what further hosts answer until *settle_s* seconds are over."""
    found = {first.peer: first}
    end = min(time.monotonic() + settle_s, waiting.deadline)
    while time.monotonic() < end:
        # A host that has answered is heard again when it closes: its answer is the one we have.
        answer = waiting.run_until(end)
        if answer is not None:
            found.setdefault(answer.peer, answer)
    return list(found.values())
