"""``make bench``: what we cost beside fence_virtd and beside libvirt alone, measured in turn in one run.

Exits 0 whether targets are met or missed, 1 when a measurement could not be made, 2 for wrong usage.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import libvirt

from . import world as laboratory  # first: it makes the tests' laboratory importable

from . import agent_start, channels, machine, memory, power, status  # isort: skip
from .samples import Group
from .table import render

MEASUREMENTS: dict[str, Callable[[laboratory.World, bool], list[Group]]] = {
    "agent": agent_start.measure,
    "status": status.measure,
    "power": power.measure_one,
    "many": power.measure_many,
    "channels": channels.measure,
    "memory": memory.measure,  # last: after the load
}


def main() -> int:
    """Measure, print, return the exit code."""
    options = _options()
    facts = machine.facts()
    print("\n".join(f"{name:>10}: {value}" for name, value in facts.items()), flush=True)
    try:
        with laboratory.world() as world:
            groups = _measure(world, options.only or list(MEASUREMENTS), options.quick)
    except (laboratory.BenchError, AssertionError, OSError, libvirt.libvirtError) as error:  # LabError: an assertion
        print(f"error: cannot measure: {error}", file=sys.stderr)
        return 1
    facts["load after"] = machine.load()
    print(f"{'load after':>10}: {facts['load after']}\n\n{render(groups)}")
    if options.json:
        options.json.write_text(json.dumps({"machine": facts, "groups": [g.as_json() for g in groups]}, indent=1))
    return int(any(not line.samples.values for group in groups for line in group.lines))


def _measure(world: laboratory.World, names: list[str], quick: bool) -> list[Group]:
    groups = []
    for name, measure in MEASUREMENTS.items():
        if name in names:
            print(f"measuring: {name}", file=sys.stderr, flush=True)
            groups += measure(world, quick)
    return groups


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m contrib.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--only", action="append", choices=list(MEASUREMENTS), help="one measurement; may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all values to FILE")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
