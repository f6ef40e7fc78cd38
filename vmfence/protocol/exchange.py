"""The conversation after the request packet, for both roles.

Pure and light (loaded by the fence agent: standard library only): bytes come in by receive(), bytes to send come out,
and an exchange never learns how they travel.  Challenges are made by the caller.

The order on the wire is always the same, whoever opened the connection:

    client -> daemon  64  challenge        ClientExchange.begin()
    daemon -> client  64  response         DaemonExchange.receive()
    daemon -> client  64  challenge        (in the same piece)
    client -> daemon  64  response         ClientExchange.receive()
    daemon -> client   1  code, or 253 and a host list

With authentication "none" only the last line remains.  The daemon thus answers a challenge before it knows its peer:
an oracle by construction, so it never answers one that this daemon itself issued (ChallengeBook), and drops the peer.
"""

from __future__ import annotations

import enum
from collections import OrderedDict

from vmfence.errors import AuthenticationError, PacketError
from vmfence.protocol.auth import CHALLENGE_BYTES, DIGEST_BYTES, Hash, Key, check_response, respond
from vmfence.protocol.reply import Code, Record, RecordReader, guest_count


class ClientStage(enum.Enum):
    """What the client waits for."""

    RESPONSE = "the host's answer to our challenge"
    CHALLENGE = "the host's challenge"
    CODE = "the result"
    LIST = "the list of guests"
    DONE = "nothing"


class ClientExchange:
    """The fence agent's side.  After DONE *code* holds the result and *records* the guests of a list."""

    __slots__ = ("_buffer", "_challenge", "_key", "_kind", "_reader", "code", "proven", "records", "stage")

    def __init__(self, key: Key | None, kind: Hash, challenge: bytes) -> None:
        """*challenge* is 64 fresh random bytes; *key* may be None for authentication "none" alone."""
        if kind is not Hash.NONE and not key:
            raise AuthenticationError("no key", f"authentication {kind} needs one")
        self._key, self._kind, self._challenge = key or Key(b""), kind, challenge
        self._buffer = b""
        self._reader = RecordReader()
        self.stage = ClientStage.CODE if kind is Hash.NONE else ClientStage.RESPONSE
        self.proven = False
        self.code: int | None = None
        self.records: list[Record] = []

    def begin(self) -> bytes:
        """Return the first bytes to send."""
        return b"" if self._kind is Hash.NONE else self._challenge

    def receive(self, data: bytes) -> bytes:
        """Take *data* from the host, return what to send back.  Bytes after the end are ignored.

        Raises AuthenticationError when the host cannot prove the key, PacketError for an impossible list.
        """
        if self.stage is ClientStage.DONE:
            return b""
        self._buffer += data
        out = b""
        if self.stage is ClientStage.RESPONSE and len(self._buffer) >= DIGEST_BYTES:
            check_response(self._take(DIGEST_BYTES), self._challenge, self._key, self._kind)
            self.proven = True
            self.stage = ClientStage.CHALLENGE
        if self.stage is ClientStage.CHALLENGE and len(self._buffer) >= CHALLENGE_BYTES:
            out = respond(self._refuse_reflection(self._take(CHALLENGE_BYTES)), self._key, self._kind)
            self.stage = ClientStage.CODE
        if self.stage is ClientStage.CODE and self._buffer:
            self.code = self._take(1)[0]
            self.stage = ClientStage.LIST if self.code == Code.LIST else ClientStage.DONE
        if self.stage is ClientStage.LIST:
            self._receive_records()
        return out

    def _take(self, count: int) -> bytes:
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def _refuse_reflection(self, challenge: bytes) -> bytes:
        """Return *challenge*, unless it is our own: its answer would be the one we just received."""
        if challenge == self._challenge:
            raise AuthenticationError("the peer sent our own challenge back", "it does not know the key")
        return challenge

    def _receive_records(self) -> None:
        self.records += self._reader.feed(self._take(len(self._buffer)))
        if self._reader.ended:
            self.stage = ClientStage.DONE

    def end(self) -> None:
        """Tell that the stream has ended.  Raises PacketError unless the exchange is complete.

        A list without its terminator is cut off, never complete; the trailing code is not waited for, as the
        reference closes at the terminator.
        """
        if self.stage is ClientStage.LIST:
            raise PacketError("the list of guests was cut off", f"after {guest_count(len(self.records))}")
        if self.stage is not ClientStage.DONE:
            raise PacketError("the host closed the connection", f"while we waited for {self.stage.value}")


class ChallengeBook:
    """The challenges that this daemon issued, kept so that none of them is ever answered by it.

    One book for all listeners of a process.  Bounded: the oldest of *size* is forgotten first, long after the
    exchange that it belonged to is over (exchanges end within seconds and are limited in number).
    """

    __slots__ = ("_issued", "_size")

    def __init__(self, size: int = 65536) -> None:
        self._issued: OrderedDict[bytes, None] = OrderedDict()
        self._size = size

    def add(self, challenge: bytes) -> bytes:
        """Remember *challenge* as ours and return it."""
        self._issued[challenge] = None
        if len(self._issued) > self._size:
            self._issued.popitem(last=False)
        return challenge

    def __contains__(self, challenge: bytes) -> bool:
        return challenge in self._issued


class DaemonExchange:
    """The daemon's side, up to the point where the peer has proven the key: then *proven* is true."""

    __slots__ = ("_book", "_buffer", "_challenge", "_key", "_kind", "answered", "proven")

    def __init__(self, key: Key, kind: Hash, challenge: bytes, book: ChallengeBook) -> None:
        """*challenge* is 64 fresh random bytes, added to *book* here."""
        if kind is not Hash.NONE and not key:
            raise AuthenticationError("no key", f"authentication {kind} needs one")
        self._key, self._kind, self._book = key, kind, book
        self._challenge = book.add(challenge)
        self._buffer = b""
        self.answered = False
        self.proven = kind is Hash.NONE

    def receive(self, data: bytes) -> bytes:
        """Take *data* from the client, return what to send back.  Bytes after the proof are ignored.

        Raises AuthenticationError for a wrong answer, for a challenge of our own, and with authentication "none"
        for any byte: that client authenticates, would misread our result, and must not have its guest fenced.
        """
        if self._kind is Hash.NONE and data:
            raise AuthenticationError("the client sends a challenge", "it has auth set, this listener has none")
        if self.proven:
            return b""
        self._buffer += data
        out = b""
        if not self.answered and len(self._buffer) >= CHALLENGE_BYTES:
            out = self._answer(self._take(CHALLENGE_BYTES)) + self._challenge
            self.answered = True
        if self.answered and len(self._buffer) >= DIGEST_BYTES:
            check_response(self._take(DIGEST_BYTES), self._challenge, self._key, self._kind)
            self.proven = True
        return out

    def _take(self, count: int) -> bytes:
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def _answer(self, challenge: bytes) -> bytes:
        if challenge in self._book:
            raise AuthenticationError("the client sent a challenge of our own", "a reflection attack")
        return respond(challenge, self._key, self._kind)

    def waits_for(self) -> str:
        """Return what has not come yet, for a message."""
        return "its answer to our challenge" if self.answered else "its challenge"
