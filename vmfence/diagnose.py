"""The machinery of every ``check`` command: gather facts at the same time, each before a deadline, then judge them.

Gathering only reads; mend() alone changes something, by commands of findings that are without any risk.  A fact that
could not be gathered is kept as the error that prevented it, so that the checks which need it are told as not judged
instead of passing in silence.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable

from vmfence import proc, together
from vmfence.errors import CommandError, VmfenceError
from vmfence.findings import Check, Fault, Finding, NotAsked, Severity, is_forbidden, is_unknown, worst

MEND_S = 120.0
# So long before the deadline all programs are ended, so that it can still be told which one hung.
_TELL_S = 0.5


@dataclass(frozen=True)
class Outcome:
    """What became of one check: *faults* in the order of its rule, or *missing*, the error that keeps it unjudged.

    *is_minor*: what is missing is of little weight, and its own check has told so.
    """

    check: Check
    faults: tuple[Fault, ...] = ()
    missing: VmfenceError | None = None
    is_minor: bool = False

    @property
    def severity(self) -> Severity | None:
        """The worst of its faults; None when there are none."""
        return max((fault.severity for fault in self.faults), default=None)


@dataclass(frozen=True)
class Report:
    """The outcomes of all checks that were wanted, in the order of the checks."""

    outcomes: tuple[Outcome, ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All faults with their codes, the worst first, else in the order of the checks."""
        found = [Finding(one.check.code, fault) for one in self.outcomes for fault in one.faults]
        return tuple(sorted(found, key=lambda finding: -finding.fault.severity))

    @property
    def unjudged(self) -> tuple[Outcome, ...]:
        """The checks that could not be judged; not those whose facts were left out on purpose."""
        return tuple(one for one in self.outcomes if is_unknown(one.missing))

    @property
    def unasked(self) -> tuple[Outcome, ...]:
        """The checks whose facts were left out on purpose, or are of something that does not exist here."""
        return tuple(one for one in self.outcomes if one.missing is not None and not is_unknown(one.missing))

    @property
    def worst(self) -> Severity | None:
        """The worst severity found; None when nothing was found."""
        return worst(self.findings)


def gather(gatherers: Mapping[str, Callable[[], Any]], deadline_s: float, program_s: float = MEND_S) -> dict[str, Any]:
    """Call all *gatherers* at the same time; return by name what each returned, or the VmfenceError it raised.

    What is not there *deadline_s* seconds from now is a DeadlineExceeded.  Other exceptions are defects: raised again.
    An outside program that any of them runs is ended after *program_s*, or shortly before the deadline.
    """
    with proc.limited(deadline_s - min(_TELL_S, deadline_s / 10), program_s):
        return together.call(gatherers, deadline_s)


def judge(checks: Sequence[Check], facts: Any, only: Collection[str] = (), skip: Collection[str] = ()) -> Report:
    """Apply the rules of *checks* to *facts*: those in *only* (none named: all) that are not in *skip*, by code."""
    wanted = [check for check in checks if check.code not in skip and (not only or check.code in only)]
    minor = [getattr(facts, check.reads) for check in checks if check.reads and check.is_minor]
    return Report(tuple(_outcome(check, facts, minor) for check in wanted))


def fixable(report: Report) -> tuple[Finding, ...]:
    """Return the findings that a command mends without any risk, each command once."""
    found: dict[tuple[str, ...], Finding] = {}
    for one in report.findings:
        if one.fault.fix:
            found.setdefault(one.fault.fix, one)
    return tuple(found.values())


def mend(findings: Iterable[Finding]) -> Iterator[tuple[Finding, VmfenceError | None]]:
    """Run the command of each of *findings*; yield it with None, or with the error that says why it failed."""
    for finding in findings:
        error: VmfenceError | None = None
        try:
            _run(list(finding.fault.fix or ()))
        except VmfenceError as failure:
            error = failure
        yield finding, error


def _run(argv: list[str]) -> None:
    program = shutil.which(argv[0], path=proc.system_path()) or argv[0]
    done = proc.run([program, *argv[1:]], MEND_S)
    if done.status:
        raise CommandError(tuple(argv), done.status, done.stderr or done.stdout)


def _outcome(check: Check, facts: Any, minor: Sequence[Any]) -> Outcome:
    read = getattr(facts, check.reads) if check.reads else None
    if isinstance(read, NotAsked) or is_forbidden(read):
        return Outcome(check, missing=read, is_minor=check.is_minor)
    for name in check.needs:
        missing = getattr(facts, name)
        if isinstance(missing, VmfenceError):
            return Outcome(check, missing=missing, is_minor=any(missing is one for one in minor))
    faults = tuple(check.rule(facts))
    return Outcome(check, faults, check.doubt(facts) if check.doubt is not None and not faults else None)
