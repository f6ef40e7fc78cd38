"""The rules of ``cluster check``: a healthy cluster passes, and each mistake is found under its own code."""

from __future__ import annotations

import random
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pytest

from vmfence import diagnose
from vmfence.client.failures import NoAnswer, NotAccepted
from vmfence.cluster import machine
from vmfence.cluster.check.checks import CHECKS
from vmfence.cluster.check.facts import AgentFacts, Facts, HostFacts, KeyFacts
from vmfence.cluster.cib import Cib, Device, Level, Node, Operation
from vmfence.cluster.corosync import QuorumSettings
from vmfence.cluster.fencer import AgentMetadata, FencingEvent, Parameter
from vmfence.cluster.proofs import Proof
from vmfence.cluster.status import DeviceStatus, NodeStatus, Status
from vmfence.errors import DeadlineExceeded, KeyExposed, KeyFileError, UsageError, VmfenceError
from vmfence.findings import ERROR, NOTE, WARNING, Finding, NotAsked, Severity
from vmfence.guest.answers import HostAnswer
from vmfence.guest.guests import Inquiry
from vmfence.protocol.reply import Record, State

UUIDS = ("11111111-2222-3333-4444-555555555501", "11111111-2222-3333-4444-555555555502")
VM1, VM2 = Record("vm-1", UUIDS[0], State.RUNNING), Record("vm-2", UUIDS[1], State.RUNNING)
NAMED_1, NAMED_2 = Record("n1", UUIDS[0], State.RUNNING), Record("n2", UUIDS[1], State.RUNNING)
MAP = "n1:vm-1;n2:vm-2"
NOW = 1_800_000_000.0
KEY = "/etc/cluster/fence_xvm.key"
METADATA = AgentMetadata(
    "fence_vmfence",
    "",
    "",
    tuple(Parameter(name) for name in ("plug", "port", "timeout", "delay", "key_file", "multicast_address", "ipaddr")),
    ("on", "off", "reboot", "monitor", "list"),
)
Options = Mapping[str, str]


def device(name: str = "fence", agent: str = "fence_vmfence", **options: str) -> Device:
    wanted = {"pcmk_host_map": MAP, "pcmk_delay_base": "n1:10s", **options}
    return Device(name, agent, {k: v for k, v in wanted.items() if v}, {}, (Operation("monitor", "60s", "30s"),))


def cib(*devices: Device, nodes: int = 2, **others: Any) -> Cib:
    names = [f"n{number}" for number in range(1, nodes + 1)]
    made = Cib(
        nodes=tuple(Node(name, str(number)) for number, name in enumerate(names, 1)),
        devices=devices or (device(),),
        levels=(),
        properties={"stonith-enabled": "true", "have-watchdog": "false"},
        bans={},
        resources=("www",),
        ids=frozenset(),
    )
    return replace(made, **others)


def healthy(**changes: Any) -> Facts:
    """Two nodes, one device, all well."""
    made = Facts(
        version=(2, 1, 5),
        cib=cib(),
        node="n1",
        status=status(),
        history=(),
        corosync=QuorumSettings(True, True, False, "corosync.conf"),
        machine_uuid=UUIDS[0],
        proofs={},
        watchdog_s=None,
        agents={name: AgentFacts(name, True, METADATA, 0o755) for name in ("fence_vmfence", "fence_xvm")},
        fencer={"n1": ("fence",), "n2": ("fence",)},
        keys=(KeyFacts(KEY, ("fence",), mode=0o600),),
        hosts=(HostFacts(("fence",), Inquiry(), (HostAnswer("10.0.0.1", (VM1, VM2)),)),),
        pcs=(0, 11, 5),
        now=NOW,
    )
    return replace(made, **changes)


def status(*devices: DeviceStatus, quorum: bool = True, n2: NodeStatus | None = None) -> Status:
    shown = devices or (DeviceStatus("fence", "fence_vmfence", "Started", True, False, ("n1",)),)
    nodes = (NodeStatus("n1", True, is_dc=True), n2 or NodeStatus("n2", True))
    return Status(nodes, shown, quorum, "n1")


def configured(made: Cib, **changes: Any) -> Facts:
    """Facts with another configuration, whose devices run and are known to the fencer."""
    running = [DeviceStatus(one.id, one.agent, "Started", True, False, ("n1",)) for one in made.devices]
    ids = tuple(one.id for one in made.devices)
    fencer = {node.name: ids for node in made.nodes}
    hosts = (HostFacts(ids, Inquiry(), (HostAnswer("10.0.0.1", (VM1, VM2)),)),)
    return healthy(**{"cib": made, "status": status(*running), "fencer": fencer, "hosts": hosts, **changes})


def options(**changes: str) -> Facts:
    """Facts whose one device has these options besides the usual ones; an empty value takes one away."""
    return configured(cib(device(**changes)))


def set_to(version: tuple[int, ...] = (2, 1, 5), **properties: str) -> Facts:
    names = {name.replace("_", "-"): value for name, value in properties.items()}
    return healthy(cib=cib(properties={"stonith-enabled": "true", **names}), version=version)


def host(**changes: Any) -> Facts:
    made = HostFacts(("fence",), Inquiry(), (HostAnswer("10.0.0.1", (VM1, VM2)),))
    return healthy(hosts=(replace(made, **changes),))


def two_hosts(second: tuple[Record, ...], speakers: tuple[str, ...]) -> Facts:
    found = (HostAnswer("10.0.0.1", (VM1, VM2)), HostAnswer("10.0.0.2", second))
    return host(answers=found, asked="vm-1", speakers=speakers)


def claimed(**options: str) -> Facts:
    """A device that names no node, and the fencer says that it fences both: they are asked for by their own names."""
    return configured(cib(device(**{"pcmk_host_map": "", **options})))


def crossed(port: str, **changes: Any) -> Facts:
    """A device for each node; that of n1 calls its guest *port*."""
    made = cib(device("a", pcmk_host_map=f"n1:{port}"), device("b", pcmk_host_map="n2:vm-2"))
    renamed = Record(port, UUIDS[0], State.RUNNING)
    hosts = (HostFacts(("a", "b"), Inquiry(), (HostAnswer("10.0.0.1", (renamed, VM2)),)),)
    return configured(made, hosts=hosts, fencer={"n1": ("a",), "n2": ("b",)}, **changes)


def key(**changes: Any) -> Facts:
    return healthy(keys=(replace(KeyFacts(KEY, ("fence",), mode=0o600), **changes),))


def event(result: str, ago_s: float, reason: str = "") -> FencingEvent:
    at = datetime.fromtimestamp(NOW - ago_s, timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ")
    return FencingEvent(
        result, "reboot", "n2", "pacemaker-controld.7", "n1", "n1", "" if result == "pending" else at, reason
    )


def three(**changes: Any) -> Facts:
    made = cib(device(pcmk_host_map="n1:vm-1;n2:vm-2;n3:vm-3"), nodes=3, **changes)
    vm3 = Record("vm-3", "11111111-2222-3333-4444-555555555503", State.RUNNING)
    hosts = (HostFacts(("fence",), Inquiry(), (HostAnswer("10.0.0.1", (VM1, VM2, vm3)),)),)
    return configured(made, hosts=hosts, corosync=QuorumSettings(source="corosync.conf"))


def found(given: Facts) -> list[Finding]:
    return list(diagnose.judge(CHECKS, given).findings)


def codes(given: Facts, least: Severity = WARNING) -> set[str]:
    return {finding.code for finding in found(given) if finding.fault.severity >= least}


def test_a_healthy_cluster_has_neither_errors_nor_warnings() -> None:
    assert codes(healthy()) == set()
    assert codes(three()) == set()


def test_every_check_has_its_own_code_a_title_and_a_story() -> None:
    names = [check.code for check in CHECKS]
    assert len(set(names)) == len(names)
    for check in CHECKS:
        assert re.fullmatch(r"cluster(-[a-z]+)+", check.code)
        assert check.title and not check.title.endswith(".")
        assert len(check.story) > 20
        assert set(check.needs) <= {*Facts.__dataclass_fields__, "answering", "exchange"}


OPEN = KeyExposed("not secret", "mode 0644", f"chmod 0600 {KEY}", ("chmod", "0600", KEY))
FOR_A_GROUP = KeyExposed("the key's group may read it", "gid 7, mode 0640", "see who is in it: getent group 7")
FAILED_TO_START = DeviceStatus("fence", "fence_vmfence", "Stopped", True, False, ())
VM3 = Record("vm-3", "11111111-2222-3333-4444-555555555503", State.RUNNING)
MAP_TO_FILL_IN = "pcmk_host_map=n1:vm-1;n2:GUEST"
LEVELS = tuple(Level(index, "node", node, (name,)) for node in ("n1", "n2") for index, name in ((2, "b"), (1, "a")))
VM1_AGAIN = Record("vm-1", "11111111-2222-3333-4444-555555555509", State.RUNNING)
MISTAKES: dict[str, tuple[str, Severity, Callable[[], Facts]]] = {
    # properties
    "disabled": ("cluster-fencing-disabled", ERROR, lambda: set_to(stonith_enabled="false")),
    "disabled by another word": ("cluster-fencing-disabled", ERROR, lambda: set_to(stonith_enabled="No")),
    "disabled by the new name": (
        "cluster-fencing-disabled",
        ERROR,
        lambda: set_to((3, 0, 2), fencing_enabled="false"),
    ),
    "the new name too early": ("cluster-property-ignored", WARNING, lambda: set_to(fencing_timeout="90s")),
    "both names": (
        "cluster-property-conflict",
        WARNING,
        lambda: set_to((3, 0, 2), fencing_enabled="true", stonith_enabled="false"),
    ),
    "blind faith": ("cluster-startup-fencing", ERROR, lambda: set_to(startup_fencing="false")),
    "panic": ("cluster-fence-reaction", WARNING, lambda: set_to(fence_reaction="panic")),
    "panic by the new name": (
        "cluster-fence-reaction",
        WARNING,
        lambda: set_to((3, 0, 2), fencing_reaction="Panic"),
    ),
    "quorum ignored": ("cluster-quorum-ignored", WARNING, lambda: set_to(no_quorum_policy="ignore")),
    "watchdog without SBD": ("cluster-watchdog", ERROR, lambda: set_to(stonith_watchdog_timeout="10s")),
    "watchdog too short": (
        "cluster-watchdog",
        ERROR,
        lambda: replace(set_to(stonith_watchdog_timeout="5s", have_watchdog="true"), watchdog_s=5.0),
    ),
    "maintenance": ("cluster-maintenance-mode", WARNING, lambda: set_to(maintenance_mode="true")),
    "no boolean": ("cluster-property-invalid", WARNING, lambda: set_to(stonith_enabled="maybe")),
    "no time": ("cluster-property-invalid", WARNING, lambda: set_to(stonith_timeout="soon")),
    "no policy yet": ("cluster-property-invalid", WARNING, lambda: set_to(no_quorum_policy="fence")),
    "off": ("cluster-fencing-action", NOTE, lambda: set_to(stonith_action="off")),
    "one by one, by default": ("cluster-concurrent-fencing", NOTE, three),
    "one by one, set": (
        "cluster-concurrent-fencing",
        WARNING,
        lambda: three(properties={"concurrent-fencing": "false"}),
    ),
    "priority too small": ("cluster-priority-delay", WARNING, lambda: set_to(priority_fencing_delay="15s")),
    "a rule": ("cluster-conditional-values", NOTE, lambda: healthy(cib=cib(conditional=("set-1",)))),
    # devices
    "no device": ("cluster-no-device", ERROR, lambda: configured(cib(devices=()))),
    "all disabled": ("cluster-no-device", ERROR, lambda: configured(cib(replace(device(), is_disabled=True)))),
    "one disabled": (
        "cluster-device-disabled",
        WARNING,
        lambda: configured(cib(device(), replace(device("other"), is_disabled=True))),
    ),
    "banned": ("cluster-device-banned", ERROR, lambda: configured(cib(bans={"fence": frozenset({"n1", "N2"})}))),
    "agent missing": (
        "cluster-agent-missing",
        ERROR,
        lambda: healthy(agents={"fence_vmfence": AgentFacts("fence_vmfence", False, VmfenceError("none"))}),
    ),
    "agent not executable": (
        "cluster-agent-broken",
        ERROR,
        lambda: healthy(agents={"fence_vmfence": AgentFacts("fence_vmfence", True, METADATA, 0o644)}),
    ),
    "agent without metadata": (
        "cluster-agent-broken",
        ERROR,
        lambda: healthy(agents={"fence_vmfence": AgentFacts("fence_vmfence", True, VmfenceError("no XML"), 0o755)}),
    ),
    "agent cannot reboot": (
        "cluster-agent-broken",
        WARNING,
        lambda: healthy(
            agents={"fence_vmfence": AgentFacts("fence_vmfence", True, replace(METADATA, actions=("off",)), 0o755)}
        ),
    ),
    "no monitor": ("cluster-no-monitor", WARNING, lambda: configured(cib(replace(device(), operations=())))),
    "no unfencing": ("cluster-unfencing", WARNING, lambda: configured(cib(device(agent="fence_scsi")))),
    "two of fence_xvm": (
        "cluster-callback-port",
        WARNING,
        lambda: configured(cib(device("a", "fence_xvm"), device("b", "fence_xvm"))),
    ),
    "failed": (
        "cluster-device-failed",
        ERROR,
        lambda: healthy(status=status(DeviceStatus("fence", "fence_vmfence", "Stopped", False, True))),
    ),
    "stopped": (
        "cluster-device-stopped",
        ERROR,
        lambda: healthy(status=status(DeviceStatus("fence", "fence_vmfence", "Stopped"))),
    ),
    "starting": (
        "cluster-device-stopped",
        WARNING,
        lambda: healthy(status=status(DeviceStatus("fence", "fence_vmfence", "Starting", True, False, ("n1",)))),
    ),
    # options
    "a comma between pairs": ("cluster-host-map", ERROR, lambda: options(pcmk_host_map="n1:vm-1,n2:vm-2")),
    "a blank after the colon": ("cluster-host-map", ERROR, lambda: options(pcmk_host_map="n1: vm-1;n2:vm-2")),
    "a full name": ("cluster-unknown-node", WARNING, lambda: options(pcmk_host_map=f"{MAP};n2.example.org:vm-2")),
    "no such kind": ("cluster-host-check", ERROR, lambda: options(pcmk_host_check="dynamic")),
    "a list without names": (
        "cluster-host-check",
        ERROR,
        lambda: options(pcmk_host_check="static-list", pcmk_host_map=""),
    ),
    "claims all": ("cluster-host-check", WARNING, lambda: options(pcmk_host_check="none")),
    "a fixed port": ("cluster-static-port", ERROR, lambda: options(port="vm-1")),
    "a fixed plug": ("cluster-static-port", ERROR, lambda: options(plug="vm-1")),
    "a fixed action": ("cluster-action-set", WARNING, lambda: options(action="off")),
    "reset": ("cluster-method-cycle", WARNING, lambda: options(method="cycle")),
    "misspelt": ("cluster-option-unknown", ERROR, lambda: options(pcmk_hostmap=MAP)),
    "unknown to the agent": ("cluster-agent-option", WARNING, lambda: options(keyfile="/etc/key")),
    "too long": (
        "cluster-name-too-long",
        ERROR,
        lambda: options(pcmk_host_map=f"n1:{'v' * 64};n2:vm-2"),
    ),
    "no key": ("cluster-unauthenticated", WARNING, lambda: options(hash="none", auth="none")),
    # nodes
    "not covered": ("cluster-node-not-covered", ERROR, lambda: options(pcmk_host_map="n1:vm-1")),
    "not in its levels": (
        "cluster-node-not-covered",
        ERROR,
        lambda: configured(
            cib(device(pcmk_host_map="n1:vm-1"), device("b"), levels=(Level(1, "node", "n2", ("fence",)),))
        ),
    ),
    "the fencer knows another one": (
        "cluster-device-stray",
        WARNING,
        lambda: healthy(fencer={"n1": ("fence", "watchdog"), "n2": ("fence", "gone")}),
    ),
    "the fencer does not know it": (
        "cluster-fencer-refuses",
        ERROR,
        lambda: healthy(fencer={"n1": ("fence",), "n2": ()}),
    ),
    "only by itself": (
        "cluster-fences-itself",
        ERROR,
        lambda: configured(
            cib(
                device("a", pcmk_host_map="n1:vm-1"),
                device("b", pcmk_host_map="n2:vm-2"),
                bans={"a": frozenset({"n2"})},
            )
        ),
    ),
    "a level without device": (
        "cluster-level-invalid",
        ERROR,
        lambda: configured(cib(levels=(Level(1, "node", "n1", ("fence", "gone")),))),
    ),
    "level 10": (
        "cluster-level-invalid",
        ERROR,
        lambda: configured(cib(levels=(Level(10, "node", "n1", ("fence",)),))),
    ),
    "no quorum": ("cluster-no-quorum", ERROR, lambda: healthy(status=status(quorum=False))),
    "unclean": ("cluster-node-unclean", ERROR, lambda: healthy(status=status(n2=NodeStatus("n2", is_unclean=True)))),
    "offline": ("cluster-node-offline", WARNING, lambda: healthy(status=status(n2=NodeStatus("n2")))),
    "failed last time": ("cluster-last-fencing", ERROR, lambda: healthy(history=(event("failed", 60, "no answer"),))),
    "under way": (
        "cluster-last-fencing",
        WARNING,
        lambda: healthy(history=(event("success", 60), event("pending", 0))),
    ),
    "never proven": ("cluster-not-proven", NOTE, healthy),
    "proof failed": (
        "cluster-not-proven",
        ERROR,
        lambda: healthy(proofs={"n2": Proof("n2", "2027-01-15T00:00:00Z", False, "not seen off")}),
    ),
    "proof is old": (
        "cluster-not-proven",
        WARNING,
        lambda: healthy(proofs={"n2": Proof("n2", "2025-01-15T00:00:00+00:00", True)}),
    ),
    # guests
    "no such guest": ("cluster-guest-missing", ERROR, lambda: options(pcmk_host_map="n1:vm-1;n2:vm2")),
    "claimed by a device that names nobody": ("cluster-guest-missing", ERROR, lambda: claimed(pcmk_host_check="none")),
    "claimed, says the fencer": ("cluster-guest-missing", ERROR, claimed),
    "two devices, two guests": (
        "cluster-guests-differ",
        ERROR,
        lambda: configured(cib(device("a"), device("b", pcmk_host_map=f"n1:vm-1;n2:{UUIDS[0]}"))),
    ),
    "a guest named like another node": ("cluster-port-is-node", ERROR, lambda: crossed("N2")),
    "two of that name": (
        "cluster-guest-ambiguous",
        ERROR,
        lambda: host(answers=(HostAnswer("10.0.0.1", (VM1, VM2, VM1_AGAIN)),)),
    ),
    "one guest for two nodes": ("cluster-guest-twice", ERROR, lambda: options(pcmk_host_map="n1:vm-1;n2:vm-1")),
    "by name and by UUID": (
        "cluster-guest-twice",
        ERROR,
        lambda: options(pcmk_host_map=f"n1:vm-1;n2:{UUIDS[0].upper()}"),
    ),
    "by one key, named or not": (
        "cluster-guest-twice",
        ERROR,
        lambda: configured(
            cib(device("a", pcmk_host_map="n1:vm"), device("b", pcmk_host_map="n2:vm", key_file=KEY)),
            hosts=NotAsked("not now"),
        ),
    ),
    "swapped": ("cluster-uuid-mismatch", ERROR, lambda: options(pcmk_host_map="n1:vm-2;n2:vm-1")),
    "off while online": (
        "cluster-guest-not-running",
        ERROR,
        lambda: host(answers=(HostAnswer("10.0.0.1", (VM1, Record("vm-2", UUIDS[1], State.SHUT_OFF))),)),
    ),
    # hosts
    "key missing": ("cluster-key-missing", ERROR, lambda: key(mode=None, error=KeyFileError("cannot read", "none"))),
    "key open": ("cluster-key-open", ERROR, lambda: key(mode=0o644, error=OPEN)),
    "key for a group": ("cluster-key-open", WARNING, lambda: key(mode=0o640, weaknesses=(FOR_A_GROUP,))),
    "key empty": ("cluster-key-unusable", ERROR, lambda: key(error=KeyFileError("cannot be used", "empty"))),
    "key weak": ("cluster-key-weak", WARNING, lambda: key(weaknesses=(KeyFileError("the key is text"),))),
    "key refused": ("cluster-key-refused", ERROR, lambda: host(answers=(), error=NotAccepted("not accepted"))),
    "silent": ("cluster-host-silent", ERROR, lambda: host(answers=(), error=NoAnswer("no host answered"))),
    "bad option": (
        "cluster-host-unasked",
        ERROR,
        lambda: host(answers=(), inquiry=None, error=UsageError("ipport=x is no port")),
    ),
    "serial": ("cluster-host-unasked", NOTE, lambda: host(answers=(), inquiry=None, error=VmfenceError("serial"))),
    "two hosts": ("cluster-hosts-several", ERROR, lambda: two_hosts((VM1_AGAIN,), ("10.0.0.1", "10.0.0.2"))),
    "two hosts, one silent": ("cluster-hosts-several", NOTE, lambda: two_hosts((VM1_AGAIN,), ("10.0.0.1",))),
    "a pool": ("cluster-hosts-several", NOTE, lambda: two_hosts((VM2, VM1), ("10.0.0.1", "10.0.0.2"))),
    "two hosts, and nobody heard who speaks": (
        "cluster-hosts-several",
        WARNING,
        lambda: host(answers=(HostAnswer("10.0.0.1", (VM1, VM2)), HostAnswer("10.0.0.2", (VM3,)))),
    ),
    "one host of two has no guests": ("cluster-host-empty", NOTE, lambda: two_hosts((), ("10.0.0.1",))),
    "the faster of two has not the guest": ("cluster-hosts-several", ERROR, lambda: two_hosts((VM3,), ("10.0.0.2",))),
    "no guests": ("cluster-host-empty", ERROR, lambda: host(answers=(HostAnswer("10.0.0.1", ()),))),
    # times
    "killed too early": ("cluster-timeouts", ERROR, lambda: options(pcmk_reboot_timeout="20s")),
    "agent too slow": ("cluster-timeouts", ERROR, lambda: options(timeout="60")),
    "delay counts": ("cluster-timeouts", ERROR, lambda: options(timeout="50", delay="10")),
    "longer than the cluster waits": ("cluster-timeouts", WARNING, lambda: options(pcmk_reboot_timeout="90s")),
    "monitor too short": (
        "cluster-monitor-timeout",
        WARNING,
        lambda: configured(cib(replace(device(agent="fence_xvm"), operations=(Operation("monitor", "60s"),)))),
    ),
    "no duration": ("cluster-duration-invalid", WARNING, lambda: options(pcmk_reboot_timeout="soon")),
    "a unit too early": ("cluster-duration-invalid", WARNING, lambda: options(pcmk_reboot_timeout="1min")),
    "cut short": ("cluster-delay-limited", WARNING, lambda: options(pcmk_delay_max="5s")),
    "a beginning": (
        "cluster-delay-prefix",
        WARNING,
        lambda: configured(
            replace(cib(device(pcmk_host_map="n1:vm-1;n10:vm-2")), nodes=(Node("n1", "1"), Node("n10", "2")))
        ),
    ),
    "no delay": ("cluster-two-node-delay", WARNING, lambda: options(pcmk_delay_base="")),
    "a delay in the second level alone": (
        "cluster-two-node-delay",
        WARNING,
        lambda: configured(
            cib(device("a", pcmk_delay_base=""), device("b", pcmk_delay_base="", pcmk_delay_max="9s"), levels=LEVELS)
        ),
    ),
    "equal delays": ("cluster-two-node-delay", WARNING, lambda: options(pcmk_delay_base="10s")),
    "not set for two nodes": (
        "cluster-two-node-quorum",
        ERROR,
        lambda: healthy(corosync=QuorumSettings(source="corosync.conf")),
    ),
    "set for two, and three are there": (
        "cluster-two-node-quorum",
        ERROR,
        lambda: replace(three(), corosync=QuorumSettings(True, True)),
    ),
    "does not wait": ("cluster-wait-for-all", WARNING, lambda: healthy(corosync=QuorumSettings(True, False))),
}


@pytest.mark.parametrize(("code", "severity", "make"), MISTAKES.values(), ids=MISTAKES)
def test_each_mistake_is_found(code: str, severity: Severity, make: Callable[[], Facts]) -> None:
    faults = [finding.fault for finding in found(make()) if finding.code == code]
    assert [fault.severity for fault in faults if fault.severity == severity], faults
    for fault in faults:
        assert fault.subject and fault.message and fault.evidence
        assert fault.remedy or fault.severity < ERROR


def test_a_key_is_closed_by_fix_only_where_nobody_may_be_meant_to_read_it() -> None:
    for given, fix in ((key(mode=0o644, error=OPEN), ("chmod", "0600", KEY)), (key(weaknesses=(FOR_A_GROUP,)), None)):
        assert [one.fault.fix for one in found(given) if one.code == "cluster-key-open"] == [fix]
    assert codes(key(mode=0o640)) == set()  # of the group root, of which keyfile says nothing


def first_error(given: Facts) -> str:
    return next(one.code for one in found(given) if one.fault.severity is ERROR)


@pytest.mark.parametrize(
    ("cause", "effect", "make"),
    [
        ("cluster-level-invalid", "cluster-node-not-covered",
         lambda: configured(cib(levels=(Level(1, "node", "n1", ("gone",)),)))),
        ("cluster-guests-differ", "cluster-guest-twice",
         lambda: configured(cib(device("a"), device("b", pcmk_host_map="n2:vm-1")), fencer={"n1": ("a",), "n2": ()})),
        ("cluster-port-is-node", "cluster-guest-missing",
         lambda: configured(cib(device("a"), device("b", pcmk_host_map="n1:n2")))),
        ("cluster-key-refused", "cluster-device-stopped",
         lambda: replace(host(answers=(), error=NotAccepted("no")), status=status(FAILED_TO_START))),
        ("cluster-host-empty", "cluster-guest-missing", lambda: host(answers=(HostAnswer("10.0.0.1", ()),))),
        ("cluster-host-silent", "cluster-fencer-refuses",
         lambda: replace(host(answers=(), error=NoAnswer("no host answered")), fencer={"n1": (), "n2": ()})),
        ("cluster-host-silent", "cluster-last-fencing",
         lambda: replace(host(answers=(), error=NoAnswer("no host answered")), history=(event("failed", 60),))),
    ],
)  # fmt: skip
def test_a_cause_is_told_before_what_follows_from_it(cause: str, effect: str, make: Callable[[], Facts]) -> None:
    assert {cause, effect} <= codes(make(), ERROR)
    assert first_error(make()) == cause


def test_remedies_quote_names_of_the_cluster() -> None:
    odd = "n 2;x"
    pending = replace(event("failed", 60), target=odd)
    nodes = (Node("n1", "1"), Node(odd, "2"))
    told = {one.code: one.fault.remedy for one in found(healthy(cib=replace(cib(), nodes=nodes), history=(pending,)))}
    assert f"vmfence cluster prove '{odd}'" in told["cluster-last-fencing"]


def test_the_fencers_own_watchdog_is_no_stray_device() -> None:
    assert codes(healthy(fencer={"n1": ("fence", "watchdog"), "n2": ("fence",)})) == set()


def test_every_check_is_tried() -> None:
    assert {code for code, _, _ in MISTAKES.values()} == {check.code for check in CHECKS if not check.reads}


@pytest.mark.parametrize("name", sorted({check.reads for check in CHECKS if check.reads}))
def test_what_could_not_be_read_is_found_and_nothing_that_needs_it_is_judged(name: str) -> None:
    report = diagnose.judge(CHECKS, healthy(**{name: DeadlineExceeded("it took too long", "10 s")}))
    checks = {one.check.code: one for one in report.outcomes}
    assert checks[next(check.code for check in CHECKS if check.reads == name)].faults
    for check in CHECKS:
        if name in check.needs:
            assert checks[check.code].missing, check.code
            assert not checks[check.code].faults


def test_nothing_is_said_of_guests_and_key_while_no_host_answers() -> None:
    report = diagnose.judge(CHECKS, host(answers=(), error=NoAnswer("no host answered")))
    unjudged = {one.check.code for one in report.outcomes if one.missing}
    assert {"cluster-guest-missing", "cluster-uuid-mismatch", "cluster-key-refused", "cluster-host-empty"} <= unjudged


@pytest.mark.parametrize(
    "make",
    [
        lambda: healthy(machine_uuid=machine.swapped(UUIDS[0])),
        lambda: configured(
            cib(
                device("a", pcmk_host_map="n1:vm", ipaddr="10.0.0.1"),
                device("b", pcmk_host_map="n2:vm", ipaddr="10.0.0.2"),
            ),
            hosts=NotAsked("not now"),
        ),
        lambda: configured(
            cib(
                device("a", pcmk_host_map="n1:vm", key_file="/etc/cluster/a.key"),
                device("b", pcmk_host_map="n2:vm", key_file="/etc/cluster/b.key"),
            ),
            hosts=NotAsked("not now"),
        ),
        lambda: configured(cib(device("a"), device("b", pcmk_delay_max="5s", pcmk_delay_base=""), levels=LEVELS)),
        lambda: healthy(history=(event("success", 60), event("failed", 3600))),
        lambda: healthy(history=(event("failed", 3600), event("success", 60))),
        lambda: set_to(priority_fencing_delay="20s"),
        lambda: options(pcmk_delay_base="", pcmk_delay_max="20s"),
        lambda: options(pcmk_host_map="N1:vm-1;n2:VM-2".replace("VM-2", UUIDS[1])),
        lambda: options(pcmk_host_map=f"n1:{UUIDS[0].upper()};n2:vm-2"),
        lambda: options(port="vm-1", pcmk_host_argument="port"),
        lambda: healthy(corosync=QuorumSettings(False, False, True)),
        lambda: replace(set_to(stonith_watchdog_timeout="10s", have_watchdog="true"), watchdog_s=5.0),
        lambda: healthy(proofs={"N2": Proof("n2", "2027-01-01T00:00:00Z", True)}),
        lambda: configured(cib(device("a"), device("b", pcmk_host_map=f"n1:vm-1;n2:{UUIDS[1]}"))),
        lambda: crossed("N1"),
        lambda: crossed("n3"),
        lambda: configured(
            cib(device(pcmk_host_map="n1:n2;n2:n1")),
            machine_uuid=UUIDS[1],
            hosts=(HostFacts(("fence",), Inquiry(), (HostAnswer("10.0.0.1", (NAMED_1, NAMED_2)),)),),
        ),
        lambda: configured(
            cib(device(pcmk_host_map="", pcmk_host_check="dynamic-list")),
            hosts=(HostFacts(("fence",), Inquiry(), (HostAnswer("10.0.0.1", (NAMED_1, NAMED_2)),)),),
        ),
        lambda: options(pcmk_host_map="", pcmk_host_list="n1,n2", port="vm-1", pcmk_host_argument="port"),
    ],
)
def test_what_only_looks_wrong_is_no_fault(make: Callable[[], Facts]) -> None:
    assert codes(make()) == set()


def unasked(given: Facts) -> set[str]:
    return {one.check.code for one in diagnose.judge(CHECKS, given).unasked}


def test_properties_that_are_not_used_are_not_praised() -> None:
    codes_of_unused = {"cluster-watchdog", "cluster-priority-delay"}
    assert codes_of_unused <= unasked(healthy())
    assert not codes_of_unused & unasked(set_to(priority_fencing_delay="20s", stonith_watchdog_timeout="10s"))
    one_by_one = set_to(concurrent_fencing="false")
    assert "cluster-concurrent-fencing" in unasked(one_by_one)
    assert "cluster-concurrent-fencing" not in unasked(set_to(concurrent_fencing="true"))
    assert "cluster-concurrent-fencing" not in unasked(replace(one_by_one, version=(3, 0, 0)))
    wrong = diagnose.judge(CHECKS, set_to(stonith_watchdog_timeout="soon")).unjudged
    assert [one.check.code for one in wrong] == ["cluster-watchdog"]


def test_numbers_are_shown() -> None:
    evidence = next(one.fault.evidence for one in found(options(timeout="70")) if one.code == "cluster-timeouts")
    assert "agent 70 s" in evidence and "stonith-timeout 60 s" in evidence


def test_the_nearest_guest_is_proposed() -> None:
    fault = next(
        one.fault for one in found(options(pcmk_host_map="n1:vm-1;n2:vm2")) if one.code == "cluster-guest-missing"
    )
    assert "vm-2" in fault.message
    assert fault.remedy == "pcs stonith update fence 'pcmk_host_map=n1:vm-1;n2:vm-2'"


REMEDIES: dict[str, tuple[str, Callable[[], Facts], str]] = {
    "ambiguous": (
        "cluster-guest-ambiguous",
        lambda: host(answers=(HostAnswer("10.0.0.1", (VM1, VM2, VM1_AGAIN)),)),
        "pcmk_host_map=n1:UUID;n2:vm-2",
    ),
    "swapped": (
        "cluster-uuid-mismatch",
        lambda: options(pcmk_host_map="n1:vm-2;n2:vm-1"),
        "pcmk_host_map=n1:vm-1;n2:vm-1",
    ),
    "named like a node": ("cluster-port-is-node", lambda: crossed("n2"), f"pcmk_host_map=n1:{UUIDS[0]}"),
    "one forgotten": ("cluster-node-not-covered", lambda: options(pcmk_host_map="n1:vm-1"), MAP_TO_FILL_IN),
    "one stranger": ("cluster-unknown-node", lambda: options(pcmk_host_map="n1:vm-1;x:vm-2"), MAP_TO_FILL_IN),
    "a blank": ("cluster-host-map", lambda: options(pcmk_host_map="n1:vm-1;n2: vm-2"), MAP_TO_FILL_IN),
    "a fixed port beside a map": ("cluster-static-port", lambda: options(port="vm-1"), "port="),
    "too long": (
        "cluster-name-too-long",
        lambda: options(pcmk_host_map=f"n1:{'v' * 64};n2:vm-2"),
        "pcmk_host_map=n1:UUID;n2:vm-2",
    ),
}


@pytest.mark.parametrize(("code", "make", "words"), REMEDIES.values(), ids=REMEDIES)
def test_remedies_change_what_is_wrong_and_keep_the_rest(code: str, make: Callable[[], Facts], words: str) -> None:
    remedy = next(one.fault.remedy for one in found(make()) if one.code == code)
    assert shlex.split(remedy)[:3] == ["pcs", "stonith", "update"]
    assert shlex.split(remedy)[4:] == [words]


def of_ipmi(*others: Device, **more: Any) -> Facts:
    """Three nodes, of which n1 is no guest: its device is of another agent."""
    return configured(cib(device("ipmi", "fence_ipmilan", pcmk_host_map="n1:x"), *others, nodes=3, **more))


UNCOVERED: dict[str, tuple[Callable[[], Facts], dict[str, str]]] = {
    "into ours": (
        lambda: of_ipmi(device("v", pcmk_host_map="n2:vm-2")),
        {"n3": "pcs stonith update v 'pcmk_host_map=n2:vm-2;n3:GUEST'"},
    ),
    "both at once": (
        lambda: of_ipmi(device("v", pcmk_host_map="n9:vm-9")),
        dict.fromkeys(("n2", "n3"), "pcs stonith update v 'pcmk_host_map=n2:GUEST;n3:GUEST'"),
    ),
    "none is ours": (
        of_ipmi,
        dict.fromkeys(("n2", "n3"), "vmfence cluster add-device vmfence --node=n2 --node=n3"),
    ),
    "none is ours, and the name is taken": (
        lambda: of_ipmi(ids=frozenset({"vmfence", "vmfence2"})),
        dict.fromkeys(("n2", "n3"), "vmfence cluster add-device vmfence3 --node=n2 --node=n3"),
    ),
    "left out of its level": (
        lambda: of_ipmi(
            device("v", pcmk_host_map="n2:vm-2;n3:vm-3"),
            levels=(Level(1, "node", "n2", ("ipmi",)), Level(1, "pattern", "^n3$", ("ipmi",))),
        ),
        {"n2": "pcs stonith level add 2 n2 v", "n3": "pcs stonith level add 1 n3 v"},
    ),
    "no level is free": (
        lambda: of_ipmi(
            device("v", pcmk_host_map="n2:vm-2;n3:vm-3"),
            levels=tuple(Level(index, "node", "n2", ("ipmi",)) for index in range(1, 10)),
        ),
        {"n2": "pcs stonith level config"},
    ),
}


@pytest.mark.parametrize(("make", "remedies"), UNCOVERED.values(), ids=UNCOVERED)
def test_a_node_without_a_device_gets_one_that_fits(make: Callable[[], Facts], remedies: dict[str, str]) -> None:
    told = {one.fault.subject: one.fault.remedy for one in found(make()) if one.code == "cluster-node-not-covered"}
    assert {node: shlex.split(text, comments=True) for node, text in told.items()} == {
        node: shlex.split(text) for node, text in remedies.items()
    }


@pytest.mark.parametrize("version", [(2, 1, 5), (3, 0, 2)])
@pytest.mark.parametrize("names", [("web", "web2"), ("web2", "web"), ("WEB", "web2"), ("n1", "n2")])
def test_the_delay_that_is_proposed_parts_the_two_nodes(names: tuple[str, str], version: tuple[int, ...]) -> None:
    def given(delay: str) -> Facts:
        made = device(pcmk_host_map=f"{names[0]}:vm-1;{names[1]}:vm-2", pcmk_delay_base=delay)
        return configured(replace(cib(made), nodes=(Node(names[0], "1"), Node(names[1], "2"))), version=version)

    remedy = next(one.fault.remedy for one in found(given("")) if one.code == "cluster-two-node-delay")
    [option] = shlex.split(remedy)[4:]
    mended = given(option.partition("=")[2])
    assert not {"cluster-two-node-delay", "cluster-delay-prefix"} & codes(mended)


def test_a_node_is_proven_from_another_one() -> None:
    here, there = (one.fault for one in found(healthy()) if one.code == "cluster-not-proven")
    assert "on another node: vmfence cluster prove n1" in here.remedy
    assert there.remedy == "vmfence cluster prove n2"


def test_two_thousand_nodes_are_judged_in_time() -> None:
    """Each device is read once, not once for each node: the parsers are counted, since a clock would not be fair."""
    names = [f"n{number}" for number in range(2000)]
    guests = tuple(
        Record(f"vm-{name}", f"11111111-2222-3333-4444-{number:012d}", 1) for number, name in enumerate(names)
    )
    reads = []

    class Counted(dict):  # type: ignore[type-arg]
        def get(self, name: str, default: Any = None) -> Any:
            reads.append(name)
            return super().get(name, default)

    made = device(pcmk_host_map=";".join(f"{name}:vm-{name}" for name in names))
    made = replace(made, options=Counted(made.options))
    whole = replace(cib(made), nodes=tuple(Node(name, name) for name in names))
    hosts = (HostFacts(("fence",), Inquiry(), (HostAnswer("10.0.0.1", guests),)),)
    assert codes(configured(whole, hosts=hosts), ERROR) == {"cluster-uuid-mismatch", "cluster-two-node-quorum"}
    assert reads.count("pcmk_host_map") < 20


@pytest.mark.parametrize(
    "text", ["a b;c", "$(reboot)", "'", '"', "n1:x;\n", "\x1b[31m", "v" * 200, "-rf", "=", "\udc80"]
)
def test_hostile_values_are_quoted_and_never_raise(text: str) -> None:
    for name in ("pcmk_host_map", "pcmk_host_list", "pcmk_delay_base", "timeout", "port", "action", "pcmk_x", "ipport"):
        for finding in found(options(**{name: text})):
            remedy = finding.fault.remedy
            if remedy.startswith("pcs stonith update fence "):
                assert shlex.split(remedy)[:4] == ["pcs", "stonith", "update", "fence"]
                assert all("=" in word for word in shlex.split(remedy)[4:])


def test_random_configurations_never_raise() -> None:
    chance = random.Random(7)
    words = ["n1", "n2:vm-1", ";", ":", "=", " ", "10s", "-1", "true", "static-list", "\\", "", "NaN", "1e9", "P", "²"]
    names = ["pcmk_host_map", "pcmk_host_list", "pcmk_host_check", "pcmk_delay_base", "pcmk_delay_max"]
    names += ["timeout", "delay", "pcmk_reboot_timeout", "pcmk_monitor_timeout", "plug", "hash"]
    properties = [
        "stonith-enabled",
        "stonith-timeout",
        "stonith-watchdog-timeout",
        "priority-fencing-delay",
        "no-quorum-policy",
    ]
    for _ in range(1000):
        made = {name: "".join(chance.choices(words, k=3)) for name in chance.sample(names, 4)}
        values = {name: "".join(chance.choices(words, k=2)) for name in chance.sample(properties, 2)}
        version = chance.choice([(1, 1, 23), (2, 0, 5), (2, 1, 5), (3, 0, 2)])
        levels = (
            Level(
                chance.randrange(12), chance.choice(["node", "pattern", "attribute"]), chance.choice(words), ("fence",)
            ),
        )
        found(configured(cib(device(**made), properties=values, levels=levels), version=version))
