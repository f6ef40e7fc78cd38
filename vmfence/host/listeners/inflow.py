"""What comes on a line of a guest: the requests among it, and how much of it anybody has to read.

A guest may write what it likes, as fast as it likes.  Noise is skipped, up to a limit: behind more than that, what is
there may be of clients that have given up, so the line is given up too.  More requests than any client sends are not
read for a while, so that they cost the guest and not this host; of what has come meanwhile only the end is heard: who
asked last may still be waiting.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Callable

from vmfence.errors import PacketError
from vmfence.host.listeners.pulse import Pulse
from vmfence.protocol.serial import REQUEST_BYTES, FrameReader, check_plausible

FRAME_S = 1.0
READ_BYTES = 4096
# A serial line at its fastest carries a fifth of this.
NOISE_BYTES_PER_S = 65536
# Our agent sends five for each of its requests, and takes its time between them; fence_virt one.
REQUESTS_PER_S = 64
# Shorter than any client waits for its answer.
PAUSE_S = 0.5
_LAST_BYTES = 8 * REQUEST_BYTES
# What lies in the buffers on the way: read until nothing more comes, or that often.
_LOOK_S, _LOOKS_MAX, _LOOK_BYTES = 0.05, 16, 1 << 18


class Flood(PacketError):
    """More noise than any line carries."""


class Inflow:
    """What comes from *reader*.  *reject* is told what is dropped; *pulse* tells when this process was held up."""

    def __init__(self, reader: asyncio.StreamReader, reject: Callable[[PacketError], None], pulse: Pulse) -> None:
        self._reader, self._reject, self._pulse = reader, reject, pulse
        self._frames = FrameReader(REQUEST_BYTES, self._is_request)
        self._begun_at = 0.0
        self._noise, self._requests = _PerSecond(), _PerSecond()

    async def requests(self) -> AsyncIterator[bytes]:
        """Yield the requests that come, to the end of the stream; what stays incomplete is dropped.

        So is what came while this process was held up.  Raises Flood.
        """
        left = b""
        while data := left or await self._read():
            left = b""
            if self._pulse.was_held_up():
                self._frames.reset()
                self._reject(PacketError("a request that may be old", "this daemon was held up when it came"))
                continue
            found = self._take(data)
            for place, frame in enumerate(found):
                if self._requests.count(1) > REQUESTS_PER_S:
                    left = await self._pause(b"".join(found[place:]) + self._frames.take_rest())
                    break
                yield frame
            await asyncio.sleep(0)  # a line that never rests must not keep the others waiting

    async def _read(self) -> bytes:
        """Return what comes next, nothing at the end of the stream; half a request does not wait for the rest."""
        while True:
            limit = self._begun_at + FRAME_S - time.monotonic() if self._frames.pending() else None
            try:
                return await asyncio.wait_for(self._reader.read(READ_BYTES), limit)
            except asyncio.TimeoutError:
                self._frames.reset()
                why = f"not complete within {FRAME_S:.0f} s of its first byte"
                self._reject(PacketError("half a request", why))

    def _take(self, data: bytes) -> list[bytes]:
        """Return the requests that *data* completes.  Raises Flood."""
        was_pending, skipped = self._frames.pending(), self._frames.skipped
        found = self._frames.feed(data)
        skipped = self._frames.skipped - skipped
        if found or skipped or not was_pending:
            self._begun_at = time.monotonic()
        if self._noise.count(skipped) > NOISE_BYTES_PER_S:
            raise Flood("too much noise", "what is behind it is dropped, the line is connected anew")
        return found

    async def _pause(self, last: bytes) -> bytes:
        """Read nothing for a while; return the end of *last* and of what has come until then."""
        why = f"more than {REQUESTS_PER_S} in a second: those that follow are dropped, but for the last"
        self._reject(PacketError("too many requests", why))
        await asyncio.sleep(PAUSE_S)
        for _ in range(_LOOKS_MAX):
            try:
                data = await asyncio.wait_for(self._reader.read(_LOOK_BYTES), _LOOK_S)
            except asyncio.TimeoutError:
                break
            if not data:
                break
            last = (last + data)[-_LAST_BYTES:]
        self._requests = _PerSecond()
        return last[-_LAST_BYTES:]

    def _is_request(self, frame: bytes) -> bool:
        try:
            check_plausible(frame)
        except PacketError as error:
            self._reject(error)
            return False
        return True


class _PerSecond:
    """How much has come since the second began."""

    def __init__(self) -> None:
        self._since, self._sum = time.monotonic(), 0

    def count(self, size: int) -> int:
        """Add *size*; return the sum of this second."""
        now = time.monotonic()
        if now - self._since >= 1.0:
            self._since, self._sum = now, 0
        self._sum += size
        return self._sum
