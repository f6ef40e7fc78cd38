"""Signals that end a process, as what Ctrl-C is: so that a command still says, and records, what it leaves behind."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


@contextlib.contextmanager
def as_interrupt() -> Iterator[None]:
    """Let the signals that end a process raise KeyboardInterrupt in the block, the first of them only."""

    def interrupt(number: int, frame: object) -> None:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = [signal.signal(number, interrupt) for number in _SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(_SIGNALS, before):
            signal.signal(number, handler)
