"""The libvirt backend: guests of one or several URIs.

It asks all hypervisors at once and knows which answers prove what: a guest is unknown only when everybody says so, and
off only when nobody who may run it is silent.  While a call on a guest is under way that nobody waits for any more, no
other power action on that guest is begun.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from concurrent.futures import Future
from typing import Callable, TypeVar

import libvirt

from vmfence.errors import BackendError, GuestNotFound, Unreachable
from vmfence.host.backends import domains
from vmfence.host.backends.base import Guest, HypervisorStatus
from vmfence.host.backends.hypervisor import Hypervisor, run_event_loop
from vmfence.protocol.reply import State

log = logging.getLogger(__name__)
T = TypeVar("T")

LOOK_UP_S = 5.0
SUSPECT_LOOK_UP_S = 0.5
_REMEMBERED_TRANSIENTS = 1000


class LibvirtBackend:
    """Guests of one or several libvirt URIs (fence_virt.conf: uri, uri1, uri2 ...)."""

    def __init__(self, uris: tuple[str, ...]) -> None:
        run_event_loop()
        self._hypervisors = tuple(Hypervisor(uri) for uri in uris)
        self._unfinished: dict[str, Future[None]] = {}
        self._ended: OrderedDict[str, tuple[Guest, str]] = OrderedDict()

    async def ping(self, deadline: float) -> None:
        """Return if every hypervisor answers.  Raises Unreachable naming those that do not."""
        _, silent = await self._ask_all(lambda connection: connection.getLibVersion(), deadline)
        if silent:
            raise Unreachable("; ".join(str(error).rstrip(".") for error in silent))

    async def find(self, target: str, deadline: float) -> Guest:
        """Return the guest called *target*.

        Raises GuestNotFound when every hypervisor says so, Unreachable when one that may run it cannot be asked,
        BackendError when the name means two guests.
        """
        seen, silent = await self._ask_all(lambda connection: domains.look_up(connection, target), deadline)
        sightings = [(place, guest) for place, guest in seen if guest is not None]
        if len({guest.uuid for _, guest in sightings}) > 1:
            raise BackendError(f"the name {target} means several guests", "each on another URI", "use the UUID")
        if sightings:
            guest = _merge(sightings)
            self._ended.pop(guest.uuid, None)
        else:
            guest = self._find_ended(target, silent)
        if silent and not _is_active(guest):
            raise Unreachable(f"the state of {target} is unknown", str(silent[0]))
        return guest

    async def guests(self, deadline: float) -> list[Guest]:
        """Return the guests of all hypervisors that answer; a silent one is logged.  Raises Unreachable if all are."""
        seen, silent = await self._ask_all(domains.list_guests, deadline)
        if silent and not seen:
            raise silent[0]
        for error in silent:
            log.warning("the list of guests is incomplete: %s", error)
        by_uuid: dict[str, list[tuple[int, Guest]]] = {}
        for place, guests in seen:
            for guest in guests:
                by_uuid.setdefault(guest.uuid, []).append((place, guest))
        return [_merge(sightings) for sightings in by_uuid.values()]

    async def power_off(self, guest: Guest, deadline: float) -> None:
        """Destroy *guest* at every place where it runs."""
        for place in guest.places:
            await self._power(place, guest, lambda connection: self._destroy(connection, guest, deadline), deadline)

    async def power_on(self, guest: Guest, deadline: float) -> None:
        """Boot *guest* afresh.  One that was migrated away is refused: another host may be running it."""
        if guest.moved:
            raise BackendError(f"{guest.name} was migrated away", "another host may be running it")
        xml = self._ended[guest.uuid][1] if guest.uuid in self._ended else None
        await self._power(
            guest.places[0], guest, lambda connection: domains.start(connection, guest, xml, deadline), deadline
        )

    async def reset(self, guest: Guest, deadline: float) -> None:
        """Reset *guest* and wait for the hypervisor's event.  Raises Unconfirmed when it does not come."""
        await self._power(
            guest.places[0], guest, lambda connection: domains.reset(connection, guest, deadline), deadline
        )

    def describe(self) -> tuple[HypervisorStatus, ...]:
        """Return what is known of each hypervisor without asking."""
        return tuple(hypervisor.describe() for hypervisor in self._hypervisors)

    def is_busy(self) -> bool:
        """Whether calls are still running in threads."""
        return any(hypervisor.is_busy() for hypervisor in self._hypervisors)

    def close(self) -> None:
        """Close all connections."""
        for hypervisor in self._hypervisors:
            hypervisor.close()

    async def _ask_all(
        self, work: Callable[[libvirt.virConnect], T], deadline: float
    ) -> tuple[list[tuple[int, T]], list[BackendError]]:
        """Ask all hypervisors at once; return (place, answer) of those that answered and the errors of the others.

        One that failed last time gets little time, so that it does not delay the guests of the others.
        """

        async def ask(place: int, hypervisor: Hypervisor) -> tuple[int, T]:
            alone = len(self._hypervisors) == 1
            limit = SUSPECT_LOOK_UP_S if hypervisor.suspect and not alone else LOOK_UP_S
            return place, await hypervisor.call(work, min(deadline, time.monotonic() + limit))

        asked = [ask(place, hypervisor) for place, hypervisor in enumerate(self._hypervisors)]
        answers: list[tuple[int, T]] = []
        errors: list[BackendError] = []
        for result in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(result, BackendError):
                errors.append(result)
            elif isinstance(result, BaseException):
                raise result
            else:
                answers.append(result)
        return answers, errors

    def _find_ended(self, target: str, silent: list[BackendError]) -> Guest:
        """Return a transient guest that this daemon itself ended: libvirt forgets those, we keep the last XML."""
        for guest, _ in self._ended.values():
            if target == guest.name or target.lower() == guest.uuid:
                return guest
        if silent:
            raise Unreachable(f"the state of {target} is unknown", str(silent[0]))
        raise GuestNotFound(f"no guest is called {target}", "libvirt does not know it")

    async def _power(
        self, place: int, guest: Guest, work: Callable[[libvirt.virConnect], None], deadline: float
    ) -> None:
        """Carry out *work* unless an earlier power action on the guest is still under way at the deadline."""
        hypervisor = self._hypervisors[place]
        earlier = self._unfinished.get(guest.uuid)
        if earlier is not None and not earlier.done():
            await asyncio.wait({asyncio.wrap_future(earlier)}, timeout=max(0.0, deadline - time.monotonic()))
            if not earlier.done():
                raise Unreachable(f"an earlier power action on {guest.name} has not ended", "libvirt does not answer")
        future = hypervisor.submit(work, repeatable=False)
        self._unfinished[guest.uuid] = future
        try:
            await hypervisor.wait(future, deadline)
        finally:
            if future.done():
                self._unfinished.pop(guest.uuid, None)

    def _destroy(self, connection: libvirt.virConnect, guest: Guest, deadline: float) -> None:
        xml = domains.destroy(connection, guest, deadline)
        if xml is not None:
            self._ended[guest.uuid] = Guest(guest.name, guest.uuid, State.SHUT_OFF, guest.places), xml
            while len(self._ended) > _REMEMBERED_TRANSIENTS:
                self._ended.popitem(last=False)


def _is_active(guest: Guest) -> bool:
    return guest.state is not State.SHUT_OFF


def _merge(sightings: list[tuple[int, Guest]]) -> Guest:
    """Return one guest made of the same guest seen at several places: running anywhere is running."""
    active = [sighting for sighting in sightings if _is_active(sighting[1])]
    chosen = active or sightings
    best = next((guest for _, guest in chosen if guest.is_running), chosen[0][1])
    moved = not active and any(guest.moved for _, guest in chosen)
    return Guest(best.name, best.uuid, best.state, tuple(place for place, _ in chosen), moved)
