"""What the reading commands show of a running cluster."""

from __future__ import annotations

import json

import pytest

from lab.cluster import ClusterLab

pytestmark = pytest.mark.system


def create(lab: ClusterLab) -> None:
    words = ("fence_xvm", f"pcmk_host_map={lab.host_map}", "op", "monitor", "interval=60s", "timeout=30s")
    lab.nodes["n1"].ok("pcs", "stonith", "create", "fencing", *words, "--wait=30")


def test_devices_and_history_of_a_fenced_node(lab: ClusterLab) -> None:
    node = lab.nodes["n1"]
    assert "nothing can be fenced" in node.ok("vmfence", "cluster", "devices")
    assert "remembers no fencing of n2." in node.ok("vmfence", "cluster", "history", "n2")
    create(lab)
    (device,) = json.loads(node.ok("vmfence", "cluster", "devices", "--json"))
    assert (device["state"], device["fences"]) == ("started", {"n1": "lab-n1", "n2": "lab-n2"})
    assert device["started_on"][0] in lab.nodes
    before = lab.guest_id("n2")
    node.ok("pcs", "stonith", "fence", "n2")
    lab.wait_fenced("n2", before)
    newest = json.loads(node.ok("vmfence", "cluster", "history", "--json"))[0]
    assert (newest["status"], newest["action"], newest["target"]) == ("success", "reboot", "n2")
    line = node.ok("vmfence", "cluster", "history", "n2").splitlines()[1].split()
    assert line[2:6] == ["reboot", "n2", "success", "n1"]
    assert json.loads(node.ok("vmfence", "cluster", "history", "n1", "--json")) == []


def test_properties_are_set_in_the_running_cluster(lab: ClusterLab) -> None:
    node = lab.nodes["n1"]
    out = node.ok("vmfence", "cluster", "properties", "set", "fencing-timeout=75s", "--yes")
    assert "stonith-timeout=75s" in out and out.endswith("Set, and read back.\n")
    shown = json.loads(lab.nodes["n2"].ok("vmfence", "cluster", "properties", "--json"))
    (timeout,) = [one for one in shown if one["name"] == "stonith-timeout"]
    assert (timeout["value"], timeout["is_set"]) == ("75s", True)


def test_who_may_not_ask(lab: ClusterLab) -> None:
    node = lab.nodes["n1"]
    words = ("setpriv", "--reuid", "65534", "--clear-groups", "vmfence", "cluster")
    for command in ("devices", "history"):
        done = node.run([*words, command])
        assert "Traceback" not in done.stderr
        assert (done.exit, "run this as root" in done.stderr) == (3, True), done
