"""What the host that was asked does, step by step: find a guest in the pool, act on it where it is, ask all again.

Pure: generators that yield what they need and are sent the answers; the member (member.py) drives them, in the daemon
and in simulations alike.  Each ends by returning its result or by raising a VmfenceError, which means failure.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Union

from vmfence.errors import BackendError, GuestNotFound, Unconfirmed, VmfenceError
from vmfence.host.backends.base import Guest
from vmfence.host.pool.effects import Departed, Standing
from vmfence.host.pool.verdict import (
    EXECUTING,
    NotVouched,
    View,
    doubts,
    doubts_about_last,
    doubts_after,
    suspects,
    unseen,
)
from vmfence.policy import is_uuid
from vmfence.protocol.reply import Code, State
from vmfence.protocol.request import Action

ROUNDS_MAX = 4
REFERENCE_STATUS_S = 3.0


@dataclass(frozen=True)
class AskAll:
    """Ask all members of the guest called *target*; answered with a View."""

    target: str
    is_for_start: bool = False


@dataclass(frozen=True)
class Command:
    """Let the host *node*, one of ours, carry out an action; answered with an Outcome.

    It is not ordered, and the answer is None, where the members have told otherwise than in *standing* since.
    """

    node: int
    action: Action
    uuid: str
    offset_s: float
    standing: Standing | None = None


@dataclass(frozen=True)
class AskReference:
    """Send a request of fence_virtd's; answered with what the host *node* replies, or None.

    That is an Outcome; it tells the state in which *node* had the guest *uuid* when it got the request.  *standing* is
    as in Command.
    """

    node: int
    action: Action
    target: str
    uuid: str
    limit_s: float | None = None
    standing: Standing | None = None


@dataclass(frozen=True)
class AskFenced:
    """Which of these hosts were fenced since they left?  Answered with their set.

    None is the answer if the group has changed since *standing*, or meanwhile.
    """

    hosts: tuple[Departed, ...]
    standing: Standing | None = None


Step = Union[AskAll, Command, AskReference, AskFenced]


@dataclass(frozen=True)
class Outcome:
    """How an action ended: a code of the wire, and why.

    *ended*: the guest's state directly before it was ended; 0: it was not, or that is not known.
    """

    code: Code
    detail: str = ""
    ended: int = 0


@dataclass(frozen=True)
class Sighted(Guest):
    """A guest of the pool, and the view it was found in."""

    view: View = View({})  # noqa: RUF009 - frozen


Steps = Generator[Step, Any, Any]


def find(target: str, is_for_start: bool = False, is_for_action: bool = False) -> Steps:
    """Return the guest called *target* as Sighted.

    Shut off only if that is vouched for, or *is_for_action*, where the action looks after that.  Raises GuestNotFound
    when all say so, NotVouched when its state cannot be told, BackendError when the name means several.
    """
    trouble: VmfenceError | None = None
    for _ in range(ROUNDS_MAX):
        try:
            return (yield from _find(target, is_for_start, is_for_action))
        except _Changed as error:
            trouble = error
    raise trouble or Unconfirmed(f"what {target} is was not found out")


def _find(target: str, is_for_start: bool, is_for_action: bool) -> Steps:
    view = yield AskAll(target, is_for_start)
    if not view.active() and len(view.uuids()) == 1 and not is_uuid(target):
        # By its UUID it may be known under another name elsewhere.
        view = yield AskAll(next(iter(view.uuids())), is_for_start)
    if len(view.uuids()) > 1:
        raise BackendError(f"the name {target} means several guests", "on different hosts", "use the UUID")
    entry = view.any_entry()
    active = list(view.active().values())
    if active:
        best = next((each for each in active if each.state in (State.RUNNING, State.BLOCKED)), active[0])
        state = State(best.state) if best.state in State._value2member_map_ else State.NONE
        return Sighted(best.name, best.uuid, state, view=view)
    if entry is None:
        if reasons := _why_not_unknown(view):
            raise NotVouched(f"whether {target} is a guest of this pool cannot be told", "; ".join(reasons))
        if view.is_changed:
            raise _Changed(target)
        raise GuestNotFound(f"no guest is called {target}", "no host of the pool knows it")
    if not is_for_action and (reasons := (yield from _doubts(view))):
        raise NotVouched(f"nobody can vouch that {entry.name} is off", "; ".join(reasons))
    return Sighted(entry.name, entry.uuid, State.SHUT_OFF, view=view)


def carry_out(action: Action, guest: Guest, view: View) -> Steps:
    """Return the Outcome of *action* on *guest*, seen in *view*.  Raises VmfenceError when it failed."""
    works = {Action.OFF: _off, Action.ON: _on, Action.REBOOT: _reboot}
    trouble: VmfenceError | None = None
    for _ in range(ROUNDS_MAX):
        try:
            return (yield from works[action](guest, view))
        except _Refused as error:
            # It may have moved, or its host may be gone: where it is now decides whether to go on.
            trouble = error
        except _Changed as error:
            trouble = error
        before, view = view, (yield AskAll(guest.uuid, action is Action.ON))
        if isinstance(trouble, _Refused) and view.active().keys() == before.active().keys():
            break
    raise trouble or Unconfirmed(f"{action} of {guest.name} was not confirmed")


def serve_reference(action: int, target: str) -> Steps:
    """Return the code for a request of fence_virtd, which has judged itself whether it is allowed."""
    if action not in (Action.OFF, Action.ON, Action.REBOOT, Action.STATUS):
        return Outcome(Code.FAILURE, "no such action")
    is_power = action != Action.STATUS
    guest = yield from find(target, action == Action.ON, is_power)
    if is_power and guest.view.active() and guest.view.active().keys() <= guest.view.references:
        return Outcome(Code.FAILURE, "fence_virtd there acts on the same request by itself")
    if is_power:
        return (yield from carry_out(Action(action), guest, guest.view))
    return Outcome(Code.OFF if guest.is_off else Code.SUCCESS)


class _Refused(BackendError):
    """A host did not carry out its part."""


class _Changed(NotVouched):
    """What was found is not so any more: all have to be asked again."""

    def __init__(self, target: str) -> None:
        super().__init__(f"where {target} is cannot be told", "it moved, or hosts came or went, while all were asked")


def _off(guest: Guest, view: View) -> Steps:
    active = view.active()
    if not active:
        yield from _vouch(guest, view)
        return Outcome(Code.SUCCESS, "was off")
    yield from _end(guest, view)
    return Outcome(Code.SUCCESS, f"at host {_places(active)}")


def _end(guest: Guest, view: View) -> Steps:
    """End *guest* wherever it is active, then ask everybody; return the hosts where it was ended.

    Raises _Refused, NotVouched.
    """
    active = view.active()
    failures, ended = [], []
    for node in active:
        try:
            ended.append((yield from _command(node, Action.OFF, guest, view)).ended)
        except _Refused as error:  # what fails at one does not spare the others
            failures.append(error)
    if failures:
        raise failures[0]
    after = yield AskAll(guest.uuid)
    if after.active() and after.active().keys() != active.keys():
        raise _Refused(f"{guest.name} came to host {_places(after.active())} meanwhile")
    if EXECUTING.isdisjoint(ended):
        # It may have been about to come here, or to leave, and run at the other end: its host counts it as moved.
        reasons = yield from _doubts(after)
    else:
        fenced = yield from _fenced(after, is_seen_active=True)
        reasons = doubts_after(after, frozenset(active), fenced)
    if reasons:
        raise NotVouched(f"{guest.name} was ended, and may run elsewhere", "; ".join(reasons))
    return list(active)


def _on(guest: Guest, view: View) -> Steps:
    if active := view.active():
        if any(entry.state in (State.RUNNING, State.BLOCKED) for entry in active.values()):
            return Outcome(Code.SUCCESS, f"runs at host {_places(active)}")
        state = guest.state.name.lower()
        raise BackendError(f"{guest.name} is {state}", "on starts guests that are off", "use reboot")
    yield from _vouch(guest, view)
    yield from _command(node := _home(guest, view), Action.ON, guest, view, view.standing)
    return Outcome(Code.SUCCESS, f"at host {node}")


def _reboot(guest: Guest, view: View) -> Steps:
    """Off, certain everywhere, and only then on: what came to run elsewhere meanwhile would run twice."""
    if active := view.active():
        running = [node for node, entry in active.items() if entry.state in (State.RUNNING, State.BLOCKED)]
        yield from _end(guest, view)
        node = next(iter(running or active))
    else:
        yield from _vouch(guest, view)
        try:
            node = _home(guest, view)
        except BackendError as error:
            # For a cluster the off is the point: a guest whose host was fenced is off, and nobody here can start it.
            return Outcome(Code.SUCCESS, f"was off, and stays off: {error}")
    try:
        yield from _command(node, Action.ON, guest, view, None if active else view.standing)
    except _Refused as error:
        return Outcome(Code.SUCCESS, f"off was confirmed, but the start failed: {error}")
    return Outcome(Code.SUCCESS, f"{'' if active else 'was off, '}at host {node}")


def _vouch(guest: Guest, view: View) -> Steps:
    """Return if *guest*, which is active nowhere in *view*, is certainly off.  Raises NotVouched."""
    if reasons := (yield from _doubts(view)):
        raise NotVouched(f"nobody can vouch that {guest.name} is off", "; ".join(reasons))


def _doubts(view: View) -> Steps:
    found = doubts(view, (yield from _fenced(view, is_seen_active=False)))
    if not found and view.is_changed:
        raise _Changed(_called(view))
    return found


def _fenced(view: View, is_seen_active: bool) -> Steps:
    """Return the hosts that are away and were fenced since they left; none where that does not matter."""
    matters = bool(suspects(view, is_seen_active))
    if not is_seen_active:
        matters = matters or bool(unseen(view) or doubts_about_last(view, frozenset()))
    if not matters or not view.away:
        return frozenset()
    found = (Departed(node, away.left_at, away.fence_before) for node, away in sorted(view.away.items()))
    fenced = yield AskFenced(tuple(found), view.standing)
    if fenced is None:
        raise _Changed(_called(view))
    return fenced


def _home(guest: Guest, view: View) -> int:
    """Return the host at which to start *guest*: every host that is asked has to come to the same."""
    ended = view.ended()
    if not ended:
        raise BackendError(f"{guest.name} cannot be started", "no host that is here has its definition")
    had_it = [node for node in ended if node in view.last]
    node = min(had_it or ended)
    if node in view.references and len([each for each in ended if each in view.references]) > 1:
        raise BackendError(f"{guest.name} cannot be started", "several hosts with fence_virtd have it and would all")
    return node


def _command(node: int, action: Action, guest: Guest, view: View, standing: Standing | None = None) -> Steps:
    """Let *node* carry out *action*, if things stand as in *standing*, and return its Outcome.

    Raises _Refused, _Changed.
    """
    if node in view.references:
        outcome = yield from _command_reference(node, action, guest, standing)
    else:
        outcome = yield Command(node, action, guest.uuid, view.offsets_s[node], standing)
    if outcome is None:
        raise _Changed(guest.name)
    if outcome.code != Code.SUCCESS:
        raise _Refused(f"host {node} did not carry out {action} of {guest.name}", outcome.detail)
    return outcome


def _command_reference(node: int, action: Action, guest: Guest, standing: Standing | None) -> Steps:
    """Return the Outcome of *action* at *node*, which runs fence_virtd; only off and on can be believed.

    In each of its modes it finds one kind of name alone, and may answer "success" for the other, having done nothing.
    So it is asked first for the status: "on" is said only of a guest that it has found.  A start finds or fails.
    """
    refused = Outcome(Code.FAILURE, "fence_virtd does not say why")
    for text in (guest.name, guest.uuid):
        if action is not Action.ON:
            status = yield AskReference(node, Action.STATUS, text, guest.uuid, REFERENCE_STATUS_S)
            if status is None or status.code != Code.SUCCESS:
                continue
        done = yield AskReference(node, action, text, guest.uuid, standing=standing)
        if done is not None and done.code == Code.SUCCESS:
            return done
        if action is not Action.ON:
            break
    return refused


def _why_not_unknown(view: View) -> list[str]:
    """Return why a guest that nobody has seen may exist nevertheless."""
    found = [] if view.is_quorate else ["the group of hosts is not quorate"]
    found += [f"host {node} does not tell: {why}" for node, why in sorted(view.silent.items())]
    return found + [f"host {node} is away and nobody knows what guests it has" for node in sorted(view.unheard)]


def _called(view: View) -> str:
    entry = view.any_entry()
    return "the guest" if entry is None else entry.name


def _places(nodes: dict[int, Any]) -> str:
    return ", ".join(map(str, nodes))
