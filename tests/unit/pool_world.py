"""A world of hosts, guests and a group like Corosync's, without sockets, around the real member of a pool.

The world knows the truth: where each guest runs, and when it last ran nowhere.  Messages of a group have one order, and
members are behind by different amounts; before a change of the group those who stay together are told the same.
Hypervisors are read at one moment and heard of at a later one.  Times are seconds of the world's clock.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from vmfence.errors import VmfenceError
from vmfence.host.backends.base import Guest
from vmfence.host.pool import messages, procedure, record
from vmfence.host.pool.directory import Directory
from vmfence.host.pool.effects import Act, Departed, Done, FindFenced, LookHere, NoteFences, ReadGuests, Send
from vmfence.host.pool.member import Member
from vmfence.host.pool.messages import Entry, Report, Result
from vmfence.host.pool.procedure import Outcome, Sighted
from vmfence.protocol.reply import Code, State
from vmfence.protocol.request import Action

RUNNING, PAUSED, OFF = int(State.RUNNING), int(State.PAUSED), int(State.SHUT_OFF)
DEADLINE_S = 28.0


@dataclass
class Ring:
    """One part of the group: its members, and what was sent in it, in order."""

    members: frozenset[int]
    sent: list[tuple[int, Any]] = field(default_factory=list)


@dataclass
class Ask:
    """A request under way: what was asked of which host, and when."""

    host: int
    action: Action
    uuid: str
    at: float
    guest: Guest | None = None


class SimHost:
    """A host: its hypervisor's guests, its daemon (None while it is down), and how far that has heard its ring."""

    def __init__(self, number: int, rng: random.Random) -> None:
        self.number = number
        self.guests: dict[str, Entry] = {}
        self.is_transient: set[str] = set()
        self.member: Member | None = None
        self.memory: dict[str, Any] | None = None
        self.is_up = True  # the machine, with its Corosync
        self.has_booted = False  # since its daemon ran
        self.part = 0
        self.ring = Ring(frozenset())
        self.heard = 0
        self.clock = rng.uniform(0, 1e6)
        self.fenced_at = -1.0
        self.later: list[tuple[Any, Any]] = []  # (effect, what libvirt said when it was asked)

    def find(self, target: str) -> Entry | None:
        """Return the guest with this UUID or name."""
        named = (entry for entry in self.guests.values() if entry.name == target)
        return self.guests.get(target) or next(named, None)


class World:
    """Hosts 1 to *hosts*, all together, with *guests* guests spread over them."""

    def __init__(self, hosts: int, guests: int, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = 1000.0
        self.hosts = {number: SimHost(number, self.rng) for number in range(1, hosts + 1)}
        self.places: dict[str, set[int]] = {}  # where a guest runs, in truth
        self.last_place: dict[str, int] = {}
        self.nowhere_at: dict[str, float] = {}
        self.by_hand_at: dict[str, float] = {}
        self.moving: dict[str, tuple[int, int]] = {}
        self.asks: dict[Any, Ask] = {}
        self.answers: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.does_fence = True
        self._tokens = 0
        for place in range(guests):
            number = place % hosts + 1
            uuid = f"{place:08x}-0000-4000-8000-{0:012x}"
            self.hosts[number].guests[uuid] = Entry(f"g{place}", uuid, RUNNING if place % 4 else OFF)
            self.last_place[uuid] = number
            self._set_place(uuid, {number} if place % 4 else set())
        self.uuids = list(self.places)
        for host in self.hosts.values():
            self.start_daemon(host)
        self.settle()

    # The group

    def start_daemon(self, host: SimHost) -> None:
        """Start a host's daemon with what it remembers."""
        directory = record.restore(host.memory, self.wall(host)) if host.memory else Directory(wall=self.wall(host))
        directory.is_of_this_boot, host.has_booted = not host.has_booted, False
        directory.new_stay = lambda: self.rng.randrange(1, 1 << 62)
        host.member = Member(directory, self.rng.randrange(1 << 31))
        host.is_up = True
        host.member.directory.set_configured({number: f"h{number}" for number in self.hosts})
        host.member.joined_group(host.number)
        self.form_groups()

    def stop_daemon(self, host: SimHost) -> None:
        """End a host's daemon at once; its record is on the disk."""
        assert host.member is not None
        host.memory = record.take(host.member.directory)
        host.member, host.later, host.ring, host.heard = None, [], Ring(frozenset()), 0
        self.asks = {token: ask for token, ask in self.asks.items() if ask.host != host.number}
        self.form_groups()

    def form_groups(self) -> None:
        """Let Corosync form its groups anew: daemons that are up and in the same part are together."""
        parts: dict[int, set[int]] = {}
        for host in self.hosts.values():
            if host.member is not None:
                parts.setdefault(host.part, set()).add(host.number)
        votes: Counter[int] = Counter(host.part for host in self.hosts.values())
        for part, numbers in parts.items():
            members = frozenset(numbers)
            before = {id(self.hosts[number].ring): self.hosts[number].ring for number in sorted(numbers)}
            ring = Ring(members)
            for old in before.values():
                if old.members != members:
                    self._leave_ring(old, [self.hosts[each] for each in numbers if self.hosts[each].ring is old], ring)
            for number in sorted(numbers):
                host = self.hosts[number]
                assert host.member is not None
                # Corosync counts machines, whether a daemon runs there or not.
                host.member.quorum_changed(2 * votes[part] > len(self.hosts), self.wall(host))
                up = (each.number for each in self.hosts.values() if each.is_up and each.part == part)
                host.member.view_changed(frozenset(up), self.wall(host))
                if host.ring.members != members:
                    host.ring, host.heard = ring, 0
                    host.member.members_changed(members, self.clock(host), self.wall(host))
                    self.carry_out(host)

    def _leave_ring(self, old: Ring, together: list[SimHost], new: Ring) -> None:
        """Let those who stay *together* hear the same of their *old* ring.

        What those who are not among them sent last may be lost; what they sent themselves comes in the *new* one.
        """
        end = self.rng.randint(max(host.heard for host in together), len(old.sent))
        for host in together:
            self.hear(host, end)
        ours = {host.number for host in together}
        new.sent += [(sender, message) for sender, message in old.sent[end:] if sender in ours]

    def hear(self, host: SimHost, end: int) -> None:
        """Let a host hear its group up to place *end*."""
        assert host.member is not None
        while host.heard < end:
            sender, message = host.ring.sent[host.heard]
            host.heard += 1
            # To others these mean nothing; that saves nine tenths of the work.
            if isinstance(message, (Report, Result)) and message.asker != host.number:
                continue
            host.member.received(sender, message, self.clock(host))
            self.carry_out(host)

    def clock(self, host: SimHost) -> float:
        return self.now + host.clock

    def wall(self, host: SimHost) -> float:
        return self.now

    def carry_out(self, host: SimHost) -> None:
        """Carry out what the member wants, or keep it for later."""
        assert host.member is not None
        for effect in host.member.take():
            if isinstance(effect, Send):
                self.sent[type(effect.message).__name__] += 1
                host.ring.sent.append((host.number, self.carried(effect.message)))
            elif isinstance(effect, Done):
                self.done(effect)
            elif isinstance(effect, NoteFences):
                host.member.fences_noted(self.newest_fences(effect.nodes))
            elif isinstance(effect, LookHere):
                host.later.append((effect, host.find(effect.target)))
            else:
                host.later.append((effect, None))

    def carried(self, message: Any) -> Any:
        """Return what arrives of a message."""
        return message

    def newest_fences(self, nodes: tuple[int, ...]) -> dict[int, float]:
        """Return when hosts were fenced last; nothing for what the fencer does not tell."""
        return {}

    def is_fenced(self, host: Departed) -> bool:
        """Whether the fencer tells that a host was fenced since it left."""
        return self.hosts[host.node].fenced_at >= host.left_at

    def finish_one(self, host: SimHost, place: int) -> None:
        """Finish one of the things that a host does beside."""
        assert host.member is not None
        effect, seen = host.later.pop(place)
        if isinstance(effect, ReadGuests):
            host.member.guests_read(list(host.guests.values()))
        elif isinstance(effect, LookHere):
            trouble = "libvirt hangs" if self.rng.random() < 0.002 else ""
            host.member.looked(effect, [] if seen is None or trouble else [seen], trouble, self.clock(host))
        elif isinstance(effect, Act):
            host.member.acted(effect, self.act(host, effect))
            host.member.guests_read(list(host.guests.values()))
        elif isinstance(effect, FindFenced):
            fenced = frozenset(each.node for each in effect.hosts if self.is_fenced(each))
            host.member.fenced_found(effect.token, fenced, self.clock(host))
        self.carry_out(host)

    # Requests

    def ask(self, host: SimHost, action: Action, uuid: str, name: str = "") -> None:
        """Ask a host, by UUID or by *name*."""
        assert host.member is not None
        self._tokens += 1
        token = (self._tokens,)
        self.asks[token] = Ask(host.number, action, uuid, self.now)
        steps = procedure.find(name or uuid, action is Action.ON, action is not Action.STATUS)
        host.member.begin(token, steps, self.clock(host) + DEADLINE_S, self.clock(host))
        self.carry_out(host)

    def done(self, effect: Done) -> None:
        """Take an answer, and compare it with the truth."""
        ask = self.asks.pop(effect.token, None)
        if ask is None:
            return
        host = self.hosts[ask.host]
        if effect.error is not None:
            self.answers[f"{ask.action} failed"] += 1
            self.reasons[str(effect.error.what).split(" g")[0] + ": " + str(effect.error.why)[:60]] += 1
            assert isinstance(effect.error, VmfenceError)
        elif ask.action is Action.STATUS:
            self.answers["status off" if effect.result.is_off else "status on"] += 1
            if effect.result.is_off:
                self._must_have_been_nowhere(ask, "status off")
        elif ask.guest is None:
            assert isinstance(effect.result, Sighted) and host.member is not None
            ask.guest = effect.result
            self.asks[effect.token] = ask
            steps = procedure.carry_out(ask.action, effect.result, effect.result.view)
            host.member.begin(effect.token, steps, ask.at + DEADLINE_S + host.clock, self.clock(host))
            self.carry_out(host)
        else:
            assert effect.result.code == Code.SUCCESS
            self.answers[f"{ask.action} done"] += 1
            if ask.action is not Action.ON:
                self._must_have_been_nowhere(ask, f"{ask.action} done")

    def _must_have_been_nowhere(self, ask: Ask, answer: str) -> None:
        if self.places[ask.uuid] and self.nowhere_at[ask.uuid] < ask.at:
            self.wrong.append(f"{answer} of {ask.uuid[:8]} at {ask.host}: runs at {self.places[ask.uuid]}")

    # The hypervisors

    def act(self, host: SimHost, effect: Act) -> Outcome:
        """Do what the service of a host does: PowerJob, in a few words."""
        entry = host.guests.get(effect.uuid)
        if self.clock(host) >= effect.until_s:
            return Outcome(Code.FAILURE, "too late")
        if entry is None or entry.moved:
            return Outcome(Code.FAILURE, "not here")
        ended = 0
        if effect.action is not Action.ON and entry.is_active:
            ended = entry.state
            self.end_guest(host, effect.uuid)
        if effect.action is not Action.OFF and effect.uuid in host.guests:
            self.start_guest(host, effect.uuid)
        return Outcome(Code.SUCCESS, "", ended)

    def end_guest(self, host: SimHost, uuid: str) -> None:
        """End a guest here; if it was leaving or coming, that is over too."""
        source, target = self.moving.get(uuid, (0, 0))
        if host.number in (source, target):
            del self.moving[uuid]
            self.hosts[target].guests.pop(uuid, None)
            self.hosts[target].is_transient.discard(uuid)
            self.changed(self.hosts[target])
        if host.number != target:
            host.guests[uuid] = replace(host.guests[uuid], state=OFF, moved=False, is_unexplained=False)
            self._set_place(uuid, self.places[uuid] - {host.number})
        self.changed(host)

    def start_guest(self, host: SimHost, uuid: str) -> None:
        """Start a guest that is defined here."""
        entry = host.guests[uuid]
        if not entry.is_active:
            # Who starts it by hand between a question and the start comes too late to be seen.
            by_hand_at = self.by_hand_at.get(uuid, -1.0)
            is_late = any(ask.uuid == uuid and ask.at <= by_hand_at for ask in self.asks.values())
            if self.places[uuid] and not is_late:
                self.wrong.append(f"second start of {uuid[:8]} at {host.number}: runs at {self.places[uuid]}")
            host.guests[uuid] = replace(entry, state=RUNNING, moved=False, is_unexplained=False)
            self._set_place(uuid, self.places[uuid] | {host.number})
            self.changed(host)

    def begin_move(self, uuid: str, source: SimHost, target: SimHost) -> None:
        """Begin a live migration, to a host that is not down: the target has the guest, paused."""
        if (
            uuid in self.moving
            or source is target
            or target.fenced_at >= 0
            or uuid in target.guests
            and target.guests[uuid].is_active
        ):
            return
        if uuid not in target.guests and self.rng.random() < 0.5:
            target.is_transient.add(uuid)
        self.moving[uuid] = (source.number, target.number)
        target.guests[uuid] = replace(source.guests[uuid], state=PAUSED, moved=False, is_unexplained=False)
        self.changed(target)

    def finish_move(self, uuid: str) -> None:
        """End a migration: the guest runs at its target, and the source keeps its definition or not."""
        source, target = (self.hosts[number] for number in self.moving.pop(uuid))
        target.guests[uuid] = replace(target.guests[uuid], state=RUNNING)
        self._set_place(uuid, {target.number})
        if uuid in source.is_transient or self.rng.random() < 0.5:
            source.is_transient.discard(uuid)
            del source.guests[uuid]
        else:
            source.guests[uuid] = replace(source.guests[uuid], state=OFF, moved=True)
        self.changed(source)
        self.changed(target)

    def lose_power(self, host: SimHost) -> None:
        """A host goes down with its guests."""
        for uuid, entry in list(host.guests.items()):
            if entry.is_active:
                self.end_guest(host, uuid)
        host.is_up, host.has_booted = False, True
        if host.member is not None:
            self.stop_daemon(host)
        else:
            self.form_groups()

    def changed(self, host: SimHost) -> None:
        """Let the daemon hear of it, some time."""
        if host.member is not None and not any(isinstance(effect, ReadGuests) for effect, _ in host.later):
            host.later.append((ReadGuests(), None))

    def _set_place(self, uuid: str, places: set[int]) -> None:
        if not self.places.get(uuid):
            self.nowhere_at[uuid] = self.now
        self.places[uuid] = places
        self.last_place[uuid] = next(iter(places), self.last_place[uuid])

    # Time

    def step_on(self, most: int = 8) -> None:
        """Let some hosts hear and do something, and a little time pass."""
        up = [host for host in self.hosts.values() if host.member is not None]
        self.now += self.rng.uniform(0.0, 0.05)
        for host in self.rng.sample(up, min(most, len(up))):
            if host.member is None:
                continue
            self.hear(host, self.rng.randint(host.heard, len(host.ring.sent)))
            while host.later and self.rng.random() < 0.8:
                self.finish_one(host, self.rng.randrange(len(host.later)))
            if host.member.is_waiting():
                host.member.tick(self.clock(host))
                self.carry_out(host)

    def settle(self) -> None:
        """Let all that is under way end."""
        for _ in range(10_000):
            self.now += 0.1
            is_quiet = True
            for host in self.hosts.values():
                if host.member is None:
                    continue
                if host.heard < len(host.ring.sent) or host.later or host.member.is_waiting():
                    is_quiet = False
                    self.hear(host, len(host.ring.sent))
                    while host.later:
                        self.finish_one(host, 0)
                    host.member.tick(self.clock(host))
                    self.carry_out(host)
            if is_quiet:
                return
        raise AssertionError("the world does not come to rest")


class RoughWorld(World):
    """As World, and all that real hosts are worse in.

    Guests are defined at several hosts; a migration ends in two steps; records on the disk are some seconds old; the
    fencer never forgets, and has a clock of its own; hosts' wall clocks differ; libvirt hangs for long; a host boots
    without its daemon; messages are bytes.
    """

    RECORD_S = 3.0
    SKEW_S = 120.0

    def __init__(self, hosts: int, guests: int, seed: int) -> None:
        rng = random.Random(seed)
        self.skews = {number: rng.uniform(-self.SKEW_S, self.SKEW_S) for number in range(hosts + 1)}  # 0: the fencer
        self.fences: dict[int, list[float]] = {}
        self.half: dict[str, int] = {}  # the source of a migration whose target runs already
        self.hung: frozenset[int] = frozenset()
        self.records: dict[int, tuple[float, int, Any]] = {}
        super().__init__(hosts, guests, seed)
        for uuid in self.uuids:
            entry = next(host.guests[uuid] for host in self.hosts.values() if uuid in host.guests)
            for host in self.hosts.values():
                if uuid not in host.guests and rng.random() < 0.5:
                    host.guests[uuid] = replace(entry, state=OFF)
                    self.changed(host)
        self.settle()

    def wall(self, host: SimHost) -> float:
        return self.now + self.skews[host.number]

    def carried(self, message: Any) -> Any:
        return messages.decode(messages.encode(message))

    def quorate_part(self) -> int | None:
        """Return the part that has the votes to decide, if one has."""
        part, votes = Counter(host.part for host in self.hosts.values()).most_common(1)[0]
        return part if 2 * votes > len(self.hosts) else None

    def fence(self, host: SimHost) -> None:
        """The cluster ends a host."""
        self.lose_power(host)
        self.fences.setdefault(host.number, []).append(self.now + self.skews[0])

    def newest_fences(self, nodes: tuple[int, ...]) -> dict[int, float]:
        return {node: max(self.fences.get(node, [0.0])) for node in nodes}

    def is_fenced(self, host: Departed) -> bool:
        before = host.fence_before
        return any(at >= host.left_at and (before is None or at > before) for at in self.fences.get(host.node, ()))

    def boot(self, host: SimHost) -> None:
        """A machine comes up without its daemon, where the others are."""
        host.is_up, host.part = True, self.quorate_part() or 0
        self.form_groups()

    def stop_daemon(self, host: SimHost) -> None:
        super().stop_daemon(host)
        _, _, host.memory = self.records.pop(host.number, (0.0, 0, host.memory))

    def step_on(self, most: int = 8) -> None:
        if self.rng.random() < 0.01:
            self.hung = frozenset(number for number in self.hosts if self.rng.random() < 0.05)
            for number, host in self.hosts.items():
                if host.member is not None:
                    host.member.sight_changed(number in self.hung)
                    self.carry_out(host)
        for uuid in list(self.half):
            if self.rng.random() < 0.1:
                self.confirm_move(uuid)
        for number, host in self.hosts.items():
            if host.member is not None:
                at, changes, _ = self.records.get(number, (-self.RECORD_S, -1, None))
                directory = host.member.directory
                if self.now >= at + self.RECORD_S and directory.changes != changes:
                    self.records[number] = self.now, directory.changes, record.take(directory)
        super().step_on(most)

    def finish_one(self, host: SimHost, place: int) -> None:
        effect, seen = host.later[place]
        if host.number in self.hung and isinstance(effect, ReadGuests):
            return
        if host.number in self.hung and isinstance(effect, LookHere):
            assert host.member is not None
            del host.later[place]
            host.member.looked(effect, [], "libvirt hangs", self.clock(host))
            self.carry_out(host)
            return
        super().finish_one(host, place)

    def act(self, host: SimHost, effect: Act) -> Outcome:
        return Outcome(Code.FAILURE, "libvirt hangs") if host.number in self.hung else super().act(host, effect)

    def begin_move(self, uuid: str, source: SimHost, target: SimHost) -> None:
        if target.is_up and uuid not in self.half and not {source.number, target.number} & self.hung:
            super().begin_move(uuid, source, target)

    def finish_move(self, uuid: str) -> None:
        """The target runs; the source is still there, paused."""
        source, target = (self.hosts[number] for number in self.moving.pop(uuid))
        self.half[uuid] = source.number
        source.guests[uuid] = replace(source.guests[uuid], state=PAUSED)
        target.guests[uuid] = replace(target.guests[uuid], state=RUNNING)
        self._set_place(uuid, {target.number})
        self.changed(source)
        self.changed(target)

    def confirm_move(self, uuid: str) -> None:
        """The source lets go."""
        source = self.hosts[self.half.pop(uuid)]
        if uuid in source.guests and source.guests[uuid].state == PAUSED:
            if uuid in source.is_transient or self.rng.random() < 0.5:
                source.is_transient.discard(uuid)
                del source.guests[uuid]
            else:
                source.guests[uuid] = replace(source.guests[uuid], state=OFF, moved=True)
            self.changed(source)

    def settle(self) -> None:
        self.hung = frozenset()
        super().settle()
