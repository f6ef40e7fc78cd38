"""What a check found: stable code, severity, subject, evidence, remedy; and how checks are declared.  Pure."""

from __future__ import annotations

import enum
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Callable

from vmfence.errors import ConfigNotPermitted, KeyNotPermitted, NotPermitted, VmfenceError


class Severity(enum.IntEnum):
    """How bad it is, worst last.  A *note* never changes an exit code, a *warning* only with ``--strict``."""

    NOTE = 0
    WARNING = 1
    ERROR = 2

    def __str__(self) -> str:
        return self.name.lower()


NOTE, WARNING, ERROR = Severity


@dataclass(frozen=True)
class Fault:
    """What a rule yields: the check that it belongs to gives the code.

    *subject*: what it is about (a node, a device, a file).  *message*: what is wrong, and why that matters.
    *evidence*: what was seen, with numbers.  *remedy*: a command to paste, or what to do where no command does it.
    *fix*: arguments of the command that mends it without any risk; None where a person must decide.
    *opens*: what *fix* lets in that was shut out, and from where; it is told before the question.
    """

    severity: Severity
    subject: str
    message: str
    evidence: str = ""
    remedy: str = ""
    fix: tuple[str, ...] | None = None
    opens: str = ""


@dataclass(frozen=True)
class Check:
    """One check: *title* is the claim that holds on a healthy system, *story* what ``--explain`` prints.

    *rule* reads facts, never the system.  *needs* names the facts without which it cannot judge: attributes of the
    facts, each a value, or the VmfenceError that kept it from being gathered.  *reads*: the fact whose gathering it
    judges, if that is what it is about.  *doubt* is asked where the rule found no fault: it returns why that does not
    show that the title holds.  A NotAsked says that there is no such thing here, any other error that it is unknown.
    *is_reading*: it tells that a fact could not be gathered, and nothing of what is judged by it; *is_minor*: what
    cannot be judged without that fact is of little weight.
    """

    code: str
    title: str
    story: str
    rule: Callable[[Any], Iterator[Fault]]
    needs: tuple[str, ...] = ()
    reads: str = ""
    doubt: Callable[[Any], VmfenceError | None] | None = None
    is_reading: bool = False
    is_minor: bool = False


@dataclass(frozen=True)
class Finding:
    """One fault under the code of its check."""

    code: str
    fault: Fault

    def as_dict(self) -> dict[str, str]:
        """Return it fit for JSON."""
        fault = self.fault
        return {
            "code": self.code,
            "severity": str(fault.severity),
            "subject": fault.subject,
            "message": fault.message,
            "evidence": fault.evidence,
            "remedy": fault.remedy,
        }


class NotAsked(VmfenceError):
    """Stands for a fact that was left out on purpose, such as the running cluster where a file is judged.

    Also for what does not exist here, such as a call-back where the host is asked by TCP.
    """


class NotReached(NotAsked):
    """Stands for a fact that an earlier failure keeps from being known.  That is told there, and this is unknown."""


def is_unknown(missing: VmfenceError | None) -> bool:
    """Whether *missing* leaves a check open that should have been judged."""
    return missing is not None and (isinstance(missing, NotReached) or not isinstance(missing, NotAsked))


def is_forbidden(missing: object) -> bool:
    """Whether *missing* is for lack of rights of this user: somebody else can have it judged."""
    return isinstance(missing, (NotPermitted, KeyNotPermitted, ConfigNotPermitted))


def unread(
    code: str,
    fact: str,
    title: str,
    story: str,
    severity: Severity = ERROR,
    doubt: Callable[[Any], VmfenceError | None] | None = None,
    subject: str = "",
) -> Check:
    """Return the check that *fact* could be gathered: a failed gathering is a finding, never silence.

    *subject*: what users call the fact, if not by its name.
    For lack of rights it is not judged.  A fact whose absence is a NOTE is of little weight.
    """

    def rule(facts: Any) -> Iterator[Fault]:
        error = getattr(facts, fact)
        if isinstance(error, VmfenceError):
            yield Fault(severity, subject or fact, error.what, error.why, error.remedy)

    return Check(code, title, story, rule, reads=fact, doubt=doubt, is_reading=True, is_minor=severity is NOTE)


def command_line(argv: Sequence[str]) -> str:
    """Return *argv* as a line to paste into a shell, whatever names are in it."""
    return shlex.join(argv)


def explained(command: str, words: str) -> str:
    """Return *command* as a line to paste, with *words* about it that the shell passes over."""
    return f"{command}   # {' '.join(words.split())}"


def counted(number: int, noun: str) -> str:
    """Return "1 guest", "2 guests"; *noun* is one that takes an s."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def worst(findings: Iterable[Finding]) -> Severity | None:
    """Return the highest severity, None for no findings."""
    return max((finding.fault.severity for finding in findings), default=None)
