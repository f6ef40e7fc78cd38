"""What one host knows of its pool: who is in the group, who has which guest, and what those had who are gone.

Pure.  Everything here comes from the group's messages, which all members get in the same order, and from Corosync.
Knowledge of a host that has left stays until it is back, or is no node of the cluster any more: its guests may run on.
*now* is the monotonic clock, *wall* the wall clock, in seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from vmfence.host.pool.messages import Away, Entry, Listing
from vmfence.policy import is_uuid
from vmfence.protocol.cpg import Store

# A host of this program greets as soon as it sees a member join; who is silent for longer is fence_virtd.
GREETING_S = 2.0
_LONG_AGO = float("-inf")
# In the place of a node: the guest went from the one that had it last to where nobody has seen it.
NOBODY_KNOWS = 0


@dataclass
class Host:
    """One host and its guests by UUID, as it has told us.

    *is_listed*: its list is whole.  *left_at* (wall) and *absent_since* (monotonic) tell when it left the group, if it
    is away.  *stamps* say in which order fence_virtd's guests were told: it never tells of those that are gone.
    *is_seen_leaving*: what we know of a host that is away is what it had when it left, not something older.
    *is_of_before*: the guests are those of an earlier stay in the group.  *number* counts the changes of the list, and
    *confirmed_at* (monotonic) is when the whole of it was told last.
    """

    guests: dict[str, Entry] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    stamps: dict[str, int] = field(default_factory=dict)
    is_listed: bool = False
    left_at: float = 0.0
    absent_since: float = _LONG_AGO
    joined_at: float = _LONG_AGO
    is_ours: bool = False
    is_of_before: bool = False
    is_seen_leaving: bool = False
    number: int = -1
    confirmed_at: float = _LONG_AGO

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


class Directory:
    """The knowledge of one host.  *me* is 0 and *members* is empty while it is not in the group."""

    def __init__(self, remembered: Mapping[int, tuple[float, Iterable[Entry]]] | None = None) -> None:
        self.me = 0
        self.members: frozenset[int] = frozenset()
        self.hosts: dict[int, Host] = {}
        self.configured: dict[int, str] | None = None
        self.is_quorate = False
        self.changes = 0  # of hosts' guests: for who keeps them on disk
        self.deliveries = 0
        self._last: dict[str, int] = {}
        self._seen_active: dict[str, float] = {}
        self._told_to_all: dict[str, tuple[int, float]] = {}  # name or UUID: the owner, and when that joined
        for node, (left_at, entries) in sorted((remembered or {}).items(), key=lambda item: item[1][0]):
            host = self.hosts[node] = Host(is_listed=True, left_at=left_at)
            for entry in entries:
                host.put(entry)
                if entry.is_executing:
                    self._last[entry.uuid] = node

    def set_members(self, members: frozenset[int], now: float, wall: float) -> frozenset[int]:
        """Take the nodes in the group; return those that are new."""
        joined, left = members - self.members, self.members - members
        self.members = members
        for node in left:
            host = self.hosts[node]
            if host.stamps and self.is_reference(node, now) and not host.is_of_before:
                host.is_listed = True  # it tells of all its guests at once, soon after it joins
            host.left_at, host.absent_since, host.is_ours = wall, now, False
            host.is_seen_leaving = self.is_quorate
        for node in joined:
            host = self.hosts.setdefault(node, Host())
            host.joined_at, host.is_ours, host.is_listed, host.is_of_before = now, False, False, True
        if joined:
            # What a newcomer has seen may be newer than what we have: nothing that we saw before excuses anything.
            self._seen_active.clear()
        self.changes += bool(left)
        return joined

    def set_quorate(self, is_quorate: bool) -> None:
        """Take whether this side has the votes to decide: without, those who are away may be together elsewhere."""
        self.is_quorate = is_quorate
        if not is_quorate:
            for node in self.hosts.keys() - self.members:
                self.hosts[node].is_seen_leaving = False

    def set_configured(self, nodes: dict[int, str] | None) -> None:
        """Take the nodes of the cluster's configuration, with their names; None: it cannot be read."""
        self.configured = nodes
        if nodes is not None:
            for node in [node for node in self.hosts if node not in nodes and node not in self.members]:
                del self.hosts[node]
                self.changes += 1

    def is_reference(self, node: int, now: float) -> bool:
        """Whether the member *node* is fence_virtd: it was here long enough to greet, and did not."""
        host = self.hosts[node]
        return not host.is_ours and now >= host.joined_at + GREETING_S

    def references(self, now: float) -> frozenset[int]:
        """Return the members that are fence_virtd."""
        return frozenset(node for node in self.members if self.is_reference(node, now))

    def greeted(self, node: int) -> None:
        """Note that *node* is one of ours."""
        self.hosts[node].is_ours = True

    def listed(self, node: int, listing: Listing, now: float) -> None:
        """Take what one of ours has told of its guests."""
        host = self.hosts[node]
        is_whole = listing.is_first or listing.is_last or not host.is_listed
        if is_whole and host.is_listed and not host.is_of_before and host.number == listing.number:
            host.confirmed_at = now
            return  # told for a newcomer; we have it
        if listing.is_first:
            host.clear()
            host.is_of_before, host.is_listed = False, False
        for entry in listing.guests:
            self._note(node, host, entry, now)
        for uuid in listing.gone:
            host.drop(uuid)
            self._note_inactive(node, uuid, None)
        if listing.is_last and not host.is_of_before:
            host.is_listed, host.confirmed_at = True, now
        host.number = listing.number
        self.changes += 1

    def stored(self, node: int, store: Store, now: float) -> None:
        """Take what fence_virtd, or one of ours for its sake, has told of a guest."""
        host = self.hosts[node]
        self._told_to_all[store.uuid.lower()] = self._told_to_all[store.name.lower()] = node, host.joined_at
        if not host.is_ours:
            if host.is_of_before:
                host.clear()
                host.is_of_before = False
            self._note(node, host, Entry(store.name, store.uuid.lower(), store.state), now)
            self.changes += 1

    def keep_since(self, node: int, stamp: int) -> None:
        """Forget the guests of *node*, which is fence_virtd, that it has not told of since the delivery *stamp*."""
        host = self.hosts[node]
        for uuid in [uuid for uuid, told in host.stamps.items() if told < stamp]:
            host.drop(uuid)
            self._note_inactive(node, uuid, None)
        host.is_listed = True

    def owner_told(self, target: str) -> int | None:
        """Return who fence_virtd believes to have *target*, by the messages that it understands."""
        node, joined_at = self._told_to_all.get(target.lower(), (0, 0.0))
        return node if node in self.members and self.hosts[node].joined_at == joined_at else None

    def holders(self, target: str) -> list[int]:
        """Return the members that list *target*, the lowest first."""
        return sorted(node for node in self.members if self.hosts[node].find(target) is not None)

    def last_active(self, target: str) -> int | None:
        """Return who had *target* active last, as far as we have seen; NOBODY_KNOWS when it left from there."""
        uuid = target.lower() if is_uuid(target) else self._uuid(target)
        return self._last.get(uuid)

    def see(self, node: int, entries: Iterable[Entry], now: float) -> None:
        """Note guests that *node* was just seen to have."""
        for entry in entries:
            if entry.is_executing:
                self._last[entry.uuid] = node
                self._seen_active[entry.uuid] = now
            elif not entry.is_active:
                self._note_inactive(node, entry.uuid, entry)

    def lost_track(self, uuid: str) -> None:
        """Note that a guest went to where we do not know, while nobody here looked."""
        self._last[uuid] = NOBODY_KNOWS

    def away(self, target: str) -> tuple[Away, ...]:
        """Return what is remembered of *target* at each host that is not in the group."""
        found = []
        for node in sorted(self.hosts.keys() - self.members):
            host = self.hosts[node]
            if host.is_listed:
                entry = host.find(target)
                excused = entry is not None and self._is_seen_active(entry.uuid, host.absent_since)
                found.append(Away(node, host.left_at, entry, excused, host.is_seen_leaving))
        return tuple(found)

    def absent(self) -> frozenset[int]:
        """Return the nodes of the cluster that are not in the group."""
        return frozenset(self.configured or ()) - self.members

    def guests(self) -> dict[str, list[tuple[int, Entry]]]:
        """Return the guests of all members by UUID, with the nodes that have them."""
        found: dict[str, list[tuple[int, Entry]]] = {}
        for node in sorted(self.members):
            for uuid, entry in self.hosts[node].guests.items():
                found.setdefault(uuid, []).append((node, entry))
        return found

    def _uuid(self, name: str) -> str:
        for node in self.members:
            uuid = self.hosts[node].names.get(name)
            if uuid is not None:
                return uuid
        return ""

    def _is_seen_active(self, uuid: str, since: float) -> bool:
        """Whether a member was seen to have the guest active after *since*."""
        if self._seen_active.get(uuid, _LONG_AGO) > since:
            return True
        hosts = (self.hosts[node] for node in self.members)
        return any(
            host.confirmed_at > since and uuid in host.guests and host.guests[uuid].is_executing for host in hosts
        )

    def _note_inactive(self, node: int, uuid: str, entry: Entry | None) -> None:
        """Note that *node* does not have the guest active; *entry* None: it does not have it at all."""
        if self._last.get(uuid) != node:
            return
        for other in self.members:
            found = self.hosts[other].guests.get(uuid)
            if other != node and found is not None and found.is_executing:
                self._last[uuid] = other
                return
        if entry is not None and entry.moved:
            self._last[uuid] = NOBODY_KNOWS

    def _note(self, node: int, host: Host, entry: Entry, now: float) -> None:
        host.put(entry, 0 if host.is_ours else self.deliveries)
        self.see(node, (entry,), now)
