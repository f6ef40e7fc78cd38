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
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from typing import Callable, Protocol

from vmfence.errors import (
    BackendError,
    DeadlineExceeded,
    GuestNotFound,
    PolicyDenied,
    Unreachable,
    VmfenceError,
)
from vmfence.host.backends.base import Backend, Guest
from vmfence.host.pool.verdict import NotVouched
from vmfence.host.power import PAUSE_S, PowerJob, look
from vmfence.policy import Origin, Policy
from vmfence.protocol.reply import Code, Record, State, guest_count
from vmfence.protocol.request import GUEST_ACTIONS, POWER_ACTIONS, Action, Request

log = logging.getLogger(__name__)

# Two seconds less than the agent waits by default, so that the reason of a failure reaches it.
QUERY_S = 13.0
POWER_S = 28.0
# How long a power action waits for libvirt to come back before it begins: a restart takes a second or two.
PATIENCE_S = 10.0


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


class Pool(Protocol):
    """Several hosts as one: a guest is found, and acted on, wherever it is.  Raises as a backend does."""

    async def ping(self, deadline: float) -> None:
        """Return if this host is one of the pool."""

    async def find(self, target: str, deadline: float) -> Guest:
        """Return the guest called *target* as it is on whatever host."""

    def speaks_for(self, guest: Guest) -> bool:
        """Whether this is the host that answers for the guest as find() gave it, where several hear a request."""

    async def find_for(self, action: Action, target: str, deadline: float) -> Guest:
        """Return the guest called *target* for carry_out()."""

    async def guests(self, deadline: float) -> list[Guest]:
        """Return the guests of all hosts."""

    async def carry_out(self, action: Action, guest: Guest, deadline: float) -> tuple[Code, str]:
        """Let the host that has the guest carry out *action*; return its code, and what is to be said of it."""


class Service:
    """Carries out requests.  *rules* and *backend* are exchanged on reload; locks and jobs stay.

    With a *pool*, the backend is what this host does for it.
    """

    def __init__(self, backend: Backend, rules: Rules) -> None:
        self.backend = backend
        self.rules = rules
        self.pool: Pool | None = None
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

    async def knows(self, target: str, deadline: float, is_shared: bool = False) -> bool:
        """Whether to answer for a guest called *target*, for a host that is silent about those of others.

        That is a guest of this host, or of its pool; where other hosts of the pool may have heard the same request
        (*is_shared*), one for which this is the host to answer.  An unreachable hypervisor is asked again for a while;
        at the end the answer is no, and the log has a warning: a host that cannot tell must not answer before the one
        that has the guest.
        """
        end = min(deadline, time.monotonic() + PATIENCE_S)
        while True:
            try:
                guest = await self._finder.find(target, deadline)
            except GuestNotFound:
                return False
            except Unreachable as error:
                if time.monotonic() + PAUSE_S >= end:
                    log.warning("cannot tell whether %r is a guest of this host: %s", target, error)
                    return False
                await asyncio.sleep(PAUSE_S)
                continue
            except BackendError as error:
                if is_shared and isinstance(error, NotVouched):
                    log.warning("silent about %r, which another host may know: %s", target, error)
                    return False
                return True  # it is here, more than once: that is answered
            return self.pool is None or not is_shared or self.pool.speaks_for(guest)

    async def finish(self, limit_s: float) -> int:
        """Wait for the actions that have begun, at most *limit_s*; return how many are still under way."""
        if self._jobs:
            await asyncio.wait(set(self._jobs), timeout=limit_s)
        return len(self._jobs)

    async def carry_out_here(
        self, action: Action, uuid: str, is_gone: Callable[[], bool], deadline: float
    ) -> tuple[Code, str, State]:
        """Carry out a power action on a guest of this host for another one, which *is_gone* tells of.

        That one has judged whether it is allowed.  Return the code, why it failed, and the state that the guest had
        directly before it was ended, "none" if it was not.
        """
        ended = [State.NONE]
        try:
            guest = await look(self.backend, uuid, action is Action.ON, deadline)
            reply = await self._power(action, guest, Caller(Origin("pool"), None, is_gone), deadline, ended.append)
        except VmfenceError as error:
            return Code.FAILURE, str(error), State.NONE
        return reply.code, reply.detail, ended[-1]

    @property
    def _finder(self) -> Backend | Pool:
        return self.backend if self.pool is None else self.pool

    async def _handle(self, request: Request, caller: Caller, deadline: float) -> Reply:
        if request.action == Action.MONITOR:
            await self.backend.ping(deadline)
            if self.pool is not None:
                await self.pool.ping(deadline)
            return Reply(Code.SUCCESS)
        if request.action == Action.LIST:
            return await self._list(caller, deadline)
        if request.action not in GUEST_ACTIONS:
            return Reply(Code.FAILURE, "no such action")
        if request.action == Action.STATUS:
            target = request.target
            return _status(await self._permitted(lambda: self._finder.find(target, deadline), target, caller))
        action = Action(request.action)
        guest = await self._permitted_at_last(request.target, action, caller, deadline)
        try:
            reply = await self._carry_out(action, guest, caller, deadline)
        except OriginGone:
            raise
        except VmfenceError as error:
            reply = Reply(Code.FAILURE, str(error))
        return replace(reply, guest=guest)

    async def _list(self, caller: Caller, deadline: float) -> Reply:
        policy = self.rules.policy
        guests = [
            g for g in await self._finder.guests(deadline) if policy.shows(caller.origin, caller.key_id, g.name, g.uuid)
        ]
        guests.sort(key=lambda guest: guest.name.lower())
        return Reply(Code.LIST, guest_count(len(guests)), tuple(Record(g.name, g.uuid, g.state) for g in guests))

    async def _permitted(self, find: Callable[[], Awaitable[Guest]], target: str, caller: Caller) -> Guest:
        """Return the guest called *target*.  Raises PolicyDenied; GuestNotFound only to those who may know."""
        try:
            guest = await find()
        except GuestNotFound:
            if not self.rules.policy.mentions(caller.origin, caller.key_id, target):
                raise PolicyDenied(
                    "no group lists this guest for this origin", f"no guest is called {target!r} either"
                ) from None
            raise
        self.rules.policy.check(caller.origin, caller.key_id, guest.name, guest.uuid)
        return guest

    async def _permitted_at_last(self, target: str, action: Action, caller: Caller, deadline: float) -> Guest:
        """As _permitted, but an unreachable hypervisor is asked again for a while: it may be restarting."""
        end = min(deadline, time.monotonic() + PATIENCE_S)

        def find() -> Awaitable[Guest]:
            if self.pool is not None:
                return self.pool.find_for(action, target, deadline)
            return look(self.backend, target, action is Action.ON, deadline)

        while True:
            try:
                return await self._permitted(find, target, caller)
            except Unreachable:
                if time.monotonic() + PAUSE_S >= end or caller.is_gone():
                    raise
            await asyncio.sleep(PAUSE_S)

    async def _carry_out(self, action: Action, guest: Guest, caller: Caller, deadline: float) -> Reply:
        """Carry out the action where the guest is."""
        if self.pool is None:
            return await self._power(action, guest, caller, deadline)
        if caller.is_gone():
            raise OriginGone(f"the client left before {action} of {guest.name} was done")
        return Reply(*await self.pool.carry_out(action, guest, deadline))

    async def _power(
        self,
        action: Action,
        guest: Guest,
        caller: Caller,
        deadline: float,
        on_end: Callable[[State], None] = lambda _: None,
    ) -> Reply:
        """Run the action as a job of its own: it holds the guest's lock to its end, we wait to the deadline."""
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

        def still_wanted() -> None:
            """Raise unless somebody still waits for this.  A late fence is worse than none."""
            if caller.is_gone():
                raise OriginGone(f"the client left before {action} of {guest.name} was done")
            if time.monotonic() >= deadline:
                raise DeadlineExceeded(f"too late for {action} of {guest.name}", "what came before took too long")

        work = PowerJob(
            action,
            guest,
            self.backend,
            self.rules.reboot_method == "reset",
            still_wanted,
            deadline,
            lambda detail: _settle(answer, Reply(Code.SUCCESS, detail)),
            self.on_late_failure,
            on_end,
        )
        job = asyncio.create_task(self._run(work, answer))
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        try:
            return await asyncio.wait_for(asyncio.shield(answer), max(0.0, deadline - time.monotonic()))
        except asyncio.TimeoutError:
            what = f"{action} of {guest.name} was not confirmed in time"
            raise DeadlineExceeded(what, "it may still take effect") from None

    async def _run(self, job: PowerJob, answer: asyncio.Future[Reply]) -> None:
        lock = self._locks.setdefault(job.guest.uuid, asyncio.Lock())
        try:
            async with lock:
                job.still_wanted()  # it may have waited long behind another one
                await job.run()
        except VmfenceError as error:
            _settle(answer, error)
        except Exception as error:
            # The one worker: a defect of ours fails this request, aloud, and nothing else.
            log.exception("%s of %s failed", job.action, job.guest.name)
            _settle(answer, BackendError("internal error", repr(error)))


def _status(guest: Guest) -> Reply:
    if guest.moved:
        return Reply(Code.FAILURE, f"{guest.name} was migrated away: another host may be running it")
    return Reply(Code.OFF) if guest.is_off else Reply(Code.SUCCESS, guest.state.name.lower())


def _settle(answer: asyncio.Future[Reply], outcome: Reply | VmfenceError) -> bool:
    """Give the waiting request its outcome; False if it has one or has stopped waiting."""
    if answer.done():
        return False
    if isinstance(outcome, Reply):
        answer.set_result(outcome)
    else:
        answer.set_exception(outcome)
        answer.exception()  # marked as seen: the one who waited may be gone
    return True
