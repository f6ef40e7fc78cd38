"""Watch one guest at its host while it is fenced: what the host showed, and when.

Evidence is only what a host that has proven the key showed of the guest itself.  A host that is silent, or whose list
lacks the guest (another host behind the same multicast address; a transient guest that is off), shows nothing.

In a reboot a guest is off for some 10 ms only, but libvirt shows it going down, and halted while it is being started
(libvirt 9.0: "paused", for 300 ms).
"""

from __future__ import annotations

import enum
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
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
    """One look.  *detail*: the state in libvirt's word, or why there was no answer."""

    sight: Sight
    detail: str = ""

    def __str__(self) -> str:
        return self.detail or self.sight.value


def look(inquiry: Inquiry, guest: str, ask: Callable[[Inquiry], Sequence[Record]] = list_guests) -> Look:
    """Ask the host what *guest* (name or UUID) is doing; a host that cannot be asked is SILENT."""
    try:
        records = ask(inquiry)
    except VmfenceError as error:
        return Look(Sight.SILENT, str(error).rstrip("."))
    found = [record for record in records if guest == record.name or guest.lower() == record.uuid.lower()]
    states = {record.state for record in found}
    if not found:
        return Look(Sight.ABSENT)
    if len(states) > 1:
        return Look(Sight.UNCLEAR, f"{len(found)} guests of this name, in different states")
    return Look(_sight(found[0].state), str(found[0].as_dict()["state"]).replace("_", " "))


def _sight(state: int) -> Sight:
    table = ((_RUNNING, Sight.RUNNING), (_OFF, Sight.OFF), (_HALTED, Sight.HALTED))
    return next((sight for states, sight in table if state in states), Sight.UNCLEAR)


def unobtrusive(inquiry: Inquiry) -> Inquiry:
    """Return *inquiry* so that it may be put again and again while a fence agent runs on this node.

    fence_xvm 4.12.1 can wait for its host at one port only: a watcher that held it would make the fence fail.
    """
    return replace(inquiry, callback_port=0, timeout_s=min(inquiry.timeout_s, _LOOK_S))


class Course:
    """What was seen of a guest, in seconds from the start; looks are added in order of time.

    *down_s*: when it was first seen halted or off, *off_s*: off.  *back_s*: when it was first seen running after that.
    *gap_s*: the longest time without an answer that showed it.
    """

    def __init__(self) -> None:
        self.last = Look(Sight.SILENT, "not looked at")
        self.changes: list[tuple[float, Look]] = []
        self.down_s: float | None = None
        self.off_s: float | None = None
        self.back_s: float | None = None
        self.gap_s = 0.0
        self._shown_s = 0.0

    def add(self, at_s: float, seen: Look) -> None:
        """Take in what was seen at *at_s*."""
        if seen != self.last or not self.changes:
            self.changes.append((at_s, seen))
        self.last = seen
        self.gap_s = max(self.gap_s, at_s - self._shown_s)
        if seen.sight not in (Sight.SILENT, Sight.ABSENT):
            self._shown_s = at_s
        if seen.sight in (Sight.HALTED, Sight.OFF) and self.down_s is None:
            self.down_s = at_s
        if seen.sight is Sight.OFF and self.off_s is None:
            self.off_s = at_s
        elif seen.sight is Sight.RUNNING and self.down_s is not None and self.back_s is None:
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
    """Looks at one guest again and again, in one thread with all that is waited for.

    *start* runs a program in the background; clock and sleep in seconds.  *meanwhile*, which may be set, is called
    after each look: what must be noticed at the same time.
    """

    def __init__(
        self,
        look_now: Callable[[], Look],
        start: Start = proc.background,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.course = Course()
        self.meanwhile: Callable[[], object] = lambda: None
        self._look_now, self._start, self._clock, self._sleep = look_now, start, clock, sleep
        self._began = clock()
        self._next = self._began

    def elapsed_s(self) -> float:
        """Return the seconds since the watch began."""
        return self._clock() - self._began

    def glance(self) -> None:
        """Look once, not sooner than INTERVAL_S after the last look began."""
        self._sleep(max(0.0, self._next - self._clock()))
        self._next = self._clock() + INTERVAL_S
        seen = self._look_now()
        self.course.add(self.elapsed_s(), seen)
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

        Raises VmfenceError when it cannot start, DeadlineExceeded after *timeout_s*.
        """
        with tempfile.TemporaryDirectory(prefix="vmfence-") as folder:
            output = os.path.join(folder, "output")
            with self._start(argv, output, environment) as process:
                if not self.until(lambda: not process.is_alive(), timeout_s):
                    raise DeadlineExceeded(f"{argv[0]} did not end within {timeout_s:.0f} s")
                status = process.status
            with open(output, encoding="utf-8", errors="replace") as file:
                return proc.Result(tuple(argv), -1 if status is None else status, "", file.read(_OUTPUT_MAX))
