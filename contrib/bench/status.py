"""How long a status takes, alone and among many.

The client is the laboratory's raw peer: it shares no code with either daemon, and its share is the same for both.
It runs in threads of this process, so with many of them its own work counts too, for all contenders alike.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

from lab import wire

from .samples import DIRECT, OURS, REFERENCE, Group, Line, in_turn
from .world import ADDRESS, OUR_PORT, REFERENCE_PORT, World

CONCURRENCIES = (1, 16)
SWITCH_S = 0.0005  # the interpreter's 5 ms would be measured instead
ANSWER_S = 15.0
# Both daemons take a number that they saw seconds ago for a repeat; clients that draw a million at random do collide.
_numbers = itertools.count(int.from_bytes(os.urandom(3), "little"))


def measure(world: World, quick: bool) -> list[Group]:
    """Measure at each concurrency.  Every batch is as many requests for all contenders."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        return [group for clients in CONCURRENCIES for group in _measure(world, clients, quick)]
    finally:
        sys.setswitchinterval(before)


def _measure(world: World, clients: int, quick: bool) -> list[Group]:
    """Return the latencies at one concurrency and, of several clients, how fast all were served."""
    rounds, size = (4, 64) if quick else (12, 160)
    title = f"status, {clients} client{'s' * (clients > 1)} at once"
    latency, pace = Group(title, "ms", _lines()), Group(f"{title}: batch time per request", "ms", _lines())
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(clients))
        connections = [world.connect() for _ in range(clients)]
        for connection in connections:
            stack.callback(connection.close)
        ways: list[Callable[[int], float | None]] = [
            partial(_ask, world, OUR_PORT),
            partial(_ask, world, REFERENCE_PORT),
            lambda client: _look(connections[client], world.guests[0]),
        ]
        batches = [partial(_batch, pool, clients, size, way, line) for way, line in zip(ways, pace.lines)]
        in_turn(rounds, list(zip(latency.lines, batches)))
    if clients == 1:
        return [latency]
    latency.demand(latency.lines[0], "no failure", lambda line: not line.samples.failures)
    return [latency, pace]


def _lines() -> list[Line]:
    return [Line("our daemon", OURS), Line("fence_virtd", REFERENCE), Line("libvirt itself", DIRECT)]


def _batch(
    pool: ThreadPoolExecutor, clients: int, size: int, once: Callable[[int], float | None], pace: Line
) -> list[float | None]:
    """Make *size* requests, *clients* of them at any time, each client its own share; note their pace in *pace*."""

    def share(client: int) -> list[float | None]:
        return [once(client) for _ in range(size // clients)]

    begin = time.perf_counter()
    taken = list(itertools.chain.from_iterable(pool.map(share, range(clients))))
    pace.samples.add((time.perf_counter() - begin) * 1000 / len(taken))
    return taken


def _ask(world: World, port: int, client: int) -> float | None:
    """Ask for the status of a guest that is on; return the milliseconds, None for any other answer."""
    guest = world.guests[client % len(world.guests)]
    packet = wire.sign(wire.packet(wire.STATUS, guest, seqno=next(_numbers)), world.key)
    begin = time.perf_counter()
    try:
        with wire.connect(ADDRESS, port, ANSWER_S) as peer:
            peer.send(packet)
            code = peer.converse(world.key)
    except OSError:
        return None
    return (time.perf_counter() - begin) * 1000 if code == wire.DONE else None


def _look(connection: Any, guest: str) -> float:
    begin = time.perf_counter()
    connection.lookupByName(guest).state()
    return (time.perf_counter() - begin) * 1000
