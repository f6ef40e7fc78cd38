"""The connection to Corosync inside the event loop: made in a thread, heard by its descriptors, made again when lost.

What the group tells goes to a listener; what is to be sent waits here while Corosync takes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from typing import Protocol

from vmfence.errors import Unreachable, VmfenceError
from vmfence.host.pool.corosync import Corosync, Event
from vmfence.host.pool.tasks import Tasks
from vmfence.host.pool.workers import Workers
from vmfence.protocol import cpg

log = logging.getLogger(__name__)

CONNECT_S = 5.0
_PAUSE_S, _PAUSE_LONGEST_S = 0.5, 8.0
_BACKLOG_S = 0.02
# More than a large pool tells of all its guests at once: Corosync takes nothing then.  All is told anew after that.
BACKLOG_MAX = 20_000
# One that hangs in joining, one in reading the list of nodes.
_CALLS_MAX = 2


class Listener(Protocol):
    """Who is told what the group does; called in the event loop."""

    def connected(self, me: int, nodes: dict[int, str] | None) -> None:
        """The group was joined by this node, one of *nodes*."""

    def lost(self, why: str) -> None:
        """Corosync is gone."""

    def happened(self, events: list[Event], is_quorate: bool) -> None:
        """These things happened in the group, in this order."""


class Link:
    """One membership in the group of hosts, kept up until close()."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._corosync: Corosync | None = None
        self._descriptors: tuple[int, int] = (-1, -1)
        self._backlog: deque[tuple[bytes, float]] = deque()
        self._retry: asyncio.TimerHandle | None = None
        self._workers = Workers("Corosync", _CALLS_MAX)
        self._tasks = Tasks()
        self._is_lost = asyncio.Event()
        self.trouble = "not connected yet"

    async def open(self) -> None:
        """Join the group, and stay in it.  Raises Unreachable, ToolMissing."""
        if self._tasks.is_keeping():
            if self._corosync is None:
                raise Unreachable("Corosync is gone", self.trouble)
            return
        await self._connect()
        self._tasks.keep(self._keep_connected)

    def send(self, data: bytes, until_s: float = math.inf) -> None:
        """Multicast *data*, after what still waits; it is dropped while Corosync is gone.

        Where Corosync takes nothing until *until_s* of the monotonic clock, it is never sent: who is told to act so
        late may do it when nobody wants it any more.
        """
        if self._corosync is None:
            return
        self._backlog.append((data, until_s))
        if len(self._backlog) > BACKLOG_MAX:
            error = Unreachable("Corosync does not take messages", f"{BACKLOG_MAX} wait to be sent")
            asyncio.get_running_loop().call_soon(self._lose, error)
        elif self._retry is None:
            self._flush()

    async def read_nodes(self) -> dict[int, str] | None:
        """Return the nodes of the cluster's configuration, None when they cannot be read."""
        corosync = self._corosync
        if corosync is None:
            return None
        try:
            return await self._workers.run(corosync.nodes, CONNECT_S)
        except VmfenceError as error:
            log.warning("the list of the cluster's nodes cannot be read: %s", error)
            return None

    def close(self) -> None:
        """Leave the group."""
        self._tasks.close()
        self._let_go("this daemon ends")

    async def _connect(self) -> None:
        corosync = Corosync(cpg.GROUP)

        def connect() -> tuple[tuple[int, int], dict[int, str] | None]:
            try:
                return corosync.connect(), corosync.nodes()
            except VmfenceError:
                corosync.close()
                raise

        try:
            self._descriptors, nodes = await self._workers.run(connect, CONNECT_S, corosync.close)
        except VmfenceError as error:
            self.trouble = str(error)
            raise
        self._corosync, self.trouble = corosync, ""
        self._listener.connected(corosync.me, nodes)
        for descriptor in self._descriptors:
            asyncio.get_running_loop().add_reader(descriptor, self._hear)
        self._hear()

    def _hear(self) -> None:
        if self._corosync is None:
            return
        try:
            events = self._corosync.dispatch()
        except Unreachable as error:
            self._lose(error)
            return
        self._listener.happened(events, self._corosync.is_quorate)

    def _flush(self) -> None:
        self._retry = None
        try:
            while self._corosync is not None and self._backlog:
                data, until_s = self._backlog[0]
                if time.monotonic() < until_s and not self._corosync.send(data):
                    now = time.monotonic()
                    self._backlog = deque(each for each in self._backlog if now < each[1])
                    self._retry = asyncio.get_running_loop().call_later(_BACKLOG_S, self._flush)
                    return
                self._backlog.popleft()
        except Unreachable as error:
            # Not here and now: who sends is in the midst of something.
            asyncio.get_running_loop().call_soon(self._lose, error)

    def _lose(self, error: Unreachable) -> None:
        if self._corosync is not None:
            log.error("%s", error)
            self._let_go(str(error))
            self._is_lost.set()

    def _let_go(self, why: str) -> None:
        corosync, self._corosync, self.trouble = self._corosync, None, why
        self._backlog.clear()
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if corosync is not None:
            for descriptor in self._descriptors:
                asyncio.get_running_loop().remove_reader(descriptor)
            threading.Thread(target=corosync.close, name="leave corosync", daemon=True).start()
            self._listener.lost(why)

    async def _keep_connected(self) -> None:
        """Connect again whenever Corosync was lost."""
        pause = _PAUSE_S
        while True:
            if self._corosync is not None:
                pause = _PAUSE_S
                self._is_lost.clear()
                await self._is_lost.wait()
            await asyncio.sleep(pause)
            pause = min(pause * 2, _PAUSE_LONGEST_S)
            try:
                await self._connect()
            except VmfenceError as error:
                log.debug("%s", error)
            else:
                log.info("Corosync is back")
