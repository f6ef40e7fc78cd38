"""What the checks gather: at the same time, each tool once, and what hangs or is forbidden is told as what it is."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_host_checks import healthy, settings, status

from vmfence import diagnose, proc, together
from vmfence.client.failures import NoAnswer
from vmfence.cluster.check import facts as cluster_facts
from vmfence.cluster.cib import Device
from vmfence.cluster.pacemaker import Pacemaker
from vmfence.errors import (
    ConfigNotPermitted,
    DeadlineExceeded,
    KeyNotPermitted,
    NotPermitted,
    ToolMissing,
    Unreachable,
    VmfenceError,
)
from vmfence.findings import NotReached, is_forbidden
from vmfence.guest import answers
from vmfence.guest import facts as guest_facts
from vmfence.guest.answers import HostAnswer
from vmfence.guest.guests import Inquiry
from vmfence.host import control, network, probe
from vmfence.host.check import checks_guests, facts, hidden
from vmfence.host.check.checks import CHECKS
from vmfence.host.check.facts import Clock
from vmfence.host.check.hidden import Process
from vmfence.packetfilter import firewall
from vmfence.packetfilter.firewall import Firewall
from vmfence.packetfilter.rules import Opening
from vmfence.protocol.reply import Record

UUID = "11111111-2222-3333-4444-555555555501"
HANGS = DeadlineExceeded("nft did not end within 3 s", "", "see what keeps it: nft -j list ruleset")
SOON_S = 30  # a bound for a broken test, not for what is tested


def judged(**changes: Any) -> dict[str, str]:
    """Return code -> severity of what is found on a healthy host that is changed."""
    return {one.code: str(one.fault.severity) for one in diagnose.judge(CHECKS, healthy(**changes)).findings}


# Host: a failed gathering is a finding


@pytest.mark.parametrize(
    ("fact", "code"),
    [
        ("firewall", "host-firewall-unread"),
        ("way_back", "host-firewall-back-unread"),
        ("probes", "host-probe-unread"),
        ("holders", "host-holders-unread"),
        ("libvirt", "host-libvirt-unread"),
        ("processes", "host-processes-unread"),
        ("keys", "host-key-unread"),
        ("stale", "host-stale-unread"),
        ("clock", "host-clock-unread"),
        ("interfaces", "host-interfaces-unread"),
        ("network", "host-network-unread"),
        ("unit", "host-unit-unread"),
        ("status", "host-daemon"),
    ],
)
def test_what_could_not_be_gathered_is_a_finding_that_names_what_hung(fact: str, code: str) -> None:
    report = diagnose.judge(CHECKS, healthy(**{fact: HANGS}))
    [finding] = [one for one in report.findings if one.code == code]
    assert str(finding.fault.severity) in ("warning", "error")
    assert HANGS.what in f"{finding.fault.message} {finding.fault.evidence}" and finding.fault.remedy


def test_a_clock_that_cannot_be_asked_is_not_one_that_nobody_keeps() -> None:
    changed = judged(clock=Clock(None, 0.0, HANGS))
    assert changed["host-clock-unread"] == "warning"
    behind = judged(clock=Clock(None, healthy().now + 3600, HANGS))
    assert behind["host-clock"] == "warning", "what files tell is judged all the same"
    report = diagnose.judge(CHECKS, healthy(clock=Clock(None, 0.0, HANGS)))
    assert "host-clock" in {one.check.code for one in report.unjudged}


def test_a_hung_timedatectl_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(argv: list[str], timeout_s: float) -> proc.Result:
        raise HANGS

    (tmp_path / "timedatectl").touch(0o755)
    monkeypatch.setattr(proc, "run", run)
    monkeypatch.setattr(proc, "system_path", lambda: str(tmp_path))
    monkeypatch.setattr(os.path, "isdir", lambda path: path == "/run/systemd/system")
    assert facts.read_clock([]).silence is HANGS


def test_what_hangs_in_the_firewall_is_a_warning_although_a_request_came_through() -> None:
    """A rule that cannot be understood is no more than a note then."""
    for hung, severity in (((), "note"), (("nft hangs",), "warning")):
        assert judged(firewall=Firewall(doubts=("nft hangs",), hung=hung))["host-firewall-unseen"] == severity


def test_files_are_not_compared_with_a_daemon_that_is_silent() -> None:
    """That is told as such, once."""
    found = judged(status=Unreachable("no daemon answers"), stale=Unreachable("no daemon answers"))
    assert "host-daemon" in found and "host-stale-unread" not in found


# Rights


def test_a_configuration_that_this_user_may_not_read_is_lack_of_rights_everywhere() -> None:
    denied = ConfigNotPermitted("/etc/vmfence.conf", 0, "it may not be read")
    gathered = diagnose.gather(
        {name: each for name, each in facts.everything(denied).items() if name in ("keys", "probes", "firewall")},
        SOON_S,
    )
    assert set(map(type, gathered.values())) == {NotPermitted}


def test_a_user_without_rights_is_told_of_no_fault_by_any_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    listener = settings()
    for gather in (facts.read_firewall, facts.read_way_back):
        with pytest.raises(NotPermitted):
            gather(listener, firewall.read_rules)
    with pytest.raises(NotPermitted):
        guest_facts.read_firewall(Inquiry())


def test_a_guest_who_may_not_read_the_key_has_not_asked() -> None:
    def refuse(*_: Any) -> Any:
        raise KeyNotPermitted("cannot read the key", "Permission denied", "run as root")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(guest_facts.trial, "run", refuse)
        with pytest.raises(NotPermitted) as caught:
            guest_facts.run_trial(Inquiry(), 1)
    assert is_forbidden(caught.value)
    second = guest_facts.second_round(Inquiry(), caught.value)
    assert diagnose.gather(second, SOON_S)["hosts"] is caught.value


# Processes


def process(folder: Path, pid: int, uuid: str = UUID) -> Path:
    """Make what /proc shows of a guest, but for the link to its network, which is made beside it."""
    place = folder / str(pid)
    (place / "ns").mkdir(parents=True)
    (place / "comm").write_text("qemu-system-x86\n")
    (place / "cmdline").write_bytes(f"qemu\0-name\0guest=vm\0-uuid\0{uuid}\0".encode())
    return place


def test_guests_whose_network_is_hidden_are_counted_and_not_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_link = os.readlink

    def hides(path: str) -> str:
        if "/7/" in path:
            raise PermissionError(13, "Permission denied")
        return read_link(path)

    for pid in (1, 7, 8):
        (process(tmp_path, pid) / "ns/net").symlink_to("net:[1]")
    (tmp_path / "self/ns").mkdir(parents=True)
    (tmp_path / "self/ns/net").symlink_to("net:[1]")
    assert hidden.count_veiled(str(tmp_path)) == 0
    monkeypatch.setattr(os, "readlink", hides)
    assert hidden.count_veiled(str(tmp_path)) == 1
    assert [one.pid for one in hidden.read_processes(str(tmp_path))] == [1, 8]


def test_where_processes_are_hidden_as_a_whole_that_is_seen(tmp_path: Path) -> None:
    """hidepid: not even the first one is there."""
    assert hidden.count_veiled(str(tmp_path)) == 1


def test_who_sees_not_all_processes_does_not_say_that_all_guests_are_seen() -> None:
    report = diagnose.judge(CHECKS, healthy(veiled=1))
    [unseen] = [one for one in report.unjudged if one.check.code == "host-guests-unseen"]
    assert is_forbidden(unseen.missing)
    empty = replace(healthy().libvirt, found=(replace(healthy().libvirt.found[0], guests=()),))
    report = diagnose.judge(CHECKS, healthy(veiled=1, libvirt=empty, processes=()))
    assert {"host-guests-unseen", "host-guests-none"} <= {one.check.code for one in report.unjudged}
    assert "host-guests-none" in judged(libvirt=empty, processes=())


def test_names_of_users_are_gathered_and_rules_ask_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not hasattr(checks_guests, "pwd")
    stranger = Process(9, "vm-9", UUID[:-1] + "9", 64055, "libvirt-qemu")
    for one, seen in ((stranger, "user libvirt-qemu"), (replace(stranger, user_name=""), "user 64055")):
        found = diagnose.judge(CHECKS, healthy(processes=(one,))).findings
        assert [seen in each.fault.evidence for each in found if each.code == "host-guests-unseen"] == [True]


# Listeners, at the same time

BOTH = """fence_virtd { listener = "multicast tcp"; backend = "libvirt"; }
listeners { multicast { interface = "lo"; } tcp { address = "127.0.0.1"; } }
backends { libvirt { uri = "test:///default"; } }"""


class Daemon:
    """Counts the lists that it answered; *silent*: it hangs."""

    def __init__(self, is_silent: bool = False) -> None:
        self.is_silent, self.asked, self.lists = is_silent, 0, 0

    def tell(self, path: str, timeout_s: float) -> dict[str, Any]:
        self.asked += 1
        if self.is_silent:
            raise Unreachable("no answer")
        done = [{"action": "list", "result": "ok", "count": self.lists}]
        return {**status(), "requests": done, "rejected": {}, "last_failed": [], "in_flight": 0}


def tried(daemon: Daemon, monkeypatch: pytest.MonkeyPatch, counted: int) -> tuple[probe.Probe, ...]:
    """Try two listeners that both must be asked before either is answered; the daemon has counted so many."""
    together_there = threading.Barrier(2, timeout=SOON_S)

    def list_hosts(inquiry: Inquiry) -> tuple[HostAnswer, ...]:
        if together_there.wait() == 0:
            daemon.lists += counted
        together_there.wait()
        if inquiry.ipaddr is None and counted < 2:
            raise NoAnswer("no host answered", "", "")
        return (HostAnswer("127.0.0.1", (Record("vm-1", UUID, 1),)),)

    monkeypatch.setattr(probe, "TIMEOUT_S", SOON_S)
    monkeypatch.setattr(control, "ask", daemon.tell)
    monkeypatch.setattr(answers, "list_hosts", list_hosts)
    monkeypatch.setattr(network, "check_address", lambda address: None)
    monkeypatch.setattr(probe, "refuse_hidden", lambda path: None)
    wanted = facts.configuration.read(BOTH.encode(), "/etc/vmfence.conf")
    return probe.try_listeners(wanted)


def test_listeners_are_tried_at_the_same_time_and_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [one.got_through for one in tried(Daemon(), monkeypatch, 2)] == [True, True]
    silent, heard = tried(Daemon(), monkeypatch, 1)
    assert (silent.name, silent.got_through, heard.name, heard.got_through) == ("multicast", False, "tcp", True)
    assert [one.got_through for one in tried(Daemon(), monkeypatch, 0)] == [False, False], "another daemon answered"


def test_a_daemon_that_hangs_is_asked_once_for_all_listeners(monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = Daemon(is_silent=True)
    assert [one.is_counted for one in tried(daemon, monkeypatch, 2)] == [None, None]
    assert daemon.asked == 1


# Cluster


def device(name: str, **options: str) -> Device:
    return Device(name, "fence_vmfence", options, {}, ())


def test_hosts_are_asked_at_the_same_time_and_each_silent_one_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    everybody = threading.Barrier(4, timeout=SOON_S)

    def list_hosts(inquiry: Inquiry) -> tuple[HostAnswer, ...]:
        everybody.wait()
        if inquiry.ipaddr == "10.0.0.3":
            return (HostAnswer("10.0.0.3", (Record("vm-1", UUID, 1),)),)
        raise NoAnswer("no host answered", "", "")

    monkeypatch.setattr(answers, "list_hosts", list_hosts)
    devices = [device(f"d{number}", ipaddr=f"10.0.0.{number}") for number in range(4)]
    hosts = cluster_facts.ask_hosts(devices, SOON_S)
    assert [type(one.error) for one in hosts] == [NoAnswer, NoAnswer, NoAnswer, type(None)]


def test_a_host_that_never_ends_leaves_the_others_their_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()

    def list_hosts(inquiry: Inquiry) -> tuple[HostAnswer, ...]:
        if inquiry.ipaddr == "10.0.0.1":
            never.wait()
        return (HostAnswer("10.0.0.2", ()),)

    monkeypatch.setattr(answers, "list_hosts", list_hosts)
    monkeypatch.setattr(cluster_facts, "VOICES_S", 0.0)
    monkeypatch.setattr(cluster_facts, "LATE_S", 0.0)
    stuck, other = cluster_facts.ask_hosts([device("a", ipaddr="10.0.0.1"), device("b", ipaddr="10.0.0.2")], 0.5)
    never.set()
    assert isinstance(stuck.error, DeadlineExceeded) and other.answers


def test_a_key_behind_a_closed_folder_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EACCES says nothing of whether it is there."""

    def refuse(path: str) -> Any:
        raise KeyNotPermitted(f"cannot read the key {path}", "Permission denied", "run as root")

    monkeypatch.setattr(cluster_facts.keyfile, "judge", refuse)
    monkeypatch.setattr(answers, "list_hosts", lambda inquiry: refuse(inquiry.key_file))
    for gather in (cluster_facts.load_keys, cluster_facts.ask_hosts):
        found = diagnose.gather({"fact": lambda gather=gather: gather([device("a")])}, SOON_S)["fact"]
        assert is_forbidden(found)


@pytest.mark.parametrize(
    ("error", "forbidden"), [(NotPermitted("may not ask the cluster"), True), (ToolMissing("no cibadmin"), False)]
)
def test_a_cluster_that_cannot_be_read_is_one_error(error: VmfenceError, forbidden: bool) -> None:
    first = dict.fromkeys(("version", "cib", "node", "status", "history"), error)
    rest = dict.fromkeys(("corosync", "machine_uuid", "proofs", "watchdog_s"), None)
    second = diagnose.gather(cluster_facts.second_round(Pacemaker(), error), SOON_S)
    found = cluster_facts.complete({**first, **rest, **second})
    told = [found.version, found.status, found.hosts, found.keys]
    assert all(map(is_forbidden, told)) is forbidden
    assert forbidden or all(isinstance(one, NotReached) for one in told)
    assert found.cib is error


# The firewall's programs


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder where programs are found; each writes down that it was run."""
    monkeypatch.setattr(
        firewall, "_installed", lambda name: path if Path(path := f"{tmp_path}/{name}").exists() else None
    )
    monkeypatch.setattr(firewall, "read_tables", frozenset)
    return tmp_path


def install(folder: Path, name: str, text: str) -> None:
    script = folder / name
    script.write_text(f'#!/bin/sh\necho "{name} $*" >> {folder}/runs\n{text}\n')
    script.chmod(0o755)


def runs(folder: Path, part: str) -> int:
    return sum(part in line for line in (folder / "runs").read_text().splitlines())


def test_all_programs_that_hang_are_named_and_the_rest_is_judged(tools: Path) -> None:
    for name in ("firewall-cmd", "nft", "iptables-save"):
        install(tools, name, "exec sleep 1000")
    opening = Opening("udp", 1229, "br0", "ipv4")
    found = diagnose.gather({"firewall": lambda: firewall.look([opening])}, SOON_S, 0.5)["firewall"]
    assert isinstance(found, Firewall) and found.hung == found.doubts
    for name in ("firewall-cmd", "nft", "iptables-save"):
        assert any(f"{name} did not end within 0.5 s" in one for one in found.hung), name


def test_rules_are_read_once_for_both_ways(tools: Path) -> None:
    install(tools, "nft", """echo '{"nftables": []}'""")
    install(tools, "iptables-save", "")
    rules = together.Once(firewall.read_rules)
    opening = Opening("tcp", 1229, "br0", "ipv4")
    found = diagnose.gather(
        {"in": lambda: firewall.look([opening], "", rules), "out": lambda: firewall.look_out([opening], rules)}, SOON_S
    )
    assert found["in"].doubts == () and not isinstance(found["out"], VmfenceError)
    assert (runs(tools, "nft"), runs(tools, "iptables-save")) == (1, 1)


def test_what_could_not_be_read_is_not_tried_again(tools: Path) -> None:
    install(tools, "nft", "exit 1")
    rules = together.Once(firewall.read_rules)
    for _ in range(2):
        with pytest.raises(VmfenceError, match="failed"):
            rules("ipv4")
    assert runs(tools, "nft") == 1


def test_firewalld_is_asked_for_its_default_zone_once(tools: Path) -> None:
    install(tools, "firewall-cmd", 'case "$*" in *default*) echo public;; esac')
    firewall.look([Opening("udp", 1229, f"br{number}", "ipv4") for number in range(5)])
    assert runs(tools, "--get-default-zone") == 1
