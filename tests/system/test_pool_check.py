"""``host check`` and ``host list`` on the hosts of a real pool: green when all is well, else the cause first.

Three hosts with real corosyncs, libvirtds and guests; every fault is really made, and undone.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import pool
from lab.machine import PROGRAM
from lab.ours import CommandLine
from lab.pool import CONFIG, PoolHost, PoolLab
from lab.process import Result
from lab.waiting import wait_until

pytestmark = [pytest.mark.system, pytest.mark.long]
COROSYNC = "/etc/corosync/corosync.conf"
FENCED = "/usr/local/sbin/was-fenced"
MORE = f'fenced_command = "{FENCED}";'
FENCED_LIST = "/etc/fenced-hosts"
LIMIT_S = 12.0  # ten seconds, and the start of the program on a busy machine
TOLD_WITHIN = 30.0
# The hosts share one table of processes, so that each sees the QEMU processes of all.
SHARED = ("--skip", "host-guests-unseen")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, vmfence: CommandLine) -> Iterator[PoolLab]:
    """Three hosts of ours.  Guest gN runs at host N, spare is defined at host 1 and off."""
    if missing := pool.missing():
        pytest.skip(f"needs {', '.join(missing)}")

    def furnish(host: PoolHost) -> None:
        host.hypervisor.define(f"g{host.number}", start=True)
        host.disk.write(FENCED, f'#!/bin/sh\nexec grep -qx "$1" {FENCED_LIST}\n', 0o755)

    folder = tmp_path_factory.mktemp("pool-check")
    with PoolLab(vmfence, folder, ("vmfence",) * 3, furnish, MORE) as lab:
        lab[1].hypervisor.define("spare")
        yield lab


@pytest.fixture
def lab(built: PoolLab) -> Iterator[PoolLab]:
    """The hosts together again, each knowing what all have."""
    for host in built.hosts.values():
        host.disk.write(FENCED_LIST, "", 0o644)
    built.restore()
    for host in built.hosts.values():
        wait_until(lambda host=host: names(host) == {"g1", "g2", "g3", "spare"}, TOLD_WITHIN, "all guests told")
    yield built


def check(host: PoolHost, *options: str) -> dict[str, Any]:
    """Return what the check finds, as JSON; whatever it is, it ends in time and without a traceback."""
    done = host.disk.run(PROGRAM, "host", "check", "--json", *SHARED, *options)
    assert "Traceback" not in done.stderr and done.seconds < LIMIT_S, done
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def finding(host: PoolHost, code: str) -> dict[str, str]:
    """Return the finding of that code, which must be there."""
    found = check(host)
    return next(one for one in found["findings"] if one["code"] == code)


def first(found: dict[str, Any]) -> str:
    """Return the code of the first finding that is more than a note."""
    return next((str(one["code"]) for one in found["findings"] if one["severity"] != "note"), "")


def listed(host: PoolHost) -> Result:
    return host.disk.run(PROGRAM, "host", "list")


def records(host: PoolHost) -> dict[str, Any]:
    done = host.disk.run(PROGRAM, "host", "list", "--json")
    return {one["name"]: one for one in json.loads(done.stdout)}


def names(host: PoolHost) -> set[str]:
    return {*records(host)}


def rows(done: Result) -> dict[str, str]:
    """Return the state and host of each guest, as a table shows them."""
    lines = [line.split("  ") for line in done.stdout.splitlines()[1:]]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    return {line[0]: f"{line[2]} at {line[3]}" for line in cells}


def test_a_pool_that_is_well_has_no_finding(lab: PoolLab) -> None:
    for host in lab.hosts.values():
        found = check(host, "--strict")
        assert {one["severity"] for one in found["findings"]} <= {"note"}, found["findings"]
        assert found["not_judged"] == []
        assert len([code for code in found["passed"] if code.startswith("host-pool-")]) == 13


def test_the_list_has_the_guests_of_all_hosts(lab: PoolLab) -> None:
    for number, host in lab.hosts.items():
        done = listed(host)
        assert (done.exit, done.stderr) == (0, ""), done
        here = {each: f"h{each}" + (" (this one)" if each == number else "") for each in lab.hosts}
        wanted = {f"g{each}": f"running at {here[each]}" for each in lab.hosts}
        assert rows(done) == {**wanted, "spare": f"shut off at {here[1]}"}
    found = records(lab[2])
    assert found["g1"]["hosts"] == [{"node": 1, "name": "h1", "is_here": True, "state": "running"}]
    assert (found["g1"]["uri"], found["g2"]["uri"]) == (None, "qemu:///system")


def test_libvirt_counts_for_the_guests_of_this_host(lab: PoolLab) -> None:
    lab[1].hypervisor.power_on("spare")
    assert rows(listed(lab[1]))["spare"] == "running at h1 (this one)"  # the others hear of it a moment later
    lab[1].hypervisor.power_off("spare")


def test_without_the_daemon_the_list_tells_what_is_missing(lab: PoolLab) -> None:
    lab[3].daemon.stop()
    done = listed(lab[3])
    assert done.exit == 4 and {*rows(done)} == {"g3"}, done
    assert "error: only the guests of this host are shown" in done.stderr and "no daemon answers" in done.stderr
    assert first(check(lab[3])) == "host-daemon"


# Faults, each made on host 1 or seen from there: what must be found first, and done to the pool


def corosync_is_killed(lab: PoolLab) -> None:
    lab[1].corosync.kill()


def libraries_are_missing(lab: PoolLab) -> None:
    found = list(lab[1].disk.path("/usr/lib").glob("*/libcpg.so.4"))
    assert len(found) == 1
    found[0].rename(found[0].with_suffix(".gone"))


def quorum_is_lost(lab: PoolLab) -> None:
    lab[2].corosync.kill()
    lab[3].corosync.kill()
    wait_until(lambda: not lab[1].quorate(), TOLD_WITHIN, "no quorum")


def a_host_is_away(lab: PoolLab) -> None:
    lab[3].corosync.kill()
    wait_until(lambda: lab[1].hosts() == {1, 2}, TOLD_WITHIN, "host 3 away")


def a_daemon_is_away(lab: PoolLab) -> None:
    lab[3].daemon.stop()
    wait_until(lambda: lab[1].hosts() == {1, 2}, TOLD_WITHIN, "host 3 away")


def votes_are_not_counted(lab: PoolLab) -> None:
    change_corosync(lab[1], "provider: corosync_votequorum", "")


def fenced_command_is_gone(lab: PoolLab) -> None:
    lab[1].disk.path(FENCED).unlink()


def fenced_command_is_not_executable(lab: PoolLab) -> None:
    lab[1].disk.path(FENCED).chmod(0o644)


def fenced_command_is_open_to_all(lab: PoolLab) -> None:
    lab[1].disk.path(FENCED).chmod(0o777)


def nobody_tells_of_fenced_hosts(lab: PoolLab) -> None:
    path = lab[1].disk.path(CONFIG)
    path.write_text(path.read_text().replace(MORE, ""))
    lab[1].daemon.stop()
    lab[1].start_daemon()
    lab.wait_together()


def a_guest_runs_twice(lab: PoolLab) -> None:
    uuid = str(records(lab[1])["g1"]["uuid"])
    lab[2].hypervisor.define("g1", uuid, start=True)
    wait_until(lambda: len(records(lab[1])["g1"]["hosts"]) == 2, TOLD_WITHIN, "both told")


def a_name_is_taken_twice(lab: PoolLab) -> None:
    lab[2].hypervisor.define("spare")
    wait_until(lambda: listed(lab[1]).stdout.count("\nspare") == 2, TOLD_WITHIN, "both told")


FAULTS: dict[Callable[[PoolLab], None], tuple[str, str]] = {
    corosync_is_killed: ("host-pool-corosync", "error"),
    libraries_are_missing: ("host-pool-libraries", "error"),
    quorum_is_lost: ("host-pool-quorum", "error"),
    votes_are_not_counted: ("host-pool-votes", "error"),
    a_host_is_away: ("host-pool-away", "warning"),
    a_daemon_is_away: ("host-pool-away", "warning"),
    fenced_command_is_gone: ("host-pool-fenced-command", "error"),
    fenced_command_is_not_executable: ("host-pool-fenced-command", "error"),
    fenced_command_is_open_to_all: ("host-pool-fenced-command", "error"),
    nobody_tells_of_fenced_hosts: ("host-pool-fencing", "warning"),
    a_guest_runs_twice: ("host-pool-guest-twice", "error"),
    a_name_is_taken_twice: ("host-pool-name-twice", "warning"),
}


def change_corosync(host: PoolHost, old: str, new: str) -> None:
    """Have Corosync of *host* run with another configuration."""
    path = host.disk.path(COROSYNC)
    assert old in path.read_text()
    host.corosync.stop()
    path.write_text(path.read_text().replace(old, new))
    host.corosync.start()
    wait_until(lambda: host.disk.run("corosync-quorumtool", "-s").exit in (0, 1, 2), TOLD_WITHIN, "corosync")
    wait_until(lambda: listed(host).exit == 0, TOLD_WITHIN, "the daemon back in its pool")


@pytest.fixture
def mended(lab: PoolLab) -> Iterator[PoolLab]:
    """The pool, put back afterwards."""
    config, corosync = (lab[1].disk.path(path).read_text() for path in (CONFIG, COROSYNC))
    program = lab[1].disk.path(FENCED).read_text()
    yield lab
    for path in lab[1].disk.path("/usr/lib").glob("*/libcpg.so.gone"):
        path.rename(path.with_suffix(".4"))
    lab[1].disk.write(FENCED, program, 0o755)
    if lab[1].disk.path(COROSYNC).read_text() != corosync:
        lab[1].corosync.stop()
        lab[1].disk.write(COROSYNC, corosync, 0o644)
    if lab[1].disk.path(CONFIG).read_text() != config:
        lab[1].daemon.stop()
        lab[1].disk.write(CONFIG, config)
    for guest in {"g1", "spare"} & {*lab[2].hypervisor.names()}:
        if lab[2].hypervisor.is_on(guest):
            lab[2].hypervisor.power_off(guest)
        lab[2].hypervisor.undefine(guest)


@pytest.mark.parametrize("make", FAULTS, ids=lambda make: make.__name__)
def test_each_fault_is_found_first(mended: PoolLab, make: Callable[[PoolLab], None]) -> None:
    code, severity = FAULTS[make]
    make(mended)
    found = check(mended[1])
    assert (first(found), found["worst"]) == (code, severity), json.dumps(found["findings"], indent=1)
    assert all(one["remedy"] for one in found["findings"] if one["code"].startswith("host-pool-"))


def test_a_host_out_of_its_pool_lists_its_own_guests(mended: PoolLab) -> None:
    corosync_is_killed(mended)
    wait_until(lambda: listed(mended[1]).exit == 4, TOLD_WITHIN, "the daemon has left")
    done = listed(mended[1])
    assert {*rows(done)} == {"g1", "spare"}
    assert "the daemon is not in the group of its pool" in done.stderr


def test_guests_of_a_host_that_is_away_are_shown_as_they_were(mended: PoolLab) -> None:
    a_host_is_away(mended)
    done = listed(mended[1])
    assert done.exit == 0 and rows(done)["g3"] == "was running at h3 (away)"
    assert "warning: h3 is not in the group of the pool" in done.stderr
    assert records(mended[1])["g3"]["hosts"][0]["is_here"] is False


def test_a_host_that_was_fenced_is_no_warning(mended: PoolLab) -> None:
    a_host_is_away(mended)
    assert "not fenced since" in finding(mended[1], "host-pool-away")["evidence"]
    mended[1].disk.write(FENCED_LIST, "h3\n", 0o644)
    found = finding(mended[1], "host-pool-away")
    assert found["severity"] == "note" and "guests it had: 1; fenced since" in found["evidence"]


def test_hosts_without_a_name_are_told(mended: PoolLab) -> None:
    change_corosync(mended[1], "name: h2", "")
    assert finding(mended[1], "host-pool-names")["subject"] == "node 2"


def test_a_pool_with_fence_virtd_is_told_and_shown(tmp_path: Path, vmfence: CommandLine) -> None:
    def furnish(host: PoolHost) -> None:
        host.hypervisor.define(f"g{host.number}", start=True)

    with PoolLab(vmfence, tmp_path, ("vmfence", "fence_virtd"), furnish) as lab:
        wait_until(lambda: names(lab[1]) == {"g1", "g2"}, TOLD_WITHIN, "the guests of both")
        wait_until(lambda: "h2: fence_virtd" in lab[1].disk.ok(PROGRAM, "host", "status"), TOLD_WITHIN, "its program")
        assert rows(listed(lab[1]))["g2"] == "running at h2"
        found = check(lab[1])
    assert [one["code"] for one in found["findings"] if one["severity"] != "note"] == ["host-pool-fencing"]
    told = next(one for one in found["findings"] if one["code"] == "host-pool-fence-virtd")
    assert (told["severity"], told["subject"]) == ("note", "h2")


def test_a_daemon_that_runs_with_another_backend(mended: PoolLab) -> None:
    text = mended[1].disk.path(CONFIG).read_text()
    mended[1].daemon.stop()
    mended[1].disk.write(CONFIG, text.replace('"cpg"', '"libvirt"').replace("cpg {", "libvirt {").replace(MORE, ""))
    mended[1].start_daemon()
    mended[1].disk.write(CONFIG, text)
    mended[1].daemon.signal(signal.SIGHUP)  # refused
    told = [one for one in check(mended[1])["findings"] if one["severity"] == "error"]
    assert [one["code"] for one in told] == ["host-daemon-stale", "host-pool-joined"]
    assert told[0]["remedy"].startswith("kill ")  # no service runs it
    assert "the daemon runs without the pool" in listed(mended[1]).stderr
    mended[1].daemon.stop()
