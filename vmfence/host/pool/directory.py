"""What one host knows of its pool: who is in the group, who has which guest, and what those had who are gone.

Pure.  Everything here comes from the group's messages, which all members get in the same order, and from Corosync.
Knowledge of a host that has left stays until it is back, or is no node of the cluster any more: its guests may run on.
What those who were there have seen of it goes to those who come (take_missing, take_lasts).
*now* is the monotonic clock, *wall* the wall clock, in seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Callable

from vmfence.host.pool.known import LONG_AGO, Host
from vmfence.host.pool.lasts import NOBODY_KNOWS, Lasts, new_stay
from vmfence.host.pool.messages import LISTED_MAX, Away, Entry, Last, Listing, Missing, Sight
from vmfence.policy import is_uuid
from vmfence.protocol.cpg import Store

# A host of this program greets as soon as it sees a member join; who is silent for longer is fence_virtd.
GREETING_S = 2.0
# After so long with all hosts of the cluster in the group, what nobody has is nowhere.
FORGET_S = 3600.0
# Names that fence_virtd was told of, and requests under way that are remembered.
_TOLD_MAX, _REQUESTS_MAX = 50_000, 256


class Directory:
    """The knowledge of one host.  *me* is 0 and *members* is empty while it is not in the group."""

    def __init__(
        self,
        remembered: Mapping[int, tuple[float, Iterable[Entry]]] | None = None,
        lasts: Iterable[Last] = (),
        wall: float = 0.0,
        new_stay: Callable[[], int] = new_stay,
    ) -> None:
        """*remembered*: when each host left, and its guests, as the record has them, read at *wall*."""
        self.new_stay = new_stay
        self.me = 0
        self.members: frozenset[int] = frozenset()
        self.hosts: dict[int, Host] = {}
        self.configured: dict[int, str] | None = None
        self.is_quorate = False
        self.is_of_this_boot = True  # what is remembered: no guest of this host has ended with the host itself since
        self.view: frozenset[int] | None = None
        self.deliveries = 0
        self.lasts = Lasts(lasts)
        self._changes = 0
        # Who was fenced after this (wall) is known to be off, though nobody here saw it leave.
        self._watching_since = wall
        self._seen_active: dict[str, float] = {}
        self._told_to_all: dict[str, tuple[int, float]] = {}  # name or UUID: the owner, and when that joined
        self._requests: dict[tuple[int, int], int] = {}  # of fence_virtd: asker and number, and when delivered
        self.unsure: set[int] = set()  # away: got guests, for all we know, from a host that has booted meanwhile
        self._awoken: set[int] = set()  # whose newest fencing is to be noted though they are not in the group
        self._parts: dict[tuple[int, int], list[Entry]] = {}  # of Missing: by sender and node
        self._unlisted: set[str] = set()
        self._lost: set[Last] = set()
        self._sweep_at = LONG_AGO
        for node, (left_at, entries) in (remembered or {}).items():
            host = self.hosts[node] = Host(is_listed=True, left_at=left_at)
            for entry in entries:
                host.put(entry)
                if entry.is_executing and self.lasts.get(entry.uuid) is None:
                    self.lasts.executes(entry.uuid, node, new_stay(), ())

    @property
    def changes(self) -> int:
        """Number of changes of what is kept on disk."""
        return self._changes + self.lasts.changes

    def set_members(self, members: frozenset[int], now: float, wall: float) -> frozenset[int]:
        """Take the nodes in the group; return those that are new."""
        joined, left = members - self.members, self.members - members
        if not self.members:
            self._watching_since = max(self._watching_since, wall)
        self.members = members
        self._parts.clear()
        for node in left:
            host = self.hosts[node]
            if host.stamps and self.is_reference(node, now) and not host.is_of_before:
                host.is_listed = True  # it tells of all its guests at once, soon after it joins
            host.left_at, host.absent_since, host.is_ours = wall, now, False
            host.is_seen_leaving = self.is_quorate and not host.is_blind
        for node in joined:
            host = self.hosts.setdefault(node, Host())
            host.joined_at, host.is_ours, host.is_listed, host.is_of_before = now, False, False, True
            host.is_seen_leaving, host.is_blind, host.fence_before = False, False, None
        self.unsure = self.unsure - members if members else set()
        if joined:
            # What a newcomer has seen may be newer than what we have: nothing that we saw before excuses anything.
            self._seen_active.clear()
        if joined or left:
            self._unlisted, self._lost, self._sweep_at = set(), set(), now + FORGET_S
        self._changes += bool(left)
        return joined

    def set_quorate(self, is_quorate: bool, wall: float) -> None:
        """Take whether this side has the votes to decide: without, those who are away may be together elsewhere."""
        if is_quorate and not self.is_quorate:
            self._watching_since = max(self._watching_since, wall)
        self.is_quorate = is_quorate
        if not is_quorate:
            for node in self.hosts.keys() - self.members:
                self.hosts[node].is_seen_leaving = False

    def set_view(self, nodes: frozenset[int] | None, wall: float) -> frozenset[int]:
        """Take the nodes that are up as Corosync sees it, with a daemon of the pool or without; None: not known.

        Return those that are newly up without being in the group: what they were fenced before is to be noted.
        """
        before, self.view = self.awake(), nodes
        for node in (before | self.awake()) & self.hosts.keys():
            # It may have booted since it was fenced: only a fencing of after it was seen up counts.
            self.hosts[node].left_at = max(self.hosts[node].left_at, wall)
        awoken = (self.awake() - before) & self.hosts.keys()
        self._awoken |= awoken
        return awoken

    def set_configured(self, nodes: dict[int, str] | None) -> None:
        """Take the nodes of the cluster's configuration, with their names; None: it cannot be read."""
        self.configured = nodes
        if nodes is not None:
            for node in [node for node in self.hosts if node not in nodes and node not in self.members]:
                del self.hosts[node]
                self._changes += 1

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

    def told_sight(self, node: int, sight: Sight) -> None:
        """Take what *node* tells of how much it knows of its guests.

        If it has booted, what it had may have left for any host that was away with it, and ended there or not.
        """
        self.hosts[node].is_blind = sight.is_blind
        if sight.has_booted:
            self.unsure |= self.absent() | (self.hosts.keys() - self.members)
            for each in self.hosts.keys() - self.members:
                self.hosts[each].is_seen_leaving = False

    def listed(self, node: int, listing: Listing, now: float) -> None:
        """Take what one of ours has told of its guests."""
        host = self.hosts[node]
        is_whole = listing.is_first or listing.is_last or not host.is_listed
        if is_whole and host.is_listed and not host.is_of_before and host.number == listing.number:
            host.confirmed_at = host.confirmed_at if host.is_blind else now
            return  # told for a newcomer; we have it
        if listing.is_first:
            host.clear()
            host.is_of_before, host.is_listed = False, False
        for entry in listing.guests:
            self._note(node, host, entry, now)
        for uuid in listing.gone:
            before = host.find(uuid)
            host.drop(uuid)
            if before is not None and before.is_off:
                self.lasts.is_over(uuid, node)
            else:
                self._note_inactive(node, uuid, None)
        if listing.is_last and not host.is_of_before:
            host.is_listed, host.confirmed_at = True, now
        host.number = listing.number
        self._changes += 1

    def stored(self, node: int, store: Store, now: float) -> None:
        """Take what fence_virtd, or one of ours for its sake, has told of a guest."""
        host = self.hosts[node]
        for text in (store.uuid.lower(), store.name.lower()):
            self._told_to_all.pop(text, None)
            self._told_to_all[text] = node, host.joined_at
        while len(self._told_to_all) > _TOLD_MAX:
            del self._told_to_all[next(iter(self._told_to_all))]
        if not host.is_ours:
            if host.is_of_before:
                host.clear()
                host.is_of_before = False
            self._note(node, host, Entry(store.name, store.uuid.lower(), store.state), now)
            self._changes += 1

    def requested(self, asker: int, seqno: int) -> None:
        """Note that all members of fence_virtd are about to tell anew of all their guests."""
        self._requests[asker, seqno] = self.deliveries
        if len(self._requests) > _REQUESTS_MAX:
            del self._requests[next(iter(self._requests))]

    def replied(self, node: int, asker: int, seqno: int) -> None:
        """Forget the guests of *node*, which is fence_virtd, that it did not tell of before it replied."""
        stamp = self._requests.get((asker, seqno))
        host = self.hosts[node]
        if stamp is None or host.is_ours:
            return
        for uuid in [uuid for uuid in host.guests if host.stamps.get(uuid, -1) < stamp]:
            host.drop(uuid)
            self._note_inactive(node, uuid, None)
        host.is_listed = True

    def told_since(self, node: int, uuid: str, asker: int, seqno: int) -> Entry | None:
        """Return the guest as fence_virtd at *node* has told of it since that request, before it acted on it."""
        host, stamp = self.hosts[node], self._requests.get((asker, seqno))
        is_told = stamp is not None and host.stamps.get(uuid, -1) >= stamp
        return host.guests.get(uuid) if is_told else None

    def is_asked(self, asker: int, seqno: int) -> bool:
        """Whether a request has been delivered to all."""
        return (asker, seqno) in self._requests

    # What newcomers are told

    def missing(self) -> list[Missing]:
        """Return what is known of the hosts that were seen leaving."""
        found = []
        for node in sorted(self.hosts.keys() - self.members):
            host = self.hosts[node]
            if not (host.is_listed and host.is_seen_leaving):
                continue
            guests = tuple(host.guests.values())
            for start in range(0, max(1, len(guests)), LISTED_MAX):
                part, is_end = guests[start : start + LISTED_MAX], start + LISTED_MAX >= len(guests)
                found.append(Missing(node, host.left_at, part, start == 0, is_end, host.fence_before))
        return found

    def untold_lasts(self, is_newcomer: bool) -> list[Last]:
        """Return what others cannot know of who had which guest last.

        The lists tell of what executes.  Of a guest that another member had, that one knows more than a newcomer.
        """
        others = self.members - {self.me} if is_newcomer else frozenset()
        return [
            last
            for last in self.lasts
            if not (last.stays and all(node in others for _, node in last.stays)) and not self._is_plain(last)
        ]

    def take_missing(self, sender: int, told: Missing, now: float) -> None:
        """Take what *sender* saw leave."""
        host = self.hosts.get(told.node)
        if told.node in self.members | self.unsure or not self.is_quorate:
            return
        if host is not None and host.is_seen_leaving:
            return
        if told.is_first:
            self._parts[sender, told.node] = []
        parts = self._parts.get((sender, told.node))
        if parts is None:
            return
        parts.extend(told.guests)
        if told.is_last:
            host = self.hosts[told.node] = Host(is_listed=True, left_at=told.left_at, is_seen_leaving=True)
            host.fence_before = told.fence_before
            for entry in self._parts.pop((sender, told.node)):
                host.put(entry)
            host.absent_since = now
            self._changes += 1

    def take_lasts(self, lasts: Iterable[Last]) -> None:
        """Take what another host knows of who had which guest last."""
        for last in lasts:
            if not self.lasts.hear(last):
                continue
            at = self.executing_at(last.uuid)
            for node, stay in at.items():
                if stay:
                    self.lasts.executes(last.uuid, node, stay, at)

    def note_fences(self, newest: Mapping[int, float]) -> None:
        """Take when hosts were fenced last; of one away, the first word since it left or was up counts."""
        for node, ended_at in newest.items():
            host = self.hosts.get(node)
            if host is None:
                continue
            if node in self.members | self._awoken or host.fence_before is None:
                host.fence_before = max(ended_at, host.fence_before or 0.0)
            self._awoken.discard(node)

    def owner_told(self, target: str) -> int | None:
        """Return who fence_virtd believes to have *target*, by the messages that it understands."""
        node, joined_at = self._told_to_all.get(target.lower(), (0, 0.0))
        return node if node in self.members and self.hosts[node].joined_at == joined_at else None

    def holders(self, target: str) -> list[int]:
        """Return the members that list *target*, the lowest first."""
        return sorted(node for node in self.members if self.hosts[node].find(target) is not None)

    def lasts_of(self, target: str) -> tuple[Last, ...]:
        """Return who had the guests called *target* active last, as far as we have seen."""
        uuids = {target.lower()} if is_uuid(target) else self._uuids(target)
        found = (self.lasts.get(uuid) for uuid in sorted(uuids))
        return tuple(last for last in found if last is not None)

    def executing_at(self, uuid: str, among: Iterable[int] | None = None) -> dict[int, int]:
        """Return the members, all or *among* some, that say they execute the guest, with the numbers of the stays."""
        found = {}
        for node in self.members if among is None else self.members.intersection(among):
            entry = self.hosts[node].guests.get(uuid)
            if entry is not None and entry.is_executing and not self.hosts[node].is_of_before:
                found[node] = entry.stay
        return found

    def see(self, node: int, entries: Iterable[Entry], now: float) -> None:
        """Note guests that *node* was just seen to have."""
        for entry in entries:
            if entry.is_executing:
                nodes = self.lasts.nodes(entry.uuid)
                at = self.executing_at(entry.uuid, nodes) if nodes else ()
                self.lasts.executes(entry.uuid, node, self._stay(node, entry), at)
                if self.hosts.keys() - self.members:
                    self._seen_active[entry.uuid] = now
            elif not entry.is_active:
                self._note_inactive(node, entry.uuid, entry)

    def away(self, target: str) -> tuple[Away, ...]:
        """Return what is remembered of *target* at each host that is not in the group."""
        found = []
        for node in sorted(self.hosts.keys() - self.members):
            host = self.hosts[node]
            if host.is_listed:
                entry = host.find(target)
                excused = entry is not None and self._is_seen_active(entry.uuid, host.absent_since)
                seen = host.is_seen_leaving
                since = host.left_at if seen else max(host.left_at, self._watching_since)
                found.append(Away(node, since, entry, excused, seen, host.fence_before))
        return tuple(found)

    def awake(self) -> frozenset[int]:
        """Return the nodes that are up without being in the group: none of them is down by having been fenced."""
        return (self.view or frozenset()) - self.members

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

    def sweep(self, now: float) -> None:
        """After all hosts were here for long, forget who had guests that nobody has any more.

        And that guests went to where nobody knows: one that runs nowhere, twice, has ended.
        """
        if now < self._sweep_at:
            return
        self._sweep_at = now + FORGET_S
        here = [self.hosts[node] for node in self.members]
        if self.configured is None or self.absent() or not all(host.is_listed and host.is_ours for host in here):
            self._unlisted, self._lost = set(), set()
            return
        self._seen_active.clear()
        known: set[str] = set().union(*(host.guests for host in self.hosts.values()))
        unlisted = {last.uuid for last in self.lasts} - known
        for uuid in unlisted & self._unlisted:
            self.lasts.forget(uuid)
        self._unlisted = unlisted
        is_seen = not any(host.is_blind for host in here)
        active = {uuid for host in here for uuid, entry in host.guests.items() if entry.is_active}
        lost = {
            last
            for last in self.lasts
            if is_seen and last.uuid not in active and any(node == NOBODY_KNOWS for _, node in last.stays)
        }
        for last in lost & self._lost:
            self.lasts.is_over(last.uuid, NOBODY_KNOWS)
        self._lost = lost

    def _uuids(self, name: str) -> set[str]:
        return {uuid for host in self.hosts.values() if (uuid := host.names.get(name)) is not None}

    def _stay(self, node: int, entry: Entry) -> int:
        """Return the number of this stay; fence_virtd counts none."""
        if entry.stay:
            return entry.stay
        last = self.lasts.get(entry.uuid)
        known = [stay for stay, where in last.stays if where == node] if last is not None else []
        return known[0] if known else self.new_stay()

    def _is_plain(self, last: Last) -> bool:
        """Whether the list of the one host that has the guest tells as much."""
        if len(last.stays) != 1:
            return False
        ((stay, node),) = last.stays
        return self.executing_at(last.uuid, (node,)).get(node) == stay

    def _is_seen_active(self, uuid: str, since: float) -> bool:
        """Whether a member was seen to have the guest active after *since*."""
        if self._seen_active.get(uuid, LONG_AGO) > since:
            return True
        hosts = (self.hosts[node] for node in self.members)
        return any(
            host.confirmed_at > since and uuid in host.guests and host.guests[uuid].is_executing for host in hosts
        )

    def _note_inactive(self, node: int, uuid: str, entry: Entry | None) -> None:
        """Note that *node* does not have the guest active; *entry* None: it does not have it at all."""
        if node not in self.lasts.nodes(uuid):
            return
        at = {where: stay for where, stay in self.executing_at(uuid).items() if where != node}
        if entry is not None and entry.moved:
            self.lasts.left(uuid, node, at)
        else:
            self.lasts.ended(uuid, node, at)

    def _note(self, node: int, host: Host, entry: Entry, now: float) -> None:
        host.put(entry, 0 if host.is_ours else self.deliveries)
        self.see(node, (entry,), now)
