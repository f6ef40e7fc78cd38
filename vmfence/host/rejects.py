"""Rejected packets in the log: one clear line each, never a flood of them.

The first of a kind is told at once; the same reason from the same origin again at most once in INTERVAL_S, with the
number of those between.  Time comes in as seconds of a monotonic clock.
"""

from __future__ import annotations

from collections import Counter

from vmfence.errors import VmfenceError

INTERVAL_S = 10.0
KINDS_MAX = 256


class RejectLog:
    """Decides which rejections are written; bounded in memory whatever arrives."""

    def __init__(self) -> None:
        self._told_at: dict[tuple[str, str], float] = {}
        self._held: Counter[tuple[str, str]] = Counter()
        self.counts: Counter[str] = Counter()

    def note(self, origin: str, error: VmfenceError, now: float) -> str | None:
        """Count a rejected packet; return the line to write now, if any."""
        is_countable = error.what in self.counts or len(self.counts) < KINDS_MAX
        self.counts[error.what if is_countable else "other reasons"] += 1
        kind = (error.what, origin)
        if kind not in self._told_at and len(self._told_at) >= KINDS_MAX:
            kind = (error.what, "others")
        if now - self._told_at.get(kind, -INTERVAL_S) < INTERVAL_S:
            self._held[kind] += 1
            return None
        self._told_at[kind] = now
        return f"rejected packet from {origin}: {error}{self._more(kind)}"

    def flush(self, now: float) -> list[str]:
        """Return lines for what was held back and is due, and forget what is over."""
        due = [kind for kind, told in self._told_at.items() if now - told >= INTERVAL_S]
        lines = [f"rejected packets from {kind[1]}: {kind[0]}{self._more(kind)}" for kind in due if kind in self._held]
        for kind in due:
            del self._told_at[kind]
        return lines

    def _more(self, kind: tuple[str, str]) -> str:
        count = self._held.pop(kind, 0)
        return f" ({count} more like it)" if count else ""
