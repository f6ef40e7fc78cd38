"""add-device, map and remove-device on a CIB file: the real pcs and Pacemaker's tools, and a host of the tests' own."""

from __future__ import annotations

import json
import os
import shutil
import stat
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import wire
from lab.desk import Terminal, one_error
from lab.host import FalseHost, guest_list, prove, record
from lab.ours import CommandLine
from lab.process import SYSTEM_PATH, Result, run_client
from vmfence.agent.options import OPTIONS
from vmfence.cluster.options import PCMK

KEY = b"k" * 64
PROGRAMS = ("pcs", "cibadmin", "stonith_admin", "crm_mon", "fence_virt", "fence_xvm")
UUIDS = [f"88000000-0000-4000-8000-{number:012d}" for number in range(4)]
GUESTS = {"lab-n1": 0, "n2": 1, "spare": 2}
OPTIONS_MAX = 200


class World:
    """A CIB file with two nodes, and a host that shows guests; *tools* come before the system's in PATH."""

    def __init__(self, vmfence: CommandLine, folder: Path) -> None:
        self.vmfence, self.folder = vmfence.vmfence, folder
        self.key, self.file, self.tools = folder / "key", folder / "cib.xml", folder / "tools"
        self.tools.mkdir()
        self.key.write_bytes(KEY)
        self.key.chmod(0o600)
        self.show(GUESTS)
        self.make_cib("n1", "n2")
        self.host = FalseHost(self._answer)

    def show(self, guests: dict[str, int]) -> None:
        """Let the host have these guests: name -> number of its UUID."""
        self._list = guest_list(*(record(name.encode(), UUIDS[n].encode()) for name, n in guests.items()))

    def make_cib(self, *nodes: str) -> None:
        """Write an empty configuration with *nodes*."""
        cib = ElementTree.fromstring(run_client("cibadmin", ["--empty"]).stdout)
        for number, name in enumerate(nodes, 1):
            ElementTree.SubElement(cib.find("configuration/nodes"), "node", id=str(number), uname=name)
        self.file.write_text(ElementTree.tostring(cib, "unicode"))

    def stand_in(self, program: str, script: str) -> None:
        """Put a *script* before the *program*, which it can run as $REAL."""
        real = shutil.which(program, path=SYSTEM_PATH)
        path = self.tools / program
        path.write_text(f"#!/bin/sh\nREAL={real}\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def argv(self, command: str, *arguments: str) -> list[str]:
        return [self.vmfence, "cluster", command, *arguments, "--cib", str(self.file)]

    def run(self, command: str, *arguments: str) -> Result:
        return run_client(self.argv(command, *arguments), env={"PATH": f"{self.tools}:{SYSTEM_PATH}"})

    @property
    def path_to_host(self) -> list[str]:
        return ["--ipaddr", "127.0.0.1", "--ipport", str(self.host.port), "--key-file", str(self.key)]

    def add(self, *arguments: str) -> Result:
        """Run add-device for fence_virt, which reaches this host, without this machine's UUID."""
        return self.run(
            "add-device", "f", "--agent", "fence_virt", "--machine-uuid", "", *self.path_to_host, *arguments
        )

    def device(self, name: str = "f") -> dict[str, str] | None:
        """Return the options of a device as they stand in the file, None when there is none."""
        found = ElementTree.parse(self.file).find(f".//primitive[@id='{name}']")
        if found is None:
            return None
        pairs = found.iterfind("instance_attributes/nvpair")
        return {pair.attrib["name"]: pair.attrib.get("value", "") for pair in pairs}

    def _answer(self, peer: wire.Peer) -> None:
        prove(peer, KEY)
        peer.send(self._list)


@pytest.fixture
def world(vmfence: CommandLine, tmp_path: Path) -> Iterator[World]:
    missing = [program for program in PROGRAMS if not shutil.which(program, path=SYSTEM_PATH)]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    made = World(vmfence, tmp_path)
    with made.host:
        yield made


def test_device_is_made_and_read_back(world: World) -> None:
    done = world.add("--yes")
    assert done.exit == 0, done
    rows = [line.split() for line in done.stdout.splitlines()[1:3]]
    assert [(row[0], row[1], row[2], " ".join(row[4:])) for row in rows] == [
        ("n1", "lab-n1", UUIDS[0], "unique prefix or suffix"),
        ("n2", "n2", UUIDS[1], "equal name"),
    ]
    assert "pcs -f" in done.stdout
    assert world.device() == {
        **{"pcmk_host_map": "n1:lab-n1;n2:n2", "pcmk_delay_base": "n1:10s"},
        **{"ipaddr": "127.0.0.1", "ipport": str(world.host.port), "key_file": str(world.key)},
    }
    operation = ElementTree.parse(world.file).find(".//primitive[@id='f']/operations/op")
    assert operation is not None
    assert (operation.get("name"), operation.get("interval"), operation.get("timeout")) == ("monitor", "60s", "45s")


def test_second_time_nothing_is_changed(world: World) -> None:
    world.add("--yes")
    before = world.file.read_bytes()
    done = world.add()
    assert (done.exit, done.stdout.splitlines()[-1]) == (0, "Nothing was changed: the device f is as it shall be.")
    assert world.file.read_bytes() == before


def test_dry_run_changes_nothing(world: World) -> None:
    before = world.file.read_bytes()
    done = world.add("--dry-run")
    assert done.exit == 0
    assert "stonith create f fence_virt 'pcmk_host_map=n1:lab-n1;n2:n2'" in done.stdout
    assert world.file.read_bytes() == before


def test_difference_is_shown_and_mended(world: World) -> None:
    world.add("--yes", "--hash", "sha1", "--map", "n1:spare")
    done = world.add("--yes", "--timeout", "31", "--option", "delay=3", "--pcmk-off-retries", "3")
    assert done.exit == 0, done
    for line in (
        "pcmk_host_map: n1:spare;n2:n2 -> n1:lab-n1;n2:n2",
        "hash: sha1 -> removed",
        "timeout: not set -> 31",
    ):
        assert line in done.stdout.splitlines()
    found = world.device()
    assert found is not None
    assert (found["pcmk_host_map"], found["timeout"], found["delay"]) == ("n1:lab-n1;n2:n2", "31", "3")
    assert "hash" not in found


def test_nobody_to_ask(world: World) -> None:
    assert "--yes" in one_error(world.add(), 2)
    assert world.device() is None


@pytest.mark.parametrize(("answer", "is_made"), [("y", True), ("n", False), ("", False)])
def test_question(world: World, answer: str, is_made: bool) -> None:
    words = ["f", "--agent", "fence_virt", "--machine-uuid", "", *world.path_to_host]
    with Terminal(world.argv("add-device", *words)) as terminal:
        terminal.expect("pcs -f .*stonith create")
        terminal.expect("Create the device f in ")
        terminal.type(f"{answer}\n")
        terminal.expect("read back" if is_made else "nothing was changed")
    assert (world.device() is not None) is is_made


def test_json(world: World) -> None:
    done = world.add("--yes", "--json")
    found = json.loads(done.stdout)
    assert (found["state"], found["changed"], found["device"]) == ("new", True, "f")
    assert found["pairs"][0] == {
        **{"node": "n1", "guest": "lab-n1", "uuid": UUIDS[0], "state": "running"},
        "reason": "unique prefix or suffix",
    }
    assert found["commands"][0][:2] == ["pcs", "-f"]


def test_static_list(world: World) -> None:
    world.add("--yes", "--static-list")
    found = world.device()
    assert found is not None
    assert (found["pcmk_host_list"], found["pcmk_host_check"]) == ("n1,n2", "static-list")


# What cannot be told, and what is awkward


def test_ambiguous_node_lists_the_candidates(world: World) -> None:
    world.show({"lab-n1": 0, "old-n1": 1, "n2": 2})
    done = world.add("--yes")
    error = one_error(done)
    assert "lab-n1" in error
    assert "old-n1" in error
    assert "--map n1:" in error
    assert world.device() is None


def test_missing_guest_lists_what_is_left(world: World) -> None:
    world.show({"n2": 1, "spare": 2})
    assert "no guest fits node 'n1'. guests that no node has yet: spare" in one_error(world.add("--yes"))
    assert world.add("--yes", "--map", "n1:spare").exit == 0


def test_uuid_of_this_machine_contradicts_the_map(world: World) -> None:
    own = run_client("uname", ["-n"]).stdout.strip()
    world.make_cib(own, "n2")
    done = world.add("--yes", "--map", f"{own}:spare", "--machine-uuid", UUIDS[0])
    assert f"node '{own}' is not guest 'spare'" in one_error(done)
    assert world.add("--yes", "--machine-uuid", UUIDS[0]).exit == 0
    found = world.device()
    assert found is not None
    assert found["pcmk_host_map"] == f"{own}:lab-n1;n2:n2"


@pytest.mark.parametrize("name", ["a b", "a;rm -rf x", "a:b", "a=b", 'a"b', "a'b", "a\nb", "\x1b[2Ja", "ä", "x" * 63])
def test_awkward_guest_is_fenced_by_its_uuid(world: World, name: str) -> None:
    world.show({name: 0, "n2": 1})
    done = world.add("--yes", "--map", f"n1:{name}")
    assert done.exit == 0, done
    assert "\x1b" not in done.stdout
    found = world.device()
    assert found is not None
    assert found["pcmk_host_map"] == f"n1:{UUIDS[0]};n2:n2"


@pytest.mark.parametrize("node", ["n 1", "n;1", "n=1", "n:1"])
def test_awkward_node_is_refused(world: World, node: str) -> None:
    world.make_cib(node, "n2")
    world.show({node: 0, "n2": 1})
    assert repr(node) in one_error(world.add("--yes"))
    assert world.device() is None


def test_long_node(world: World) -> None:
    node = "n" * OPTIONS_MAX
    world.make_cib(node, "n2")
    assert world.add("--yes", "--map", f"{node}:spare").exit == 0
    assert (world.device() or {})["pcmk_host_map"] == f"{node}:spare;n2:n2"


def test_no_shell_ever_sees_a_value(world: World) -> None:
    folder = world.folder / "$(id>ran);'\"=:&|`id>ran`"
    folder.mkdir()
    world.key = world.key.rename(folder / "key")
    assert world.add("--yes").exit == 0
    assert (world.device() or {})["key_file"] == str(world.key)
    assert not list(Path.cwd().glob("ran"))


@pytest.mark.parametrize(
    "words",
    [
        ["--map", "n1:a b", "--offline", "--map", "n2:b"],
        ["--map", "n1"],
        ["--map", "n7:spare"],
        ["--node", "n7"],
        ["--option", "x"],
        ["--option", "port=a"],
        ["--option", "pcmk_bogus=1"],
        ["--option", "ipport=1"],
        ["--pcmk-host-check", "bogus"],
        ["--hash", "md5"],
        ["--multicast-address", "225.0.0.9"],
        ["--timeout", "90", "--pcmk-off-timeout", "20"],
        ["--monitor-timeout", "5"],
    ],
)
def test_refused(world: World, words: list[str]) -> None:
    before = world.file.read_bytes()
    done = world.add("--yes", *words)
    assert done.exit in (1, 2)
    assert one_error(done, done.exit)
    assert world.file.read_bytes() == before


def test_every_option_can_be_given(world: World) -> None:
    text = run_client([world.vmfence, "cluster", "add-device", "--help"]).stdout
    names = {option.name for option in OPTIONS if option.name not in ("plug", "port", "domain", "action")}
    assert not [name for name in names | set(PCMK) if f"--{name.replace('_', '-')} " not in text]


# What fails on the way


def test_host_that_does_not_answer(world: World) -> None:
    world.key.write_bytes(b"other" * 20)
    assert one_error(world.add("--yes"), world.add("--yes").exit)
    assert world.device() is None


def test_offline_trusts_the_map(world: World) -> None:
    words = ["add-device", "f", "--agent", "fence_xvm", "--offline", "--yes", "--map", f"n1:{UUIDS[3]}"]
    assert "no guest fits node 'n2'" in one_error(world.run(*words))
    assert world.run(*words, "--map", "n2:b").exit == 0
    assert (world.device() or {})["pcmk_host_map"] == f"n1:{UUIDS[3]};n2:b"


def test_file_without_nodes(world: World) -> None:
    world.make_cib()
    assert "the CIB has no node" in one_error(world.add("--yes"))
    assert world.add("--yes", "--map", "n1:lab-n1").exit == 0


@pytest.mark.parametrize("content", ["", "<cib/>", "not XML", "<cib><configuration/>"])
def test_broken_file(world: World, content: str) -> None:
    world.file.write_text(content)
    for command in (["add-device", "f"], ["map"], ["remove-device", "f"]):
        assert f"cannot read the CIB in {world.file}" in one_error(world.run(*command))
    assert world.file.read_text() == content


def test_file_that_is_not_there_is_not_made(world: World) -> None:
    world.file.unlink()
    assert one_error(world.run("add-device", "f", "--yes"))
    assert not world.file.exists()


def test_pcs_fails_in_the_middle(world: World) -> None:
    world.stand_in("pcs", 'case "$*" in *create*) echo Error: no room >&2; exit 1;; esac; exec $REAL "$@"')
    error = one_error(world.add("--yes", "--timeout", "90"))
    assert "could not create the device f. pcs failed with exit code 1. Error: no room" in error
    assert "done before: raise the cluster's timeout" in error
    assert "The CIB shows now: there is no device f" in error
    assert world.device() is None
    assert 'value="100s"' in world.file.read_text()


def test_json_tells_what_was_changed_when_it_fails(world: World) -> None:
    world.stand_in("pcs", 'case "$*" in *create*) echo Error: no room >&2; exit 1;; esac; exec $REAL "$@"')
    done = world.add("--yes", "--json")
    assert "could not create the device f" in one_error(done)
    found = json.loads(done.stdout)
    assert (found["changed"], "no room" in found["error"]) == (False, True)
    found = json.loads(world.add("--yes", "--json", "--timeout", "90").stdout)
    assert (found["changed"], found["started"]) == (True, None)


def test_ctrl_c_tells_what_is_there_now(world: World) -> None:
    """pcs has done it, and hangs before it says so."""
    hole = world.folder / "hole"
    os.mkfifo(hole)
    world.stand_in("pcs", f'case "$*" in *create*) $REAL "$@"; cat {hole};; *) exec $REAL "$@";; esac')
    words = ["f", "--agent", "fence_virt", "--machine-uuid", "", *world.path_to_host, "--yes"]
    path = f"PATH={world.tools}:{SYSTEM_PATH}"
    with Terminal(["env", path, *world.argv("add-device", *words)]) as terminal:
        terminal.expect("create the device f")
        with open(hole, "w"):  # until pcs reads
            terminal.type("\x03")
            code, told = terminal.end()
    assert code == 1
    assert "The CIB shows all as wanted all the same" in told
    assert "error: interrupted" in told
    assert world.device() is not None


def test_pcs_that_lies_is_not_believed(world: World) -> None:
    world.stand_in("pcs", 'case "$*" in *create*) exit 0;; esac; exec $REAL "$@"')
    assert "has not taken the device f as planned. there is no device f" in one_error(world.add("--yes"))


def test_pcs_that_only_warns_has_succeeded(world: World) -> None:
    world.stand_in("pcs", '$REAL "$@"; code=$?; echo Warning: Error: all is lost >&2; exit $code')
    assert world.add("--yes").exit == 0


def test_agent_that_pacemaker_does_not_find(world: World) -> None:
    world.stand_in("stonith_admin", '$REAL "$@" | grep -v fence_virt')
    assert "the agent fence_virt is not installed" in one_error(world.add("--yes"))
    assert world.device() is None
    dry = world.add("--dry-run")
    assert dry.exit == 0
    assert "warning: the agent fence_virt is not installed" in dry.stderr


def test_no_cluster_is_running(world: World) -> None:
    for words in (["add-device", "--offline", "--map", "n1:a"], ["map"], ["remove-device", "f"]):
        done = run_client([world.vmfence, "cluster", *words])
        assert "no cluster is running on this node" in one_error(done, 4)


# map


def test_map(world: World) -> None:
    world.add("--yes")
    done = world.run("map")
    assert done.exit == 0, done
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["NODE", "GUEST", "UUID", "STATE", "DEVICE", "PROBLEM"],
        ["n1", "lab-n1", UUIDS[0], "running", "f", "(map)"],
        ["n2", "n2", UUIDS[1], "running", "f", "(map)"],
    ]


def test_map_shows_what_is_wrong(world: World) -> None:
    world.add("--yes", "--map", "n1:spare")
    world.show({"n2": 1})
    done = world.run("map", "--json")
    assert done.exit == 1
    first, second = json.loads(done.stdout)
    assert (first["port"], first["guest"], first["problem"]) == ("spare", None, "the host shows no such guest")
    assert (second["guest"], second["problem"]) == ("n2", None)


def test_map_shows_a_node_that_is_mapped_twice(world: World) -> None:
    world.add("--yes")
    text = world.file.read_text()
    world.file.write_text(text.replace("n1:lab-n1;n2:n2", "n1:spare;n2:n2;n1:lab-n1"))
    done = world.run("map")
    assert done.exit == 1
    assert "the map names it 2 times, and only the last one counts" in done.stdout


def test_guest_that_is_called_like_another_node_is_fenced_by_its_uuid(world: World) -> None:
    world.show({"n2": 0, "lab-n2": 1})
    assert world.add("--yes", "--node", "n1", "--map", "n1:n2").exit == 0
    assert (world.device() or {})["pcmk_host_map"] == f"n1:{UUIDS[0]}"


def test_map_without_devices(world: World) -> None:
    done = world.run("map")
    assert done.exit == 1
    assert done.stdout.count("no device names it") == 2


# remove-device


def test_last_device_stays_unless_forced(world: World) -> None:
    world.add("--yes")
    done = world.run("remove-device", "f", "--yes")
    assert "nothing else would fence 'n1', 'n2'" in one_error(done)
    assert world.device() is not None
    assert world.run("remove-device", "f", "--yes", "--force", "--dry-run").exit == 0
    assert world.device() is not None
    done = world.run("remove-device", "f", "--yes", "--force")
    assert done.exit == 0, done
    assert "left without fencing: n1, n2" in done.stdout
    assert world.device() is None


def test_device_that_is_not_the_last(world: World) -> None:
    world.add("--yes")
    world.run("add-device", "g", "--agent", "fence_xvm", "--offline", "--yes", "--map", "n1:a", "--map", "n2:b")
    assert "--yes" in one_error(world.run("remove-device", "g"), 2)
    done = world.run("remove-device", "g", "--yes", "--json")
    assert done.exit == 0, done
    assert json.loads(done.stdout)["removed"] is True
    assert world.device("g") is None
    assert world.device("f") is not None


def test_remove_what_is_not_there(world: World) -> None:
    error = one_error(world.run("remove-device", "x", "--yes"), 2)
    assert "there is no device 'x'. the cluster has none at all" in error


@pytest.mark.parametrize("pair", ["n9:spare", "n1:nosuch"])
def test_a_name_that_is_not_there_is_a_usage_error(pair: str, world: World) -> None:
    assert "mend --map" in one_error(world.add("--yes", "--map", pair), 2)


def test_a_name_that_is_not_there_decides_the_exit_code(world: World) -> None:
    """What else cannot be mapped is told before it, and may follow from it."""
    done = world.add("--yes", "--map", "n9:spare", "--map", "n1:spare", "--map", "n2:spare")
    assert done.exit == 2
    *others, last = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert others and "names 'n9'" in last


def test_removal_that_pcs_only_claims(world: World) -> None:
    world.add("--yes")
    world.stand_in("pcs", 'case "$*" in *delete*) exit 0;; esac; exec $REAL "$@"')
    assert "the device f is still there" in one_error(world.run("remove-device", "f", "--yes", "--force"))
