"""The libvirt backend: one or several connections, each with a bounded pool of threads.

Every libvirt call blocks, so it runs in a thread of its hypervisor's pool, and every thread has a connection of its
own: one connection serves at most five calls at once (libvirtd.conf, max_client_requests).  libvirt's test driver is
the exception: there each connection is a world of its own, so all threads share one.  A caller stops waiting at its
deadline; the call itself ends when libvirt answers or keepalive gives the connection up.  Until then no other power
action on that guest is begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Callable, TypeVar

import libvirt

from vmfence.errors import BackendError, DeadlineExceeded, GuestNotFound, Unconfirmed, Unreachable
from vmfence.host.backends.base import Guest, HypervisorStatus
from vmfence.policy import is_uuid
from vmfence.protocol.reply import State

log = logging.getLogger(__name__)
T = TypeVar("T")

CALLS_AT_ONCE = 16
LOOK_UP_S = 5.0
SUSPECT_LOOK_UP_S = 0.5
_KEEPALIVE_INTERVAL_S = 5
_KEEPALIVE_COUNT = 2
_REMEMBERED_TRANSIENTS = 1000
# Flags that an older driver does not know come back as one of these.
_FLAG_UNKNOWN = (libvirt.VIR_ERR_INVALID_ARG, libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED)

_event_loop_lock = threading.Lock()
_event_loop_runs = False


def _run_event_loop() -> None:
    """Start libvirt's event loop in a thread, once a process: keepalive and events need it."""
    global _event_loop_runs
    with _event_loop_lock:
        if _event_loop_runs:
            return
        libvirt.registerErrorHandler(lambda context, error: None, None)
        libvirt.virEventRegisterDefaultImpl()

        def run() -> None:
            while True:
                libvirt.virEventRunDefaultImpl()

        threading.Thread(target=run, name="libvirt-events", daemon=True).start()
        _event_loop_runs = True


class Hypervisor:
    """One libvirt URI."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.suspect = False
        self._trouble = ""
        self._shared = uri.startswith("test:")
        self._local = threading.local()
        self._lock = threading.Lock()
        self._connections: list[libvirt.virConnect] = []
        self._pool = ThreadPoolExecutor(CALLS_AT_ONCE, f"libvirt {uri}")
        self._running = 0

    async def call(self, work: Callable[[libvirt.virConnect], T], deadline: float) -> T:
        """Return what *work* returns for a live connection.  Raises BackendError, Unreachable."""
        return await self.wait(self.submit(work), deadline)

    def submit(self, work: Callable[[libvirt.virConnect], T], repeatable: bool = True) -> Future[T]:
        """Begin *work* in a thread.  *repeatable*: call it a second time when the connection was found to be dead.

        Whether a power action is still wanted then is not ours to decide.
        """
        return self._pool.submit(self._run, work, repeatable)

    async def wait(self, future: Future[T], deadline: float) -> T:
        """Wait for *future* until *deadline*; one that has not begun by then never will."""
        limit = max(0.0, deadline - time.monotonic())
        try:
            result = await asyncio.wait_for(asyncio.wrap_future(future), limit)
        except asyncio.TimeoutError:
            error = Unreachable(f"libvirt at {self.uri} does not answer", f"no answer within {limit:.1f} s")
            self.suspect, self._trouble = True, str(error)
            raise error from None
        except Unreachable as error:
            self.suspect, self._trouble = True, str(error)
            raise
        self.suspect, self._trouble = False, ""
        return result

    def describe(self) -> HypervisorStatus:
        """Return what is known without asking."""
        return HypervisorStatus(self.uri, not self.suspect, self._trouble, len(self._connections), self._running)

    def is_busy(self) -> bool:
        """Whether calls are running in threads."""
        return self._running > 0

    def close(self) -> None:
        """Close all connections and end the threads that are idle."""
        self._pool.shutdown(wait=False)
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(libvirt.libvirtError):
                    connection.close()
            self._connections.clear()

    def _run(self, work: Callable[[libvirt.virConnect], T], repeatable: bool) -> T:
        with self._lock:
            self._running += 1
        try:
            return self._work(work, repeatable)
        finally:
            with self._lock:
                self._running -= 1

    def _work(self, work: Callable[[libvirt.virConnect], T], repeatable: bool) -> T:
        connection, is_fresh = self._connection()
        try:
            return work(connection)
        except libvirt.libvirtError as error:
            if _is_alive(connection):
                raise BackendError("libvirt refused", _text(error)) from error
            self._drop(connection)
            if is_fresh or not repeatable:
                raise Unreachable(f"libvirt at {self.uri} went away", _text(error)) from error
        return self._work(work, repeatable)

    def _connection(self) -> tuple[libvirt.virConnect, bool]:
        """Return this thread's connection and whether it was opened just now.  Raises Unreachable."""
        connection = self._known()
        if connection is not None and _is_alive(connection):
            return connection, False
        if connection is not None:
            self._drop(connection)
        if not self._shared:
            return self._open(), True
        with self._lock:  # the test driver: two threads must not open two worlds
            connection = self._known()
            return (connection, False) if connection is not None else (self._open_unlocked(), True)

    def _known(self) -> libvirt.virConnect | None:
        if self._shared:
            return self._connections[0] if self._connections else None
        return getattr(self._local, "connection", None)

    def _open(self) -> libvirt.virConnect:
        connection = self._connect()
        self._local.connection = connection
        with self._lock:
            self._connections.append(connection)
        return connection

    def _open_unlocked(self) -> libvirt.virConnect:
        connection = self._connect()
        self._connections.append(connection)
        return connection

    def _connect(self) -> libvirt.virConnect:
        try:
            connection = libvirt.open(self.uri)
        except libvirt.libvirtError as error:
            raise Unreachable(
                f"cannot connect to libvirt at {self.uri}", _text(error), "see that libvirt runs"
            ) from error
        with contextlib.suppress(libvirt.libvirtError):  # drivers inside this process have no keepalive
            connection.setKeepAlive(_KEEPALIVE_INTERVAL_S, _KEEPALIVE_COUNT)
        return connection

    def _drop(self, connection: libvirt.virConnect) -> None:
        self._local.connection = None
        with self._lock:
            if connection in self._connections:
                self._connections.remove(connection)
        with contextlib.suppress(libvirt.libvirtError):
            connection.close()


class LibvirtBackend:
    """Guests of one or several libvirt URIs (fence_virt.conf: uri, uri1, uri2 ...)."""

    def __init__(self, uris: tuple[str, ...]) -> None:
        _run_event_loop()
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
        seen, silent = await self._ask_all(lambda connection: _look_up(connection, target), deadline)
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
        seen, silent = await self._ask_all(_list, deadline)
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
        await self._power(guest.places[0], guest, lambda connection: _start(connection, guest, xml, deadline), deadline)

    async def reset(self, guest: Guest, deadline: float) -> None:
        """Reset *guest* and wait for the hypervisor's event.  Raises Unconfirmed when it does not come."""
        await self._power(guest.places[0], guest, lambda connection: _reset(connection, guest, deadline), deadline)

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
        _check_time(deadline)
        with _not_found(guest.name):
            domain = connection.lookupByUUIDString(guest.uuid)
        xml = None if domain.isPersistent() else domain.XMLDesc(_LAST_XML)
        domain.destroy()
        if xml is not None:
            self._ended[guest.uuid] = Guest(guest.name, guest.uuid, State.SHUT_OFF, guest.places), xml
            while len(self._ended) > _REMEMBERED_TRANSIENTS:
                self._ended.popitem(last=False)


_LAST_XML = libvirt.VIR_DOMAIN_XML_SECURE | libvirt.VIR_DOMAIN_XML_INACTIVE


def _check_time(deadline: float) -> None:
    """Raise DeadlineExceeded when it is too late to act: nobody waits for this any more."""
    if time.monotonic() >= deadline:
        raise DeadlineExceeded("too late", "the time of this request is over")


def _look_up(connection: libvirt.virConnect, target: str) -> Guest | None:
    try:
        if is_uuid(target):
            return _read(connection.lookupByUUIDString(target))
        return _read(connection.lookupByName(target))
    except UnicodeEncodeError:
        return None  # bytes that are no UTF-8: no guest is called that
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def _read(domain: libvirt.virDomain) -> Guest:
    state, reason = domain.state()
    moved = state == libvirt.VIR_DOMAIN_SHUTOFF and reason == libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED
    return Guest(domain.name(), domain.UUIDString(), _state(state), moved=moved)


def _state(number: int) -> State:
    """Return the state with this number; one that libvirt invents later is "none", which is neither on nor off."""
    return State(number) if number in State._value2member_map_ else State.NONE


def _list(connection: libvirt.virConnect) -> list[Guest]:
    found = []
    for domain in connection.listAllDomains():
        with contextlib.suppress(libvirt.libvirtError):  # a guest that ends while we look
            found.append(_read(domain))
    return found


def _is_active(guest: Guest) -> bool:
    return guest.state is not State.SHUT_OFF


def _merge(sightings: list[tuple[int, Guest]]) -> Guest:
    """Return one guest made of the same guest seen at several places: running anywhere is running."""
    active = [sighting for sighting in sightings if _is_active(sighting[1])]
    chosen = active or sightings
    best = next((guest for _, guest in chosen if guest.is_running), chosen[0][1])
    moved = not active and any(guest.moved for _, guest in chosen)
    return Guest(best.name, best.uuid, best.state, tuple(place for place, _ in chosen), moved)


def _start(connection: libvirt.virConnect, guest: Guest, xml: str | None, deadline: float) -> None:
    _check_time(deadline)
    try:
        domain = connection.lookupByUUIDString(guest.uuid)
    except libvirt.libvirtError as error:
        if xml is None or error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
            raise
        connection.createXML(xml)
        return
    try:
        domain.createWithFlags(libvirt.VIR_DOMAIN_START_FORCE_BOOT)
    except libvirt.libvirtError as error:
        if error.get_error_code() not in _FLAG_UNKNOWN:
            raise
        if domain.hasManagedSaveImage():
            domain.managedSaveRemove()
        domain.create()


def _reset(connection: libvirt.virConnect, guest: Guest, deadline: float) -> None:
    _check_time(deadline)
    with _not_found(guest.name):
        domain = connection.lookupByUUIDString(guest.uuid)
    happened = threading.Event()

    def note(*_: Any) -> None:
        happened.set()

    handle = connection.domainEventRegisterAny(domain, libvirt.VIR_DOMAIN_EVENT_ID_REBOOT, note, None)
    try:
        domain.reset()
        if not happened.wait(max(0.0, deadline - time.monotonic())):
            raise Unconfirmed(f"the reset of {guest.name} was not confirmed", "the hypervisor reported none")
    finally:
        connection.domainEventDeregisterAny(handle)


@contextlib.contextmanager
def _not_found(name: str) -> Iterator[None]:
    """Turn libvirt's "no such domain" into GuestNotFound."""
    try:
        yield
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            raise GuestNotFound(f"{name} has vanished", "libvirt does not know it any more") from error
        raise


def _is_alive(connection: libvirt.virConnect) -> bool:
    try:
        return bool(connection.isAlive())
    except libvirt.libvirtError:
        return False


def _text(error: libvirt.libvirtError) -> str:
    return (error.get_error_message() or str(error)).rstrip(".")
