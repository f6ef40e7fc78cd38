"""The messages of fence_virtd's backend cpg: who has which guest, requests to all hosts, and the reply of one.

Pure.  Layout from the captured bytes in tests/vectors/cpg.json (fence_virtd 4.12.1): a header of 16 bytes, then 140;
integers in host byte order, little-endian in practice; text zero-padded.  fence_virtd sends whatever lies in the unused
bytes, and passes over types it does not know (server/cpg.c: cpg_deliver_func), which is where our own messages go.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Union

from vmfence.errors import PacketError

GROUP = b"fence-agents"
REQUEST, REPLY, STORE = 0, 1, 2
EVERYBODY = 0xFFFFFFFF
# The type of our own messages, which fence_virtd passes over.
OURS = 0x766D6601
_HEADER = struct.Struct("<IIII")
_ASKED = struct.Struct("<128sIIi")
_STORED = struct.Struct("<65s65s2xIi")
_NAME_BYTES = 127
_STORED_BYTES = 64
HEADER_BYTES = _HEADER.size
MESSAGE_BYTES = _HEADER.size + _ASKED.size


@dataclass(frozen=True)
class Request:
    """A request to all hosts for the guest called *target*; *action* is a code of the wire (request.Action)."""

    seqno: int
    target: str
    action: int
    client_seqno: int = 0


@dataclass(frozen=True)
class Reply:
    """The answer to the request *seqno* of the host *asker*; *code* is a code of the wire, -1 is possible."""

    seqno: int
    asker: int
    code: int
    target: str = ""
    action: int = 0
    client_seqno: int = 0


@dataclass(frozen=True)
class Store:
    """The host *owner* has this guest; *state* is libvirt's number."""

    name: str
    uuid: str
    owner: int
    state: int


@dataclass(frozen=True)
class Ours:
    """A message of our own."""

    body: bytes


Message = Union[Request, Reply, Store, Ours]


def encode(message: Message) -> bytes:
    """Return the bytes of *message*.  Raises PacketError for text or a number that does not fit: never cut."""
    try:
        if isinstance(message, Ours):
            return _HEADER.pack(OURS, 0, EVERYBODY, 0) + message.body
        if isinstance(message, Store):
            name, uuid = _field(message.name, _STORED_BYTES), _field(message.uuid, _STORED_BYTES)
            return _HEADER.pack(STORE, 0, EVERYBODY, 0) + _STORED.pack(name, uuid, message.owner, message.state)
        target = _field(message.target, _NAME_BYTES)
        if isinstance(message, Request):
            body = _ASKED.pack(target, message.action, message.client_seqno, 0)
            return _HEADER.pack(REQUEST, message.seqno, EVERYBODY, 0) + body
        body = _ASKED.pack(target, message.action, message.client_seqno, message.code)
        return _HEADER.pack(REPLY, message.seqno, message.asker, 0) + body
    except struct.error as error:
        raise PacketError("a field of a message to the pool does not fit", str(error)) from error


def decode(data: bytes) -> Message | None:
    """Return the message in *data*, None for a type that nobody has told us of.

    Bytes beyond those needed are ignored.  Raises PacketError for a message that is too short.
    """
    if len(data) < HEADER_BYTES:
        raise PacketError("message of the pool too short", f"{len(data)} bytes, its header has {HEADER_BYTES}")
    kind, seqno, target, _ = _HEADER.unpack_from(data)
    if kind == OURS:
        return Ours(data[HEADER_BYTES:])
    if kind not in (REQUEST, REPLY, STORE):
        return None
    if len(data) < MESSAGE_BYTES:
        raise PacketError("message of the pool too short", f"{len(data)} bytes instead of {MESSAGE_BYTES}")
    if kind == STORE:
        name, uuid, owner, state = _STORED.unpack_from(data, HEADER_BYTES)
        return Store(_text(name), _text(uuid), owner, state)
    name, action, client_seqno, code = _ASKED.unpack_from(data, HEADER_BYTES)
    if kind == REQUEST:
        return Request(seqno, _text(name), action, client_seqno)
    return Reply(seqno, target, code, _text(name), action, client_seqno)


def _field(text: str, longest: int) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    if len(data) > longest or b"\0" in data:
        raise PacketError("a guest's name does not fit into a message to the pool", f"{len(data)} bytes")
    return data


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")
