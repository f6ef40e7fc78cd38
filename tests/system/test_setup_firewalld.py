"""``vmfence host setup`` with a real firewalld: a booted machine whose bridge is in zone libvirt, which rejects us."""

from __future__ import annotations

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
    pytest.mark.xdist_group("setup"),
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
