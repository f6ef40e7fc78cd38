"""Fence one node through the cluster while its guest is watched at the host, and compare what both say.

The cluster's word alone is no proof, and neither is a program's exit code: judged is the fencer's new event together
with what the host showed of the guest.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable

from vmfence import proc
from vmfence.cluster import fencer, votes, watch
from vmfence.cluster.cib import Cib, Device
from vmfence.cluster.fencer import FencingEvent
from vmfence.cluster.hostmap import ports_of
from vmfence.cluster.inquiry import AGENTS, inquiry_of, shown_guests
from vmfence.cluster.pacemaker import Pacemaker
from vmfence.cluster.pcs import Pcs
from vmfence.cluster.votes import Votes
from vmfence.cluster.watch import Course, Look, Sight, Start, Watcher
from vmfence.errors import CommandError, UsageError, VmfenceError
from vmfence.guest.guests import Inquiry
from vmfence.protocol.reply import Record

TIMEOUT_S = 300.0
_BACK_S = 60.0  # for the host to start the guest again, after the fencing has ended
_LATE_S = 5.0  # for the host to answer once, and for the fencer to write its history
_HISTORY_PAUSE_S = 0.25
_GAP_S = 1.0


@dataclass(frozen=True)
class Means:
    """What reaches the outside; tests put others in place of what has a default."""

    pacemaker: Pacemaker
    pcs: Pcs
    start: Start = proc.background
    look: Callable[[Inquiry, str], Look] = watch.look
    ask_all: Callable[[Inquiry], Sequence[Record]] = shown_guests
    count_votes: Callable[[], Votes] = votes.load
    count_joins: Callable[[], Mapping[int, int]] = votes.load_joins
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class Target:
    """A node, and over which *device* which *guest* of the host stands for it.

    *stays_off*: a reboot by this device leaves it off (pcmk_reboot_action).
    """

    node: str
    guest: str
    device: str
    agent: str
    inquiry: Inquiry
    stays_off: bool = False


@dataclass(frozen=True)
class Fencing:
    """One fencing that was asked for.

    *error*: why the command failed, "" for success; *fence_s*: how long it took.  *event*: the fencer's own, None with
    the reason in *history_error*.  *before* and *course*: what the host showed.
    """

    target: Target
    is_off: bool
    before: Look
    error: str
    fence_s: float
    event: FencingEvent | None
    history_error: str
    course: Course

    @property
    def action(self) -> str:
        """What was asked for."""
        return "off" if self.is_off else "reboot"


def locate(node: str, cib: Cib, pacemaker: Pacemaker) -> tuple[Target, ...]:
    """Return how *node* is fenced, by each of its devices whose host we can ask, in the cluster's order; never empty.

    Raises UsageError for a node that the cluster does not have, VmfenceError when no such device covers it.
    """
    name = next((one.name for one in cib.nodes if one.name.lower() == node.lower()), None)
    if name is None:
        nodes = ", ".join(one.name for one in cib.nodes)
        raise UsageError(f"the cluster has no node {node!r}", "", f"its nodes are: {nodes}" if nodes else "")
    able, version = pacemaker.devices_for(name), pacemaker.version()
    targets = []
    why = f"the fencer has for it: {', '.join(able) or 'no device'}"
    for device in in_order(name, cib):
        if device.id not in able or device.agent not in AGENTS:
            continue
        guest = ports_of(device, version).get(name, name)
        try:
            inquiry = inquiry_of(device.options, device.agent)
        except VmfenceError as error:
            why = f"device {device.id}: {error}".rstrip(".")
            continue
        stays_off = device.options.get("pcmk_reboot_action", "").lower() == "off"
        targets.append(Target(name, guest, device.id, device.agent, inquiry, stays_off))
    if not targets:
        remedy = "make a device for it with: vmfence cluster add-device"
        raise VmfenceError(f"no device whose host can be asked ({', '.join(AGENTS)}) fences {name}", why, remedy)
    return tuple(targets)


def first_shown(targets: tuple[Target, ...], means: Means) -> tuple[Target, Look]:
    """Return the first target whose host shows its guest, else the first of all, with what its host showed."""
    seen = []
    for target in targets:
        found = _shown(target, means)
        if found.sight not in (Sight.SILENT, Sight.ABSENT):
            return target, found
        seen.append((target, found))
    return seen[0]


def _shown(target: Target, means: Means) -> Look:
    """Look in the way in which the guest will be watched; tell when only another way leads to the host."""
    found = means.look(watch.unobtrusive(target.inquiry), target.guest)
    if found.sight is Sight.ABSENT:  # the first host to answer need not be the one that has it
        return watch.look(target.inquiry, target.guest, means.ask_all)
    is_deaf = found.sight is Sight.SILENT and target.inquiry.kind == "multicast"
    if is_deaf and means.look(target.inquiry, target.guest).sight is not Sight.SILENT:
        port = target.inquiry.port
        return Look(Sight.SILENT, f"its call-backs get through at TCP {port} alone, which fence agents here need")
    return found


def in_order(node: str, cib: Cib) -> tuple[Device, ...]:
    """Return the devices that the cluster would use for *node*: those of its levels in their order, or all."""
    levels = [level for level in cib.levels if level.kind == "node" and level.target.lower() == node.lower()]
    levels = levels or [level for level in cib.levels if level.kind == "pattern" and _matches(level.target, node)]
    names = [name for level in sorted(levels, key=lambda level: level.index) for name in level.devices]
    listed = tuple(filter(None, map(cib.device, names)))
    return listed or tuple(device for device in cib.devices if not device.is_disabled)


def _matches(pattern: str, node: str) -> bool:
    try:
        return re.search(pattern, node, re.IGNORECASE) is not None
    except re.error:
        return False


class Attempt:
    """One fencing of *target* under way, its guest watched; *before*: what the host showed of it beforehand.

    Raises VmfenceError when a fencing of this node is under way already.
    """

    def __init__(self, target: Target, is_off: bool, before: Look, means: Means) -> None:
        self._target, self._is_off, self._before, self._means = target, is_off, before, means
        self._known = means.pacemaker.fencing_history(target.node)
        if any(event.status == fencer.PENDING for event in self._known):
            raise VmfenceError(f"a fencing of {target.node} is under way already", "", "wait until it has ended")
        inquiry = watch.unobtrusive(target.inquiry)
        self.guard = Watcher(lambda: means.look(inquiry, target.guest), means.start, means.clock, means.sleep)
        self.course = self.guard.course
        self.error = ""
        self.fence_s = 0.0

    def run(self, timeout_s: float = TIMEOUT_S) -> None:
        """Have the cluster fence the node and wait for it; a failure becomes *error*.

        Raises VmfenceError when pcs cannot be given this node's name: then nothing was begun.
        """
        pcs = Pcs(self._means.pcs.version, run=self.guard.run)
        argv = pcs.fence(self._target.node, self._is_off)
        try:
            pcs.run(argv, timeout_s)
        except VmfenceError as failure:
            self.error = str(failure).rstrip(".")
        self.fence_s = self.guard.elapsed_s()
        self.guard.until(lambda: self.course.last.sight is not Sight.SILENT, _LATE_S)

    def await_start(self) -> None:
        """Wait for the guest to run again if it was seen going down."""
        if self.course.down_s is not None:
            self.guard.until(lambda: self.course.back_s is not None, _BACK_S)

    def unfence(self, timeout_s: float = TIMEOUT_S) -> None:
        """Have the cluster start the node again, and wait for its guest to run.  Raises VmfenceError."""
        argv = ["stonith_admin", f"--unfence={self._target.node}"]
        result = self.guard.run(argv, timeout_s, {"PATH": proc.system_path()})
        if result.status != 0:
            raise CommandError(result.argv, result.status, result.stderr)
        self.await_start()

    def result(self) -> Fencing:
        """Return what came of it, with the fencer's own event, for which it waits a moment."""
        event, history_error = _own_event(self._target.node, self._known, self._means)
        error, fence_s = self.error, self.fence_s
        return Fencing(self._target, self._is_off, self._before, error, fence_s, event, history_error, self.course)


def _own_event(node: str, known: tuple[FencingEvent, ...], means: Means) -> tuple[FencingEvent | None, str]:
    """Return the event that is not among *known*, once it has ended; or why there is none."""
    end = means.clock() + _LATE_S
    while True:
        try:
            new = Counter(means.pacemaker.fencing_history(node)) - Counter(known)
        except VmfenceError as error:
            return None, str(error).rstrip(".")
        ended = sorted((event for event in new if event.status != fencer.PENDING), key=_worth)
        if ended:
            return ended[-1], ""
        if means.clock() >= end:
            return next(iter(new), None), ""
        means.sleep(_HISTORY_PAUSE_S)


def _worth(event: FencingEvent) -> tuple[bool, float]:
    """Rank success above failure, then the later above the earlier."""
    return event.status == fencer.SUCCESS, event.completed_at() or 0.0


def faults(fencing: Fencing) -> tuple[str, ...]:
    """Return what keeps *fencing* from being proven, as sentences; nothing when cluster and host both saw it."""
    return (*_faults_of_cluster(fencing), *_faults_of_host(fencing))


def _faults_of_cluster(fencing: Fencing) -> Iterator[str]:
    event = fencing.event
    if fencing.error:
        yield f"the cluster's command failed: {fencing.error}"
    if fencing.history_error:
        yield f"the fencer's history could not be read: {fencing.history_error}"
    elif event is None:
        yield "the fencer's history has no new event for it"
    elif event.status == fencer.PENDING:
        yield "the fencer has not ended it yet"
    elif event.status != fencer.SUCCESS:
        yield f"the fencer's history calls it {event.status}{f': {event.reason}' if event.reason else ''}"


def _faults_of_host(fencing: Fencing) -> Iterator[str]:
    course, guest = fencing.course, fencing.target.guest
    if fencing.before.sight is Sight.OFF:
        if course.last.sight is not Sight.OFF and fencing.is_off:
            yield f"guest {guest} was off before, and then {course.last}"
        return
    if is_unseen(course, fencing.is_off):
        yield f"{_claim(fencing)}, but guest {guest} was not seen off at the host: {_why_unseen(course)}"
    elif not fencing.is_off and course.back_s is None:
        yield f"guest {guest} went down after {course.down_s:.1f} s and was not seen running again: {course.last}"
    elif fencing.is_off and course.last.sight is Sight.RUNNING:
        yield f"guest {guest} went off after {course.off_s:.1f} s, but did not stay so: {course.last}"


def is_unseen(course: Course, is_off: bool) -> bool:
    """Whether the host never showed what was to happen: the guest off or, in a reboot, at least not running."""
    return (course.off_s if is_off else course.down_s) is None


def _claim(fencing: Fencing) -> str:
    is_claimed = fencing.event is not None and fencing.event.status == fencer.SUCCESS
    return "fenced according to the cluster" if is_claimed else "not fenced according to the cluster"


def _why_unseen(course: Course) -> str:
    """Say what the host showed instead; a gap is where an off would hide."""
    sights = {seen.sight for _, seen in course.changes}
    if sights == {Sight.SILENT}:
        return f"it never answered ({course.last})"
    if sights <= {Sight.SILENT, Sight.ABSENT}:
        return "it never showed this guest"
    if Sight.ABSENT in sights:
        return "for a time its list lacked the guest, which proves nothing"
    if course.gap_s >= _GAP_S:
        return f"it showed nothing for {course.gap_s:.1f} s, as fence_virtd does while it reboots"
    return f"it was {course.last} whenever the host was asked"


def notes(fencing: Fencing) -> tuple[str, ...]:
    """Return what is worth telling and is no fault."""
    if fencing.before.sight is Sight.OFF:
        return (f"guest {fencing.target.guest} was off already, so this shows nothing of the path to it",)
    if fencing.error and fencing.course.off_s is not None:
        return (f"guest {fencing.target.guest} was seen off all the same, after {fencing.course.off_s:.1f} s",)
    return ()


def as_dict(fencing: Fencing) -> Mapping[str, Any]:
    """Return *fencing* with its faults and notes, fit for JSON."""
    event, course, target = fencing.event, fencing.course, fencing.target
    return {
        "node": target.node,
        "action": fencing.action,
        "is_proven": not faults(fencing),
        "faults": list(faults(fencing)),
        "notes": list(notes(fencing)),
        "device": target.device,
        "agent": target.agent,
        "fence_s": round(fencing.fence_s, 2),
        "event": None if event is None else event.__dict__,
        "guest": {
            "name": target.guest,
            "before": str(fencing.before),
            "down_s": course.down_s,
            "off_s": course.off_s,
            "back_s": course.back_s,
            "now": str(course.last),
            "seen": course.as_list(),
        },
    }
