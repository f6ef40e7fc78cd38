"""The machinery of every ``check`` command: gather facts at the same time, each before a deadline, then judge them.

Gathering only reads; mend() alone changes something, by commands of findings that are without any risk.  A fact that
could not be gathered is kept as the error that prevented it, so that the checks which need it are told as not judged
instead of passing in silence.
"""

from __future__ import annotations

import concurrent.futures
import shutil
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Callable

from vmfence import proc
from vmfence.errors import CommandError, DeadlineExceeded, VmfenceError
from vmfence.findings import Check, Fault, Finding, NotAsked, Severity, is_unknown, worst

MEND_S = 120.0


@dataclass(frozen=True)
class Outcome:
    """What became of one check: *faults* in the order of its rule, or *missing*, the error that keeps it unjudged."""

    check: Check
    faults: tuple[Fault, ...] = ()
    missing: VmfenceError | None = None

    @property
    def severity(self) -> Severity | None:
        """The worst of its faults; None when there are none."""
        return max((fault.severity for fault in self.faults), default=None)


@dataclass(frozen=True)
class Report:
    """The outcomes of all checks that were wanted, in the order of the checks.

    *is_chosen*: the user has named these checks, and so wants each of them judged.
    """

    outcomes: tuple[Outcome, ...]
    is_chosen: bool = False

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


def gather(gatherers: Mapping[str, Callable[[], Any]], deadline_s: float) -> dict[str, Any]:
    """Call all *gatherers* at the same time; return by name what each returned, or the VmfenceError it raised.

    What is not there *deadline_s* seconds from now is a DeadlineExceeded.  Other exceptions are defects: raised again.
    """
    deadline = time.monotonic() + deadline_s
    begun = {name: _begin(name, gatherer) for name, gatherer in gatherers.items()}
    return {name: _result(name, future, deadline, deadline_s) for name, future in begun.items()}


def judge(checks: Sequence[Check], facts: Any, only: Collection[str] = (), skip: Collection[str] = ()) -> Report:
    """Apply the rules of *checks* to *facts*: those in *only* (none named: all) that are not in *skip*, by code."""
    wanted = [check for check in checks if check.code not in skip and (not only or check.code in only)]
    return Report(tuple(_outcome(check, facts) for check in wanted), bool(only))


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


def _begin(name: str, gatherer: Callable[[], Any]) -> Future[Any]:
    """Start *gatherer* in a thread that does not keep the process alive, unlike those of an executor."""
    future: Future[Any] = Future()

    def work() -> None:
        try:
            future.set_result(gatherer())
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            future.set_exception(error)

    threading.Thread(target=work, name=f"gather {name}", daemon=True).start()
    return future


def _result(name: str, future: Future[Any], deadline: float, deadline_s: float) -> Any:
    try:
        return future.result(max(0.0, deadline - time.monotonic()))
    except VmfenceError as error:
        return error
    except concurrent.futures.TimeoutError:
        return DeadlineExceeded(f"reading {name} took too long", f"no result within {deadline_s:g} s")


def _outcome(check: Check, facts: Any) -> Outcome:
    read = getattr(facts, check.reads) if check.reads else None
    if isinstance(read, NotAsked):
        return Outcome(check, missing=read)
    for name in check.needs:
        missing = getattr(facts, name)
        if isinstance(missing, VmfenceError):
            return Outcome(check, missing=missing)
    faults = tuple(check.rule(facts))
    return Outcome(check, faults, check.doubt(facts) if check.doubt is not None and not faults else None)
