"""Standard input, output, error and syslog, as a cluster hands them to us: perhaps closed, perhaps no UTF-8.

Light module (loaded for every fence action: standard library only).  Nothing here raises for a stream that is
gone.
"""

from __future__ import annotations

import os
import sys
import syslog

from vmfence.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO


class Console:
    """Where *program* says things; *debugging* decides whether debug() does."""

    __slots__ = ("debugging", "program")

    def __init__(self, program: str) -> None:
        self.program, self.debugging = program, False

    def out(self, text: str) -> bool:
        """Write *text* to standard output, names in UTF-8 or as they came; return whether it got there."""
        return _write(sys.stdout, text.encode("utf-8", "surrogateescape"))

    def err(self, text: str) -> None:
        """Write *text* as one line to standard error."""
        _write(sys.stderr, (_line(text) + "\n").encode())

    def debug(self, text: str) -> None:
        """Write *text* to standard error if asked to."""
        if self.debugging:
            self.err(f"debug: {text}")

    def log(self, text: str, *, failed: bool) -> None:
        """Send *text* to syslog, facility daemon; without a log daemon it is lost."""
        syslog.openlog(self.program, syslog.LOG_PID, syslog.LOG_DAEMON)
        syslog.syslog(syslog.LOG_ERR if failed else syslog.LOG_INFO, _line(text))


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


def _write(stream: TextIO | None, data: bytes) -> bool:
    """Write past Python's buffers: what stays in them after an error would change our exit code to 120."""
    try:
        while stream is not None and data:
            data = data[os.write(stream.fileno(), data) :]
    except OSError:
        return False
    return True
