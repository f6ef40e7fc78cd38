"""``host check`` names the cause first, tells it by what is known, and gives the remedy that fits it."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_guest_checks import UNHEARD
from test_guest_checks import facts as guest_facts
from test_host_checks import (
    CONFIG,
    DOWN,
    ELSEWHERE,
    GROUP,
    KEY,
    NOW,
    PID,
    PROBE,
    SILENT,
    SYSTEM,
    UNIT,
    codes,
    findings,
    fixes,
    groups,
    healthy,
    last_rejected,
    settings,
    status,
)

from vmfence import diagnose
from vmfence.client.stream import Answer
from vmfence.config import settings as configuration
from vmfence.config.settings import CONTROL_SOCKET
from vmfence.errors import ConfigError, KeyFileError, Unreachable, VmfenceError
from vmfence.findings import ERROR, NOTE, WARNING, Fault, counted
from vmfence.guest import answers
from vmfence.guest.checks import CHECKS as GUEST_CHECKS
from vmfence.host import config_search, control, kernel, probe
from vmfence.host.backends.inventory import Hung
from vmfence.host.check import facts as gathering
from vmfence.host.check.checks import CHECKS
from vmfence.host.check.facts import Facts, Libvirt
from vmfence.host.check.libvirt_unit import LibvirtUnit
from vmfence.host.ground import KeyFacts
from vmfence.host.kernel import Holder
from vmfence.host.pool.corosync import Corosync
from vmfence.host.unit import UnitFacts

FAILED = replace(PROBE, ours=(), has_failed=True, failure="libvirt at qemu:///system went away")
REFUSED = {"at": NOW - 60, "reason": "state_dir cannot change while the daemon runs", "remedy": "restart the daemon"}
HUNG = control.Silent("/run/vmfence/control", PID, "no answer within 2 s")


def fault(facts: Facts, code: str) -> Fault:
    return next(one.fault for one in findings(facts) if one.code == code)


# An answer that is no answer


def test_failure_for_an_answer_is_an_error_with_the_daemons_reason() -> None:
    report = diagnose.judge(CHECKS, healthy(probes=(FAILED,)), only=["host-unanswered"])
    [found] = report.findings
    assert (found.fault.severity, found.fault.evidence) == (ERROR, FAILED.failure)


def test_the_cause_of_a_failure_comes_before_it() -> None:
    silent = Libvirt(silent=((SYSTEM, Unreachable("cannot connect")),))
    assert codes(healthy(probes=(FAILED,), libvirt=silent), ERROR) == ["host-libvirt", "host-unanswered"]


def test_a_failure_shows_that_packets_pass() -> None:
    assert FAILED.got_through and not FAILED.is_served
    assert "host-firewall" not in codes(healthy(probes=(FAILED,)), NOTE)


@pytest.mark.parametrize(("peer", "is_ours"), [("127.0.0.1", True), ("192.0.2.99", False)])
def test_who_failed_is_told_apart(monkeypatch: pytest.MonkeyPatch, peer: str, is_ours: bool) -> None:
    told = [Answer(1, [], peer), Answer(2, [], "10.88.0.2")]
    monkeypatch.setattr(answers, "_ask", lambda *_: told)
    found = probe._try(settings().listeners[0])  # type: ignore[arg-type]
    assert (found.has_failed, "192.0.2.99" in found.failed_elsewhere) == (is_ours, not is_ours)


@pytest.mark.parametrize("origin", ["127.0.0.1", "192.0.2.99"])
def test_the_daemons_reason_is_that_for_this_host(origin: str) -> None:
    old = {"at": 1.0, "origin": "127.0.0.1", "action": "list", "reason": "long ago"}
    new = {"at": 2.0, "origin": origin, "action": "list", "reason": "libvirt is gone"}
    counts: list[dict[str, Any]] = [{"action": "list", "result": "failed", "count": 1}]
    before = status(requests=counts, rejected={}, last_failed=[old])
    after = {**before, "requests": [{**counts[0], "count": 2}], "last_failed": [old, new]}
    found = probe._counted(replace(FAILED, failure=""), before, after, [FAILED])
    assert found.failure == ("libvirt is gone" if origin == "127.0.0.1" else "")


def test_what_the_daemon_has_in_hand_is_told() -> None:
    assert "has 1 request in hand" in fault(healthy(probes=(replace(SILENT, in_hand=1),)), "host-unanswered").evidence


# Files that are newer than the daemon


@pytest.mark.parametrize("unserved", [SILENT, FAILED])
def test_files_that_changed_are_the_cause_when_nothing_is_answered(unserved: probe.Probe) -> None:
    found = healthy(stale=(CONFIG,), probes=(unserved,))
    assert codes(found, ERROR) == ["host-daemon-stale", "host-unanswered"]
    assert codes(healthy(stale=(CONFIG,)), ERROR) == []


def test_a_key_at_another_path_is_not_the_daemons() -> None:
    elsewhere = (KeyFacts("/etc/other.key", True, "aa"),)
    told = fault(healthy(keys=elsewhere, stale=(CONFIG,)), "host-key-stale")
    assert (told.severity, told.evidence) == (ERROR, f"it has {KEY}")


def test_a_refused_reload_is_an_error_and_no_command_is_said_to_mend_it() -> None:
    found = healthy(status=status(refused_reload=REFUSED), stale=(CONFIG,))
    assert codes(found) == ["host-daemon-stale"] and fixes(found) == []
    told = fault(found, "host-daemon-stale")
    assert REFUSED["reason"] in told.evidence and "systemctl restart vmfence" in told.remedy
    misspelt = {**REFUSED, "remedy": "did you mean port?"}
    assert "systemctl reload" in fault(healthy(status=status(refused_reload=misspelt)), "host-daemon-stale").remedy


def test_a_key_of_the_daemon_is_not_called_a_unit() -> None:
    found = healthy(stale=("/etc/old.key",))
    assert fault(found, "host-daemon-stale").message.startswith("a key of the daemon")


# Access


def test_rules_that_leave_nobody_are_an_error() -> None:
    assert codes(healthy(settings=groups("vm-3")), ERROR) == ["host-target-unknown", "host-guest-denied"]
    assert fault(healthy(settings=groups("vm-3")), "host-guest-denied").evidence == "1 group"
    assert codes(healthy(settings=groups("vm-1", "vm-3")), ERROR) == []


def test_numbers_agree_with_their_nouns() -> None:
    assert [counted(number, "guest") for number in (0, 1, 2)] == ["0 guests", "1 guest", "2 guests"]


# A daemon or libvirt that hangs


def test_a_daemon_that_hangs_is_restarted_and_not_started() -> None:
    found = healthy(status=HUNG, peer=PID, probes=(SILENT,))
    assert codes(found) == ["host-daemon"] and fixes(found) == []
    told = fault(found, "host-daemon")
    assert f"process {PID}" in told.evidence and "systemctl start" not in told.remedy
    assert "no daemon runs" not in told.message


def test_one_that_hangs_beside_the_service_is_ended_by_its_number() -> None:
    found = healthy(status=HUNG, peer=PID, unit=replace(UNIT, main_pid=PID + 1), probes=(SILENT,))
    assert f"kill -KILL {PID}" in fault(found, "host-daemon").remedy


def test_a_libvirt_that_hangs_is_restarted_and_not_started() -> None:
    unit = LibvirtUnit("virtqemud", "virtqemud.socket")
    hung = Libvirt(silent=((SYSTEM, Hung("libvirt does not answer", "no answer within 3 s")),), unit=unit)
    told = fault(healthy(libvirt=hung), "host-libvirt")
    assert "systemctl restart virtqemud" in told.remedy and "start virtqemud.socket" not in told.remedy
    assert fixes(healthy(libvirt=hung)) == []


# Who is refused


def test_a_guest_that_had_an_answer_since_is_not_told() -> None:
    uncalled = last_rejected("cannot call back. 10.88.0.11 port 1229: no answer.")
    assert codes(healthy(status={**uncalled, "last_answered": {"10.88.0.11": NOW - 1}})) == []
    assert codes(healthy(status={**uncalled, "last_answered": {"10.88.0.11": NOW - 9}})) == ["host-callback"]
    assert codes(healthy(status={**uncalled, "last_answered": {"10.88.0.12": NOW - 1}})) == ["host-callback"]


def test_one_address_of_several_that_cannot_be_called_harms_nobody_who_had_his_answer() -> None:
    late = last_rejected("cannot call back. 10.0.0.9: no answer within 5 s.", "10.88.0.11 (claims 10.0.0.9)")
    assert codes(healthy(status={**late, "last_answered": {"10.88.0.11": NOW - 10}})) == []


def test_what_is_played_back_is_told_whoever_had_answers() -> None:
    repeated = last_rejected("repeated packet. these very bytes were accepted before.")
    assert codes(healthy(status={**repeated, "last_answered": {"10.88.0.11": NOW}})) == ["host-rejected"]


@pytest.mark.parametrize("reason", ["cannot call back. 10.88.0.1 port 1229: Connection refused.", "wrong key."])
def test_what_this_host_sent_is_no_guests(reason: str) -> None:
    found = healthy(status=last_rejected(reason, "10.88.0.1"), own=frozenset({"10.88.0.1"}), probes=(SILENT,))
    assert codes(found) == ["host-unanswered"]


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        ("weak hash. signed with sha1, at least sha256 is required.", "-c sha256"),
        ("wrong key. the packet is signed with another key.", "sha256sum"),
        ("the client closed the connection. instead of sending its challenge.", "gave up"),
        ("packet too short. 3 bytes instead of 176.", "guest check"),
    ],
)
def test_the_remedy_of_a_refusal_fits_its_reason(reason: str, word: str) -> None:
    remedy = fault(healthy(status=last_rejected(reason)), "host-rejected").remedy
    assert word in remedy and ("sha256sum" in remedy) == reason.startswith("wrong key")


def test_a_wrong_key_where_other_hosts_are_known_is_a_note() -> None:
    wrong = last_rejected("wrong key. the packet is signed with another key.")
    several = replace(PROBE, others=(ELSEWHERE,), guest="vm-1", speakers=("a",))
    for changes in {"probes": (several,)}, {"settings": unknown_ignored()}:
        told = fault(healthy(status=wrong, **changes), "host-rejected")
        assert told.severity is NOTE and "another host" in told.remedy
    alone = fault(healthy(status=wrong), "host-rejected")
    assert alone.severity is WARNING and "ip neigh" in alone.remedy


def unknown_ignored() -> configuration.Settings:
    text = f"""fence_virtd {{ listener = "multicast"; backend = "libvirt"; unknown_guest = "ignore"; }}
    listeners {{ multicast {{ interface = "br0"; }} }} backends {{ libvirt {{ uri = "{SYSTEM}"; }} }}"""
    return configuration.read(text.encode(), CONFIG)


# Whose socket it is


@pytest.mark.parametrize(
    "known",
    [
        {"status": status(pid=12)},
        {"status": VmfenceError("of another version"), "peer": 12},
        {"status": DOWN, "unit": replace(UNIT, main_pid=12)},
    ],
)
def test_the_daemons_own_socket_is_not_in_its_way(known: dict[str, Any]) -> None:
    holders = (Holder("udp", GROUP, 1229, 12, "python3"),)
    assert "host-second-daemon" not in codes(healthy(holders=holders, **known))
    others = {**known, "holders": (Holder("udp", GROUP, 1229, 13, "python3"),)}
    assert codes(healthy(**others), ERROR)[0] == "host-second-daemon"


# A configuration that cannot be read


def broken(tmp_path: Path, text: str) -> ConfigError:
    path = tmp_path / "vmfence.conf"
    path.write_text(text)
    return ConfigError(str(path), 3, "unexpected word")


def test_a_faulty_configuration_still_tells_where_the_daemon_answers(tmp_path: Path) -> None:
    here = tmp_path / "control"
    fault = broken(tmp_path, f'fence_virtd {{\n# control_socket = "/no"\ncontrol_socket = "{here}"; oops\n')
    paths = config_search.paths_of(fault)
    assert config_search.control_socket(paths) == (CONTROL_SOCKET, True)
    with socket.socket(socket.AF_UNIX) as served:
        served.bind(str(here))
        assert config_search.control_socket(paths) == (str(here), True)
    assert config_search.control_socket(()) == (CONTROL_SOCKET, False)


def test_a_faulty_configuration_leaves_the_rest_to_be_judged() -> None:
    unread = gathering.NotReached("the configuration cannot be read")
    names = ("accepted", "keys", "holders", "probes", "firewall", "way_back", "corosync", "pool", "fencing")
    facts = healthy(settings=ConfigError(CONFIG, 3, "unexpected word"), **dict.fromkeys(names, unread))
    report = diagnose.judge(CHECKS, facts)
    judged = {one.check.code for one in report.outcomes if one.missing is None}
    wanted = {"host-daemon", "host-daemon-stale", "host-listener", "host-libvirt", "host-rejected", "host-boot"}
    assert judged >= wanted | {"host-clock", "host-network-unread", "host-records-unkept"}
    assert codes(facts) == ["host-configuration"]
    stale = replace(facts, stale=(CONFIG,))
    assert "# once it is mended" in fault(stale, "host-daemon-stale").remedy and fixes(stale) == []


def test_what_is_gathered_without_a_configuration(tmp_path: Path) -> None:
    gatherers = gathering.everything(broken(tmp_path, "oops"))
    assert set(gatherers) | {"settings"} == set(gathering.everything(settings())) | {"settings"}
    assert "lo" in {one.name for one in gatherers["network"]().links}
    assert gatherers["clock"]().newest > 0


# Words


def test_two_weaknesses_of_a_key_are_one_finding() -> None:
    weak = KeyFacts(KEY, True, "aa", weaknesses=(KeyFileError("short", "", "new"), KeyFileError("text", "", "new")))
    [told] = [one.fault for one in findings(healthy(keys=(weak,))) if one.code == "host-key-weak"]
    assert (told.message, told.remedy) == ("short; text", "new")


def test_the_journal_is_named_only_where_systemd_runs() -> None:
    with_systemd, without = healthy(probes=(SILENT,)), healthy(probes=(SILENT,), unit=UnitFacts())
    assert "journalctl" in fault(with_systemd, "host-unanswered").remedy
    assert "journalctl" not in fault(without, "host-unanswered").remedy


def test_a_corosync_that_does_not_run_is_not_called_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = SimpleNamespace(cpg_initialize=lambda *_: 2, cpg_finalize=lambda *_: 1, quorum_finalize=lambda *_: 1)
    monkeypatch.setattr(Corosync, "_library", lambda *_: nobody)
    with pytest.raises(Unreachable, match="it is not running on this host. systemctl start corosync"):
        Corosync(b"pool").look()


def test_what_is_not_signed_has_no_hash() -> None:
    report = diagnose.judge(GUEST_CHECKS, guest_facts(trial=replace(UNHEARD, hash_name="none")))
    [told] = [one.fault for one in report.findings if one.code == "guest-not-heard"]
    assert "unsigned" in told.evidence and "none" not in told.evidence


# Addresses of this host


def test_own_addresses() -> None:
    trie = """Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 10.88.0.0
        /24 link UNICAST
     |-- 10.88.0.1
        /32 host LOCAL
     |-- 10.88.0.255
        /32 link BROADCAST
"""
    assert kernel.parse_fib_trie(trie) == {"10.88.0.1"}
    inet6 = f"fe80000000000000020c29fffe000001 02 40 20 80 eth0\nnonsense\n\n{1:032x} 01 80 10 80 lo\n"
    assert kernel.parse_if_inet6(inet6) == {"fe80::20c:29ff:fe00:1", "::1"}
    assert "127.0.0.1" in kernel.read_own_addresses()
