"""What commands write: tables, foreign text made harmless for a terminal, and the line that tells what is under way."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from types import TracebackType

import click

from vmfence.errors import VmfenceError


def printable(text: str) -> str:
    """Return *text* with all that a terminal would obey, or not show, written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write *rows* below *head* in columns, cells made printable; nothing when there are no rows."""
    lines = [tuple(head), *(tuple(map(printable, row)) for row in rows)] if rows else []
    widths = [max(map(len, column)) for column in zip(*lines)]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())


def is_dumb() -> bool:
    """Whether the terminal shows text and nothing else: no colours, and no line is written over."""
    return os.environ.get("TERM") == "dumb"


class Output:
    """Stdout, of a command that is to go on when nobody reads it any more, or its disk is full."""

    def __init__(self) -> None:
        self._trouble: OSError | None = None

    def echo(self, text: str | bytes, nl: bool = True) -> None:
        """Write *text*; after the first failure nothing more."""
        if self._trouble is not None:
            return
        try:
            click.echo(text, nl=nl)
        except OSError as error:
            self._trouble = error
            with contextlib.suppress(OSError):
                sys.stdout.close()  # or what is still in its buffer fails once more at the end, with exit code 120

    def check(self, remedy: str) -> None:
        """Raise VmfenceError with *remedy* when not all could be written."""
        if self._trouble is not None:
            raise VmfenceError("not all output could be written", self._trouble.strerror or "", remedy)


class Progress:
    """One line on a terminal that says what is under way, and is gone when it is over; elsewhere nothing.

    As a context manager it clears the line at the end, also when that end is an error.
    """

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty() and not is_dumb()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.clear()

    def show(self, text: str) -> None:
        """Say that *text* is under way, in place of what was said before."""
        self.clear()
        if self._is_terminal:
            click.echo(f"{printable(text)} ...", nl=False, err=True)

    def clear(self) -> None:
        """Take the line away."""
        if self._is_terminal:
            click.echo("\r\x1b[K", nl=False, err=True)
