"""Prints, when tests that produce faults have run, which fault was found under which code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import pytest

from .faults import FAULTS, Case

_WORST_FIRST = ("failed", "error", "skipped", "passed")
_RESULTS = {"failed": "NOT FOUND", "error": "NOT FOUND", "skipped": "skipped", "passed": "found"}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write the table of faults and results, if any of their tests has run."""
    outcomes = outcomes_of(
        (report.nodeid, outcome) for outcome in _WORST_FIRST for report in terminalreporter.stats.get(outcome, ())
    )
    if outcomes:
        terminalreporter.section("faults")
        for line in lines(outcomes):
            terminalreporter.line(line)


def outcomes_of(reports: Iterable[tuple[str, str]]) -> dict[Case, str]:
    """Return the worst outcome of each case among *reports*: pairs of a test's id and its outcome, the worst first."""
    cases = [case for fault in FAULTS for case in fault.cases]
    found: dict[Case, str] = {}
    for nodeid, outcome in reports:
        for case in cases:
            if _is_of(nodeid, case):
                found.setdefault(case, outcome)
    return found


def lines(outcomes: Mapping[Case, str]) -> Iterator[str]:
    """Yield the table: number and cause; below them what came of it, command and code, and what was done.

    Cases without an outcome, as in a run of some tests alone, are counted in the last line.
    """
    for fault in FAULTS:
        if not fault.cases:
            yield f"{fault.number:>3}  {fault.cause}: not produced, {fault.reason}"
        elif any(case in outcomes for case in fault.cases):
            yield f"{fault.number:>3}  {fault.cause}"
        for case in fault.cases:
            if case in outcomes:
                told = case.code or "nothing"
                yield f"     {_RESULTS[outcomes[case]]:<10} {case.command:<8} {told:<26} {case.injection}"
    cases = [case for fault in FAULTS for case in fault.cases]
    yield f"{sum(case not in outcomes for case in cases)} of {len(cases)} cases not run"


def _is_of(nodeid: str, case: Case) -> bool:
    """Whether the test *nodeid* is that of *case*: the same, or the same with parameters."""
    name = nodeid.rpartition("/")[2]
    return name == case.test or name.startswith(f"{case.test}[")
