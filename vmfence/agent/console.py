"""Standard input, output, error and syslog, as a cluster hands them to us: perhaps closed, perhaps no UTF-8.

Light module (loaded for every fence action: standard library only).  Nothing here raises for a stream that is
gone.
"""

from __future__ import annotations

import errno
import os
import socket
import sys

from vmfence.errors import UsageError, VmfenceError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

LOG_SOCKET = "/dev/log"
_DAEMON = 3 << 3
_ERROR, _INFO = 3, 6


class Console:
    """Where *program* says things; *debugging* decides whether debug() does.  *log_socket* is the log daemon's."""

    __slots__ = ("_log_socket", "debugging", "program")

    def __init__(self, program: str, log_socket: str = LOG_SOCKET) -> None:
        self.program, self.debugging, self._log_socket = program, False, log_socket

    def out(self, text: str) -> bool:
        """Write *text* to standard output, names in UTF-8 or as they came; return whether it got there.

        If not, standard error tells why.  One that does not block is made to, so that a long text is not cut.
        """
        try:
            _write(sys.stdout, text.encode("utf-8", "surrogateescape"), blocking=True)
        except OSError as error:
            self.err(f"error: {VmfenceError('cannot write to standard output', error.strerror or str(error))}")
            return False
        return True

    def err(self, text: str) -> None:
        """Write *text* as one line to standard error."""
        try:
            _write(sys.stderr, (_line(text) + "\n").encode())
        except OSError:
            pass

    def debug(self, text: str) -> None:
        """Write *text* to standard error if asked to."""
        if self.debugging:
            self.err(f"debug: {text}")

    def log(self, text: str, *, failed: bool) -> None:
        """Send *text* to syslog (3), facility daemon; without a log daemon that takes it at once it is lost.

        Not by syslog(): with a full queue that waits without limit, and Pacemaker kills an agent that is done.
        """
        priority = _DAEMON | (_ERROR if failed else _INFO)
        entry = f"<{priority}>{_line(self.program)}[{os.getpid()}]: {_line(text)}"
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
                sender.sendto(entry.encode(), self._log_socket)
        except OSError:
            pass


def read_stdin(limit: int) -> bytes:
    """Return what comes on standard input, to its end or until it is more than *limit* bytes.

    Nothing if it is closed.  Raises UsageError if it cannot be read.
    """
    if sys.stdin is None:
        return b""
    data = b""
    try:
        os.set_blocking(sys.stdin.fileno(), True)
        while len(data) <= limit:
            piece = os.read(sys.stdin.fileno(), 65536)
            if not piece:
                break
            data += piece
    except OSError as error:
        raise UsageError("cannot read standard input", error.strerror or str(error)) from error
    return data


def is_terminal() -> bool:
    """Return whether standard input is a terminal."""
    return sys.stdin is not None and sys.stdin.isatty()


def _line(text: str) -> str:
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _write(stream: TextIO | None, data: bytes, *, blocking: bool = False) -> None:
    """Write past Python's buffers: what stays in them after an error would change our exit code to 120.

    Raises OSError when *data*, if there is any, does not get there whole.
    """
    if not data:
        return
    if stream is None:
        raise OSError(errno.EBADF, "it is closed")
    if blocking:
        os.set_blocking(stream.fileno(), True)
    while data:
        data = data[os.write(stream.fileno(), data) :]
