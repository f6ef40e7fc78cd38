"""One place decides: a request from a proven origin becomes a reply.

Every listener hands its requests to the same service.  It applies the access rules, keeps the actions on one guest in
order, drives the backend, and says "success" only after the state was read back.  It opens no socket.
Deadlines are seconds of the monotonic clock.
"""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from dataclasses import dataclass, replace
from typing import Callable

from vmfence.errors import (
    BackendError,
    DeadlineExceeded,
    GuestNotFound,
    PolicyDenied,
    Unconfirmed,
    Unreachable,
    VmfenceError,
)
from vmfence.host.backends.base import Backend, Guest
from vmfence.policy import Origin, Policy
from vmfence.protocol.reply import Code, Record
from vmfence.protocol.request import GUEST_ACTIONS, POWER_ACTIONS, Action, Request

log = logging.getLogger(__name__)

# Two seconds less than the agent waits by default, so that the reason of a failure reaches it.
QUERY_S = 13.0
POWER_S = 28.0
# How long a power action waits for libvirt to come back before it begins: a restart takes a second or two.
PATIENCE_S = 10.0
START_AFTER_OFF_S = 30.0
_PAUSE_S = 0.2
_POLL_S = 0.02
_POLL_LONGEST_S = 0.5


@dataclass(frozen=True)
class Reply:
    """The answer to one request.

    *code* is a code of the wire, *detail* says why, for the log; *guest* is the one acted on, if it was found.
    """

    code: Code
    detail: str = ""
    records: tuple[Record, ...] | None = None
    guest: Guest | None = None

    @property
    def result(self) -> str:
        """One word for the log."""
        return {Code.SUCCESS: "ok", Code.OFF: "off", Code.DENIED: "denied", Code.LIST: "ok"}.get(self.code, "failed")


class OriginGone(VmfenceError):
    """The client has left before we acted: nothing was done, nobody is to be answered."""


@dataclass(frozen=True)
class Caller:
    """Who asks: where from, which group's key proved it (None: the listener's), and whether it still waits."""

    origin: Origin
    key_id: str | None
    is_gone: Callable[[], bool]


@dataclass
class Rules:
    """What a configuration decides about requests."""

    policy: Policy
    reboot_method: str = "cycle"


def time_allowed_s(action: int) -> float:
    """Return how many seconds a request may take from its receipt to its answer."""
    return POWER_S if action in POWER_ACTIONS else QUERY_S


class Service:
    """Carries out requests.  *rules* and *backend* are exchanged on reload; locks and jobs stay."""

    def __init__(self, backend: Backend, rules: Rules) -> None:
        self.backend = backend
        self.rules = rules
        # Told of a start that failed when the reboot it belongs to had been answered already.
        self.on_late_failure: Callable[[Guest, str], None] = lambda guest, detail: None
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._jobs: set[asyncio.Task[None]] = set()

    async def handle(self, request: Request, caller: Caller, deadline: float) -> Reply:
        """Return the reply to *request*, at *deadline* at the latest.  Raises OriginGone when nobody waits for it."""
        try:
            return await self._handle(request, caller, deadline)
        except PolicyDenied as error:
            return Reply(Code.DENIED, str(error))
        except OriginGone:
            raise
        except VmfenceError as error:
            return Reply(Code.FAILURE, str(error))

    async def knows(self, target: str, deadline: float) -> bool:
        """Whether a guest called *target* exists here; unknown counts as yes, so that the failure is answered."""
        try:
            await self.backend.find(target, deadline)
        except GuestNotFound:
            return False
        except BackendError:
            return True
        return True

    async def finish(self, limit_s: float) -> int:
        """Wait for the actions that have begun, at most *limit_s*; return how many are still under way."""
        if self._jobs:
            await asyncio.wait(set(self._jobs), timeout=limit_s)
        return len(self._jobs)

    async def _handle(self, request: Request, caller: Caller, deadline: float) -> Reply:
        if request.action == Action.MONITOR:
            await self.backend.ping(deadline)
            return Reply(Code.SUCCESS)
        if request.action == Action.LIST:
            return await self._list(caller, deadline)
        if request.action not in GUEST_ACTIONS:
            return Reply(Code.FAILURE, "no such action")
        if request.action == Action.STATUS:
            return _status(await self._permitted(request.target, caller, deadline))
        guest = await self._permitted_at_last(request.target, caller, deadline)
        try:
            reply = await self._power(Action(request.action), guest, caller, deadline)
        except OriginGone:
            raise
        except VmfenceError as error:
            reply = Reply(Code.FAILURE, str(error))
        return replace(reply, guest=guest)

    async def _list(self, caller: Caller, deadline: float) -> Reply:
        policy = self.rules.policy
        guests = [
            g for g in await self.backend.guests(deadline) if policy.shows(caller.origin, caller.key_id, g.name, g.uuid)
        ]
        guests.sort(key=lambda guest: guest.name.lower())
        return Reply(Code.LIST, f"{len(guests)} guests", tuple(Record(g.name, g.uuid, g.state) for g in guests))

    async def _permitted(self, target: str, caller: Caller, deadline: float) -> Guest:
        """Return the guest called *target*.  Raises PolicyDenied; GuestNotFound only to those who may know."""
        try:
            guest = await self.backend.find(target, deadline)
        except GuestNotFound:
            if not self.rules.policy.mentions(caller.origin, caller.key_id, target):
                raise PolicyDenied(
                    "no group lists this guest for this origin", f"no guest is called {target!r} either"
                ) from None
            raise
        self.rules.policy.check(caller.origin, caller.key_id, guest.name, guest.uuid)
        return guest

    async def _permitted_at_last(self, target: str, caller: Caller, deadline: float) -> Guest:
        """As _permitted, but an unreachable hypervisor is asked again for a while: it may be restarting."""
        end = min(deadline, time.monotonic() + PATIENCE_S)
        while True:
            try:
                return await self._permitted(target, caller, deadline)
            except Unreachable:
                if time.monotonic() + _PAUSE_S >= end or caller.is_gone():
                    raise
            await asyncio.sleep(_PAUSE_S)

    async def _power(self, action: Action, guest: Guest, caller: Caller, deadline: float) -> Reply:
        """Run the action as a job of its own: it holds the guest's lock to its end, we wait to the deadline."""
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        job = asyncio.create_task(self._job(action, guest, caller, deadline, answer))
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        try:
            return await asyncio.wait_for(asyncio.shield(answer), max(0.0, deadline - time.monotonic()))
        except asyncio.TimeoutError:
            raise DeadlineExceeded(
                f"{action} of {guest.name} was not confirmed in time", "it may still take effect"
            ) from None

    async def _job(
        self, action: Action, guest: Guest, caller: Caller, deadline: float, answer: asyncio.Future[Reply]
    ) -> None:
        lock = self._locks.setdefault(guest.uuid, asyncio.Lock())
        try:
            async with lock:
                # Here a request may have waited long behind another one.  A late fence is worse than none.
                if caller.is_gone():
                    raise OriginGone(f"the client left before {action} of {guest.name} began")
                if time.monotonic() >= deadline:
                    raise DeadlineExceeded(
                        f"too late to begin {action} of {guest.name}", "earlier actions took too long"
                    )
                await self._act(action, guest, caller, deadline, answer)
        except VmfenceError as error:
            _settle(answer, error)
        except Exception as error:
            # The one worker: a defect of ours fails this request, aloud, and nothing else.
            log.exception("%s of %s failed", action, guest.name)
            _settle(answer, BackendError("internal error", repr(error)))

    async def _act(
        self, action: Action, guest: Guest, caller: Caller, deadline: float, answer: asyncio.Future[Reply]
    ) -> None:
        if action is Action.OFF:
            await self._off(guest, caller.is_gone, deadline)
        elif action is Action.ON:
            await self._on(guest, caller.is_gone, deadline)
        elif self.rules.reboot_method == "reset" and not (await self.backend.find(guest.uuid, deadline)).is_off:
            await self._reset(guest, deadline)
        else:
            await self._off(guest, caller.is_gone, deadline)
            await self._start_again(guest, deadline, answer)
        _settle(answer, Reply(Code.SUCCESS))

    async def _off(self, guest: Guest, is_gone: Callable[[], bool], deadline: float) -> None:
        """Return once *guest* was seen not running.

        An unreachable hypervisor is asked again until the deadline: it may be restarting.  But nothing is done anew
        for a client that has left meanwhile.  A refusal counts only if the guest, read again, is still not off: it may
        have ended by itself.
        """
        refusal: BackendError | None = None
        while True:
            try:
                now = await self.backend.find(guest.uuid, deadline)
                if now.is_off:
                    return
                if now.moved:
                    raise Unconfirmed(f"{guest.name} was migrated away", "another host may be running it")
                if refusal is not None:
                    raise refusal
                _refuse_if(is_gone, f"off of {guest.name}")
                refusal = await self._refusal_of_off(now, deadline)
                if refusal is None:
                    await self._wait_for(guest, lambda seen: seen.is_off, "still running", deadline)
                    return
            except Unreachable:
                if time.monotonic() + _PAUSE_S >= deadline:
                    raise
                await asyncio.sleep(_PAUSE_S)

    async def _refusal_of_off(self, guest: Guest, deadline: float) -> BackendError | None:
        """Power *guest* off; return why the hypervisor would not, if it would not."""
        try:
            await self.backend.power_off(guest, deadline)
        except (Unreachable, GuestNotFound, Unconfirmed):
            raise
        except BackendError as error:
            return error
        return None

    async def _on(self, guest: Guest, is_gone: Callable[[], bool], deadline: float) -> None:
        """Return once *guest* was seen running; an unreachable hypervisor is asked again, as by _off."""
        while True:
            try:
                await self._on_once(guest, is_gone, deadline)
                return
            except Unreachable:
                if time.monotonic() + _PAUSE_S >= deadline:
                    raise
            await asyncio.sleep(_PAUSE_S)

    async def _on_once(self, guest: Guest, is_gone: Callable[[], bool], deadline: float) -> None:
        """Boot *guest* unless it runs.  One that is paused or crashed is not woken: that is no boot."""
        now = await self.backend.find(guest.uuid, deadline)
        if now.is_running:
            return
        _refuse_if(is_gone, f"on of {guest.name}")
        if not now.is_off and not now.moved:
            raise BackendError(
                f"{guest.name} is {now.state.name.lower()}", "on starts guests that are off", "use reboot"
            )
        try:
            await self.backend.power_on(now, deadline)
        except BackendError:
            if not (await self.backend.find(guest.uuid, deadline)).is_running:
                raise
        await self._wait_for(guest, lambda seen: seen.is_running, "not running", deadline)

    async def _reset(self, guest: Guest, deadline: float) -> None:
        await self.backend.reset(guest, deadline)
        await self._wait_for(guest, lambda seen: seen.is_running, "not running after its reset", deadline)

    async def _start_again(self, guest: Guest, deadline: float, answer: asyncio.Future[Reply]) -> None:
        """Start *guest* after a confirmed off.  For the cluster the off was the point, so that this can only succeed.

        The start has time of its own.  When the client's time is over first, it gets its answer and the start goes on.
        """
        start = asyncio.ensure_future(self._on(guest, lambda: False, time.monotonic() + START_AFTER_OFF_S))
        done, _ = await asyncio.wait({start}, timeout=max(0.0, deadline - time.monotonic() - 1.0))
        if not done:
            _settle(answer, Reply(Code.SUCCESS, "off was confirmed, the start is still under way"))
        try:
            await start
        except VmfenceError as error:
            log.error("%s is off and could not be started again: %s", guest.name, error)
            if answer.done():
                self.on_late_failure(guest, str(error))
            _settle(answer, Reply(Code.SUCCESS, f"off was confirmed, but the start failed: {error}"))

    async def _wait_for(
        self, guest: Guest, is_reached: Callable[[Guest], bool], otherwise: str, deadline: float
    ) -> None:
        """Read *guest*'s state until it is the one wanted.

        Raises Unconfirmed at the deadline, GuestNotFound, Unreachable.
        """
        pause = _POLL_S
        while True:
            seen = await self.backend.find(guest.uuid, deadline)
            if is_reached(seen):
                return
            if time.monotonic() + pause >= deadline:
                raise Unconfirmed(f"{guest.name} is {otherwise}", f"libvirt says {seen.state.name.lower()}")
            await asyncio.sleep(pause)
            pause = min(pause * 2, _POLL_LONGEST_S)


def _refuse_if(is_gone: Callable[[], bool], what: str) -> None:
    """Raise OriginGone when nobody waits for *what* any more."""
    if is_gone():
        raise OriginGone(f"the client left before {what} was done")


def _status(guest: Guest) -> Reply:
    if guest.moved:
        return Reply(Code.FAILURE, f"{guest.name} was migrated away: another host may be running it")
    return Reply(Code.OFF) if guest.is_off else Reply(Code.SUCCESS, guest.state.name.lower())


def _settle(answer: asyncio.Future[Reply], outcome: Reply | VmfenceError) -> None:
    """Give the waiting request its outcome, unless it has one or has stopped waiting."""
    if answer.done():
        return
    if isinstance(outcome, Reply):
        answer.set_result(outcome)
    else:
        answer.set_exception(outcome)
        answer.exception()  # marked as seen: the one who waited may be gone
