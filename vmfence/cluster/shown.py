"""The guests that hosts show, found by what a device calls them.  Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from vmfence.protocol.reply import Record


class Shown:
    """*guests*, to be looked up again and again."""

    def __init__(self, guests: Iterable[Record]) -> None:
        self._by_name: dict[str, list[Record]] = defaultdict(list)
        self._by_uuid: dict[str, list[Record]] = defaultdict(list)
        for guest in guests:
            self._by_name[guest.name].append(guest)
            self._by_uuid[guest.uuid.lower()].append(guest)

    def named(self, port: str) -> tuple[Record, ...]:
        """Return the guests of that name or UUID, each once however many hosts show it."""
        found = (*self._by_name.get(port, ()), *self._by_uuid.get(port.lower(), ()))
        return tuple({guest.uuid: guest for guest in found}.values())
