"""One power action on one guest, from its first look to the state read back.

Runs while the service holds the guest's lock, on the backend that the request began with.  Success is settled only
after the state was read back at the places where it acted.  Nothing is begun for a client that has left, or too late:
still_wanted() is asked directly before each step that changes anything, in the thread that takes it.
Deadlines are seconds of the monotonic clock.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Callable

from vmfence.errors import BackendError, GuestNotFound, Unconfirmed, Unreachable, VmfenceError
from vmfence.host.backends.base import Backend, Guest, Wanted
from vmfence.protocol.reply import State
from vmfence.protocol.request import Action

log = logging.getLogger(__name__)

PAUSE_S = 0.2
START_AFTER_OFF_S = 30.0
_POLL_S = 0.02
_POLL_LONGEST_S = 0.5
# The client's own time ends soon after the deadline; the answer has to leave before.
_ANSWER_S = 1.0


@dataclass(frozen=True)
class PowerJob:
    """One action.

    *settle* takes the detail of a success, the first time counts; *on_late_failure* a start that failed after that;
    *on_end* the state that the guest had directly before it was ended.
    """

    action: Action
    guest: Guest
    backend: Backend
    is_reset_enough: bool
    still_wanted: Wanted
    deadline: float
    settle: Callable[[str], bool]
    on_late_failure: Callable[[Guest, str], None]
    on_end: Callable[[State], None] = lambda _: None

    async def run(self) -> None:
        """Carry it out.  Raises VmfenceError when it failed."""
        if self.action is Action.ON:
            await self._on()
        elif self.action is Action.OFF:
            await self._off()
        elif not (self.is_reset_enough and await self._reset()):
            await self._start_again(await self._off())
        self.settle("")

    async def _reset(self) -> bool:
        """Return once the guest was reset and seen running; False if it is off, where there is nothing to reset."""
        now = await look(self.backend, self.guest.uuid, False, self.deadline)
        if now.is_off:
            return False
        await self.backend.reset(now, self.deadline, self.still_wanted)
        await self._wait_for(now, lambda seen: seen.is_running, "not running after its reset", self.deadline)
        return True

    async def _off(self) -> Guest:
        """Return the guest once it was seen not running.

        An unreachable hypervisor is asked again until the deadline: it may be restarting.  A refusal counts only if
        the guest, read again, is still there and not off: it may have ended, or moved to another place, by itself.
        """
        refused: tuple[Guest, BackendError] | None = None
        while True:
            try:
                now = await look(self.backend, self.guest.uuid, False, self.deadline)
                if now.is_off:
                    return now
                if now.moved:
                    raise Unconfirmed(f"{now.name} was migrated away", "another host may be running it")
                if refused is not None and refused[0].places == now.places:
                    raise refused[1]
                refusal = await self._refusal_of_off(now)
                if refusal is None:
                    return await self._wait_for(now, lambda seen: seen.is_off, "still running", self.deadline)
                refused = now, refusal
            except Unreachable as error:
                await _pause(error, self.deadline)

    async def _refusal_of_off(self, guest: Guest) -> BackendError | None:
        """Power *guest* off; return why the hypervisor would not, if it would not."""
        try:
            self.on_end(await self.backend.power_off(guest, self.deadline, self.still_wanted))
        except (Unreachable, GuestNotFound, Unconfirmed):
            raise
        except BackendError as error:
            return error
        return None

    async def _on(self) -> None:
        """Return once the guest was seen running."""
        while True:
            try:
                now = await look(self.backend, self.guest.uuid, True, self.deadline)
                return await self._boot(now, self.still_wanted, self.deadline)
            except Unreachable as error:
                await _pause(error, self.deadline)

    async def _boot(self, now: Guest, still_wanted: Wanted, deadline: float) -> None:
        """Boot the guest seen as *now*, unless it runs.

        One that is paused or crashed is not woken: that is no boot.
        """
        if now.is_running:
            return
        if not now.is_off and not now.moved:
            state = now.state.name.lower()
            raise BackendError(f"{now.name} is {state}", "on starts guests that are off", "use reboot")
        try:
            await self.backend.power_on(now, deadline, still_wanted)
        except BackendError:
            if not (await self.backend.read_back(now, deadline)).is_running:
                raise
        await self._wait_for(now, lambda seen: seen.is_running, "not running", deadline)

    async def _start_again(self, ended: Guest) -> None:
        """Start the guest after a confirmed off.  For the cluster the off was the point, so that this can only succeed.

        The start has time of its own.  When the client's time is over first, it gets its answer and the start goes on.
        """
        start = asyncio.ensure_future(self._start(ended, time.monotonic() + START_AFTER_OFF_S))
        done, _ = await asyncio.wait({start}, timeout=max(0.0, self.deadline - time.monotonic() - _ANSWER_S))
        if not done:
            self.settle("off was confirmed, the start is still under way")
        try:
            await start
        except VmfenceError as error:
            log.error("%s is off and could not be started again: %s", ended.name, error)
            if not self.settle(f"off was confirmed, but the start failed: {error}"):
                self.on_late_failure(ended, str(error))

    async def _start(self, ended: Guest, deadline: float) -> None:
        """Boot *ended* whoever still waits: a guest that was fenced by reboot is to come back."""
        while True:
            try:
                now = await self.backend.read_back(ended, deadline)
                return await self._boot(now, _always, deadline)
            except Unreachable as error:
                await _pause(error, deadline)

    async def _wait_for(
        self, guest: Guest, is_reached: Callable[[Guest], bool], otherwise: str, deadline: float
    ) -> Guest:
        """Read *guest*'s state back until it is the one wanted, and return it so.

        Raises Unconfirmed at the deadline, GuestNotFound, Unreachable.
        """
        pause = _POLL_S
        while True:
            seen = await self.backend.read_back(guest, deadline)
            if is_reached(seen):
                return seen
            if time.monotonic() + pause >= deadline:
                raise Unconfirmed(f"{guest.name} is {otherwise}", f"libvirt says {seen.state.name.lower()}")
            await asyncio.sleep(pause)
            pause = min(pause * 2, _POLL_LONGEST_S)


async def look(backend: Backend, target: str, is_for_start: bool, deadline: float) -> Guest:
    """Return the guest called *target*, also one that libvirt forgot because this daemon ended it.

    Such a transient guest can be started again at any time; as "off" it counts only for a moment after its end, so
    that a fence which is asked for again succeeds again.  Raises what Backend.find raises.
    """
    try:
        return await backend.find(target, deadline)
    except GuestNotFound:
        remembered = backend.remembered(target, lately=not is_for_start)
        if remembered is None:
            raise
        return remembered


async def _pause(error: Unreachable, deadline: float) -> None:
    """Wait a moment before trying again.  Raises *error* when there is no time for that."""
    if time.monotonic() + PAUSE_S >= deadline:
        raise error
    await asyncio.sleep(PAUSE_S)


def _always() -> None:
    pass
