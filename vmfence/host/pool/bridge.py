"""Requests of hosts with fence_virtd: which one of ours answers them, and how the answer goes back.

Pure.  fence_virtd waits without limit: exactly one of ours has to answer, and in a moment of doubt two rather than
none.  So each decides by what all were told, in the same order, and by nothing that it knows alone; and each keeps a
request until somebody has answered it, as who is to do that may leave before.
"""

from __future__ import annotations

from dataclasses import dataclass

from vmfence.host.pool.directory import Directory
from vmfence.protocol.cpg import Request

# A request of fence_virtd's has no deadline; its client has long given up then.
REFERENCE_S = 28.0
# What nobody has answered after so long is kept no longer, nor what came before so many others.
_KEPT_S, _KEPT_MAX = 2 * REFERENCE_S, 256


@dataclass
class Unanswered:
    """A request of the host *asker*, received at *at*; *heard* are those here that got it, *answerer* one of them.

    *answerer* None: fence_virtd itself answers.
    """

    asker: int
    request: Request
    at: float
    heard: frozenset[int]
    answerer: int | None

    @property
    def deadline(self) -> float:
        """Until when the answer is wanted; after that it can only be that it failed."""
        return self.at + REFERENCE_S


class Requests:
    """The requests of fence_virtd's that are not answered yet, as all of ours keep them."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._kept: dict[tuple[int, int], Unanswered] = {}

    def take(self, asker: int, request: Request, now: float) -> Unanswered | None:
        """Keep *request* of the host *asker*; return it if this host is the one of ours that answers."""
        directory = self._directory
        if directory.hosts[asker].is_ours:
            return None  # it asks so only because it means fence_virtd
        for key in [key for key, each in self._kept.items() if now >= each.at + _KEPT_S]:
            del self._kept[key]
        if len(self._kept) >= _KEPT_MAX:
            del self._kept[next(iter(self._kept))]
        found = Unanswered(asker, request, now, directory.members, _answerer(directory, request.target))
        self._kept[asker, request.seqno] = found
        return found if found.answerer == directory.me else None

    def answered(self, asker: int, seqno: int) -> None:
        """Note that somebody has answered."""
        self._kept.pop((asker, seqno), None)

    def left(self, left: frozenset[int]) -> list[Unanswered]:
        """Return what this host is to answer from now on, as those who *left* do not."""
        directory, found = self._directory, []
        self._kept = {key: each for key, each in self._kept.items() if each.asker not in left}
        for each in self._kept.values():
            each.heard -= left
            if each.answerer is None or each.answerer in left:
                each.answerer = self._next_answerer(each)
                if each.answerer == directory.me:
                    found.append(each)
        return found

    def orphans(self) -> list[Unanswered]:
        """Return what nobody answers when this host leaves."""
        me, hosts = self._directory.me, self._directory.hosts
        return [
            each
            for each in self._kept.values()
            if each.answerer == me and not any(hosts[node].is_ours for node in each.heard - {me})
        ]

    def clear(self) -> None:
        """Forget them: this host is not in the group any more."""
        self._kept.clear()

    def _next_answerer(self, kept: Unanswered) -> int | None:
        """Return who answers now: one that has heard the request, which a newcomer has not."""
        directory = self._directory
        found = _answerer(directory, kept.request.target)
        ours = [node for node in kept.heard if directory.hosts[node].is_ours]
        return found if found is None or found in kept.heard else min(ours, default=None)


def _answerer(directory: Directory, target: str) -> int | None:
    """Return the host that executes the guest, else the lowest that has it; None: fence_virtd itself answers."""
    hosts = directory.hosts
    # What a host had in an earlier stay in the group, those do not know who joined since.
    holders = [node for node in directory.holders(target) if not hosts[node].is_of_before]
    ours = [node for node in holders if hosts[node].is_ours]
    executing = [node for node in ours if (found := hosts[node].find(target)) is not None and found.is_executing]
    if ours:
        return min(executing or ours)
    owner = directory.owner_told(target)
    if owner is not None:
        return owner
    # Where nobody knows it, fence_virtd leaves the answer to the highest.
    return None if holders else max(directory.members)
