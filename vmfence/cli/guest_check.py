"""``vmfence guest check``: could this guest fence?"""

from __future__ import annotations

import dataclasses
import time
from datetime import datetime
from typing import Any, Callable

import click

from vmfence import diagnose
from vmfence.cli import checking
from vmfence.cli.inquiry_options import inquiry_options
from vmfence.cli.output import Progress, printable
from vmfence.diagnose import Report
from vmfence.findings import Severity
from vmfence.guest import facts
from vmfence.guest.checks import CHECKS
from vmfence.guest.facts import Facts
from vmfence.guest.guests import Inquiry
from vmfence.guest.trial import LIMIT_S

ALL_S, LIST_S = 9.5, 3.0


@click.command()
@checking.check_options
@checking.fix_options
@inquiry_options
@click.option(
    "-t",
    "--timeout",
    "limit_s",
    type=click.FloatRange(0.1, 6),
    default=LIMIT_S,
    show_default=True,
    metavar="S",
    help="So long a host is waited for.",
)
@click.option("--watch", is_flag=True, help="Go on: one line at first, and one whenever something changes.")
@click.option(
    "--interval",
    "pause_s",
    type=click.FloatRange(0, 3600),
    default=5,
    show_default=True,
    metavar="S",
    help="With --watch: the pause between two checks.",
)
@click.option("--count", type=click.IntRange(1), metavar="N", help="With --watch: end after N checks.")
@click.pass_context
def check(
    ctx: click.Context,
    /,
    strict: bool,
    as_json: bool,
    quiet: bool,
    only: tuple[str, ...],
    skip: tuple[str, ...],
    code: str | None,
    fix: bool,
    yes: bool,
    limit_s: float,
    watch: bool,
    pause_s: float,
    count: int | None,
    **asking: Any,
) -> None:
    """Judge whether this guest could fence: findings with evidence and remedy.

    Looks at key, addresses and firewall, asks the host as the fence agent does, and tells the first step that fails.
    Changes nothing without --fix and fences nobody. Run it as root. Exit code 1: an error was found.
    """
    if code is not None:
        checking.explain(CHECKS, code)
        return
    checking.known(CHECKS, *only, *skip)
    inquiry = Inquiry(**asking)

    def judged() -> Report:
        return diagnose.judge(CHECKS, gather(inquiry, limit_s), only, skip)

    if watch:
        ctx.exit(_watch(judged, pause_s, count, strict))
    report = _at_once(judged)
    if fix and checking.mend(report, yes):
        report = _at_once(judged)
    checking.show(report, quiet, as_json)
    ctx.exit(checking.exit_code(report, strict))


def gather(inquiry: Inquiry, limit_s: float) -> Facts:
    """Return the facts, all of them within ALL_S seconds; those that take longer are errors."""
    end = time.monotonic() + ALL_S
    found: dict[str, Any] = diagnose.gather(facts.first_round(inquiry, limit_s), ALL_S - LIST_S)
    patient = dataclasses.replace(inquiry, timeout_s=LIST_S)
    found.update(diagnose.gather(facts.second_round(patient, found["trial"]), end - time.monotonic()))
    return facts.complete(inquiry, found)


def _at_once(judged: Callable[[], Report]) -> Report:
    with Progress() as progress:
        progress.show("looking at this guest and asking its host")
        return judged()


def _watch(judged: Callable[[], Report], pause_s: float, count: int | None, strict: bool) -> int:
    """Judge again and again, write a line whenever the result is another one; return the exit code of the worst.

    Ends after *count* rounds, or by Ctrl-C.
    """
    rounds, changes, ends_with, before = 0, 0, 0, ""
    try:
        while count is None or rounds < count:
            if rounds:
                time.sleep(pause_s)
            report = judged()
            now = _in_short(report)
            rounds += 1
            ends_with = max(ends_with, checking.exit_code(report, strict))
            if now != before:
                changes += bool(before)
                before = now
                click.echo(f"{datetime.now().isoformat(' ', 'seconds')}  {now}")
    except KeyboardInterrupt:
        click.echo("", err=True)
    click.echo(f"{rounds} checks, {changes} changes", err=True)
    return ends_with


def _in_short(report: Report) -> str:
    """Return the result in one line: what is wrong, without numbers that change by themselves.

    Where nothing is, what could not be judged: that is not ok.  Behind an error it follows from it.
    """
    worse = [one for one in report.findings if one.fault.severity > Severity.NOTE]
    told = [f"{one.fault.severity} {one.code}: {one.fault.subject}: {one.fault.message}" for one in worse]
    if not any(one.fault.severity is Severity.ERROR for one in worse):
        told += [f"unknown {reason}" for reason in checking.unjudged(report)]
    return printable("; ".join(told)) or "ok"
