"""The vsock listener: guests reach the host without a network, and the kernel vouches for the number of the guest.

The origin is that number (CID), and the guest that has it: the one whose live definition says so, as long as libvirt is
being heard.  A CID of no known guest (1 and 2 are this machine itself) is a number alone.  Keys and challenges hold as
on any network.
"""

from __future__ import annotations

import errno
import logging
import socket
from typing import Any, Callable

from vmfence.config.settings import VsockSettings
from vmfence.errors import BackendError, ListenError
from vmfence.host.backends.base import Watch
from vmfence.host.listeners.direct import BACKLOG, DirectListener
from vmfence.host.reception import Reception
from vmfence.host.security import Security
from vmfence.policy import Origin

log = logging.getLogger(__name__)

_REMEDIES = {
    errno.EADDRINUSE: "another daemon listens there: stop fence_virtd, or use another port",
    errno.EAFNOSUPPORT: "this kernel has no VM sockets: modprobe vhost_vsock",
    errno.EACCES: "ports below 1024 need root",
}


class VsockListener(DirectListener):
    """A port of VM sockets, on every CID of this host; *watch* tells the guests' CIDs.

    Without libvirt it serves all the same: who asks is a number then, and access rules by guest do not admit it.
    *troubled* is called when libvirt is not heard any more; *bind* replaces the kernel's VM sockets in tests.
    """

    def __init__(
        self,
        settings: VsockSettings,
        security: Security,
        watch: Watch,
        reception: Reception,
        troubled: Callable[[], None],
        bind: Callable[[VsockSettings], socket.socket] | None = None,
    ) -> None:
        make = bind or _listening_socket
        super().__init__(f"vsock port {settings.port}", lambda: make(settings), self.origin_of, security, reception)
        self._watch, self._on_trouble = watch, troubled
        self._is_told = False

    async def open(self) -> None:
        """Begin to listen, and to follow the guests.  Raises ListenError when the socket cannot be had."""
        if self._server is None:
            await super().open()
        self._watch.changed = self._changed
        try:
            await self._watch.open()
        except BackendError as error:
            if not self._is_told:
                log.warning("who has which CID is not known, until libvirt answers: %s", error)
            self._is_told = True
        else:
            self._is_told = False

    def trouble(self) -> str:
        """Return why no request can arrive, or that nobody knows who has which CID; or nothing."""
        unknown = self._watch.trouble()
        return super().trouble() or (unknown and f"guests are not known by their CID: {unknown}")

    async def close(self) -> None:
        """Stop listening."""
        self._watch.close()
        await super().close()

    def origin_of(self, peer: Any) -> Origin:
        """Return who is at *peer*, the name of its socket: (CID, port)."""
        return self._owner_of(int(peer[0]))

    async def _confirmed(self, origin: Origin) -> Origin:
        """Return who has the CID now: what we know may be of a guest that has just stopped, its CID another's."""
        for guest in self._watch.guests():
            if guest.cid == origin.cid:
                await self._watch.look_at(guest.uuid)
        return origin if origin.cid is None else self._owner_of(origin.cid)

    def _owner_of(self, cid: int) -> Origin:
        owners = [guest for guest in self._watch.vouched() if guest.cid == cid]
        if len(owners) != 1:
            return Origin("vsock", cid=cid)
        return Origin("vsock", cid=cid, guest_uuid=owners[0].uuid, guest_name=owners[0].name)

    def _changed(self) -> None:
        if self._watch.trouble():
            self._on_trouble()


def _listening_socket(settings: VsockSettings) -> socket.socket:
    """Return a bound socket.  Raises ListenError."""
    try:
        listening = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    except OSError as error:
        raise _refused(settings, error) from error
    try:
        listening.bind((socket.VMADDR_CID_ANY, settings.port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise _refused(settings, error) from error
    return listening


def _refused(settings: VsockSettings, error: OSError) -> ListenError:
    remedy = _REMEDIES.get(error.errno or 0, "")
    return ListenError(f"cannot listen at vsock port {settings.port}", error.strerror or str(error), remedy)
