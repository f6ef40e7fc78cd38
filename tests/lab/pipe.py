"""The far end of a guest's serial line: a pseudo-terminal whose slave is the device, or a unix socket like QEMU's."""

from __future__ import annotations

import os
import select
import socket
import struct
import termios
import threading
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MAGIC = b"abba"
REQUEST = struct.Struct("<4sBB64sI")
RESPONSE_BYTES, RECORD_BYTES = 5, 130
PATIENT = 30.0


def request(action: int, guest: bytes | str = b"", seqno: int | None = None) -> bytes:
    """Return a request frame."""
    number = int.from_bytes(os.urandom(4), "little") | 1 << 31 if seqno is None else seqno
    return REQUEST.pack(MAGIC, action, 0, guest.encode() if isinstance(guest, str) else guest, number)


def response(code: int) -> bytes:
    """Return a response frame."""
    return MAGIC + bytes((code,))


def record(name: str, uuid: str, state: int = 1) -> bytes:
    """Return one host record."""
    return struct.pack("<64s64sBx", name.encode(), uuid.encode(), state)


def host_list(*records: bytes) -> bytes:
    """Return a whole list."""
    return response(253) + b"".join(records) + bytes(RECORD_BYTES) + response(0)


class FarEnd:
    """What the hypervisor's side of a line sees and says; *descriptor* is not closed here."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def send(self, data: bytes) -> None:
        """Send all of *data*."""
        while data:
            data = data[os.write(self.descriptor, data) :]

    def read(self, size: int) -> bytes:
        """Return *size* bytes, fewer at the end; AssertionError when nothing comes."""
        data = b""
        end = time.monotonic() + PATIENT
        while len(data) < size:
            assert select.select([self.descriptor], [], [], max(0.0, end - time.monotonic()))[0], f"only {data!r}"
            piece = os.read(self.descriptor, size - len(data))
            if not piece:
                break
            data += piece
        return data

    def is_silent(self) -> bool:
        """Tell whether nothing is there to be read now."""
        return not select.select([self.descriptor], [], [], 0)[0]

    def take(self) -> tuple[int, bytes, int]:
        """Read a request; return action, guest and number.  Nulls, which our agent sends first, are answered."""
        while True:
            magic, action, _, guest, number = REQUEST.unpack(self.read(REQUEST.size))
            assert magic == MAGIC
            if action:
                return action, guest.rstrip(b"\0"), number
            self.send(response(1))


class Line(FarEnd):
    """A pseudo-terminal; *device* is the guest's end.  A context manager."""

    def __init__(self) -> None:
        master, self._slave = os.openpty()
        super().__init__(master)
        tty.setraw(master)
        self.device = os.ttyname(self._slave)

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()
        os.close(self._slave)

    def hang_up(self) -> None:
        """Close the far end."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def settings(self) -> list[Any]:
        """Return the terminal's settings (termios(3))."""
        return termios.tcgetattr(self._slave)


class Bridge:
    """Carries bytes between two descriptors, both ways, until the block ends: what socat would do."""

    def __init__(self, one: int, other: int) -> None:
        self._ends = {one: other, other: one}
        self._stop, self._stopped = os.pipe()
        self._thread = threading.Thread(target=self._carry, daemon=True)

    def __enter__(self) -> Bridge:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._stopped)
        self._thread.join(PATIENT)
        os.close(self._stop)

    def _carry(self) -> None:
        while True:
            ready, _, _ = select.select([*self._ends, self._stop], [], [])
            for descriptor in ready:
                try:
                    data = b"" if descriptor == self._stop else os.read(descriptor, 4096)
                except OSError:
                    data = b""
                if not data:
                    return
                FarEnd(self._ends[descriptor]).send(data)


class Socket:
    """The unix socket of a guest's chardev: listens at *path* and serves one connection; a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listening: socket.socket | None = None
        self._connection: socket.socket | None = None

    def __enter__(self) -> Socket:
        self.appear()
        return self

    def __exit__(self, *_: object) -> None:
        self.vanish()

    def appear(self) -> None:
        """Begin to listen, as a guest does that starts."""
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(self.path))
        self._listening.listen(1)
        self._listening.settimeout(PATIENT)

    def vanish(self) -> None:
        """Close everything, as a guest does that ends."""
        self.drop()
        if self._listening is not None:
            self._listening.close()
            self._listening = None
            self.path.unlink()

    def drop(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def accept(self) -> FarEnd:
        """Wait for the daemon to connect; return its connection."""
        assert self._listening is not None
        self.drop()
        self._connection, _ = self._listening.accept()
        return FarEnd(self._connection.fileno())

    def is_wanted(self) -> bool:
        """Tell whether somebody waits to be accepted."""
        assert self._listening is not None
        return bool(select.select([self._listening], [], [], 0)[0])


@contextmanager
def answering(line: FarEnd, *answers: bytes | None) -> Iterator[list[tuple[int, bytes, int]]]:
    """Take a request for each of *answers* and answer so (None: hang up), in a thread; lend those that have come."""
    taken: list[tuple[int, bytes, int]] = []

    def serve() -> None:
        for answer in answers:
            taken.append(line.take())
            if answer is not None:
                line.send(answer)
            elif isinstance(line, Line):
                line.hang_up()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield taken
    finally:
        thread.join(PATIENT)
