"""Fence one node through the cluster while its guest is watched at the host, and take in what both say.

The cluster's word alone is no proof, and neither is a program's exit code: see verdict.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from vmfence import proc
from vmfence.cluster import fencer, watch
from vmfence.cluster.fencer import FencingEvent
from vmfence.cluster.means import Means, Tell
from vmfence.cluster.pcs import Pcs
from vmfence.cluster.presence import Presence
from vmfence.cluster.targets import Aim, Sighting, Survey, Target
from vmfence.cluster.watch import Course, Look, Sight, Watcher
from vmfence.errors import CommandError, VmfenceError

TIMEOUT_S = 300.0
_BACK_S = 60.0  # for the host to start the guest again, after the fencing has ended
_LATE_S = 5.0  # for the host to answer once, and for the fencer to write its history
_HISTORY_PAUSE_S = 0.25
_POLL_S = 0.5
_ACTIONS = {True: ("off", "poweroff"), False: ("reboot", "off", "poweroff")}  # a reboot may be carried out as an off
_CLIENTS = ("stonith_admin", "pcs")  # what "pcs stonith fence" is in the history


@dataclass(frozen=True)
class Fencing:
    """One fencing that was asked for.

    *was_online*: the cluster had the node online before.  *watched*: each guest that stands for the node, with what its
    host showed.  *error*: why the command failed, "" for success; *fence_s*: how long it took.  *event*: the fencer's
    own, None with the reason in *history_error*.  *rejoined_s*: when the cluster showed that the node was away and has
    come back, where the host did not show it.
    """

    aim: Aim
    is_off: bool
    was_online: bool
    watched: tuple[tuple[Target, Course], ...]
    error: str
    fence_s: float
    event: FencingEvent | None
    history_error: str
    rejoined_s: float | None = None

    @property
    def action(self) -> str:
        """What was asked for."""
        return "off" if self.is_off else "reboot"

    @property
    def target(self) -> Target:
        """The target whose guest went down, else the first."""
        return self._main[0]

    @property
    def course(self) -> Course:
        """What was seen of the guest of target."""
        return self._main[1]

    @property
    def _main(self) -> tuple[Target, Course]:
        return next((one for one in self.watched if one[1].down_s is not None), self.watched[0])

    @property
    def is_unseen(self) -> bool:
        """Whether the host never showed what was to happen: the guest off or, in a reboot, at least not running."""
        return (self.course.off_s if self.is_off else self.course.down_s) is None

    @property
    def is_claimed(self) -> bool:
        """Whether the cluster calls it done."""
        return self.event is not None and self.event.status == fencer.SUCCESS and not self.error


class Attempt:
    """One fencing under way, the guests watched.

    Raises VmfenceError when a fencing of this node is under way already, or pcs cannot be given its name.
    """

    def __init__(self, survey: Survey, is_off: bool, means: Means) -> None:
        self._survey, self._is_off, self._means = survey, is_off, means
        self._node = survey.aim.node
        self._this_node = means.pacemaker.node_name()
        self._known = means.pacemaker.fencing_history(self._node)
        if any(event.status == fencer.PENDING for event in self._known):
            raise VmfenceError(f"a fencing of {self._node} is under way already", "", "wait until it has ended")
        self.guard = Watcher([_looker(one, means) for one in survey.watched], means.start, means.clock, means.sleep)
        self._pcs = Pcs(means.pcs.version, run=self.guard.run)
        self._argv = self._pcs.fence(self._node, is_off)
        self.error = ""
        self.fence_s = 0.0

    @property
    def course(self) -> Course:
        """What was seen of the first guest."""
        return self.guard.courses[0]

    def begin(self) -> Look:
        """Look before anything is done, begin to count the time, and return what was seen of the first guest."""
        self.guard.begin()
        return self.course.last

    def run(self, timeout_s: float = TIMEOUT_S) -> None:
        """Have the cluster fence the node and wait for it; a failure becomes *error*."""
        try:
            self._pcs.run(self._argv, timeout_s)
        except VmfenceError as failure:
            self.error = str(failure).rstrip(".")
        self.fence_s = self.guard.elapsed_s()
        courses = self.guard.courses
        self.guard.glance()  # what was seen last may be old if the watch broke off
        self.guard.until(lambda: any(one.last.sight is not Sight.SILENT for one in courses), _LATE_S)

    def await_start(self) -> None:
        """Wait for what was off, or seen going down, to run again."""
        self.guard.until(lambda: not any(one.is_down for one in self.guard.courses), _BACK_S)

    def unfence(self, timeout_s: float = TIMEOUT_S) -> None:
        """Have the cluster start the node again, and wait for its guest to run.  Raises VmfenceError."""
        argv = ["stonith_admin", f"--unfence={self._node}"]
        result = self.guard.run(argv, timeout_s, {"PATH": proc.system_path()})
        if result.status != 0:
            raise CommandError(result.argv, result.status, result.stderr)
        self.await_start()

    def result(self) -> Fencing:
        """Return what came of it, with the fencer's own event, for which it waits a moment."""
        event, history_error = self._own_event()
        targets = (one.target for one in self._survey.watched)
        return Fencing(
            aim=self._survey.aim,
            is_off=self._is_off,
            was_online=self._survey.is_online,
            watched=tuple(zip(targets, self.guard.courses)),
            error=self.error,
            fence_s=self.fence_s,
            event=event,
            history_error=history_error,
        )

    def _own_event(self) -> tuple[FencingEvent | None, str]:
        """Return the new event of what was asked for, once it has ended; or why there is none."""
        end = self._means.clock() + _LATE_S
        while True:
            try:
                new = Counter(self._means.pacemaker.fencing_history(self._node)) - Counter(self._known)
            except VmfenceError as error:
                return None, str(error).rstrip(".")
            events = sorted((event for event in new if event.action in _ACTIONS[self._is_off]), key=self._worth)
            if events and events[-1].status != fencer.PENDING:
                return events[-1], ""
            if self._means.clock() >= end:
                return (events[-1] if events else None), ""
            self._means.sleep(_HISTORY_PAUSE_S)

    def _worth(self, event: FencingEvent) -> tuple[bool, bool, bool, float]:
        """Rank what we asked for above what others did, success above failure, the later above the earlier."""
        is_ours = event.origin == self._this_node and event.client.partition(".")[0] in _CLIENTS
        is_over = event.status != fencer.PENDING
        return is_ours, is_over, event.status == fencer.SUCCESS, event.completed_at() or 0.0


def _looker(sighting: Sighting, means: Means) -> watch.LookNow:
    inquiry = watch.unobtrusive(sighting.target.inquiry)
    return lambda: means.look(inquiry, sighting.target.guest)


def fence(survey: Survey, is_off: bool, means: Means, tell: Tell, timeout_s: float = TIMEOUT_S) -> Fencing:
    """Fence the node and return what cluster and host showed.

    *timeout_s*: for the cluster to do it, and again for the node to come back where the host shows no reboot.
    Raises VmfenceError when nothing was begun.
    """
    attempt = Attempt(survey, is_off, means)
    presence = Presence(survey.aim.node, survey.aim.node_id, means)
    attempt.begin()
    tell(f"fencing {survey.aim.node}")
    attempt.run(timeout_s)
    if not is_off:
        attempt.await_start()
    found = attempt.result()
    if not _could_show_itself(found):
        return found
    tell(f"the host did not show it, waiting for {survey.aim.node} to come back into the cluster")
    end = means.clock() + timeout_s
    while not presence.has_rejoined():
        if means.clock() >= end:
            return found
        means.sleep(_POLL_S)
    return replace(found, rejoined_s=attempt.guard.elapsed_s())


def _could_show_itself(found: Fencing) -> bool:
    """Whether the node's way out of the cluster and back would show a reboot that the host did not.

    Not where it comes back anyhow: because it was on its way in before, or resets itself when it hears of its fencing.
    """
    is_wanting = found.is_claimed and not found.is_off and found.is_unseen and len(found.watched) == 1
    is_telling = found.was_online and found.aim.node_id >= 0 and not found.aim.resetters
    return is_wanting and is_telling and not found.course.began_off and found.course.last.sight is Sight.RUNNING
