"""The host's side of the wire, able to misbehave: what an agent may meet instead of an honest daemon.

Written from the protocol's description, like wire.py, sharing no code with the program under test.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Sequence
from typing import Callable

from . import wire

TERMINATOR = bytes(wire.RECORD.size)


def prove(peer: wire.Peer, key: bytes, auth: int = wire.SHA256) -> bytes:
    """Read the request and hold both challenges honestly; return the packet."""
    packet = peer.read(wire.PACKET.size)
    if auth:
        peer.send(wire.digest(key, peer.read(64), auth))
        mine = os.urandom(64)
        peer.send(mine)
        assert peer.read(64) == wire.digest(key, mine, auth)
    return packet


def record(name: bytes, uuid: bytes = b"11111111-2222-3333-4444-555555555501", state: int = 1) -> bytes:
    """Return one host record."""
    return wire.RECORD.pack(name, uuid, state)


def guest_list(*records: bytes) -> bytes:
    """Return a whole list reply."""
    return bytes([wire.HOSTS]) + b"".join(records) + TERMINATOR + b"\0"


class FalseHost:
    """Treats every connection to its *port* on loopback as *script* says, then closes it; a context manager.

    *results* holds what the scripts returned, or the exceptions that ended them.
    """

    def __init__(self, script: Callable[[wire.Peer], object]) -> None:
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.results: list[object] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> FalseHost:
        thread = threading.Thread(target=self._serve, daemon=True)
        self._threads.append(thread)
        thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._listener.close()
        for thread in self._threads:
            thread.join(30)

    def options(self, key_file: object) -> Sequence[str]:
        """Return the words that make our agent ask this host."""
        return ("-T", "127.0.0.1", "-p", str(self.port), "-k", str(key_file))

    def _serve(self) -> None:
        while True:
            try:
                stream, _ = self._listener.accept()
            except OSError:
                return
            with wire.Peer(stream, 30) as peer:
                try:
                    self.results.append(self._script(peer))
                except Exception as error:  # noqa: BLE001 - shown by the test
                    self.results.append(error)
