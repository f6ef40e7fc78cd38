"""The libvirt backend: guests of one or several URIs.

It asks all hypervisors at once and knows which answers prove what: a guest is unknown only when everybody says so, and
off only when nobody who may run it is silent.  While a call on a guest is under way that nobody waits for any more, no
other power action on that guest is begun.
"""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import Future
from typing import Callable, TypeVar

from vmfence.errors import BackendError, GuestNotFound, Unreachable
from vmfence.host.backends import binding as libvirt
from vmfence.host.backends import domains
from vmfence.host.backends.base import Guest, HypervisorStatus, Wanted
from vmfence.host.backends.hypervisor import Hypervisor, run_event_loop
from vmfence.host.backends.transients import TransientMemory
from vmfence.host.backends.watch import Follower, GuestWatch
from vmfence.protocol.reply import State

log = logging.getLogger(__name__)
T = TypeVar("T")

LOOK_UP_S = 5.0
SUSPECT_LOOK_UP_S = 0.5
# libvirt holds a guest whose process hangs for the ten seconds that it gives it to end; a list waits for all guests.
LIST_S = 12.0


class LibvirtBackend:
    """Guests of one or several libvirt URIs (fence_virt.conf: uri, uri1, uri2 ...)."""

    def __init__(self, uris: tuple[str, ...]) -> None:
        run_event_loop()
        self._hypervisors = tuple(Hypervisor(uri) for uri in uris)
        self._others: dict[str, Hypervisor] = {}  # asked by a watch alone
        self._followers: dict[Hypervisor, Follower] = {}
        self._unfinished: dict[str, Future[None]] = {}
        self._transients = TransientMemory()

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
        asked_at = time.monotonic()
        seen, silent = await self._ask_all(lambda connection: domains.look_up(connection, target), deadline)
        sightings = [(place, guest) for place, guest in seen if guest is not None]
        if len({guest.uuid for _, guest in sightings}) > 1:
            raise BackendError(f"the name {target} means several guests", "each on another URI", "use the UUID")
        if not sightings:
            if silent:
                raise Unreachable(f"the state of {target} is unknown", str(silent[0]))
            raise GuestNotFound(f"no guest is called {target}", "libvirt does not know it")
        guest = _merge(sightings)
        self._transients.seen(guest.uuid, asked_at)
        if silent and not _is_active(guest):
            raise Unreachable(f"the state of {target} is unknown", str(silent[0]))
        return guest

    def remembered(self, target: str, lately: bool) -> Guest | None:
        """Return a transient guest that we ended; *lately*: within the last RETRY_S, and not seen since."""
        return self._transients.find(target, lately)

    async def read_back(self, guest: Guest, deadline: float) -> Guest:
        """Return *guest* as it is at its places alone: what is silent elsewhere says nothing about our own action."""
        seen, silent = await self._ask_all(lambda c: domains.look_up(c, guest.uuid), deadline, guest.places)
        if silent:
            raise Unreachable(f"the state of {guest.name} is unknown", str(silent[0]))
        sightings = [(place, found) for place, found in seen if found is not None]
        if sightings:
            return _merge(sightings)
        ended = self._transients.find(guest.uuid, lately=True)
        if ended is None:
            raise GuestNotFound(f"{guest.name} has vanished", "libvirt does not know it any more")
        return ended

    async def guests(self, deadline: float) -> list[Guest]:
        """Return the guests of all hypervisors that answer; a silent one is logged.  Raises Unreachable if all are."""
        seen, silent = await self._ask_all(domains.list_guests, deadline, limit_s=LIST_S)
        if silent and not seen:
            raise silent[0]
        for error in silent:
            log.warning("the list of guests is incomplete: %s", error)
        by_uuid: dict[str, list[tuple[int, Guest]]] = {}
        for place, guests in seen:
            for guest in guests:
                by_uuid.setdefault(guest.uuid, []).append((place, guest))
        return [_merge(sightings) for sightings in by_uuid.values()]

    async def power_off(self, guest: Guest, deadline: float, still_wanted: Wanted) -> State:
        """Destroy *guest* at all its places; what fails at one does not spare the others."""
        before: list[State] = []

        def work(connection: libvirt.virConnect) -> None:
            before.append(
                domains.destroy(connection, guest, still_wanted, lambda xml: self._transients.keep(guest, xml))
            )
            self._transients.ended(guest.uuid)

        failures: list[BackendError] = []
        for place in guest.places:
            try:
                await self._power(place, guest, work, deadline)
            except BackendError as error:
                failures.append(error)
        if failures:
            raise failures[0]
        return State.RUNNING if State.RUNNING in before else before[0]

    async def power_on(self, guest: Guest, deadline: float, still_wanted: Wanted) -> None:
        """Boot *guest* afresh.  One that was migrated away is refused: another host may be running it."""
        if guest.moved:
            raise BackendError(f"{guest.name} was migrated away", "another host may be running it")
        xml = self._transients.xml(guest.uuid)

        def work(connection: libvirt.virConnect) -> None:
            domains.start(connection, guest, xml, still_wanted)

        await self._power(guest.places[0], guest, work, deadline)

    async def reset(self, guest: Guest, deadline: float, still_wanted: Wanted) -> None:
        """Reset *guest* and wait for the hypervisor's event.  Raises Unconfirmed when it does not come."""

        def work(connection: libvirt.virConnect) -> None:
            domains.reset(connection, guest, still_wanted, deadline)

        await self._power(guest.places[0], guest, work, deadline)

    def describe(self) -> tuple[HypervisorStatus, ...]:
        """Return what is known of each hypervisor without asking."""
        return tuple(hypervisor.describe() for hypervisor in self._hypervisors)

    def is_busy(self) -> bool:
        """Whether calls are still running in threads."""
        return any(hypervisor.is_busy() for hypervisor in (*self._hypervisors, *self._others.values()))

    def watch(self, uri: str | None) -> GuestWatch:
        """Return a watch, not yet open, of the guests at *uri*, or at all URIs of this backend."""
        wanted = self._hypervisors if uri is None else (self._at(uri),)
        return GuestWatch(self._followers.setdefault(each, Follower(each)) for each in wanted)

    def close(self) -> None:
        """Close all connections, once nobody is told of their events any more."""
        for follower in self._followers.values():
            follower.finish()
        for hypervisor in (*self._hypervisors, *self._others.values()):
            hypervisor.close()

    def _at(self, uri: str) -> Hypervisor:
        ours = next((hypervisor for hypervisor in self._hypervisors if hypervisor.uri == uri), None)
        return ours or self._others.setdefault(uri, Hypervisor(uri))

    async def _ask_all(
        self,
        work: Callable[[libvirt.virConnect], T],
        deadline: float,
        places: tuple[int, ...] | None = None,
        limit_s: float = LOOK_UP_S,
    ) -> tuple[list[tuple[int, T]], list[BackendError]]:
        """Ask all hypervisors, or those at *places*, at once.

        Return (place, answer) of those that answered, and the errors of the others.

        One that failed last time gets little time, so that it does not delay the guests of the others.
        """

        async def ask(place: int, hypervisor: Hypervisor) -> tuple[int, T]:
            alone = len(self._hypervisors) == 1
            limit = SUSPECT_LOOK_UP_S if hypervisor.suspect and not alone else limit_s
            return place, await hypervisor.call(work, min(deadline, time.monotonic() + limit))

        wanted = range(len(self._hypervisors)) if places is None else places
        asked = [ask(place, self._hypervisors[place]) for place in wanted]
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

    async def _power(
        self, place: int, guest: Guest, work: Callable[[libvirt.virConnect], None], deadline: float
    ) -> None:
        """Carry out *work* unless an earlier power action on the guest is still under way at the deadline."""
        hypervisor = self._hypervisors[place]
        earlier = self._unfinished.get(guest.uuid)
        if earlier is not None and not earlier.done():
            waiter = asyncio.wrap_future(earlier)
            waiter.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # told to its own request
            await asyncio.wait({waiter}, timeout=max(0.0, deadline - time.monotonic()))
            if not earlier.done():
                raise Unreachable(f"an earlier power action on {guest.name} has not ended", "libvirt does not answer")
        future = hypervisor.submit(work, repeatable=False)
        self._unfinished[guest.uuid] = future
        try:
            await hypervisor.wait(future, deadline)
        finally:
            if future.done():
                self._unfinished.pop(guest.uuid, None)


def _is_active(guest: Guest) -> bool:
    return guest.state is not State.SHUT_OFF


def _merge(sightings: list[tuple[int, Guest]]) -> Guest:
    """Return one guest made of the same guest seen at several places: running anywhere is running."""
    active = [sighting for sighting in sightings if _is_active(sighting[1])]
    chosen = active or sightings
    best = next((guest for _, guest in chosen if guest.is_running), chosen[0][1])
    moved = not active and any(guest.moved for _, guest in chosen)
    is_unexplained = not active and any(guest.is_unexplained for _, guest in chosen)
    return Guest(best.name, best.uuid, best.state, tuple(place for place, _ in chosen), moved, is_unexplained)
