"""The serial listener: channels of running guests, in the modes serial, vmchannel and virtio.

The definition of each running guest tells where its hypervisor listens; libvirt's events tell when guests come, go, or
change.  Each channel is a GuestLine of its own, so what one guest does concerns no other.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Iterable
from typing import Callable

from vmfence.config.settings import SerialSettings
from vmfence.errors import BackendError, ListenError
from vmfence.host.backends.base import Watch
from vmfence.host.backends.live import GuestSocket, LiveGuest
from vmfence.host.listeners.acceptance import Acceptances
from vmfence.host.listeners.line import GuestLine, Place
from vmfence.host.listeners.pulse import Pulse
from vmfence.host.reception import Reception, printable
from vmfence.host.security import Security

log = logging.getLogger(__name__)

# Ports that belong to libvirt itself, or to other programs: whoever connects to one takes it away from them.
_FOREIGN_PORTS = ("org.qemu.guest_agent.", "com.redhat.spice.", "org.libguestfs.")


class ChannelListener:
    """The channels that *settings* choose of the guests that *watch* follows; *troubled* is called when that breaks."""

    def __init__(
        self, settings: SerialSettings, watch: Watch, reception: Reception, troubled: Callable[[], None]
    ) -> None:
        self.settings = settings
        self._watch, self._reception, self._troubled = watch, reception, troubled
        self._lines: dict[Place, GuestLine] = {}
        self._refused: frozenset[str] = frozenset()
        self._trouble = "closed"
        self._pulse, self._acceptances = Pulse(), Acceptances()

    def where(self) -> str:
        """Return which channels, and how many are connected."""
        what = {"serial": "serial lines", "vmchannel": "VM channels"}.get(self.settings.mode)
        what = what or f"virtio ports {self.settings.channel}"
        below = f" below {self.settings.path}" if self.settings.path else ""
        connected = sum(line.is_connected() for line in self._lines.values())
        return f"{what} of guests{below} ({connected} of {len(self._lines)} connected)"

    async def open(self) -> None:
        """Begin to follow the guests.  Raises ListenError."""
        self._watch.changed = self._changed
        try:
            await self._watch.open()
        except BackendError as error:
            self._trouble = str(error)
            raise ListenError("cannot learn which guests run", str(error).rstrip("."), error.remedy) from error
        self._trouble = ""
        self._pulse.begin()
        self._changed()

    def trouble(self) -> str:
        """Return why guests that come cannot be heard, or nothing."""
        return self._trouble or self._watch.trouble()

    def unheard(self) -> dict[str, str]:
        """Return the guests that are not heard at their sockets, each with the reason."""
        troubles = {f"{place} at {printable(place.path)}": line.trouble() for place, line in self._lines.items()}
        return {place: trouble for place, trouble in troubles.items() if trouble}

    async def close(self) -> None:
        """Hang up on all guests; requests under way go on."""
        self._trouble = "closed"
        self._pulse.end()
        self._watch.close()
        for line in self._lines.values():
            line.close()
        self._lines.clear()

    def secure(self, security: Security, has_groups: bool) -> None:
        """There is no key here: nothing to demand."""

    def links_changed(self) -> None:
        """Nothing here depends on network interfaces."""

    def _changed(self) -> None:
        """Serve the channels that there are now, and no other."""
        if self._trouble:
            return
        places, refused = choose(self._watch.guests(), self.settings)
        for path in sorted(refused - self._refused):
            log.error("nobody is heard at %s: several running guests have that socket", printable(path))
        self._refused = refused
        for place in [place for place in self._lines if place not in places]:
            log.info("guest %s is gone", place)
            self._lines.pop(place).close()
        for place in places:
            if place not in self._lines:
                log.info("guest %s is there", place)
                self._lines[place] = self._line(place)
        if self._watch.trouble():
            self._troubled()

    def _line(self, place: Place) -> GuestLine:
        def look() -> asyncio.Future[None]:
            return asyncio.ensure_future(self._watch.look_at(place.uuid))

        def is_known() -> bool:
            return any((guest.uuid, guest.run) == (place.uuid, place.run) for guest in self._watch.vouched())

        return GuestLine(place, self._reception, look, is_known, self._pulse, self._acceptances)


def choose(guests: Iterable[LiveGuest], settings: SerialSettings) -> tuple[list[Place], frozenset[str]]:
    """Return the places that *settings* mean, and the paths that are refused: those of several guests.

    Who is behind such a path, nobody can tell.  Paths that are spelled in two ways and lead to one socket are one.
    """
    places = [
        Place(settings.mode, each.path, guest.name, guest.uuid, guest.run)
        for guest in guests
        for each in guest.sockets
        if is_meant(each, settings)
    ]
    places = list(dict.fromkeys(places))
    sockets = {place.path: _socket_at(place.path) for place in places}
    count = Counter(each for place in places for each in sockets[place.path])
    refused = frozenset(path for path, found in sockets.items() if any(count[each] > 1 for each in found))
    return [place for place in places if place.path not in refused], refused


def _socket_at(path: str) -> set[object]:
    """Return what tells a socket from others: its path without links, and once it is there its device and inode."""
    try:
        found = os.stat(path)
    except OSError:
        return {os.path.realpath(path)}
    return {os.path.realpath(path), (found.st_dev, found.st_ino)}


def is_meant(each: GuestSocket, settings: SerialSettings) -> bool:
    """Whether a socket is one of those that *settings* mean.

    In the modes of fence_virtd 4.12.1 as there: all of the kind that lie directly in the folder, where one is named;
    but never those that other programs hold.
    """
    if settings.path is not None and _folder(each.path) != _folder(f"{settings.path}/x"):
        return False
    if settings.mode == "virtio":
        return (each.kind, each.target, each.name) == ("channel", "virtio", settings.channel)
    if settings.mode == "vmchannel":
        return each.kind == "channel" and not each.name.startswith(_FOREIGN_PORTS)
    return each.kind == "serial"


def _folder(path: str) -> list[str]:
    return [part for part in path.split("/")[:-1] if part]
