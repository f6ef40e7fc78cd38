"""What ``cluster check`` reads: keys, hosts, quorum settings, this machine; and what it leaves alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vmfence import diagnose
from vmfence.cli import cluster_check
from vmfence.client.census import SETTLE_S
from vmfence.client.failures import NoAnswer
from vmfence.cluster import cib, corosync, machine
from vmfence.cluster.check import checks_hosts, facts
from vmfence.cluster.cib import Device
from vmfence.cluster.corosync import QuorumSettings
from vmfence.cluster.pacemaker import Pacemaker
from vmfence.errors import KeyFileError, UsageError, VmfenceError
from vmfence.findings import ERROR, NOTE, WARNING, NotAsked, Severity
from vmfence.guest import answers, survey
from vmfence.guest.answers import HostAnswer
from vmfence.guest.guests import Inquiry
from vmfence.proc import Result
from vmfence.protocol.reply import Record, State

UUID = "11111111-2222-3333-4444-555555555501"
VM1, VM2 = (Record(f"vm-{number}", f"{UUID[:-1]}{number}", State.RUNNING) for number in (1, 2))
EMPTY = "<cib><configuration/></cib>"


def device(name: str, **options: str) -> Device:
    return Device(name, "fence_vmfence", options, {}, ())


def test_a_file_is_judged_without_asking_anything_else() -> None:
    pacemaker = Pacemaker("/nowhere/cib.xml")
    gathered = diagnose.gather(facts.first_round(pacemaker), 5)
    gathered.update(diagnose.gather(facts.second_round(pacemaker, cib.parse(EMPTY)), 5))
    asked = {name for name, value in gathered.items() if not isinstance(value, NotAsked)}
    assert asked == {"version", "cib"}
    assert facts.complete(gathered).now > 0


def test_without_a_configuration_nothing_more_is_asked() -> None:
    second = diagnose.gather(facts.second_round(Pacemaker(), VmfenceError("no cluster")), 5)
    assert all(isinstance(value, NotAsked) for value in second.values())


def test_keys_are_judged_once_for_all_devices(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(bytes(range(256)))
    path.chmod(0o640)
    devices = [device("a", key_file=str(path)), device("b", key_file=str(path)), device("c", key_file="/no/key")]
    shared, missing = facts.load_keys([*devices, device("d", hash="none", auth="none"), device("e", ipport="x")])
    assert (shared.devices, shared.mode, shared.error) == (("a", "b"), 0o640, None)
    assert missing.mode is None and isinstance(missing.error, KeyFileError)


def test_devices_that_ask_alike_are_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Inquiry] = []

    def refuse(inquiry: Inquiry) -> Any:
        asked.append(inquiry)
        raise NoAnswer("no host answered")

    monkeypatch.setattr(answers, "list_hosts", refuse)
    silent, other, wrong = sorted(
        facts.ask_hosts(
            [device("a"), device("b", timeout="7"), device("c", ipaddr="10.0.0.9"), device("d", ipport="x")]
        ),
        key=lambda one: one.devices,
    )
    assert [silent.devices, other.devices, wrong.devices] == [("a", "b"), ("c",), ("d",)]
    assert isinstance(silent.error, NoAnswer) and isinstance(wrong.error, UsageError)
    assert len(asked) == 2


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("loud", "severity"), [((), NOTE), (("h1",), ERROR), (("h2",), ERROR), (("h1", "h2"), ERROR)])
def test_each_of_two_hosts_is_asked_about_a_guest_that_it_does_not_have(
    monkeypatch: pytest.MonkeyPatch, loud: tuple[str, ...], severity: Severity, turned: bool
) -> None:
    """*loud* ones answer for guests that they do not have; it does not matter which host is heard first."""
    both = [HostAnswer("h1", (VM1,)), HostAnswer("h2", (VM2,))]
    if turned:
        both.reverse()

    def speak(inquiry: Inquiry, guest: str) -> tuple[str, ...]:
        return tuple(one.peer for one in both if one.peer in loud or guest in [each.name for each in one.guests])

    monkeypatch.setattr(answers, "list_hosts", lambda inquiry: tuple(both))
    monkeypatch.setattr(answers, "speakers", speak)
    assert several(facts.ask_hosts([device("fence")])) is severity


def test_hosts_that_could_not_be_asked_who_speaks_are_not_taken_for_discreet(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(inquiry: Inquiry, guest: str) -> tuple[str, ...]:
        raise NoAnswer("no host answered")

    monkeypatch.setattr(answers, "list_hosts", lambda inquiry: (HostAnswer("h1", (VM1,)), HostAnswer("h2", (VM2,))))
    monkeypatch.setattr(answers, "speakers", silent)
    assert several(facts.ask_hosts([device("fence")])) is WARNING


def test_a_host_that_takes_all_its_time_for_the_list_leaves_enough_for_two_questions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And all of it ends in what the cluster, slow as well, leaves of the time of the check."""
    clock, asked = [0.0], []

    def listed(inquiry: Inquiry) -> tuple[HostAnswer, ...]:
        clock[0] += inquiry.timeout_s
        return HostAnswer("h1", (VM1,)), HostAnswer("h2", (VM2,))

    def speak(inquiry: Inquiry, guest: str) -> tuple[str, ...]:
        asked.append(guest)
        clock[0] += SETTLE_S
        return ("h1",) if guest == "vm-1" else ("h2",)

    monkeypatch.setattr(survey, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(answers, "list_hosts", listed)
    monkeypatch.setattr(answers, "speakers", speak)
    assert several(facts.ask_hosts([device("fence")])) is NOTE and asked == ["vm-1", "vm-2"]
    assert facts.HOST_TIMEOUT_S + facts.VOICES_S + facts.LATE_S < cluster_check.ALL_S - cluster_check.FIRST_S


def several(hosts: tuple[facts.HostFacts, ...]) -> Severity | None:
    """Return how bad it is that several hosts answer."""
    given = SimpleNamespace(hosts=hosts, answering=hosts)
    return diagnose.judge(checks_hosts.CHECKS, given, ["cluster-hosts-several"]).worst


@pytest.mark.parametrize(
    ("content", "seconds"),
    [
        ("", 5.0),
        ("SBD_WATCHDOG_TIMEOUT=12\n", 12.0),
        ('#X\nSBD_WATCHDOG_TIMEOUT="7"\n', 7.0),
        ("SBD_WATCHDOG_TIMEOUT=x", 5.0),
    ],
)
def test_watchdog_timeout(tmp_path: Path, content: str, seconds: float) -> None:
    (tmp_path / "sbd").write_text(content)
    assert facts.watchdog_timeout([str(tmp_path / "none"), str(tmp_path / "sbd")]) == seconds
    assert facts.watchdog_timeout([str(tmp_path / "none")]) is None


def test_machine_uuid(tmp_path: Path) -> None:
    path = tmp_path / "uuid"
    path.write_text(UUID.upper() + "\n")
    assert machine.machine_uuid(str(path)) == UUID
    assert machine.swapped(machine.swapped(UUID)) == UUID
    assert machine.swapped("00112233-4455-6677-8899-aabbccddeeff") == "33221100-5544-7766-8899-aabbccddeeff"
    path.write_text("Not Settable\n")
    for bad in (str(path), str(tmp_path / "none")):
        with pytest.raises(VmfenceError):
            machine.machine_uuid(bad)


KEYS = """quorum.expected_votes (u32) = 2
quorum.provider (str) = corosync_votequorum
quorum.two_node (u8) = 1
"""
FILE = """totem {
    interface {
        ringnumber: 0
    }
}
quorum {
    provider: corosync_votequorum   # as usual
    two_node: 1
    wait_for_all: 0
    device {
        model: net
    }
}
"""


def test_quorum_settings() -> None:
    asked = corosync.parse_keys(KEYS)
    assert (asked.is_two_node, asked.waits_for_all, asked.has_device) == (True, True, False)
    read = corosync.parse_file(FILE, "corosync.conf")
    assert (read.is_two_node, read.waits_for_all, read.has_device) == (True, False, True)
    assert corosync.parse_file("}}}\nquorum {\n}\ntwo_node: 1", "x") == QuorumSettings(source="x")


def test_corosync_is_asked_first_and_its_file_read_when_it_is_down(tmp_path: Path) -> None:
    path = tmp_path / "corosync.conf"
    path.write_text(FILE)

    def up(*_: Any) -> Result:
        return Result((), 0, KEYS, "")

    def down(*_: Any) -> Result:
        return Result((), 1, "", "Failed to initialize the cmap API")

    assert corosync.load_quorum(up, str(path)).waits_for_all
    assert not corosync.load_quorum(down, str(path)).waits_for_all
    with pytest.raises(VmfenceError, match="corosync.conf"):
        corosync.load_quorum(down, str(tmp_path / "none" / "corosync.conf"))
