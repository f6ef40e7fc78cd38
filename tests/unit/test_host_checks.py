"""The rules of ``host check``: a healthy host passes, and each fault is found under its own code, the cause first."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vmfence import diagnose
from vmfence.client.failures import NoAnswer
from vmfence.config import settings as configuration
from vmfence.errors import (
    ConfigError,
    ConfigNotPermitted,
    KeyFileError,
    NotPermitted,
    Unreachable,
    VmfenceError,
)
from vmfence.findings import ERROR, NOTE, WARNING, Finding, NotAsked, Severity
from vmfence.guest.answers import HostAnswer
from vmfence.host import probe
from vmfence.host.backends.inventory import GuestFacts, Inventory
from vmfence.host.check import facts as gathering
from vmfence.host.check import hidden, selinux
from vmfence.host.check.checks import CHECKS
from vmfence.host.check.facts import Clock, Facts, Libvirt
from vmfence.host.check.hidden import Process
from vmfence.host.check.libvirt_unit import LibvirtUnit
from vmfence.host.check.selinux import SELinux
from vmfence.host.ground import KeyFacts
from vmfence.host.kernel import Holder, Link, Network, Route
from vmfence.host.network import Interface
from vmfence.host.probe import Probe
from vmfence.host.unit import UnitFacts
from vmfence.packetfilter.firewall import Firewall
from vmfence.packetfilter.kept import Later
from vmfence.packetfilter.origins import Origin
from vmfence.packetfilter.rulesets import Obstacle
from vmfence.packetfilter.walk import Stoppage
from vmfence.protocol.reply import Record, State

CONFIG, KEY, SYSTEM = "/etc/vmfence.conf", "/etc/cluster/fence_xvm.key", "qemu:///system"
POOL = {check.code for check in CHECKS if check.code.startswith("host-pool-")}  # see test_pool_checks
GROUP, NOW, PID = "225.0.0.12", 1_800_000_000.0, 4711
UUIDS = ("11111111-2222-3333-4444-555555555501", "11111111-2222-3333-4444-555555555502")
RECORDS = tuple(Record(f"vm-{number}", uuid, State.RUNNING) for number, uuid in enumerate(UUIDS, 1))
ELSEWHERE = HostAnswer("10.88.0.2", (Record("vm-9", UUIDS[0][:-1] + "9", State.RUNNING),))
BR0 = Interface("br0", is_bridge=True)
REFUSED = Unreachable("cannot connect", "Connection refused")
QEMUD = LibvirtUnit("virtqemud", "virtqemud.socket")


def settings(listener: str = "multicast", keys: str = 'interface = "br0";', more: str = "") -> configuration.Settings:
    text = f"""fence_virtd {{ listener = "{listener}"; backend = "libvirt"; }}
    listeners {{ {listener} {{ {keys} }} }}
    backends {{ libvirt {{ uri = "{SYSTEM}"; }} }} {more}"""
    return configuration.read(text.encode(), CONFIG)


def groups(*targets: str) -> configuration.Settings:
    lines = "".join(f'uuid = "{target}"; ' for target in targets)
    return settings(more=f'groups {{ group {{ ip = "10.0.0.1"; {lines} }} }}')


def guest(number: int = 1, *bridges: str, name: str = "", direct: tuple[str, ...] = ()) -> GuestFacts:
    name = name or f"vm-{number}"
    return GuestFacts(name, UUIDS[number - 1], State.RUNNING, bridges=bridges, direct=direct)


def libvirt(*guests: GuestFacts, **more: Any) -> Libvirt:
    return Libvirt((Inventory(SYSTEM, "QEMU 7.2.0", "9.0.0", guests),), **more)


def listener(**changes: Any) -> dict[str, Any]:
    made = {"where": f"multicast {GROUP} port 1229 on br0", "is_optional": False, "is_open": True, "trouble": ""}
    return {**made, "unheard": {}, **changes}


def status(**changes: Any) -> dict[str, Any]:
    made = {
        "pid": PID,
        "config": CONFIG,
        "refused_reload": None,
        "state_dir": "/var/lib/vmfence",
        "in_flight": 0,
        "listeners": [listener()],
        "hypervisors": [{"uri": SYSTEM, "is_answering": True, "trouble": ""}],
        "keys": [{"owner": "listener multicast", "path": KEY, "sha256": "aa"}],
        "last_rejected": [],
        "last_failed": [],
        "last_answered": {},
        "signatures": {"trouble": ""},
        "history": {"lost": 0, "trouble": ""},
    }
    return {**made, **changes}


def network(**changes: Any) -> Network:
    made = Network(
        {"br0": frozenset({GROUP}), "lo": frozenset()},
        (Route("br0", ipaddress.IPv4Network("10.88.0.0/24")),),
        (("10.88.0.11", "br0"),),
        (Link("br0"),),
    )
    return replace(made, **changes)


PROBE = Probe("multicast", f"multicast {GROUP} port 1229", (HostAnswer("10.88.0.1", RECORDS),), is_counted=True)
SILENT = replace(PROBE, ours=(), error=NoAnswer("no host answered", "", ""), is_counted=False)
UNIT = UnitFacts(True, "/etc/systemd/system/vmfence.service", "", True, True)


def healthy(**changes: Any) -> Facts:
    """A host with two guests on br0, as setup leaves it."""
    made = Facts(
        path=CONFIG,
        settings=settings(),
        accepted=True,
        keys=(KeyFacts(KEY, True, "aa"),),
        interfaces=(BR0, Interface("br1", is_bridge=True), Interface("veth1", master="br0")),
        network=network(),
        holders=(Holder("udp", GROUP, 1229, PID, "vmfence"),),
        status=status(),
        stale=(),
        probes=(PROBE,),
        libvirt=libvirt(guest(1, "br0"), guest(2, "br0")),
        processes=(Process(9, "vm-1", UUIDS[0], 64055),),
        firewall=Firewall(),
        way_back=Firewall(),
        unit=UNIT,
        selinux=SELinux(),
        clock=Clock(True, NOW - 60),
        program=("vmfence",),
        now=NOW,
    )
    return replace(made, **changes)


def findings(facts: Facts) -> list[Finding]:
    return list(diagnose.judge(CHECKS, facts).findings)


def codes(facts: Facts, least: Severity = WARNING) -> list[str]:
    return [one.code for one in findings(facts) if one.fault.severity >= least]


def test_a_healthy_host_has_no_finding_but_the_open_access() -> None:
    assert [one.code for one in findings(healthy())] == ["host-access-open"]
    assert codes(healthy(settings=groups(*UUIDS)), NOTE) == []
    report = diagnose.judge(CHECKS, healthy())
    assert report.unjudged == ()
    assert {one.check.code for one in report.unasked} - POOL == {
        "host-multicast-route",
        "host-address-loopback",
        "host-channel-unheard",
        "host-target-unknown",
        "host-guest-denied",
        "host-selinux",
    }


def denied(what: str = "this user may not") -> NotPermitted:
    return NotPermitted(what)


def last_rejected(reason: str, origin: str = "10.88.0.11 (multicast)", at: float = NOW - 5) -> dict[str, Any]:
    return status(last_rejected=[{"at": at, "origin": origin, "reason": reason}])


NO_WAY = "cannot call back. 10.88.0.11 port 1229: No route to host."
UNREAD = VmfenceError("could not be read", "an I/O error")
DOWN = Unreachable("no daemon answers", "Connection refused")
MACVTAP = GuestFacts("vm-1", UUIDS[0], State.RUNNING, direct=("eth0",))
STRICT = (Link("br0", rp_filter=1),)
AWAY = network().routes + (Route("eth1", ipaddress.IPv4Network("10.88.0.11/32")),)
CARVED = network().routes + (Route("virbr0", ipaddress.IPv4Network("10.88.0.128/25")),)
FIREWALLD = Firewall(("libvirt",), (("firewall-cmd", "--zone=libvirt", "--add-port=1229/udp"),))
PERMANENT = Firewall(("libvirt",), (("firewall-cmd", "--permanent", "--zone=libvirt", "--add-service=vmfence"),))
KEPT = Firewall(("libvirt",), later=(Later("policy p has the rich rule: rule drop", "firewall-cmd --permanent x"),))


def obstructed(command: str = "nft insert rule inet f i udp dport 1229 accept", **stoppage: Any) -> Firewall:
    """Return a firewall with one rule in the way."""
    return Firewall(rules=(command,), obstacles=(Obstacle(command, None, Stoppage(("udp drop",), **stoppage)),))


RULES, FOR_SOME = obstructed(), obstructed(is_of_origin=True)
FOR_ALL = obstructed(is_of_origin=True, is_certain=True)
FOR_ONE = obstructed(is_of_origin=True, guests=(Origin("10.88.0.11"),))
OF_FIREWALLD = obstructed("firewall-cmd --zone=drop --add-port=1229/udp", is_of_origin=True, guests=(Origin("::1"),))
SESSION = Inventory("qemu+unix:///session?socket=/run/user/7/s", "QEMU 7.2.0", "9.0.0", (guest(1),))

# Name -> what is changed on the healthy host, the first code that must be found, its severity.
FAULTS: dict[str, tuple[dict[str, Any], str, Severity]] = {
    "no configuration": (
        {"settings": ConfigError(CONFIG, 0, "no configuration file")},
        "host-configuration",
        ERROR,
    ),
    "refused configuration": ({"accepted": ConfigError(CONFIG, 3, "same key")}, "host-configuration-refused", ERROR),
    "no key": ({"keys": (KeyFacts(KEY, False),), "accepted": NotAsked("")}, "host-key-missing", ERROR),
    "open key": (
        {"keys": (KeyFacts(KEY, True, fault=KeyFileError("not secret", "mode 0644", f"chmod 0600 {KEY}")),)},
        "host-key-unusable",
        ERROR,
    ),
    "weak key": (
        {"keys": (KeyFacts(KEY, True, "aa", weaknesses=(KeyFileError("the key is text"),)),)},
        "host-key-weak",
        WARNING,
    ),
    "key replaced": ({"keys": (KeyFacts(KEY, True, "bb"),), "stale": (KEY,)}, "host-key-stale", ERROR),
    "configuration changed": ({"stale": (CONFIG,)}, "host-daemon-stale", WARNING),
    "libvirt stopped": ({"libvirt": Libvirt(silent=((SYSTEM, REFUSED),), unit=QEMUD)}, "host-libvirt", ERROR),
    "unknown interface": ({"settings": settings(keys='interface = "br9";')}, "host-interface-missing", ERROR),
    "a port of the bridge": ({"settings": settings(keys='interface = "veth1";')}, "host-interface-missing", ERROR),
    "bridge down": ({"interfaces": (Interface("br0", True, False),)}, "host-interface-down", ERROR),
    "no interface set": (
        {
            "settings": settings(keys=""),
            "network": network(routes=(Route("eth0", ipaddress.IPv4Network("0.0.0.0/0")),)),
        },
        "host-interface-unset",
        WARNING,
    ),
    "no route": ({"settings": settings(keys="")}, "host-multicast-route", ERROR),
    "guests elsewhere": ({"libvirt": libvirt(guest(1, "br1"))}, "host-bridge-unheard", ERROR),
    "a node elsewhere": (
        {"settings": groups(*UUIDS), "libvirt": libvirt(guest(1, "br1"), guest(2, "br0"))},
        "host-bridge-unheard",
        WARNING,
    ),
    "loopback": ({"settings": settings("tcp", 'address = "127.0.0.1";')}, "host-address-loopback", ERROR),
    "fence_virtd": (
        {"holders": (Holder("udp", "0.0.0.0", 1229, 12, "fence_virtd"),), "status": DOWN},
        "host-second-daemon",
        ERROR,
    ),
    "another python": (
        {"holders": (Holder("udp", "0.0.0.0", 1229, 12, "python3"),), "status": DOWN},
        "host-second-daemon",
        ERROR,
    ),
    "no daemon": ({"status": DOWN, "probes": (SILENT,), "holders": ()}, "host-daemon", ERROR),
    "listener closed": (
        {"status": status(listeners=[listener(is_open=False, trouble="gone")])},
        "host-listener",
        ERROR,
    ),
    "optional listener closed": (
        {"status": status(listeners=[listener(is_open=False, trouble="gone", is_optional=True)])},
        "host-listener",
        WARNING,
    ),
    "a console has the channel": (
        {"status": status(listeners=[listener(unheard={"vm-1 (serial) at /run/1": "nobody has accepted"})])},
        "host-channel-unheard",
        WARNING,
    ),
    "group left": ({"network": network(memberships={"br0": frozenset()}), "probes": (SILENT,)}, "host-group", ERROR),
    "group on another interface": (
        {"network": network(memberships={"br1": frozenset({GROUP})}), "probes": (SILENT,)},
        "host-group",
        ERROR,
    ),
    "firewalld": ({"firewall": FIREWALLD, "probes": (SILENT,)}, "host-firewall", ERROR),
    "firewalld after a reload": ({"firewall": PERMANENT}, "host-firewall", WARNING),
    "firewalld, kept": ({"firewall": KEPT}, "host-firewall", WARNING),
    "rules": ({"firewall": RULES, "probes": (SILENT,)}, "host-firewall", ERROR),
    "rules, nothing tried": ({"firewall": RULES, "probes": denied()}, "host-firewall", WARNING),
    "rules for some senders": ({"firewall": FOR_SOME}, "host-firewall", WARNING),
    "rules for all other senders": ({"firewall": FOR_ALL}, "host-firewall", ERROR),
    "rules for one guest": ({"firewall": FOR_ONE}, "host-firewall", ERROR),
    "rules of firewalld for one guest": ({"firewall": OF_FIREWALLD}, "host-firewall", ERROR),
    "rules of firewalld that nothing explains": (
        {"firewall": Firewall(doubts=("firewalld may stop it",), is_of_origin=True)},
        "host-firewall-unseen",
        WARNING,
    ),
    "way back certainly closed": (
        {"way_back": obstructed(is_certain=True), "probes": (SILENT,)},  # this host's own as well
        "host-firewall-back",
        ERROR,
    ),
    "rules unread": (
        {"firewall": Firewall(doubts=("nft failed",)), "probes": denied()},
        "host-firewall-unseen",
        WARNING,
    ),
    "way back closed": (
        {"way_back": obstructed(command="nft insert rule inet f o tcp dport 1229 accept")},
        "host-firewall-back",
        WARNING,
    ),
    "way back failed": (
        {"way_back": obstructed(), "status": last_rejected("cannot call back. 10.88.0.11 port 1229: no answer.")},
        "host-firewall-back",
        ERROR,
    ),
    "strict filter, and it drops": (
        {"network": network(links=STRICT, routes=CARVED, filtered=5, filtered_meanwhile=1)},
        "host-rp-filter",
        ERROR,
    ),
    "a network within": ({"network": network(routes=CARVED)}, "host-route-astray", NOTE),
    "strict filter": ({"network": network(links=STRICT, routes=AWAY)}, "host-rp-filter", ERROR),
    "strict filter, no route": ({"network": network(links=STRICT, routes=(), neighbours=())}, "host-rp-filter", ERROR),
    "routed away": ({"network": network(routes=AWAY)}, "host-route-astray", WARNING),
    "session guests": ({"libvirt": libvirt(elsewhere=(SESSION,))}, "host-guests-unseen", ERROR),
    "some session guests": ({"libvirt": libvirt(guest(2, "br0"), elsewhere=(SESSION,))}, "host-guests-unseen", WARNING),
    "a guest of nobody": ({"processes": (Process(3, "x", "1" * 36, 0),)}, "host-guests-unseen", WARNING),
    "macvtap": ({"libvirt": libvirt(MACVTAP)}, "host-macvtap", ERROR),
    "one by macvtap": ({"libvirt": libvirt(MACVTAP, guest(2, "br0"))}, "host-macvtap", WARNING),
    "network down": ({"libvirt": libvirt(guest(1, "br0", "virbr7"))}, "host-network-down", WARNING),
    "long name": ({"libvirt": libvirt(guest(1, "br0", name="n" * 64))}, "host-name-long", WARNING),
    "a slip in the rules": ({"settings": groups(*UUIDS, "vm-3")}, "host-target-unknown", WARNING),
    "a slip for all": ({"settings": groups("vm-3")}, "host-target-unknown", ERROR),
    "two hosts": (
        {"probes": (replace(PROBE, others=(ELSEWHERE,), guest="vm-1", speakers=("a", "b")),)},
        "host-several",
        ERROR,
    ),
    "another host alone": ({"probes": (replace(SILENT, others=(ELSEWHERE,)),)}, "host-unanswered", ERROR),
    "another daemon here": ({"probes": (replace(PROBE, is_counted=False),)}, "host-unanswered", ERROR),
    "no answer": ({"probes": (SILENT,)}, "host-unanswered", ERROR),
    "failure for an answer": (
        {"probes": (replace(PROBE, ours=(), has_failed=True, failure="Corosync is gone"),)},
        "host-unanswered",
        ERROR,
    ),
    "failure of another host": (
        {"probes": (replace(PROBE, failed_elsewhere=("10.88.0.2",), guest="vm-1", speakers=("a", "b")),)},
        "host-several",
        ERROR,
    ),
    "the daemon lost libvirt": (
        {"status": status(hypervisors=[{"uri": SYSTEM, "is_answering": False, "trouble": "hung"}])},
        "host-libvirt-lost",
        WARNING,
    ),
    "call-back closed": (
        {"status": last_rejected(NO_WAY)},
        "host-callback",
        WARNING,
    ),
    "wrong key of a guest": ({"status": last_rejected("wrong key. the packet is signed.")}, "host-rejected", WARNING),
    "not enabled": ({"unit": replace(UNIT, is_enabled=False)}, "host-boot", WARNING),
    "no service": ({"unit": UnitFacts(True)}, "host-boot", WARNING),
    "by hand": ({"unit": replace(UNIT, is_active=False)}, "host-beside-service", WARNING),
    "rival at boot": ({"unit": replace(UNIT, is_rival_enabled=True)}, "host-rival-at-boot", WARNING),
    "SELinux": ({"selinux": SELinux(True, ("fence_virtd: name_connect x",))}, "host-selinux", ERROR),
    "moved": (
        {"libvirt": libvirt(guest(1, "br0"), replace(guest(2, "br0"), state=State.SHUT_OFF, moved=True))},
        "host-guest-moved",
        WARNING,
    ),
    "signatures not kept": (
        {"status": status(signatures={"trouble": "database or disk is full"})},
        "host-records-unkept",
        WARNING,
    ),
    "history not kept": (
        {"status": status(history={"lost": 1, "trouble": "Read-only file system"})},
        "host-records-unkept",
        WARNING,
    ),
    "history not kept, once": ({"status": status(history={"lost": 1, "trouble": ""})}, "host-records-unkept", NOTE),
    "clock behind": ({"clock": Clock(True, NOW + 3600)}, "host-clock", WARNING),
    "clock unkept": ({"clock": Clock(False, NOW)}, "host-clock", NOTE),
    "no guests": ({"libvirt": libvirt(), "processes": ()}, "host-guests-none", NOTE),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_the_first_that_is_found(name: str) -> None:
    changes, code, severity = FAULTS[name]
    found = [one for one in findings(healthy(**changes)) if one.code != "host-access-open"]
    assert (found[0].code, found[0].fault.severity) == (code, severity), found
    fault = found[0].fault
    assert fault.subject and fault.message and (fault.remedy or severity is NOTE)


def test_every_check_has_a_fault_here() -> None:
    reading = {one.code for one in CHECKS if one.code.endswith("-unread")}
    others = {"host-configuration-doubtful", "host-unauthenticated", "host-access-open", "host-snooping"}
    others |= {"host-guest-denied"} | POOL
    assert {code for _, code, _ in FAULTS.values()} | reading | others == {one.code for one in CHECKS}


def test_two_faults_are_both_reported() -> None:
    both = healthy(settings=groups(*UUIDS, "slip"), status=DOWN, probes=(SILENT,), holders=())
    assert {"host-daemon", "host-target-unknown"} <= set(codes(both))


def test_without_a_daemon_silence_is_not_a_fault_of_its_own() -> None:
    assert codes(healthy(status=DOWN, probes=(SILENT,), holders=())) == ["host-daemon"]


def test_an_open_configuration_is_told() -> None:
    text = """fence_virtd { listener = "multicast"; backend = "libvirt"; allow_unauthenticated = "yes"; }
    listeners { multicast { interface = "br0"; hash = "none"; auth = "none"; } }
    backends { libvirt { uri = "qemu:///system"; } }"""
    assert codes(healthy(settings=configuration.read(text.encode(), CONFIG))) == ["host-unauthenticated"]


def test_a_doubtful_line_is_told() -> None:
    slip = groups(f"{{{UUIDS[0]}}}", *UUIDS)
    assert "host-configuration-doubtful" in codes(healthy(settings=slip))


def test_guests_that_nobody_may_fence_are_told() -> None:
    assert codes(healthy(settings=groups("vm-3"))) == ["host-target-unknown", "host-guest-denied"]
    assert codes(healthy(settings=groups("vm-1"))) == []
    assert "host-guest-denied" in codes(healthy(settings=groups("vm-1")), NOTE)


# What is no fault


@pytest.mark.parametrize(
    "changes",
    [
        {"firewall": RULES},  # a request came through
        {"firewall": FIREWALLD},
        {"firewall": Firewall(doubts=("nft failed",))},
        {"network": network(links=STRICT, routes=CARVED, filtered=5)},  # of another network, and nobody is in it
        {"network": network(links=STRICT)},  # strict, and routed as it must be
        {"libvirt": libvirt(guest(1, "br1"), guest(2, "br0"))},  # no cluster node, as far as anybody knows
        {"status": last_rejected("wrong key.", at=NOW - 3600)},
        {"status": {**last_rejected("wrong key."), "last_answered": {"10.88.0.11": NOW - 1}}},
        {"status": last_rejected("cannot call back. 10.88.0.1.", "10.88.0.1"), "own": frozenset({"10.88.0.1"})},
        {"status": last_rejected("too many requests at once.", "10.88.0.1 (multicast)")},  # our own
        {"holders": (Holder("udp", "225.0.0.13", 1229, 12, "vmfence"),)},  # another group
        {"holders": (Holder("udp", GROUP, 1229),)},  # whose it is cannot be seen
        {"holders": (Holder("tcp", "0.0.0.0", 1229, 12, "fence_xvm"),)},  # waits for a call-back
        {"probes": (replace(PROBE, others=(replace(ELSEWHERE, guests=RECORDS),)),)},  # a pool
        {"probes": (replace(PROBE, others=(ELSEWHERE,), guest="vm-1", speakers=("a",)),)},
        {"stale": (UNIT.path,)},
        {"unit": UnitFacts()},
        {"network": network(links=(Link("br0", snooping=True, uplinks=("eth0",)),))},
    ],
)
def test_what_is_no_fault_is_at_most_a_note(changes: dict[str, Any]) -> None:
    assert codes(healthy(**changes)) == []


def test_snooping_is_told_only_where_other_hosts_are_involved() -> None:
    snooping = network(links=(Link("br0", snooping=True, uplinks=("eth0",)),))
    alone = healthy(network=snooping)
    several = healthy(network=snooping, probes=(replace(PROBE, others=(ELSEWHERE,), guest="vm-1", speakers=("a",)),))
    assert "host-snooping" not in codes(alone, NOTE) and "host-snooping" in codes(several, NOTE)
    querier = replace(several, network=network(links=(Link("br0", snooping=True, querier=True, uplinks=("eth0",)),)))
    assert "host-snooping" not in codes(querier, NOTE)


# What could not be seen


def unjudged(facts: Facts) -> set[str]:
    return {one.check.code for one in diagnose.judge(CHECKS, facts).outcomes if one.missing is not None}


def test_who_may_see_little_is_told_what_was_not_judged() -> None:
    facts = healthy(accepted=denied(), keys=denied(), status=denied(), probes=denied(), firewall=denied())
    assert {"host-key-weak", "host-daemon", "host-unanswered", "host-several", "host-firewall"} <= unjudged(facts)
    assert codes(facts) == []


def test_an_unreadable_configuration_is_no_fault_of_the_host() -> None:
    unread = ConfigNotPermitted(CONFIG, 0, "may not be read")
    absent = {name: NotAsked("unread") for name in gathering.everything(unread)}
    facts = healthy(**{**absent, "settings": unread})
    assert codes(facts, NOTE) == ["host-configuration"] and codes(facts) == []
    assert len(unjudged(facts)) > 30


def test_a_silent_libvirt_leaves_its_guests_unjudged() -> None:
    facts = healthy(libvirt=Libvirt(silent=((SYSTEM, REFUSED),)))
    assert {"host-guests-unseen", "host-macvtap", "host-target-unknown", "host-bridge-unheard"} <= unjudged(facts)


def held(facts: Facts) -> set[str]:
    found = diagnose.judge(CHECKS, facts).outcomes
    return {one.check.code for one in found if one.missing is None and not one.faults}


TCP = settings("tcp", 'address = "127.0.0.1";')
CHANNELS = settings("serial", 'path = "/run/vmfence"; mode = "serial";')
BR9 = settings(keys='interface = "br9";')
NO_GUESTS = {"host-macvtap", "host-network-down", "host-name-long", "host-bridge-unheard", "host-guest-denied"}


@pytest.mark.parametrize(
    ("changes", "codes", "is_unknown"),
    [
        ({"settings": BR9}, {"host-interface-down", "host-group", "host-rp-filter", "host-route-astray"}, True),
        (
            {"settings": settings(keys="")},
            {"host-interface-missing", "host-interface-down", "host-rp-filter", "host-bridge-unheard"},
            False,
        ),
        (
            {"settings": TCP, "probes": (), "libvirt": libvirt(guest(1), guest(2))},
            {
                "host-interface-missing",
                "host-interface-unset",
                "host-group",
                "host-callback",
                "host-firewall-back",
                "host-several",
                "host-unanswered",
                "host-snooping",
                "host-address-loopback",
            },
            False,
        ),
        ({"settings": TCP, "libvirt": VmfenceError("no answer")}, {"host-address-loopback"}, True),
        (
            {"settings": CHANNELS, "keys": ()},
            {
                "host-unauthenticated",
                "host-key-missing",
                "host-key-unusable",
                "host-key-weak",
                "host-key-stale",
                "host-firewall",
                "host-firewall-unseen",
                "host-second-daemon",
                "host-macvtap",
            },
            False,
        ),
        ({"keys": (KeyFacts(KEY, False),)}, {"host-key-unusable", "host-key-weak", "host-key-stale"}, True),
        ({"keys": (KeyFacts(KEY, True, fault=KeyFileError("open")),)}, {"host-key-weak", "host-key-stale"}, True),
        ({"unit": UnitFacts()}, {"host-unit-unread", "host-beside-service", "host-rival-at-boot"}, False),
        ({"unit": UnitFacts(True)}, {"host-beside-service"}, False),
        ({"libvirt": libvirt(), "settings": groups("vm-1")}, NO_GUESTS, False),
        ({"libvirt": Libvirt(silent=((SYSTEM, REFUSED),))}, {"host-libvirt-lost"}, True),
        ({"clock": Clock(None, NOW)}, {"host-clock"}, False),
        ({"firewall": Firewall(doubts=("nft failed",)), "probes": denied()}, {"host-firewall"}, True),
        ({"holders": (Holder("udp", GROUP, 1229),)}, {"host-second-daemon"}, True),
        ({"peer": UNREAD, "status": DOWN, "unit": UnitFacts()}, {"host-second-daemon"}, True),
        ({"own": UNREAD, "status": last_rejected(NO_WAY)}, {"host-callback", "host-rejected"}, True),
    ],
)
def test_what_is_not_there_or_not_seen_is_not_praised(
    changes: dict[str, Any], codes: set[str], is_unknown: bool
) -> None:
    report = diagnose.judge(CHECKS, healthy(**changes))
    assert codes <= {one.check.code for one in (report.unjudged if is_unknown else report.unasked)}
    assert not codes & held(healthy(**changes))


@pytest.mark.parametrize("fact", [name for name in vars(healthy()) if name not in ("path", "now", "program")])
def test_no_rule_stumbles_over_a_fact_that_is_missing(fact: str) -> None:
    """Whatever else is at fault, so that every rule gets as far as it does on some host."""
    lost = {fact: UNREAD, **({"holders": UNREAD} if fact == "settings" else {})}  # looked up for its listeners
    for changes, _, _ in ({}, "", NOTE), *FAULTS.values():
        assert diagnose.judge(CHECKS, healthy(**{**changes, **lost})).outcomes


# Remedies


def fixes(facts: Facts) -> list[tuple[str, ...] | None]:
    return [one.fault.fix for one in diagnose.fixable(diagnose.judge(CHECKS, facts))]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("no daemon", ("systemctl", "start", "vmfence.service")),
        ("not enabled", ("systemctl", "enable", "vmfence.service")),
        ("configuration changed", ("systemctl", "reload", "vmfence.service")),
        ("open key", ("chmod", "0600", KEY)),
        ("libvirt stopped", ("systemctl", "start", "virtqemud.socket")),
        ("firewalld", ("vmfence", "host", "setup", "--config", CONFIG, "--no-service", "--no-check")),
    ],
)
def test_safe_remedies(name: str, wanted: tuple[str, ...]) -> None:
    assert fixes(healthy(**FAULTS[name][0])) == [wanted]


RELOAD = ("systemctl", "reload", "vmfence.service")
FIRST, SECOND = KeyFacts(KEY, True, "aa"), KeyFacts("/etc/second.key", True, "bb")


@pytest.mark.parametrize(
    ("keys", "in_use"),
    [
        ((replace(FIRST, fingerprint="bb"),), {KEY: "aa"}),
        ((SECOND,), {KEY: "aa"}),
        ((FIRST,), {}),  # nobody had to prove one
        ((replace(FIRST, fingerprint="cc"), SECOND), {KEY: "aa"}),
    ],
)
def test_a_key_that_guests_may_still_have_is_taken_from_them_by_nobody_but_a_person(
    keys: tuple[KeyFacts, ...], in_use: dict[str, str]
) -> None:
    used = [{"owner": "listener multicast", "path": path, "sha256": sha256} for path, sha256 in in_use.items()]
    found = healthy(keys=keys, status=status(keys=used), stale=(CONFIG, KEY))
    assert fixes(found) == []
    for one in findings(found):
        if one.code == "host-key-stale":
            command, _, words = one.fault.remedy.partition(" # ")
            assert command.split() == list(RELOAD) and "refused from then on: copy the new key to them first" in words


def test_a_key_that_comes_in_addition_is_read_without_a_risk() -> None:
    found = healthy(keys=(FIRST, SECOND))
    assert codes(found) == ["host-key-stale"] and fixes(found) == [RELOAD]
    assert "#" not in next(one.fault.remedy for one in findings(found) if one.code == "host-key-stale")


@pytest.mark.parametrize("name", ["strict filter", "fence_virtd", "rules", "weak key", "two hosts", "by hand"])
def test_what_takes_a_decision_is_never_done(name: str) -> None:
    assert fixes(healthy(**FAULTS[name][0])) == []


def test_a_daemon_that_would_not_start_is_not_started() -> None:
    assert fixes(healthy(status=DOWN, accepted=ConfigError(CONFIG, 1, "no"), probes=(), holders=())) == []


# The table itself


def test_codes_are_unique_and_told_in_words() -> None:
    assert len({one.code for one in CHECKS}) == len(CHECKS)
    for one in CHECKS:
        assert re.fullmatch(r"host(-[a-z]+)+", one.code) and one.title and one.story
        assert not one.title.endswith(".") and " ".join(one.story.split()).endswith(".")


# Gathering


def cmdline(folder: Path, pid: int, *words: str) -> None:
    place = folder / str(pid)
    (place / "ns").mkdir(parents=True)
    (place / "ns/net").symlink_to("net:[1]")
    (place / "comm").write_text(f"{words[0][:15]}\n")
    (place / "cmdline").write_bytes(b"\0".join(word.encode() for word in words) + b"\0")


def test_guests_are_found_by_their_processes(tmp_path: Path) -> None:
    cmdline(tmp_path, 7, "qemu-system-x86_64", "-name", "guest=vm-7,debug-threads=on", "-uuid", UUIDS[0])
    cmdline(tmp_path, 8, "qemu-system-x86_64", "-name", "scratch")
    cmdline(tmp_path, 9, "bash", "-uuid", UUIDS[1])
    cmdline(tmp_path, 10, "kvm", "-uuid")
    (tmp_path / "self").symlink_to("9")
    [found] = hidden.read_processes(str(tmp_path))
    assert (found.pid, found.name, found.uuid) == (7, "vm-7", UUIDS[0])
    assert hidden.unseen([found], [UUIDS[0].upper()]) == () and hidden.unseen([found], []) == (found,)
    assert hidden.read_processes(str(tmp_path / "none")) == ()


def test_denials_of_our_programs() -> None:
    audit = """----
time->Mon Nov 23 10:00:00 2026
type=AVC msg=audit(1.1:2): avc:  denied  { name_connect } for  pid=1 comm="fence_virtd" dest=1229 \
scontext=system_u:system_r:fenced_t:s0 tcontext=system_u:object_r:zented_port_t:s0 tclass=tcp_socket
type=AVC msg=audit(1.1:3): avc:  denied  { read } for  pid=1 comm="httpd" tcontext=x
"""
    assert selinux.denials(audit) == ("fence_virtd: name_connect system_u:object_r:zented_port_t:s0",)
    assert selinux.denials("<no matches>") == ()


def test_a_key_that_may_not_be_read_is_not_taken_for_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = tmp_path / "key"
    key.write_bytes(bytes(range(64)))
    chosen = settings(keys=f'key_file = "{key}"; interface = "br0";')
    readable: Callable[..., bool] = lambda path, mode: path != str(key)  # noqa: E731
    monkeypatch.setattr(probe.os, "access", readable)
    with pytest.raises(NotPermitted):
        gathering.read_keys(chosen)


def test_a_configuration_with_its_keys_is_accepted_or_not(tmp_path: Path) -> None:
    key = tmp_path / "key"
    chosen = settings(keys=f'key_file = "{key}"; interface = "br0";')
    with pytest.raises(NotAsked):
        gathering.accept(chosen)
    key.write_bytes(bytes(range(64)))
    key.chmod(0o600)
    assert gathering.accept(chosen)
    group = settings(
        keys=f'key_file = "{key}"; interface = "br0";',
        more=f'groups {{ group {{ uuid = "a"; key_file = "{key}"; }} }}',
    )
    with pytest.raises(VmfenceError, match="same key"):
        gathering.accept(group)


def test_the_ports_of_all_listeners() -> None:
    assert gathering.ports(settings()) == {("udp", 1229)}
    assert gathering.ports(settings("tcp", 'port = "7";')) == {("tcp", 7)}
