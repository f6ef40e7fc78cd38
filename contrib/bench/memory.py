"""Memory of the daemons after the load of the other measurements."""

from __future__ import annotations

import re
from pathlib import Path

from .samples import OURS, REFERENCE, Group, Line, Samples
from .world import World

TARGET_MIB = 64.0
FIELDS = (("VmRSS", "resident"), ("VmHWM", "resident at its highest"))


def measure(world: World, quick: bool) -> list[Group]:
    """Read the memory of both daemons.  *quick* changes nothing."""
    return [_measure(world, field, label) for field, label in FIELDS]


def _measure(world: World, field: str, label: str) -> Group:
    ours = Line("our daemon", OURS, Samples([_mib(world.our_daemon.pid, field)]))
    theirs = Line("fence_virtd", REFERENCE, Samples([_mib(world.fence_virtd.pid, field)]))
    group = Group(f"memory of the daemon, {label}", "MiB", [ours, theirs])
    group.demand(ours, f"below {TARGET_MIB:.0f} MiB", lambda line: line.samples.median < TARGET_MIB)
    return group


def _mib(pid: int, field: str) -> float:
    """Return a field of proc(5) status, which is in KiB."""
    match = re.search(rf"^{field}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1]) / 1024
