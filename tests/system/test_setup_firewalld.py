"""``vmfence host setup`` with a real firewalld: a booted machine whose bridge is in zone libvirt, which rejects us."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import machine as lab_machine
from lab.hypervisor import Hypervisor
from lab.machine import Machine
from lab.net import Bridge
from lab.process import run_client
from lab.reference import FENCE_XVM, write_key
from lab.requirements import SYSTEM_PATH

LACKS = [*lab_machine.missing(), *([] if shutil.which("firewalld", path=SYSTEM_PATH) else ["firewalld"])]
pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(bool(LACKS), reason=f"missing: {', '.join(LACKS)}"),
]
KEY = "/etc/cluster/fence_xvm.key"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Machine, Bridge]]:
    """A machine with firewalld, of its own: firewalld's rules would stay in a shared network."""
    folder = tmp_path_factory.mktemp("firewalld")
    with Bridge(guests=1) as bridge, Hypervisor(folder / "libvirt", bridge.host) as hypervisor:
        hypervisor.define("vm-01", bridge="br0")
        with Machine(folder / "machine", bridge.host, hypervisor) as made:
            made.ok("systemctl", "disable", "fence_virtd")
            made.ok("systemctl", "start", "firewalld")
            made.ok("firewall-cmd", "--zone=libvirt", "--change-interface=br0")
            yield made, bridge


def seen(machine: Machine, bridge: Bridge, folder: Path, timeout_s: int = 4) -> bool:
    """Whether the real fence_xvm in the guest lists the guests of the host."""
    key = write_key(folder / "key", machine.path(KEY).read_bytes())
    words = ["-o", "list", "-t", str(timeout_s), "-k", str(key)]
    return run_client(FENCE_XVM, words, netns=bridge.guests[0]).stdout.startswith("vm-01 ")


def test_the_zone_of_the_bridge_lets_requests_in(machine: tuple[Machine, Bridge], tmp_path: Path) -> None:
    host, bridge = machine
    setup = [lab_machine.PROGRAM, "host", "setup"]

    closed = host.run(*setup, "--no-firewall")
    assert closed.exit == 1 and "gave no answer to a request of this host" in closed.stderr
    assert not seen(host, bridge, tmp_path, timeout_s=2)
    rules = host.ok("nft", "list", "ruleset")
    told = host.ok(*setup, "--dry-run")
    assert "would do  firewall      let in UDP 1229 and IGMP on br0 by firewalld zone libvirt" in told
    assert host.ok("nft", "list", "ruleset") == rules

    host.ok("firewall-cmd", "--zone=libvirt", "--add-port=7/tcp")  # somebody's, for the time being: must survive
    done = host.ok(*setup)
    assert "done      firewall      firewalld zone libvirt lets in UDP 1229 and IGMP on br0" in done
    assert seen(host, bridge, tmp_path)
    assert host.ok("firewall-cmd", "--zone=libvirt", "--query-port=7/tcp").strip() == "yes"
    assert host.run("firewall-cmd", "--zone=public", "--query-port=1229/udp").exit == 1

    again = host.ok(*setup)
    assert "Nothing was changed: all was as it must be." in again

    host.ok("firewall-cmd", "--reload")  # as at the next boot: what is kept must do
    host.ok("firewall-cmd", "--zone=libvirt", "--change-interface=br0")
    assert host.ok("firewall-cmd", "--zone=libvirt", "--query-service=vmfence").strip() == "yes"
    assert seen(host, bridge, tmp_path)
    assert "Nothing was changed: all was as it must be." in host.ok(*setup)


def test_another_port_is_opened_by_number(machine: tuple[Machine, Bridge], tmp_path: Path) -> None:
    host, _ = machine
    text = """fence_virtd { listener = "tcp"; backend = "libvirt"; }
    listeners { tcp { address = "10.88.0.1"; port = "1300"; } }
    backends { libvirt { uri = "qemu:///system"; } }
    """
    host.write("/etc/vmfence.conf", text)
    told = [lab_machine.PROGRAM, "host", "setup", "--no-service", "--no-check"]
    assert "firewalld zone libvirt lets in TCP 1300 on br0" in host.ok(*told)
    for where in ([], ["--permanent"]):
        assert host.ok("firewall-cmd", *where, "--zone=libvirt", "--query-port=1300/tcp").strip() == "yes"
    assert "unchanged firewall" in host.ok(*told)


def test_without_an_interface_the_zone_is_that_of_the_bridge_with_guests(machine: tuple[Machine, Bridge]) -> None:
    host, _ = machine
    text = """fence_virtd { listener = "multicast"; backend = "libvirt"; }
    listeners { multicast { port = "1400"; } }
    backends { libvirt { uri = "qemu:///system"; } }
    """
    host.write("/etc/vmfence.conf", text)
    told = host.ok(lab_machine.PROGRAM, "host", "setup", "--no-service", "--no-check", "--dry-run")
    assert "let in UDP 1400 and IGMP on br0 by firewalld zone libvirt" in told


def doubts(host: Machine) -> list[str]:
    """Return what setup doubts about the firewall; otherwise it finds all as it must be."""
    words = [lab_machine.PROGRAM, "host", "setup", "--json", "--dry-run", "--no-service", "--no-check"]
    steps = [step for step in json.loads(host.ok(*words))["steps"] if step["step"] == "firewall"]
    assert steps[0]["state"] == "unchanged" and all(step["state"] == "by hand" for step in steps[1:])
    assert not any(step["commands"] for step in steps)
    return [note for step in steps for note in step["notes"]]


GUEST = "10.88.0.11"
# What firewall-cmd is told, and how that is undone.
STOPPING = {
    "a zone bound to the guest": (
        [f"--zone=drop --add-source={GUEST}"],
        [f"--zone=drop --remove-source={GUEST}"],
    ),
    "a rich rule": (
        [f"--zone=libvirt --add-rich-rule=rule_family=ipv4_source_address={GUEST}_drop"],
        [f"--zone=libvirt --remove-rich-rule=rule_family=ipv4_source_address={GUEST}_drop"],
    ),
    "panic mode": (["--panic-on"], ["--panic-off"]),
    "a policy": (
        [
            "--permanent --new-policy=p",
            "--permanent --policy=p --add-ingress-zone=libvirt",
            "--permanent --policy=p --add-egress-zone=HOST",
            "--permanent --policy=p --set-priority=-10",
            f"--permanent --policy=p --add-rich-rule=rule_family=ipv4_source_address={GUEST}_drop",
            "--reload",
            "--zone=libvirt --change-interface=br0",
        ],
        ["--permanent --delete-policy=p", "--reload", "--zone=libvirt --change-interface=br0"],
    ),
}


def tell(host: Machine, commands: list[str]) -> None:
    for command in commands:
        host.ok("firewall-cmd", *(word.replace("_", " ") for word in command.split()))


@pytest.fixture
def opened(machine: tuple[Machine, Bridge]) -> tuple[Machine, Bridge]:
    """The machine, set up: the zone of the bridge lets in what the daemon needs."""
    host, bridge = machine
    host.run("rm", "-f", "/etc/vmfence.conf")
    host.ok(lab_machine.PROGRAM, "host", "setup", "--config", "/etc/vmfence.conf")
    return host, bridge


@pytest.mark.parametrize("name", STOPPING)
def test_what_stops_the_guest_in_spite_of_the_zone_is_a_doubt(
    opened: tuple[Machine, Bridge], tmp_path: Path, name: str
) -> None:
    host, bridge = opened
    commands, undo = STOPPING[name]
    assert doubts(host) == [] and seen(host, bridge, tmp_path)
    try:
        tell(host, commands)
        assert not seen(host, bridge, tmp_path, timeout_s=2)
        [doubt] = doubts(host)
        assert "firewalld may stop UDP 1229 and IGMP on br0 in spite of its zone" in doubt
    finally:
        tell(host, undo)
    assert doubts(host) == [] and seen(host, bridge, tmp_path)


def test_a_closed_zone_with_a_rule_against_the_guest_is_opened_and_doubted(opened: tuple[Machine, Bridge]) -> None:
    host, _ = opened
    tell(host, ["--zone=home --change-interface=br0", f"--zone=drop --add-source={GUEST}"])
    words = [lab_machine.PROGRAM, "host", "setup", "--json", "--dry-run", "--no-service", "--no-check"]
    try:
        steps = [step for step in json.loads(host.ok(*words))["steps"] if step["step"] == "firewall"]
        tell(host, [f"--zone=drop --remove-source={GUEST}"])
        without = [step for step in json.loads(host.ok(*words))["steps"] if step["step"] == "firewall"]
    finally:
        host.run("firewall-cmd", "--zone=drop", f"--remove-source={GUEST}")
        tell(host, ["--zone=libvirt --change-interface=br0"])
    assert [step["state"] for step in steps] == ["would do", "by hand"]
    assert ["in spite of its zone" in note for note in steps[1]["notes"]] == [True, False]
    kept = "firewall-cmd --permanent --zone=home --change-interface=br0"
    assert steps[1]["notes"][1].endswith(f"to keep it: {kept}")
    assert [kept in note for step in without for note in step["notes"]] == [True]


def test_the_zone_after_the_next_boot_is_opened_as_well(opened: tuple[Machine, Bridge], tmp_path: Path) -> None:
    host, bridge = opened
    tell(host, ["--permanent --zone=work --add-interface=br0"])
    try:
        assert "firewalld zone libvirt lets in" in host.ok(lab_machine.PROGRAM, "host", "setup")
        host.ok("systemctl", "restart", "firewalld")  # as at the next boot
        assert host.ok("firewall-cmd", "--get-zone-of-interface=br0").strip() == "work"
        assert seen(host, bridge, tmp_path)
        assert doubts(host) == []
    finally:
        tell(host, ["--permanent --zone=work --remove-interface=br0", "--zone=libvirt --change-interface=br0"])
