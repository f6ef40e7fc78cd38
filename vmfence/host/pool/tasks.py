"""Work beside: what runs once, and what is kept up until the end, whatever happens to it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Callable

log = logging.getLogger(__name__)

AGAIN_S = 1.0
Work = Callable[[], Coroutine[Any, Any, None]]


class Tasks:
    """Tasks of one event loop."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._kept: dict[asyncio.Task[None], Work] = {}
        self._is_over = False

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Let *work* be done."""
        self._begin(work)

    def keep(self, *works: Work) -> None:
        """Let each of *works* go on: when it ends, by an error or not, it is begun anew after a pause."""
        for work in works:
            if not self._is_over:
                self._kept[self._begin(work())] = work

    def is_keeping(self) -> bool:
        """Whether anything is kept up."""
        return bool(self._kept)

    def close(self) -> None:
        """End all."""
        self._is_over = True
        for task in self._tasks:
            task.cancel()

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        work = self._kept.pop(task, None)
        if task.cancelled():
            return
        if task.exception() is not None:
            log.error("a part of the pool failed%s", ", and is begun anew" if work else "", exc_info=task.exception())
        if work is not None and not self._is_over:
            asyncio.get_running_loop().call_later(AGAIN_S, self.keep, work)
