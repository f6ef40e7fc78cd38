"""What guests with channels cost a daemon: 200 that say nothing, and one that says more than anybody can want."""

from __future__ import annotations

import os
import re
import resource
import select
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import NamedTuple

from lab import wire
from lab.channels import ChannelRig, ask
from lab.ours import CommandLine
from lab.pipe import PATIENT, FarEnd, request

from .samples import DIRECT, OURS, Group, Line, Samples
from .world import World

GUESTS = 200
IDLE_MS, FLOODED_MS = 2.0, 100.0
_WINDOW_S = 5.0
_SETTLE_S = 3.0


class Cost(NamedTuple):
    """What a process has spent: seconds of processor time, and how often its main thread has waited."""

    cpu_s: float
    waits: int


def measure(world: World, quick: bool) -> list[Group]:
    """Watch daemons for some windows of time each; *world* is not used."""
    windows = 2 if quick else 6
    one, many, flooded = Line("one guest", DIRECT), Line(f"{GUESTS} guests", OURS), Line("one of two floods", OURS)
    turns_one, turns_many = Line("one guest", DIRECT), Line(f"{GUESTS} guests", OURS)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for count, line, turn in ((1, one, turns_one), (GUESTS, many, turns_many)):
        with _rig([f"guest-{number:03}" for number in range(1, count + 1)]) as rig:
            for name in rig.uuids:
                rig.connected(name)
            spent = _watch(rig, line.label, windows)
        line.samples = Samples([cost.cpu_s * 1000 / _WINDOW_S for cost in spent])
        turn.samples = Samples([cost.waits / _WINDOW_S for cost in spent])
    with _rig(("loud", "quiet")) as rig, _flood(rig.connected("loud")):
        quiet = rig.connected("quiet")
        spent = _watch(rig, flooded.label, windows)
        assert ask(quiet, wire.STATUS, "loud") == wire.DONE, "the other guest was not served"
    flooded.samples = Samples([cost.cpu_s * 1000 / _WINDOW_S for cost in spent])
    cpu = Group("daemon with channels, processor time each second", "ms", [one, many, flooded])
    cpu.demand(many, f"below {IDLE_MS:g} ms", lambda line: line.samples.median < IDLE_MS)
    cpu.demand(flooded, f"below {FLOODED_MS:g} ms", lambda line: line.samples.median < FLOODED_MS)
    return [cpu, Group("daemon with channels, idle, wake-ups each second", "1/s", [turns_one, turns_many])]


@contextmanager
def _rig(names: Sequence[str]) -> Iterator[ChannelRig]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vmfence-bench-")))
        yield stack.enter_context(ChannelRig(CommandLine(Path(sys.executable).parent), folder / "rig", names))


def _watch(rig: ChannelRig, what: str, windows: int) -> list[Cost]:
    """Return what the daemon spends in each of some windows, when what its start left to do is done."""
    time.sleep(_SETTLE_S)
    found = []
    for number in range(1, windows + 1):
        print(f"  {what}: {number} of {windows}, {_WINDOW_S:g} s each", file=sys.stderr, flush=True)
        before = _spent(rig.daemon.pid)
        time.sleep(_WINDOW_S)
        after = _spent(rig.daemon.pid)
        found.append(Cost(after.cpu_s - before.cpu_s, after.waits - before.waits))
    return found


@contextmanager
def _flood(end: FarEnd) -> Iterator[None]:
    """Ask without end, and read the answers."""
    is_over = Event()
    block = b"".join(request(wire.NULL, "quiet", number) for number in range(50))

    def write() -> None:
        while not is_over.is_set():
            end.send(block)

    def read() -> None:
        while not is_over.is_set():
            if select.select([end.descriptor], [], [], 0.1)[0]:
                os.read(end.descriptor, 65536)

    threads = [Thread(target=work, daemon=True) for work in (write, read)]
    for thread in threads:
        thread.start()
    try:
        yield
        assert all(thread.is_alive() for thread in threads), "the flood has ended early"
    finally:
        is_over.set()
        for thread in threads:
            thread.join(PATIENT)


def _spent(pid: int) -> Cost:
    """Return what a process has spent so far (proc(5); schedstat: nanoseconds, of each thread)."""
    spent_ns = sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))
    status = Path(f"/proc/{pid}/task/{pid}/status").read_text()
    waited = re.search(r"^voluntary_ctxt_switches:\s+(\d+)$", status, re.MULTILINE)
    assert waited is not None
    return Cost(spent_ns / 1e9, int(waited[1]))
