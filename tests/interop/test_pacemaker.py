"""Pacemaker's and pcs' own programs accept the agent and its metadata."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from lxml import etree

from lab.ours import CommandLine
from lab.process import Result, run_client
from lab.reference import write_key

pytestmark = pytest.mark.system
CIB = """<cib crm_feature_set="3.1.0" validate-with="pacemaker-3.1" epoch="1" num_updates="0" admin_epoch="0">
  <configuration><crm_config/><nodes/><resources/><constraints/></configuration><status/></cib>"""


# In a mount namespace of its own: an overlay over /usr/sbin with the agent in it, kept on a tmpfs, gone at the end.
ENTER = """
mount -t tmpfs tmpfs {folder}
mkdir {folder}/upper {folder}/work
ln -s {agent} {folder}/upper/fence_vmfence
mount -t overlay overlay -o lowerdir=/usr/sbin,upperdir={folder}/upper,workdir={folder}/work /usr/sbin
exec "$@"
"""


class Cluster:
    """Runs programs that find the agent where Pacemaker looks."""

    def __init__(self, folder: Path, agent: str) -> None:
        (folder / "overlay").mkdir()
        self._script = ENTER.format(folder=folder / "overlay", agent=agent)
        self.cib = folder / "cib.xml"
        self.cib.write_text(CIB)

    def run(self, *argv: str) -> Result:
        """Run a program to its end."""
        return run_client(["unshare", "--mount", "sh", "-ec", self._script, "sh", *argv], timeout=120)


@pytest.fixture
def cluster(tmp_path: Path, vmfence: CommandLine) -> Cluster:
    return Cluster(tmp_path, vmfence.agent)


def test_crm_resource_shows_the_metadata(cluster: Cluster) -> None:
    shown = cluster.run("crm_resource", "--show-metadata", "stonith:fence_vmfence")
    assert shown.exit == 0, shown.stderr
    tree = etree.fromstring(shown.stdout.encode())
    actions = {action.get("name") for action in tree.iter("action")}
    assert {"off", "on", "reboot", "status", "monitor", "list", "metadata", "validate-all"} <= actions
    assert {"plug", "port"} <= {parameter.get("name") for parameter in tree.iter("parameter")}


def test_stonith_admin_finds_it(cluster: Cluster) -> None:
    found = cluster.run("stonith_admin", "--list-installed")
    assert "fence_vmfence" in found.stdout.split()
    assert "<resource-agent" in cluster.run("stonith_admin", "--metadata", "--agent", "fence_vmfence").stdout


def test_pcs_describes_it(cluster: Cluster) -> None:
    described = cluster.run("pcs", "stonith", "describe", "fence_vmfence")
    assert described.exit == 0, described.stderr
    for name in ("key_file", "multicast_address", "ipaddr", "timeout", "pcmk_host_map"):
        assert name in described.stdout


def test_pcs_creates_a_device_and_refuses_a_bad_option(cluster: Cluster, tmp_path: Path) -> None:
    key = write_key(tmp_path / "key")
    create = ("pcs", "-f", str(cluster.cib), "stonith", "create")
    hosts = "pcmk_host_map=node-1:guest-1;node-2:guest-2"
    made = cluster.run(*create, "fence-all", "fence_vmfence", hosts, f"key_file={key}", "op", "monitor", "interval=60s")
    assert made.exit == 0, made.stderr
    (device,) = etree.parse(str(cluster.cib)).iter("primitive")
    assert (device.get("class"), device.get("type"), device.get("id")) == ("stonith", "fence_vmfence", "fence-all")
    values = {pair.get("name"): pair.get("value") for pair in device.iter("nvpair")}
    assert values == {"pcmk_host_map": hosts.partition("=")[2], "key_file": str(key)}
    refused = cluster.run(*create, "other", "fence_vmfence", "no_such_option=1")
    assert refused.exit != 0
    assert "no_such_option" in refused.stderr


def test_the_agent_runs_as_pacemaker_starts_it(vmfence: CommandLine, tmp_path: Path) -> None:
    """No arguments, no PATH, no HOME, another folder: everything comes on standard input."""
    key = write_key(tmp_path / "key")
    asked = f"action=off\nnodename=node-1\nplug=guest-1\nipaddr=127.0.0.1\nipport=9\nkey_file={key}\n"
    ended = subprocess.run(
        [vmfence.agent], input=asked.encode(), env={}, cwd="/", capture_output=True, timeout=30, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith(b"Operation failed\nerror: Unable to connect to fence_virtd host 127.0.0.1:9.")
    metadata = subprocess.run(
        [vmfence.agent], input=b"action=metadata\n", env={}, cwd="/", capture_output=True, check=False
    )
    assert (metadata.returncode, metadata.stderr) == (0, b"")
    etree.fromstring(metadata.stdout)
