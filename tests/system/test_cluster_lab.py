"""The cluster laboratory itself works: real nodes that are fenced through their guests, go down and come back.

Guests are judged by libvirt, nodes by Pacemaker on every node, never by what a program printed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Callable

import pytest

from lab import cluster
from lab.cluster import POLL, ClusterLab
from lab.cluster_node import Node
from lab.ours import CommandLine
from lab.process import clean_environment
from lab.waiting import LabError, wait_until

LACKS = cluster.missing()
pytestmark = [pytest.mark.system, pytest.mark.skipif(bool(LACKS), reason=f"missing: {', '.join(LACKS)}")]
STARTED_WITHIN, GONE_WITHIN = 30.0, 20.0  # seconds
OTHERS_PROCESS = """
import sys
from pathlib import Path

from lab import cluster
from lab.cluster import ClusterLab
from lab.ours import CommandLine

with ClusterLab(CommandLine(Path(sys.argv[1])), Path(sys.argv[2])) as lab:
    print(lab.hypervisor.run_folder, flush=True)
    sys.stdin.read()
"""


def add_device(lab: ClusterLab, agent: str = "fence_vmfence") -> None:
    """Make a device for all nodes by hand and wait until it is started."""
    node = lab.nodes["n1"]
    node.ok("pcs", "stonith", "create", "fence", agent, f"pcmk_host_map={lab.host_map}")
    running = re.compile(r'<resource id="fence" .* failed="false" .* nodes_running_on="1"')
    wait_until(lambda: running.search(node.ok("crm_mon", "--output-as=xml")), STARTED_WITHIN, "device", POLL)


@pytest.mark.parametrize("loss", [Node.kill_corosync, Node.cut_link, Node.power_off], ids=lambda loss: loss.__name__)
def test_a_lost_node_is_fenced_and_comes_back(lab: ClusterLab, loss: Callable[[Node], None]) -> None:
    add_device(lab)
    lost, before = lab.nodes["n2"], {name: lab.guest_id(name) for name in lab.nodes}
    lost.ok("touch", "/run/before", "/etc/before")
    loss(lost)
    lab.wait_fenced("n2", before["n2"])
    lost.mend_link()
    lab.wait_online()
    assert lab.guest_id("n1") == before["n1"]
    assert lost.run(["ls", "/run/before"]).exit != 0
    assert lost.run(["ls", "/etc/before"]).exit == 0


def test_a_node_follows_the_power_of_its_guest(lab: ClusterLab) -> None:
    node = lab.nodes["n2"]
    lab.hypervisor.power_off("lab-n2")
    wait_until(lambda: not node.is_on(), GONE_WITHIN, "power off")
    assert lab.guest_id("n2") == -1
    with pytest.raises(LabError, match="n2 has no power"):
        node.run(["true"])
    lab.hypervisor.power_on("lab-n2")
    lab.wait_online()


def test_a_cut_node_stays_cut_until_its_link_is_mended(lab: ClusterLab) -> None:
    node = lab.nodes["n2"]
    node.cut_link()
    lab.wait_online("n2")
    node.power_off()
    node.start()
    assert node.ok("cat", "/sys/class/net/eth0/carrier") == "0\n"
    node.mend_link()
    lab.wait_online()


def test_a_node_is_a_machine_of_its_own(lab: ClusterLab) -> None:
    for name, node in lab.nodes.items():
        assert node.ok("hostname").strip() == name
        assert node.ok("cat", "/sys/class/dmi/id/product_uuid").strip() == lab.uuid(name) == node.uuid
        assert f"inet {node.ipv4}/24" in node.ok("ip", "-4", "addr", "show", "dev", "eth0")
        assert "vmfence" in node.ok("vmfence", "--version")
        for agent in ("fence_vmfence", "fence_xvm"):
            assert lab.uuid(name) in node.ok(agent, "-o", "list")
        assert node.run(["test", "-w", "/proc/sys/kernel/hostname"]).exit == 1  # else Pacemaker may reset the machine
    assert len({node.ok("readlink", "/proc/self/ns/pid") for node in lab.nodes.values()}) == len(lab.nodes)


def test_pacemaker_gets_the_metadata_as_its_own_user(lab: ClusterLab) -> None:
    """The controller, which is not root, asks for it; without an answer every transition takes seconds longer."""
    as_user = ["setpriv", "--reuid=hacluster", "--regid=haclient", "--clear-groups"]
    as_user += ["env"]  # setpriv may look into root's folders until it has become another program
    assert "<resource-agent" in lab.nodes["n1"].ok(*as_user, "fence_vmfence", stdin="action=metadata\n")


def test_nothing_of_one_test_is_left_for_the_next(lab: ClusterLab) -> None:
    fresh = lab.configuration()
    add_device(lab)
    n1, n2 = lab.nodes["n1"], lab.nodes["n2"]
    n1.ok("pcs", "property", "set", "stonith-timeout=90s")
    n1.ok("pcs", "stonith", "level", "add", "1", "n2", "fence")
    n1.ok("pcs", "stonith", "fence", "n2")
    lab.wait_online()
    n1.disk.write("/etc/cluster/fence_xvm.key", "another key, and a short one")
    n2.path("/usr/sbin/fence_vmfence").unlink()
    lab.daemon.kill()
    n2.cut_link()
    n2.power_off()
    lab.hypervisor.power_off("lab-n2")
    lab.hypervisor.restart()
    lab.reset()
    assert lab.configuration() == fresh
    for node in lab.nodes.values():
        assert node.members() == set(lab.nodes)
        assert lab.uuid("n2") in node.ok("fence_vmfence", "-o", "list")
    assert "<fence_event" not in n1.ok("stonith_admin", "--history=*", "--output-as=xml")
    assert "fail-count" not in n1.ok("cibadmin", "--query")
    lab.hypervisor.power_off("lab-n2")
    wait_until(lambda: not n2.is_on(), GONE_WITHIN, "power follows the guest as before")


@pytest.fixture
def three(vmfence: CommandLine, tmp_path: Path) -> Iterator[ClusterLab]:
    """A second laboratory beside the first, of the reference implementation."""
    with ClusterLab(vmfence, tmp_path / "three", nodes=3, daemon="fence_virtd") as made:
        yield made


def test_three_nodes_are_fenced_by_the_reference(lab: ClusterLab, three: ClusterLab) -> None:
    add_device(three, "fence_xvm")
    before, beside = three.guest_id("n3"), lab.guest_id("n2")
    three.nodes["n3"].kill_corosync()
    three.wait_fenced("n3", before)
    three.wait_online()
    assert lab.guest_id("n2") == beside


@pytest.fixture
def killed(vmfence: CommandLine, tmp_path: Path) -> Iterator[str]:
    """The name of a folder whose laboratory is online in another process, which is killed and cannot clean up."""
    folder = tmp_path / f"killed-{os.getpid()}"
    argv = [sys.executable, "-c", OTHERS_PROCESS, str(Path(vmfence.vmfence).parent), str(folder)]
    env = clean_environment({"PYTHONPATH": str(Path(__file__).parents[1])})
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True) as process:
        assert process.stdout is not None
        run_folder = process.stdout.readline().strip()
        assert run_folder
        assert {"corosync", "pacemakerd", "libvirtd", "vmfence"} <= set(_processes_of(folder.name))
        process.kill()
    yield folder.name
    shutil.rmtree(run_folder)
    for netns in Path("/run/netns").glob(f"vmf-{process.pid}-*"):
        subprocess.run(["ip", "netns", "del", netns.name], check=True)


def test_no_process_survives_the_one_of_the_tests(killed: str) -> None:
    wait_until(lambda: not _processes_of(killed), GONE_WITHIN, "end of all", POLL)


def _processes_of(folder: str) -> list[str]:
    """Return the names of all processes that see a mount of *folder*, or were started with it."""
    names = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            seen = (process / "mountinfo").read_bytes() + (process / "cmdline").read_bytes()
            if os.fsencode(folder) in seen:
                names.append((process / "comm").read_text().strip())
    return names
