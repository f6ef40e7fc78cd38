"""The tcp listener: the client connects, sends its request, and is answered on the same stream."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import time
from collections import OrderedDict
from typing import Any

from vmfence.config.settings import TcpSettings
from vmfence.errors import ListenError, PacketError, VmfenceError
from vmfence.host.reception import Reception
from vmfence.host.security import Security, Verified, check_packet
from vmfence.host.streams import hang_up
from vmfence.policy import Origin
from vmfence.protocol.request import PACKET_BYTES

log = logging.getLogger(__name__)

REQUEST_S = 1.0
WAITING_MAX = 256
_BACKLOG = 128


class TcpListener:
    """One address and port."""

    def __init__(self, settings: TcpSettings, security: Security, reception: Reception) -> None:
        self.settings = settings
        self._security, self._reception = security, reception
        self._server: asyncio.AbstractServer | None = None
        self._waiting: OrderedDict[asyncio.StreamWriter, None] = OrderedDict()

    def where(self) -> str:
        """Return address and port."""
        return f"tcp {self.settings.address} port {self.settings.port}"

    async def open(self) -> None:
        """Begin to listen.  Raises ListenError."""
        listening = _listening_socket(self.settings)
        self._server = await asyncio.start_server(self._connected, sock=listening, backlog=_BACKLOG, limit=4096)

    def trouble(self) -> str:
        """Return why no request can arrive at the moment, or nothing."""
        return "" if self._server is not None else "closed"

    def secure(self, security: Security, has_groups: bool) -> None:
        """Demand *security* from the next request on."""
        self._security = security

    async def close(self) -> None:
        """Stop listening and hang up on those who have not sent a request."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._waiting):
            writer.transport.abort()

    def links_changed(self) -> None:
        """A socket bound to an address outlives its interface: nothing to do."""

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")
        if peer is None:
            writer.transport.abort()
            return
        address = _address(peer)
        try:
            packet = await self._read_packet(reader, writer)
            verified = check_packet(packet, self._security, time.monotonic())
            self._reception.refuse_recent(verified)
        except VmfenceError as error:
            self._reception.reject(f"{address} (tcp)", error)
            writer.transport.abort()
        except OSError as error:
            self._reception.reject(
                f"{address} (tcp)", PacketError("the connection broke", error.strerror or str(error))
            )
            writer.transport.abort()
        else:
            if not self._reception.spawn(address, lambda: self._serve(verified, address, reader, writer)):
                writer.transport.abort()

    async def _read_packet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        """Return the packet, which must be complete within a second.

        Those who send nothing never crowd out those who do: beyond WAITING_MAX the longest waiting is hung up on.
        """
        self._waiting[writer] = None
        if len(self._waiting) > WAITING_MAX:
            self._waiting.popitem(last=False)[0].transport.abort()
        try:
            return await asyncio.wait_for(reader.readexactly(PACKET_BYTES), REQUEST_S)
        except asyncio.TimeoutError:
            raise PacketError("no request", f"nothing complete within {REQUEST_S:.0f} s of the connection") from None
        except asyncio.IncompleteReadError as error:
            raise PacketError("packet too short", f"{len(error.partial)} bytes instead of {PACKET_BYTES}") from None
        finally:
            self._waiting.pop(writer, None)

    async def _serve(
        self, verified: Verified, address: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            async with self._reception.admitted(verified, address) as admission:
                origin = Origin("tcp", address)
                await self._reception.converse(admission, self._security, origin, reader, writer)
        finally:
            await hang_up(writer)


def _address(peer: tuple[Any, ...]) -> str:
    """Return the address of a peer's socket name: IPv4 as such, a link-local one with its interface."""
    text = str(peer[0])
    if len(peer) == 4 and peer[3]:
        with contextlib.suppress(OSError):  # the interface has just gone
            return f"{text}%{socket.if_indextoname(peer[3])}"
    return text.removeprefix("::ffff:") if "." in text else text


def _listening_socket(settings: TcpSettings) -> socket.socket:
    """Return a bound socket.  Raises ListenError."""
    family = socket.AF_INET6 if settings.family == "ipv6" else socket.AF_INET
    try:
        found = socket.getaddrinfo(settings.address, settings.port, family, socket.SOCK_STREAM)
        listening = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise ListenError(f"cannot listen at {settings.address}", error.strerror or str(error)) from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # fence_virtd at "::" serves IPv4 too, and a file that names it must go on doing so.
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(settings.address != "::"))
        listening.bind(found[0][4])
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        remedy = {
            errno.EADDRINUSE: "another daemon listens there: stop fence_virtd, or use another port",
            errno.EADDRNOTAVAIL: "no interface of this machine has that address",
            errno.EACCES: "ports below 1024 need root",
        }.get(error.errno or 0, "")
        raise ListenError(
            f"cannot listen at {settings.address} port {settings.port}", error.strerror or str(error), remedy
        ) from error
    return listening
