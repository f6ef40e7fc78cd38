"""add-device, map and remove-device in a running cluster, against the real daemon."""

from __future__ import annotations

import json
from contextlib import ExitStack

import pytest

from lab.cluster import ClusterLab
from lab.desk import one_error
from lab.process import Result

pytestmark = pytest.mark.system
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


def run(lab: ClusterLab, *words: str, prefix: tuple[str, ...] = ()) -> Result:
    return lab.nodes["n1"].run([*prefix, "vmfence", "cluster", *words], timeout_s=180)


def test_a_device_comes_is_changed_and_goes(lab: ClusterLab) -> None:
    done = run(lab, "add-device", "f", "--yes")
    assert done.exit == 0, done
    assert "machine UUID of this node" in done.stdout
    assert "read back from the CIB, and started on n" in done.stdout
    assert lab.host_map in lab.configuration()
    again = run(lab, "add-device", "f")
    assert again.stdout.splitlines()[-1] == "Nothing was changed: the device f is as it shall be."
    changed = json.loads(run(lab, "add-device", "f", "--yes", "--json", "--timeout", "31").stdout)
    assert (changed["state"], changed["changed"], len(changed["started"])) == ("different", True, 1)
    assert "nothing else would fence 'n1', 'n2'" in one_error(run(lab, "remove-device", "f", "--yes"))
    assert run(lab, "remove-device", "f", "--yes", "--force").exit == 0
    assert lab.host_map not in lab.configuration()


def test_a_device_that_does_not_start_is_no_success(lab: ClusterLab) -> None:
    assert run(lab, "add-device", "f", "--yes").exit == 0
    for node in lab.nodes.values():
        node.disk.write("/etc/other.key", "x" * 64, 0o600)
    broken = ["add-device", "f", "--yes", "--offline", "--map", "n1:lab-n1", "--map", "n2:lab-n2"]
    error = one_error(run(lab, *broken, "--key-file", "/etc/other.key"))
    assert "the device f is in the CIB as planned, but not started" in error
    shown = run(lab, "map")
    assert shown.exit == 1
    assert shown.stdout.count("nothing known from the host") == 2
    assert run(lab, "add-device", "f", "--yes").exit == 0


def test_map_shows_what_the_host_shows(lab: ClusterLab) -> None:
    assert run(lab, "add-device", "f", "--yes").exit == 0
    lab.nodes["n1"].ok("pcs", "property", "set", "stonith-enabled=false")  # or the cluster starts the guest again
    lab.hypervisor.power_off("lab-n2")
    first, second = json.loads(run(lab, "map", "--json").stdout)
    assert (first["guest"], first["state"], first["problem"]) == ("lab-n1", "running", None)
    assert (second["guest"], second["problem"]) == ("lab-n2", "the guest is not running")


def test_node_that_is_online_is_not_mapped_to_a_guest_that_is_off(lab: ClusterLab) -> None:
    before = lab.configuration()
    with ExitStack() as undo:
        lab.hypervisor.define("spare")
        undo.callback(lab.hypervisor.undefine, "spare")
        error = one_error(run(lab, "add-device", "f", "--yes", "--map", "n2:spare"))
        assert "node 'n2' is online, and guest 'spare' (given) is not running" in error
        assert f"lab-n2 ({lab.uuid('n2')})" in error
        assert lab.configuration() == before
        done = run(lab, "add-device", "f", "--yes", "--map", "n2:spare", "--force", "--no-wait")
        assert done.exit == 0, done
        assert "warning: node 'n2' is online" in done.stderr
        assert run(lab, "add-device", "f", "--yes").exit == 0


def test_fencer_and_map_agree_on_a_guest_called_like_another_node(lab: ClusterLab) -> None:
    """The fencer takes ports for nodes: asked for n2, the device of n1 would stop n1's guest, were it called n2."""
    lab.nodes["n1"].ok("pcs", "stonith", "create", "f", "fence_vmfence", "pcmk_host_map=n1:n2")
    shown = json.loads(run(lab, "map", "--json").stdout)
    assert [(row["node"], row["how"]) for row in shown] == [("n1", "map"), ("n2", "port")]
    assert "f" in lab.nodes["n1"].ok("stonith_admin", "--list", "n2")
    assert run(lab, "check", "--only", "cluster-port-is-node", "--quiet").exit == 1


def test_other_users(lab: ClusterLab) -> None:
    before = lab.configuration()
    for words in (["add-device", "--yes"], ["map"], ["remove-device", "f", "--yes"]):
        assert "root" in one_error(run(lab, *words, prefix=NOBODY), 3)
    assert lab.configuration() == before
