"""Many hosts, many guests, everything that happens to them at random: no answer may be wrong.  And what it costs."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from typing import Callable

import pytest

from unit.pool_world import OFF, RoughWorld, SimHost, World
from vmfence.host.pool import messages
from vmfence.host.pool.directory import Directory
from vmfence.host.pool.messages import Entry, Listing
from vmfence.protocol.request import Action

pytestmark = pytest.mark.long
HOSTS, GUESTS, STEPS, SEED = 64, 10_000, 100_000, 20261123
# Of that many guests all is asked and done: the others are the crowd, which is told of and remembered.
IN_PLAY = 100


class Chaos:
    """One thing after another that can happen, in proportion."""

    def __init__(self, world: World) -> None:
        self.world, self.rng = world, world.rng
        self.play = self.rng.sample(world.uuids, min(IN_PLAY, len(world.uuids)))
        self.happenings = [
            (self.ask, 0.040),
            (self.begin_move, 0.030),
            (self.finish_move, 0.030),
            (self.switch_by_hand, 0.030),
            (self.restart_libvirt, 0.004),
            (self.crash, 0.0008),
            (self.revive, 0.0030),
            (self.lose_power, 0.0003),
            (self.fence, 0.0005),
            (self.split, 0.0004),
            (self.heal, 0.0012),
        ]

    def step(self) -> None:
        """Let one thing happen, or only time pass."""
        dice = self.rng.random()
        for happening, weight in self.happenings:
            if dice < weight:
                happening()
                break
            dice -= weight
        self.world.step_on()

    def host(self, is_up: bool = True) -> SimHost | None:
        hosts = [host for host in self.world.hosts.values() if (host.member is not None) is is_up]
        return self.rng.choice(hosts) if hosts else None

    def ask(self) -> None:
        """Ask any host of any guest, preferably one that is on its way, or out of that host's sight."""
        host = self.host()
        if host is None:
            return
        world = self.world
        hidden = [uuid for uuid in self.play if world.places[uuid] and not world.places[uuid] & host.ring.members]
        uuid = self.rng.choice(self.rng.choice((self.play, hidden or self.play, list(world.moving) or self.play)))
        action = self.rng.choice((Action.OFF, Action.OFF, Action.REBOOT, Action.ON, Action.STATUS, Action.STATUS))
        world.ask(host, action, uuid)

    def begin_move(self) -> None:
        uuid = self.rng.choice(self.play)
        places = self.world.places[uuid]
        if len(places) == 1:
            source = self.world.hosts[next(iter(places))]
            self.world.begin_move(uuid, source, self.rng.choice(list(self.world.hosts.values())))

    def finish_move(self) -> None:
        if self.world.moving:
            uuid = self.rng.choice(list(self.world.moving))
            if self.rng.random() < 0.8:
                self.world.finish_move(uuid)
            else:
                self.world.end_guest(self.world.hosts[self.world.moving[uuid][1]], uuid)

    def switch_by_hand(self) -> None:
        """Somebody starts a guest that is off, at a host that has it and was not fenced, or shuts one off.

        Not out of sight of most hosts, where it was not last: nobody guards against that.
        """
        uuid = self.rng.choice(self.play)
        places, is_moving, last = self.world.places[uuid], uuid in self.world.moving, self.world.last_place[uuid]
        fit = [host for host in self.world.hosts.values() if uuid in host.guests and host.fenced_at < 0 and host.is_up]
        fit = [host for host in fit if 2 * len(host.ring.members) > len(self.world.hosts) or host.number == last]
        if places and self.rng.random() < 0.2:
            self.world.end_guest(self.world.hosts[next(iter(places))], uuid)
        elif fit and not places and not is_moving:
            self.world.start_guest(self.rng.choice(fit), uuid)
            self.world.by_hand_at[uuid] = self.world.now

    def restart_libvirt(self) -> None:
        """Why guests are off is forgotten, also while no daemon looks."""
        host = self.host(is_up=self.rng.random() < 0.7)
        if host is not None and host.is_up and not host.later:
            for uuid, entry in host.guests.items():
                if not entry.is_active:
                    host.guests[uuid] = Entry(entry.name, uuid, OFF, is_unexplained=True)
            self.world.changed(host)

    def crash(self) -> None:
        host = self.host()
        if host is not None:
            self.world.stop_daemon(host)

    def revive(self) -> None:
        host = self.host(is_up=False)
        if host is not None:
            host.fenced_at = -1.0
            self.world.start_daemon(host)

    def lose_power(self) -> None:
        host = self.host()
        if host is not None:
            self.world.lose_power(host)

    def fence(self) -> None:
        """The cluster of hosts fences one that is away from the quorate part."""
        away = [host for host in self.world.hosts.values() if host.member is None or host.part]
        if away:
            host = self.rng.choice(away)
            self.world.lose_power(host)
            host.fenced_at, host.part = self.world.now, 0

    def split(self) -> None:
        for host in self.rng.sample(
            list(self.world.hosts.values()), self.rng.randint(1, len(self.world.hosts) * 2 // 3)
        ):
            host.part = 1
        self.world.form_groups()

    def heal(self) -> None:
        for host in self.world.hosts.values():
            host.part = 0
        self.world.form_groups()


@pytest.mark.timeout(1800)
def test_no_answer_is_wrong_whatever_happens(capsys: pytest.CaptureFixture[str]) -> None:
    world = World(HOSTS, GUESTS, SEED)
    chaos = Chaos(world)
    for _ in range(STEPS):
        chaos.step()
        assert not world.wrong, world.wrong
    chaos.heal()
    while any(host.member is None for host in world.hosts.values()):
        chaos.revive()
    world.settle()
    assert not world.wrong
    assert not world.asks, "a request was never answered"
    with capsys.disabled():
        print(f"\n{HOSTS} hosts, {GUESTS} guests, {STEPS} steps: {dict(sorted(world.answers.items()))}")
        for reason, count in world.reasons.most_common(25):
            print(f"  {count:6d} {reason}")
    for answer in ("off done", "reboot done", "on done", "status off", "status on"):
        assert world.answers[answer] > 100, "the simulation must show that it works, too"


class RoughChaos(Chaos):
    """A small pool in which everything happens often."""

    OFTEN = {
        "ask": 2,
        "begin_move": 2,
        "finish_move": 2,
        "crash": 8,
        "revive": 8,
        "fence": 4,
        "lose_power": 4,
        "split": 3,
        "heal": 3,
        "restart_libvirt": 3,
    }

    def __init__(self, world: RoughWorld) -> None:
        super().__init__(world)
        self.rough = world
        self.happenings = [(each, weight * self.OFTEN.get(each.__name__, 1)) for each, weight in self.happenings]
        self.happenings += [(self.boot, 0.004), (self.restart_all, 0.003)]

    def ask(self) -> None:
        host = self.host()
        if host is None or self.rng.random() < 0.5:
            return super().ask()
        uuid = self.rng.choice(self.play)
        name = next(each.guests[uuid].name for each in self.world.hosts.values() if uuid in each.guests)
        self.world.ask(host, self.rng.choice((Action.OFF, Action.STATUS, Action.ON)), uuid, name)
        return None

    def revive(self) -> None:
        host = self.host(is_up=False)
        if host is not None:
            if not host.is_up:
                self.rough.boot(host)
            self.world.start_daemon(host)

    def fence(self) -> None:
        part = self.rough.quorate_part()
        away = [host for host in self.world.hosts.values() if host.member is None or host.part != part]
        if away and part is not None:
            self.rough.fence(self.rng.choice(away))

    def boot(self) -> None:
        down = [host for host in self.world.hosts.values() if not host.is_up]
        if down:
            self.rough.boot(self.rng.choice(down))

    def split(self) -> None:
        up = [host for host in self.world.hosts.values() if host.is_up]
        for host in self.rng.sample(up, self.rng.randint(0, len(up))):
            host.part = 1
        self.world.form_groups()

    def restart_all(self) -> None:
        """All daemons end, and some of them are started again at once."""
        for host in self.world.hosts.values():
            if host.member is not None:
                self.world.stop_daemon(host)
        for host in self.world.hosts.values():
            if host.is_up and self.rng.random() < 0.7:
                self.world.start_daemon(host)


ROUGH_SEEDS, ROUGH_STEPS = 60, 4_000


def test_no_answer_is_wrong_in_a_small_and_rough_pool(capsys: pytest.CaptureFixture[str]) -> None:
    answers: Counter[str] = Counter()
    for seed in range(ROUGH_SEEDS):
        world = RoughWorld(3, 6, seed)
        chaos = RoughChaos(world)
        for step in range(ROUGH_STEPS):
            chaos.step()
            assert not world.wrong, (seed, step, world.wrong)
        answers += world.answers
    with capsys.disabled():
        print(f"\n3 hosts, {ROUGH_SEEDS} seeds, {ROUGH_STEPS} steps each: {dict(sorted(answers.items()))}")
    for answer in ("off done", "reboot done", "on done", "status off", "status on"):
        assert answers[answer] > 100


SIZES = ((2, 50), (8, 1_000), (32, 5_000), (64, 10_000))


@pytest.mark.parametrize(("hosts", "guests"), SIZES)
def test_what_it_costs_as_the_pool_grows(hosts: int, guests: int, capsys: pytest.CaptureFixture[str]) -> None:
    """A request costs a message of each host, whatever the number of guests; a change costs one."""
    world = World(hosts, guests, SEED)
    memory_kb = memory_bytes(world) / 1024
    uuid = next(uuid for uuid in world.uuids if world.places[uuid] == {2})
    asked, other, last = world.hosts[1], world.hosts[2], world.hosts[hosts]
    costs = {
        "status": cost(world, lambda: world.ask(asked, Action.STATUS, uuid)),
        "off": cost(world, lambda: world.ask(asked, Action.OFF, uuid)),
        "status of what is off": cost(world, lambda: world.ask(asked, Action.STATUS, uuid)),
        "change": cost(world, lambda: world.start_guest(other, uuid)),
        "leave": cost(world, lambda: world.stop_daemon(last)),
        "join": cost(world, lambda: world.start_daemon(last)),
    }
    with capsys.disabled():
        told = ", ".join(f"{name} {count} ({size} bytes)" for name, (count, size) in costs.items())
        print(f"\n{hosts} hosts, {guests} guests; messages: {told}; memory of one host {memory_kb:.0f} kB", end=" ")
    assert not world.wrong
    assert world.answers == {"status on": 1, "off done": 1, "status off": 1}
    assert costs["status"][0] == costs["status of what is off"][0] == hosts + 1
    assert costs["off"][0] == 2 * (hosts + 1) + 3  # order, result, and the change that is told
    assert (costs["change"][0], costs["leave"][0]) == (1, 0)
    # All greet, and tell of their guests; one of those who were here, and the newcomer, tell who had which guest last.
    assert costs["join"][0] <= 2 * hosts + 2


def memory_bytes(world: World) -> int:
    """Return how much memory of a daemon the knowledge of host 1 takes, decoded as it is heard."""
    known = world.hosts[1].member
    assert known is not None
    told = [
        (node, messages.encode(Listing(tuple(host.guests.values()), (), True, True)))
        for node, host in known.directory.hosts.items()
    ]
    tracemalloc.start()
    try:
        directory = Directory()
        directory.set_members(known.directory.members, 0.0, 0.0)
        for node, data in told:
            message = messages.decode(data)
            assert isinstance(message, Listing)
            directory.listed(node, message, 1.0)
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def cost(world: World, happening: Callable[[], None]) -> tuple[int, int]:
    """Return how many messages *happening* costs, and their bytes."""
    before = {id(host.ring): len(host.ring.sent) for host in world.hosts.values()}
    happening()
    world.settle()
    rings = {id(host.ring): host.ring for host in world.hosts.values()}
    sent = [message for key, ring in rings.items() for _, message in ring.sent[before.get(key, 0) :]]
    return len(sent), sum(len(messages.encode(message)) for message in sent)
