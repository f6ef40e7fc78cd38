"""A guest that is migrated, live, between two hosts of a pool, while all are asked of it.

Real corosyncs, libvirtds and QEMUs.  Each answer is compared with the truth, read from the libvirtds themselves after
the migration has ended: a guest that was called off must not come to run where it was going.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import libvirt
import pytest

from lab import migration, pool, wire
from lab.machine import PROGRAM
from lab.migration import Migration
from lab.ours import CommandLine
from lab.pool import PoolHost, PoolLab

pytestmark = [pytest.mark.system, pytest.mark.long]
OK, FAILED, OFF = 0, 1, 2
MOVER, UUID = "mover", "11111111-2222-3333-4444-00000000000a"
KEPT, FORGOTTEN = 0, libvirt.VIR_MIGRATE_UNDEFINE_SOURCE  # what becomes of the definition that stays behind
ALL = (1, 2, 3)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, vmfence: CommandLine) -> Iterator[PoolLab]:
    """Three hosts.  The guest that moves runs at the first; another, idle, at the third."""
    if missing := pool.missing():
        pytest.skip(f"needs {', '.join(missing)}")

    def furnish(host: PoolHost) -> None:
        migration.be_another_host(host.hypervisor)
        if host.number == 3:
            host.hypervisor.define("idle", start=True)

    with PoolLab(vmfence, tmp_path_factory.mktemp("pool"), ("vmfence",) * 3, furnish) as lab:
        yield lab


@pytest.fixture
def lab(built: PoolLab) -> Iterator[PoolLab]:
    """The hosts together, the guest at the first and defined nowhere else."""
    built.restore()
    for host in built.hosts.values():
        remove(host)
    migration.define_busy(built[1].hypervisor, MOVER, UUID)
    for by in ALL:
        built.wait_known(MOVER, 1, by)
    yield built
    for host in built.hosts.values():
        host.hypervisor.resume()
        remove(host)  # it keeps a processor busy


def remove(host: PoolHost) -> None:
    if MOVER in host.hypervisor.names():
        if host.hypervisor.domain_id(MOVER) != -1:
            host.hypervisor.power_off(MOVER)
        host.hypervisor.undefine(MOVER)


def migrating(lab: PoolLab, source: int, target: int, flags: int = KEPT) -> Migration:
    return Migration(MOVER, lab[source].hypervisor, lab[target].hypervisor, lab[target].ipv4, flags)


def migrate(lab: PoolLab, source: int, target: int, flags: int = KEPT) -> None:
    with migrating(lab, source, target, flags) as moving:
        moving.wait_copying()
        moving.finish()
    assert lab.truth(MOVER) == [target]


def ask(lab: PoolLab, by: int, action: str) -> int:
    return lab[by].ask("-o", action, "-H", MOVER).exit


def judge(lab: PoolLab, answer: int, action: str) -> None:
    """Fail if the guest was called off and runs.  For the time when nothing moves any more."""
    if action == "status" and answer == OFF or action == "off" and answer == OK:
        assert not lab.truth(MOVER), f"{action} says {answer}, and it runs at {lab.truth(MOVER)}\n{lab.log()}"


def listed(lab: PoolLab, by: int) -> list[tuple[str, str]]:
    lines = lab[by].ask("-o", "list").stdout.split("\n")
    return sorted((line.split()[0], line.split()[-1]) for line in lines if line)


def wait_listed(lab: PoolLab, state: str) -> None:
    """Wait until all lists have the guest once, as *state*."""
    wanted = [("idle", "on"), (MOVER, state)]
    pool.wait_until(lambda: all(listed(lab, by) == wanted for by in ALL), what=f"{MOVER} {state} in all lists")


def wait_told(lab: PoolLab, host: int, guests: int) -> None:
    """Wait until the others know that *host* has so many guests."""

    def knows(by: int) -> bool:
        told = json.loads(lab[by].disk.ok(PROGRAM, "host", "status", "--json"))["pool"]["hosts"]
        return any(each["node"] == host and each["guests"] == guests for each in told)

    pool.wait_until(lambda: all(knows(by) for by in ALL if by != host), 30, f"{guests} guests at host {host}", 0.1)


@contextmanager
def paused(host: PoolHost) -> Iterator[None]:
    """Let a host's daemon see nothing while the block runs."""
    os.kill(host.daemon.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(host.daemon.pid, signal.SIGCONT)


# Before and after


@pytest.mark.parametrize("left_behind", [KEPT, FORGOTTEN], ids=["kept", "forgotten"])
def test_a_guest_that_has_migrated_is_fenced_where_it_is(lab: PoolLab, left_behind: int) -> None:
    """Asked at the host that it has left, which still has its definition or does not know it any more."""
    wait_listed(lab, "on")
    migrate(lab, 1, 2, left_behind)
    assert [ask(lab, by, "status") for by in ALL] == [OK] * 3
    wait_listed(lab, "on")
    before = lab[2].hypervisor.domain_id(MOVER)
    assert ask(lab, 1, "reboot") == OK
    assert lab.truth(MOVER) == [2]
    assert lab[2].hypervisor.domain_id(MOVER) != before
    assert ask(lab, 1, "off") == OK
    assert lab.truth(MOVER) == []
    assert [ask(lab, by, "status") for by in ALL] == [OFF] * 3
    wait_listed(lab, "off")
    assert ask(lab, 1, "on") == OK
    assert lab.truth(MOVER) == [2]


def test_a_guest_that_has_come_back_is_fenced_where_it_is(lab: PoolLab) -> None:
    migrate(lab, 1, 2)
    migrate(lab, 2, 1)
    assert [ask(lab, by, "status") for by in ALL] == [OK] * 3
    assert ask(lab, 2, "off") == OK
    assert lab.truth(MOVER) == []
    assert [ask(lab, by, "status") for by in ALL] == [OFF] * 3
    assert ask(lab, 3, "on") == OK
    assert lab.truth(MOVER) == [1]


def test_a_guest_whose_migration_was_given_up_is_where_it_was(lab: PoolLab) -> None:
    with migrating(lab, 1, 2) as moving:
        moving.wait_copying()
        moving.abort()
        moving.wait()
    assert lab.truth(MOVER) == [1]
    assert [ask(lab, by, "status") for by in ALL] == [OK] * 3
    assert ask(lab, 2, "off") == OK
    assert lab.truth(MOVER) == []
    assert [ask(lab, by, "status") for by in ALL] == [OFF] * 3


# Meanwhile


def keep_asking(lab: PoolLab, by: int, has_ended: threading.Event) -> list[int | None]:
    """Ask for the status again and again, without a program to start for each; return the answers."""
    key = lab[by].disk.path(pool.KEY).read_bytes()
    found = []
    while not has_ended.is_set():
        with wire.connect(lab[by].ipv4, timeout=30) as peer:
            peer.send(wire.sign(wire.packet(wire.STATUS, MOVER), key))
            found.append(peer.converse(key))
    return found


def test_it_is_never_off_while_it_migrates(lab: PoolLab) -> None:
    """From before the migration until after it, there and back, each host is asked as fast as it answers."""
    has_ended = threading.Event()
    with ThreadPoolExecutor(len(ALL)) as executor:
        asking = [executor.submit(lab.bridge.host.call, keep_asking, lab, by, has_ended) for by in ALL]
        try:
            migrate(lab, 1, 2)
            migrate(lab, 2, 1)
        finally:
            has_ended.set()
    for by, answers in zip(ALL, asking):
        assert Counter(answers.result()).keys() == {wire.DONE}, (
            f"by host {by}: {Counter(answers.result())}\n{lab.log()}"
        )
    wait_listed(lab, "on")


@pytest.mark.parametrize("by", ALL)
def test_it_can_be_fenced_while_it_is_copied(lab: PoolLab, by: int) -> None:
    with migrating(lab, 1, 2) as moving:
        moving.wait_copying()
        wait_listed(lab, "on")
        assert ask(lab, by, "off") == OK
        moving.wait()
    assert moving.trouble
    assert lab.truth(MOVER) == []
    assert [ask(lab, each, "status") for each in ALL] == [OFF] * 3
    assert ask(lab, 2, "on") == OK
    assert lab.truth(MOVER) == [1]


@pytest.mark.parametrize("by", ALL)
def test_it_is_fenced_nowhere_or_everywhere_when_it_is_handed_over(lab: PoolLab, by: int) -> None:
    """In the instant when it is paused at both hosts: what runs in the end must be what was said."""
    with migrating(lab, 1, 2) as moving:
        moving.wait_copying()
        moving.let_finish()
        moving.wait_handover()
        answer = ask(lab, by, "off")
        moving.wait()
    judge(lab, answer, "off")
    for each in ALL:
        status = ask(lab, each, "status")
        judge(lab, status, "status")
    assert ask(lab, by, "off") == OK  # Pacemaker tries again
    assert lab.truth(MOVER) == []


# Hosts that are lost


def test_the_host_that_it_has_left_is_not_needed(lab: PoolLab) -> None:
    migrate(lab, 1, 2, FORGOTTEN)
    wait_told(lab, 1, 0)
    lab[1].daemon.kill()
    lab.wait_together(2, 3)
    assert [ask(lab, by, "status") for by in (2, 3)] == [OK] * 2
    assert ask(lab, 3, "off") == OK
    assert lab.truth(MOVER) == []
    assert ask(lab, 2, "status") == OFF


def test_the_host_that_it_is_at_is_not_guessed_at(lab: PoolLab) -> None:
    """The host that it has left has its definition, shut off, and forgets why when libvirt and daemon restart."""
    migrate(lab, 1, 2)
    wait_told(lab, 2, 1)
    lab[2].daemon.kill()
    lab.wait_together(1, 3)
    lab[1].hypervisor.restart()
    for again in (False, True):
        for by in (1, 3):
            assert [ask(lab, by, action) for action in ("status", "off", "reboot", "on")] == [FAILED] * 4
        if not again:
            lab[1].daemon.kill()
            lab[1].start_daemon()
            lab.wait_together(1, 3)
    assert lab.truth(MOVER) == [2]


@pytest.mark.parametrize("loss", ["daemon", "corosync"])
def test_the_host_that_it_leaves_is_lost_meanwhile(lab: PoolLab, loss: str) -> None:
    """The guest goes on there when the migration fails because of the fence at the other host."""
    with migrating(lab, 1, 2) as moving:
        moving.wait_copying()
        getattr(lab[1], loss).kill()
        lab.wait_together(2, 3)
        assert ask(lab, 3, "status") != OFF
        assert ask(lab, 3, "off") == FAILED
        moving.wait()
    assert lab.truth(MOVER) == [1]
    for by in (2, 3):
        assert [ask(lab, by, action) for action in ("status", "off")] == [FAILED] * 2
    lab.restore()
    assert ask(lab, 2, "off") == OK
    assert lab.truth(MOVER) == []


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_the_host_that_it_goes_to_is_lost(lab: PoolLab, when: str) -> None:
    """Before: nobody has ever heard that it has the guest.  The host that it leaves knows that it went somewhere."""
    if when == "before":
        lab[2].daemon.kill()
    with migrating(lab, 1, 2) as moving:
        moving.wait_copying()
        if when == "meanwhile":
            wait_told(lab, 2, 1)
            lab[2].daemon.kill()
        lab.wait_together(1, 3)
        moving.finish()
    assert lab.truth(MOVER) == [2]
    for by in (1, 3):
        assert [ask(lab, by, action) for action in ("status", "off", "reboot", "on")] == [FAILED] * 4
    assert lab.truth(MOVER) == [2]


@pytest.mark.parametrize("daemon_runs", [False, True], ids=["unseen", "seen before"])
def test_it_goes_unseen_and_libvirt_forgets_that_it_went(lab: PoolLab, daemon_runs: bool) -> None:
    """No daemon sees the migration, or hears why the guest is off at the host that it has left: that libvirt restarts.

    Its daemon is down meanwhile, or it runs, and its libvirtd ends before it can be asked.
    """
    lab[2].daemon.kill()
    lab.wait_together(1, 3)
    if daemon_runs:
        with paused(lab[1]):
            migrate(lab, 1, 2)
            lab[1].hypervisor.restart()
    else:
        lab[1].daemon.kill()
        lab.wait_together(3)
        migrate(lab, 1, 2)
        lab[1].hypervisor.restart()
        lab[1].start_daemon()
        lab.wait_together(1, 3)
    assert lab[1].hypervisor.state(MOVER) == (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_UNKNOWN)
    for by in (1, 3):
        assert [ask(lab, by, action) for action in ("status", "off", "reboot", "on")] == [FAILED] * 4
    assert lab.truth(MOVER) == [2]
    lab[2].start_daemon()
    lab.wait_together(1, 2, 3)
    assert ask(lab, 1, "off") == OK
    assert lab.truth(MOVER) == []
    assert [ask(lab, by, "status") for by in ALL] == [OFF] * 3


def test_a_libvirtd_that_hangs_where_it_goes_to_leaves_an_answer(lab: PoolLab) -> None:
    with migrating(lab, 1, 2) as moving:
        moving.wait_copying()
        wait_listed(lab, "on")
        lab[2].hypervisor.pause()
        assert ask(lab, 3, "status") != OFF
        answer = ask(lab, 3, "off")
        lab[2].hypervisor.resume()
        moving.wait()
    judge(lab, answer, "off")
    assert ask(lab, 3, "off") == OK
    assert lab.truth(MOVER) == []
