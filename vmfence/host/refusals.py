"""Refused power actions in log and history: the first ones each, then their number.

The history is bounded, so who may fence nobody must not be able to fill it.  Time comes in as seconds of a monotonic
clock.
"""

from __future__ import annotations

from collections import OrderedDict

INTERVAL_S = 300.0
KEPT_MAX = 20
ORIGINS_MAX = 256


class _Origin:
    def __init__(self, since: float) -> None:
        self.since, self.kept, self.held_back = since, 0, 0


class RefusalLimit:
    """Counts the refused requests of each origin; bounded in memory, and beyond ORIGINS_MAX the oldest is forgotten."""

    def __init__(self) -> None:
        self._origins: OrderedDict[str, _Origin] = OrderedDict()

    def note(self, origin: str, now: float) -> int | None:
        """Count a refusal; return None when it is not to be kept, else how many were held back before it."""
        found = self._origins.get(origin)
        held_back = 0
        if found is None or now - found.since >= INTERVAL_S:
            held_back = found.held_back if found is not None else 0
            self._origins.pop(origin, None)
            found = self._origins[origin] = _Origin(now)
            if len(self._origins) > ORIGINS_MAX:
                self._origins.popitem(last=False)
        if found.kept >= KEPT_MAX:
            found.held_back += 1
            return None
        found.kept += 1
        return held_back
