"""The process above a private libvirtd: adopts, reaps and finally kills all its descendants.

Run as a program, in a mount namespace of its own::

    reaper.py LOG SOURCE=TARGET... -- ARGV...

binds every SOURCE over TARGET, then reads commands from stdin and answers each with one line: ``start``
runs ARGV and answers its pid, ``signal N`` answers ``ok`` or ``gone``.  At end of file, thus also when the
test process is killed, all descendants are killed and it ends.

Why it exists: QEMU outlives libvirtd as a child of the nearest subreaper, and libvirt takes a zombie for
alive.  Below a first process that reaps slowly, every virDomainDestroy would take 1-2 s instead of 0.2 s.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class Reaper:
    """One program at a time, and everything that descends from it."""

    def __init__(self, argv: list[str], log: str) -> None:
        self._argv = argv
        self._log = log
        self._pid = 0

    def obey(self, command: str, argument: str = "") -> str:
        """Return the answer to one command."""
        if command == "start":
            return self._start()
        if not self._pid:
            return "gone"
        os.kill(self._pid, int(argument))
        return "ok"

    def _start(self) -> str:
        log = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._pid = os.posix_spawnp(
            self._argv[0],
            self._argv,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
            ],
        )
        os.close(log)
        return str(self._pid)

    def reap(self) -> bool:
        """Collect the dead children; tell whether any child is left."""
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if not pid:
                return True
            if pid == self._pid:
                self._pid = 0

    def end(self) -> None:
        """Kill the program first, so that it starts nothing more, then all that it leaves behind."""
        while self.reap():
            for pid in [self._pid] if self._pid else _children():
                os.kill(pid, signal.SIGKILL)
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)


def serve(reaper: Reaper) -> None:
    """Obey stdin and reap until stdin ends."""
    wakeup, alarm = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([0, wakeup], [], [])
        if wakeup in ready:
            os.read(wakeup, 4096)
        reaper.reap()
        if 0 in ready:
            line = os.read(0, 4096)  # one command at a time: the other side waits for each answer
            if not line:
                return
            os.write(1, (reaper.obey(*line.decode().split()) + "\n").encode())


def _children() -> list[int]:
    with open(f"/proc/self/task/{os.getpid()}/children") as children:
        return [int(pid) for pid in children.read().split()]


def main(arguments: list[str]) -> None:
    """Prepare this process, then serve."""
    cut = arguments.index("--")
    for pair in arguments[1:cut]:
        subprocess.run(["mount", "--bind", *pair.split("=")], check=True)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    reaper = Reaper(arguments[cut + 1 :], arguments[0])
    try:
        serve(reaper)
    finally:
        reaper.end()


if __name__ == "__main__":
    main(sys.argv[1:])
