"""What all ``check`` commands share: options, one line for each check, JSON, exit codes, explanations, mending."""

from __future__ import annotations

import difflib
import json
import os
import shlex
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Callable, TypeVar

import click

from vmfence import diagnose
from vmfence.cli import consent
from vmfence.cli.output import printable
from vmfence.diagnose import Outcome, Report
from vmfence.errors import UsageError
from vmfence.findings import Check, Fault, Finding, Severity, is_unknown

Command = TypeVar("Command", bound=Callable[..., Any])
ALL = "all"
_COLOURS = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "red", "unknown": "magenta"}
_WORD_WIDTH = max(map(len, _COLOURS))
_REASONS_SHOWN_MAX = 2
_INDENT = " " * (_WORD_WIDTH + 2)


def check_options(command: Command) -> Command:
    """Add the options of every check command; they arrive as strict, as_json, quiet, only, skip and code."""
    for option in (
        click.option("--explain", "code", metavar="CODE", help="Tell what a code means, and end; all: list the codes."),
        click.option("--skip", metavar="CODE", multiple=True, help="Not this check. Several: again."),
        click.option("--only", metavar="CODE", multiple=True, help="Only this check. Several: again."),
        click.option(
            "-q",
            "--quiet",
            is_flag=True,
            help="Show only warnings, errors, and why something is not judged.",
        ),
        click.option("--json", "as_json", is_flag=True, help="As JSON."),
        click.option("--strict", is_flag=True, help="A warning, or a check that is not judged, is a failure too."),
    ):
        command = option(command)
    return command


def fix_options(command: Command) -> Command:
    """Add the options of a check command some of whose findings can be mended; they arrive as fix and yes."""
    command = click.option("--yes", is_flag=True, help="With --fix: do not ask.")(command)
    return click.option("--fix", is_flag=True, help="Mend what can be mended without a risk, after a question.")(
        command
    )


def mend(report: Report, is_agreed: bool) -> bool:
    """Run the safe remedies of *report*, after a question unless *is_agreed*; return whether any was run.

    Tells on stderr what is run, what came of it, and which findings are left to a person.  Raises VmfenceError when the
    answer is no, UsageError when nobody can be asked.
    """
    wanted = diagnose.fixable(report)
    commands = {finding.fault.fix for finding in wanted}
    left = [one.code for one in report.findings if one.fault.severity > Severity.NOTE and one.fault.fix not in commands]
    if left:
        click.echo(f"left to you, since it takes a decision: {', '.join(dict.fromkeys(left))}", err=True)
    if not wanted:
        click.echo("nothing here is mended by a command without a risk", err=True)
        return False
    for finding in wanted:
        what = f"{finding.code}: {printable(finding.fault.subject)}: {printable(finding.fault.message)}"
        click.echo(f"{what}\n{_INDENT}to be run: {_command(finding)}", err=True)
    consent.require(f"Run {'this command' if len(wanted) == 1 else f'these {len(wanted)} commands'}", is_agreed)
    for finding, error in diagnose.mend(wanted):
        state = "done" if error is None else f"failed: {printable(str(error))}"
        click.echo(f"{_command(finding)}: {state}", err=True)
    return True


def _command(finding: Finding) -> str:
    return printable(shlex.join(finding.fault.fix or ()))


def known(checks: Sequence[Check], *codes: str) -> None:
    """Raise UsageError for the first of *codes* that none of *checks* has."""
    for code in codes:
        find(checks, code)


def find(checks: Sequence[Check], code: str) -> Check:
    """Return the check of that code.  Raises UsageError, with the nearest code."""
    by_code = {check.code: check for check in checks}
    if code not in by_code:
        prefix = code.partition("-")[0] + "-"  # host-, guest- or cluster-: long words behind it must not outweigh it
        nearest = difflib.get_close_matches(code, [one for one in by_code if one.startswith(prefix)] or by_code, 1)
        remedy = f"did you mean {nearest[0]}?" if nearest else "all codes: --explain all"
        raise UsageError(f"there is no check {code!r}", "", remedy)
    return by_code[code]


def explain(checks: Sequence[Check], code: str) -> None:
    """Write what the check of that *code* claims, and its longer story; for "all" every code with its claim.

    Raises UsageError for an unknown code.
    """
    if code == ALL:
        for check in checks:
            click.echo(f"{check.code}: {check.title}")
        return
    check = find(checks, code)
    click.echo(f"{check.code}: {check.title}\n")
    for paragraph in check.story.split("\n\n"):
        click.echo(textwrap.fill(" ".join(paragraph.split()), 78) + "\n")


def show(report: Report, quiet: bool, as_json: bool) -> None:
    """Write *report*: one line for each check, and below it what was seen and what to do for each fault."""
    if as_json:
        click.echo(json.dumps(as_dict(report), indent=2))
        return
    for outcome in report.outcomes:
        for line in _lines(outcome, quiet):
            click.echo(line)
    for line in [f"{_word('unknown')}  {told}" for told in unjudged(report)] if quiet else [_summary(report)]:
        click.echo(line)


def as_dict(report: Report) -> dict[str, Any]:
    """Return *report* fit for JSON."""
    return {
        "findings": [one.as_dict() for one in report.findings],
        "passed": [one.check.code for one in report.outcomes if not one.faults and one.missing is None],
        "not_judged": [{"code": one.check.code, "because": str(one.missing)} for one in report.unjudged],
        "not_asked": [{"code": one.check.code, "because": str(one.missing)} for one in report.unasked],
        "worst": None if report.worst is None else str(report.worst),
    }


def exit_code(report: Report, strict: bool) -> int:
    """Return 1 when an error was found, with *strict* also for a warning; else 0.

    Also 1, with *strict* or for checks that the user has named, when one of them could not be judged.
    """
    limit = Severity.WARNING if strict else Severity.ERROR
    is_unknown = bool(report.unjudged) and (strict or report.is_chosen)
    return int(is_unknown or (report.worst is not None and report.worst >= limit))


def _lines(outcome: Outcome, quiet: bool) -> Iterator[str]:
    check = outcome.check
    if outcome.missing is not None:
        if is_unknown(outcome.missing) and not quiet:
            yield f"{_word('unknown')}  {check.code}: not judged, {printable(outcome.missing.what)}"
    elif not outcome.faults and not quiet:
        yield f"{_word('ok')}  {check.code}: {check.title}"
    for fault in sorted(outcome.faults, key=lambda fault: -fault.severity):
        if not quiet or fault.severity > Severity.NOTE:
            yield from _fault_lines(check.code, fault)


def unjudged(report: Report) -> Iterator[str]:
    """Yield, in words, each reason why checks are not judged, so that they do not hide the errors."""
    reasons: dict[str, list[str]] = {}
    for one in report.unjudged:
        if one.missing is not None:
            reasons.setdefault(printable(one.missing.what), []).append(one.check.code)
    for reason, codes in reasons.items():
        yield f"{codes[0]}: not judged, {reason}" if len(codes) == 1 else f"{len(codes)} checks not judged: {reason}"


def _fault_lines(code: str, fault: Fault) -> Iterator[str]:
    yield f"{_word(str(fault.severity))}  {code}: {printable(fault.subject)}: {printable(fault.message)}"
    if fault.evidence:
        yield f"{_INDENT}seen: {printable(fault.evidence)}"
    if fault.remedy:
        yield f"{_INDENT}do: {printable(fault.remedy)}"


def _word(word: str) -> str:
    """Return *word* as wide as all, in its colour where colours are wanted; click drops them where no terminal is."""
    text = word.ljust(_WORD_WIDTH)
    return text if os.environ.get("NO_COLOR") else click.style(text, fg=_COLOURS[word])


def _summary(report: Report) -> str:
    counts = dict.fromkeys(reversed(Severity), 0)
    for finding in report.findings:
        counts[finding.fault.severity] += 1
    reasons = Counter(one.missing.what for one in report.unasked if one.missing is not None)
    why = "; ".join(reason for reason, _ in reasons.most_common(_REASONS_SHOWN_MAX))
    more = "; --json tells more" if len(reasons) > _REASONS_SHOWN_MAX else ""
    parts = [f"{number} {severity}{'s' if number != 1 else ''}" for severity, number in counts.items()]
    parts += [f"{len(report.unjudged)} not judged"] if report.unjudged else []
    parts += [f"{len(report.unasked)} not asked ({printable(why)}{more})"] if report.unasked else []
    return f"{len(report.outcomes)} checks: {', '.join(parts)}"
