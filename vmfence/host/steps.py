"""Steps of a set-up: what has to be done, how it stands, and doing it in order."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Callable, NoReturn

from vmfence.errors import VmfenceError

Act = Callable[[], "str | Outcome | None"]


@dataclass(frozen=True)
class Outcome:
    """What a step came to, and what is worth a look."""

    what: str
    notes: tuple[str, ...] = ()


class State(enum.Enum):
    """How a step stands."""

    CHOSEN = "chosen"
    UNCHANGED = "unchanged"
    PLANNED = "would do"
    DONE = "done"
    GOOD = "good"
    BY_HAND = "by hand"
    LEFT_OUT = "left out"
    FAILED = "failed"
    NOT_DONE = "not done"


@dataclass(frozen=True)
class Step:
    """One step: *what* is or will be so, and *why*; *act* does it and may return a better *what*, or an Outcome.

    *commands* are for the administrator to type.  *notes* are worth a look.  *ends_as*: its state once *act* is done.
    *is_apart*: when it fails, the others are done all the same.
    """

    name: str
    state: State
    what: str
    why: str = ""
    commands: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    act: Act | None = field(default=None, compare=False, repr=False)
    ends_as: State = State.DONE
    is_apart: bool = False

    def as_dict(self) -> dict[str, object]:
        """Return it fit for JSON."""
        shown = {"step": self.name, "state": self.state.value, "what": self.what, "why": self.why}
        return {**shown, "commands": list(self.commands), "notes": list(self.notes)}


def carry_out(steps: Sequence[Step], is_dry: bool) -> Iterator[Step]:
    """Yield each step as it stands once it is dealt with.

    Nothing is changed when *is_dry*.  Raises the first VmfenceError of a step, after all have been yielded.  What else
    ends it, Ctrl-C above all, ends it at once: what was not yielded is for unfinished() to tell.
    """
    failure: VmfenceError | None = None
    is_blocked = False
    for step in steps:
        if step.act is None:
            yield step
        elif is_blocked:
            yield replace(step, state=State.NOT_DONE)
        elif is_dry and step.state is not State.FAILED:
            yield step
        else:
            try:
                ended = _carried_out(step)
                done = replace(step, state=step.ends_as, what=ended.what, notes=(*step.notes, *ended.notes))
            except VmfenceError as error:
                failure = failure or error
                is_blocked = not step.is_apart
                done = replace(step, state=State.FAILED, why=str(error))
            yield done
    if failure is not None:
        raise failure


def _carried_out(step: Step) -> Outcome:
    assert step.act is not None
    try:
        ended = step.act() or step.what
        return ended if isinstance(ended, Outcome) else Outcome(ended)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        remedy = "mend that, then run this again"
        raise VmfenceError(f"step {step.name} failed", f"{where}{error.strerror or error}", remedy) from error


def unfinished(steps: Sequence[Step], finished: int) -> Iterator[Step]:
    """Yield how the rest of *steps* stands after carry_out() was broken off, when *finished* had been yielded."""
    under_way = True
    for step in steps[finished:]:
        if step.act is None:
            yield step
        elif under_way:
            under_way = False
            note = "interrupted: it may be done, in part or not at all; run setup again to be sure"
            yield replace(step, state=State.FAILED, notes=(*step.notes, note))
        else:
            yield replace(step, state=State.NOT_DONE)


def has_changed(planned: Sequence[Step], ended: Sequence[Step]) -> bool:
    """Whether anything was changed, or may have been by a step that failed on its way."""
    return any(
        after.state is State.DONE
        or (after.state is State.FAILED and before.state is State.PLANNED and before.ends_as is State.DONE)
        for before, after in zip(planned, ended)
    )


def obstacle(name: str, what: str, error: VmfenceError) -> Step:
    """Return a step that can only fail."""

    def refuse() -> NoReturn:
        raise error

    return Step(name, State.FAILED, what, str(error), act=refuse)
