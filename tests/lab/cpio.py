"""Archives that the Linux kernel unpacks as its first file system ("newc" in initramfs-buffer-format of its manual)."""

from __future__ import annotations

import os
import stat
from fnmatch import fnmatch
from pathlib import Path
from typing import BinaryIO

_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"


class Archive:
    """Writes into *output*; a context manager, complete at the end of its block.  Folders are made as needed."""

    def __init__(self, output: BinaryIO) -> None:
        self._output = output
        self._names: set[str] = set()

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._entry(_TRAILER, 0, b"")

    def __contains__(self, name: str) -> bool:
        return name.lstrip("/") in self._names

    def add(self, source: Path, name: str = "") -> None:
        """Add a file's content, mode and time, as *name* or else where it lies here."""
        found = source.stat()
        self.write(name or str(source), source.read_bytes(), stat.S_IMODE(found.st_mode), int(found.st_mtime))

    def add_tree(self, source: Path, name: str = "", without: tuple[str, ...] = ()) -> None:
        """Add the files below *source*, but nothing whose name matches one of *without* (fnmatch)."""

        def wanted(names: list[str]) -> list[str]:
            return [each for each in names if not any(fnmatch(each, pattern) for pattern in without)]

        for folder, folders, files in os.walk(source):
            folders[:] = wanted(folders)
            inside = os.path.join(name or str(source), os.path.relpath(folder, source))
            for each in wanted(files):
                self.add(Path(folder, each), os.path.normpath(os.path.join(inside, each)))

    def write(self, name: str, data: bytes, mode: int = 0o644, mtime: int = 0) -> None:
        """Add a file."""
        self._new(name, stat.S_IFREG | mode, data, mtime)

    def link(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        self._new(name, stat.S_IFLNK | 0o777, target.encode())

    def folder(self, name: str) -> None:
        """Add a folder and those above it, unless they are there."""
        if name and name not in self._names:
            self._new(name, stat.S_IFDIR | 0o755, b"")

    def _new(self, name: str, mode: int, data: bytes, mtime: int = 0) -> None:
        name = name.lstrip("/")
        if name in self._names:
            return
        self.folder(os.path.dirname(name))
        self._names.add(name)
        self._entry(name, mode, data, mtime)

    def _entry(self, name: str, mode: int, data: bytes, mtime: int = 0) -> None:
        path = name.encode() + b"\0"
        # Inode, mode, owner, group, links, time, size, device (two numbers), its own number (two), name's size, sum.
        fields = (len(self._names), mode, 0, 0, 1, mtime, len(data), 0, 0, 0, 0, len(path), 0)
        header = _MAGIC + b"".join(b"%08x" % field for field in fields) + path
        self._output.write(_padded(header) + _padded(data))


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
