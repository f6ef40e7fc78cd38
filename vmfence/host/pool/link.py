"""The connection to Corosync inside the event loop: made in a thread, heard by its descriptors, made again when lost.

What the group tells goes to a listener; what is to be sent waits here while Corosync takes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from concurrent.futures import Future
from typing import Callable, Protocol, TypeVar

from vmfence.errors import Unreachable, VmfenceError
from vmfence.host.pool.corosync import Corosync, Delivery, Members
from vmfence.protocol import cpg

log = logging.getLogger(__name__)
T = TypeVar("T")

CONNECT_S = 5.0
_PAUSE_S, _PAUSE_LONGEST_S = 0.5, 8.0
_BACKLOG_S = 0.02


class Listener(Protocol):
    """Who is told what the group does; called in the event loop."""

    def connected(self, me: int, nodes: dict[int, str] | None) -> None:
        """The group was joined by this node, one of *nodes*."""

    def lost(self, why: str) -> None:
        """Corosync is gone."""

    def happened(self, events: list[Members | Delivery], is_quorate: bool) -> None:
        """These things happened in the group, in this order."""


class Link:
    """One membership in the group of hosts, kept up until close()."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._corosync: Corosync | None = None
        self._descriptors: tuple[int, int] = (-1, -1)
        self._backlog: deque[bytes] = deque()
        self._retry: asyncio.TimerHandle | None = None
        self._again: asyncio.Task[None] | None = None
        self._is_closed = False
        self.trouble = "not connected yet"

    async def open(self) -> None:
        """Join the group.  Raises Unreachable, ToolMissing."""
        if self._corosync is None:
            await self._connect()

    def send(self, data: bytes) -> None:
        """Multicast *data*, after what still waits; it is dropped while Corosync is gone."""
        if self._corosync is not None:
            self._backlog.append(data)
            if self._retry is None:
                self._flush()

    async def read_nodes(self) -> dict[int, str] | None:
        """Return the nodes of the cluster's configuration, None when they cannot be read."""
        corosync = self._corosync
        if corosync is None:
            return None
        with contextlib.suppress(VmfenceError):
            return await _in_thread(corosync.nodes)
        return None

    def close(self) -> None:
        """Leave the group."""
        self._is_closed = True
        if self._again is not None:
            self._again.cancel()
        self._let_go("this daemon ends")

    async def _connect(self) -> None:
        corosync = Corosync(cpg.GROUP)
        is_awaited = True

        def connect() -> tuple[tuple[int, int], dict[int, str] | None]:
            try:
                found = corosync.connect(), corosync.nodes()
            except VmfenceError:
                corosync.close()
                raise
            if not is_awaited:
                corosync.close()
            return found

        try:
            self._descriptors, nodes = await _in_thread(connect)
        except VmfenceError as error:
            is_awaited, self.trouble = False, str(error)
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
                if not self._corosync.send(self._backlog[0]):
                    self._retry = asyncio.get_running_loop().call_later(_BACKLOG_S, self._flush)
                    return
                self._backlog.popleft()
        except Unreachable as error:
            # Not here and now: who sends is in the midst of something.
            asyncio.get_running_loop().call_soon(self._lose, error)

    def _lose(self, error: Unreachable) -> None:
        if self._corosync is None:
            return
        log.error("%s", error)
        self._let_go(str(error))
        if not self._is_closed:
            self._again = asyncio.ensure_future(self._connect_again())

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

    async def _connect_again(self) -> None:
        pause = _PAUSE_S
        while not self._is_closed:
            await asyncio.sleep(pause)
            pause = min(pause * 2, _PAUSE_LONGEST_S)
            with contextlib.suppress(VmfenceError):
                await self._connect()
                log.info("Corosync is back")
                return


async def _in_thread(work: Callable[[], T]) -> T:
    """Return what *work* returns.  Raises Unreachable when Corosync hangs; its thread is left behind then."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            future.set_exception(error)

    threading.Thread(target=run, name="corosync", daemon=True).start()
    try:
        return await asyncio.wait_for(asyncio.wrap_future(future), CONNECT_S)
    except asyncio.TimeoutError:
        raise Unreachable("Corosync does not answer", f"no answer within {CONNECT_S:.0f} s") from None
