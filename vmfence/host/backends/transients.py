"""Transient guests that this daemon ended: libvirt forgets them, so their last XML is kept here to start them again.

The memory proves little: the guest may run on another host by now.  So it is asked only for a start, and as "off" only
for RETRY_S after we ended it, unless it was seen again meanwhile: a fence that is repeated because its answer was lost
must succeed again.  Used from the event loop and from the threads of hypervisors.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

from vmfence.host.backends.base import Guest
from vmfence.protocol.reply import State

RETRY_S = 60.0
REMEMBERED_MAX = 1000
_NEVER = float("-inf")


@dataclass
class _Entry:
    guest: Guest
    xml: str
    ended_at: float = _NEVER


class TransientMemory:
    """Bounded: of more than REMEMBERED_MAX guests the first is forgotten.  Times are of the monotonic clock."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, guest: Guest, xml: str) -> None:
        """Keep the *xml* of a guest that is about to be ended."""
        with self._lock:
            self._entries[guest.uuid] = _Entry(Guest(guest.name, guest.uuid, State.SHUT_OFF, guest.places), xml)
            self._entries.move_to_end(guest.uuid)
            while len(self._entries) > REMEMBERED_MAX:
                self._entries.popitem(last=False)

    def ended(self, uuid: str) -> None:
        """Note that the hypervisor has confirmed the end of the guest."""
        with self._lock:
            if uuid in self._entries:
                self._entries[uuid].ended_at = time.monotonic()

    def seen(self, uuid: str, asked_at: float) -> None:
        """Note that a look-up begun at *asked_at* found the guest: begun after its end, it lives again."""
        with self._lock:
            entry = self._entries.get(uuid)
            if entry is not None and asked_at > entry.ended_at:
                entry.ended_at = _NEVER

    def find(self, target: str, lately: bool) -> Guest | None:
        """Return the guest of this name or UUID; *lately*: only within RETRY_S of its end."""
        oldest = time.monotonic() - RETRY_S if lately else _NEVER
        with self._lock:
            for entry in reversed(self._entries.values()):
                if target in (entry.guest.name, entry.guest.uuid) or target.lower() == entry.guest.uuid:
                    return entry.guest if entry.ended_at >= oldest else None
        return None

    def xml(self, uuid: str) -> str | None:
        """Return the last XML of the guest."""
        with self._lock:
            entry = self._entries.get(uuid)
            return None if entry is None else entry.xml
