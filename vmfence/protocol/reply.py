"""What a daemon answers: one code, or a list of guests.

Pure and light (loaded by the fence agent: standard library only).  Source: the captured bytes in tests/vectors
(fence_virtd 4.12.1), whose records carry rubbish in bytes 63, 127 and 129: never read here, sent as zeros.
"""

from __future__ import annotations

import enum
import struct

from vmfence.errors import PacketError

_RECORD = struct.Struct("64s64sBB")
RECORD_BYTES = _RECORD.size
END_OF_LIST = bytes(RECORD_BYTES)
RECORDS_MAX = 100_000
_TEXT_BYTES = 63
_COLUMN_BYTES = 32


class Code(enum.IntEnum):
    """Response codes of the wire."""

    SUCCESS = 0
    FAILURE = 1
    OFF = 2
    DENIED = 3
    LIST = 253


class State(enum.IntEnum):
    """Domain states of libvirt, as they travel in host records."""

    NONE = 0
    RUNNING = 1
    BLOCKED = 2
    PAUSED = 3
    SHUTTING_DOWN = 4
    SHUT_OFF = 5
    CRASHED = 6
    SUSPENDED = 7


class Record:
    """One guest of a host list: *name* and *uuid* as text, *state* as the number of a libvirt domain state."""

    __slots__ = ("name", "state", "uuid")

    def __init__(self, name: str, uuid: str, state: int) -> None:
        self.name, self.uuid, self.state = name, uuid, state

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Record) and (self.name, self.uuid, self.state) == (other.name, other.uuid, other.state)

    def __hash__(self) -> int:
        return hash((self.name, self.uuid, self.state))

    def __repr__(self) -> str:
        return f"Record({self.name!r}, {self.uuid!r}, {self.state})"

    def line(self) -> str:
        """Return the line that ``fence_xvm -o list`` prints: "on" for state 1 alone, as every old caller expects.

        The name's column is 32 bytes wide, not characters.
        """
        room = " " * (_COLUMN_BYTES - len(self.name.encode("utf-8", "surrogateescape")))
        return f"{self.name}{room} {self.uuid} {'on' if self.state == State.RUNNING else 'off'}"

    def as_dict(self) -> dict[str, object]:
        """Return name, uuid, state (its libvirt word, or number if unknown) and "on" as in line()."""
        known = self.state in State._value2member_map_
        state = State(self.state).name.lower() if known else self.state
        return {"name": self.name, "uuid": self.uuid, "state": state, "on": self.state == State.RUNNING}


def guest_count(number: int) -> str:
    """Return "1 guest", "2 guests"."""
    return f"{number} guest{'' if number == 1 else 's'}"


def _cut(text: str) -> bytes:
    """Return *text* as at most 63 bytes of UTF-8, never ending inside a character."""
    return text.encode("utf-8", "surrogateescape")[:_TEXT_BYTES].decode("utf-8", "ignore").encode()


def _text(field: bytes) -> str:
    return field[:_TEXT_BYTES].partition(b"\0")[0].decode("utf-8", "surrogateescape")


def encode_record(record: Record) -> bytes:
    """Return the 130 bytes of *record*; longer names are cut at 63 bytes."""
    return _RECORD.pack(_cut(record.name), _cut(record.uuid), record.state, 0)


def decode_record(data: bytes) -> Record | None:
    """Return the record in 130 bytes of *data*, or None for the end of the list (name and UUID both empty)."""
    if len(data) != RECORD_BYTES:
        raise PacketError("host record of a wrong size", f"{len(data)} bytes instead of {RECORD_BYTES}")
    name, uuid, state, _ = _RECORD.unpack(data)
    record = Record(_text(name), _text(uuid), state)
    return record if record.name or record.uuid else None


def encode_list(records: list[Record]) -> bytes:
    """Return a whole list reply: code, records, terminator, trailing code."""
    return b"".join((bytes((Code.LIST,)), *map(encode_record, records), END_OF_LIST, bytes((Code.SUCCESS,))))


class RecordReader:
    """Incremental reader of host records: feed bytes of any size, take the records that are complete.

    Holds less than one record of unread bytes.  Raises PacketError after RECORDS_MAX records.
    """

    __slots__ = ("_buffer", "_count", "ended")

    def __init__(self) -> None:
        self._buffer = b""
        self._count = 0
        self.ended = False

    def feed(self, data: bytes) -> list[Record]:
        """Return the records completed by *data*; sets *ended* at the terminator.  Later bytes are kept unread."""
        self._buffer += data
        records: list[Record] = []
        start = 0
        while not self.ended and len(self._buffer) - start >= RECORD_BYTES:
            record = decode_record(self._buffer[start : start + RECORD_BYTES])
            start += RECORD_BYTES
            if record is None:
                self.ended = True
                break
            self._count += 1
            if self._count > RECORDS_MAX:
                raise PacketError("endless list of guests", f"more than {RECORDS_MAX} records")
            records.append(record)
        self._buffer = self._buffer[start:]
        return records

    def rest(self) -> bytes:
        """Return the bytes that follow the terminator, so far."""
        return self._buffer if self.ended else b""
