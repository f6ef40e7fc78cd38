"""Gathering and judging, and what a check command writes of it."""

from __future__ import annotations

import contextlib
import contextvars
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable

import click
import pytest
from click.testing import CliRunner, Result

from lab.waiting import wait_until
from vmfence import diagnose, proc
from vmfence.cli import checking
from vmfence.cli.output import Progress
from vmfence.diagnose import Report, gather, judge
from vmfence.errors import (
    ConfigNotPermitted,
    DeadlineExceeded,
    KeyNotPermitted,
    NotPermitted,
    UsageError,
    VmfenceError,
)
from vmfence.findings import ERROR, NOTE, WARNING, Check, Fault, NotAsked, NotReached, Severity, unread


def raising(error: Exception) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


def check(code: str, *faults: Fault, needs: tuple[str, ...] = ()) -> Check:
    def rule(facts: Any) -> Iterator[Fault]:
        for need in needs:
            assert not isinstance(getattr(facts, need), Exception), "judged without its facts"
        yield from faults

    return Check(code, f"{code} is well", "A story.\n\nWith a second part.", rule, needs)


def test_gathered_are_values_and_errors() -> None:
    error = VmfenceError("cannot read it")
    assert gather({"good": lambda: 7, "bad": raising(error)}, 5) == {"good": 7, "bad": error}


def test_gatherers_run_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=5)
    found = gather({"one": both.wait, "other": both.wait}, 5)
    assert sorted(found.values()) == [0, 1]


def test_what_never_ends_is_an_error_and_the_rest_is_there() -> None:
    never = threading.Event()
    found = gather({"quick": lambda: 7, "stuck": never.wait}, 0.05)
    assert found["quick"] == 7
    assert isinstance(found["stuck"], DeadlineExceeded)
    assert "stuck" in str(found["stuck"])
    never.set()


def test_a_defect_is_not_a_finding() -> None:
    with pytest.raises(ZeroDivisionError):
        gather({"broken": lambda: 1 // 0}, 5)


def test_missing_facts_leave_a_check_unjudged_and_are_findings_themselves() -> None:
    error = VmfenceError("cannot read it", "the disk is gone", "buy one")
    facts = SimpleNamespace(disk=error, cpu=1)
    checks = [
        unread("disk-unread", "disk", "the disk can be read", ""),
        check("disk-full", needs=("cpu", "disk")),
        check("cpu-hot", needs=("cpu",)),
    ]
    report = judge(checks, facts)
    assert [(finding.code, finding.fault.message) for finding in report.findings] == [("disk-unread", "cannot read it")]
    assert [(one.check.code, one.missing) for one in report.outcomes if one.missing] == [("disk-full", error)]
    assert report.worst is ERROR


def test_what_was_not_asked_for_is_no_finding() -> None:
    facts = SimpleNamespace(disk=NotAsked("no disk was named"))
    report = judge([unread("disk-unread", "disk", "", ""), check("disk-full", needs=("disk",))], facts)
    assert report.findings == ()
    assert all(one.missing for one in report.outcomes)


def test_findings_come_worst_first() -> None:
    report = judge(
        [check("a", Fault(NOTE, "", "")), check("b", Fault(WARNING, "", ""), Fault(ERROR, "", ""))], SimpleNamespace()
    )
    assert [finding.fault.severity for finding in report.findings] == [ERROR, WARNING, NOTE]


@pytest.mark.parametrize(
    ("only", "skip", "left"),
    [((), (), "abc"), (("a",), (), "a"), (("b", "c"), ("c",), "b"), ((), ("a", "b"), "c")],
)
def test_only_and_skip(only: tuple[str, ...], skip: tuple[str, ...], left: str) -> None:
    report = judge([check(code) for code in "abc"], SimpleNamespace(), only, skip)
    assert "".join(one.check.code for one in report.outcomes) == left


# What is written

FAULT = Fault(ERROR, "n1", "it burns", "900 degrees", "pour 'water'")


def shown(report: Report, *, quiet: bool = False, as_json: bool = False) -> Result:
    @click.command()
    def command() -> None:
        checking.show(report, quiet, as_json)

    return CliRunner().invoke(command, color=True)


def report(*severities: Severity, gone: VmfenceError | None = None, only: tuple[str, ...] = ()) -> Report:
    faults = [Fault(severity, "n1", f"a {severity}", "seen", "do this") for severity in severities]
    missing = check("unknown", needs=("gone",))
    facts = SimpleNamespace(gone=gone or VmfenceError("no answer"))
    return judge([check("fine"), check("bad", *faults), missing], facts, only)


def test_one_line_for_each_check_and_the_remedy_below() -> None:
    text = click.unstyle(shown(report(ERROR)).output)
    assert text.splitlines() == [
        "ok       fine: fine is well",
        "error    bad: n1: a error",
        "         seen: seen",
        "         do: do this",
        "unknown  unknown: not judged, no answer",
        "3 checks: 1 error (bad), 0 warnings, 0 notes, 1 not judged",
    ]


def test_many_checks_with_one_reason_are_one_line_and_the_error_is_named_last() -> None:
    """On an empty machine: what the only error keeps from being judged does not hide it."""
    facts = SimpleNamespace(gone=NotReached("the configuration cannot be read"))
    found = judge([check("bad", FAULT), *(check(f"gone-{number}", needs=("gone",)) for number in range(27))], facts)
    lines = click.unstyle(shown(found).output).splitlines()
    assert len(lines) == 5 and lines[3] == "unknown  27 checks not judged: the configuration cannot be read"
    assert lines[4] == "28 checks: 1 error (bad), 0 warnings, 0 notes, 27 not judged"


def test_one_check_is_not_called_several() -> None:
    found = judge([check("fine")], SimpleNamespace())
    assert shown(found).output.splitlines()[-1] == "1 check: 0 errors, 0 warnings, 0 notes"


def test_quiet_shows_warnings_and_errors_alone() -> None:
    assert "a note" not in shown(report(NOTE), quiet=True).output
    assert click.unstyle(shown(report(WARNING), quiet=True).output).startswith("warning  bad")
    assert shown(report(gone=NotAsked("not wanted")), quiet=True).output == ""


def test_what_is_not_judged_is_no_success() -> None:
    """Unless it was left out on purpose; and the same whether the checks were named or not."""
    unknown, left_out = report(), report(gone=NotAsked("not wanted"))
    assert click.unstyle(shown(unknown, quiet=True).output) == "unknown  unknown: not judged, no answer\n"
    assert (checking.exit_code(unknown, False), checking.exit_code(unknown, True)) == (4, 4)
    assert (checking.exit_code(left_out, False), checking.exit_code(left_out, True)) == (0, 0)
    assert checking.exit_code(report(only=("unknown",)), False) == 4
    assert checking.exit_code(report(only=("fine",)), True) == 0


@pytest.mark.parametrize(
    "error",
    [NotPermitted("no"), KeyNotPermitted("no"), ConfigNotPermitted("/etc/vmfence.conf", 0, "no")],
    ids=lambda error: type(error).__name__,
)
def test_for_lack_of_rights_there_is_one_exit_code_and_no_fault(error: VmfenceError) -> None:
    """Neither an error nor well: somebody else can have it judged.  A real error comes first."""
    facts = SimpleNamespace(disk=error)
    checks = [unread("disk-unread", "disk", "the disk can be read", ""), check("disk-full", needs=("disk",))]
    found = judge(checks, facts)
    assert found.findings == () and len(found.unjudged) == 2
    assert [checking.exit_code(found, strict) for strict in (False, True)] == [3, 3]
    both = judge([*checks, check("gone", needs=("other",))], SimpleNamespace(disk=error, other=VmfenceError("no")))
    assert checking.exit_code(both, False) == 3
    assert checking.exit_code(judge([*checks, check("bad", FAULT)], facts), False) == 1


def test_a_gathering_that_failed_is_told_and_is_no_success() -> None:
    """One of little weight, as a UUID that containers lack, is left alone, and what no check needs is a warning."""
    error = DeadlineExceeded("nft did not end within 3 s")
    for severity, lenient, strict in ((ERROR, 4, 4), (WARNING, 4, 4), (NOTE, 0, 4)):
        checks = [unread("disk-unread", "disk", "", "", severity), check("disk-full", needs=("disk",))]
        found = judge(checks, SimpleNamespace(disk=error))
        assert [one.fault.message for one in found.findings] == ["nft did not end within 3 s"]
        assert (checking.exit_code(found, False), checking.exit_code(found, True)) == (lenient, strict)
        left_out = judge(checks, SimpleNamespace(disk=error), skip=["disk-unread"])
        assert checking.exit_code(left_out, False) == lenient
    alone = judge([unread("disk-unread", "disk", "", "", WARNING)], SimpleNamespace(disk=error))
    assert (checking.exit_code(alone, False), checking.exit_code(alone, True)) == (0, 4)


def test_foreign_text_does_not_reach_the_terminal() -> None:
    nasty = Fault(ERROR, "\x1b[31mn1", "line\nbreak", "\x07", "\x9b2J")
    text = shown(judge([check("bad", nasty)], SimpleNamespace())).output
    assert "\x1b[31mn1" not in text
    assert len(text.splitlines()) == 4
    assert not {"\x07", "\x9b"} & set(text)


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b" in shown(report(ERROR)).output
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in shown(report(ERROR)).output


def test_a_terminal_that_shows_text_alone_gets_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b" in during_progress()
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in shown(report(ERROR)).output
    assert "\x1b" not in during_progress()


def during_progress() -> str:
    written = io.StringIO()
    written.isatty = lambda: True  # type: ignore[method-assign]
    with contextlib.redirect_stderr(written), Progress() as progress:
        progress.show("looking")
    return written.getvalue()


def test_a_full_disk_is_said_to_be_one_of_the_output(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        with pytest.raises(VmfenceError, match="not all output could be written") as caught:
            checking.show(report(ERROR), False, False)
    assert caught.value.why == "No space left on device"


def test_json_holds_all() -> None:
    found = json.loads(shown(judge([check("bad", FAULT), check("fine")], SimpleNamespace()), as_json=True).output)
    assert found == {
        "findings": [
            {
                "code": "bad",
                "severity": "error",
                "subject": "n1",
                "message": "it burns",
                "evidence": "900 degrees",
                "remedy": "pour 'water'",
            }
        ],
        "passed": ["fine"],
        "not_judged": [],
        "not_asked": [],
        "worst": "error",
    }


def test_quiet_leaves_json_alone() -> None:
    assert shown(report(NOTE), as_json=True, quiet=True).output == shown(report(NOTE), as_json=True).output
    assert [one["severity"] for one in json.loads(shown(report(NOTE), as_json=True).output)["findings"]] == ["note"]


def test_quiet_tells_each_reason_once_and_below_the_error() -> None:
    facts = SimpleNamespace(gone=VmfenceError("no answer"), shut=NotReached("no key"))
    checks = [check(f"gone-{number}", needs=("gone",)) for number in range(25)]
    found = judge([*checks, check("bad", FAULT), check("shut", needs=("shut",))], facts)
    assert click.unstyle(shown(found, quiet=True).output).splitlines() == [
        "error    bad: n1: it burns",
        "         seen: 900 degrees",
        "         do: pour 'water'",
        "unknown  25 checks not judged: no answer",
        "unknown  shut: not judged, no key",
    ]


def test_who_may_not_see_all_is_told_what_to_do() -> None:
    shut = NotPermitted("this user may not ask it", "it said no", "run this as root")
    facts = SimpleNamespace(shut=shut, gone=VmfenceError("no answer", "", "told with its finding"))
    found = judge([check("one", needs=("shut",)), check("gone", needs=("gone",)), check("two", needs=("shut",))], facts)
    assert click.unstyle(shown(found, quiet=True).output).splitlines() == [
        "unknown  2 checks not judged: this user may not ask it",
        "         do: run this as root",
        "unknown  gone: not judged, no answer",
    ]


def doubtful(error: VmfenceError | None, *faults: Fault) -> Report:
    def doubt(facts: Any) -> VmfenceError | None:
        return error

    return judge(
        [Check("gate", "the gate is shut", "A story.", lambda facts: iter(faults), doubt=doubt)], None, ["gate"]
    )


def test_no_fault_is_no_proof_where_nothing_was_looked_at() -> None:
    """What does not exist is left out in silence; what an earlier failure hides is unknown; a fault is a fault."""
    for error, key, status in ((NotAsked("no gate"), "not_asked", 0), (NotReached("no way there"), "not_judged", 4)):
        found = doubtful(error)
        told = json.loads(shown(found, as_json=True).output)
        assert told[key] == [{"code": "gate", "because": f"{error}"}] and told["passed"] == []
        assert checking.exit_code(found, False) == status
        assert "ok" not in shown(found).output.split()
        assert [one.code for one in doubtful(error, FAULT).findings] == ["gate"]
    assert json.loads(shown(doubtful(None), as_json=True).output)["passed"] == ["gate"]


def test_what_is_not_asked_is_counted_apart_with_its_reason() -> None:
    assert (
        click.unstyle(shown(report(gone=NotAsked("no gate"))).output)
        .splitlines()[-1]
        .endswith("0 notes, 1 not asked (no gate)")
    )


@pytest.mark.parametrize(
    ("severity", "lenient", "strict"), [(NOTE, 0, 0), (WARNING, 0, 1), (ERROR, 1, 1)], ids=["note", "warning", "error"]
)
def test_exit_codes(severity: Severity, lenient: int, strict: int) -> None:
    found = report(severity, only=("fine", "bad"))
    assert checking.exit_code(found, False) == lenient
    assert checking.exit_code(found, True) == strict


def test_an_unknown_code_is_told_with_the_nearest_one() -> None:
    with pytest.raises(UsageError, match="did you mean disk-full"):
        checking.known([check("disk-full")], ("disk-ful",), ())


def test_to_leave_out_all_that_is_wanted_is_no_success() -> None:
    checks = [check("disk-full"), check("cpu-hot")]
    for only, skip in ((["disk-full"], ["disk-full"]), ([], ["cpu-hot", "disk-full"])):
        with pytest.raises(UsageError, match="no check is left"):
            checking.known(checks, only, skip)
    checking.known(checks, ["disk-full"], ["cpu-hot"])


# Mending


def to_mend(*fixes: tuple[str, ...] | None) -> Report:
    checks = [check(f"bad-{number}", Fault(ERROR, "n1", "bad", fix=fix)) for number, fix in enumerate(fixes)]
    return judge(checks, SimpleNamespace())


def test_each_safe_remedy_is_run_once_and_others_never(tmp_path: Path) -> None:
    made, other = ("mkdir", str(tmp_path / "made")), ("mkdir", str(tmp_path / "made/in it"))
    wanted = diagnose.fixable(to_mend(made, None, other, made))
    assert [one.fault.fix for one in wanted] == [made, other]
    assert [error for _, error in diagnose.mend(wanted)] == [None, None]
    assert (tmp_path / "made/in it").is_dir()


def test_a_remedy_that_fails_is_told_and_the_next_is_run(tmp_path: Path) -> None:
    wanted = diagnose.fixable(to_mend(("false",), ("no-such-program",), ("mkdir", str(tmp_path / "made"))))
    assert [error is None for _, error in diagnose.mend(wanted)] == [False, False, True]
    assert (tmp_path / "made").is_dir()


def mended(*reports: Report, yes: bool) -> Result:
    """Run --fix on a system of which *reports* are made, one after the other."""
    left = list(reports)

    @click.command()
    def command() -> None:
        try:
            code = checking.conclude(lambda: left.pop(0), strict=False, as_json=False, quiet=False, fix=True, yes=yes)
            click.echo(f"ends with {code}")
        except VmfenceError as error:
            click.echo(f"refused: {error}")

    return CliRunner().invoke(command)


def test_what_is_run_and_what_is_left_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    before, after = to_mend(("mkdir", str(folder)), None), judge([check("sad", FAULT)], SimpleNamespace())
    refused = mended(before, yes=False).output
    assert f"to be run: mkdir {folder}" in refused and "refused: nothing was changed" in refused
    assert "2 checks: 2 errors" in refused and not folder.exists(), "the report is shown all the same"
    done = mended(before, after, yes=True).output
    assert f"mkdir {folder}: done" in done and done.endswith("ends with 1\n") and folder.is_dir()
    told = done.partition("left to you, since it takes a decision:")[2]
    assert "sad: n1: it burns" in told and "do: pour 'water'" in told and "bad-1" not in told, "what mending left"
    assert "left to you" not in mended(to_mend(None), yes=True).output, "without a remedy there is nothing to decide"


def test_ctrl_c_is_told_by_its_own_exit_code() -> None:
    @click.command()
    def command() -> None:
        click.get_current_context().exit(
            checking.conclude(raising(KeyboardInterrupt()), strict=False, as_json=False, quiet=False)  # type: ignore[arg-type]
        )

    done = CliRunner().invoke(command)
    assert (done.exit_code, done.output) == (130, "error: interrupted.\n")


# Programs that hang


def hang(folder: Path) -> Path:
    """Return a program that starts another one and waits for it, for ever; it writes down the process of that one."""
    path = folder / "hang"
    path.write_text(f"#!/bin/sh\nsleep 1000 &\necho $! > {folder}/started\nwait\n")
    path.chmod(0o755)
    return path


def is_running(pid: int) -> bool:
    """Whether there is such a process, and it is no zombie that waits for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_program_that_hangs_is_named_and_ended_with_what_it_started(tmp_path: Path) -> None:
    program = str(hang(tmp_path))
    found = gather({"rules": lambda: proc.run([program], 100), "quick": lambda: 7}, 60, 0.5)
    assert isinstance(found["rules"], DeadlineExceeded) and found["quick"] == 7
    assert found["rules"].what == f"{program} did not end within 0.5 s" and program in found["rules"].remedy
    started = int((tmp_path / "started").read_text())
    wait_until(lambda: not is_running(started))


def test_what_still_runs_at_the_deadline_is_ended(tmp_path: Path) -> None:
    """Also where nobody waits for it any more: the thread that began it is left behind."""
    program, folder, done = str(hang(tmp_path)), tmp_path, threading.Event()

    def begin() -> None:
        with contextlib.suppress(VmfenceError):
            proc.run([program], 100)
        done.set()

    with proc.limited(1000, 1000):
        threading.Thread(target=contextvars.copy_context().run, args=(begin,), daemon=True).start()
        wait_until(lambda: (folder / "started").exists() and (folder / "started").read_text().strip())
    assert done.wait(30)
    wait_until(lambda: not is_running(int((folder / "started").read_text())))


def test_nothing_is_begun_that_has_no_time_left() -> None:
    with proc.limited(-1, 10), pytest.raises(DeadlineExceeded):
        proc.run(["sleep", "1000"], 100)
