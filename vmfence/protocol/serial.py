"""The frames of the serial and vmchannel transports: no signature, no challenge; the channel itself is the identity.

Pure and light (loaded by the fence agent: standard library only).  Source: the captured bytes in tests/vectors
(fence_virt and fence_virtd 4.12.1).  The magic reads the same in either byte order; anything before it is noise.
"""

from __future__ import annotations

import struct

from vmfence.errors import PacketError
from vmfence.protocol.reply import Code, Record, encode_list
from vmfence.protocol.request import Action, Request, check_domain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

MAGIC = b"abba"
_REQUEST = struct.Struct("<4sBB64sI")
REQUEST_BYTES = _REQUEST.size
_DOMAIN_AT, _NUMBER_AT = 6, 70
RESPONSE_BYTES = 5


def encode_request(request: Request) -> bytes:
    """Return the 74 bytes of *request*.  Raises PacketError for a name that does not fit."""
    check_domain(request.domain)
    return _REQUEST.pack(MAGIC, request.action, request.flags, request.domain, request.seqno)


def decode_request(frame: bytes) -> Request:
    """Return the request in 74 bytes.  Raises PacketError for a wrong length or magic, or a name without end."""
    if len(frame) != REQUEST_BYTES:
        raise PacketError("frame of a wrong size", f"{len(frame)} bytes instead of {REQUEST_BYTES}")
    magic, action, flags, domain, seqno = _REQUEST.unpack(frame)
    if magic != MAGIC:
        raise PacketError("frame without magic", magic.hex())
    name, zero, _ = domain.partition(b"\0")
    if not zero:
        raise PacketError("guest name without end", "its 64 bytes hold no zero")
    return Request(action, name, seqno=seqno, flags=flags)


def encode_response(code: int) -> bytes:
    """Return the 5 bytes of a response."""
    return MAGIC + bytes((code,))


def encode_list_response(records: list[Record]) -> bytes:
    """Return a whole list: response 253, records, terminator, final response."""
    return MAGIC + encode_list(records)[:-1] + encode_response(Code.SUCCESS)


def check_plausible(frame: bytes) -> None:
    """Raise PacketError for 74 bytes that only noise with a magic in it would be: no request of an honest client.

    Above all for the half of a frame that another follows: together they could read as a request that nobody made.
    Where the second begins in the name or behind it, something follows the name's zero, or the name has control
    characters (the action); where it begins in the number, that ends with the beginning of a magic.  Our agent avoids
    such numbers, and those of fence_virt 4.12.1 are below a million.
    """
    request = decode_request(frame)
    if any(frame[_DOMAIN_AT + len(request.domain) : _NUMBER_AT]):
        raise PacketError("bytes behind the guest's name", "two requests that run into each other?")
    if frame.endswith((MAGIC[:1], MAGIC[:2], MAGIC[:3])):
        raise PacketError("a number that ends with the beginning of a magic", "two requests that run into each other?")
    if request.action > Action.LIST:
        raise PacketError("no request that exists", f"action {request.action}")
    if any(byte < ord(" ") for byte in request.domain):
        raise PacketError("guest name with control characters")


class FrameReader:
    """Incremental reader of frames that begin with the magic: *size* bytes each, noise before them skipped.

    What begins with the magic and is none according to *is_frame* is noise too, byte by byte: a frame may begin within.
    Holds less than one frame, unless it was told to leave the rest.
    """

    __slots__ = ("_buffer", "_is_frame", "_size", "skipped")

    def __init__(self, size: int, is_frame: Callable[[bytes], bool] | None = None) -> None:
        self._buffer = b""
        self._is_frame = is_frame
        self._size = size
        self.skipped = 0

    def feed(self, data: bytes, at_most: int | None = None) -> list[bytes]:
        """Return the frames completed by *data*, *at_most* so many; *skipped* counts the bytes of noise so far.

        What follows the last of *at_most* frames is left as it came, for take_rest(): it need not be frames.
        """
        self._buffer += data
        frames: list[bytes] = []
        while at_most is None or len(frames) < at_most:
            self._skip_noise()
            if len(self._buffer) < self._size:
                break
            frame = self._buffer[: self._size]
            if self._is_frame is not None and not self._is_frame(frame):
                self.skipped += 1
                self._buffer = self._buffer[1:]
                continue
            frames.append(frame)
            self._buffer = self._buffer[self._size :]
        return frames

    def reset(self) -> None:
        """Drop a frame that was begun and not completed in time."""
        self.skipped += len(self._buffer)
        self._buffer = b""

    def pending(self) -> bool:
        """Whether a frame has begun and is not complete."""
        return bool(self._buffer)

    def take_rest(self) -> bytes:
        """Return and drop what follows the last frame: host records are read from here on, not frames."""
        rest, self._buffer = self._buffer, b""
        return rest

    def _skip_noise(self) -> None:
        """Drop bytes up to the first that can begin a frame."""
        for start in range(len(self._buffer)):
            if MAGIC.startswith(self._buffer[start : start + len(MAGIC)]):
                break
        else:
            start = len(self._buffer)
        self.skipped += start
        self._buffer = self._buffer[start:]
