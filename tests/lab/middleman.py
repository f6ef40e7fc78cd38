"""Stands between a daemon and libvirtd and spoils single calls: held, lost on the way, or answered to nobody.

It reads only the headers of libvirt's RPC (src/rpc/virnetprotocol.x): the length, the procedure, the type.  What a
call did is then asked from libvirt itself, past the middleman.
"""

from __future__ import annotations

import enum
import os
import shutil
import socket
import struct
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from .libvirtd import Libvirtd
from .waiting import wait_until

HEADER = struct.Struct(">IIIIIII")  # length, program, version, procedure, type, serial, status
PROGRAM = 0x20008086  # remote_protocol.x, as the procedures below
CALL, REPLY = 0, 1
CREATE, DESTROY, STATE, CREATE_FLAGS, DESTROY_FLAGS, RESET = 9, 12, 212, 196, 234, 245


class Fate(enum.Enum):
    """What becomes of a call."""

    HELD = "waits for release() or cut()"
    LOST = "its connection breaks before it arrives"
    UNANSWERED = "carried out, but its connection breaks before the answer arrives"


class Middleman:
    """A socket that leads to libvirtd; a context manager."""

    def __init__(self, libvirtd: Libvirtd) -> None:
        self._libvirtd = libvirtd
        self._folder = Path(tempfile.mkdtemp(prefix="vmf-", dir="/tmp"))
        self._listener: socket.socket | None = None
        self._open: set[_Passage] = set()
        self._fates: dict[int, Fate] = {}
        self._lock = threading.Lock()
        self.caught = threading.Event()
        self.released = threading.Event()
        self.calls: list[int] = []  # procedures that reached libvirtd

    @property
    def uri(self) -> str:
        """The URI that leads through here."""
        return f"qemu+unix:///system?socket={self._path}"

    @property
    def _path(self) -> Path:
        return self._folder / "socket"

    def __enter__(self) -> Middleman:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self.down()
        shutil.rmtree(self._folder, ignore_errors=True)

    def spoil(self, procedure: int, fate: Fate) -> None:
        """Give the next call of *procedure* this fate; once."""
        self.caught.clear()
        self.released.clear()
        self._fates[procedure] = fate

    def up(self) -> None:
        """Take connections, again."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self._path))
        listener.listen(64)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def down(self) -> None:
        """Be gone, as a libvirtd that ended: connections break, new ones are refused."""
        if self._listener is not None:
            listener, self._listener = self._listener, None
            os.unlink(self._path)
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.cut()

    def cut(self) -> None:
        """Break every connection; held calls are lost."""
        with self._lock:
            passages = list(self._open)
        for passage in passages:
            passage.close()
        wait_until(lambda: not self._open.intersection(passages), what="all connections broken")

    def release(self) -> None:
        """Let a held call go on."""
        self.released.set()

    def fate_of(self, procedure: int) -> Fate | None:
        """Take the fate of this call, if it has one."""
        fate = self._fates.pop(procedure, None)
        if fate is not None:
            self.caught.set()
        return fate

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                server.connect(str(self._libvirtd.run_folder / "libvirt-sock"))
            except OSError:
                client.close()
                server.close()
                continue
            passage = _Passage(self, client, server)
            with self._lock:
                self._open.add(passage)
            passage.start()

    def forget(self, passage: _Passage) -> None:
        """Take a passage off the list, when both of its threads have ended."""
        with self._lock:
            self._open.discard(passage)


class _Passage:
    """One connection: two threads that carry messages."""

    def __init__(self, middleman: Middleman, client: socket.socket, server: socket.socket) -> None:
        self._middleman, self._client, self._server = middleman, client, server
        self._closed = threading.Event()
        self._doomed: int | None = None  # the serial of the call whose answer is lost
        self._running = 2

    def start(self) -> None:
        for carry in (self._to_server, self._to_client):
            threading.Thread(target=self._run, args=(carry,), daemon=True).start()

    def close(self) -> None:
        self._closed.set()
        for end in (self._client, self._server):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def _run(self, carry) -> None:  # type: ignore[no-untyped-def]
        try:
            carry()
        except OSError:
            pass
        finally:
            self.close()
            self._running -= 1
            if not self._running:
                self._client.close()
                self._server.close()
                self._middleman.forget(self)

    def _to_server(self) -> None:
        for message in _messages(self._client):
            _, program, _, procedure, kind, serial, _ = HEADER.unpack_from(message)
            if program == PROGRAM and kind == CALL:
                fate = self._middleman.fate_of(procedure)
                if fate is Fate.LOST:
                    return
                if fate is Fate.HELD and not self._wait_for_release():
                    return
                if fate is Fate.UNANSWERED:
                    self._doomed = serial
                self._middleman.calls.append(procedure)
            self._server.sendall(message)

    def _to_client(self) -> None:
        for message in _messages(self._server):
            _, program, _, _, kind, serial, _ = HEADER.unpack_from(message)
            if program == PROGRAM and kind == REPLY and serial == self._doomed:
                return
            self._client.sendall(message)

    def _wait_for_release(self) -> bool:
        wait_until(lambda: self._middleman.released.is_set() or self._closed.is_set(), 120, "release of a call")
        return not self._closed.is_set()


def _messages(stream: socket.socket) -> Iterator[bytes]:
    data = b""
    while piece := stream.recv(65536):
        data += piece
        while len(data) >= 4 and len(data) >= (length := struct.unpack_from(">I", data)[0]):
            yield data[:length]
            data = data[length:]
