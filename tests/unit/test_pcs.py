"""pcs: exact argument lists by version, and an exit status that decides alone."""

from __future__ import annotations

import os
from collections.abc import Mapping

import pytest

from vmfence.cluster.cib import Operation
from vmfence.cluster.pcs import Pcs
from vmfence.errors import CommandError, DeadlineExceeded, ToolMissing, VmfenceError
from vmfence.findings import command_line
from vmfence.proc import Result

V09, V010_OLD, V010, V011, V012 = (0, 9, 169), (0, 10, 1), (0, 10, 18), (0, 11, 5), (0, 12, 3)
ALL = (V09, V010_OLD, V010, V011, V012)
MAP = "n1:lab 1;n2:it's"
MONITOR = Operation("monitor", "60s", "30s")


class Program:
    """Stands for the program pcs: ends as told, and keeps the command lines."""

    def __init__(self, status: int = 0, stdout: str = "", stderr: str = "", error: Exception | None = None) -> None:
        self.status, self.stdout, self.stderr, self.error = status, stdout, stderr, error
        self.seen: list[list[str]] = []

    def __call__(self, argv: list[str], timeout_s: float, environment: Mapping[str, str]) -> Result:
        assert timeout_s > 0
        assert "/usr/sbin" in environment["PATH"].split(os.pathsep)
        self.seen.append(argv)
        if self.error is not None:
            raise self.error
        return Result(tuple(argv), self.status, self.stdout, self.stderr)


@pytest.mark.parametrize("version", ALL)
def test_create(version: tuple[int, ...]) -> None:
    argv = Pcs(version).create_stonith("f", "fence_xvm", {"pcmk_host_map": MAP, "timeout": "9"}, [MONITOR], {"a": "b"})
    assert argv == [
        *("pcs", "stonith", "create", "f", "fence_xvm", f"pcmk_host_map={MAP}", "timeout=9"),
        *("op", "monitor", "interval=60s", "timeout=30s", "meta", "a=b"),
    ]


@pytest.mark.parametrize("version", ALL)
def test_create_the_least(version: tuple[int, ...]) -> None:
    assert Pcs(version).create_stonith("f", "fence_xvm", {}) == ["pcs", "stonith", "create", "f", "fence_xvm"]


@pytest.mark.parametrize("version", ALL)
def test_update(version: tuple[int, ...]) -> None:
    argv = Pcs(version).update_stonith("f", {"timeout": "", "hash": "sha1"}, [Operation("monitor", "60s")])
    assert argv == ["pcs", "stonith", "update", "f", "timeout=", "hash=sha1", "op", "monitor", "interval=60s"]


@pytest.mark.parametrize("version", ALL)
def test_delete(version: tuple[int, ...]) -> None:
    pcs = Pcs(version)
    assert pcs.delete_stonith("f") == ["pcs", "stonith", "delete", "f"]
    assert pcs.delete_stonith("f", force=True) == ["pcs", "stonith", "delete", "f", "--force"]


@pytest.mark.parametrize("version", ALL)
def test_fence(version: tuple[int, ...]) -> None:
    pcs = Pcs(version)
    assert pcs.fence("n1") == ["pcs", "stonith", "fence", "n1"]
    assert pcs.fence("n1", off=True) == ["pcs", "stonith", "fence", "n1", "--off"]


@pytest.mark.parametrize("version", ALL)
def test_property_set(version: tuple[int, ...]) -> None:
    argv = Pcs(version).property_set({"stonith-enabled": "true", "stonith-timeout": ""})
    assert argv == ["pcs", "property", "set", "stonith-enabled=true", "stonith-timeout="]


@pytest.mark.parametrize("version", ALL)
def test_on_a_file(version: tuple[int, ...]) -> None:
    pcs = Pcs(version, "/tmp/a cib.xml")
    assert pcs.delete_stonith("f") == ["pcs", "-f", "/tmp/a cib.xml", "stonith", "delete", "f"]


@pytest.mark.parametrize("version", [(0, 10, 8), V010, V011, V012])
def test_words_that_look_like_options_are_set_apart(version: tuple[int, ...]) -> None:
    argv = Pcs(version, "-x").fence("--all", off=True)
    assert argv == ["pcs", "-f", "-x", "--off", "--", "stonith", "fence", "--all"]


@pytest.mark.parametrize("version", [V09, V010_OLD])
def test_old_pcs_would_drop_them(version: tuple[int, ...]) -> None:
    with pytest.raises(VmfenceError, match="cannot be given '--all'"):
        Pcs(version).fence("--all")


@pytest.mark.parametrize("value", ["a\nb", "a\0b"])
def test_what_no_argument_can_hold(value: str) -> None:
    with pytest.raises(VmfenceError, match="cannot pass"):
        Pcs(V011).create_stonith("f", "fence_xvm", {"key_file": value})


def test_line_to_paste() -> None:
    assert command_line(["pcs", f"pcmk_host_map={MAP}"]) == """pcs 'pcmk_host_map=n1:lab 1;n2:it'"'"'s'"""


@pytest.mark.parametrize(
    ("text", "version"),
    [("0.11.5\n", V011), ("0.9.169\n", V09), ("0.12.3+4-abcd\n", V012), ("Warning: old\n0.10.18\n", V010)],
)
def test_detection(text: str, version: tuple[int, ...]) -> None:
    program = Program(stdout=text)
    assert Pcs.detect("file", program).version == version
    assert program.seen == [["pcs", "--version"]]


@pytest.mark.parametrize(("text", "words"), [("", "cannot tell"), ("newest", "cannot tell"), ("0.8.4", "too old")])
def test_unknown_version(text: str, words: str) -> None:
    with pytest.raises(VmfenceError, match=words):
        Pcs.detect(run=Program(stdout=text))


def test_not_installed() -> None:
    with pytest.raises(ToolMissing, match="cannot run pcs") as caught:
        Pcs.detect(run=Program(error=ToolMissing("pcs", "no such file")))
    assert caught.value.exit_code == 4


def test_no_answer() -> None:
    with pytest.raises(DeadlineExceeded):
        Pcs(V011, run=Program(error=DeadlineExceeded("pcs did not end within 180 s"))).run(["pcs", "stonith"])


def test_a_warning_is_no_failure() -> None:
    result = Pcs(V011, run=Program(stderr="Warning: Error: all is lost\n")).run(["pcs", "stonith"])
    assert result.status == 0


def test_failure_shows_what_pcs_says_of_errors() -> None:
    stderr = "Warning: old\nDeprecation Warning: older\nError: first\nError: second\n"
    with pytest.raises(CommandError) as caught:
        Pcs(V011, "file", Program(1, "", stderr)).run(["pcs", "stonith"])
    assert str(caught.value) == "pcs failed with exit code 1. Error: first; Error: second."
    assert (caught.value.status, caught.value.exit_code) == (1, 1)


def test_usage_of_old_versions_stands_on_stdout() -> None:
    with pytest.raises(CommandError, match="Usage: pcs stonith"):
        Pcs(V09, run=Program(1, "\nUsage: pcs stonith...\n")).run(["pcs", "stonith"])


@pytest.mark.parametrize(("user", "has_remedy"), [(1000, True), (0, False)])
def test_who_may_change_the_cluster(user: int, has_remedy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    with pytest.raises(CommandError) as caught:
        Pcs(V011, run=Program(1, "", "Error: unable to get cib\n")).run(["pcs", "stonith"])
    assert ("run it as root" in str(caught.value)) is has_remedy
