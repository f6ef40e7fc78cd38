"""Corosync's votes, whether those that are left would be enough without a node, and how often a node has joined.

Source: the text of ``corosync-quorumtool -s`` (2.x and 3.x have no other form with the votes of each node), and the
keys of corosync-cmapctl, which 3.x has renamed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Callable

from vmfence import proc
from vmfence.errors import ClusterUnreachable, CommandError, VmfenceError

DEADLINE_S = 10.0
_ARGV = ["corosync-quorumtool", "-s", "-i"]  # -i: addresses, so that no name service is asked
_JOINS = re.compile(
    r"^runtime\.(?:totem\.pg\.mrp\.srp\.)?members\.(\d{1,10})\.join_count \(u32\) = (\d{1,10})", re.MULTILINE
)


@dataclass(frozen=True)
class Votes:
    """*needed* of the *total* votes present are enough to go on; *by_node*: by the node's id, 0 for a quorum device."""

    needed: int
    total: int
    by_node: Mapping[int, int]
    is_quorate: bool

    def without(self, node_id: int) -> int:
        """Return the votes that are left when that node is gone."""
        return self.total - self.by_node.get(node_id, 0)


def parse(text: str) -> Votes:
    """Return what *text* of corosync-quorumtool tells.  Raises VmfenceError for anything else."""
    needed = re.search(r"^Quorum:\s+(\d{1,9})\b", text, re.MULTILINE)
    total = re.search(r"^Total votes:\s+(\d{1,9})\b", text, re.MULTILINE)
    quorate = re.search(r"^Quorate:\s+(Yes|No)\b", text, re.MULTILINE)
    members = text.partition("Membership information")[2]
    rows = re.findall(r"^\s*(0x[0-9a-fA-F]{1,8}|\d{1,10})\s+(\d{1,9})\b", members, re.MULTILINE)
    if needed is None or total is None or quorate is None or not rows:
        raise VmfenceError("cannot tell the votes of the cluster", f"corosync-quorumtool says {text[:200]!r}")
    by_node = {int(node, 0): int(count) for node, count in rows}
    return Votes(int(needed[1]), int(total[1]), by_node, quorate[1] == "Yes")


def load(run: Callable[..., proc.Result] = proc.run) -> Votes:
    """Ask corosync on this node.  Raises ToolMissing, ClusterUnreachable, DeadlineExceeded, VmfenceError.

    Its exit code tells nothing that holds in all versions (1 when quorate in some), its text does.
    """
    result = run(_ARGV, DEADLINE_S, {"PATH": proc.system_path()})
    if not result.stdout.strip():
        why = result.stderr.strip().splitlines()[-1:] or [f"corosync-quorumtool ended with exit code {result.status}"]
        raise ClusterUnreachable("corosync does not answer on this node", why[0], "start it with: pcs cluster start")
    return parse(result.stdout)


def parse_joins(text: str) -> dict[int, int]:
    """Return how often each node has joined, by its id, from the output of ``corosync-cmapctl runtime.``."""
    return {int(node): int(count) for node, count in _JOINS.findall(text)}


def load_joins(run: Callable[..., proc.Result] = proc.run) -> dict[int, int]:
    """Ask corosync on this node how often each node has joined since it runs.  Raises VmfenceError."""
    argv = ["corosync-cmapctl", "runtime."]
    result = run(argv, DEADLINE_S, {"PATH": proc.system_path()})
    if result.status != 0:
        raise CommandError(tuple(argv), result.status, result.stderr)
    return parse_joins(result.stdout)
