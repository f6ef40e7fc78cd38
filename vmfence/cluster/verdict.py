"""Judge a fencing: what keeps it from being done, and what else is worth telling.  Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vmfence.cluster import fencer
from vmfence.cluster.fencing import Fencing
from vmfence.cluster.watch import Course, Sight
from vmfence.findings import command_line

_GAP_S = 1.0


def faults(fencing: Fencing) -> tuple[str, ...]:
    """Return what keeps *fencing* from being done, as sentences; nothing when cluster and host both saw it."""
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
    elif event.delegate == fencer.A_HUMAN:
        yield f"somebody confirmed by hand that {event.target} is down, so the fencer used no device"
    elif event.delegate.lower() == event.target.lower():
        yield f"{event.target} itself reported it, which a node that was fenced cannot: another guest was, or nothing"


def _faults_of_host(fencing: Fencing) -> Iterator[str]:
    course, guest = fencing.course, fencing.target.guest
    if len(fencing.watched) > 1:
        shown = ", ".join(f"{target.guest} ({_story(course)})" for target, course in fencing.watched)
        yield f"its devices lead to different guests, and which of them is the node is not known: {shown}"
    elif course.began_off:
        yield from _faults_of_off(fencing)
    elif fencing.is_unseen:
        if fencing.rejoined_s is None:
            yield f"{_claim(fencing)}, but guest {guest} was not seen off at the host: {_why_unseen(fencing)}"
    elif not fencing.is_off and course.back_s is None:
        yield f"guest {guest} went down after {course.down_s:.1f} s and was not seen running again: {course.last}"
    elif fencing.is_off and course.last.sight is Sight.RUNNING:
        yield f"guest {guest} went off after {course.off_s:.1f} s, but did not stay so: {course.last}"


def _faults_of_off(fencing: Fencing) -> Iterator[str]:
    """Judge a guest that was off when it was first seen."""
    course, guest, node = fencing.course, fencing.target.guest, fencing.target.node
    if fencing.was_online:
        remedy = "see which guest it is: vmfence cluster map"
        yield f"guest {guest} was off while {node} was online in the cluster, so it is not its guest; {remedy}"
    elif fencing.is_off and course.last.sight is not Sight.OFF:
        yield f"guest {guest} was off before, and then {course.last}"
    elif not fencing.is_off and course.last.sight is not Sight.RUNNING:
        yield f"guest {guest} was off before, and was not seen running after that: {course.last}"


def _claim(fencing: Fencing) -> str:
    is_success = fencing.event is not None and fencing.event.status == fencer.SUCCESS
    return "fenced according to the cluster" if is_success else "not fenced according to the cluster"


def _why_unseen(fencing: Fencing) -> str:
    """Say what the host showed instead, and how to see more."""
    course = fencing.course
    sights = {seen.sight for _, seen in course.changes}
    if sights == {Sight.SILENT}:
        remedy = f"see why nobody answers by {fencing.target.inquiry}: vmfence guest check"
        return f"it never answered ({course.last}); {remedy}"
    if sights <= {Sight.SILENT, Sight.ABSENT}:
        return "it never showed this guest; see what it has: vmfence cluster map"
    if Sight.ABSENT in sights:
        return "for a time its list lacked the guest, which proves nothing"
    if course.gap_s >= _GAP_S:  # where an off would hide
        why = f"it showed nothing for {course.gap_s:.1f} s, as fence_virtd does while it reboots"
    else:
        why = f"it was {course.last} whenever the host was asked"
    if fencing.is_off or not fencing.is_claimed:
        return why
    again = command_line(["vmfence", "cluster", "fence", "--off", fencing.target.node])
    return f"{why}, and the cluster showed nothing that proves it; an off is seen for sure: {again}"


def notes(fencing: Fencing) -> tuple[str, ...]:
    """Return what is worth telling and is no fault."""
    rivals = ", ".join(rival.what for rival in fencing.aim.rivals)
    told = (f"{rivals} may have fenced it, and not a device of ours: the fencer does not tell",) if rivals else ()
    return (*told, *_notes_of_host(fencing))


def _notes_of_host(fencing: Fencing) -> tuple[str, ...]:
    guest, course = fencing.target.guest, fencing.course
    if course.began_off and not fencing.was_online:
        return (f"guest {guest} was off already, so this shows nothing of the path to it",)
    if fencing.rejoined_s is not None:
        seen = f"the node left it and joined anew, and was back after {fencing.rejoined_s:.1f} s"
        return (f"the host did not show guest {guest} off; judged by the cluster: {seen}",)
    if fencing.error and course.off_s is not None:
        return (f"guest {guest} was seen off all the same, after {course.off_s:.1f} s",)
    return ()


def story(fencing: Fencing) -> Iterator[str]:
    """Yield lines that say what cluster and host showed."""
    event = fencing.event
    if event is not None:
        by = f" by {event.delegate}" if event.delegate else ""
        yield f"cluster  {event.action} of {event.target}: {event.status}{by}, {event.completed or 'not ended'}"
    for target, course in fencing.watched:
        yield f"host     {target.guest}: {_story(course)}"


def _story(course: Course) -> str:
    down = [(at_s, seen) for at_s, seen in course.changes if seen.sight in (Sight.HALTED, Sight.OFF) and at_s]
    words = [f"{Sight.OFF.value} before"] if course.began_off else []
    words += [f"{seen} after {at_s:.1f} s" for at_s, seen in down]
    if course.back_s is not None:
        words.append(f"running{'' if course.began_off else ' again'} after {course.back_s:.1f} s")
    return ", ".join(words) or f"not seen off, is {course.last}"


def as_dict(fencing: Fencing) -> Mapping[str, Any]:
    """Return *fencing* with its faults and notes, fit for JSON."""
    event = fencing.event
    guests = [_guest(target.guest, course) for target, course in fencing.watched]
    main = [target for target, _ in fencing.watched].index(fencing.target)
    return {
        "node": fencing.aim.node,
        "action": fencing.action,
        "is_proven": not faults(fencing),
        "faults": list(faults(fencing)),
        "notes": list(notes(fencing)),
        "device": fencing.aim.device,
        "agent": fencing.aim.agent,
        "other_means": [rival.what for rival in fencing.aim.rivals],
        "fence_s": round(fencing.fence_s, 2),
        "rejoined_s": None if fencing.rejoined_s is None else round(fencing.rejoined_s, 2),
        "event": None if event is None else event.__dict__,
        "guest": guests.pop(main),
        "other_guests": guests,
    }


def _guest(name: str, course: Course) -> dict[str, Any]:
    return {
        "name": name,
        "before": str(course.changes[0][1]),
        "down_s": course.down_s,
        "off_s": course.off_s,
        "back_s": course.back_s,
        "now": str(course.last),
        "seen": course.as_list(),
    }
