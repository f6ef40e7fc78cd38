"""What an answer, or its absence, means: exit code, texts, log line.

Light module (loaded for every fence action: standard library only).  Pure.  Only an answer that fits the
action is a success; everything else is a failure (fence_xvm 4.12.1 took a list for a success of "off": spec
defect D34).
"""

from __future__ import annotations

from vmfence.client.failures import HostNotProven, NoAnswer, NotAccepted
from vmfence.errors import VmfenceError
from vmfence.protocol.reply import Code, guest_count
from vmfence.protocol.request import GUEST_ACTIONS, POWER_ACTIONS, Action

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmfence.client.stream import Answer

OK, FAILED, OFF, DENIED = 0, 1, 2, 3


class Outcome:
    """The end of one run: *exit_code*, text for stdout, lines for stderr, *log* for syslog."""

    __slots__ = ("err", "exit_code", "log", "out")

    def __init__(self, exit_code: int, log: str, *, out: str = "", err: tuple[str, ...] = ()) -> None:
        self.exit_code, self.log, self.out, self.err = exit_code, log, out, err


def judge(action: Action, target: str, answer: Answer, program: str) -> Outcome:
    """Return what *answer* means for *action*.

    Exit codes as fence_xvm's where the answer fits: 0, 2 for status of a guest that is off, 3 for denied.
    """
    code, peer = int(answer.code), answer.peer
    if code == Code.LIST and action is Action.LIST:
        return Outcome(OK, f"{guest_count(len(answer.records))} from {peer}", out=_lines(answer))
    if code == Code.SUCCESS and action is Action.STATUS:
        return Outcome(OK, f'Domain "{target}" is ON, says {peer}', out="Status: ON\n")
    if code == Code.OFF and action is Action.STATUS:
        return Outcome(OFF, f'Domain "{target}" is OFF, says {peer}', out="Status: OFF\n")
    if code == Code.SUCCESS and (action in POWER_ACTIONS or action is Action.MONITOR):
        return Outcome(OK, f"{_subject(action, target)}: done, says {peer}")
    return _refused(action, target, code, peer, program)


def failure(action: Action, target: str, error: VmfenceError) -> Outcome:
    """Return the outcome of a request that brought no answer."""
    lines: tuple[str, ...] = ("Operation failed",)
    if isinstance(error, NoAnswer):
        lines = ("Timed out waiting for response", *lines)
    elif isinstance(error, HostNotProven) or (isinstance(error, NotAccepted) and error.at_challenge):
        lines = ("Invalid response to challenge", *lines)
    return Outcome(FAILED, f"{_subject(action, target)}: {error}", err=(*lines, f"error: {error}"))


def null(target: str) -> Outcome:
    """Return the outcome of the action null, which always fails."""
    error = VmfenceError("null is an action that always fails", "no host was asked", "monitor asks whether one answers")
    return failure(Action.NULL, target, error)


def _refused(action: Action, target: str, code: int, peer: str, program: str) -> Outcome:
    subject = _subject(action, target)
    if code == Code.DENIED:
        remedy = "admit this machine in the groups of the host's configuration"
        error = VmfenceError(f"{peer} does not permit {subject}", "its access rules say so", remedy)
        return Outcome(DENIED, f"{subject}: {error}", err=("Permission denied", f"error: {error}"))
    if code == Code.FAILURE:
        error = VmfenceError(f"{peer} reports that {subject} failed", "", _where_to_look(action, program))
        return failure(action, target, error)
    known = {Code.SUCCESS: "success", Code.OFF: "off", Code.LIST: "a list of guests"}
    meaning = next((text for value, text in known.items() if value == code), "")
    why = f"its answer {code} ({meaning}) does not belong to this action" if meaning else f"its answer is {code}"
    remedy = _where_to_look(action, program)
    error = VmfenceError(f"{peer} gave no result of {subject}", f"{why}: nothing is known", remedy)
    line = "Operation failed" if meaning else f"Unknown response ({code})"
    return Outcome(FAILED, f"{subject}: {error}", err=(line, f"error: {error}"))


def _where_to_look(action: Action, program: str) -> str:
    log = "look at the daemon's log on the host"
    return f"{log}, and compare the guest's name with: {program} -o list" if action in GUEST_ACTIONS else log


def _subject(action: Action, target: str) -> str:
    return f'{action} of "{target}"' if target else str(action)


def _lines(answer: Answer) -> str:
    return "".join(f"{record.line()}\n" for record in answer.records)
