"""What 200 guests with channels cost a daemon to which nobody says anything: processor time, and turns of its loop."""

from __future__ import annotations

import os
import re
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from lab.channels import ChannelRig
from lab.ours import CommandLine

from .samples import DIRECT, OURS, Group, Line, Samples
from .world import World

GUESTS = 200
TARGET_MS = 2.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def measure(world: World, quick: bool) -> list[Group]:
    """Let a daemon with one guest and one with 200 idle for a while; *world* is not used."""
    seconds = 10 if quick else 60
    one, many = Line("one guest", DIRECT), Line(f"{GUESTS} guests", OURS)
    cpu = Group("daemon with channels, idle, processor time each second", "ms", [one, many])
    turns_one, turns_many = Line("one guest", DIRECT), Line(f"{GUESTS} guests", OURS)
    turns = Group("daemon with channels, idle, wake-ups each second", "1/s", [turns_one, turns_many])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for count, line, turn in ((1, one, turns_one), (GUESTS, many, turns_many)):
        spent, woken = _idle([f"guest-{number:03}" for number in range(1, count + 1)], seconds)
        line.samples, turn.samples = Samples([spent * 1000 / seconds]), Samples([woken / seconds])
    cpu.demand(many, f"below {TARGET_MS:g} ms", lambda line: line.samples.median < TARGET_MS)
    return [cpu, turns]


def _idle(names: Sequence[str], seconds: int) -> tuple[float, int]:
    """Return processor seconds and wake-ups of a daemon that is connected to all and asked nothing."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vmfence-bench-")))
        rig = stack.enter_context(ChannelRig(CommandLine(Path(sys.executable).parent), folder / "rig", names))
        for name in names:
            rig.connected(name)
        before = _spent(rig.daemon.pid)
        time.sleep(seconds)
        after = _spent(rig.daemon.pid)
    return after[0] - before[0], after[1] - before[1]


def _spent(pid: int) -> tuple[float, int]:
    """Return the processor seconds of a process so far, and how often its main thread has waited (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    status = Path(f"/proc/{pid}/task/{pid}/status").read_text()
    waited = re.search(r"^voluntary_ctxt_switches:\s+(\d+)$", status, re.MULTILINE)
    assert waited is not None
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S, int(waited[1])
