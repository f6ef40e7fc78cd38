"""Watch one guest at its host while it is fenced: what the host showed, and when.

Evidence is only what a host that has proven the key showed of the guest itself.  A host that is silent, or whose list
lacks the guest (another host behind the same multicast address; a transient guest that is off), shows nothing.

In a reboot a guest is off for some 10 ms only, but libvirt shows it going down, and halted while it is being started
(libvirt 9.0: "paused", for 300 ms).
"""

from __future__ import annotations

import enum
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Callable, Protocol

from vmfence import proc
from vmfence.errors import DeadlineExceeded, VmfenceError
from vmfence.guest.guests import Inquiry, list_guests
from vmfence.protocol.reply import Record, State

INTERVAL_S = 0.02
_LOOK_S = 3.0
_OUTPUT_MAX = 1 << 20
_RUNNING = (State.RUNNING, State.BLOCKED)
_OFF = (State.SHUT_OFF, State.CRASHED)
_HALTED = (State.PAUSED, State.SHUTTING_DOWN, State.SUSPENDED)


class Sight(enum.Enum):
    """What one look at the host showed of the guest."""

    RUNNING = "running"
    OFF = "off"
    HALTED = "not running"
    UNCLEAR = "in a state that tells nothing"
    ABSENT = "not in the host's list"
    SILENT = "the host did not answer"


@dataclass(frozen=True)
class Look:
    """One look.  *detail*: the state in libvirt's word, or why there was no answer; *uuid*: the guest's, if shown."""

    sight: Sight
    detail: str = ""
    uuid: str = field(default="", compare=False)

    def __str__(self) -> str:
        return self.detail or self.sight.value


def look(inquiry: Inquiry, guest: str, ask: Callable[[Inquiry], Sequence[Record]] = list_guests) -> Look:
    """Ask the host what *guest* (name or UUID) is doing; a host that cannot be asked is SILENT."""
    try:
        records = ask(inquiry)
    except VmfenceError as error:
        return Look(Sight.SILENT, error.what)  # its remedy is for who asks once: it names a port of the moment
    found = [record for record in records if guest == record.name or guest.lower() == record.uuid.lower()]
    states = {record.state for record in found}
    if not found:
        return Look(Sight.ABSENT)
    if len(states) > 1:
        return Look(Sight.UNCLEAR, f"{len(found)} guests of this name, in different states")
    uuid = found[0].uuid.lower() if len(found) == 1 else ""
    return Look(_sight(found[0].state), str(found[0].as_dict()["state"]).replace("_", " "), uuid)


def _sight(state: int) -> Sight:
    table = ((_RUNNING, Sight.RUNNING), (_OFF, Sight.OFF), (_HALTED, Sight.HALTED))
    return next((sight for states, sight in table if state in states), Sight.UNCLEAR)


def unobtrusive(inquiry: Inquiry) -> Inquiry:
    """Return *inquiry* so that it may be put again and again while a fence agent runs on this node.

    fence_xvm 4.12.1 can wait for its host at one port only: a watcher that held it would make the fence fail.
    """
    return replace(inquiry, callback_port=0, timeout_s=min(inquiry.timeout_s, _LOOK_S))


_HEIGHTS = {Sight.OFF: 1, Sight.HALTED: 2, Sight.RUNNING: 3}
LookNow = Callable[[], Look]


class Course:
    """What was seen of a guest, in seconds from the start; looks are added in order of time.

    *down_s*: when it was first seen halted or off after it had been seen in a better state, *off_s*: off.  *back_s*:
    when it was first seen running after that, or after it had been off.  *began_off*: the first that was seen of it.
    *gap_s*: the longest time without an answer that showed it.
    """

    def __init__(self) -> None:
        self.last = Look(Sight.SILENT, "not looked at")
        self.changes: list[tuple[float, Look]] = []
        self.down_s: float | None = None
        self.off_s: float | None = None
        self.back_s: float | None = None
        self.began_off = False
        self.gap_s = 0.0
        self._shown_s = 0.0
        self._best = 0

    @property
    def is_down(self) -> bool:
        """Whether it was seen off, or going down, and not running since."""
        return (self.began_off or self.down_s is not None) and self.back_s is None

    def add(self, at_s: float, seen: Look) -> None:
        """Take in what was seen at *at_s*."""
        if seen != self.last or not self.changes:
            self.changes.append((at_s, seen))
        self.last = seen
        self.gap_s = max(self.gap_s, at_s - self._shown_s)
        if seen.sight not in (Sight.SILENT, Sight.ABSENT):
            self._shown_s = at_s
        if seen.sight in _HEIGHTS:
            self._note(at_s, _HEIGHTS[seen.sight])

    def _note(self, at_s: float, height: int) -> None:
        is_first, is_lower = self._best == 0, height < self._best
        self._best = max(self._best, height)
        if is_first:
            self.began_off = height == _HEIGHTS[Sight.OFF]
        if is_lower and self.down_s is None:
            self.down_s, self.back_s = at_s, None
        if is_lower and height == _HEIGHTS[Sight.OFF] and self.off_s is None:
            self.off_s = at_s
        if height == _HEIGHTS[Sight.RUNNING] and self.is_down:
            self.back_s = at_s

    def as_list(self) -> list[dict[str, object]]:
        """Return the changes fit for JSON."""
        return [
            {"at_s": round(at_s, 2), "seen": seen.sight.value, "detail": seen.detail} for at_s, seen in self.changes
        ]


class Running(Protocol):
    """A program in the background."""

    def is_alive(self) -> bool:
        """Whether it still runs."""

    @property
    def status(self) -> int | None:
        """How it ended."""


class Start(Protocol):
    """What starts one, its output in the file *log_path*: proc.background, or a test's stand-in."""

    def __call__(
        self, argv: list[str], log_path: str, environment: Mapping[str, str] | None
    ) -> AbstractContextManager[Running]: ...


class Watcher:
    """Looks at guests again and again, in one thread with all that is waited for.

    *looks*: one for each guest, *courses* in the same order.  *start* runs a program in the background; clock and sleep
    in seconds.  *meanwhile*, which may be set, is called after each look: what must be noticed at the same time.
    """

    def __init__(
        self,
        looks: Sequence[LookNow],
        start: Start = proc.background,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.courses = tuple(Course() for _ in looks)
        self.meanwhile: Callable[[], object] = lambda: None
        self._looks, self._start, self._clock, self._sleep = looks, start, clock, sleep
        self._began = clock()
        self._next = self._began

    def begin(self) -> None:
        """Look for the first time, and count the time from the end of that."""
        seen = [look_now() for look_now in self._looks]
        self._began = self._clock()
        for course, each in zip(self.courses, seen):
            course.add(0.0, each)

    def elapsed_s(self) -> float:
        """Return the seconds since the watch began."""
        return self._clock() - self._began

    def glance(self) -> None:
        """Look once, not sooner than INTERVAL_S after the last look began."""
        self._sleep(max(0.0, self._next - self._clock()))
        self._next = self._clock() + INTERVAL_S
        for course, look_now in zip(self.courses, self._looks):
            seen = look_now()
            course.add(self.elapsed_s(), seen)
        self.meanwhile()

    def until(self, is_over: Callable[[], bool], limit_s: float) -> bool:
        """Look until *is_over*, for *limit_s* seconds from now at most; return whether it is."""
        end = self._clock() + limit_s
        while not is_over():
            if self._clock() >= end:
                return False
            self.glance()
        return True

    def run(self, argv: list[str], timeout_s: float, environment: Mapping[str, str] | None = None) -> proc.Result:
        """Run *argv* as proc.run() does, and look meanwhile; all its output counts as stderr.

        Raises VmfenceError when it cannot be run, DeadlineExceeded after *timeout_s*.
        """
        try:
            # In memory: a full disk, or a folder that is gone, must not end a fencing halfway.
            with os.fdopen(os.memfd_create("output"), encoding="utf-8", errors="replace") as output:
                status = self._run(argv, f"/proc/self/fd/{output.fileno()}", timeout_s, environment)
                return proc.Result(tuple(argv), status, "", output.read(_OUTPUT_MAX))
        except OSError as error:
            raise VmfenceError(f"cannot run {argv[0]}", error.strerror or str(error)) from error

    def _run(self, argv: list[str], path: str, timeout_s: float, environment: Mapping[str, str] | None) -> int:
        with self._start(argv, path, environment) as process:
            if not self.until(lambda: not process.is_alive(), timeout_s):
                raise DeadlineExceeded(f"{argv[0]} did not end within {timeout_s:.0f} s")
            status = process.status
        return -1 if status is None else status
