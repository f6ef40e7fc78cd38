"""A Corosync in memory, in the place of the connection that the link of a pool makes."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from typing import Callable

import pytest

from vmfence.errors import Unreachable, VmfenceError
from vmfence.host.pool import link
from vmfence.host.pool.corosync import Delivery, Event

WAIT_S = 10.0


class World:
    """All that Corosync does to connections.

    *refuses*: why it lets nobody join; *gate*: closed while it hangs; *echoes*: whether a member hears what it sends.
    """

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.refuses: VmfenceError | None = None
        self.nodes: dict[int, str] | None = {1: "h1", 2: "h2"}
        self.made: list[FakeCorosync] = []
        self.joined = 0
        self.echoes = False

    @property
    def last(self) -> FakeCorosync:
        return self.made[-1]


class FakeCorosync:
    """One connection.  *takes*: whether it takes messages now; *error*: that it is dead."""

    def __init__(self, world: World) -> None:
        self.world, self.me, self.is_quorate = world, 1, True
        self.events: list[Event] = []
        self.sent: list[bytes] = []
        self.takes = True
        self.error: Unreachable | None = None
        self.is_closed = threading.Event()
        self._pipes: list[int] = []
        world.made.append(self)

    def connect(self) -> tuple[int, int]:
        self.world.gate.wait(WAIT_S)
        if self.world.refuses:
            raise self.world.refuses
        self._pipes = [*os.pipe(), *os.pipe()]
        self.world.joined += 1
        return self._pipes[0], self._pipes[2]

    def nodes(self) -> dict[int, str] | None:
        self.world.gate.wait(WAIT_S)
        return self.world.nodes

    def happen(self, *events: Event) -> None:
        if not self.events:
            os.write(self._pipes[1], b"x")
        self.events += events

    def die(self) -> None:
        self.error = Unreachable("cannot hear Corosync", "the connection to Corosync is gone")
        os.write(self._pipes[3], b"x")

    def dispatch(self) -> list[Event]:
        if self.error:
            raise self.error
        events, self.events = self.events, []
        if events:
            os.read(self._pipes[0], 1)
        return events

    def send(self, data: bytes) -> bool:
        if self.error:
            raise self.error
        self.sent += [data] if self.takes else []
        if self.takes and self.world.echoes:
            self.happen(Delivery(self.me, data))
        return self.takes

    def close(self) -> None:
        if not self.is_closed.is_set():
            self.world.joined -= bool(self._pipes)
        self.is_closed.set()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World()
    monkeypatch.setattr(link, "Corosync", lambda group: FakeCorosync(made))
    monkeypatch.setattr(link, "_PAUSE_S", 0.001)
    monkeypatch.setattr(link, "_PAUSE_LONGEST_S", 0.001)
    yield made
    made.gate.set()


async def until(claim: Callable[[], object]) -> None:
    while not claim():
        await asyncio.sleep(0.001)
