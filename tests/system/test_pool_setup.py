"""``host setup`` on a machine whose configuration is a pool's: its service, hardened as shipped, joins and is tried.

One host, which is a whole pool: real systemd, corosync, libvirtd and guests.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from lab import machine as lab_machine
from lab import pool
from lab.hypervisor import Hypervisor
from lab.machine import PROGRAM, Machine
from lab.net import HOST_IPV4, Bridge
from lab.pool import CONFIG, COROSYNC, NODE
from lab.waiting import wait_until

MISSING = sorted({*lab_machine.missing(), *pool.missing()})
pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(bool(MISSING), reason=f"missing: {', '.join(MISSING)}"),
]
FENCED = "/usr/local/sbin/was-fenced"
# Corosync takes a scheduling class that is not everywhere to be had.
COROSYNC_UNIT = "[Unit]\nDescription=Corosync\n[Service]\nExecStart=/usr/sbin/corosync -f\n"
SETTINGS = """fence_virtd { listener = "multicast"; backend = "cpg"; }
listeners { multicast { interface = "br0"; } }
backends { cpg { uri = "qemu:///system"; name_mode = "uuid"; fenced_command = "FENCED"; } }
groups { group { ip = "10.0.0.0/8"; uuid = "vm-01"; uuid = "of-another-host"; } }
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("pool-setup")
    with Bridge(guests=1) as bridge, Hypervisor(folder / "libvirt", bridge.host) as hypervisor:
        for name in ("vm-01", "vm-02"):
            hypervisor.define(name, bridge="br0", start=True)
        with Machine(folder / "machine", bridge.host, hypervisor) as machine:
            machine.ok("systemctl", "disable", "fence_virtd")
            nodes = NODE.format(ipv4=HOST_IPV4, number=1)
            machine.write("/etc/corosync/corosync.conf", COROSYNC.format(two_node="", nodes=nodes), 0o644)
            machine.write("/etc/systemd/system/corosync.service", COROSYNC_UNIT, 0o644)
            machine.write(FENCED, "#!/bin/sh\nexit 1\n", 0o755)
            machine.write(CONFIG, SETTINGS.replace("FENCED", FENCED))
            machine.ok("systemctl", "daemon-reload")
            machine.ok("systemctl", "start", "corosync")
            wait_until(lambda: "Quorate:          Yes" in machine.run("corosync-quorumtool", "-s").stdout, 30, "quorum")
            machine.ok(PROGRAM, "host", "setup")
            yield machine


def test_the_configuration_of_a_pool_is_kept_and_tried(host: Machine) -> None:
    assert host.path(CONFIG).read_text() == SETTINGS.replace("FENCED", FENCED)
    again = host.ok(PROGRAM, "host", "setup")
    assert "good" in again and "answers by" in again
    assert "of-another-host" not in again  # it may be: what other hosts have is not seen here
    assert "Nothing was changed" in again
    assert host.property("ActiveState") == "active"


def test_the_hardened_service_is_in_its_pool(host: Machine) -> None:
    found = json.loads(host.ok(PROGRAM, "host", "status", "--json"))
    assert found["pool"]["node"] == 1 and found["pool"]["is_quorate"] and not found["pool"]["trouble"]


def test_the_check_finds_the_rule_for_nobody_alone(host: Machine) -> None:
    found = json.loads(host.run(PROGRAM, "host", "check", "--json").stdout)
    assert [one["code"] for one in found["findings"] if one["severity"] != "note"] == ["host-target-unknown"]
    assert found["not_judged"] == []
