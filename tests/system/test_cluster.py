"""The whole way on a real cluster: add-device, a node breaks, the right guest is fenced; fence and prove see it happen.

Guests are judged by libvirt's domain id, which changes with each start, never by what a program printed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Callable

import pytest

from lab.cluster import ClusterLab
from lab.cluster_node import Node
from lab.desk import Terminal
from lab.ours import CommandLine
from lab.process import Result

pytestmark = [pytest.mark.system, pytest.mark.long]
AGENTS = ("fence_vmfence", "fence_xvm")
RECORD = "/tmp/proofs.json"
LONG_S = 200.0


def add_device(lab: ClusterLab, agent: str = "fence_vmfence", *words: str) -> None:
    lab.nodes["n1"].ok("vmfence", "cluster", "add-device", "--agent", agent, "--yes", *words, timeout_s=LONG_S)


def guest_ids(lab: ClusterLab) -> dict[str, int]:
    return {name: lab.guest_id(name) for name in lab.nodes}


def fence(lab: ClusterLab, *words: str) -> Result:
    return lab.nodes["n1"].run(["vmfence", "cluster", "fence", *words], timeout_s=LONG_S)


def prove(lab: ClusterLab, *words: str) -> tuple[Result, list[dict[str, Any]]]:
    """Rehearse and return the results that are told; they are those that are kept."""
    node = lab.nodes["n1"]
    node.ok("rm", "-f", RECORD)
    argv = ["vmfence", "cluster", "prove", *words, "--record", RECORD, "--yes", "--json"]
    done = node.run(argv, timeout_s=LONG_S)
    told = json.loads(done.stdout) if done.stdout else []
    if told:
        kept = json.loads(node.ok("cat", RECORD))["proofs"]
        assert {each["node"]: each for each in kept} == {each["node"]: each for each in told}
    return done, told


def events(lab: ClusterLab, node: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(lab.nodes["n1"].ok("vmfence", "cluster", "history", node, "--json"))
    return found


# A node breaks


@pytest.mark.parametrize("loss", [Node.kill_corosync, Node.cut_link], ids=lambda loss: loss.__name__)
@pytest.mark.parametrize("agent", AGENTS)
def test_the_guest_of_a_broken_node_is_fenced(lab: ClusterLab, agent: str, loss: Callable[[Node], None]) -> None:
    add_device(lab, agent)
    lab.nodes["n1"].ok("vmfence", "cluster", "check")
    before = guest_ids(lab)
    loss(lab.nodes["n2"])
    lab.wait_fenced("n2", before["n2"])
    assert lab.guest_id("n1") == before["n1"]
    lab.nodes["n2"].mend_link()
    lab.wait_online()
    assert events(lab, "n2")[0]["status"] == "success"


def test_either_node_may_break(lab: ClusterLab) -> None:
    """The device that n1 made is used by n2 as well."""
    add_device(lab)
    before = guest_ids(lab)
    lab.nodes["n1"].kill_corosync()
    lab.wait_fenced("n1", before["n1"])
    assert lab.guest_id("n2") == before["n2"]
    lab.wait_online()


# fence


@pytest.mark.parametrize("agent", AGENTS)
def test_fence_reboots_one_node_and_says_what_the_host_showed(lab: ClusterLab, agent: str) -> None:
    add_device(lab, agent)
    before = guest_ids(lab)
    done = fence(lab, "N2", "--yes", "--json")
    told = json.loads(done.stdout)
    assert (done.exit, told["is_proven"], told["guest"]["name"]) == (0, True, "lab-n2"), done
    assert told["event"]["status"] == "success"
    assert 0 < told["guest"]["down_s"] < told["guest"]["back_s"]
    assert lab.guest_id("n2") not in (before["n2"], -1)
    assert lab.guest_id("n1") == before["n1"]
    lab.wait_online()


def test_fence_can_leave_a_node_off(lab: ClusterLab) -> None:
    add_device(lab)
    done = fence(lab, "n2", "--off", "--yes")
    assert done.exit == 0, done
    assert "off of n2: success" in done.stdout
    assert "lab-n2" in done.stdout and "shut off after" in done.stdout
    assert lab.guest_id("n2") == -1
    again = fence(lab, "n2", "--off", "--yes")
    assert again.exit == 0, again
    assert "was off already" in again.stderr


def test_fence_asks_first(lab: ClusterLab) -> None:
    add_device(lab)
    before = guest_ids(lab)
    refused = fence(lab, "n2")
    assert refused.exit == 2 and "--yes" in refused.stderr
    planned = fence(lab, "n2", "--dry-run")
    assert planned.exit == 0 and "pcs stonith fence n2" in planned.stdout and "lab-n2 (running" in planned.stdout
    itself = fence(lab, "n1", "--yes")
    assert itself.exit == 2 and "this very node" in itself.stderr
    unknown = fence(lab, "n7", "--yes")
    assert unknown.exit == 2 and "its nodes are: n1, n2" in unknown.stderr
    assert guest_ids(lab) == before
    assert events(lab, "n2") == []


def test_a_fence_that_fails_is_told_with_both_stories(lab: ClusterLab) -> None:
    add_device(lab, "fence_vmfence", "--timeout", "2")
    before = guest_ids(lab)
    lab.daemon.stop()
    done = fence(lab, "n2", "--yes")
    assert done.exit == 1, done
    assert "error: the cluster's command failed: pcs failed with exit code 1" in done.stderr
    assert "the fencer's history calls it failed" in done.stderr
    assert "not seen off at the host: it never answered" in done.stderr
    assert guest_ids(lab) == before


def test_without_a_device_nothing_is_begun(lab: ClusterLab) -> None:
    done = fence(lab, "n2", "--yes")
    assert (done.exit, "vmfence cluster add-device" in done.stderr) == (1, True), done
    done, told = prove(lab, "--all")
    assert (done.exit, told, "vmfence cluster add-device" in done.stderr) == (1, [], True), done


# prove


@pytest.mark.parametrize("agent", AGENTS)
def test_prove_sees_each_node_go_down_and_come_back(lab: ClusterLab, agent: str) -> None:
    add_device(lab, agent)
    before = guest_ids(lab)
    done, (proof,) = prove(lab, "--all")
    assert done.exit == 0, done
    assert (proof["node"], proof["guest"], proof["agent"], proof["is_proven"]) == ("n2", "lab-n2", agent, True)
    assert proof["delegate"] in lab.nodes
    assert 0 < proof["down_s"] < proof["fence_s"] < proof["back_s"]
    assert lab.guest_id("n2") not in (before["n2"], -1)
    assert lab.guest_id("n1") == before["n1"]
    assert "n1 is this node" in done.stderr


def test_prove_by_off(lab: ClusterLab) -> None:
    add_device(lab)
    before = guest_ids(lab)
    done, (proof,) = prove(lab, "n2", "--by-off")
    assert (done.exit, proof["method"], proof["is_proven"]) == (0, "off", True), done
    assert lab.guest_id("n2") not in (before["n2"], -1)
    assert [event["action"] for event in events(lab, "n2")] == ["on", "off"]


def test_a_node_that_does_not_come_back_is_a_recorded_failure(lab: ClusterLab) -> None:
    add_device(lab)
    disk = lab.nodes["n2"].disk
    configuration = disk.path("/etc/corosync/corosync.conf").read_text()
    disk.write("/etc/corosync/corosync.conf", "nothing {", 0o644)
    try:
        done, (proof,) = prove(lab, "n2", "--timeout", "3")
    finally:
        disk.write("/etc/corosync/corosync.conf", configuration, 0o644)
    assert (done.exit, proof["is_proven"], proof["back_s"]) == (1, False, None), done
    assert "did not come back into the cluster" in proof["reason"]


def test_prove_refuses_this_node_and_a_second_run(lab: ClusterLab) -> None:
    add_device(lab)
    node = lab.nodes["n1"]
    done, told = prove(lab, "n1")
    assert (done.exit, told, "run this on another one" in done.stderr) == (1, [], True), done
    record = "/tmp/broken.json"
    node.ok("sh", "-c", f"echo broken > {record}")
    broken = node.run(["vmfence", "cluster", "prove", "n2", "--yes", "--record", record])
    assert (broken.exit, "no record of rehearsals" in broken.stderr) == (1, True), broken
    assert node.ok("cat", record) == "broken\n"
    assert events(lab, "n2") == []


# Nothing to work with


def test_no_cluster_is_told_by_every_command(lab: ClusterLab) -> None:
    node = lab.nodes["n1"]
    node.run(["pkill", "-TERM", "pacemakerd"])
    node.kill_corosync()
    for command in ("fence n2 --yes", "prove --all --yes", "add-device --yes", "remove-device x", "map", "devices"):
        done = node.run(["vmfence", "cluster", *command.split()], timeout_s=LONG_S)
        assert "Traceback" not in done.stderr
        assert (done.exit, "pcs cluster start" in done.stderr) == (4, True), (command, done)


def test_neither_without_pcs_nor_without_rights(lab: ClusterLab) -> None:
    add_device(lab)
    node = lab.nodes["n1"]
    node.ok("mv", "/usr/sbin/pcs", "/usr/sbin/pcs.away")
    try:
        for words in (("fence", "n2", "--yes"), ("prove", "--all", "--yes"), ("add-device", "--yes")):
            done = node.run(["vmfence", "cluster", *words], timeout_s=LONG_S)
            assert "Traceback" not in done.stderr
            assert (done.exit, "pcs" in done.stderr, "not installed" in done.stderr) == (4, True, True), (words, done)
    finally:
        node.ok("mv", "/usr/sbin/pcs.away", "/usr/sbin/pcs")
    nobody = ("setpriv", "--reuid", "65534", "--clear-groups", "vmfence", "cluster")
    for words in (("fence", "n2", "--yes"), ("prove", "n2", "--yes")):
        done = node.run([*nobody, *words])
        assert "Traceback" not in done.stderr
        assert (done.exit, "root" in done.stderr) == (3, True), (words, done)
    assert events(lab, "n2") == []


# Other clusters, other hosts


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory, vmfence: CommandLine) -> Iterator[ClusterLab]:
    """Three nodes, whose rest keeps quorum without any one of them."""
    with ClusterLab(vmfence, tmp_path_factory.mktemp("three"), nodes=3) as made:
        yield made


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, vmfence: CommandLine) -> Iterator[ClusterLab]:
    """Two nodes whose host stays with fence_virtd."""
    with ClusterLab(vmfence, tmp_path_factory.mktemp("reference"), daemon="fence_virtd") as made:
        yield made


def test_three_nodes_are_proven_one_after_another(three: ClusterLab) -> None:
    three.reset()
    add_device(three)
    three.nodes["n1"].ok("vmfence", "cluster", "check")
    before = guest_ids(three)
    done, proofs = prove(three, "--all")
    assert (done.exit, [(proof["node"], proof["is_proven"]) for proof in proofs]) == (
        0,
        [("n2", True), ("n3", True)],
    ), done
    after = guest_ids(three)
    assert [name for name in before if before[name] != after[name]] == ["n2", "n3"]
    three.wait_online()


def test_of_three_nodes_none_is_rehearsed_while_one_is_missing(three: ClusterLab) -> None:
    three.reset()
    add_device(three)
    three.nodes["n1"].ok("pcs", "stonith", "fence", "n3", "--off", timeout_s=LONG_S)
    three.wait_online("n1", "n2")
    before = guest_ids(three)
    done, told = prove(three, "n2")
    assert (done.exit, told) == (1, [])
    assert "without it the rest has 1 of 2 votes and needs 2 for quorum" in done.stderr
    assert guest_ids(three) == before


def test_quorum_that_is_lost_while_the_question_stands_is_noticed(three: ClusterLab) -> None:
    three.reset()
    add_device(three)
    before = three.guest_id("n2")
    words = ["vmfence", "cluster", "prove", "n2", "--record", RECORD]
    with Terminal([*three.nodes["n1"].prefix, *words]) as terminal:
        terminal.expect(r"\[y/N\]\? ")
        three.nodes["n1"].ok("pcs", "stonith", "fence", "n3", "--off", timeout_s=LONG_S)
        three.wait_online("n1", "n2")
        terminal.type("y\n")
        code, text = terminal.end()
    assert (code, "needs 2 for quorum" in text) == (1, True), text
    assert three.guest_id("n2") == before


@pytest.mark.parametrize("loss", [Node.kill_corosync, Node.cut_link], ids=lambda loss: loss.__name__)
def test_three_nodes_outlive_the_loss_of_one(three: ClusterLab, loss: Callable[[Node], None]) -> None:
    three.reset()
    add_device(three, "fence_xvm")
    before = guest_ids(three)
    loss(three.nodes["n3"])
    three.wait_fenced("n3", before["n3"])
    three.nodes["n3"].mend_link()
    three.wait_online()
    after = guest_ids(three)
    assert [name for name in before if before[name] != after[name]] == ["n3"]


@pytest.mark.parametrize("agent", AGENTS)
def test_a_host_that_is_blind_while_it_reboots_is_proven_by_powering_off(reference: ClusterLab, agent: str) -> None:
    """fence_virtd answers nobody during a reboot, so that proves nothing; powering off does."""
    reference.reset()
    add_device(reference, agent)
    before = guest_ids(reference)
    unseen = fence(reference, "n2", "--yes")
    assert unseen.exit == 0, unseen
    assert "judged by the cluster: the node left it and joined anew" in unseen.stderr
    assert reference.guest_id("n2") not in (before["n2"], -1)
    reference.wait_online()
    done, (proof,) = prove(reference, "n2")
    assert (done.exit, proof["is_proven"], proof["method"]) == (0, True, "off"), done
    assert "once more, by powering off" in done.stderr
    assert guest_ids(reference)["n1"] == before["n1"]
