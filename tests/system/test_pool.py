"""Three hosts with real corosyncs, libvirtds and guests: whoever is asked, the answer is what libvirt says, or failure.

Each answer is compared with the truth, read from the libvirtds themselves.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator

import pytest

from lab import pool
from lab.ours import CommandLine
from lab.pool import PoolHost, PoolLab
from lab.process import Result

pytestmark = [pytest.mark.system, pytest.mark.long]
OK, FAILED, OFF = 0, 1, 2
FENCED = "/usr/local/sbin/was-fenced"
FENCED_LIST = "/etc/fenced-hosts"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, vmfence: CommandLine) -> Iterator[PoolLab]:
    """Three hosts of ours.  Guest gN runs at host N, spare is defined at host 1 and off."""
    if missing := pool.missing():
        pytest.skip(f"needs {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("pool")

    def furnish(host: PoolHost) -> None:
        host.hypervisor.define(f"g{host.number}", start=True)
        host.disk.write(FENCED, f'#!/bin/sh\nexec grep -qx "$1" {FENCED_LIST}\n', 0o755)

    with PoolLab(vmfence, folder, ("vmfence",) * 3, furnish, f'fenced_command = "{FENCED}";') as lab:
        lab[1].hypervisor.define("spare")
        yield lab


@pytest.fixture
def lab(built: PoolLab) -> Iterator[PoolLab]:
    """The hosts together again, all guests where they belong."""
    for host in built.hosts.values():
        host.disk.write(FENCED_LIST, "", 0o644)
    built.restore()
    for number, host in built.hosts.items():
        for guest in set(host.hypervisor.names()) - {f"g{number}", "spare"}:
            if host.hypervisor.is_on(guest):
                host.hypervisor.power_off(guest)
            host.hypervisor.undefine(guest)
        if f"g{number}" not in host.hypervisor.names():
            host.hypervisor.define(f"g{number}")
        if not host.hypervisor.is_on(f"g{number}"):
            host.hypervisor.power_on(f"g{number}")
    if built[1].hypervisor.is_on("spare"):
        built[1].hypervisor.power_off("spare")
    for by in built.hosts:
        for at in built.hosts:
            built.wait_known(f"g{at}", at, by)
    yield built


def judge(lab: PoolLab, answer: Result, action: str, guest: str) -> None:
    """Fail unless *answer* is failure or the truth."""
    places = lab.truth(guest)
    if action == "status" and answer.exit == OFF or action == "off" and answer.exit == OK:
        assert not places, f"{action} of {guest} says {answer.exit}, and it runs at {places}\n{lab.log()}"


def ask(lab: PoolLab, by: int, action: str, guest: str) -> int:
    answer = lab[by].ask("-o", action, "-H", guest)
    judge(lab, answer, action, guest)
    return answer.exit


def refuses_to_guess(lab: PoolLab, by: int, guest: str) -> None:
    """Neither success nor OFF may be said of a guest out of sight."""
    assert lab.truth(guest)
    assert ask(lab, by, "status", guest) == FAILED
    assert ask(lab, by, "off", guest) == FAILED
    assert ask(lab, by, "reboot", guest) == FAILED
    assert lab.truth(guest)


# Whoever is asked


@pytest.mark.parametrize("by", [1, 2, 3])
def test_a_guest_is_fenced_through_any_host(lab: PoolLab, by: int) -> None:
    before = lab[2].hypervisor.domain_id("g2")
    assert ask(lab, by, "reboot", "g2") == OK
    assert lab[2].hypervisor.domain_id("g2") not in (-1, before)
    assert ask(lab, by, "off", "g2") == OK
    assert lab.truth("g2") == []
    assert ask(lab, by, "status", "g2") == OFF
    assert ask(lab, by, "off", "g2") == OK  # a fence that is repeated
    assert ask(lab, by, "on", "g2") == OK
    assert lab.truth("g2") == [2]
    assert ask(lab, by, "status", "g2") == OK


def test_names_and_uuids_are_both_known_everywhere(lab: PoolLab) -> None:
    with lab[3].hypervisor.connection() as connection:
        uuid = connection.lookupByName("g3").UUIDString()
    assert ask(lab, 1, "status", uuid) == ask(lab, 1, "status", uuid.upper()) == ask(lab, 1, "status", "g3") == OK
    assert ask(lab, 1, "status", "G3") == FAILED


def test_the_list_has_the_guests_of_all_hosts(lab: PoolLab) -> None:
    """It is what the hosts have told, a moment after it happened."""

    def listed() -> dict[str, str]:
        return {line.split()[0]: line.split()[-1] for line in lab[2].ask("-o", "list").stdout.splitlines()}

    wanted = {"g1": "on", "g2": "on", "g3": "on", "spare": "off"}
    pool.wait_until(lambda: listed() == wanted, what="all guests in the list")
    lab[3].hypervisor.power_off("g3")
    pool.wait_until(lambda: listed() == {**wanted, "g3": "off"}, what="a change in the list")


@pytest.mark.parametrize("by", [1, 3])
def test_a_guest_that_is_off_is_off_for_all_and_an_unknown_one_is_not(lab: PoolLab, by: int) -> None:
    assert ask(lab, by, "status", "spare") == OFF
    assert ask(lab, by, "off", "spare") == OK
    for action in ("status", "off", "reboot", "on"):
        assert ask(lab, by, action, "nobody") == FAILED


def test_the_status_shows_the_pool(lab: PoolLab) -> None:
    shown = lab[1].disk.ok("/opt/vmfence/bin/vmfence", "host", "status")
    assert "pool: host 1, quorate\n" in shown
    assert "  2 h2: vmfence, guests: 1\n" in shown
    text = lab[1].disk.ok("/opt/vmfence/bin/vmfence", "host", "status", "--json")
    found = json.loads(text)["pool"]
    assert found["node"] == 1 and found["is_quorate"]
    assert [(host["node"], host["name"], host["is_here"], host["program"]) for host in found["hosts"]] == [
        (number, f"h{number}", True, "vmfence") for number in (1, 2, 3)
    ]


# Guests that move


def test_a_guest_that_moved_is_fenced_where_it_is(lab: PoolLab) -> None:
    """A stand-in for migration: gone here, come there, with the same name and UUID."""
    with lab[1].hypervisor.connection() as connection:
        uuid = connection.lookupByName("g1").UUIDString()
    lab[1].hypervisor.power_off("g1")
    lab[1].hypervisor.undefine("g1")
    lab[2].hypervisor.define("g1", uuid, start=True)
    for by in (1, 2, 3):
        assert ask(lab, by, "status", "g1") == OK
    assert ask(lab, 3, "off", "g1") == OK
    assert lab.truth("g1") == []
    assert ask(lab, 1, "status", "g1") == OFF


def test_a_guest_in_two_places_is_ended_in_both(lab: PoolLab) -> None:
    with lab[1].hypervisor.connection() as connection:
        uuid = connection.lookupByName("g1").UUIDString()
    lab[2].hypervisor.define("g1", uuid, start=True)
    assert lab.truth("g1") == [1, 2]
    assert ask(lab, 3, "off", "g1") == OK
    assert lab.truth("g1") == []


# Hosts that are lost, idle


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_host_without_its_daemon_is_not_guessed_at(lab: PoolLab, how: str) -> None:
    """Also after a clean stop: the reference then says OFF, and success for off (D5)."""
    lab[1].daemon.kill() if how == "kill" else lab[1].daemon.stop()
    lab.wait_together(2, 3)
    refuses_to_guess(lab, 2, "g1")
    refuses_to_guess(lab, 3, "g1")
    assert ask(lab, 2, "off", "g3") == OK  # the others' guests are no less theirs
    assert ask(lab, 2, "status", "g3") == OFF
    lab[1].start_daemon()
    lab.wait_together()
    assert ask(lab, 2, "off", "g1") == OK


def test_a_daemon_that_starts_while_a_host_is_away_remembers_what_that_had(lab: PoolLab) -> None:
    lab[1].daemon.kill()
    lab.wait_together(2, 3)
    for number in (2, 3):
        lab[number].daemon.kill()
        lab[number].start_daemon()
    lab.wait_together(2, 3)
    refuses_to_guess(lab, 2, "g1")


def test_a_host_without_its_corosync_is_not_guessed_at(lab: PoolLab) -> None:
    lab[1].corosync.kill()
    lab.wait_together(2, 3)
    refuses_to_guess(lab, 2, "g1")
    refuses_to_guess(lab, 1, "g2")
    refuses_to_guess(lab, 1, "g1")  # it runs right here, but who else has it nobody can tell
    lab[1].corosync.start()
    lab.wait_together()
    lab.wait_known("g2", 2, 1)
    assert ask(lab, 2, "off", "g1") == OK


def test_neither_side_of_a_split_guesses_at_the_other(lab: PoolLab) -> None:
    lab[1].cut_link()
    lab.wait_together(2, 3)
    lab.wait_alone(1)
    refuses_to_guess(lab, 2, "g1")
    assert ask(lab, 2, "off", "g3") == OK
    for action in ("status", "off", "reboot"):
        done = lab[1].ask_here("-o", action, "-H", "g2")
        judge(lab, done, action, "g2")
        assert done.exit == FAILED
    assert lab[1].ask_here("-o", "status", "-H", "spare").exit == FAILED  # off, but not for a minority to say
    assert lab.truth("g2") == [2]
    lab[1].mend_link()
    lab.wait_together()
    assert ask(lab, 1, "off", "g2") == OK


def test_the_minority_may_end_what_it_can_see(lab: PoolLab) -> None:
    lab[1].cut_link()
    lab.wait_alone(1)
    assert lab[1].ask_here("-o", "off", "-H", "g1").exit == OK
    assert lab.truth("g1") == []


def test_a_fenced_host_had_its_guests_off(lab: PoolLab) -> None:
    lab[1].daemon.kill()
    lab[1].corosync.kill()
    lab.wait_together(2, 3)
    refuses_to_guess(lab, 2, "g1")
    lab[1].hypervisor.power_off("g1")  # as a fence of its host does
    assert ask(lab, 2, "off", "g1") == FAILED  # nobody has told
    for number in (2, 3):
        lab[number].disk.write(FENCED_LIST, "h1\n", 0o644)
    # That it was not fenced is believed for two seconds.
    pool.wait_until(lambda: ask(lab, 2, "status", "g1") == OFF, 20, "a fencing that counts")
    assert ask(lab, 3, "off", "g1") == OK


# Hosts that are lost in the middle of a request


def in_background(lab: PoolLab, by: int, action: str, guest: str) -> tuple[threading.Thread, list[Result]]:
    answers: list[Result] = []
    thread = threading.Thread(target=lambda: answers.append(lab[by].ask("-o", action, "-H", guest)))
    thread.start()
    return thread, answers


def when_asked(lab: PoolLab, guest: str) -> None:
    """Wait until libvirt has been told to end *guest*, whose QEMU hangs."""
    pool.wait_until(lambda: lab[1].hypervisor.is_told_to_end(guest), 20, f"{guest} told to end")


@pytest.mark.parametrize("loss", ["daemon", "corosync", "link"])
def test_a_host_that_is_lost_during_a_request_leaves_an_answer(lab: PoolLab, loss: str) -> None:
    """libvirt needs ten seconds to end a guest that hangs: time enough to lose the host that does it."""
    lab[1].hypervisor.hang("g1")
    thread, answers = in_background(lab, 2, "off", "g1")
    when_asked(lab, "g1")
    if loss == "link":
        lab[1].cut_link()
    else:
        getattr(lab[1], loss).kill()
    thread.join(60)
    assert len(answers) == 1
    assert answers[0].exit == FAILED
    assert answers[0].seconds < 30


def test_a_host_that_hangs_during_a_request_leaves_an_answer(lab: PoolLab) -> None:
    lab[1].hypervisor.pause()
    done = lab[2].ask("-o", "off", "-H", "g1")
    assert done.exit == FAILED
    assert done.seconds < 30
    lab[1].hypervisor.resume()
    assert lab.truth("g1") in ([1], [])


def test_a_daemon_that_is_paused_leaves_an_answer(lab: PoolLab) -> None:
    lab[1].daemon.signal(signal.SIGSTOP)
    try:
        done = lab[2].ask("-o", "status", "-H", "g1")
        assert done.exit == FAILED
        assert ask(lab, 2, "off", "g3") == OK
    finally:
        lab[1].daemon.signal(signal.SIGCONT)


def test_a_corosync_that_hangs_leaves_an_answer(lab: PoolLab) -> None:
    lab[1].corosync.signal(signal.SIGSTOP)
    try:
        done = lab[1].ask("-o", "status", "-H", "g2")
        assert done.exit == FAILED
        assert done.seconds < 15
        lab.wait_together(2, 3)
        refuses_to_guess(lab, 2, "g1")
        assert lab[1].disk.run("/opt/vmfence/bin/vmfence", "host", "status").exit == 0  # its daemon lives
    finally:
        lab[1].corosync.signal(signal.SIGCONT)
