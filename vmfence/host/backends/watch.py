"""Follow the running guests of some hypervisors: what they are now, told whenever it changes.

libvirt's events say that something happened to a guest; then its live definition is read anew.  Nothing is polled.  The
events are those of a connection that a hypervisor's calls use too, so with the test driver it is the same world.  When
the connection ends, what was known stays and is no longer vouched for; open() begins anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Iterable
from typing import Any, Callable

from vmfence.errors import BackendError, Unreachable, VmfenceError
from vmfence.host.backends import binding as libvirt
from vmfence.host.backends.hypervisor import Hypervisor
from vmfence.host.backends.live import LiveGuest, read_guest

log = logging.getLogger(__name__)

# libvirt holds a guest whose process hangs for the ten seconds that it gives it to end; a list waits for all guests.
_READ_S = 12.0
_EVENTS = (
    "VIR_DOMAIN_EVENT_ID_LIFECYCLE",
    "VIR_DOMAIN_EVENT_ID_DEVICE_ADDED",
    "VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED",
)


class GuestWatch:
    """The running guests of some hypervisors; *changed* is called in the event loop when they, or trouble(), change."""

    def __init__(self, followers: Iterable[Follower]) -> None:
        self._followers = tuple(followers)
        self.changed: Callable[[], None] = lambda: None
        self.heard: Callable[[], None] = lambda: None

    async def open(self) -> None:
        """Follow those that are not followed yet.  Raises Unreachable when none of all can be."""
        for each in self._followers:
            each.hearers.add(self._hear)
        opening = [each.open(self._tell) for each in self._followers]
        failures = [error for error in await asyncio.gather(*opening) if error is not None]
        if failures and len(failures) == len(self._followers):
            raise failures[0]

    def guests(self) -> list[LiveGuest]:
        """Return the guests that were running when we last heard of them."""
        return [guest for each in self._followers for guest in each.guests.values()]

    def vouched(self) -> list[LiveGuest]:
        """Return the guests of the hypervisors that are being heard now, but those of which news is being read."""
        return [guest for each in self._followers for guest in each.vouched()]

    async def look_at(self, uuid: str) -> None:
        """Read the guest *uuid* anew."""
        for each in self._followers:
            if uuid in each.guests:
                await each.look_at(uuid)

    def trouble(self) -> str:
        """Return which hypervisor is not heard, and why, or nothing."""
        return " ".join(each.trouble for each in self._followers if each.trouble)

    def close(self) -> None:
        """Stop following."""
        for each in self._followers:
            each.hearers.discard(self._hear)
            each.leave(self._tell)

    def _tell(self) -> None:
        self.changed()

    def _hear(self) -> None:
        self.heard()


class Follower:
    """One hypervisor; one for all watches, as libvirt tells only one of them of the end of a connection."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor
        self.guests: dict[str, LiveGuest] = {}
        self.trouble = "not followed yet"
        self.hearers: set[Callable[[], None]] = set()  # told of every event
        self._watchers: list[Callable[[], None]] = []
        self._subscription: _Subscription | None = None
        self._opening = asyncio.Lock()
        self._dirty: set[str] = set()  # guests that were heard of and not read since
        self._reading: dict[str, asyncio.Task[None]] = {}

    async def open(self, watcher: Callable[[], None]) -> VmfenceError | None:
        """Tell *watcher* of changes; begin to follow unless that is so.  Return why it cannot be."""
        if watcher not in self._watchers:
            self._watchers.append(watcher)
        async with self._opening:
            if not self.trouble:
                return None
            try:
                await self._begin(time.monotonic() + _READ_S)
            except VmfenceError as error:
                self._end(str(error))
                return error
        for uuid in list(self._dirty):
            self._heard(uuid)
        self._tell()
        return None

    def leave(self, watcher: Callable[[], None]) -> None:
        """Tell *watcher* nothing more; without any, stop following."""
        if watcher in self._watchers:
            self._watchers.remove(watcher)
        if not self._watchers:
            self._end("not followed any more")
            for task in self._reading.values():
                task.cancel()

    def vouched(self) -> list[LiveGuest]:
        """Return the guests that are what we know: one that was heard of since may have stopped."""
        if self.trouble:
            return []
        return [guest for uuid, guest in self.guests.items() if uuid not in self._dirty and uuid not in self._reading]

    def finish(self) -> None:
        """Return, in a thread, when libvirt has let go of our callbacks; before, its connection must not be closed."""
        if self._subscription is not None:
            self._subscription.finish()

    async def look_at(self, uuid: str) -> None:
        """Read one guest anew, after whatever reading of it is under way."""
        self._heard(uuid)
        while (task := self._reading.get(uuid)) is not None:
            await asyncio.wait({task})

    async def _begin(self, deadline: float) -> None:
        """Subscribe, then read all guests: what happens between is told by an event.  Raises VmfenceError."""
        if self._subscription is not None:
            await self._subscription.wait_for_end(deadline)
        self._dirty.clear()
        subscription = self._subscription = _Subscription(self._heard, self._ended)
        await self._hypervisor.call(subscription.begin, deadline)
        found = await self._hypervisor.call(_read_all, deadline)
        if subscription.is_over:
            raise Unreachable(f"libvirt at {self._hypervisor.uri} went away", "while its guests were being read")
        self.guests = {guest.uuid: guest for guest in found}
        self.trouble = ""

    def _heard(self, uuid: str) -> None:
        """Something happened to a guest: read it, and once more if something happens meanwhile."""
        self._dirty.add(uuid)
        for hearer in list(self.hearers):
            hearer()
        if uuid not in self._reading and not self.trouble:
            self._reading[uuid] = asyncio.ensure_future(self._read(uuid))

    async def _read(self, uuid: str) -> None:
        try:
            while uuid in self._dirty:
                self._dirty.discard(uuid)
                deadline = time.monotonic() + _READ_S
                found = await self._hypervisor.call(lambda connection: _read_one(connection, uuid), deadline)
                before = self.guests.pop(uuid, None)
                if found is not None:
                    self.guests[uuid] = found
                if found != before:
                    self._tell()
        except BackendError as error:
            # What it is now cannot be told, so what we know of all is not to be relied on: begin anew.
            self._end(str(error))
        finally:
            self._reading.pop(uuid, None)

    def _ended(self) -> None:
        self._end(f"the connection to libvirt at {self._hypervisor.uri} has ended.")

    def _end(self, trouble: str) -> None:
        if self._subscription is not None:
            self._subscription.end()
        if trouble != self.trouble:
            self.trouble = trouble
            self._tell()

    def _tell(self) -> None:
        for watcher in list(self._watchers):
            watcher()


class _Subscription:
    """Events of one connection; *heard* and *ended* are called in the event loop, in which it must be made."""

    def __init__(self, heard: Callable[[str], None], ended: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._heard, self._on_end = heard, ended
        self._connection: libvirt.virConnect | None = None
        self._handles: list[int] = []
        self._undone = asyncio.Event()
        self._lock = threading.Lock()
        self._ending = threading.Thread(target=self._undo, name="unsubscribe", daemon=True)
        self.is_over = False

    def begin(self, connection: libvirt.virConnect) -> None:
        """Subscribe, in a thread."""
        with self._lock:
            if self.is_over:
                return
            self._connection = connection
            with contextlib.suppress(libvirt.libvirtError):  # drivers inside this process never end
                connection.registerCloseCallback(self._closed, None)
            events = [getattr(libvirt, name) for name in _EVENTS]
            self._handles = [connection.domainEventRegisterAny(None, event, self._event, None) for event in events]

    def end(self) -> None:
        """Unsubscribe, in a thread of its own: libvirt may hang.  On a dead connection too, or libvirt keeps it."""
        if not self.is_over:
            self.is_over = True
            self._ending.start()

    def finish(self) -> None:
        """End it, and return when that is done."""
        self.end()
        self._ending.join()

    async def wait_for_end(self, deadline: float) -> None:
        """Return when it is unsubscribed.  Raises Unreachable at *deadline*."""
        self.end()
        try:
            await asyncio.wait_for(self._undone.wait(), max(0.0, deadline - time.monotonic()))
        except asyncio.TimeoutError:
            raise Unreachable("libvirt does not answer", "it does not let go of an old connection") from None

    def _undo(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                with contextlib.suppress(libvirt.libvirtError):
                    connection.unregisterCloseCallback()
                for handle in self._handles:
                    with contextlib.suppress(libvirt.libvirtError):
                        connection.domainEventDeregisterAny(handle)
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
            self._loop.call_soon_threadsafe(self._undone.set)

    def _event(self, connection: libvirt.virConnect, domain: libvirt.virDomain, *_: Any) -> None:
        """Take an event, in libvirt's thread."""
        self._call(self._heard, domain.UUIDString())

    def _closed(self, *_: Any) -> None:
        self._call(self._on_end)

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        def call() -> None:
            if not self.is_over:
                function(*arguments)

        with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
            self._loop.call_soon_threadsafe(call)


def _read_all(connection: libvirt.virConnect) -> list[LiveGuest]:
    found = [_read_domain(domain) for domain in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)]
    return [guest for guest in found if guest is not None]


def _read_one(connection: libvirt.virConnect, uuid: str) -> LiveGuest | None:
    """Return the guest if it runs."""
    try:
        return _read_domain(connection.lookupByUUIDString(uuid))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def _read_domain(domain: libvirt.virDomain) -> LiveGuest | None:
    """Return the guest if it still runs; one whose definition cannot be read is logged and has no channels."""
    try:
        xml = domain.XMLDesc(0)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise
    try:
        guest = read_guest(xml)
    except VmfenceError as error:
        log.error("no channel of guest %r can be served: %s", domain.name(), error)
        return None
    # Only the live definition has the number of a run; asking for the state as well could fall into another run.
    return guest if guest.run else None
