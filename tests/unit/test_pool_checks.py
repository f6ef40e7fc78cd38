"""The rules of ``host check`` about a pool: one that is well passes, each fault has its own code, the cause first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_host_checks import CONFIG, NOW, PROBE, UUIDS, healthy, status

from vmfence import diagnose
from vmfence.config import settings as configuration
from vmfence.errors import DeadlineExceeded, NotPermitted, ToolMissing, Unreachable, VmfenceError
from vmfence.findings import ERROR, NOTE, WARNING, Finding, Severity
from vmfence.guest.answers import HostAnswer
from vmfence.host import pool_facts
from vmfence.host.check.checks import CHECKS
from vmfence.host.check.facts import Facts
from vmfence.host.pool.corosync import Sight
from vmfence.host.pool.messages import Entry
from vmfence.host.pool_facts import Fencing, Program
from vmfence.host.pool_report import PoolHost, PoolReport, Sighting
from vmfence.host.unit import UnitFacts
from vmfence.protocol.reply import Record, State

POOL = {check.code for check in CHECKS if check.code.startswith("host-pool-")}
NODES = {1: "h1", 2: "h2", 3: "h3"}
SIGHT = Sight(1, True, True, NODES)
H1, H2, H3 = (PoolHost(node, name, guests=1) for node, name in NODES.items())
COMMAND = "/usr/local/sbin/was-fenced"
OTHER = UUIDS[0][:-1] + "7"


def settings(more: str = "", rules: str = "", unknown_guest: str = "ignore") -> configuration.Settings:
    text = f"""fence_virtd {{ listener = "multicast"; backend = "cpg"; unknown_guest = "{unknown_guest}"; }}
    listeners {{ multicast {{ interface = "br0"; }} }}
    backends {{ cpg {{ uri = "qemu:///system"; {more} }} }} {rules}"""
    return configuration.read(text.encode(), CONFIG)


def has(host: PoolHost, number: int, state: State = State.RUNNING, *, name: str = "", uuid: str = "") -> Sighting:
    return Sighting(host, Entry(name or f"vm-{number}", uuid or UUIDS[number - 1], int(state)))


def report(**changes: Any) -> PoolReport:
    return replace(PoolReport(1, hosts=(H1, H2, H3), sightings=(has(H1, 1), has(H2, 2))), **changes)


def pooled(**changes: Any) -> Facts:
    """One of three hosts, all of them well, with Pacemaker."""
    made = {"settings": settings(), "corosync": SIGHT, "pool": report(), "fencing": Fencing()}
    return healthy(**{**made, **changes})


def away(**changes: Any) -> PoolReport:
    gone = replace(H3, is_here=False, program="", left_at=NOW - 60, **changes)
    return report(hosts=(H1, H2, gone), sightings=(has(H1, 1), has(H2, 2), has(gone, 2, name="vm-3", uuid=OTHER)))


def with_command(**changes: str) -> dict[str, Any]:
    """Return the changes for a fenced_command with these faults, which the daemon has too."""
    fencing = Fencing(Program(COMMAND, **changes), "Pacemaker does not run here")
    return {
        "settings": settings(f'fenced_command = "{COMMAND}";'),
        "fencing": fencing,
        "pool": report(fenced_command=COMMAND),
    }


FAULTS: dict[str, tuple[dict[str, Any], str, Severity]] = {
    "no libraries": (
        {"corosync": ToolMissing("libcpg.so.4 cannot be loaded", "not found", "install it")},
        "host-pool-libraries",
        ERROR,
    ),
    "Corosync stopped": ({"corosync": Unreachable("cannot connect to Corosync", "gone")}, "host-pool-corosync", ERROR),
    "Corosync hangs": ({"corosync": DeadlineExceeded("took too long")}, "host-pool-corosync", ERROR),
    "no list of nodes": ({"corosync": replace(SIGHT, nodes=None)}, "host-pool-nodes", ERROR),
    "not in the list": ({"corosync": replace(SIGHT, me=9)}, "host-pool-nodes", ERROR),
    "no votes": ({"corosync": replace(SIGHT, has_votes=False, is_quorate=False)}, "host-pool-votes", ERROR),
    "not quorate": ({"corosync": replace(SIGHT, is_quorate=False)}, "host-pool-quorum", ERROR),
    "not joined": ({"pool": report(node=0, is_joined=False, trouble="gone")}, "host-pool-joined", ERROR),
    "without the pool": ({"pool": None, "status": status(backend="libvirt")}, "host-pool-joined", ERROR),
    "away": ({"pool": away()}, "host-pool-away", WARNING),
    "away, not fenced": ({"pool": away(), "fencing": Fencing(fenced={3: False})}, "host-pool-away", WARNING),
    "away, fenced": ({"pool": away(), "fencing": Fencing(fenced={3: True})}, "host-pool-away", NOTE),
    "away, nobody answers": (
        {"pool": away(), "fencing": Fencing(fenced={3: VmfenceError("no answer")})},
        "host-pool-away",
        WARNING,
    ),
    "never here": (
        {"pool": report(hosts=(H1, H2, replace(H3, is_here=False, guests=None)))},
        "host-pool-away",
        WARNING,
    ),
    "no names": ({"corosync": replace(SIGHT, nodes={**NODES, 2: ""})}, "host-pool-names", WARNING),
    "no names, a command": (
        {**with_command(), "corosync": replace(SIGHT, nodes={**NODES, 2: ""})},
        "host-pool-names",
        WARNING,
    ),
    "command missing": (with_command(fault="No such file or directory"), "host-pool-fenced-command", ERROR),
    "command open": (with_command(open_to=f"{COMMAND} has mode 0777"), "host-pool-fenced-command", ERROR),
    "another command": ({**with_command(), "pool": report()}, "host-pool-fenced-command", WARNING),
    "nobody tells": ({"fencing": Fencing(None, "Pacemaker does not run here")}, "host-pool-fencing", WARNING),
    "guest twice": ({"pool": report(sightings=(has(H1, 1), has(H2, 1)))}, "host-pool-guest-twice", ERROR),
    "name twice": (
        {"pool": report(sightings=(has(H1, 1), has(H2, 1, State.SHUT_OFF, uuid=OTHER)))},
        "host-pool-name-twice",
        WARNING,
    ),
    "fence_virtd": ({"pool": report(hosts=(H1, replace(H2, program="fence_virtd")))}, "host-pool-fence-virtd", NOTE),
}


def findings(facts: Facts) -> list[Finding]:
    return [one for one in diagnose.judge(CHECKS, facts).findings if one.code != "host-access-open"]


def test_a_pool_that_is_well_has_no_finding() -> None:
    facts = pooled()
    assert findings(facts) == []
    found = diagnose.judge(CHECKS, facts)
    assert found.unjudged == ()
    assert POOL & {one.check.code for one in found.unasked} == {"host-pool-fenced-command"}
    assert findings(pooled(**with_command())) == []


def test_without_a_pool_nothing_is_asked_of_it() -> None:
    assert {one.check.code for one in diagnose.judge(CHECKS, healthy()).unasked} >= POOL


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_first(fault: str) -> None:
    changes, code, severity = FAULTS[fault]
    found = findings(pooled(**changes))
    assert (found[0].code, found[0].fault.severity) == (code, severity), found
    assert all(one.fault.remedy and one.fault.evidence for one in found)


def test_every_check_of_a_pool_has_a_fault_here() -> None:
    assert {code for _, code, _ in FAULTS.values()} == POOL


@pytest.mark.parametrize("fault", ["no libraries", "Corosync stopped"])
def test_what_follows_from_a_silent_corosync_is_left_open(fault: str) -> None:
    report = diagnose.judge(CHECKS, pooled(**FAULTS[fault][0]))
    unjudged = {one.check.code for one in report.unjudged}
    assert {"host-pool-nodes", "host-pool-votes", "host-pool-quorum", "host-pool-joined"} <= unjudged


def test_the_journal_is_named_only_where_systemd_runs() -> None:
    out = report(node=0, is_joined=False, trouble="gone")
    with_systemd, without = findings(pooled(pool=out))[0], findings(pooled(pool=out, unit=UnitFacts()))[0]
    assert with_systemd.code == without.code == "host-pool-joined"
    assert with_systemd.fault.remedy == "journalctl -u vmfence.service; systemctl restart vmfence.service"
    assert "journalctl" not in without.fault.remedy and "standard error" in without.fault.remedy


def test_a_daemon_that_does_not_run_leaves_the_other_hosts_open() -> None:
    down = Unreachable("no daemon answers")
    found = diagnose.judge(CHECKS, pooled(status=down, pool=down, holders=()))
    assert found.findings[0].code == "host-daemon"
    assert {"host-pool-joined", "host-pool-away", "host-pool-guest-twice"} <= {one.check.code for one in found.unjudged}


def test_who_may_not_ask_is_told_that_nothing_was_judged() -> None:
    denied = NotPermitted("this user may not")
    found = diagnose.judge(CHECKS, pooled(corosync=denied, pool=denied, fencing=denied))
    assert {one.check.code for one in found.unjudged} >= POOL


def test_a_guest_on_its_way_is_not_there_twice() -> None:
    moving = report(sightings=(has(H1, 1), has(H2, 1, State.PAUSED)))
    assert findings(pooled(pool=moving)) == []
    ended = report(sightings=(has(H1, 1, State.SHUT_OFF), has(H2, 1)))
    assert findings(pooled(pool=ended)) == []


def test_what_a_host_that_is_away_had_is_not_there_twice() -> None:
    gone = replace(H2, is_here=False, left_at=NOW)
    found = findings(pooled(pool=report(hosts=(H1, gone), sightings=(has(H1, 1), has(gone, 1)))))
    assert [one.code for one in found] == ["host-pool-away"]


def test_rules_may_name_guests_of_other_hosts() -> None:
    rules = f'groups {{ group {{ ip = "10.0.0.1"; uuid = "{UUIDS[0]}"; uuid = "{UUIDS[1]}"; uuid = "{OTHER}"; }} }}'
    known = report(sightings=(has(H1, 1), has(H2, 1, name="vm-7", uuid=OTHER)))
    facts = pooled(settings=settings(rules=rules), pool=known)
    assert findings(facts) == []
    assert [one.code for one in findings(replace(facts, pool=report()))] == ["host-target-unknown"]
    out = replace(facts, pool=report(node=0, is_joined=False, trouble="gone"))
    assert "host-target-unknown" in {one.check.code for one in diagnose.judge(CHECKS, out).unjudged}


def test_other_hosts_of_the_pool_may_answer_too() -> None:
    record = Record("vm-2", UUIDS[1], State.RUNNING)
    heard = replace(PROBE, others=(HostAnswer("10.88.0.2", (record,)),), guest="vm-1", speakers=("a", "b"))
    assert [(one.code, one.fault.severity) for one in findings(pooled(probes=(heard,)))] == [("host-several", NOTE)]
    told = pooled(probes=(heard,), settings=settings(unknown_guest="fail"))
    assert [(one.code, one.fault.severity) for one in findings(told)] == [("host-several", WARNING)]
    strange = replace(heard, others=(HostAnswer("10.88.0.2", (Record("x", OTHER, State.RUNNING),)),))
    assert [(one.code, one.fault.severity) for one in findings(pooled(probes=(strange,)))] == [("host-several", ERROR)]


# The program that is believed


def test_a_program_that_can_be_run(tmp_path: Path) -> None:
    assert pool_facts.judge("/bin/sh") == Program("/bin/sh")
    assert pool_facts.judge(str(tmp_path / "none")).fault == "No such file or directory"
    assert pool_facts.judge(str(tmp_path)).fault == "this is not a regular file"
    assert pool_facts.judge("/bin/sh/x").fault == "Not a directory"


def test_a_program_that_cannot_be_run_or_that_others_can_change(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o644)
    assert pool_facts.judge(str(program)).fault == "it is not executable: mode 0644"
    program.chmod(0o757)
    assert f"{program} has mode 0757" in pool_facts.judge(str(program)).open_to
    program.chmod(0o755)
    tmp_path.chmod(0o777)
    assert f"{tmp_path} has mode 0777" in pool_facts.judge(str(program)).open_to
    link = tmp_path / "link"
    link.symlink_to("/bin/sh")
    assert pool_facts.judge(str(link)).fault == ""
