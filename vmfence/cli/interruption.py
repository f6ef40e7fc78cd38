"""What must go on, or end in order, when its terminal goes away or a signal comes."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Callable

_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


@contextlib.contextmanager
def as_interrupt() -> Iterator[None]:
    """Let the signals that end a process raise KeyboardInterrupt in the block, as Ctrl-C does; the first of them only.

    So a command still says, and records, what it leaves behind.
    """

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


def lasting(tell: Callable[[str], None]) -> Callable[[str], None]:
    """Return *tell*, which goes on when the terminal is gone."""

    def tell_if_possible(text: str) -> None:
        with contextlib.suppress(OSError):
            tell(text)

    return tell_if_possible
