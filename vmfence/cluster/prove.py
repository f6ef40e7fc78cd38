"""Rehearse a fence: fence a healthy node, see it go down at the host and come back into the cluster, and say what
was seen.

Never begins while anything else is wrong: a rehearsal must not become the outage.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Callable

from vmfence.cluster import fencer, targets, verdict
from vmfence.cluster.fencer import FencingEvent
from vmfence.cluster.fencing import Attempt
from vmfence.cluster.means import Means, Tell
from vmfence.cluster.presence import Presence, condition, is_member
from vmfence.cluster.proofs import Proof
from vmfence.cluster.status import Status
from vmfence.cluster.targets import Aim, Survey
from vmfence.cluster.votes import Votes
from vmfence.cluster.watch import Sight
from vmfence.errors import VmfenceError
from vmfence.findings import command_line

REBOOT, OFF = "reboot", "off"  # what the cluster does when it is in earnest, and what is seen for sure
BACK_S = 600.0
_LEAVE_S = 60.0
_PAUSE_S = 0.5
SETTLE_S = 60.0


@dataclass(frozen=True)
class Situation:
    """What decides whether *node* may be fenced now.

    *node_id*: corosync's, -1 for none.  *votes_error*: why there are no *votes*.
    """

    node: str
    this_node: str
    node_id: int
    status: Status
    events: tuple[FencingEvent, ...]
    votes: Votes | None
    votes_error: str = ""


def obstacles(now: Situation) -> Iterator[str]:
    """Yield every reason against fencing the node now."""
    if now.node.lower() == now.this_node.lower():
        yield "it is this node: run this on another one"
    own = now.status.node(now.node)
    if own is None:
        yield "crm_mon does not show it"
    elif not is_member(own):
        yield f"it is not well: {condition(own)}"
    for other in now.status.nodes:
        if other.name != now.node and (other.is_unclean or other.is_pending):
            yield f"{other.name} is not well: {condition(other)}"
    if now.status.with_quorum is not True:
        yield "the cluster has no quorum"
    if now.status.is_fencing_enabled is False:
        yield "fencing is disabled: vmfence cluster properties set stonith-enabled=true"
    for event in now.events:
        if event.status == fencer.PENDING:
            yield f"a fencing of {event.target} is under way"
    if own is None or not own.is_remote:
        yield from _lost_votes(now)


def _lost_votes(now: Situation) -> Iterator[str]:
    if now.votes is None:
        yield f"the votes of the rest are not known: {now.votes_error}"
        return
    if now.node_id not in now.votes.by_node:
        yield "corosync does not list it among its members"
        return
    left = now.votes.without(now.node_id)
    if left < now.votes.needed:
        yield f"without it the rest has {left} of {now.votes.total} votes and needs {now.votes.needed} for quorum"


def prepare(node: str, means: Means) -> Survey:
    """Return how *node* would be rehearsed now.  Raises VmfenceError with every reason against it."""
    pacemaker = means.pacemaker
    seen = targets.survey(node, means)
    found: Votes | None = None
    votes_error = ""
    try:
        found = means.count_votes()
    except VmfenceError as error:
        votes_error = str(error).rstrip(".")
    situation = Situation(
        node=seen.aim.node,
        this_node=pacemaker.node_name(),
        node_id=seen.aim.node_id,
        status=pacemaker.load_status(),
        events=pacemaker.fencing_history(),
        votes=found,
        votes_error=votes_error,
    )
    against = [*obstacles(situation), *_obscurities(seen.aim), *_unfit_guests(seen)]
    if against:
        raise VmfenceError(f"{seen.aim.node} cannot be rehearsed now", "; ".join(against), seen.silence())
    return seen


def _obscurities(aim: Aim) -> Iterator[str]:
    """Yield why nothing that is seen would prove that a device of ours fences the node."""
    for rival in aim.rivals:
        why = "may fence it too, and the fencer does not tell what did"
        yield f"{rival.what} {why}; for the time of the rehearsal: {rival.remedy}"
    for rival in aim.resetters:
        why = "resets a node that hears of its own fencing, so it would come back even if another guest was fenced"
        yield f"{rival.what} {why}; for the time of the rehearsal: {rival.remedy}"


def _unfit_guests(seen: Survey) -> Iterator[str]:
    if seen.disagreement():
        yield seen.disagreement()
        return
    found = seen.sightings[0]
    if found.look.sight is not Sight.RUNNING:
        yield f"its guest {found.target.guest} is not seen running at the host: {found.look}"


def prepare_again(before: Survey, means: Means, limit_s: float = 0.0) -> Survey:
    """Do what prepare() did *before* once more, giving a cluster that has just fenced a node *limit_s* to settle.

    Raises VmfenceError also when something else would be fenced than before.
    """
    node = before.aim.node
    end = means.clock() + limit_s
    while True:
        try:
            now = prepare(node, means)
            break
        except VmfenceError:
            if means.clock() >= end:
                raise
        means.sleep(_PAUSE_S)
    if now.has_changed(before):
        raise targets.changed(before, now)
    return now


class Rehearsal:
    """One rehearsal.  *tell* hears what is waited for; *back_timeout_s*: for the node to be in the cluster again.

    *is_unseen*: the cluster called it done, but the host was too fast, or too busy, to show it: nothing is known.
    """

    def __init__(self, survey: Survey, method: str, means: Means, tell: Tell, back_timeout_s: float = BACK_S) -> None:
        aim = survey.aim
        self._node, self._guest = aim.node, survey.watched[0].target.guest
        self._method, self._means, self._tell = method, means, tell
        self._back_timeout_s = back_timeout_s
        self._attempt = Attempt(survey, method == OFF, means)
        self.is_unseen = False
        self._presence = Presence(aim.node, aim.node_id, means)
        self._proof = Proof(
            node=aim.node,
            at=datetime.fromtimestamp(time.time(), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            is_proven=False,
            reason=f"interrupted; if it is off, start it: {command_line(['stonith_admin', f'--unfence={aim.node}'])}",
            method=method,
            guest=self._guest,
            device=aim.device,
            agent=aim.agent,
        )

    def proof(self) -> Proof:
        """Return what is to be recorded: before and after, and after an interruption."""
        course = self._attempt.course
        return replace(self._proof, down_s=_rounded(course.off_s if self._method == OFF else course.down_s))

    def begin(self) -> None:
        """Look for the last time before the node is fenced.  Raises VmfenceError when its guest does not run."""
        seen = self._attempt.begin()
        if seen.sight is not Sight.RUNNING:
            raise VmfenceError(f"{self._node} was not fenced", f"its guest {self._guest} is {seen} by now")

    def hold(self) -> Proof:
        """After begin(): fence the node, watch it come back, and return what came of it."""
        node, attempt = self._node, self._attempt
        self._tell(f"{node}: being fenced")
        # Not before the guest was seen down: each question to the cluster is a moment in which the host is not watched.
        attempt.guard.meanwhile = lambda: attempt.course.down_s is not None and self._presence.has_left()
        attempt.run()
        if self._method == REBOOT:
            attempt.guard.until(self._presence.has_left, _LEAVE_S if attempt.course.down_s is not None else 0)
            attempt.await_start()
        faults = self._judge()
        if self._method == OFF:
            faults += self._start_again(is_fenced=not faults)
        if not faults:
            faults += self._await_return()
        self._proof = replace(self._proof, is_proven=not faults, reason="; ".join(faults))
        return self.proof()

    def _judge(self) -> tuple[str, ...]:
        """Take in what the fencing shows, and return its faults."""
        found = self._attempt.result()
        self._proof = replace(
            self._proof,
            fence_s=_rounded(found.fence_s),
            delegate=found.event.delegate if found.event is not None else "",
        )
        self.is_unseen = found.is_claimed and found.is_unseen
        return verdict.faults(found)

    def _start_again(self, is_fenced: bool) -> tuple[str, ...]:
        """Start the guest, whatever went wrong before, unless it runs."""
        node, guest, course = self._node, self._guest, self._attempt.course
        if is_fenced:
            self._tell(f"{node}: off at the host, waiting for it to leave the cluster")
            self._wait(self._presence.has_left, _LEAVE_S)
        elif course.last.sight is Sight.RUNNING:
            return ()
        self._tell(f"{node}: being started again")
        try:
            self._attempt.unfence()
        except VmfenceError as error:
            why = str(error).rstrip(".")
            remedy = f"start it on the host: {command_line(['virsh', 'start', guest])}"
            return (f"it could not be started again: {why}; {remedy}",)
        if is_fenced and course.back_s is None:
            return (f"guest {guest} was not seen running after its start: {course.last}",)
        return ()

    def _await_return(self) -> tuple[str, ...]:
        node, presence = self._node, self._presence
        self._tell(f"{node}: off and on again at the host, waiting for it to come back into the cluster")
        if not presence.has_left():
            return (f"it was fenced, but not seen to leave the cluster: {presence.last}",)
        if self._wait(presence.is_back, self._back_timeout_s):
            self._proof = replace(self._proof, back_s=_rounded(self._attempt.guard.elapsed_s()))
            return ()
        enable = command_line(["pcs", "cluster", "enable", node])
        remedy = f"see its console, and whether it starts the cluster by itself: {enable}"
        return (f"it did not come back into the cluster in {self._back_timeout_s:.0f} s ({presence.last}): {remedy}",)

    def _wait(self, is_over: Callable[[], bool], limit_s: float) -> bool:
        """Wait without looking at the host."""
        end = self._means.clock() + limit_s
        while not is_over():
            if self._means.clock() >= end:
                return False
            self._means.sleep(_PAUSE_S)
        return True


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)
