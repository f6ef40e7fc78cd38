"""The multicast listener: a signed datagram comes in, the daemon connects back to the address that it names.

The socket is bound to the group and takes only what arrives on its interface (IP_MULTICAST_ALL off): neither unicast
packets nor other interfaces' groups.  The kernel forgets a membership with its interface and tells no socket, so
links_changed() opens the socket anew whenever the interface has another index or came up again.  What cannot be
opened stays closed, with trouble(), until the daemon calls open() again.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import errno
import fcntl
import ipaddress
import logging
import os
import socket
import struct
import time
from dataclasses import dataclass
from typing import Any

from vmfence.config.settings import MulticastSettings
from vmfence.errors import ListenError, PacketError, SignatureError, VmfenceError
from vmfence.host.reception import Reception
from vmfence.host.security import Security, Verified, asks_why, check_packet
from vmfence.host.streams import hang_up
from vmfence.policy import Origin
from vmfence.protocol.request import PACKET_BYTES, Request

log = logging.getLogger(__name__)

CONNECT_S = 5.0
_BATCH = 64
_RECEIVE_BUFFER_BYTES = 4 << 20
_SO_RCVBUFFORCE = 33
_IP_MULTICAST_ALL, _IPV6_MULTICAST_ALL = 49, 29
_FAMILIES = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}
_SIOCGIFFLAGS, _SIOCGIFINDEX = 0x8913, 0x8933  # netdevice(7)
_IFREQ = "=16s24x"
_NAME_BYTES_MAX = 15
_IFF_UP = 1
_NO_SUCH_DEVICE = (errno.ENODEV, errno.ENXIO, errno.ENOENT)


@dataclass(frozen=True)
class Link:
    """An interface as the kernel has it now."""

    index: int
    is_up: bool


class MulticastListener:
    """One group, port and interface."""

    def __init__(self, settings: MulticastSettings, security: Security, has_groups: bool, reception: Reception) -> None:
        self.settings = settings
        self._security, self._has_groups, self._reception = security, has_groups, reception
        self._socket: socket.socket | None = None
        self._link: Link | None = None
        self._trouble = "closed"

    def where(self) -> str:
        """Return group, port and interface."""
        interface = self.settings.interface or "the kernel's choice"
        return f"multicast {self.settings.address} port {self.settings.port} on {interface}"

    async def open(self) -> None:
        """Join the group.  Raises ListenError."""
        self._listen()

    def trouble(self) -> str:
        """Return why no request can arrive at the moment, or nothing."""
        return "" if self._socket is not None else self._trouble

    def unheard(self) -> dict[str, str]:
        """Return nobody: who asks here is not known before."""
        return {}

    def secure(self, security: Security, has_groups: bool) -> None:
        """Demand *security* from the next request on."""
        self._security, self._has_groups = security, has_groups

    async def close(self) -> None:
        """Leave the group."""
        self._shut()
        self._trouble = "closed"

    def links_changed(self) -> None:
        """Join again when the interface was made anew or has come up; without one, when the kernel may choose anew.

        While the kernel cannot say what has changed, nothing has.
        """
        if self._socket is None or (self.settings.interface and not self._has_to_join(self.settings.interface)):
            return
        self._shut()
        with contextlib.suppress(ListenError):  # told by trouble()
            self._listen()
            log.log(logging.INFO if self._link else logging.DEBUG, "joined again: %s", self.where())

    def _has_to_join(self, interface: str) -> bool:
        """Whether the membership is not what it was; one whose interface is gone is ended."""
        assert self._socket is not None
        try:
            link = _look_up(self._socket, interface)
        except OSError as error:
            log.error("cannot look at interface %s: %s", interface, error.strerror)
            return False
        if link is None:
            self._shut()
            self._note(_gone(interface))
            return False
        before, self._link = self._link, link
        return before is None or link.index != before.index or (link.is_up and not before.is_up)

    def _listen(self) -> None:
        try:
            self._socket, self._link = _listening_socket(self.settings, self._link is not None)
        except ListenError as error:
            self._note(error)
            raise
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._read)

    def _note(self, error: ListenError) -> None:
        self._trouble = ": ".join(filter(None, (error.what, error.why)))

    def _shut(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _read(self) -> None:
        """Take what has arrived, a batch at a time so that a flood leaves room for everything else."""
        for _ in range(_BATCH):
            if self._socket is None:
                return
            try:
                packet, source = self._socket.recvfrom(PACKET_BYTES + 1)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                log.error("cannot read from %s: %s", self.where(), error.strerror)
                return
            self._take(packet, source)

    def _take(self, packet: bytes, source: tuple[Any, ...]) -> None:
        sender = self._with_zone(source)
        try:
            verified = check_packet(packet, self._security, time.monotonic())
            self._reception.refuse_recent(verified)
            claimed = _call_back_address(verified.request, source[0], self._has_groups)
        except VmfenceError as error:
            self._reception.reject(f"{sender} (multicast)", error)
            self._explain(packet, error, source[0], sender)
            return
        differs = claimed != source[0]
        origin = Origin("multicast", sender, claimed=claimed if differs else None)
        known_as = f"{sender} (claims {claimed})" if differs else sender
        self._reception.spawn(known_as, lambda: self._serve(verified, claimed, origin))

    def _with_zone(self, source: tuple[Any, ...]) -> str:
        """Return the sender's address; a link-local one with its interface, as access rules name it."""
        if len(source) < 4 or not source[3]:
            return str(source[0])
        zone = self.settings.interface
        if zone is None:
            try:
                zone = socket.if_indextoname(source[3])
            except OSError:
                zone = str(source[3])
        return f"{source[0]}%{zone}"

    async def _serve(self, verified: Verified, claimed: str, origin: Origin) -> None:
        async with self._reception.admitted(verified, claimed, is_shared=True) as admission:
            reader, writer = await self._call_back(claimed, verified.request.port)
            try:
                await self._reception.converse(admission, self._security, origin, reader, writer)
            finally:
                await hang_up(writer)

    def _explain(self, packet: bytes, why: VmfenceError, source: str, sender: str) -> None:
        """Call back to tell *why* a packet is refused, if it asks for that and is signed with a key of ours."""
        refused = asks_why(packet, self._security, time.monotonic())
        if refused is None:
            return
        try:
            self._reception.refuse_recent(refused)
            claimed = _call_back_address(refused.request, source, has_groups=False)
        except (SignatureError, PacketError):
            return
        self._reception.spawn(sender, lambda: self._tell(refused, why, claimed))

    async def _tell(self, refused: Verified, why: VmfenceError, claimed: str) -> None:
        await self._reception.refuse_repeat(refused)
        reader, writer = await self._call_back(claimed, refused.request.port)
        try:
            await self._reception.tell(refused, why, self._security, reader, writer)
        finally:
            await hang_up(writer)

    async def _call_back(self, address: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        scope = f"%{self.settings.interface}" if address.startswith("fe80:") and self.settings.interface else ""
        connecting = asyncio.open_connection(address + scope, port, limit=4096)
        try:
            reader, writer = await asyncio.wait_for(connecting, CONNECT_S)
        except asyncio.TimeoutError:
            raise _uncalled(address, port, f"no answer within {CONNECT_S:.0f} s") from None
        except OSError as error:
            # The strerror of asyncio's errors is its own text: "Connect call failed ('10.88.0.11', 1229)".
            number = error.errno or 0
            reason = os.strerror(number) if number > 0 else error.strerror or str(error)
            raise _uncalled(address, port, reason) from error
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return reader, writer


def _uncalled(address: str, port: int, reason: str) -> VmfenceError:
    remedy = f"see that the guest's firewall admits TCP {port} from this host"
    # Address and port stand in the reason: what is counted and held back in the log must be of few kinds.
    return VmfenceError("cannot call back", f"{address} port {port}: {reason}", remedy)


def _call_back_address(request: Request, sender: str, has_groups: bool) -> str:
    """Return the address to connect to.  Raises PacketError for one that no honest client of this network names.

    A loopback address is the client's own machine only if that is ours: from elsewhere it would take our reply to
    whatever listens here.  With access rules, the address that the rules judge must be where the packet came from.
    """
    if not request.address or not request.port:
        raise PacketError("no address or port to call back", f"family {request.family}, port {request.port}")
    address = ipaddress.ip_address(request.address)
    # An IPv4-mapped address would pass the checks below under another name (::ffff:127.0.0.1).
    is_mapped = address.version == 6 and address.ipv4_mapped is not None
    if address.is_multicast or address.is_unspecified or int(address) == 0xFFFFFFFF or is_mapped:
        raise PacketError("an address that cannot be called back", str(address))
    if address.is_loopback and not ipaddress.ip_address(sender).is_loopback:
        raise PacketError("a loopback address from another machine", str(address))
    if has_groups and str(address) != sender:
        raise PacketError("another address than the sender's", f"it names {address}", "access rules need the true one")
    return str(address)


def _look_up(asking: socket.socket, interface: str) -> Link | None:
    """Return what the kernel tells any socket of *interface*, None when there is none.  Raises OSError."""
    name = os.fsencode(interface)
    if len(name) > _NAME_BYTES_MAX:
        return None
    request = struct.pack(_IFREQ, name)
    try:
        (index,) = struct.unpack_from("=i", fcntl.ioctl(asking, _SIOCGIFINDEX, request), 16)
        (flags,) = struct.unpack_from("=H", fcntl.ioctl(asking, _SIOCGIFFLAGS, request), 16)
    except OSError as error:
        if error.errno in _NO_SUCH_DEVICE:
            return None
        raise
    return Link(index, bool(flags & _IFF_UP))


def _listening_socket(settings: MulticastSettings, was_there: bool) -> tuple[socket.socket, Link | None]:
    """Return a socket that has joined the group, and the interface that it is joined on.  Raises ListenError.

    *was_there*: the interface is known to be spelt right.
    """
    try:
        listening = socket.socket(_FAMILIES[settings.family], socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    except OSError as error:
        raise _refused(settings, error) from error
    try:
        link = None if settings.interface is None else _existing(listening, settings.interface, was_there)
        _join(listening, settings, link)
    except ListenError:
        listening.close()
        raise
    except OSError as error:
        listening.close()
        raise _refused(settings, error) from error
    return listening, link


def _refused(settings: MulticastSettings, error: OSError) -> ListenError:
    hint = "" if settings.interface else "set interface to the bridge of the guests"
    if error.errno == errno.EADDRINUSE:
        hint = "another daemon listens there: stop fence_virtd, or use another port"
    elif error.errno in (errno.EMFILE, errno.ENFILE):
        hint = "raise the limit of open files (LimitNOFILE)"
    where = f"{settings.address} port {settings.port}"
    return ListenError(f"cannot listen to {where}", error.strerror or str(error), hint)


def _existing(asking: socket.socket, interface: str, was_there: bool) -> Link:
    """Return *interface*.  Raises OSError, and ListenError when there is none, with the nearest name."""
    link = _look_up(asking, interface)
    if link is not None:
        return link
    if was_there:
        raise _gone(interface)
    names = [name for _, name in socket.if_nameindex()]
    near = difflib.get_close_matches(interface, names, 1)
    remedy = f"did you mean {near[0]}" if near else f"there are: {', '.join(names)}"
    raise ListenError(f"interface {interface} does not exist", "", remedy)


def _gone(interface: str) -> ListenError:
    return ListenError(f"interface {interface} is gone")


def _join(listening: socket.socket, settings: MulticastSettings, link: Link | None) -> None:
    """Join the group on *link*.  Raises OSError, and ListenError when that has just vanished."""
    index = link.index if link else 0
    _widen(listening)
    try:
        if listening.family == socket.AF_INET:
            _join_ipv4(listening, settings, index)
        else:
            _join_ipv6(listening, settings, index)
    except OSError as error:
        if error.errno in _NO_SUCH_DEVICE and settings.interface and _look_up(listening, settings.interface) != link:
            raise _gone(settings.interface) from error
        raise


def _join_ipv4(listening: socket.socket, settings: MulticastSettings, index: int) -> None:
    listening.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
    listening.bind((settings.address, settings.port))
    group = struct.pack("=4s4si", socket.inet_aton(settings.address), bytes(4), index)
    listening.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)


def _join_ipv6(listening: socket.socket, settings: MulticastSettings, index: int) -> None:
    listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    with contextlib.suppress(OSError):  # kernels before 4.20 do not know it
        listening.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)
    listening.bind((settings.address, settings.port, 0, index))
    group = struct.pack("=16si", socket.inet_pton(socket.AF_INET6, settings.address), index)
    listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)


def _widen(listening: socket.socket) -> None:
    """Ask for a receive buffer that outlasts a burst; as root beyond the system's limit."""
    try:
        listening.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
    except OSError:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
