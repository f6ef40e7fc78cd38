"""Work for the disk, out of the event loop: in order, by one thread, and never waited for longer than DISK_S."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for_all
from typing import Callable, TypeVar

from vmfence.errors import VmfenceError

T = TypeVar("T")

DISK_S = 1.0
PENDING_MAX = 256
_CLOSE_S = 2.0


class DiskSlow(VmfenceError):
    """The disk did not answer in time; what was asked for may still be done."""


class Disk:
    """One thread for the file called *name*."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._pool = ThreadPoolExecutor(1, name)
        self._pending = 0
        self._lock = threading.Lock()

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """Return what *work* returns.  Raises DiskSlow after DISK_S, or at once when too much is pending."""
        if self._pending >= PENDING_MAX:
            raise DiskSlow("the disk hangs", f"{self._pending} writes of {self._name} are pending")
        self._count(1)
        future = asyncio.get_running_loop().run_in_executor(self._pool, self._counted, work, *arguments)
        try:
            return await asyncio.wait_for(asyncio.shield(future), DISK_S)
        except asyncio.TimeoutError:
            future.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
            raise DiskSlow("the disk is slow", f"{self._name} not written within {DISK_S:.0f} s") from None

    def is_busy(self) -> bool:
        """Whether something is still to be written."""
        return self._pending > 0

    def close(self, last: Callable[[], None]) -> None:
        """Do *last* when all is written, waiting a moment for that."""
        with contextlib.suppress(RuntimeError):
            self._count(1)
            wait_for_all([self._pool.submit(self._counted, last)], _CLOSE_S)
        self._pool.shutdown(wait=False)

    def _counted(self, work: Callable[..., T], *arguments: object) -> T:
        try:
            return work(*arguments)
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        with self._lock:
            self._pending += change
