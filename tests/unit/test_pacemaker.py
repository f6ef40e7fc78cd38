"""Pacemaker's tools as they are called, and what each way to fail becomes.  Answers: tests/samples."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable

import pytest

from vmfence import proc
from vmfence.cluster.pacemaker import Pacemaker
from vmfence.errors import ClusterUnreachable, CommandError, DeadlineExceeded, NotPermitted, ToolMissing, VmfenceError
from vmfence.proc import Result

SAMPLES = Path(__file__).parents[1] / "samples" / "pacemaker-2.1.5"
VERSION = "Pacemaker {}\nWritten by Andrew Beekhof\n"


class Tools:
    """Stands for the programs: answers by the words of the command line, records what it was asked."""

    def __init__(self, version: str, **answers: Result | str | VmfenceError) -> None:
        self.version, self.answers = version, answers
        self.calls: list[tuple[list[str], float, dict[str, str]]] = []

    def __call__(self, argv: list[str], timeout_s: float, environment: Mapping[str, str] | None) -> Result:
        self.calls.append((argv, timeout_s, dict(environment or {})))
        if argv[1] == "--version":
            return Result(tuple(argv), 0, VERSION.format(self.version), "")
        answer = self.answers[argv[0]]
        if isinstance(answer, VmfenceError):
            raise answer
        return Result(tuple(argv), 0, answer, "") if isinstance(answer, str) else answer

    @property
    def last(self) -> list[str]:
        return self.calls[-1][0]


def asking(version: str = "2.1.5", **answers: Any) -> tuple[Pacemaker, Tools]:
    tools = Tools(version, **answers)
    return Pacemaker(run=tools), tools


def failed(status: int, stdout: str = "", stderr: str = "") -> Result:
    return Result(("stonith_admin", "-x"), status, stdout, stderr)


def sample(name: str) -> str:
    return (SAMPLES / name).read_text()


@pytest.mark.parametrize(
    ("shown", "version"), [("2.1.5", (2, 1, 5)), ("1.1.23-1.el7_9.1", (1, 1, 23)), ("3.0.2-rc1", (3, 0, 2))]
)
def test_the_version_is_asked_once(shown: str, version: tuple[int, ...]) -> None:
    pacemaker, tools = asking(shown)
    assert (pacemaker.version(), pacemaker.version()) == (version, version)
    assert len(tools.calls) == 1


def test_what_is_no_version() -> None:
    with pytest.raises(VmfenceError, match="cannot tell the version"):
        asking("unknown")[0].version()


@pytest.mark.parametrize(
    ("call", "program", "words"),
    [
        (Pacemaker.load_cib, "cibadmin", ["--query"]),
        (Pacemaker.node_name, "crm_node", ["--name"]),
        (Pacemaker.load_status, "crm_mon", ["-1", "--inactive", "--output-as=xml"]),
        (Pacemaker.installed_agents, "stonith_admin", ["--list-installed", "--output-as=xml"]),
        (Pacemaker.registered_devices, "stonith_admin", ["--list-registered", "--output-as=xml"]),
        (lambda it: it.devices_for("-n"), "stonith_admin", ["--list=-n", "--output-as=xml"]),
        (lambda it: it.agent_metadata("-a"), "stonith_admin", ["--metadata", "--agent=-a", "--output-as=xml"]),
        (Pacemaker.fencing_history, "stonith_admin", ["--history=*", "--verbose", "--output-as=xml"]),
        (lambda it: it.fencing_history("n1"), "stonith_admin", ["--history=n1", "--verbose", "--output-as=xml"]),
    ],
)
def test_each_question_is_one_program_with_a_deadline(
    call: Callable[[Pacemaker], object], program: str, words: list[str]
) -> None:
    pacemaker, tools = asking(**{program: DeadlineExceeded(f"{program} did not end")})
    with pytest.raises(DeadlineExceeded):
        call(pacemaker)
    assert tools.last == [program, *words]
    assert 0 < tools.calls[-1][1] <= 30
    assert "/usr/sbin" in tools.calls[-1][2]["PATH"].split(os.pathsep)


def test_answers_in_xml() -> None:
    assert asking(cibadmin=sample("cib.xml"))[0].load_cib().devices[0].id == "xvm"
    assert asking(crm_mon=sample("crm_mon-started.xml"))[0].load_status().dc == "cn2"
    assert asking(crm_node="cn1\n")[0].node_name() == "cn1"
    assert asking(stonith_admin=sample("devices-for-cn2.xml"))[0].devices_for("cn2") == ("xvm",)
    assert asking(stonith_admin=sample("devices-for-nobody.xml"))[0].devices_for("nosuch") == ()
    assert "fence_xvm" in asking(stonith_admin=sample("installed.xml"))[0].installed_agents()
    assert asking(stonith_admin=sample("metadata.xml"))[0].agent_metadata("fence_xvm").name == "fence_xvm"
    assert len(asking(stonith_admin=sample("history.xml"))[0].fencing_history()) == 9


def test_answers_of_1_1_are_text_but_for_crm_mon() -> None:
    def old(**answers: str) -> tuple[Pacemaker, Tools]:
        return asking("1.1.23", **answers)

    assert old(stonith_admin=" xvm\n")[0].registered_devices() == ("xvm",)
    assert len(old(stonith_admin=sample("history.txt"))[0].fencing_history()) == 9
    assert old(stonith_admin=sample("metadata.txt"))[0].agent_metadata("fence_xvm").name == "fence_xvm"
    pacemaker, tools = old(crm_mon='<crm_mon version="1.1.23"><summary/><nodes/></crm_mon>')
    assert pacemaker.load_status().nodes == ()
    assert tools.last == ["crm_mon", "-1", "--inactive", "--as-xml"]


def test_properties_are_listed_since_2_1_8() -> None:
    listed = (
        '<pacemaker-result><parameter name="fencing-enabled"/><parameter name="stonith-enabled"/></pacemaker-result>'
    )
    assert asking("2.1.7")[0].option_names() is None
    pacemaker, tools = asking("3.0.2", crm_attribute=listed)
    assert pacemaker.option_names() == frozenset(("fencing-enabled", "stonith-enabled"))
    assert tools.last == ["crm_attribute", "--list-options=cluster", "--all", "--output-as=xml"]


@pytest.mark.parametrize(
    ("result", "error", "words"),
    [
        (failed(102, sample("fencer-not-running.xml")), ClusterUnreachable, "pcs cluster start"),
        (failed(102, sample("crm_mon-not-running.xml")), ClusterUnreachable, "Connection refused"),
        (failed(102, "", sample("cibadmin-not-running.stderr")), ClusterUnreachable, "no cluster is running"),
        (failed(107, "", "Signon failed: Transport endpoint is not connected"), ClusterUnreachable, "Signon failed"),
        (failed(102), ClusterUnreachable, "it does not say why"),
        (failed(4, "", "insufficient privileges"), NotPermitted, "run this as root"),
        (failed(13, "", "Permission denied"), NotPermitted, "run this as root"),
        (failed(124, "", "Timer expired"), CommandError, "stonith_admin failed with exit code 124. Timer expired"),
        (failed(1, "<broken", "words"), CommandError, "words"),
        (failed(78, '<r><status code="78" message="Invalid configuration"/></r>'), CommandError, "Invalid config"),
        (failed(-9), CommandError, "was ended by signal 9"),
    ],
)
def test_each_way_to_fail_says_what_and_why(
    monkeypatch: pytest.MonkeyPatch, result: Result, error: type[VmfenceError], words: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(VmfenceError) as caught:
        asking(stonith_admin=result)[0].registered_devices()
    assert type(caught.value) is error
    assert words in str(caught.value)


def test_who_may_not_ask_is_not_told_that_there_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    monkeypatch.setattr(os, "getegid", lambda: 65534)
    monkeypatch.setattr(os, "getgroups", lambda: [])
    with pytest.raises(NotPermitted, match="only root and the group haclient may ask it, if it runs") as silent:
        asking(stonith_admin=failed(102))[0].registered_devices()
    with pytest.raises(NotPermitted) as refused:
        asking(stonith_admin=failed(4, "", "insufficient privileges"))[0].registered_devices()
    assert silent.value.what == refused.value.what == "this user may not ask the cluster"


def test_a_failed_command_keeps_what_it_said_and_shows_the_end_of_it() -> None:
    said = "".join(f"line {number}\n" for number in range(20))
    with pytest.raises(CommandError) as caught:
        asking(cibadmin=Result(("cibadmin", "--query"), 1, "", said))[0].load_cib()
    error = caught.value
    assert (error.argv, error.status, error.stderr) == (("cibadmin", "--query"), 1, said)
    assert "line 19" in str(error) and "line 10" not in str(error)


def test_an_agent_that_is_not_there() -> None:
    for version, answer in (("2.1.5", failed(105, sample("metadata-no-agent.xml"))), ("1.1.23", "(null)\n")):
        with pytest.raises(VmfenceError, match="no usable fence agent 'fence_nosuch'"):
            asking(version, stonith_admin=answer)[0].agent_metadata("fence_nosuch")


def test_pacemaker_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proc, "system_path", lambda: str(tmp_path))
    with pytest.raises(ToolMissing, match="stonith_admin") as caught:
        Pacemaker().version()
    assert caught.value.exit_code == 4 and "install pacemaker" in caught.value.remedy


def test_a_cib_file_is_read_without_any_program(tmp_path: Path) -> None:
    tools = Tools("2.1.5", crm_mon=sample("crm_mon-started.xml"))
    pacemaker = Pacemaker(str(SAMPLES / "cib.xml"), run=tools)
    assert pacemaker.load_cib().nodes[0].name == "cn1"
    assert tools.calls == []
    assert pacemaker.node_name() == os.uname().nodename
    pacemaker.load_status()
    assert tools.calls[-1][2]["CIB_file"] == str(SAMPLES / "cib.xml")


def test_what_is_no_cib_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "empty").touch()
    for name, why in ((".", "directory"), ("pipe", "not a regular file"), ("none", "No such file"), ("empty", "XML")):
        with pytest.raises(VmfenceError) as caught:
            Pacemaker(str(tmp_path / name)).load_cib()
        assert why in str(caught.value)


def test_a_program_gets_the_words_as_they_are_and_what_is_added_to_its_environment() -> None:
    script = 'import os, sys; print(sys.argv[1], os.environ["CIB_file"], "LC_ALL" in os.environ)'
    done = proc.run(["python3", "-c", script, "a;b '$(c)"], 10, {"CIB_file": "f g"})
    assert done.stdout == "a;b '$(c) f g True\n"


def test_a_program_that_may_not_be_run(tmp_path: Path) -> None:
    (tmp_path / "tool").write_text("#!/bin/sh\n")
    with pytest.raises(NotPermitted, match="cannot run"):
        proc.run([str(tmp_path / "tool")], 10)
