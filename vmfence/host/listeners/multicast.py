"""The multicast listener: a signed datagram comes in, the daemon connects back to the address that it names.

The socket is bound to the group and takes only what arrives on its interface (IP_MULTICAST_ALL off): neither unicast
packets nor other interfaces' groups.  The kernel forgets a membership with its interface and tells no socket, so
links_changed() opens the socket anew whenever the interface has another index or came up again.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import errno
import ipaddress
import logging
import socket
import struct
import time

from vmfence.config.settings import MulticastSettings
from vmfence.errors import ListenError, PacketError, VmfenceError
from vmfence.host.reception import Reception
from vmfence.host.security import Security, Verified, check_packet
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


class MulticastListener:
    """One group, port and interface."""

    def __init__(self, settings: MulticastSettings, security: Security, has_groups: bool, reception: Reception) -> None:
        self.settings = settings
        self._security, self._has_groups, self._reception = security, has_groups, reception
        self._socket: socket.socket | None = None
        self._link: tuple[int, bool] | None = None

    def where(self) -> str:
        """Return group, port and interface."""
        interface = self.settings.interface or "the kernel's choice"
        return f"multicast {self.settings.address} port {self.settings.port} on {interface}"

    async def open(self) -> None:
        """Join the group.  Raises ListenError."""
        self._link = _link_state(self.settings.interface)
        self._listen()

    def trouble(self) -> str:
        """Return why no request can arrive at the moment, or nothing."""
        return "" if self._socket is not None else f"interface {self.settings.interface} is not there"

    def secure(self, security: Security, has_groups: bool) -> None:
        """Demand *security* from the next request on."""
        self._security, self._has_groups = security, has_groups

    async def close(self) -> None:
        """Leave the group."""
        self._shut()

    def links_changed(self) -> None:
        """Join again when the interface was made anew or has come up; without one, when the kernel may choose anew."""
        link = _link_state(self.settings.interface)
        if self.settings.interface is not None and link == self._link:
            return
        self._link = link
        self._shut()
        if self.settings.interface is not None and link is None:
            log.error("interface %s is gone: no request can arrive until it is back", self.settings.interface)
            return
        try:
            self._listen()
        except ListenError as error:
            self._link = None  # tried again at the next change
            log.error("%s", error)
            return
        log.log(logging.INFO if link else logging.DEBUG, "joined again: %s", self.where())

    def _listen(self) -> None:
        self._socket = _listening_socket(self.settings)
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._read)

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

    def _take(self, packet: bytes, source: tuple[str, int]) -> None:
        sender = source[0].partition("%")[0]
        try:
            verified = check_packet(packet, self._security, time.monotonic())
            claimed = _call_back_address(verified.request, sender, self._has_groups)
        except VmfenceError as error:
            self._reception.reject(f"{sender} (multicast)", error)
            return
        origin = sender if claimed == sender else f"{sender} (claims {claimed})"
        self._reception.spawn(origin, lambda: self._serve(verified, claimed, sender))

    async def _serve(self, verified: Verified, claimed: str, sender: str) -> None:
        async with self._reception.admitted(verified, claimed) as admission:
            reader, writer = await self._call_back(claimed, verified.request.port)
            try:
                origin = Origin("multicast", sender, claimed=claimed)
                await self._reception.converse(admission, self._security, origin, reader, writer)
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
            raise _uncalled(address, port, error.strerror or str(error)) from error
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return reader, writer


def _uncalled(address: str, port: int, reason: str) -> VmfenceError:
    remedy = f"see that the guest's firewall admits TCP {port} from this host"
    return VmfenceError(f"cannot call back {address} port {port}", reason, remedy)


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


def _link_state(interface: str | None) -> tuple[int, bool] | None:
    """Return index and "is up" of *interface*, or None when it does not exist."""
    if interface is None:
        return None
    try:
        index = socket.if_nametoindex(interface)
        with open(f"/sys/class/net/{interface}/flags", encoding="ascii") as file:
            return index, bool(int(file.read(), 16) & 1)
    except (OSError, ValueError):
        return None


def _listening_socket(settings: MulticastSettings) -> socket.socket:
    """Return a socket that has joined the group.  Raises ListenError."""
    index = _interface_index(settings.interface)
    family = _FAMILIES[settings.family]
    listening = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        _widen(listening)
        if family == socket.AF_INET:
            listening.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
            listening.bind((settings.address, settings.port))
            group = struct.pack("=4s4si", socket.inet_aton(settings.address), bytes(4), index)
            listening.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        else:
            _join_ipv6(listening, settings, index)
    except OSError as error:
        listening.close()
        hint = "" if settings.interface else "set interface to the bridge of the guests"
        if error.errno == errno.EADDRINUSE:
            hint = "another daemon listens there: stop fence_virtd, or use another port"
        raise ListenError(
            f"cannot listen to {settings.address} port {settings.port}", error.strerror or str(error), hint
        ) from error
    return listening


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


def _interface_index(interface: str | None) -> int:
    """Return the kernel's number of *interface*, 0 for none.  Raises ListenError with the nearest name."""
    if interface is None:
        return 0
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        names = [name for _, name in socket.if_nameindex()]
        near = difflib.get_close_matches(interface, names, 1)
        remedy = f"did you mean {near[0]}" if near else f"there are: {', '.join(names)}"
        raise ListenError(f"interface {interface} does not exist", "", remedy) from None
