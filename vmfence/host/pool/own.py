"""The guests of this host, as its libvirt has them, and what the others are told of them.

Pure.  Ours are told changes, and the whole when somebody joins; fence_virtd is told in its own words.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Callable

from vmfence.host.pool.directory import GREETING_S, Directory
from vmfence.host.pool.messages import LISTED_MAX, Entry, Last, Lasts, Listing, Message, Sight
from vmfence.protocol.cpg import Store
from vmfence.protocol.reply import State


class OwnGuests:
    """What this host has."""

    def __init__(self, directory: Directory, send: Callable[[Message], None]) -> None:
        self._directory, self._send = directory, send
        self._mine: dict[str, Entry] | None = None
        self._number = 0
        self._stays: dict[str, int] = {}
        self._departed: set[str] = set()
        self._before: dict[str, Entry] = {}
        self._retell_at: float | None = None
        self._has_references = False
        self._is_blind = False
        self._has_told_boot = False
        self._unexplained: set[str] = set()
        self._must_compare = False

    def joined(self) -> None:
        """This host has joined the group; what it had before is in the directory."""
        own = self._directory.hosts.get(self._directory.me)
        self._before = dict(own.guests) if own is not None else {}
        self._departed |= {uuid for uuid, entry in self._before.items() if entry.moved}
        self._must_compare = True
        self._compare_with_before()

    def somebody_joined(self, now: float) -> None:
        """Tell all; who does not greet then is fence_virtd, and wants to be told in its own words."""
        if self._is_blind or self._must_tell_boot():
            self._tell_sight()
        self.tell_all()
        self._retell_at = now + GREETING_S

    def read(self, guests: Iterable[Entry]) -> None:
        """Take the guests as libvirt has them, and tell the others what changed."""
        guests = list(guests)
        self._unexplained = {guest.uuid for guest in guests if guest.is_unexplained}
        found = {guest.uuid: self.recall(guest) for guest in guests}
        self._departed &= found.keys()
        self._stays = {uuid: stay for uuid, stay in self._stays.items() if uuid in found}
        before, self._mine = self._mine, found
        if not self._directory.me:
            return
        self._compare_with_before()
        if before is None:
            self.tell_all()
            return
        changed = [guest for uuid, guest in found.items() if before.get(uuid) != guest]
        gone = [uuid for uuid in before if uuid not in found]
        self._lose_track([uuid for uuid in found if _has_left_unseen(before.get(uuid), found[uuid])])
        if self._is_blind:  # it may have been here, and left, meanwhile
            self._lose_track(gone)
        for start in range(0, max(len(changed), len(gone)), LISTED_MAX):
            end = start + LISTED_MAX
            self._number += 1
            self._send(Listing(tuple(changed[start:end]), tuple(gone[start:end]), number=self._number))
        if self._retell_at is None and self._has_references:
            self._tell_references(changed)

    def set_blind(self, is_blind: bool) -> None:
        """Take whether our guests cannot be read, all or some; tell the others when that changes."""
        if is_blind != self._is_blind:
            self._is_blind = is_blind
            if self._directory.me:
                self._tell_sight()

    def recall(self, guest: Entry) -> Entry:
        """Return *guest* with what libvirt does not tell.

        Migrated away until it is active here again, which libvirt forgets when it restarts; and the number of its stay.
        So one that was active, and is shut off by nobody knows what, counts as migrated away.
        """
        if guest.is_active:
            self._departed.discard(guest.uuid)
        else:
            self._stays.pop(guest.uuid, None)
        if guest.is_executing:
            return replace(guest, stay=self._stays.setdefault(guest.uuid, self._directory.new_stay()))
        if guest.moved or (guest.is_unexplained and self._was_active(guest.uuid)):
            self._departed.add(guest.uuid)
        return replace(guest, moved=guest.uuid in self._departed, is_unexplained=False)

    def ended(self, uuid: str, was_executing: bool) -> None:
        """A guest was ended here: tell so at once.

        Unless it executed, it may have been leaving at that moment: then it counts as moved until it is seen again.
        """
        if not was_executing:
            self._departed.add(uuid)
        before = (self._mine or {}).get(uuid)
        if self._mine is not None and before is not None:
            self._mine[uuid] = self.recall(replace(before, state=int(State.SHUT_OFF), moved=False, stay=0))
            self._number += 1
            self._send(Listing((self._mine[uuid],), number=self._number))

    def _was_active(self, uuid: str) -> bool:
        """Whether the guest was active here when it was last read, or by the record.

        That says nothing when the host itself has ended since: then its guests have, and libvirt does not know why.
        """
        before = self._before if self._mine is None and self._directory.is_of_this_boot else self._mine or {}
        return uuid in before and before[uuid].is_active

    def tell_all(self) -> None:
        """Tell of all our guests, in our words."""
        if self._mine is None:
            return
        guests = list(self._mine.values())
        for start in range(0, max(1, len(guests)), LISTED_MAX):
            part = tuple(guests[start : start + LISTED_MAX])
            self._send(Listing(part, (), start == 0, start + LISTED_MAX >= len(guests), self._number))

    def tell_lasts(self, lasts: list[Last]) -> None:
        """Tell who had these guests last."""
        for start in range(0, len(lasts), LISTED_MAX):
            self._send(Lasts(tuple(lasts[start : start + LISTED_MAX])))

    def tick(self, now: float) -> None:
        """Let time pass."""
        if self._retell_at is not None and now >= self._retell_at:
            self._retell_at = None
            self._has_references = bool(self._directory.references(now))
            if self._has_references:
                self._tell_references((self._mine or {}).values())

    def is_waiting(self) -> bool:
        """Whether tick() is needed soon."""
        return self._retell_at is not None

    def _compare_with_before(self) -> None:
        """Look, once, what may have left while the group was told nothing by this host.

        Those of its guests that are gone: undefined, or migrated away.  Those that were migrated away: again, perhaps,
        after they were started here by hand.  Those of which libvirt has forgotten why they are off: the same, in the
        same boot, before it was restarted.
        """
        if self._mine is None or not self._must_compare:
            return
        before, self._before, self._must_compare = self._before, {}, False
        lost = [uuid for uuid, entry in before.items() if uuid not in self._mine and not entry.moved]
        for uuid, entry in self._mine.items():
            was_active = uuid in before and before[uuid].is_active
            is_forgotten = uuid in self._unexplained and self._directory.is_of_this_boot
            lost += [uuid] if not (entry.is_active or was_active) and (entry.moved or is_forgotten) else []
        self._lose_track(lost)

    def _lose_track(self, uuids: list[str]) -> None:
        """Have everybody know that these left, or may have, for where nobody has seen."""
        lasts = self._directory.lasts
        for uuid in uuids:
            lasts.lost_track(uuid, self._directory.me, self._directory.new_stay())
        self.tell_lasts([last for uuid in uuids if (last := lasts.get(uuid)) is not None])

    def _tell_sight(self) -> None:
        self._send(Sight(self._is_blind, self._must_tell_boot()))
        # Who comes later is told by none of those who heard this what the hosts had that are away.
        is_heard = self._directory.is_quorate and len(self._directory.members) > 1
        self._has_told_boot = self._has_told_boot or is_heard

    def _must_tell_boot(self) -> bool:
        return not (self._has_told_boot or self._directory.is_of_this_boot)

    def _tell_references(self, guests: Iterable[Entry]) -> None:
        for guest in guests:
            self._send(Store(guest.name, guest.uuid, self._directory.me, guest.state))


def _has_left_unseen(before: Entry | None, now: Entry) -> bool:
    """Whether a guest was migrated away since the reading *before*, which did not have it active."""
    return now.moved and not (before is not None and (before.moved or before.is_active))
