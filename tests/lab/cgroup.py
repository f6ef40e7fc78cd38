"""A control group for each machine: two systemds that share one take each other's services for their own.

Seen with systemd 252: what one stops it also removes below the other, whose next service then does not start ("Failed
to attach to cgroup: No such file or directory"), and systemd-nspawn without a unit of its own puts every machine into
the group "payload" beside that of its caller.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from .waiting import wait_until

_OF_SYSTEMD = ("", "name=systemd")  # how /proc/self/cgroup calls the unified hierarchy, and the one of old


class ControlGroup:
    """A control group below our own, in each hierarchy in which systemd keeps its services; a context manager."""

    def __init__(self, name: str) -> None:
        self._folders = [folder / name for folder in _own_folders()]

    def __enter__(self) -> ControlGroup:
        for folder in self._folders:
            folder.mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove it, once nothing runs there any more."""
        wait_until(self._is_removed, what="empty control groups")

    @property
    def doors(self) -> list[Path]:
        """The files that take the number of a process which is to run there."""
        return [folder / "cgroup.procs" for folder in self._folders]

    def _is_removed(self) -> bool:
        try:
            for folder in self._folders:
                for inner, _, _ in os.walk(folder, topdown=False):
                    os.rmdir(inner)
        except OSError:  # the last process has not quite gone
            return False
        return True


def _own_folders() -> Iterator[Path]:
    """Yield where our own control group is found (proc_pid_cgroup(5), proc_pid_mountinfo(5))."""
    own = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own[controllers] = path
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        root, mounted_at = words.split()[3:5]
        names = [""] if kind == "cgroup2" else [each for each in options.split(",") if each in _OF_SYSTEMD]
        if kind in ("cgroup", "cgroup2") and names and names[0] in own:
            yield Path(mounted_at) / os.path.relpath(own[names[0]], root)
