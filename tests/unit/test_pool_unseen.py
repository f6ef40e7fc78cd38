"""A guest that is started by hand and migrates while the daemons of both hosts do not look: it is not called off.

The guest ran at host 2, or at 1 and then at 2, and ended there.  Then it is started at host 1 and goes to host 3.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from unit.pool_world import OFF, RUNNING, SimHost, World
from vmfence.host.pool import directory
from vmfence.host.pool.messages import Entry
from vmfence.protocol.request import Action

UUID = "00000001-0000-4000-8000-000000000000"
HERE, AWAY = Entry("g", UUID, RUNNING), Entry("g", UUID, OFF, moved=True)
ENDED = Entry("g", UUID, OFF)


def ended_at_2(began_at_1: bool = False) -> World:
    """Return three hosts and a guest that ran at host 2 last; hosts 1 and 2 have it."""
    world = World(3, 0, 5)
    world.uuids, one, two = [UUID], world.hosts[1], world.hosts[2]
    world.last_place[UUID] = 2
    if began_at_1:
        put(world, one, HERE)
        world.settle()
    put(world, two, HERE)
    put(world, one, AWAY if began_at_1 else ENDED)
    world.settle()
    world.end_guest(two, UUID)
    world.settle()
    world.now += 60
    return world


def put(world: World, host: SimHost, entry: Entry | None) -> None:
    """Let libvirt at a host have the guest so, and its daemon hear of it."""
    if entry is None:
        del host.guests[UUID]
    else:
        host.guests[UUID] = entry
        if entry.is_active:
            world._set_place(UUID, {host.number})
    world.changed(host)


def goes_unseen(world: World, leaves: Entry | None = AWAY) -> None:
    """Start the guest at host 1 and let it go to host 3, where no daemon runs; *leaves*: what is at host 1 then."""
    world.now += 60
    put(world, world.hosts[1], HERE)
    world.now += 30
    put(world, world.hosts[3], HERE)
    put(world, world.hosts[1], leaves)
    world.now += 60


def ask_all(world: World) -> None:
    world.answers.clear()
    world.settle()
    for number, host in world.hosts.items():
        for action in (Action.STATUS, Action.OFF, Action.ON):
            if host.member is not None:
                world.now += 10
                world.ask(world.hosts[number], action, UUID)
                world.settle()
    assert not world.wrong


def nobody_vouches(world: World) -> None:
    ask_all(world)
    assert not any("done" in answer or answer == "status off" for answer in world.answers), world.answers


def is_found(world: World) -> None:
    """With all hosts there it is seen, and ended; and then it stays off when one of them is away again."""
    world.start_daemon(world.hosts[3])
    ask_all(world)
    assert world.answers["status on"] and world.answers["off done"] and not world.asks
    world.end_guest(world.hosts[3], UUID)
    world.settle()
    world.ask(world.hosts[1], Action.STATUS, UUID)
    world.settle()
    assert world.answers["status off"] and not world.wrong


@pytest.mark.parametrize("began_at_1", [False, True])
def test_while_the_daemon_is_down(began_at_1: bool) -> None:
    world = ended_at_2(began_at_1)
    world.stop_daemon(world.hosts[3])
    world.settle()
    world.stop_daemon(world.hosts[1])
    world.settle()
    goes_unseen(world)
    world.start_daemon(world.hosts[1])
    nobody_vouches(world)
    is_found(world)


def test_and_libvirt_forgets_it() -> None:
    world = ended_at_2()
    world.stop_daemon(world.hosts[3])
    world.settle()
    world.stop_daemon(world.hosts[1])
    world.settle()
    goes_unseen(world, replace(ENDED, is_unexplained=True))
    world.start_daemon(world.hosts[1])
    nobody_vouches(world)
    is_found(world)


@pytest.mark.parametrize("leaves", [AWAY, None])
def test_while_the_daemon_cannot_read(leaves: Entry | None) -> None:
    world = ended_at_2()
    world.stop_daemon(world.hosts[3])
    world.settle()
    one = world.hosts[1]
    assert one.member is not None
    one.member.sight_changed(True)
    world.carry_out(one)
    one.later.clear()
    world.settle()
    goes_unseen(world, leaves)
    one.member.guests_read(list(one.guests.values()))
    one.member.sight_changed(False)
    world.carry_out(one)
    nobody_vouches(world)
    is_found(world)


@pytest.mark.parametrize("is_undisturbed", [True, False])
def test_what_ran_nowhere_for_long_with_all_hosts_there_is_off(is_undisturbed: bool) -> None:
    """Else one restart of a daemon would let it be refused, for ever, whenever a host is away."""
    world = ended_at_2(began_at_1=True)
    world.stop_daemon(world.hosts[1])
    world.settle()
    world.start_daemon(world.hosts[1])
    world.settle()
    for _ in range(2 if is_undisturbed else 1):
        world.now += directory.FORGET_S + 1
        for host in world.hosts.values():
            assert host.member is not None
            host.member.tick(world.clock(host))
    world.stop_daemon(world.hosts[3])
    world.settle()
    world.ask(world.hosts[2], Action.STATUS, UUID)
    world.settle()
    assert world.answers["status off"] == is_undisturbed, world.reasons
