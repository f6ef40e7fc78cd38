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
from typing import Callable

from vmfence.errors import NotPermitted, VmfenceError

FILE_NAME = "history.jsonl"
FILE_BYTES_MAX = 8 << 20
TEXT_MAX = 1000
_FOLLOW_S = 0.2


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
        """Append *event*; on return it is on the disk.  Raises OSError, the file then as it was."""
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
    path = os.path.join(folder, FILE_NAME)
    for name in (f"{path}.1", path):
        try:
            with open(name, "rb") as file:
                yield from filter(None, map(_event, file))
        except FileNotFoundError:
            continue
        except PermissionError as error:
            raise NotPermitted(f"cannot read {name}", error.strerror or str(error), "try as root") from error
        except OSError as error:
            raise VmfenceError(f"cannot read {name}", error.strerror or str(error)) from error


def follow(folder: str, is_over: Callable[[], bool] = lambda: False) -> Iterator[Event]:
    """Yield the events that come from now on, until *is_over*.  A file that is begun anew is followed as well."""
    path = os.path.join(folder, FILE_NAME)
    inode, offset = _stat(path)
    rest = b""
    while not is_over():
        now, size = _stat(path)
        if now == inode and size <= offset:
            time.sleep(_FOLLOW_S)
            continue
        data = _read_from(path if now == inode else f"{path}.1", offset)
        *lines, rest = (rest + data).split(b"\n")
        offset += len(data)
        if now != inode:
            inode, offset, rest = now, 0, b""
        yield from filter(None, map(_event, lines))


def _read_from(path: str, offset: int) -> bytes:
    """Return what the file holds behind *offset*, nothing when there is no file."""
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read()
    except FileNotFoundError:
        return b""


def _stat(path: str) -> tuple[int, int]:
    """Return inode and size of the file, zeros when there is none."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return 0, 0
    return status.st_ino, status.st_size


def _event(line: bytes) -> Event | None:
    """Return the event on *line*, or None for a torn or foreign one."""
    try:
        found = json.loads(line)
        return Event(**{field.name: found[field.name] for field in fields(Event)})
    except (ValueError, KeyError, TypeError):
        return None
