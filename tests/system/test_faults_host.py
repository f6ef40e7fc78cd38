"""Faults that people meet on host and guest, and pairs of them: those that no test of the checks itself produces.

Which test produces which fault is in lab/faults.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import test_guest_check as guest_side
import test_host_check as host_side
from test_channel_migration import be_another_host, migrate
from test_host_check import CONFIG, Host, Mistake

from lab import machine as lab_machine
from lab.hypervisor import Hypervisor
from lab.machine import PROGRAM, Machine
from lab.middleman import DESTROY, Fate, Middleman
from lab.net import BRIDGE, Bridge, Guest
from lab.ours import CommandLine, our_config
from lab.reference import FENCE_XVM, config_text, fence_virtd
from lab.waiting import wait_until

pytestmark = [
    pytest.mark.system,
    pytest.mark.long,
    pytest.mark.skipif(bool(lab_machine.missing()), reason=f"missing: {', '.join(lab_machine.missing())}"),
]
host, bridge, guest, key, hosts, check = (
    host_side.host, guest_side.bridge, guest_side.guest, guest_side.key, guest_side.hosts, guest_side.check,
)  # fmt: skip
MISTAKES: dict[str, tuple[str, str, Mistake]] = {}
INTERFACE = 'interface = "br0";'
PATIENT = ("-t", "15")  # where an answer is expected


def mistake(code: str, severity: str = "error") -> Any:
    """Enter a mistake into the table: *code* is what must be found first with this *severity*."""

    def enter(make: Mistake) -> Mistake:
        MISTAKES[make.__name__] = (code, severity, make)
        return make

    return enter


@mistake("host-firewall")
def tcp_open_instead_of_udp(host: Host, undo: ExitStack, folder: Path) -> None:
    """What some guides say."""
    host.machine.ok("nft", "add table inet mine; add chain inet mine in { type filter hook input priority 0; }")
    undo.callback(host.machine.ok, "nft", "delete table inet mine")
    for rule in ('iifname "lo" accept', "ct state established accept", "tcp dport 1229 accept", 'iifname "br0" drop'):
        host.machine.ok("nft", f"add rule inet mine in {rule}")


@mistake("host-multicast-route")
def no_interface_and_no_route(host: Host, undo: ExitStack, folder: Path) -> None:
    host.configure(INTERFACE, "")
    host.restart()


@mistake("host-unauthenticated", "warning")
def nobody_proves_anything(host: Host, undo: ExitStack, folder: Path) -> None:
    host.configure(INTERFACE, f'{INTERFACE} hash = "none"; auth = "none";')
    host.configure("fence_virtd {", 'fence_virtd { allow_unauthenticated = "yes";')
    host.machine.ok("systemctl", "restart", "vmfence")


@mistake("host-guests-unseen")
def wrong_libvirt(host: Host, undo: ExitStack, folder: Path) -> None:
    """The daemon asks a libvirt without guests, while guests run in another."""
    host.machine.write("/etc/empty.xml", "<node/>", 0o644)
    host.configure("qemu:///system", "test:///etc/empty.xml")
    host.machine.ok("systemctl", "restart", "vmfence")


@mistake("host-guest-denied", "note")
def rules_forget_a_guest(host: Host, undo: ExitStack, folder: Path) -> None:
    host.machine.write(CONFIG, f'{host.config} groups {{ group {{ uuid = "vm-01"; }} }}')
    host.machine.ok("systemctl", "restart", "vmfence")


@mistake("host-access-open", "note")
def no_rules(host: Host, undo: ExitStack, folder: Path) -> None:
    """As setup leaves it: with one key for all."""


@mistake("host-records-unkept", "warning")
def disk_of_state_full(host: Host, undo: ExitStack, folder: Path) -> None:
    machine = host.machine
    machine.ok("systemctl", "stop", "vmfence")
    machine.ok("mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", "/var/lib/vmfence")
    undo.callback(machine.ok, "umount", "/var/lib/vmfence")
    undo.callback(machine.ok, "systemctl", "stop", "vmfence")
    machine.ok("systemctl", "start", "vmfence")
    machine.run("dd", "if=/dev/zero", "of=/var/lib/vmfence/fill", "bs=4k")
    assert host.ask(folder, None, *PATIENT) == 0  # which does not stop fencing
    told = machine.ok(PROGRAM, "host", "status")
    assert "accepted signatures: not kept on disk" in told


@mistake("host-guest-moved", "warning")
def guest_migrated_away(host: Host, undo: ExitStack, folder: Path) -> None:
    """Live, to another libvirtd; its definition stays here."""
    there = undo.enter_context(Hypervisor(folder / "there", host.bridge.host))
    be_another_host(there)
    migrate("vm-02", host.hypervisor, there)
    undo.callback(migrate, "vm-02", there, host.hypervisor)
    for action in ("status", "off", "on"):
        assert host.ask(folder, None, *PATIENT, "-o", action, "-H", "vm-02") == 1  # neither on nor off
    assert there.is_on("vm-02") and not host.hypervisor.is_on("vm-02")


def found_with(host: Host, folder: Path, mistakes: Sequence[Mistake]) -> dict[str, Any]:
    """Make *mistakes*, return what is found, and undo them."""
    try:
        with ExitStack() as undo:
            for make in mistakes:
                make(host, undo, folder)
            return host.judged()
    finally:
        host.mended()


def codes(found: dict[str, Any], severity: str) -> list[str]:
    return [one["code"] for one in found["findings"] if one["severity"] == severity]


@pytest.mark.parametrize("name", MISTAKES)
def test_each_fault_is_found_first(host: Host, tmp_path: Path, name: str) -> None:
    code, severity, make = MISTAKES[name]
    found = found_with(host, tmp_path, [make])
    assert codes(found, severity)[:1] == [code], found["findings"]
    assert found["worst"] == severity


def test_rules_by_uuid_hold_for_names(host: Host, tmp_path: Path) -> None:
    """Where fence_virtd compares the text of the rule with the text of the request."""
    with host.hypervisor.connection() as connection:
        uuid = connection.lookupByName("vm-01").UUIDString()
    rule = f'group {{ ip = "{host.bridge.guests[0].ipv4}"; uuid = "{uuid}"; uuid = "vm-02"; }}'
    try:
        host.machine.write(CONFIG, f"{host.config} groups {{ {rule} }}")
        host.machine.ok("systemctl", "restart", "vmfence")
        assert codes(host.judged(), "error") == []
        asked = {
            name: host.ask(tmp_path, None, *PATIENT, "-o", "status", "-H", name) for name in ("vm-01", uuid, "vm-02")
        }
    finally:
        host.mended()
    assert set(asked.values()) == {0}


def test_a_network_made_anew_is_joined_again(host: Host) -> None:
    before = codes(host.judged(), "note")
    host.bridge.delete()
    host.bridge.create()
    wait_until(lambda: host.judged()["worst"] == "note", what="a green check")
    assert codes(host.judged(), "note") == before


PAIRS = (
    ("libvirt_stopped", "key_replaced"),
    ("way_back_closed_by_nft", "key_missing"),
    ("fence_virtd_enabled", "by_macvtap"),
    ("strict_filter", "iptables_drops"),
    ("no_interface_and_no_route", "name_long"),
)


@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
def test_two_faults_are_both_found(host: Host, tmp_path: Path, pair: tuple[str, str]) -> None:
    table = {**host_side.MISTAKES, **MISTAKES}
    expected = {table[name][:2] for name in pair}
    found = found_with(host, tmp_path, [table[name][2] for name in pair])
    assert expected <= {(one["code"], one["severity"]) for one in found["findings"]}, found["findings"]
    worst = {code for code, severity in expected if severity == found["worst"]}
    assert codes(found, found["worst"])[0] in worst, found["findings"]


def test_another_machine_leaves_services_alone(host: Host, tmp_path: Path) -> None:
    """What the tests rest on: no machine beside this one ends its services, or keeps them from starting."""
    sleeper = ("systemd-run", "--unit=sleeper", "sleep", "infinity")
    with Bridge(guests=0) as bridge, Machine(tmp_path / "other", bridge.host, host.hypervisor) as other:
        for machine in (host.machine, other):
            machine.ok(*sleeper)
        other.ok("systemctl", "stop", "sleeper")
        assert "control group" not in other.ok("journalctl", "--no-pager", "--unit=sleeper")
    assert host.machine.property("ActiveState", "sleeper") == "active"
    host.machine.ok("systemctl", "stop", "sleeper")


# Guests


def test_fence_virtd_forgets_the_group_with_the_bridge(hosts: Any, check: Any, bridge: Bridge) -> None:
    hosts.reference()
    assert guest_side.worries(check()) == []
    bridge.delete()
    bridge.create()
    assert guest_side.errors(check())[:1] == ["guest-not-heard"]


@contextmanager
def stuck(daemon: str, vmfence: CommandLine, folder: Path, key: Path, bridge: Bridge) -> Iterator[None]:
    """Run *daemon*, and have libvirt never answer its first call to switch a guest off."""
    with Hypervisor(folder / "libvirt") as hypervisor, Middleman(hypervisor) as middleman, ExitStack() as stack:
        hypervisor.define("stuck", start=True)
        if daemon == "vmfence":
            listeners: dict[str, dict[str, object]] = {"multicast": {"interface": BRIDGE}}
            config = our_config(folder, middleman.uri, key, listeners=listeners)
            stack.enter_context(vmfence.daemon(config, bridge.host))
        else:
            text = config_text("multicast", middleman.uri, key, interface=BRIDGE)
            stack.enter_context(fence_virtd(text, folder, bridge.host))
        middleman.spoil(DESTROY, Fate.HELD)
        asking = bridge.host.popen([FENCE_XVM, "-o", "off", "-H", "stuck", "-t", "60", "-k", str(key)])
        try:
            wait_until(middleman.caught.is_set, what="the call")
            yield
        finally:
            middleman.release()
            asking.terminate()
            asking.wait(30)


def test_one_stuck_request_stops_fence_virtd(
    check: Any, vmfence: CommandLine, tmp_path: Path, key: Path, bridge: Bridge
) -> None:
    with stuck("fence_virtd", vmfence, tmp_path, key, bridge):
        assert guest_side.errors(check())[:1] == ["guest-not-heard"]


def test_one_stuck_request_delays_nobody_else(
    check: Any, vmfence: CommandLine, tmp_path: Path, key: Path, bridge: Bridge
) -> None:
    with stuck("vmfence", vmfence, tmp_path, key, bridge):
        assert guest_side.worries(check()) == []


def test_a_guest_that_has_a_weak_key_and_a_closed_port(hosts: Any, check: Any, key: Path, guest: Guest) -> None:
    key.write_text("redhatredhatredhatredhatredhatredhat")
    hosts.ours()
    guest_side.block(guest, "tcp dport 1229 drop")
    assert guest_side.worries(check()) == ["guest-firewall", "guest-key-weak"]
