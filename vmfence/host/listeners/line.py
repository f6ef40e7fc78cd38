"""One channel of one guest: the socket at which its hypervisor listens, connected to for as long as the guest runs.

A pipe without a key: who writes into it is the guest, as its hypervisor vouches.  Frames: vmfence.protocol.serial.

An answer does not say which request it is for, and nobody tells us when a client gives up.  Requests that come
together are answered in their order.  But one that comes later, while another is still unanswered, comes from a client
whose forerunner has given up: that one is answered no more, or its late "success" would be taken for the new one's, and
nothing that it asked for is begun.  Nor is anything that comes when its client may have given up before we read it:
behind a flood of noise, or while this process was held up.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import time
from dataclasses import dataclass
from typing import Callable

from vmfence.errors import PacketError
from vmfence.host.listeners.acceptance import Acceptances
from vmfence.host.listeners.inflow import READ_BYTES, Flood, Inflow
from vmfence.host.listeners.pulse import Pulse
from vmfence.host.reception import Ignored, Reception, printable
from vmfence.host.security import KeyEntry, Verified
from vmfence.host.service import Caller, Reply
from vmfence.host.streams import hang_up, send
from vmfence.policy import Origin
from vmfence.protocol.auth import Key
from vmfence.protocol.replay import ReplayWindow
from vmfence.protocol.serial import decode_request, encode_list_response, encode_response

log = logging.getLogger(__name__)

# No client gives up sooner (agent and fence_virt: at least a second), so what comes sooner was sent together.
TOGETHER_S = 1.0
TURNS_MAX = 16
AGAIN_FIRST_S, AGAIN_LONGEST_S = 0.1, 10.0
# A hypervisor that is well accepts at once.
ACCEPT_S = 5.0
_FLOOD_PAUSE_S = 1.0
_UNACCEPTED = "nobody has accepted the connection: another program holds the socket, or the hypervisor hangs"
_NO_KEY = KeyEntry(Key(b""), None)


@dataclass(frozen=True)
class Place:
    """A guest's channel: *kind* as the origin is called, serial, vmchannel or virtio; *run* as in LiveGuest."""

    kind: str
    path: str
    guest: str
    uuid: str
    run: str = ""

    def __str__(self) -> str:
        return f"{printable(self.guest)} ({self.kind})"


class Turn:
    """One request on a line, until it is answered or its client has left."""

    def __init__(self, verified: Verified, before: Turn | None) -> None:
        self.verified, self.before = verified, before
        self.over = asyncio.Event()
        self.has_left = self.is_writing = False

    def leave(self) -> None:
        """The client has left."""
        self.has_left = True
        self.over.set()


class GuestLine:
    """Serves one place.  *look* reads the guest anew, *is_known* tells whether its hypervisor vouches for it now.

    *pulse* tells when this process was held up, *acceptances* whether the other end is anybody's.
    """

    def __init__(
        self,
        place: Place,
        reception: Reception,
        look: Callable[[], asyncio.Future[None]],
        is_known: Callable[[], bool],
        pulse: Pulse,
        acceptances: Acceptances,
    ) -> None:
        self.place = place
        self._reception, self._look, self._is_known = reception, look, is_known
        self._pulse, self._acceptances = pulse, acceptances
        self._connection: socket.socket | None = None
        self._connected_at = 0.0
        self._window = ReplayWindow()
        self._turns: list[Turn] = []
        self._told = ""
        self._task = asyncio.ensure_future(self._run())

    def is_connected(self) -> bool:
        """Whether the guest's hypervisor has our connection."""
        return self._connection is not None and not self._acceptances.is_missing(self._connection)

    def trouble(self) -> str:
        """Return why the guest has not been heard for a while, or nothing."""
        if self._connection is None:
            return self._told
        is_young = time.monotonic() - self._connected_at < ACCEPT_S
        return "" if is_young or self.is_connected() else _UNACCEPTED

    def close(self) -> None:
        """Hang up.  Who has asked is not answered any more; what has begun goes on."""
        self._task.cancel()

    async def _run(self) -> None:
        pause = AGAIN_FIRST_S
        while True:
            try:
                reader, writer = await self._connect()
            except OSError as error:
                is_crowded = error.errno == errno.EAGAIN
                self._tell("other programs hold and await it" if is_crowded else error.strerror or str(error))
            else:
                pause = await self._serve_if_known(reader, writer, pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, AGAIN_LONGEST_S)
            await self._wait_until_known()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            connecting.connect(self.place.path)  # at once, or EAGAIN when others wait there already
            return await asyncio.open_unix_connection(sock=connecting, limit=READ_BYTES)
        except OSError:
            connecting.close()
            raise

    async def _wait_until_known(self) -> None:
        """Return when the guest is known to run still: its path may be another guest's by now."""
        await self._look()
        while not self._is_known():
            await asyncio.sleep(AGAIN_LONGEST_S)
            await self._look()

    async def _serve_if_known(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pause: float) -> float:
        """Serve a connection to its end; return how long to wait, *pause* unless there was something to hear.

        Whose socket it is, is looked at anew when it is open: the path may have become another guest's before.
        """
        try:
            await self._look()
            if not self._is_known():
                return pause
            self._tell("")
            return AGAIN_FIRST_S if await self._serve(reader, writer) else pause
        except Flood as error:
            self._reject(error)
            return max(pause, _FLOOD_PAUSE_S)
        finally:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve a connection to its end; return whether a request came.  Raises Flood."""
        writer.transport.set_write_buffer_limits(high=0)  # so that what is written has left
        self._connection, self._connected_at = writer.get_extra_info("socket"), time.monotonic()
        log.debug("connected to %s at %s", self.place, printable(self.place.path))
        look = asyncio.get_running_loop().call_later(ACCEPT_S, lambda: self._tell(self.trouble()))
        has_asked = False
        try:
            async for frame in Inflow(reader, self._reject, self._pulse).requests():
                has_asked = True
                self._tell("")
                self._take(frame, writer)
        except OSError as error:
            log.debug("%s: %s", self.place, error.strerror or error)
        finally:
            look.cancel()
            self._connection = None
            for turn in self._turns:
                turn.leave()
            self._turns.clear()
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await hang_up(writer)
        return has_asked

    def _take(self, frame: bytes, writer: asyncio.StreamWriter) -> None:
        now = time.monotonic()
        try:
            verified = Verified(decode_request(frame), _NO_KEY, now)
            self._turns = [turn for turn in self._turns if not turn.over.is_set()]
            before = self._turns[-1] if self._turns else None
            if before is not None and now - self._turns[0].verified.received >= TOGETHER_S:
                self._let_go(writer)
                before = None
            if len(self._turns) >= TURNS_MAX:
                raise PacketError("too many requests at once")
        except PacketError as error:
            self._reject(error)
            return
        turn = Turn(verified, before)
        self._turns.append(turn)
        if not self._reception.spawn(str(self.place), lambda: self._answer(turn, writer)):
            turn.leave()

    def _let_go(self, writer: asyncio.StreamWriter) -> None:
        """Those who asked before have given up.  Raises PacketError when one of them has half of its answer."""
        for turn in self._turns:
            turn.leave()
        if any(turn.is_writing for turn in self._turns):
            # What is left of it must not be taken for the new one's answer.
            writer.transport.abort()
            raise PacketError("a request while another is being answered", "the line is connected anew")
        self._turns.clear()

    async def _answer(self, turn: Turn, writer: asyncio.StreamWriter) -> None:
        try:
            if turn.before is not None:
                await turn.before.over.wait()
            if turn.has_left:
                raise Ignored("the client has left")
            origin = Origin(self.place.kind, guest_uuid=self.place.uuid, guest_name=self.place.guest)
            caller = Caller(origin, None, lambda: turn.has_left)
            async with self._reception.admitted(turn.verified, self.place.uuid, self._window) as admission:
                if not admission.claim():
                    raise Ignored("another copy is being carried out")
                admission.answered = await self._reception.answer(
                    turn.verified, caller, lambda reply: _deliver(reply, turn, writer)
                )
        finally:
            turn.before = None
            turn.over.set()

    def _reject(self, error: PacketError) -> None:
        self._reception.reject(str(self.place), error)

    def _tell(self, trouble: str) -> None:
        """Log, once, why the guest cannot be heard."""
        if trouble and trouble != self._told:
            log.warning("cannot connect to guest %s at %s: %s", self.place, printable(self.place.path), trouble)
        elif self._told and not trouble:
            log.info("connected to guest %s again", self.place)
        self._told = trouble


async def _deliver(reply: Reply, turn: Turn, writer: asyncio.StreamWriter) -> str:
    """Write *reply* unless the client has left; return what went wrong, or nothing."""
    data = encode_response(reply.code) if reply.records is None else encode_list_response(list(reply.records))
    turn.is_writing = True
    try:
        for start in range(0, len(data), READ_BYTES):
            if turn.has_left:
                return "the client has left or asks anew: it was not answered"
            trouble = await send(data[start : start + READ_BYTES], writer)
            if trouble:
                return trouble
    finally:
        turn.is_writing = False
    return ""
