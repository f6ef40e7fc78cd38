"""vmfence cluster devices, agents, describe and properties, with the real tools of Pacemaker and pcs; no cluster."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from lab.cluster import missing
from lab.ours import CommandLine
from lab.process import Result

SAMPLE = Path(__file__).parents[1] / "samples" / "pacemaker-2.1.5" / "cib.xml"
pytestmark = pytest.mark.skipif(bool(missing()), reason=f"needs {', '.join(missing())}")


@pytest.fixture
def cib(tmp_path: Path) -> Path:
    shutil.copy(SAMPLE, tmp_path / "cib.xml")
    return tmp_path / "cib.xml"


def cluster(vmfence: CommandLine, *words: str | Path) -> Result:
    return vmfence.run("cluster", *map(str, words))


def done(vmfence: CommandLine, *words: str | Path) -> str:
    result = cluster(vmfence, *words)
    assert result.exit == 0, result.stderr
    return result.stdout


def refused(vmfence: CommandLine, code: int, *words: str | Path) -> str:
    """Return the one line that tells why."""
    result = cluster(vmfence, *words)
    assert result.exit == code, result
    assert "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    return line


def in_force(vmfence: CommandLine, cib: Path) -> dict[str, str]:
    shown = json.loads(done(vmfence, "properties", "--json", "--cib", cib))
    return {one["name"]: one["value"] for one in shown if one["is_set"]}


def test_devices_of_a_file(vmfence: CommandLine, cib: Path) -> None:
    head, line = done(vmfence, "devices", "--cib", cib).splitlines()
    assert head.split() == ["DEVICE", "AGENT", "STATE", "ON", "FENCES"]
    assert line.split() == ["xvm", "fence_xvm", "configured", "cn1", "as", "cn-01,", "cn2", "as", "cn-02"]
    (shown,) = json.loads(done(vmfence, "devices", "--json", "--cib", cib))
    assert shown["fences"] == {"cn1": "cn-01", "cn2": "cn-02"}
    assert shown["operations"] == [{"name": "monitor", "interval": "60s", "timeout": ""}]


def test_devices_that_are_odd(vmfence: CommandLine, cib: Path) -> None:
    text = cib.read_text()
    secret = '<nvpair id="p" name="password" value="hunter2"/><nvpair id="q" name="x" value="&#10;&#x85;"/>'
    text = text.replace("cn1:cn-01;cn2:cn-02", "nonsense").replace(
        "</instance_attributes>", f"{secret}</instance_attributes>", 1
    )
    stopped = '<meta_attributes id="m"><nvpair id="n" name="target-role" value="Stopped"/></meta_attributes>'
    cib.write_text(text.replace("<operations>", f"{stopped}<operations>"))
    result = cluster(vmfence, "devices", "--cib", cib)
    assert "xvm     fence_xvm  disabled      what its agent lists" in result.stdout
    assert "warning: xvm: 'nonsense' is no pair of node and port" in result.stderr
    as_json = done(vmfence, "devices", "--json", "--cib", cib)
    assert "hunter2" not in as_json and json.loads(as_json)[0]["options"]["x"] == "\n\x85"


def test_no_device(vmfence: CommandLine, cib: Path) -> None:
    before, _, rest = cib.read_text().partition("<primitive")
    cib.write_text(before + rest.partition("</primitive>")[2])
    assert "nothing can be fenced" in done(vmfence, "devices", "--cib", cib)


def test_agents_and_what_they_say(vmfence: CommandLine) -> None:
    names = done(vmfence, "agents").splitlines()
    assert "fence_xvm" in names
    assert json.loads(done(vmfence, "agents", "--json")) == names
    lines = done(vmfence, "describe", "fence_xvm").splitlines()
    assert lines[0] == "fence_xvm: Fence agent for virtual machines"
    assert any(line.split()[:3] == ["ipport", "string", "1229"] for line in lines)
    assert any(line.startswith("port ") and line.endswith("[deprecated]") for line in lines)
    assert lines[-1].startswith("actions: ")
    assert json.loads(done(vmfence, "describe", "fence_xvm", "--json"))["parameters"][0]["name"] == "debug"


@pytest.mark.parametrize("agent", ["fence_nosuch", "../../etc/passwd", "a b'\";$(x)", "x" * 300, "a\nb"])
def test_an_agent_that_there_is_not(vmfence: CommandLine, agent: str) -> None:
    assert "no usable fence agent" in refused(vmfence, 2, "describe", "--", agent)


def test_properties_of_a_file(vmfence: CommandLine, cib: Path) -> None:
    lines = done(vmfence, "properties", "--cib", cib).splitlines()
    assert [line.split()[:2] for line in lines if line.startswith("stonith-enabled")] == [["stonith-enabled", "true"]]
    assert [line.split()[:3] for line in lines if line.startswith("stonith-timeout")] == [
        ["stonith-timeout", "60s", "default"]
    ]
    assert lines[-1].startswith("advice: priority-fencing-delay: two nodes")


def test_set_and_take_away(vmfence: CommandLine, cib: Path) -> None:
    pairs = ("fencing-timeout=90s", "priority-fencing-delay=15s")
    out = done(vmfence, "properties", "set", *pairs, "--cib", cib, "--yes")
    assert "stonith-timeout: 60s (in force) -> 90s" in out
    assert f"pcs -f {cib} property set stonith-timeout=90s priority-fencing-delay=15s" in out
    assert out.endswith("Set, and read back.\n")
    found = in_force(vmfence, cib)
    assert (found["stonith-timeout"], found["priority-fencing-delay"]) == ("90s", "15s")
    again = done(vmfence, "properties", "set", *pairs, "--cib", cib, "--yes")
    assert again == "Nothing to change: all is set so already.\n"
    shown = json.loads(done(vmfence, "properties", "set", "stonith-timeout=", "--cib", cib, "--yes", "--json"))
    assert (shown["changes"], shown["is_changed"]) == ({"stonith-timeout": ""}, True)
    assert "stonith-timeout" not in in_force(vmfence, cib)


def test_what_the_other_name_holds_is_taken_away_too(vmfence: CommandLine, cib: Path) -> None:
    other = '<nvpair id="other" name="fencing-timeout" value="5s"/></cluster_property_set>'
    cib.write_text(cib.read_text().replace("</cluster_property_set>", other))
    assert "fencing-timeout is set, but this Pacemaker knows only" in done(vmfence, "properties", "--cib", cib)
    done(vmfence, "properties", "set", "stonith-timeout=90s", "--cib", cib, "--yes")
    assert 'name="fencing-timeout"' not in cib.read_text()


def test_nothing_is_changed_without_a_yes(vmfence: CommandLine, cib: Path) -> None:
    before = cib.read_bytes()
    words = ("properties", "set", "stonith-enabled=false", "--cib", cib)
    assert "--yes" in refused(vmfence, 2, *words)
    result = cluster(vmfence, *words, "--dry-run")
    assert (result.exit, "stonith-enabled: true -> false" in result.stdout) == (0, True)
    assert "warning: stonith-enabled: set it to true" in result.stderr
    assert cib.read_bytes() == before


@pytest.mark.parametrize(
    ("pair", "code", "why"),
    [
        ("stonith-enabled", 2, "give NAME=VALUE"),
        ("=1", 2, "give NAME=VALUE"),
        ("stonith-enabled=maybe", 2, "give true or false"),
        ("stonith-timeout=1;reboot", 2, "give a time"),
        ("batch-limit=3", 2, "no property that matters to fencing"),
        ("have-watchdog=true", 2, "the cluster sets it itself"),
        ("stonith-watchdog-timeout=10s", 1, "SBD is disabled"),
    ],
)
def test_what_is_not_set(vmfence: CommandLine, cib: Path, pair: str, code: int, why: str) -> None:
    before = in_force(vmfence, cib)
    assert why in refused(vmfence, code, "properties", "set", pair, "--cib", cib, "--yes")
    assert in_force(vmfence, cib) == before


def test_a_failure_of_pcs_tells_that_nothing_was_changed(vmfence: CommandLine, cib: Path) -> None:
    words = ("properties", "set", "stonith-timeout=90s", "stonith-watchdog-timeout=10s", "--cib", cib, "--yes")
    assert "nothing was changed" in refused(vmfence, 1, *words)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, others are told that they may not ask")
@pytest.mark.parametrize("words", [("devices",), ("history",), ("properties",), ("history", "n1", "--json")])
def test_no_cluster_is_told_as_such(vmfence: CommandLine, words: tuple[str, ...]) -> None:
    assert "pcs cluster start" in refused(vmfence, 4, *words)


def test_an_error_never_drives_the_terminal(vmfence: CommandLine, tmp_path: Path) -> None:
    assert r"x\x1b[31m\nerror: y" in refused(vmfence, 1, "devices", "--cib", tmp_path / "x\x1b[31m\nerror: y")


@pytest.mark.parametrize("content", [None, "", "nonsense", "<cib/>"])
def test_no_cib_file(vmfence: CommandLine, tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "a 'b'.xml"
    if content is not None:
        path.write_text(content)
    for words in (("devices",), ("properties",), ("properties", "set", "stonith-timeout=90s", "--yes")):
        assert "cannot read the CIB" in refused(vmfence, 1, *words, "--cib", path)
    assert path.exists() == (content is not None)
