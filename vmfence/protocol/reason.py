"""Why a daemon of ours failed a request, told to a client that has proven the key and asked for it (FLAG_TELL).

Pure.  It follows the code FAILURE on the stream: the mark, two bytes of length (little-endian), UTF-8 text of one to
three lines: what, why, remedy.  No other peer sets the flag, so none ever meets these bytes.
"""

from __future__ import annotations

import struct

from vmfence.errors import VmfenceError

_HEAD = struct.Struct("<4sH")
_MARK = b"why\0"
_TEXT_BYTES_MAX = 1024
REASON_BYTES_MAX = _HEAD.size + _TEXT_BYTES_MAX


def encode_reason(error: VmfenceError) -> bytes:
    """Return the bytes that tell *error*; a longer text is cut at 1024 bytes."""
    lines = (" ".join(part.split()) for part in (error.what, error.why, error.remedy))
    text = "\n".join(lines).encode("utf-8", "replace")[:_TEXT_BYTES_MAX]
    return _HEAD.pack(_MARK, len(text)) + text


def decode_reason(data: bytes) -> VmfenceError | None:
    """Return what the bytes behind a code tell, None when that is nothing, or not complete."""
    if len(data) < _HEAD.size:
        return None
    mark, size = _HEAD.unpack_from(data)
    text = data[_HEAD.size : _HEAD.size + size]
    if mark != _MARK or len(text) < size or size > _TEXT_BYTES_MAX:
        return None
    what, why, remedy, *_ = [*text.decode("utf-8", "replace").split("\n"), "", ""]
    return VmfenceError(what, why, remedy)
