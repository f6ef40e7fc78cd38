"""What the tcp and the vsock listener share: the client connects, sends its request, and is answered on that stream."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import OrderedDict
from typing import Any, Callable

from vmfence.errors import ListenError, PacketError, VmfenceError
from vmfence.host.reception import Reception
from vmfence.host.security import Security, Verified, asks_why, check_packet
from vmfence.host.streams import hang_up
from vmfence.policy import Origin
from vmfence.protocol.request import PACKET_BYTES

log = logging.getLogger(__name__)

REQUEST_S = 1.0
WAITING_MAX = 256
BACKLOG = 128


class DirectListener:
    """One listening socket, made by *bind*; *identify* tells who a peer is, by the name of its socket.

    *where* says in words where it listens.
    """

    def __init__(
        self,
        where: str,
        bind: Callable[[], socket.socket],
        identify: Callable[[Any], Origin],
        security: Security,
        reception: Reception,
    ) -> None:
        self._where, self._bind, self._identify = where, bind, identify
        self._security, self._reception = security, reception
        self._server: asyncio.AbstractServer | None = None
        self._trouble = "closed"
        self._waiting: OrderedDict[asyncio.StreamWriter, None] = OrderedDict()

    def where(self) -> str:
        """Return where it listens."""
        return self._where

    async def open(self) -> None:
        """Begin to listen.  Raises ListenError."""
        try:
            listening = self._bind()
        except ListenError as error:
            self._trouble = ": ".join(filter(None, (error.what, error.why)))
            raise
        self._server = await asyncio.start_server(self._connected, sock=listening, backlog=BACKLOG, limit=4096)

    def trouble(self) -> str:
        """Return why no request can arrive at the moment, or nothing."""
        return "" if self._server is not None else self._trouble

    def unheard(self) -> dict[str, str]:
        """Return nobody: who asks here is not known before."""
        return {}

    def secure(self, security: Security, has_groups: bool) -> None:
        """Demand *security* from the next request on."""
        self._security = security

    async def close(self) -> None:
        """Stop listening and hang up on those who have not sent a request."""
        self._trouble = "closed"
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
        origin = self._identify(peer)
        known_as = origin.address or f"CID {origin.cid}"
        packet = b""
        try:
            packet = await self._read_packet(reader, writer)
            verified = check_packet(packet, self._security, time.monotonic())
            self._reception.refuse_recent(verified)
            origin = await self._confirmed(origin)
        except VmfenceError as error:
            self._reception.reject(f"{known_as} ({origin.kind})", error)
            if not self._explain(packet, error, known_as, reader, writer):
                writer.transport.abort()
        except OSError as error:
            self._reception.reject(
                f"{known_as} ({origin.kind})", PacketError("the connection broke", error.strerror or str(error))
            )
            writer.transport.abort()
        else:
            if not self._reception.spawn(known_as, lambda: self._serve(verified, known_as, origin, reader, writer)):
                writer.transport.abort()

    async def _confirmed(self, origin: Origin) -> Origin:
        """Return who the origin of a verified request is by now."""
        return origin

    def _explain(
        self,
        packet: bytes,
        why: VmfenceError,
        known_as: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        """Begin to tell *why* a packet is refused, if it asks for that and is signed with a key of ours."""
        refused = asks_why(packet, self._security, time.monotonic())
        return refused is not None and self._reception.spawn(known_as, lambda: self._tell(refused, why, reader, writer))

    async def _tell(
        self, refused: Verified, why: VmfenceError, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            await self._reception.refuse_repeat(refused)
            await self._reception.tell(refused, why, self._security, reader, writer)
        finally:
            await hang_up(writer)

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
        self,
        verified: Verified,
        known_as: str,
        origin: Origin,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        try:
            async with self._reception.admitted(verified, known_as) as admission:
                await self._reception.converse(admission, self._security, origin, reader, writer)
        finally:
            await hang_up(writer)
