"""What is known of one host of a pool and of its guests.

Pure.  Times are seconds: of the monotonic clock, or of the wall clock where that is said.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from vmfence.host.pool.messages import Entry
from vmfence.policy import is_uuid

LONG_AGO = float("-inf")


@dataclass
class Host:
    """One host and its guests by UUID, as it has told us.

    *is_listed*: its list is whole.  *left_at* (wall) and *absent_since* (monotonic) tell when it left the group, if it
    is away.  *stamps* say in which order fence_virtd's guests were told: it never tells of those that are gone.
    *is_seen_leaving*: what we know of a host that is away is what it had when it left, not something older.
    *fence_before* is the newest fencing of it that was known while it was there, by the fencer's clock.
    *is_blind*: it cannot read its hypervisor, so what it told may be old, and what it had when it left is not known.
    *is_of_before*: the guests are those of an earlier stay in the group.  *number* counts the changes of the list, and
    *confirmed_at* (monotonic) is when the whole of it was told last.
    """

    guests: dict[str, Entry] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    stamps: dict[str, int] = field(default_factory=dict)
    is_listed: bool = False
    left_at: float = 0.0
    absent_since: float = LONG_AGO
    joined_at: float = LONG_AGO
    is_ours: bool = False
    is_of_before: bool = False
    is_seen_leaving: bool = False
    is_blind: bool = False
    fence_before: float | None = None
    number: int = -1
    confirmed_at: float = LONG_AGO

    def find(self, target: str) -> Entry | None:
        """Return the guest with this exact name, or this UUID."""
        return self.guests.get(target.lower() if is_uuid(target) else self.names.get(target, ""))

    def put(self, entry: Entry, stamp: int = 0) -> None:
        """Note a guest as it is now."""
        self.drop(entry.uuid)
        self.guests[entry.uuid] = entry
        self.names[entry.name] = entry.uuid
        if stamp:
            self.stamps[entry.uuid] = stamp

    def drop(self, uuid: str) -> None:
        """Forget a guest."""
        before = self.guests.pop(uuid, None)
        self.stamps.pop(uuid, None)
        if before is not None and self.names.get(before.name) == uuid:
            del self.names[before.name]

    def clear(self) -> None:
        """Forget all guests."""
        self.guests.clear()
        self.names.clear()
        self.stamps.clear()
        self.is_listed = False
