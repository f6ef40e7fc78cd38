"""One conversation with a host, taken apart: how far it came, and what that says.  Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from vmfence.errors import AuthenticationError, VmfenceError
from vmfence.protocol.auth import CHALLENGE_BYTES, DIGEST_BYTES, Hash, Key, respond
from vmfence.protocol.exchange import ClientExchange, ClientStage
from vmfence.protocol.reason import REASON_BYTES_MAX, decode_reason
from vmfence.protocol.reply import Code


class Stage(enum.IntEnum):
    """How far a conversation came."""

    CONNECTED = 0
    HOST_PROVEN = 1  # the host has the key
    WE_PROVEN = 2  # it has our proof
    ANSWERED = 3


class End(enum.Enum):
    """How it ended."""

    ANSWERED = "answered"
    CLOSED = "closed"
    UNPROVEN = "wrong proof"
    SILENT = "silent"


@dataclass(frozen=True)
class Call:
    """What became of a conversation with the host at *peer*.

    *code* and *reason*: its answer, and why it failed, which daemons of ours tell.  *host_auth*: the auth setting that
    the host must have instead of ours, "" where nothing points to another.
    """

    peer: str
    stage: Stage
    end: End
    code: int | None = None
    reason: VmfenceError | None = None
    host_auth: str = ""


class Dissection:
    """The client's side of one conversation; *challenge* is 64 fresh random bytes."""

    def __init__(self, peer: str, key: Key | None, auth: Hash, challenge: bytes) -> None:
        self._peer, self._key, self._auth, self._challenge = peer, key, auth, challenge
        self._exchange = ClientExchange(key, auth, challenge)
        self._received = b""
        self._is_refuted = False

    def begin(self) -> bytes:
        """Return the first bytes to send."""
        return self._exchange.begin()

    def receive(self, data: bytes) -> bytes:
        """Take *data* from the host, return what to send back."""
        if len(self._received) < self._code_at() + 1 + REASON_BYTES_MAX:
            self._received += data
        try:
            return b"" if self._is_refuted else self._exchange.receive(data)
        except AuthenticationError:
            self._is_refuted = True
            return b""

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be learned: an answer with its reason, if it may have one, or a wrong proof."""
        code = self._exchange.code
        return self._is_refuted or (code is not None and (code != Code.FAILURE or self._reason() is not None))

    def close(self, end: End) -> Call:
        """Return what became of it; *end*: how the connection ended, if it was not over before."""
        code = self._exchange.code
        if code is not None:
            return Call(self._peer, Stage.ANSWERED, End.ANSWERED, code, self._reason())
        end = End.UNPROVEN if self._is_refuted else end
        return Call(self._peer, self._stage(), end, host_auth=self._host_auth(end))

    def _stage(self) -> Stage:
        if not self._exchange.proven:
            return Stage.CONNECTED
        return Stage.WE_PROVEN if self._exchange.stage is ClientStage.CODE else Stage.HOST_PROVEN

    def _reason(self) -> VmfenceError | None:
        return decode_reason(self._received[self._code_at() + 1 :])

    def _code_at(self) -> int:
        return 0 if self._auth is Hash.NONE else DIGEST_BYTES + CHALLENGE_BYTES

    def _host_auth(self, end: End) -> str:
        """Return the auth setting that explains what the host did instead of what ours expects.

        Without auth it sends its result at once and closes; with auth it waits for a challenge that we do not send.
        """
        if self._auth is Hash.NONE:
            return "not none" if not self._received else ""
        if end is End.UNPROVEN and self._key:
            proof = self._received[:DIGEST_BYTES]
            others = (kind for kind in Hash if kind not in (Hash.NONE, self._auth))
            return next((str(kind) for kind in others if respond(self._challenge, self._key, kind) == proof), "")
        return str(Hash.NONE) if end is End.CLOSED and len(self._received) == 1 else ""
