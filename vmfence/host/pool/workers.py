"""Blocking calls that may hang, each in a thread of its own, which is left behind then; no more than so many at once.

The threads are daemons: the process ends without waiting for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import Future, InvalidStateError
from typing import Callable, TypeVar

from vmfence.errors import Unreachable

T = TypeVar("T")


class Workers:
    """Threads that ask *whom*, *most* at once."""

    def __init__(self, whom: str, most: int) -> None:
        self._whom, self._most = whom, most
        self._count = 0
        self._lock = threading.Lock()

    async def run(self, work: Callable[[], T], limit_s: float, undo: Callable[[], None] | None = None) -> T:
        """Return what *work* returns, or raise what it raises.

        Raises Unreachable after *limit_s*, and at once while too many others hang.  *undo* is called, in a thread, when
        *work* succeeds and nobody waits for it any more.
        """
        future: Future[T] = Future()
        self._begin(work, future, undo)
        is_taken = False
        try:
            found = await asyncio.wait_for(asyncio.wrap_future(future), limit_s)
            is_taken = True
            return found
        except asyncio.TimeoutError:
            raise Unreachable(f"{self._whom} does not answer", f"no answer within {limit_s:.0f} s") from None
        finally:
            # It may have come to its end in the same instant: then cancel() fails.
            if not is_taken and not future.cancel() and future.exception() is None and undo is not None:
                threading.Thread(target=undo, name=self._whom, daemon=True).start()

    def _begin(self, work: Callable[[], T], future: Future[T], undo: Callable[[], None] | None) -> None:
        with self._lock:
            if self._count >= self._most:
                raise Unreachable(f"{self._whom} does not answer", f"{self._count} earlier calls have not ended")
            self._count += 1

        def run() -> None:
            try:
                self._settle(work, future, undo)
            finally:
                with self._lock:
                    self._count -= 1

        threading.Thread(target=run, name=self._whom, daemon=True).start()

    @staticmethod
    def _settle(work: Callable[[], T], future: Future[T], undo: Callable[[], None] | None) -> None:
        try:
            found = work()
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            with contextlib.suppress(InvalidStateError):  # nobody waits any more
                future.set_exception(error)
            return
        try:
            future.set_result(found)
        except InvalidStateError:
            if undo is not None:
                undo()
