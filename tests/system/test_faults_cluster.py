"""Faults that people meet in a cluster, and pairs of them: those that no test of the check itself produces.

Which test produces which fault is in lab/faults.py.
"""

from __future__ import annotations

import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import test_cluster_check as cluster_side
from test_cluster_check import FIRST, Mistake, configuration, errors, judged, settle, update

from lab.cluster import ClusterLab
from lab.cluster_node import Node
from lab.ours import READY
from lab.waiting import wait_until

pytestmark = pytest.mark.system
fenced = cluster_side.fenced
MISTAKES: dict[str, tuple[str, str, Mistake]] = {}


def mistake(code: str, severity: str = "error") -> Any:
    """Enter a mistake into the table: *code* is what must be found first with this *severity*."""

    def enter(make: Mistake) -> Mistake:
        MISTAKES[make.__name__] = (code, severity, make)
        return make

    return enter


@mistake("cluster-device-stopped")
def host_was_away_when_the_device_started(lab: ClusterLab, node: Node, undo: ExitStack, folder: Path) -> None:
    """The host is back, and the device stays stopped until somebody says so."""
    host_was_away(lab, node, undo, len(lab.nodes))


@mistake("cluster-device-failed")
def start_failed_and_the_device_is_left_so(lab: ClusterLab, node: Node, undo: ExitStack, folder: Path) -> None:
    """By on-fail=block the cluster tries no other node."""
    host_was_away(lab, node, undo, 1, "op", "start", "interval=0s", "timeout=20s", "on-fail=block")


@mistake("cluster-key-weak", "warning")
def typed_key_everywhere(lab: ClusterLab, node: Node, undo: ExitStack, folder: Path) -> None:
    key = lab.key.read_bytes()
    undo.callback(use_key, lab, key)
    use_key(lab, b"somebody has typed this key by hand, so it is text\n")


@mistake("cluster-guest-missing")
def rules_that_allow_a_node_only_itself(lab: ClusterLab, node: Node, undo: ExitStack, folder: Path) -> None:
    rules(lab, undo, [f'ip = "{each.ipv4}"; uuid = "{lab.guest(name)}";' for name, each in lab.nodes.items()])


@mistake("cluster-callback-port", "warning")
def two_devices_of_fence_xvm(lab: ClusterLab, node: Node, undo: ExitStack, folder: Path) -> None:
    for name in ("xvm-1", "xvm-2"):
        node.ok("pcs", "stonith", "create", name, "fence_xvm", f"pcmk_host_map={lab.host_map}", "pcmk_delay_base=n1:5s")
    wait_until(lambda: errors(node) == [], 60, "started devices", interval=0.5)


@mistake("cluster-name-too-long")
def long_name_in_the_map(lab: ClusterLab, node: Node, undo: ExitStack, folder: Path) -> None:
    update(node, f"pcmk_host_map=n1:lab-n1;n2:{'n' * 64}")


@mistake("cluster-node-offline", "warning")
def guest_that_cannot_start(lab: ClusterLab, node: Node, undo: ExitStack, folder: Path) -> None:
    """It is fenced, which is success, and does not come back: the bridge of its definition is gone."""
    guest, uuid = lab.guest("n2"), lab.uuid("n2")
    lab.hypervisor.define(guest, uuid, bridge="gone")
    undo.callback(lab.wait_online)
    undo.callback(lab.hypervisor.power_on, guest)
    undo.callback(lab.hypervisor.define, guest, uuid)
    undo.callback(node.ok, "stonith_admin", "--history", "*", "--cleanup")
    node.ok("stonith_admin", "--reboot", "n2", "--timeout", "30")
    wait_until(lambda: errors(node) == [], 60, "a cluster that knows of the fencing", interval=0.5)


def host_was_away(lab: ClusterLab, node: Node, undo: ExitStack, count: int, *words: str) -> None:
    """Start the device, with more settings in *words*, while no host answers, until so many starts have failed."""
    undo.callback(node.ok, "pcs", "stonith", "cleanup", "fence")
    undo.callback(lambda: lab.daemon.running() or lab.daemon.start().wait_for_line(READY))
    node.ok("pcs", "stonith", "disable", "fence", "--wait=30")
    lab.daemon.stop()
    update(node, "timeout=2", *words)
    node.ok("pcs", "stonith", "enable", "fence")
    wait_until(lambda: failures(node) == count, 60, "a device that failed", interval=0.5)
    lab.daemon.start().wait_for_line(READY)


def use_key(lab: ClusterLab, key: bytes) -> None:
    """Give host and nodes *key*; the daemon runs with it."""
    lab.key.write_bytes(key)
    for each in lab.nodes.values():
        each.install(key)
    reload(lab)


def rules(lab: ClusterLab, undo: ExitStack, groups: list[str]) -> None:
    """Give the daemon access rules of these *groups*."""
    config = lab.folder / "host" / "vmfence.conf"
    before = config.read_text()
    undo.callback(reload, lab)
    undo.callback(config.write_text, before)
    config.write_text(f"{before}groups {{ {' '.join(f'group {{ {each} }}' for each in groups)} }}\n")
    reload(lab)


def reload(lab: ClusterLab) -> None:
    """Have the daemon read its files anew."""
    count = lab.daemon.log().count("reloaded: ")
    lab.daemon.signal(signal.SIGHUP)
    wait_until(lambda: lab.daemon.log().count("reloaded: ") > count, what="a reload")


def failures(node: Node) -> int:
    """Return how many actions have failed, as the cluster shows it."""
    return node.ok("crm_mon", "--output-as=xml", "--inactive").count("<failure ")


def found_with(lab: ClusterLab, folder: Path, mistakes: list[Mistake]) -> dict[str, Any]:
    """Make *mistakes*, return what is found, and undo them."""
    node = lab.nodes[FIRST]
    with ExitStack() as undo:
        undo.enter_context(configuration(lab))
        for make in mistakes:
            make(lab, node, undo, folder)
        settle(node)
        found = judged(node)
    wait_until(lambda: errors(node) == [], 60, "a green check again", interval=0.5)
    return found


@pytest.mark.parametrize("name", MISTAKES)
def test_each_fault_is_found_first(fenced: ClusterLab, tmp_path: Path, name: str) -> None:
    code, severity, make = MISTAKES[name]
    found = found_with(fenced, tmp_path, [make])
    assert [one["code"] for one in found["findings"] if one["severity"] == severity][:1] == [code], found["findings"]
    assert found["worst"] == severity


PAIRS = (
    ("startup_fencing", "no_delay"),
    ("misspelt_guest", "agent_slower_than_pacemaker"),
    ("quorum_ignored", "node_forgotten"),
)


@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
def test_two_faults_are_both_found(fenced: ClusterLab, tmp_path: Path, pair: tuple[str, str]) -> None:
    table = cluster_side.MISTAKES
    expected = {table[name][:2] for name in pair}
    found = found_with(fenced, tmp_path, [table[name][2] for name in pair])
    assert expected <= {(one["code"], one["severity"]) for one in found["findings"]}, found["findings"]
    assert found["findings"][0]["code"] in {code for code, severity in expected if severity == found["worst"]}
