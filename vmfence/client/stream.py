"""Conversations over connected sockets: several at once, until one host has proven the key and begins what we want.

Light module (loaded by the fence agent: standard library only).  A stranger who connects to our call-back port, says
nothing, or fails our challenge costs that connection, never the request, and hides nothing that a host has told.
"""

from __future__ import annotations

import enum
import os
import selectors
import socket
import time

from vmfence.client.failures import HostNotProven, NoAnswer, NotAccepted
from vmfence.errors import AuthenticationError, PacketError, VmfenceError
from vmfence.protocol.auth import CHALLENGE_BYTES, Hash, Key
from vmfence.protocol.exchange import ClientExchange, ClientStage
from vmfence.protocol.reply import Record, guest_count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

CONVERSATIONS_MAX = 32


class Rank(enum.IntEnum):
    """How much the end of a conversation tells of the request; least, what anybody can cause."""

    LEFT_WITHOUT_A_BYTE = 0
    SILENT = 1
    BROKEN_OFF = 2
    NOT_PROVEN = 3
    PROVEN_AND_SILENT = 4
    BAD_LIST = 5
    PROVEN_AND_LEFT = 6


class Answer:
    """What a host answered: *code* (0 to 255), *records* of a list, and *peer*, the host's address."""

    __slots__ = ("code", "peer", "records")

    def __init__(self, code: int, records: list[Record], peer: str) -> None:
        self.code, self.records, self.peer = code, records, peer


class Conversation:
    """One connection and the exchange on it."""

    __slots__ = ("_exchange", "has_spoken", "peer", "sock")

    def __init__(self, sock: socket.socket, peer: str, exchange: ClientExchange) -> None:
        self.sock, self.peer, self._exchange = sock, peer, exchange
        self.has_spoken = False

    def begin(self, request: bytes) -> None:
        """Send *request* and our challenge in one piece.  Raises OSError."""
        first = request + self._exchange.begin()
        if first:
            self.sock.sendall(first)

    def receive(self) -> Answer | None:
        """Read what has come; return the answer once it is complete.  Raises VmfenceError, OSError."""
        data = self.sock.recv(65536)
        if not data:
            raise self.ended(None)
        self.has_spoken = True
        try:
            out = self._exchange.receive(data)
        except AuthenticationError as error:
            remedy = "compare the key files' fingerprints and the auth settings of both sides"
            raise HostNotProven(f"{self.peer} could not prove the key", str(error).rstrip("."), remedy) from error
        except PacketError as error:
            raise self._bad_list(error.what, error.why) from error
        if out:
            self.sock.sendall(out)
        if self._exchange.stage is not ClientStage.DONE or self._exchange.code is None:
            return None
        return Answer(self._exchange.code, self._exchange.records, self.peer)

    def ended(self, error: OSError | None) -> VmfenceError:
        """Return what the end of the connection means at this point."""
        stage = self._exchange.stage
        if stage is ClientStage.LIST:
            return self._bad_list("the list of guests was cut off", f"after {guest_count(len(self._exchange.records))}")
        reason = f"it closed the connection while we waited for {stage.value}"
        if error is not None:
            reason += f" ({error.strerror or error})"
        remedy = "the host's log says why: another key, a weaker hash than it requires, another auth setting, a repeat"
        what = f"{self.peer} did not accept our request"
        at_challenge = stage in (ClientStage.RESPONSE, ClientStage.CHALLENGE)
        return NotAccepted(what, reason, remedy, at_challenge=at_challenge)

    def is_entrusted(self) -> bool:
        """Whether the peer has proven that it knows the key, and has our answer: it may act now."""
        return self._exchange.proven and self._exchange.stage in (ClientStage.CODE, ClientStage.LIST)

    def is_proven(self) -> bool:
        """Whether the peer has proven that it knows the key."""
        return self._exchange.proven

    def silent(self, what: str) -> NoAnswer:
        """Return the error *what* of a time that is over while this connection is open."""
        compare = "" if self.is_proven() else "compare the auth settings of both sides, and "
        why = f"it did not send {self._exchange.stage.value}"
        return NoAnswer(what, why, f"{compare}see the daemon's log on the host")

    def rank(self, end: VmfenceError) -> Rank:
        """Return how much *end* tells, an error with which this conversation ended."""
        if isinstance(end, HostNotProven):
            return Rank.NOT_PROVEN
        if isinstance(end, PacketError):
            return Rank.BAD_LIST
        has_left = isinstance(end, NotAccepted)
        if self.is_proven():
            return Rank.PROVEN_AND_LEFT if has_left else Rank.PROVEN_AND_SILENT
        if self.has_spoken:
            return Rank.BROKEN_OFF
        return Rank.LEFT_WITHOUT_A_BYTE if has_left else Rank.SILENT

    def _bad_list(self, what: str, why: str) -> PacketError:
        return PacketError(f"{self.peer}: {what}", why, "see the daemon's log on the host")


class Waiting:
    """All conversations of one request; ends at *deadline* (seconds of the monotonic clock).

    Of several hosts that call back one is to act: while it is at work the others get no answer to their challenges,
    unless *is_census*, for a request that acts on nothing.
    """

    def __init__(
        self, key: Key | None, auth: Hash, deadline: float, log: Callable[[str], None], is_census: bool = False
    ) -> None:
        self._key, self._auth, self.deadline, self.log = key, auth, deadline, log
        self._is_census = is_census
        self._entrusted: Conversation | None = None
        self._selector = selectors.DefaultSelector()
        self._conversations: dict[int, Conversation] = {}
        self._listener: socket.socket | None = None
        self.failure: VmfenceError | None = None
        self._rank = Rank.LEFT_WITHOUT_A_BYTE  # of the failure; not kept itself where strangers can call
        self._stranger = ""

    def close(self) -> None:
        """Close every socket."""
        for conversation in self._conversations.values():
            conversation.sock.close()
        if self._listener is not None:
            self._listener.close()
        self._selector.close()

    def listen(self, listener: socket.socket) -> None:
        """Take connections from *listener*, which is closed with the rest."""
        listener.setblocking(False)
        self._listener = listener
        self._selector.register(listener, selectors.EVENT_READ)

    def add(self, sock: socket.socket, peer: str, request: bytes = b"") -> None:
        """Begin a conversation on the connected *sock*, sending *request* first."""
        # The few hundred bytes that we ever send fit the buffer of a fresh connection; the limit is for the odd case.
        sock.settimeout(max(0.05, min(1.0, self.left())))
        conversation = Conversation(sock, peer, ClientExchange(self._key, self._auth, os.urandom(CHALLENGE_BYTES)))
        if len(self._conversations) >= CONVERSATIONS_MAX:
            self._make_room()
        self._conversations[sock.fileno()] = conversation
        if self._entrusted is None:
            self._selector.register(sock, selectors.EVENT_READ, conversation)
        try:
            conversation.begin(request)
        except OSError as error:
            self._drop(conversation, conversation.ended(error))

    def left(self) -> float:
        """Return the seconds left, never below 0."""
        return max(0.0, self.deadline - time.monotonic())

    def run_until(self, moment: float) -> Answer | None:
        """Serve the conversations until one has the answer, or *moment* (monotonic, at most the deadline) has come.

        Raises the failure of the last conversation when none is left and none can come.
        """
        while True:
            if not self._conversations and self._listener is None:
                raise self.failure or NoAnswer("no connection")
            wait = min(moment, self.deadline) - time.monotonic()
            if wait <= 0:
                return None
            for ready, _ in self._selector.select(wait):
                answer = self._serve(ready.data)
                if answer is not None:
                    return answer

    def no_answer(self, what: str, remedy: str = "") -> VmfenceError:
        """Return the error of a request whose time is over: the most telling failure that was seen.

        *what* is the error, and *remedy* its remedy, when no host was heard.
        """
        for conversation in [self._entrusted] if self._entrusted else self._conversations.values():
            is_heard = conversation.has_spoken or self._listener is not None
            silent = f"{conversation.peer} answered and then fell silent" if is_heard else what
            self._keep(conversation, conversation.silent(silent))
        return self.failure or NoAnswer(what, self._stranger, remedy)

    def _serve(self, conversation: Conversation | None) -> Answer | None:
        if conversation is None:
            self._accept()
            return None
        if not self._is_heard(conversation):
            return None  # since we looked, dropped to make room or put off
        try:
            answer = conversation.receive()
            if answer is None and self._entrusted is None and not self._is_census and conversation.is_entrusted():
                self._entrust(conversation)
            return answer
        except socket.timeout:  # an OSError of its own before Python 3.10
            return None
        except OSError as error:
            self._drop(conversation, conversation.ended(error))
        except VmfenceError as error:
            self._drop(conversation, error)
        return None

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            sock, address = self._listener.accept()
        except OSError as error:
            self.log(f"a call-back was lost: {error.strerror}")
            return
        self.log(f"{address[0]} calls back")
        self.add(sock, str(address[0]))

    def _make_room(self) -> None:
        """Drop the oldest stranger; a host that has proven the key only if there is none."""
        conversations = [each for each in self._conversations.values() if each is not self._entrusted]
        oldest = next((each for each in conversations if not each.is_proven()), conversations[0])
        self._drop(oldest, NoAnswer("too many connections at our call-back port"))

    def _drop(self, conversation: Conversation, why: VmfenceError) -> None:
        self.log(str(why))
        if self._is_heard(conversation):
            self._selector.unregister(conversation.sock)
        self._conversations.pop(conversation.sock.fileno())
        conversation.sock.close()
        self._keep(conversation, why)
        if conversation is self._entrusted:
            self._entrusted = None
            for each in self._conversations.values():
                self._selector.register(each.sock, selectors.EVENT_READ, each)

    def _is_heard(self, conversation: Conversation) -> bool:
        return conversation in self._conversations.values() and self._entrusted in (None, conversation)

    def _entrust(self, conversation: Conversation) -> None:
        """Hear no other host while the one of *conversation* is at work: what they would do, it does."""
        self._entrusted = conversation
        for each in self._conversations.values():
            if each is not conversation:
                self._selector.unregister(each.sock)

    def _keep(self, conversation: Conversation, end: VmfenceError) -> None:
        """Let *end* be the failure of the request if it tells more than that so far."""
        rank = conversation.rank(end)
        if rank > self._rank or self._listener is None:
            self.failure, self._rank = end, rank
        elif rank is Rank.LEFT_WITHOUT_A_BYTE:
            self._stranger = f"{conversation.peer} connected and left without a byte"
