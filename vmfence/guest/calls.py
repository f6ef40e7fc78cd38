"""Conversations with hosts that call back, several at once, and how each of them ended."""

from __future__ import annotations

import os
import selectors
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from vmfence.guest.dissection import Call, Dissection, End
from vmfence.guest.knocks import Knocks
from vmfence.protocol.auth import CHALLENGE_BYTES, Hash, Key
from vmfence.protocol.reply import Code

# So long after the first answer, or the first failure, others are waited for: they are counted, or may do better.
SETTLE_S, PATIENCE_S = 0.7, 1.5
_CALLS_MAX = 64


@dataclass(eq=False)
class _Open:
    """A conversation under way."""

    sock: socket.socket
    dissection: Dissection


@dataclass
class Calls:
    """The conversations under way and *ended*, and the listener where hosts call back; closes all of them."""

    key: Key | None
    auth: Hash
    listener: socket.socket | None = None
    ended: list[Call] = field(default_factory=list)
    knockers: dict[str, None] = field(default_factory=dict)
    _open: list[_Open] = field(default_factory=list)
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    _first_ended: float | None = None
    _first_answer: float | None = None
    _knocks: Knocks | None = None

    def __enter__(self) -> Calls:
        if self.listener is not None:
            self.listener.setblocking(False)
            self._selector.register(self.listener, selectors.EVENT_READ)
        return self

    def __exit__(self, *_: object) -> None:
        for call in list(self._open):
            self._end(call, End.SILENT)
        if self.listener is not None:
            self.listener.close()
        self._selector.close()

    @property
    def is_heard(self) -> bool:
        """Whether any host has shown that it heard us."""
        return bool(self._open or self.ended or self.knockers)

    def watch(self, knocks: Knocks) -> None:
        """Note who knocks."""
        self._knocks = knocks
        self._selector.register(knocks.sock, selectors.EVENT_READ, knocks)

    def end(self, otherwise: float) -> float:
        """Return the moment to stop: some time after the first answer, or after the first that failed."""
        if self._first_answer is not None:
            return self._first_answer + SETTLE_S
        if self._first_ended is not None and not self._open:
            return self._first_ended + PATIENCE_S
        return otherwise

    def add(self, sock: socket.socket, peer: str, request: bytes = b"") -> None:
        """Begin a conversation on the connected *sock*, sending *request* first."""
        sock.settimeout(1.0)
        call = _Open(sock, Dissection(peer, self.key, self.auth, os.urandom(CHALLENGE_BYTES)))
        self._open.append(call)
        self._selector.register(sock, selectors.EVENT_READ, call)
        try:
            first = request + call.dissection.begin()
            if first:
                sock.sendall(first)
        except OSError:
            self._end(call, End.CLOSED)

    def serve(self, until: float) -> None:
        """Serve what there is until that moment, or until something has ended."""
        count = len(self.ended)
        while len(self.ended) == count and (wait := until - time.monotonic()) > 0:
            for ready, _ in self._selector.select(wait):
                if ready.data is self._knocks and self._knocks is not None:
                    self.knockers.update(dict.fromkeys(_all_knocks(self._knocks)))
                elif isinstance(ready.data, _Open):
                    self._receive(ready.data)
                else:
                    self._accept()

    def _accept(self) -> None:
        assert self.listener is not None
        try:
            sock, address = self.listener.accept()
        except OSError:
            return
        if len(self._open) + len(self.ended) >= _CALLS_MAX:
            sock.close()
            return
        self.add(sock, str(address[0]))

    def _receive(self, call: _Open) -> None:
        if call not in self._open:
            return
        try:
            data = call.sock.recv(4096)
            if not data:
                self._end(call, End.CLOSED)
                return
            out = call.dissection.receive(data)
            if out:
                call.sock.sendall(out)
        except OSError:
            self._end(call, End.CLOSED)
            return
        if call.dissection.is_over:
            self._end(call, End.CLOSED)

    def _end(self, call: _Open, end: End) -> None:
        self._open.remove(call)
        self._selector.unregister(call.sock)
        call.sock.close()
        self.ended.append(call.dissection.close(end))
        now = time.monotonic()
        self._first_ended = self._first_ended or now
        if self.ended[-1].code == Code.SUCCESS:
            self._first_answer = self._first_answer or now


def _all_knocks(knocks: Knocks) -> Iterator[str]:
    while (address := knocks.read()) is not None:
        yield address
