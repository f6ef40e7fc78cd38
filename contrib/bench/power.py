"""Off and reboot of real guests, one and many: real clients against both daemons, and libvirt's calls alone.

A client's time counts from its start to its end.  A run counts only if libvirt, asked afterwards, agrees.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

from .samples import DIRECT, OURS, REFERENCE, Group, Line, Once, in_turn
from .world import OUR_PORT, REFERENCE_PORT, World, run, start, wait

OFF_ABOVE_DIRECT_MS = 80.0
REBOOT_TO_DIRECT = 1.15
ALL_TO_REFERENCE = 0.10
LABELS = (
    ("our agent, our daemon", OURS),
    ("fence_virt, our daemon", OURS),
    ("fence_virt, fence_virtd", REFERENCE),
    ("libvirt itself", DIRECT),
)


def measure_one(world: World, quick: bool) -> list[Group]:
    """Measure off and reboot of one guest."""
    rounds = 4 if quick else 12
    off, reboot = (Group(f"{action} of one guest", "ms", _lines()) for action in ("off", "reboot"))
    guest = world.guests[0]
    with ExitStack() as stack:
        connection = world.connect()
        stack.callback(connection.close)
        for group, action in ((off, "off"), (reboot, "reboot")):
            in_turn(rounds, list(zip(group.lines, _contenders(world, action, guest, connection))))
    for line in off.lines[:2]:
        limit = f"direct + {OFF_ABOVE_DIRECT_MS:.0f} ms"
        off.demand(line, limit, lambda line: line.samples.median <= _direct(off) + OFF_ABOVE_DIRECT_MS)
    for line in reboot.lines[:2]:
        limit = f"{REBOOT_TO_DIRECT:.2f} x direct"
        reboot.demand(line, limit, lambda line: line.samples.median <= REBOOT_TO_DIRECT * _direct(reboot))
    return [off, reboot]


def measure_many(world: World, quick: bool) -> list[Group]:
    """Measure off, and reboot, of all guests at once: until the last client ends."""
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(len(world.guests)))
        connections = [world.connect() for _ in world.guests]
        for connection in connections:
            stack.callback(connection.close)
        rounds = {"off": 3, "reboot": 1} if quick else {"off": 8, "reboot": 4}
        off, reboot = (_measure_many(world, action, rounds[action], pool, connections) for action in rounds)
    _demand_many(off)
    return [off, reboot]


def _measure_many(
    world: World, action: str, rounds: int, pool: ThreadPoolExecutor, connections: Sequence[Any]
) -> Group:
    group = Group(f"{action} of {len(world.guests)} guests at once, until the last client ends", "ms", _lines())

    def directly() -> bool:
        list(pool.map(_directly, connections, world.guests, [action] * len(world.guests)))
        return True

    by_clients = zip(*(_commands(world, action, guest) for guest in world.guests))
    ways: list[Callable[[], bool]] = [*(partial(_all_succeed, argvs) for argvs in by_clients), directly]
    in_turn(rounds, list(zip(group.lines, [partial(_all_checked, world, action, way) for way in ways])))
    return group


def _demand_many(group: Group) -> None:
    """Judge against the reference, and say so where libvirt's own calls could not meet the target either."""
    for line in group.lines[:2]:
        limit = f"{ALL_TO_REFERENCE:.2f} x reference"
        group.demand(line, limit, lambda line: group.ratio(line, REFERENCE) <= ALL_TO_REFERENCE)
    floor = group.ratio(group.lines[3], REFERENCE)
    if floor > ALL_TO_REFERENCE:
        group.note = f"libvirt's own calls take {floor:.2f} x the reference: no daemon can meet that target here"


def _lines() -> list[Line]:
    return [Line(label, role) for label, role in LABELS]


def _direct(group: Group) -> float:
    line = group.line(DIRECT)
    assert line is not None
    return line.samples.median


def _commands(world: World, action: str, guest: str) -> list[list[str]]:
    options = ("-o", action, "-n", guest)
    return [
        world.agent(OUR_PORT, *options),
        world.fence_virt(OUR_PORT, *options),
        world.fence_virt(REFERENCE_PORT, *options),
    ]


def _contenders(world: World, action: str, guest: str, connection: Any) -> list[Once]:
    """Return what fences *guest* once in each of the ways of LABELS."""
    by_clients = [partial(_by_client, argv) for argv in _commands(world, action, guest)]
    ways: list[Callable[[], float | None]] = [*by_clients, partial(_directly, connection, guest, action)]
    return [partial(_checked, world, action, guest, way) for way in ways]


def _checked(world: World, action: str, guest: str, way: Callable[[], float | None]) -> list[float | None]:
    """Return what *way* took, or None when libvirt does not agree that it was done; the guest is on afterwards."""
    before = world.hypervisor.domain_id(guest)
    taken = way()
    return [taken if _was_done(world, action, guest, before) else None]


def _all_checked(world: World, action: str, way: Callable[[], bool]) -> list[float | None]:
    """Return the milliseconds of *way*, or None unless it and libvirt say that all guests were fenced."""
    before = [world.hypervisor.domain_id(guest) for guest in world.guests]
    begin = time.perf_counter()
    is_claimed = way()
    taken = (time.perf_counter() - begin) * 1000
    were_done = [_was_done(world, action, guest, number) for guest, number in zip(world.guests, before)]
    return [taken if is_claimed and all(were_done) else None]


def _was_done(world: World, action: str, guest: str, domain_id: int) -> bool:
    """Tell whether *guest*, which had *domain_id* before, was fenced; start it if it is off."""
    is_on = world.hypervisor.is_on(guest)
    if not is_on:
        world.hypervisor.power_on(guest)
    return not is_on if action == "off" else is_on and world.hypervisor.domain_id(guest) != domain_id


def _by_client(argv: Sequence[str]) -> float | None:
    done = run(argv)
    return done.wall_ms if done.exit == 0 else None


def _directly(connection: Any, guest: str, action: str) -> float:
    begin = time.perf_counter()
    domain = connection.lookupByName(guest)
    domain.destroy()
    if action == "reboot":
        domain.create()
    return (time.perf_counter() - begin) * 1000


def _all_succeed(argvs: Iterable[Sequence[str]]) -> bool:
    """Run all programs at once, to their ends; tell whether none failed."""
    exits = [wait(*started).exit for started in [start(argv) for argv in argvs]]
    return not any(exits)
