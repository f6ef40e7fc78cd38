"""Who fenced whom: one JSON object a line, appended and never rewritten.

Bounded: beyond FILE_BYTES_MAX the file becomes the old one (".1"), which replaces the one before.  A line that a crash
cut short costs itself alone: the next one begins on a line of its own, and readers skip what is no record.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Callable

from vmfence.errors import NotPermitted, VmfenceError

FILE_NAME = "history.jsonl"
FILE_BYTES_MAX = 8 << 20
TEXT_MAX = 1000
_FOLLOW_S = 0.2
_KINDS: dict[str, Any] = {"at": (int, float), "ms": int}  # of fields that are no text
_AT_MAX = 1e11  # in the year 5138: what calendars can show


@dataclass(frozen=True)
class Event:
    """One power action.  *at* is in seconds of the wall clock, *ms* how long it took, *result* a word of the log."""

    at: float
    action: str
    guest: str
    uuid: str
    origin: str
    via: str
    result: str
    ms: int
    detail: str = ""


class History:
    """The writing side.  Raises VmfenceError when the file cannot be opened; each call blocks for the disk."""

    def __init__(self, folder: str) -> None:
        self._path = os.path.join(folder, FILE_NAME)
        try:
            self._file = self._open()
        except OSError as error:
            raise VmfenceError(f"cannot write {self._path}", error.strerror or str(error)) from error

    def add(self, event: Event) -> None:
        """Append *event*; on return it is on the disk.  Raises OSError, the file then as it was.

        A file that somebody has moved or removed is let go, and another begun in its place.
        """
        if not self._is_in_place():
            self._open_anew()
        if os.fstat(self._file).st_size >= FILE_BYTES_MAX:
            self._begin_anew()
        kept = replace(event, guest=event.guest[:TEXT_MAX], detail=event.detail[:TEXT_MAX])
        line = json.dumps(asdict(kept), ensure_ascii=True).encode() + b"\n"
        size = os.fstat(self._file).st_size
        if os.write(self._file, line) < len(line):  # a disk that is nearly full takes a part, and raises nothing
            os.ftruncate(self._file, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fdatasync(self._file)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _begin_anew(self) -> None:
        """Make the file the old one.  Raises OSError with the descriptor still ours: the next event tries again."""
        with contextlib.suppress(FileNotFoundError):  # so it is when the last try got no further than this
            os.replace(self._path, f"{self._path}.1")
        self._open_anew()

    def _is_in_place(self) -> bool:
        """Whether what readers find is the file that we write."""
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._file))
        except FileNotFoundError:
            return False

    def _open_anew(self) -> None:
        """Open the file again.  Raises OSError with the descriptor still ours."""
        new = self._open()
        os.close(self._file)
        self._file = new

    def _open(self) -> int:
        descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                os.write(descriptor, b"\n")
        except OSError:
            os.close(descriptor)
            raise
        return descriptor


def read(folder: str) -> Iterator[Event]:
    """Yield the events kept in *folder*, oldest first.  Raises VmfenceError when they may not be read."""
    return follow(folder, lambda: True)


def follow(folder: str, is_over: Callable[[], bool] = lambda: False) -> Iterator[Event]:
    """Yield the events kept in *folder*, oldest first, then those that come, until *is_over*.

    Raises VmfenceError when they may not be read.
    """
    path = os.path.join(folder, FILE_NAME)
    file = _opened(f"{path}.1") or _opened(path)
    try:
        while True:
            has_successor = os.path.exists(path) and not (file is not None and file.is_at(path))
            if file is not None:
                yield from file.more()  # after that look: to a file that has a successor nothing is added
            if has_successor:
                if file is not None:
                    file.close()
                file = _opened(path)
            elif is_over():
                return
            else:
                time.sleep(_FOLLOW_S)
    finally:
        if file is not None:
            file.close()


def _opened(path: str) -> _File | None:
    """Return the file at *path*, None when there is none.  Raises VmfenceError."""
    try:
        return _File(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: OSError) -> VmfenceError:
    if isinstance(error, PermissionError):
        return NotPermitted(f"cannot read {path}", error.strerror or str(error), "try as root")
    return VmfenceError(f"cannot read {path}", error.strerror or str(error))


class _File:
    """One file of the history, kept open: it stays what it is when its name goes to another."""

    def __init__(self, path: str) -> None:
        """Open it.  Raises OSError."""
        self._path, self._offset = path, 0
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def is_at(self, path: str) -> bool:
        """Tell whether *path* is the name of this file now."""
        try:
            return os.path.samestat(os.stat(path), os.fstat(self._descriptor))
        except OSError:
            return False

    def more(self) -> list[Event]:
        """Return the events that were not returned yet.  Raises VmfenceError.

        What lacks its end is read again the next time: the writer takes back what the disk took in part.
        """
        try:
            size = os.fstat(self._descriptor).st_size
            self._offset = min(self._offset, size)  # somebody has emptied it
            data = os.pread(self._descriptor, size - self._offset, self._offset)
        except OSError as error:
            raise _unreadable(self._path, error) from error
        *lines, rest = data.split(b"\n")
        if _event(rest) is not None:
            lines, rest = [*lines, rest], b""
        self._offset += len(data) - len(rest)
        return [event for event in map(_event, lines) if event is not None]

    def close(self) -> None:
        """Close it."""
        os.close(self._descriptor)


def _event(line: bytes) -> Event | None:
    """Return the event on *line*, or None for a torn or foreign one."""
    try:
        found = json.loads(line)
        values = {field.name: found[field.name] for field in fields(Event)}
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    is_ours = all(isinstance(value, _KINDS.get(name, str)) for name, value in values.items())
    return Event(**values) if is_ours and 0 <= values["at"] < _AT_MAX else None
