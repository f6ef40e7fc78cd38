"""Notice that this process was held up: stopped, swapped out, or its machine suspended.

What lies in a socket then may be of clients that have given up long ago, and pipes do not tell.  One timer for all.
"""

from __future__ import annotations

import asyncio
import time

BEAT_S = 5.0
# Longer than any load of a working machine delays a timer; clients of a power action wait for longer.
HELD_UP_S = 10.0
# What has come meanwhile is read as soon as the process runs again.
_AFTERWARDS_S = 1.0


def _now() -> float:
    """Return seconds that go on while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Pulse:
    """Beats in the running event loop, from begin() to end()."""

    def __init__(self) -> None:
        self._beat_at = _now()
        self._held_up_at = -_AFTERWARDS_S
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Begin to beat, unless that is so."""
        if self._timer is None:
            self._beat_at = _now()
            self._beat()

    def end(self) -> None:
        """Beat no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def was_held_up(self) -> bool:
        """Whether what is read now may have come before or while this process was held up."""
        now = _now()
        is_late = self._timer is not None and now - self._beat_at > HELD_UP_S
        return is_late or now - self._held_up_at < _AFTERWARDS_S

    def _beat(self) -> None:
        now = _now()
        if now - self._beat_at > HELD_UP_S:
            self._held_up_at = now
        self._beat_at = now
        self._timer = asyncio.get_running_loop().call_later(BEAT_S, self._beat)
