"""``cluster check`` on a real cluster: green as add-device leaves it, red under the right code for each mistake.

One device is made once; every mistake is made in the running cluster, judged, and undone.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Callable

import pytest

from lab.cluster import ClusterLab
from lab.cluster_node import AGENT, KEY, Node
from lab.net import HOST_IPV4, Namespace
from lab.ours import READY, driver_uri, our_config
from lab.process import Daemon
from lab.reference import write_key
from lab.waiting import wait_until

pytestmark = [pytest.mark.system, pytest.mark.long]
FIRST = "n1"
IGNORE = 'unknown_guest = "ignore";'
Undo = ExitStack
Mistake = Callable[[ClusterLab, Node, Undo, Path], None]
MISTAKES: dict[str, tuple[str, str, Mistake]] = {}


@pytest.fixture(scope="module")
def fenced(cluster_lab: ClusterLab) -> Iterator[ClusterLab]:
    """The cluster with the device that add-device makes."""
    cluster_lab.reset()
    cluster_lab.nodes[FIRST].ok("vmfence", "cluster", "add-device", "fence", "--yes", timeout_s=120)
    wait_until(lambda: errors(cluster_lab.nodes[FIRST]) == [], 60, "a green check", interval=0.5)
    yield cluster_lab
    cluster_lab.reset()


def judged(node: Node, *words: str) -> dict[str, Any]:
    done = node.run(["vmfence", "cluster", "check", "--json", *words])
    assert done.stderr == "", done
    assert done.seconds < 30  # it ends by itself; after 10 s on a machine that is not busy
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.exit == (found["worst"] == "error"), done
    return found


def errors(node: Node) -> list[str]:
    return [one["code"] for one in judged(node)["findings"] if one["severity"] == "error"]


def mistake(code: str, severity: str = "error") -> Callable[[Mistake], Mistake]:
    """Enter a mistake into the table: *code* is what must be found with this *severity*."""

    def enter(make: Mistake) -> Mistake:
        MISTAKES[make.__name__] = (code, severity, make)
        return make

    return enter


@contextmanager
def configuration(lab: ClusterLab) -> Iterator[None]:
    """Put the configuration back at the end."""
    before = lab.configuration()
    try:
        yield
    finally:
        if lab.configuration() != before:
            lab.nodes[FIRST].ok("cibadmin", "--replace", "--scope", "configuration", "--xml-pipe", stdin=before)


def settle(node: Node) -> None:
    """Wait until the cluster has done what it does about a change: a device that starts anew is stopped for a while."""
    node.run(["crm_resource", "--wait", "--timeout=30"])


def update(node: Node, *words: str) -> None:
    node.ok("pcs", "stonith", "update", "fence", *words, "--force")


# Properties and devices


@mistake("cluster-fencing-disabled")
def fencing_disabled(lab: ClusterLab, node: Node, undo: Undo, folder: Path) -> None:
    node.ok("pcs", "property", "set", "stonith-enabled=false")


@mistake("cluster-startup-fencing")
def startup_fencing(lab: ClusterLab, node: Node, undo: Undo, folder: Path) -> None:
    node.ok("pcs", "property", "set", "startup-fencing=false")


@mistake("cluster-quorum-ignored", "warning")
def quorum_ignored(lab: ClusterLab, node: Node, undo: Undo, folder: Path) -> None:
    node.ok("pcs", "property", "set", "no-quorum-policy=ignore")


@mistake("cluster-no-device")
def device_disabled(lab: ClusterLab, node: Node, undo: Undo, folder: Path) -> None:
    node.ok("pcs", "stonith", "disable", "fence")


@mistake("cluster-device-banned")
def device_banned(lab: ClusterLab, node: Node, undo: Undo, folder: Path) -> None:
    node.ok("pcs", "constraint", "location", "fence", "avoids", *lab.nodes)


@mistake("cluster-node-not-covered")
def node_forgotten(lab: ClusterLab, node: Node, undo: Undo, folder: Path) -> None:
    update(node, "pcmk_host_map=n1:lab-n1")


@mistake("cluster-fencer-refuses")
def node_not_listed(lab: ClusterLab, node: Node, undo: Undo, folder: Path) -> None:
    """The agent is asked which nodes it fences, and no guest bears the name of a node."""
    update(node, "pcmk_host_map=", "pcmk_host_check=dynamic-list")


@mistake("cluster-host-map")
def comma_in_the_map(lab: ClusterLab, node: Node, undo: Undo, folder: Path) -> None:
    update(node, f"pcmk_host_map={lab.host_map.replace(';', ',')}")


@mistake("cluster-host-check")
def no_such_host_check(lab: ClusterLab, node: Node, undo: Undo, folder: Path) -> None:
    update(node, "pcmk_host_check=dynamic")


@mistake("cluster-static-port")
def fixed_port(lab: ClusterLab, node: Node, undo: Undo, folder: Path) -> None:
    update(node, "port=lab-n1")


@mistake("cluster-option-unknown")
def misspelt_option(lab: ClusterLab, node: Node, undo: Undo, folder: Path) -> None:
    update(node, "pcmk_hostmap=n1:lab-n1")


@mistake("cluster-level-invalid")
def level_with_a_device_that_is_gone(lab: ClusterLab, node: Node, undo: Undo, folder: Path) -> None:
    node.ok("pcs", "stonith", "level", "add", "1", "n1", "gone", "--force")


@mistake("cluster-timeouts")
def agent_slower_than_pacemaker(lab: ClusterLab, node: Node, undo: Undo, folder: Path) -> None:
    update(node, "timeout=90")


@mistake("cluster-two-node-delay", "warning")
def no_delay(lab: ClusterLab, node: Node, undo: Undo, folder: Path) -> None:
    update(node, "pcmk_delay_base=")


@mistake("cluster-wait-for-all", "warning")
def starts_alone(lab: ClusterLab, node: Node, undo: Undo, folder: Path) -> None:
    path = "/etc/corosync/corosync.conf"
    before = node.path(path).read_text()

    def configure(text: str) -> None:
        node.disk.write(path, text, 0o644)
        node.ok("corosync-cfgtool", "-R")

    undo.callback(configure, before)
    configure(before.replace("wait_for_all: 1", "wait_for_all: 0"))


# Guests


@mistake("cluster-guest-missing")
def misspelt_guest(lab: ClusterLab, node: Node, undo: Undo, folder: Path) -> None:
    update(node, "pcmk_host_map=n1:lab-n1;n2:lab-nn2")


@mistake("cluster-guest-twice")
def one_guest_for_both(lab: ClusterLab, node: Node, undo: Undo, folder: Path) -> None:
    update(node, "pcmk_host_map=n1:lab-n1;n2:lab-n1")


@mistake("cluster-guest-missing")
def claimed_without_a_map(lab: ClusterLab, node: Node, undo: Undo, folder: Path) -> None:
    update(node, "pcmk_host_map=", "pcmk_host_check=none")


@mistake("cluster-guests-differ")
def two_devices_two_guests(lab: ClusterLab, node: Node, undo: Undo, folder: Path) -> None:
    node.ok("pcs", "stonith", "create", "other", "fence_vmfence", "pcmk_host_map=n2:lab-n1")


@mistake("cluster-port-is-node")
def guest_called_like_a_node(lab: ClusterLab, node: Node, undo: Undo, folder: Path) -> None:
    node.ok("pcs", "stonith", "create", "other", "fence_vmfence", "pcmk_host_map=n1:n2")


@mistake("cluster-uuid-mismatch")
def guests_swapped(lab: ClusterLab, node: Node, undo: Undo, folder: Path) -> None:
    update(node, "pcmk_host_map=n1:lab-n2;n2:lab-n1")


# Agent and key


@mistake("cluster-agent-missing")
def agent_missing(lab: ClusterLab, node: Node, undo: Undo, folder: Path) -> None:
    path = node.path(AGENT)
    shutil.move(path, folder / "agent")
    undo.callback(shutil.move, folder / "agent", path)


@mistake("cluster-agent-broken")
def agent_not_executable(lab: ClusterLab, node: Node, undo: Undo, folder: Path) -> None:
    node.path(AGENT).chmod(0o644)
    undo.callback(node.path(AGENT).chmod, 0o755)


@mistake("cluster-key-missing")
def key_missing(lab: ClusterLab, node: Node, undo: Undo, folder: Path) -> None:
    undo.callback(node.install, lab.key.read_bytes())
    node.ok("rm", KEY)


@mistake("cluster-key-open")
def key_open(lab: ClusterLab, node: Node, undo: Undo, folder: Path) -> None:
    undo.callback(node.install, lab.key.read_bytes())
    node.ok("chmod", "0644", KEY)


@mistake("cluster-key-unusable")
def key_short(lab: ClusterLab, node: Node, undo: Undo, folder: Path) -> None:
    undo.callback(node.install, lab.key.read_bytes())
    node.install(b"redhat\n")


@mistake("cluster-host-silent")
def other_key(lab: ClusterLab, node: Node, undo: Undo, folder: Path) -> None:
    undo.callback(node.install, lab.key.read_bytes())
    node.install(bytes(range(256)))


# Host


@mistake("cluster-host-silent")
def daemon_stopped(lab: ClusterLab, node: Node, undo: Undo, folder: Path) -> None:
    lab.daemon.stop()
    undo.callback(lambda: lab.daemon.running() or lab.daemon.start().wait_for_line(READY))


def other_daemon(
    undo: Undo,
    folder: Path,
    place: Namespace,
    key: Path,
    guests: dict[str, str],
    listeners: dict[str, dict[str, object]],
    daemon: str = "",
) -> None:
    """Run a second daemon, with guests that exist in libvirt's test driver alone; *daemon*: text for its section."""
    config = our_config(folder, driver_uri(folder, guests), key, daemon=daemon, listeners=listeners)
    argv = [str(Path(sys.executable).parent / "vmfence"), "host", "daemon", "-f", str(config)]
    undo.enter_context(Daemon(argv, folder / "daemon.log", place)).wait_for_line(READY)


@mistake("cluster-key-refused")
def other_key_by_tcp(lab: ClusterLab, node: Node, undo: Undo, folder: Path) -> None:
    """Over a connection the host cannot stay silent: it closes it."""
    guests = {lab.guest(name): lab.uuid(name) for name in lab.nodes}
    listeners: dict[str, dict[str, object]] = {"tcp": {"address": HOST_IPV4}}
    other_daemon(undo, folder, lab.bridge.host, write_key(folder / "other"), guests, listeners)
    update(node, f"ipaddr={HOST_IPV4}")


@mistake("cluster-hosts-several")
def second_host(lab: ClusterLab, node: Node, undo: Undo, folder: Path) -> None:
    """Another hypervisor on the same bridge, in the place of node n2."""
    stranger = {"stranger": "88000000-0000-4000-8000-000000000099"}
    other_daemon(undo, folder, lab.nodes["n2"].guest, lab.key, stranger, {"multicast": {"interface": "eth0"}})


@mistake("cluster-hosts-several")
def second_host_that_alone_is_silent(lab: ClusterLab, node: Node, undo: Undo, folder: Path) -> None:
    """The second one says nothing of guests that it does not have; the first one does, of the stranger."""
    stranger = {"stranger": "88000000-0000-4000-8000-000000000099"}
    listeners: dict[str, dict[str, object]] = {"multicast": {"interface": "eth0"}}
    other_daemon(undo, folder, lab.nodes["n2"].guest, lab.key, stranger, listeners, IGNORE)


@mistake("cluster-last-fencing")
def fencing_failed(lab: ClusterLab, node: Node, undo: Undo, folder: Path) -> None:
    daemon_stopped(lab, node, undo, folder)
    undo.callback(node.ok, "stonith_admin", "--history", "*", "--cleanup")
    assert node.run(["stonith_admin", "--reboot", "n2", "--timeout", "2"]).exit
    lab.daemon.start().wait_for_line(READY)  # else its silence is told first


# Tests


def test_a_cluster_as_add_device_leaves_it_is_green(fenced: ClusterLab) -> None:
    before = fenced.configuration(), [fenced.guest_id(name) for name in fenced.nodes]
    for node in fenced.nodes.values():
        found = judged(node, "--strict")
        assert {one["code"] for one in found["findings"]} == {"cluster-not-proven"}, found
        assert found["not_judged"] == []
    assert (fenced.configuration(), [fenced.guest_id(name) for name in fenced.nodes]) == before


@pytest.mark.parametrize("name", MISTAKES)
def test_each_mistake_is_red_under_its_code(fenced: ClusterLab, name: str, tmp_path: Path) -> None:
    node = fenced.nodes[FIRST]
    code, severity, make = MISTAKES[name]
    with ExitStack() as undo:
        undo.enter_context(configuration(fenced))
        make(fenced, node, undo, tmp_path)
        settle(node)
        found = judged(node)
        named = [one for one in found["findings"] if (one["code"], one["severity"]) == (code, severity)]
        assert named, found
        first = next(one["code"] for one in found["findings"] if one["severity"] == severity)
        assert first == code, found
        assert all(one["evidence"] and one["remedy"] for one in named)
        if severity == "warning":
            strict = node.run(["vmfence", "cluster", "check", "--strict", "--quiet", "--only", code])
            assert strict.exit == 1
            assert strict.stdout.startswith(f"warning  {code}: ")
    wait_until(lambda: errors(node) == [], 60, "a green check again", interval=0.5)


def test_two_mistakes_are_both_found(fenced: ClusterLab) -> None:
    node = fenced.nodes[FIRST]
    with configuration(fenced):
        node.ok("pcs", "property", "set", "stonith-enabled=false")
        update(node, "pcmk_host_map=n1:lab-n1;n2:lab-n1")
        assert {"cluster-fencing-disabled", "cluster-guest-twice"} <= set(errors(node))
    wait_until(lambda: errors(node) == [], 60, "a green check again", interval=0.5)


def test_a_second_host_that_is_silent_about_guests_of_others_is_a_note(fenced: ClusterLab, tmp_path: Path) -> None:
    """It has no guest at all, which is no fault either beside one that has."""
    node = fenced.nodes[FIRST]
    with ExitStack() as undo:
        listeners: dict[str, dict[str, object]] = {"multicast": {"interface": "eth0"}}
        other_daemon(undo, tmp_path, fenced.nodes["n2"].guest, fenced.key, {}, listeners, IGNORE)
        found = judged(node)
    told = {one["code"]: one["severity"] for one in found["findings"]}
    assert (told["cluster-hosts-several"], told["cluster-host-empty"]) == ("note", "note")
    assert found["worst"] == "note"


def test_pcs_that_cannot_be_run(fenced: ClusterLab) -> None:
    node = fenced.nodes[FIRST]
    node.disk.write("/etc/tools/pcs", "#!/bin/sh\necho no ruby here >&2\nexit 1\n", 0o755)
    path = node.ok("printenv", "PATH").strip()
    done = node.run(["env", f"PATH=/etc/tools:{path}", "vmfence", "cluster", "check", "--quiet", "--strict"])
    assert done.exit == 4
    assert done.stdout.startswith("warning  cluster-pcs-unread: pcs: pcs failed with exit code 1")
    assert "no ruby here" in done.stdout


def test_what_cannot_be_judged_is_no_success(fenced: ClusterLab) -> None:
    node = fenced.nodes[FIRST]
    with ExitStack() as undo:
        daemon_stopped(fenced, node, undo, Path())
        done = node.run(["vmfence", "cluster", "check", "--quiet", "--only", "cluster-guest-missing"])
        assert done.exit == 4
        assert done.stdout.startswith("unknown  cluster-guest-missing: not judged, ")
    wait_until(lambda: errors(node) == [], 60, "a green check again", interval=0.5)


def test_who_may_not_read_the_cluster_is_told(fenced: ClusterLab) -> None:
    words = ["setpriv", "--reuid", "65534", "--clear-groups", "vmfence", "cluster", "check"]
    done = fenced.nodes[FIRST].run(words)
    assert done.exit == 3, done
    assert done.stdout.count("ask the cluster") == 1 and "cannot reach" not in done.stdout and done.stderr == ""
    assert " checks not judged: this user may not ask the cluster\n         do: run this as root\n" in done.stdout
