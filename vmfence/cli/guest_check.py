"""``vmfence guest check``: could this guest fence?"""

from __future__ import annotations

import dataclasses
import select
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Callable

import click

from vmfence import diagnose
from vmfence.cli import checking
from vmfence.cli.inquiry_options import inquiry_options
from vmfence.cli.output import Progress, printable
from vmfence.cli.seconds import Seconds
from vmfence.diagnose import Report
from vmfence.errors import NotPermitted, UsageError
from vmfence.findings import Severity, counted
from vmfence.guest import facts
from vmfence.guest.checks import CHECKS
from vmfence.guest.facts import Facts
from vmfence.guest.guests import Inquiry
from vmfence.guest.trial import LIMIT_S

ALL_S, LIST_S, PROGRAM_S = 9.2, 3.0, 3.0
PAUSE_S = 5
_WORST_FIRST = (1, NotPermitted.exit_code, checking.UNKNOWN, 0)  # exit codes


@click.command()
@checking.check_options
@checking.fix_options
@inquiry_options
@click.option(
    "-t",
    "--timeout",
    "limit_s",
    type=Seconds(0.1, 6),
    default=LIMIT_S,
    show_default=True,
    metavar="S",
    help="So long a host is waited for.",
)
@click.option("--watch", is_flag=True, help="Go on: one line at first, and one whenever something changes.")
@click.option(
    "--interval",
    "pause_s",
    type=Seconds(0, 3600),
    metavar="S",
    help=f"With --watch: the pause between two checks.  [default: {PAUSE_S}]",
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
    pause_s: float | None,
    count: int | None,
    **asking: Any,
) -> None:
    """Judge whether this guest could fence: findings with evidence and remedy.

    Looks at key, addresses and firewall, asks the host as the fence agent does, and tells the first step that fails.
    Changes nothing without --fix and fences nobody. Run it as root. Exit code 1: an error was found; else 3: this user
    may not see all; else 4: not all could be judged.
    """
    if code is not None:
        checking.explain(CHECKS, code)
        return
    checking.known(CHECKS, only, skip)
    checking.fixing(fix, yes)
    _watching(watch, {"--interval": pause_s, "--count": count}, {"--json": as_json, "--fix": fix, "--quiet": quiet})
    inquiry = Inquiry(**asking)

    def judged() -> Report:
        return diagnose.judge(CHECKS, gather(inquiry, limit_s), only, skip)

    if watch:
        ctx.exit(_watch(judged, PAUSE_S if pause_s is None else pause_s, count, strict))
    ctx.exit(checking.conclude(lambda: _at_once(judged), strict=strict, as_json=as_json, quiet=quiet, fix=fix, yes=yes))


def _watching(watch: bool, its_own: Mapping[str, object], others: Mapping[str, object]) -> None:
    """Raise UsageError for options that mean nothing with, or without, --watch: those of *others*, or *its_own*."""
    for option, value in (others if watch else its_own).items():
        if watch and value:
            raise UsageError(f"{option} means nothing with --watch, which writes one line", "", "leave one of them out")
        if not watch and value is not None:
            raise UsageError(f"{option} means nothing without --watch", "", "add --watch, or leave it out")


def gather(inquiry: Inquiry, limit_s: float) -> Facts:
    """Return the facts, all of them within ALL_S seconds; those that take longer are errors."""
    end = time.monotonic() + ALL_S
    found: dict[str, Any] = diagnose.gather(facts.first_round(inquiry, limit_s), ALL_S - LIST_S, PROGRAM_S)
    patient = dataclasses.replace(inquiry, timeout_s=LIST_S)
    found.update(diagnose.gather(facts.second_round(patient, found["trial"]), end - time.monotonic(), PROGRAM_S))
    return facts.complete(inquiry, found)


def _at_once(judged: Callable[[], Report]) -> Report:
    with Progress() as progress:
        progress.show("looking at this guest and asking its host")
        return judged()


def _watch(judged: Callable[[], Report], pause_s: float, count: int | None, strict: bool) -> int:
    """Judge again and again, write a line whenever the result is another one; return the exit code of the worst.

    Ends after *count* rounds, by Ctrl-C, or when nobody reads it any more.
    """
    rounds, changes, ends_with, before = 0, 0, 0, ""
    try:
        while count is None or rounds < count:
            if rounds and not _pause(pause_s):
                break
            report = judged()
            now = _in_short(report)
            rounds += 1
            ends_with = min(ends_with, checking.exit_code(report, strict), key=_WORST_FIRST.index)
            if now != before:
                changes += bool(before)
                before = now
                click.echo(f"{datetime.now().isoformat(' ', 'seconds')}  {now}")
    except KeyboardInterrupt:
        click.echo("", err=True)
    click.echo(f"{counted(rounds, 'check')}, {counted(changes, 'change')}", err=True)
    return ends_with


def _pause(seconds: float) -> bool:
    """Wait; return whether somebody still reads what is written."""
    try:
        written = sys.stdout.fileno()
    except (OSError, ValueError):  # no file
        time.sleep(seconds)
        return True
    poller = select.poll()
    poller.register(written, 0)  # hang-ups and errors alone, which are always told
    return not poller.poll(seconds * 1000)


def _in_short(report: Report) -> str:
    """Return the result in one line: what is wrong, without numbers that change by themselves.

    Where nothing is, what could not be judged: that is not ok.  Behind an error it follows from it.
    """
    worse = [one for one in report.findings if one.fault.severity > Severity.NOTE]
    told = [f"{one.fault.severity} {one.code}: {one.fault.subject}: {one.fault.message}" for one in worse]
    if not any(one.fault.severity is Severity.ERROR for one in worse):
        told += [f"unknown {reason}" for reason, _ in checking.unjudged(report)]
    return printable("; ".join(told)) or "ok"
