"""What all ``check`` commands share: options, one line for each check, JSON, exit codes, explanations, mending."""

from __future__ import annotations

import difflib
import json
import os
import shlex
import textwrap
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Callable, TypeVar

import click

from vmfence import diagnose
from vmfence.cli import consent
from vmfence.cli.output import Output, is_dumb, printable
from vmfence.diagnose import Outcome, Report
from vmfence.errors import NotPermitted, UsageError, VmfenceError
from vmfence.findings import Check, Fault, Finding, Severity, is_forbidden

Command = TypeVar("Command", bound=Callable[..., Any])
ALL = "all"
_COLOURS = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "red", "unknown": "magenta"}
_WORD_WIDTH = max(map(len, _COLOURS))
_REASONS_SHOWN_MAX, _CODES_SHOWN_MAX = 2, 5
UNKNOWN, INTERRUPTED = 4, 130
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
        click.option("--strict", is_flag=True, help="A warning is a failure too, and all must be judged."),
    ):
        command = option(command)
    return command


def fix_options(command: Command) -> Command:
    """Add the options of a check command some of whose findings can be mended; they arrive as fix and yes."""
    command = click.option("--yes", is_flag=True, help="With --fix: do not ask.")(command)
    return click.option("--fix", is_flag=True, help="Mend what can be mended without a risk, after a question.")(
        command
    )


def fixing(fix: bool, yes: bool) -> None:
    """Raise UsageError for --yes without --fix."""
    if yes and not fix:
        raise UsageError("--yes answers the question of --fix", "", "add --fix, or leave it out")


def conclude(
    judged: Callable[[], Report], *, strict: bool, as_json: bool, quiet: bool, fix: bool = False, yes: bool = False
) -> int:
    """Judge, with *fix* mend and judge again, show the report; return the exit code.

    Raises VmfenceError when nothing may be mended, once the report was shown, or when it could not be written.
    """
    try:
        report = judged()
        refusal: VmfenceError | None = None
        if fix:
            try:
                report = judged() if mend(report, yes) else report
            except VmfenceError as error:
                refusal = error
        show(report, quiet, as_json)
        if refusal is not None:
            raise refusal
        if fix:
            left_over(report)
    except (KeyboardInterrupt, click.Abort):
        click.echo("error: interrupted.", err=True)
        return INTERRUPTED
    return exit_code(report, strict)


def left_over(report: Report) -> None:
    """Tell on stderr what of *report*, made after all was mended, takes a decision, and what to do for each."""
    left = [one for one in report.findings if one.fault.severity > Severity.NOTE and one.fault.remedy]
    if left:
        click.echo("left to you, since it takes a decision:", err=True)
    for one in left:
        click.echo(f"{_INDENT}{one.code}: {printable(one.fault.subject)}: {printable(one.fault.message)}", err=True)
        click.echo(f"{_INDENT}  do: {printable(one.fault.remedy)}", err=True)


def mend(report: Report, is_agreed: bool) -> bool:
    """Run the safe remedies of *report*, after a question unless *is_agreed*; return whether any was run.

    Tells on stderr what is run, and what came of it.  Raises VmfenceError when the answer is no, UsageError when nobody
    can be asked.
    """
    wanted = diagnose.fixable(report)
    if not wanted:
        click.echo("nothing here is mended by a command without a risk", err=True)
        return False
    for finding in wanted:
        what = f"{finding.code}: {printable(finding.fault.subject)}: {printable(finding.fault.message)}"
        click.echo(f"{what}\n{_INDENT}to be run: {_command(finding)}", err=True)
        if finding.fault.opens:
            click.echo(f"{_INDENT}it opens: {printable(finding.fault.opens)}", err=True)
    consent.require(f"Run {'this command' if len(wanted) == 1 else f'these {len(wanted)} commands'}", is_agreed)
    for finding, error in diagnose.mend(wanted):
        state = "done" if error is None else f"failed: {printable(str(error))}"
        click.echo(f"{_command(finding)}: {state}", err=True)
    return True


def _command(finding: Finding) -> str:
    return printable(shlex.join(finding.fault.fix or ()))


def known(checks: Sequence[Check], only: Collection[str], skip: Collection[str]) -> None:
    """Raise UsageError for the first code that none of *checks* has, and when no check is left to be made."""
    for code in (*only, *skip):
        find(checks, code)
    if not {*(only or (check.code for check in checks))} - {*skip}:
        raise UsageError("no check is left: --skip names all that are wanted", "", "leave one out of --skip")


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
    """Write *report*: one line for each check, and below it what was seen and what to do for each fault.

    Then why others are not judged, each reason once.  Raises VmfenceError when it cannot be written.
    """
    output = Output()
    if as_json:
        output.echo(json.dumps(as_dict(report), indent=2))
    else:
        for outcome in report.outcomes:
            for line in _lines(outcome, quiet):
                output.echo(line)
        for reason, remedy in unjudged(report):
            output.echo(f"{_word('unknown')}  {reason}")
            if remedy:
                output.echo(f"{_INDENT}do: {remedy}")
        if not quiet:
            output.echo(_summary(report))
    output.check("give it a place to go")


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
    """Return 1 when an error was found, with *strict* also for a warning; else what could not be judged decides.

    3 when this user may not see all that is needed, 4 when something did not answer or could not be read; else 0.
    What is of little weight counts with *strict* alone.
    """
    limit = Severity.WARNING if strict else Severity.ERROR
    bad = [one.check for one in report.outcomes if one.severity is not None and one.severity >= limit]
    if not all(check.is_reading for check in bad):
        return 1
    unknown = [one.missing for one in report.unjudged if strict or not one.is_minor]
    if any(map(is_forbidden, unknown)):
        return NotPermitted.exit_code
    return UNKNOWN if unknown or bad else 0


def _lines(outcome: Outcome, quiet: bool) -> Iterator[str]:
    check = outcome.check
    if outcome.missing is None and not outcome.faults and not quiet:
        yield f"{_word('ok')}  {check.code}: {check.title}"
    for fault in sorted(outcome.faults, key=lambda fault: -fault.severity):
        if not quiet or fault.severity > Severity.NOTE:
            yield from _fault_lines(check.code, fault)


def unjudged(report: Report) -> Iterator[tuple[str, str]]:
    """Yield, in words, each reason why checks are not judged, so that they do not hide the errors, and what to do.

    That only for lack of rights: what else is missing is told as a finding, with its remedy.
    """
    reasons: dict[tuple[str, str], list[str]] = {}
    for one in report.unjudged:
        if one.missing is not None:
            remedy = one.missing.remedy if is_forbidden(one.missing) else ""
            reasons.setdefault((printable(one.missing.what), printable(remedy)), []).append(one.check.code)
    for (reason, remedy), codes in reasons.items():
        is_one = len(codes) == 1
        told = f"{codes[0]}: not judged, {reason}" if is_one else f"{len(codes)} checks not judged: {reason}"
        yield told, remedy


def _fault_lines(code: str, fault: Fault) -> Iterator[str]:
    yield f"{_word(str(fault.severity))}  {code}: {printable(fault.subject)}: {printable(fault.message)}"
    if fault.evidence:
        yield f"{_INDENT}seen: {printable(fault.evidence)}"
    if fault.remedy:
        yield f"{_INDENT}do: {printable(fault.remedy)}"


def _word(word: str) -> str:
    """Return *word* as wide as all, in its colour where colours are wanted; click drops them where no terminal is."""
    text = word.ljust(_WORD_WIDTH)
    return text if os.environ.get("NO_COLOR") or is_dumb() else click.style(text, fg=_COLOURS[word])


def _summary(report: Report) -> str:
    counts = dict.fromkeys(reversed(Severity), 0)
    for finding in report.findings:
        counts[finding.fault.severity] += 1
    reasons = Counter(one.missing.what for one in report.unasked if one.missing is not None)
    why = "; ".join(reason for reason, _ in reasons.most_common(_REASONS_SHOWN_MAX))
    more = "; --json tells more" if len(reasons) > _REASONS_SHOWN_MAX else ""
    parts = [f"{number} {severity}{'s' if number != 1 else ''}" for severity, number in counts.items()]
    errors = tuple(dict.fromkeys(one.code for one in report.findings if one.fault.severity is Severity.ERROR))
    if errors:  # they may have scrolled away
        parts[0] += f" ({', '.join(errors[:_CODES_SHOWN_MAX])}{', ...' if len(errors) > _CODES_SHOWN_MAX else ''})"
    parts += [f"{len(report.unjudged)} not judged"] if report.unjudged else []
    parts += [f"{len(report.unasked)} not asked ({printable(why)}{more})"] if report.unasked else []
    number = len(report.outcomes)
    return f"{number} check{'s' if number != 1 else ''}: {', '.join(parts)}"
