"""Remedies of ``host check`` as they are pasted into a shell: the right daemon and network, whatever the names are."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_host_causes import fault
from test_host_checks import BR0, CHECKS, SYSTEM, UUIDS, groups, guest, healthy, libvirt, network, settings

from vmfence import diagnose
from vmfence.errors import Unreachable
from vmfence.findings import NOTE, WARNING, Severity
from vmfence.host.backends.inventory import Hung, Inventory
from vmfence.host.check.facts import Facts, Libvirt
from vmfence.host.check.hidden import Process
from vmfence.host.check.libvirt_unit import LibvirtUnit, choose
from vmfence.host.kernel import Link
from vmfence.packetfilter import firewall
from vmfence.packetfilter.firewalld import opened
from vmfence.packetfilter.rules import Opening
from vmfence.packetfilter.rulesets import Rulesets

EVIL = "x; touch pwned; $(touch pwned) `touch pwned`"
SHORT = "$(id>pwned)"  # of an interface: it has no blanks


def typed(remedy: str, folder: Path) -> list[list[str]]:
    """Paste *remedy* into a shell whose programs only write down their words; return these."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    for name in ("virsh", "ip", "sysctl", "nft", "firewall-cmd", "systemctl"):
        (programs / name).write_text('#!/bin/sh\nprintf "%s\\0" "${0##*/}" "$@" >> "$LOG"; printf "\\n\\0" >> "$LOG"\n')
        (programs / name).chmod(0o755)
    log = folder / "log"
    path = f"{programs}:{os.environ['PATH']}"
    subprocess.run(["sh", "-c", remedy], check=True, cwd=folder, env={"PATH": path, "LOG": str(log)})
    assert not (folder / "pwned").exists()
    lines = log.read_text().split("\n\0")
    return [line.split("\0")[:-1] for line in lines if line]


def with_network(name: str, bridge: str, *, is_known: bool = True) -> Libvirt:
    one = guest(1, "br0", bridge)
    return Libvirt((Inventory(SYSTEM, "QEMU 7.2.0", "9.0.0", (one,), ((name, bridge),) if is_known else ()),))


@pytest.mark.parametrize("name", ["default", EVIL])
def test_a_network_is_started_by_its_name(tmp_path: Path, name: str) -> None:
    told = fault(healthy(libvirt=with_network(name, "virbr0")), "host-network-down")
    virsh = ["virsh", "-c", SYSTEM]
    assert typed(told.remedy, tmp_path) == [
        [*virsh, "net-start", "--network", name],
        [*virsh, "net-autostart", "--network", name],
    ]


@pytest.mark.parametrize("name", ["br5", EVIL])
def test_a_bridge_of_nobody_is_made(tmp_path: Path, name: str) -> None:
    told = fault(healthy(libvirt=with_network("", name, is_known=False)), "host-network-down")
    assert typed(told.remedy, tmp_path) == [
        ["ip", "link", "add", "name", name, "type", "bridge"],
        ["ip", "link", "set", "dev", name, "up"],
    ]
    assert "until the next boot" in told.remedy


def test_a_network_that_libvirt_does_not_know_is_not_started(tmp_path: Path) -> None:
    found = libvirt(replace(guest(1, "br0"), unresolved=("gone",)))
    told = fault(healthy(libvirt=found), "host-network-down")
    assert "net-start" not in told.remedy and "define it" in told.remedy


@pytest.mark.parametrize("name", ["br0", "br0.100", SHORT])
def test_the_filter_of_any_interface_can_be_made_loose(tmp_path: Path, name: str) -> None:
    facts = healthy(
        settings=settings(keys=f'interface = "{name}";'),
        interfaces=(replace(BR0, name=name),),
        network=network(links=(Link(name, rp_filter=1),), routes=(), neighbours=()),
    )
    told = fault(facts, "host-rp-filter")
    assert typed(told.remedy, tmp_path) == [["sysctl", "-w", f"net/ipv4/conf/{name}/rp_filter=2"]]
    assert "until the next boot" in told.remedy


def test_rules_for_any_interface_can_be_pasted(tmp_path: Path) -> None:
    chain = '{"family": "inet", "table": "t", "name": "in", "type": "filter", "hook": "input", "policy": "drop"}'
    rules = Rulesets("ipv4", f'{{"nftables": [{{"chain": {chain}}}]}}')
    for name in ("br0", SHORT):
        [obstacle] = rules.obstacles(Opening("udp", 1229, name))
        [*_, words] = typed(obstacle.command, tmp_path)
        assert words[-6:] == ["iifname", name if name == "br0" else f'"{name}"', "udp", "dport", "1229", "accept"]


QEMUD, LIBVIRTD = LibvirtUnit("virtqemud", "virtqemud.socket"), LibvirtUnit("libvirtd", "libvirtd.socket")
STOPPED, HUNG = Unreachable("cannot connect", "Connection refused"), Hung("no answer", "within 3 s")


@pytest.mark.parametrize(
    ("unit", "error", "first", "fix"),
    [
        (QEMUD, STOPPED, ["systemctl", "start", "virtqemud.socket"], True),
        (LIBVIRTD, STOPPED, ["systemctl", "start", "libvirtd.socket"], True),
        (LIBVIRTD, HUNG, ["systemctl", "restart", "libvirtd.service"], False),
        (LibvirtUnit(), HUNG, ["systemctl", "list-unit-files", "libvirtd*", "virtqemud*"], False),
    ],
)
def test_libvirt_is_woken_as_this_host_has_it(
    tmp_path: Path, unit: LibvirtUnit, error: Unreachable, first: list[str], fix: bool
) -> None:
    told = fault(healthy(libvirt=Libvirt(silent=((SYSTEM, error),), unit=unit)), "host-libvirt")
    assert typed(told.remedy.rpartition(": ")[2] if not unit.unit else told.remedy, tmp_path)[0] == first
    assert told.fix == (tuple(first) if fix else None)


def shown(unit: str, load: str = "loaded", file: str = "disabled", active: str = "inactive") -> str:
    return f"Id={unit}\nLoadState={load}\nActiveState={active}\nUnitFileState={file}\n"


@pytest.mark.parametrize(
    ("told", "unit"),
    [
        ("", ""),
        ([shown("virtqemud.socket", "not-found"), shown("libvirtd.socket")], "libvirtd.socket"),  # Debian 12
        ([shown("virtqemud.socket", file="enabled"), shown("libvirtd.socket")], "virtqemud.socket"),
        ([shown("virtqemud.socket"), shown("libvirtd.socket", file="enabled")], "libvirtd.socket"),
        ([shown("virtqemud.socket", file="enabled"), shown("libvirtd.socket", active="active")], "libvirtd.socket"),
        ([shown("libvirtd.socket", "masked"), shown("virtqemud.service")], "virtqemud.service"),
        ([shown("libvirtd.socket"), shown("libvirtd.service", active="failed")], "libvirtd.socket"),
    ],
)
def test_which_daemon_systemd_has(told: list[str], unit: str) -> None:
    assert choose("\n".join(told)).unit == unit


# Guests that nobody may fence

OTHER = groups(UUIDS[1])  # the rules list guest 2 alone
LONG = guest(1, "br0", name="n" * 64)
MACVTAP = replace(guest(1), direct=("eth0",))
SESSION = Inventory("qemu+unix:///session?socket=/s", "QEMU 7.2.0", "9.0.0", (guest(1),))
CONCERNS: dict[str, tuple[str, dict[str, Any]]] = {
    "long name": ("host-name-long", {"libvirt": libvirt(LONG, guest(2, "br0"))}),
    "macvtap": ("host-macvtap", {"libvirt": libvirt(MACVTAP, guest(2, "br0"))}),
    "network down": ("host-network-down", {"libvirt": libvirt(guest(1, "br0", "virbr7"), guest(2, "br0"))}),
    "session": ("host-guests-unseen", {"libvirt": libvirt(guest(2, "br0"), elsewhere=(SESSION,))}),
    "process": (
        "host-guests-unseen",
        {"libvirt": libvirt(guest(2, "br0")), "processes": (Process(3, "vm-1", UUIDS[0], 0),)},
    ),
}


@pytest.mark.parametrize("name", CONCERNS)
def test_of_a_guest_that_nobody_may_fence_it_is_a_note(name: str) -> None:
    code, changes = CONCERNS[name]

    def severity(facts: Facts) -> Severity:
        return fault(facts, code).severity

    assert severity(healthy(settings=OTHER, **changes)) is NOTE
    assert severity(healthy(settings=groups(*UUIDS), **changes)) is WARNING
    assert severity(healthy(**changes)) is WARNING


# What is opened, and what cannot be read


def test_what_firewalld_opens_is_told() -> None:
    commands = (
        ("firewall-cmd", "--permanent", "--new-service-from-file=x", "--name=vmfence"),
        ("firewall-cmd", "--permanent", "--zone=libvirt", "--add-service=vmfence"),
        ("firewall-cmd", "--zone=libvirt", "--add-port=1229/udp"),
        ("firewall-cmd", "--zone=libvirt", "--add-protocol=igmp"),
    )
    expected = "service vmfence, port 1229/udp, protocol igmp from all interfaces of zone libvirt"
    assert opened(commands) == expected


def test_without_nft_it_is_unknown_whether_guests_can_be_called_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firewall, "read_tables", lambda: frozenset({("inet", "guard")}))
    found = firewall.look_out([Opening("tcp", 1229, "br0")], lambda family: Rulesets(family))
    assert found.doubts and not found.rules
    facts = healthy(way_back=found)
    report = diagnose.judge(CHECKS, facts)
    [outcome] = [one for one in report.unjudged if one.check.code == "host-firewall-back"]
    assert "nft is not installed" in str(outcome.missing) and "install nftables" in str(outcome.missing)
