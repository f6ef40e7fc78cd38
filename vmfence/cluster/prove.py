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

from vmfence.cluster import fencer, fencing
from vmfence.cluster.cib import Cib
from vmfence.cluster.fencer import FencingEvent
from vmfence.cluster.fencing import Attempt, Means, Target
from vmfence.cluster.proofs import Proof
from vmfence.cluster.status import NodeStatus, Status
from vmfence.cluster.votes import Votes
from vmfence.cluster.watch import Look, Sight
from vmfence.errors import VmfenceError

REBOOT, OFF = "reboot", "off"  # what the cluster does when it is in earnest, and what is seen for sure
BACK_S = 600.0
_LEAVE_S = 60.0
_PAUSE_S = 0.5
_SETTLE_S = 60.0

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Situation:
    """What decides whether *node* may be fenced now.  *votes_error*: why there are no *votes*."""

    node: str
    this_node: str
    cib: Cib
    status: Status
    events: tuple[FencingEvent, ...]
    votes: Votes | None
    votes_error: str = ""


@dataclass(frozen=True)
class Ready:
    """A node that may be rehearsed now, and what its host shows of it.  *node_id*: corosync's, -1 for none."""

    target: Target
    before: Look
    node_id: int = -1


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
    node_id = corosync_id(now.node, now.cib)
    if node_id not in now.votes.by_node:
        yield "corosync does not list it among its members"
        return
    left = now.votes.without(node_id)
    if left < now.votes.needed:
        yield f"without it the rest has {left} of {now.votes.total} votes and needs {now.votes.needed} for quorum"


def corosync_id(node: str, cib: Cib) -> int:
    """Return the number by which corosync knows *node*, -1 for one that it does not know."""
    found = next((one for one in cib.nodes if one.name == node and not one.is_remote), None)
    return int(found.id) if found is not None and found.id.isascii() and found.id.isdecimal() else -1


def is_member(node: NodeStatus) -> bool:
    """Whether the cluster can count on *node*."""
    return node.is_online and not (node.is_unclean or node.is_pending or node.is_maintenance)


def condition(node: NodeStatus) -> str:
    """Return in words what the cluster says of *node*."""
    words = {"online" if node.is_online else "offline": True, "unclean": node.is_unclean, "pending": node.is_pending}
    words["in maintenance"] = node.is_maintenance
    return ", ".join(word for word, holds in words.items() if holds)


def prepare(node: str, means: Means) -> Ready:
    """Return how *node* would be rehearsed.  Raises VmfenceError with every reason against it."""
    pacemaker = means.pacemaker
    cib = pacemaker.load_cib()
    targets = fencing.locate(node, cib, pacemaker)
    found: Votes | None = None
    votes_error = ""
    try:
        found = means.count_votes()
    except VmfenceError as error:
        votes_error = str(error).rstrip(".")
    situation = Situation(
        node=targets[0].node,
        this_node=pacemaker.node_name(),
        cib=cib,
        status=pacemaker.load_status(),
        events=pacemaker.fencing_history(),
        votes=found,
        votes_error=votes_error,
    )
    against = list(obstacles(situation))
    target, before = fencing.first_shown(targets, means)
    if before.sight is not Sight.RUNNING:
        against.append(f"its guest {target.guest} is not seen running at the host: {before}")
    if against:
        raise VmfenceError(f"{target.node} cannot be rehearsed now", "; ".join(against))
    return Ready(target, before, corosync_id(target.node, cib))


def prepare_again(node: str, means: Means, limit_s: float = _SETTLE_S) -> Ready:
    """Do what prepare() does, giving a cluster that has just fenced a node time to settle."""
    end = means.clock() + limit_s
    while True:
        try:
            return prepare(node, means)
        except VmfenceError:
            if means.clock() >= end:
                raise
        means.sleep(_PAUSE_S)


class Presence:
    """Whether a node has left the cluster since, and come back; asked not more often than is good for the cluster.

    A guest may start so fast that crm_mon never shows it missing, but corosync counts how often each node joins.
    """

    def __init__(self, node: str, node_id: int, means: Means) -> None:
        self._node, self._node_id, self._means = node, node_id, means
        self._next = means.clock()
        self._has_left = self._is_back = False
        self.last = "not asked"
        self._joins = self._count_joins()

    def has_left(self) -> bool:
        """Whether it was seen offline or on its way in, or has joined anew."""
        self._ask()
        return self._has_left

    def is_back(self) -> bool:
        """Whether it was seen as a member after that."""
        self._ask()
        return self._is_back

    def _ask(self) -> None:
        if self._means.clock() < self._next:
            return
        had_left = self._has_left
        try:
            found = self._means.pacemaker.load_status().node(self._node)
        except VmfenceError as error:
            self.last = str(error).rstrip(".")
        else:
            is_away = found is None or not found.is_online or found.is_pending
            self._has_left = had_left or is_away or self._has_joined_anew()
            self._is_back = had_left and found is not None and is_member(found)
            self.last = "gone from crm_mon" if found is None else condition(found)
        self._next = self._means.clock() + _PAUSE_S

    def _has_joined_anew(self) -> bool:
        joins = self._count_joins()
        return joins is not None and self._joins is not None and joins > self._joins

    def _count_joins(self) -> int | None:
        try:
            return self._means.count_joins().get(self._node_id)
        except VmfenceError:
            return None  # crm_mon alone decides then


class Rehearsal:
    """One rehearsal.  *tell* hears what is waited for; *back_timeout_s*: for the node to be in the cluster again.

    *is_unseen*: the cluster called it done, but the host was too fast, or too busy, to show it: nothing is known.
    """

    def __init__(self, ready: Ready, method: str, means: Means, tell: Tell, back_timeout_s: float = BACK_S) -> None:
        self._target, self._method, self._means, self._tell = ready.target, method, means, tell
        self._back_timeout_s = back_timeout_s
        self._attempt = Attempt(ready.target, method == OFF, ready.before, means)
        self.is_unseen = False
        self._presence = Presence(ready.target.node, ready.node_id, means)
        self._proof = Proof(
            node=ready.target.node,
            at=datetime.fromtimestamp(time.time(), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            is_proven=False,
            reason="interrupted",
            method=method,
            guest=ready.target.guest,
            device=ready.target.device,
            agent=ready.target.agent,
        )

    def proof(self) -> Proof:
        """Return what is to be recorded, now or after an interruption."""
        course = self._attempt.course
        return replace(self._proof, down_s=_rounded(course.off_s if self._method == OFF else course.down_s))

    def hold(self) -> Proof:
        """Fence the node, watch it come back, and return what came of it.  Raises VmfenceError if nothing was begun."""
        node, attempt = self._target.node, self._attempt
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
        is_done = found.event is not None and found.event.status == fencer.SUCCESS and not found.error
        self.is_unseen = is_done and fencing.is_unseen(found.course, found.is_off)
        return fencing.faults(found)

    def _start_again(self, is_fenced: bool) -> tuple[str, ...]:
        """Start the guest, whatever went wrong before, unless it runs."""
        node, guest, course = self._target.node, self._target.guest, self._attempt.course
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
            return (f"it could not be started again: {why}; start it on the host: virsh start {guest}",)
        if is_fenced and course.back_s is None:
            return (f"guest {guest} was not seen running after its start: {course.last}",)
        return ()

    def _await_return(self) -> tuple[str, ...]:
        node, presence = self._target.node, self._presence
        self._tell(f"{node}: off and on again at the host, waiting for it to come back into the cluster")
        if not presence.has_left():
            return (f"it was fenced, but not seen to leave the cluster: {presence.last}",)
        if self._wait(presence.is_back, self._back_timeout_s):
            self._proof = replace(self._proof, back_s=_rounded(self._attempt.guard.elapsed_s()))
            return ()
        remedy = f"see its console, and whether it starts the cluster by itself: pcs cluster enable {node}"
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
