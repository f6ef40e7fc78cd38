"""fence and prove on a real cluster where something does not fit: they refuse, or say so, and never call it done."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from lab.cluster import ClusterLab
from lab.cluster_node import AGENT_LAUNCHER
from lab.desk import Terminal
from lab.process import clean_environment
from lab.waiting import wait_until

pytestmark = pytest.mark.system
RECORD = "/tmp/proofs.json"
LONG_S = 200.0
IDLE = "idle"


@pytest.fixture
def idle(lab: ClusterLab) -> Iterator[str]:
    """Lend the name of a guest that is off and no node's."""
    lab.hypervisor.define(IDLE)
    try:
        yield IDLE
    finally:
        if lab.hypervisor.is_on(IDLE):
            lab.hypervisor.power_off(IDLE)
        lab.hypervisor.undefine(IDLE)


def add_device(lab: ClusterLab, name: str, host_map: str, agent: str = "fence_vmfence") -> None:
    """Make a device by hand, so that nothing judges its map, and wait until the fencer has it."""
    node = lab.nodes["n1"]
    node.ok("pcs", "stonith", "create", name, agent, f"pcmk_host_map={host_map}", timeout_s=LONG_S)
    wait_until(lambda: name in node.run(["stonith_admin", "--list=n2"]).stdout, 30, f"{name} known to the fencer")


def words(command: str, *more: str) -> list[str]:
    record = ["--record", RECORD] if command == "prove" else []
    return ["vmfence", "cluster", command, "n2", *record, *more]


def recorded(lab: ClusterLab) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(lab.nodes["n1"].ok("cat", RECORD))["proofs"]
    return found


def events(lab: ClusterLab) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(lab.nodes["n1"].ok("vmfence", "cluster", "history", "n2", "--json"))
    return found


def test_an_online_node_whose_guest_is_off_is_never_fenced_in_silence(lab: ClusterLab, idle: str) -> None:
    add_device(lab, "fence", f"n1:lab-n1;n2:{idle}")
    node, before = lab.nodes["n1"], lab.guest_id("n2")
    for command in ("fence", "prove"):
        refused = node.run(words(command, "--yes"), timeout_s=LONG_S)
        assert (refused.exit, idle in refused.stderr) == (1, True), refused
    assert "n2 is online in the cluster, but guest idle of device fence is off" in node.run(words("fence")).stderr
    assert events(lab) == []
    forced = node.run(words("fence", "--off", "--yes", "--force"), timeout_s=LONG_S)
    assert (forced.exit, "so it is not its guest" in forced.stderr) == (1, True), forced
    assert events(lab)[0]["status"] == "success"  # so the cluster says
    assert lab.guest_id("n2") == before


def test_devices_that_lead_to_different_guests(lab: ClusterLab, idle: str) -> None:
    add_device(lab, "right", lab.host_map)
    add_device(lab, "wrong", f"n2:{idle}")
    lab.hypervisor.power_on(idle)
    refused = lab.nodes["n1"].run(words("prove", "--yes"), timeout_s=LONG_S)
    assert (refused.exit, "do not all lead to one guest" in refused.stderr) == (1, True), refused
    assert events(lab) == []
    done = lab.nodes["n1"].run(words("fence", "--yes", "--json"), timeout_s=LONG_S)
    told = json.loads(done.stdout)
    assert (done.exit, told["is_proven"], told["device"]) == (1, False, "right or wrong"), done
    assert {told["guest"]["name"], told["other_guests"][0]["name"]} == {"lab-n2", idle}
    assert "lead to different guests" in told["faults"][0]


OTHER = "/usr/sbin/fence_other"  # for the cluster an agent of another kind


@pytest.fixture
def other(lab: ClusterLab) -> Iterator[str]:
    """Install OTHER on every node, and lend the name of a device of it that fences every node."""
    for node in lab.nodes.values():
        node.disk.write(OTHER, AGENT_LAUNCHER, 0o755)
    try:
        yield "other"
    finally:
        for node in lab.nodes.values():
            node.disk.path(OTHER).unlink()


def test_a_device_of_another_kind_may_have_done_it(lab: ClusterLab, other: str) -> None:
    add_device(lab, "fence", lab.host_map)
    add_device(lab, other, lab.host_map, "fence_other")
    node = lab.nodes["n1"]
    refused = node.run(words("prove", "--yes"), timeout_s=LONG_S)
    assert (refused.exit, "device other (fence_other) may fence it too" in refused.stderr) == (1, True), refused
    assert "pcs stonith disable other" in refused.stderr
    done = node.run(words("fence", "--yes", "--json"), timeout_s=LONG_S)
    assert (done.exit, json.loads(done.stdout)["other_means"]) == (0, ["device other (fence_other)"]), done
    lab.wait_online()
    node.ok("pcs", "constraint", "location", other, "avoids", "n1", timeout_s=LONG_S)
    wait_until(lambda: other not in node.run(["stonith_admin", "--list=n2"]).stdout, 30, "banned from n1")
    assert "device other" in node.run(words("prove", "--yes"), timeout_s=LONG_S).stderr
    node.ok("pcs", "stonith", "disable", other, timeout_s=LONG_S)
    assert node.run(words("prove", "--dry-run"), timeout_s=LONG_S).exit == 0


def test_a_node_that_resets_itself_proves_nothing(lab: ClusterLab) -> None:
    add_device(lab, "fence", lab.host_map)
    node = lab.nodes["n1"]
    node.ok("vmfence", "cluster", "properties", "set", "fence-reaction=panic", "--yes", timeout_s=LONG_S)
    refused = node.run(words("prove", "--yes"), timeout_s=LONG_S)
    assert (refused.exit, "fence-reaction=panic resets a node" in refused.stderr) == (1, True), refused
    told = json.loads(node.run(["vmfence", "cluster", "check", "--only", "cluster-fence-reaction", "--json"]).stdout)
    assert [one["severity"] for one in told["findings"]] == ["warning"]
    assert events(lab) == []
    node.ok("vmfence", "cluster", "properties", "set", "fence-reaction=stop", "--yes", timeout_s=LONG_S)
    assert node.run(words("prove", "--dry-run"), timeout_s=LONG_S).exit == 0


def test_a_map_to_a_wrong_guest_that_runs_is_found_out(lab: ClusterLab, idle: str) -> None:
    """The guest goes down and up, and its node hears that it was fenced, stops and stays away."""
    add_device(lab, "fence", f"n1:lab-n1;n2:{idle}")
    lab.hypervisor.power_on(idle)
    before = lab.guest_id("n2")
    done = lab.nodes["n1"].run(words("prove", "--yes", "--json", "--timeout", "10"), timeout_s=LONG_S)
    (proof,) = json.loads(done.stdout)
    assert (done.exit, proof["guest"], proof["is_proven"]) == (1, idle, False), done
    assert "did not come back into the cluster" in proof["reason"]
    assert lab.guest_id("n2") == before


@pytest.mark.parametrize("command", ["fence", "prove"])
def test_what_changes_while_the_question_stands_is_noticed(lab: ClusterLab, idle: str, command: str) -> None:
    add_device(lab, "fence", lab.host_map)
    node, before = lab.nodes["n1"], lab.guest_id("n2")
    lab.hypervisor.power_on(idle)
    with Terminal([*node.prefix, *words(command)]) as terminal:
        terminal.expect(r"\[y/N\]\? ")
        node.ok("pcs", "stonith", "update", "fence", f"pcmk_host_map=n1:lab-n1;n2:{idle}", timeout_s=LONG_S)
        terminal.type("y\n")
        code, text = terminal.end()
    assert (code, "have changed meanwhile" in text) == (1, True), text
    assert events(lab) == []
    assert lab.guest_id("n2") == before


@pytest.mark.parametrize("signal", ["HUP", "TERM", "INT"])
def test_a_rehearsal_that_is_ended_leaves_word(lab: ClusterLab, signal: str) -> None:
    add_device(lab, "fence", lab.host_map)
    node = lab.nodes["n1"]
    node.ok("rm", "-f", RECORD)
    argv = [*node.prefix, *words("prove", "--by-off", "--yes", "--json")]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdout=pipe, stderr=pipe, env=clean_environment(), text=True) as process:
        wait_until(lambda: lab.guest_id("n2") == -1, LONG_S, "n2 off")
        node.ok("pkill", f"-{signal}", "-f", "cluster prove")
        stdout, stderr = process.communicate(timeout=LONG_S)
    assert process.returncode == 1, stderr
    (told,) = json.loads(stdout)
    assert "n2 may be off now; to start it: stonith_admin --unfence=n2" in stderr
    assert "not rehearsed" not in stderr
    assert (told["is_proven"], told["reason"].partition(";")[0]) == (False, "interrupted")
    assert recorded(lab) == [told]


def test_who_is_killed_halfway_is_found_in_the_record(lab: ClusterLab) -> None:
    add_device(lab, "fence", lab.host_map)
    node = lab.nodes["n1"]
    node.ok("rm", "-f", RECORD)
    argv = [*node.prefix, *words("prove", "--by-off", "--yes")]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=clean_environment()):
        wait_until(lambda: lab.guest_id("n2") == -1, LONG_S, "n2 off")
        node.ok("pkill", "-KILL", "-f", "cluster prove")
    (kept,) = recorded(lab)
    assert (kept["node"], kept["is_proven"], "stonith_admin --unfence=n2" in kept["reason"]) == ("n2", False, True)
