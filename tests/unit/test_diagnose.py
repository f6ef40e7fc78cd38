"""Gathering and judging, and what a check command writes of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Callable

import click
import pytest
from click.testing import CliRunner, Result

from vmfence.cli import checking
from vmfence.diagnose import Report, gather, judge
from vmfence.errors import DeadlineExceeded, UsageError, VmfenceError
from vmfence.findings import ERROR, NOTE, WARNING, Check, Fault, NotAsked, Severity, unread


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


def report(*severities: Severity) -> Report:
    faults = [Fault(severity, "n1", f"a {severity}", "seen", "do this") for severity in severities]
    missing = check("unknown", needs=("gone",))
    return judge([check("fine"), check("bad", *faults), missing], SimpleNamespace(gone=VmfenceError("no answer")))


def test_one_line_for_each_check_and_the_remedy_below() -> None:
    text = click.unstyle(shown(report(ERROR)).output)
    assert text.splitlines() == [
        "ok       fine: fine is well",
        "error    bad: n1: a error",
        "         seen: seen",
        "         do: do this",
        "unknown  unknown: not judged, no answer",
        "3 checks: 1 error, 0 warnings, 0 notes, 1 not judged",
    ]


def test_quiet_shows_warnings_and_errors_alone() -> None:
    assert "a note" not in shown(report(NOTE), quiet=True).output
    assert click.unstyle(shown(report(WARNING), quiet=True).output).startswith("warning  bad")
    assert shown(report(), quiet=True).output == ""


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
        "worst": "error",
    }


@pytest.mark.parametrize(
    ("severity", "lenient", "strict"), [(NOTE, 0, 0), (WARNING, 0, 1), (ERROR, 1, 1)], ids=["note", "warning", "error"]
)
def test_exit_codes(severity: Severity, lenient: int, strict: int) -> None:
    assert checking.exit_code(report(severity), False) == lenient
    assert checking.exit_code(report(severity), True) == strict
    assert checking.exit_code(report(), True) == 0


def test_an_unknown_code_is_told_with_the_nearest_one() -> None:
    with pytest.raises(UsageError, match="did you mean disk-full"):
        checking.known([check("disk-full")], "disk-ful")
