"""``host check`` judges the daemon by what it runs with, knows the service's while it starts, and gives commands."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_host_causes import HUNG, REFUSED, fault
from test_host_checks import (
    CONFIG,
    FAULTS,
    GROUP,
    NOW,
    PID,
    SILENT,
    SYSTEM,
    UNIT,
    codes,
    findings,
    groups,
    guest,
    healthy,
    libvirt,
    listener,
    network,
    settings,
    status,
)

from vmfence import diagnose, proc
from vmfence.errors import DeadlineExceeded, VmfenceError
from vmfence.findings import ERROR
from vmfence.host import unit
from vmfence.host.check import checks_setup, running
from vmfence.host.check import facts as gathering
from vmfence.host.check.checks import CHECKS
from vmfence.host.check.facts import Facts, Libvirt
from vmfence.host.listeners.multicast import MulticastListener
from vmfence.packetfilter import firewall

STARTING = replace(UNIT, is_active=False, is_starting=True, main_pid=PID)
GONE = {"uri": SYSTEM, "is_answering": False, "trouble": "cannot connect: Connection refused"}
MISSPELT = {
    "at": NOW - 60,
    "reason": "listener multicast: this host has no interface br9",
    "remedy": "did you mean br0?",
}
BR9 = settings(keys='interface = "br9";')


def unjudged(facts: Facts) -> set[str]:
    return {one.check.code for one in diagnose.judge(CHECKS, facts).unjudged}


# A service that starts


def waiting(**changes: Any) -> Facts:
    """A host whose service waits for libvirt."""
    made: dict[str, Any] = {"unit": STARTING, "status": status(listeners=[], hypervisors=[GONE]), "probes": (SILENT,)}
    return healthy(**{**made, "network": network(memberships={"br0": frozenset()}), **changes})


def test_a_service_that_starts_is_said_to_wait_and_for_what() -> None:
    told = fault(waiting(), "host-daemon")
    assert told.severity is ERROR and "waits" in told.message
    assert GONE["trouble"] in told.evidence and f"multicast {GROUP} port 1229 on br0" in told.evidence
    assert "started by hand" not in str(findings(waiting())) and "host-beside-service" not in codes(waiting())


def test_one_that_was_started_by_hand_and_waits_is_said_to_wait() -> None:
    by_hand = waiting(unit=replace(UNIT, is_active=False))
    assert codes(by_hand, ERROR) == ["host-daemon", "host-unanswered"]
    assert GONE["trouble"] in fault(by_hand, "host-daemon").evidence and "host-beside-service" in codes(by_hand)


def test_a_listener_that_is_missing_for_no_known_reason_is_tried_all_the_same() -> None:
    half = healthy(status=status(listeners=[listener(where="tcp 10.0.0.1 port 1229")]), probes=(SILENT,))
    assert "host-unanswered" in codes(half, ERROR)


def test_what_a_daemon_that_waits_has_not_opened_is_not_judged() -> None:
    assert {"host-group", "host-listener"} <= unjudged(waiting())
    assert "host-group" not in codes(waiting())


def test_no_command_waits_for_a_service_that_waits() -> None:
    remedies = [one.fault.remedy for one in findings(waiting(stale=(CONFIG, unit.INSTALL_PATH)))]
    restarts = [one for one in remedies if "systemctl restart" in one]
    assert len(restarts) == 2 and all("restart --no-block" in one for one in restarts)
    assert "systemctl reload" not in str(remedies), "it reads nothing again before it has started"
    left = waiting(status=status())  # its listener is open, and the group was left
    assert fault(left, "host-group").remedy == "systemctl restart --no-block vmfence.service"


def test_whose_the_daemon_is_its_number_tells() -> None:
    assert "host-beside-service" not in codes(healthy(unit=replace(UNIT, main_pid=PID)))
    other = healthy(unit=replace(UNIT, main_pid=PID + 1))
    told = fault(other, "host-beside-service")
    assert str(PID + 1) in told.evidence and told.remedy == f"kill {PID}; systemctl restart vmfence.service"
    assert checks_setup.reload(other) == (f"kill -HUP {PID}", None), "not to the other one, which is the service's"
    again = healthy(unit=replace(STARTING, main_pid=0))  # the service is started again and again beside it
    assert fault(again, "host-beside-service").remedy == f"kill {PID}; systemctl start --no-block vmfence.service"
    assert "host-daemon" not in codes(again)


@pytest.mark.parametrize(("state", "expected"), [("activating", (False, True)), ("active", (True, False))])
def test_systemd_tells_that_a_service_starts(
    monkeypatch: pytest.MonkeyPatch, state: str, expected: tuple[bool, bool]
) -> None:
    said = {"is-active": state, "is-enabled": "enabled", "show": str(PID)}
    monkeypatch.setattr(unit, "_is_systemd", lambda: True)
    monkeypatch.setattr(proc, "run", lambda argv, _: proc.Result(tuple(argv), 0, f"{said[argv[1]]}\n", ""))
    found = unit.look()
    assert (found.is_active, found.is_starting) == expected and found.main_pid == PID


# A daemon that runs with a configuration of before


def test_after_a_refused_reload_the_daemon_is_judged_by_where_it_listens() -> None:
    """The file names br9, which is not there; the daemon goes on with br0, and hears all guests."""
    refused = healthy(settings=BR9, status=status(refused_reload=MISSPELT), stale=(CONFIG,), probes=(SILENT,))
    assert codes(refused) == ["host-interface-missing", "host-daemon-stale"]
    assert "host-unanswered" in unjudged(refused)


def test_guests_on_another_bridge_than_the_daemons_are_told_by_the_daemons() -> None:
    there = libvirt(guest(1, "br1"), guest(2, "br1"))
    told = fault(healthy(settings=BR9, status=status(refused_reload=MISSPELT), libvirt=there), "host-bridge-unheard")
    assert "it does on br0" in told.message
    moved = healthy(settings=settings(keys='interface = "br1";'), libvirt=there, stale=(CONFIG,))
    assert fault(moved, "host-bridge-unheard").severity is ERROR, "what the file says does not count yet"


def test_a_group_that_the_daemon_does_not_want_is_not_missed() -> None:
    changed = healthy(settings=settings(keys='interface = "br1";'), status=status(refused_reload=REFUSED))
    assert codes(changed) == ["host-daemon-stale"] and "host-group" in unjudged(changed)


def test_without_a_daemon_the_configuration_counts() -> None:
    facts = healthy(status=VmfenceError("no daemon"), libvirt=libvirt(guest(1, "br1")))
    assert "it does on br0" in fault(facts, "host-bridge-unheard").message
    others = healthy(status=status(listeners=[listener(), listener(where="tcp 10.0.0.1 port 1229")]))
    assert running.interfaces(others) == set(), "guests have other ways"


@pytest.mark.parametrize("keys", ['interface = "br0";', "", 'family = "ipv6"; interface = "br0";'])
def test_a_listener_is_known_by_what_it_calls_itself(keys: str) -> None:
    [one] = (facts := healthy(settings=settings(keys=keys))).multicast
    where = MulticastListener(one, None, False, None).where()  # type: ignore[arg-type]
    assert running.runs_with(replace(facts, status=status(listeners=[listener(where=where)])), one)


# Remedies


ASKED: dict[str, tuple[dict[str, Any], str, str]] = {
    "interface": ({"settings": BR9}, "host-interface-missing", "vmfence host configure"),
    "rules": ({"settings": groups("vm-3")}, "host-target-unknown", "virsh list --all"),
    "program": (FAULTS["another python"][0], "host-second-daemon", "ps -fp 12"),
    "libvirt": (
        {"libvirt": Libvirt(silent=FAULTS["libvirt stopped"][0]["libvirt"].silent)},
        "host-libvirt",
        "systemctl list-unit-files 'libvirtd*' 'virtqemud*'",
    ),
    "restart": ({"status": status(refused_reload=REFUSED)}, "host-daemon-stale", "systemctl restart vmfence.service"),
    "reload": ({"status": status(refused_reload=MISSPELT)}, "host-daemon-stale", "systemctl reload vmfence.service"),
    "hung": ({"status": HUNG, "peer": PID}, "host-daemon", "systemctl restart vmfence.service"),
    "channel": (FAULTS["a console has the channel"][0], "host-channel-unheard", "ss -xp"),
    "bridge": (FAULTS["guests elsewhere"][0], "host-bridge-unheard", "vmfence host configure"),
}


@pytest.mark.parametrize("name", ASKED)
def test_a_remedy_begins_with_its_command(name: str) -> None:
    changes, code, command = ASKED[name]
    remedy = fault(healthy(**changes), code).remedy
    assert remedy.partition("   # ")[0] == command
    assert shlex.split(remedy, comments=True) == shlex.split(command)


def test_words_of_others_do_not_end_the_comment() -> None:
    refused = healthy(status=status(refused_reload={**MISSPELT, "remedy": "did you mean\ntouch pwned"}))
    assert "\n" not in fault(refused, "host-daemon-stale").remedy


# What could not be read


@pytest.mark.parametrize("fact", ["way_back", "unit", "clock", "stale", "probes", "holders", "network", "selinux"])
def test_what_is_unread_has_a_name_for_users(fact: str) -> None:
    found = [one for one in findings(healthy(**{fact: VmfenceError("it hangs")})) if one.code.endswith("-unread")]
    internal = {"way_back", "unit", "synchronised", "compared", "stale", "probes", "holders", "network", "selinux"}
    assert found and not {one.fault.subject for one in found} & internal


def test_programs_that_hang_are_not_to_be_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object) -> object:
        raise DeadlineExceeded("iptables-save did not end; nft did not end", "", "see what keeps it: iptables-save")

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(firewall, "look_out", hang)
    with pytest.raises(DeadlineExceeded) as raised:
        gathering.read_way_back(settings(), lambda _: None)  # type: ignore[arg-type, return-value]
    error = raised.value
    assert "iptables-save" in error.what and "nft" in error.what
    assert shlex.split(error.remedy)[0] == "ps" and "nft" in error.remedy and "iptables-save" in error.remedy


def test_a_file_that_vanishes_meanwhile_is_no_fault_of_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept"
    kept.touch()
    monkeypatch.setattr(os.path, "exists", lambda path: True)  # seen a moment ago
    newest = gathering.read_clock([str(tmp_path / "gone"), str(kept)]).newest
    assert newest == kept.stat().st_mtime
    assert gathering.read_clock([str(tmp_path / "gone")]).newest == 0.0
