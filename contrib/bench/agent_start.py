"""What one run of the fence agent costs: Pacemaker starts it for every monitor and every action."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .samples import OURS, REFERENCE, Group, Line, Once, in_turn
from .world import OUR_PORT, World, run

CPU_TARGET_MS = 60.0


def measure(world: World, quick: bool) -> list[Group]:
    """Measure ``-o monitor`` of our agent and of fence_virt against the same daemon, ours, and Python alone."""
    contenders = [
        ("our agent", OURS, world.agent(OUR_PORT, "-o", "monitor")),
        ("fence_virt", REFERENCE, world.fence_virt(OUR_PORT, "-o", "monitor")),
        ("python -c pass", "", [sys.executable, "-c", "pass"]),
        ("python -I -S -c pass", "", [sys.executable, "-I", "-S", "-c", "pass"]),
    ]
    cpu = Group("agent start: CPU of the process", "ms", [Line(label, role) for label, role, _ in contenders])
    wall = Group("agent start: wall", "ms", [Line(label, role) for label, role, _ in contenders])
    for _, _, argv in contenders:
        run(argv)  # byte code is compiled as an installation does it, files are in the cache
    in_turn(10 if quick else 40, [
        (cpu_line, _both(argv, wall_line))
        for (_, _, argv), cpu_line, wall_line in zip(contenders, cpu.lines, wall.lines)
    ])  # fmt: skip
    target = f"at most {CPU_TARGET_MS:.0f} ms"
    cpu.demand(cpu.lines[0], target, lambda line: line.samples.median <= CPU_TARGET_MS and not line.samples.failures)
    return [cpu, wall]


def _both(argv: Sequence[str], wall: Line) -> Once:
    """Return what runs *argv* once, notes the wall time in *wall*, and returns the processor time."""

    def once() -> list[float | None]:
        done = run(argv)
        wall.samples.add(done.wall_ms if done.exit == 0 else None)
        return [done.cpu_ms if done.exit == 0 else None]

    return once
