"""Requests of hosts with fence_virtd: which one of ours answers them, and how the answer goes back.

Pure.  fence_virtd waits without limit: exactly one of ours has to answer, and in a moment of doubt two rather than
none.  So each decides by what all were told, in the same order, and by nothing that it knows alone.
"""

from __future__ import annotations

from vmfence.host.pool.directory import Directory
from vmfence.protocol.cpg import Request

# A request of fence_virtd's has no deadline; its client has long given up then.
REFERENCE_S = 28.0


def is_mine_to_answer(directory: Directory, asker: int, request: Request) -> bool:
    """Whether this host is the one of ours that answers *request* of the host *asker*."""
    # One of ours asks so only because it means fence_virtd.
    return not directory.hosts[asker].is_ours and _answerer(directory, request.target) == directory.me


def _answerer(directory: Directory, target: str) -> int | None:
    """Return the host that executes the guest, else the lowest that has it; None: fence_virtd itself answers."""
    hosts = directory.hosts
    holders = directory.holders(target)
    # What a host had in an earlier stay in the group, those do not know who joined since.
    ours = [node for node in holders if hosts[node].is_ours and not hosts[node].is_of_before]
    executing = [node for node in ours if (found := hosts[node].find(target)) is not None and found.is_executing]
    if ours:
        return min(executing or ours)
    owner = directory.owner_told(target)
    if owner is not None:
        return owner
    # Where nobody knows it, fence_virtd leaves the answer to the highest.
    return max(directory.members) if not set(holders) - set(ours) else None
