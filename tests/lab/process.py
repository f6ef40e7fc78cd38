"""Programs as tests run them: started, watched through log and port table, ended by their own pid.

The pid is always that of the program itself: `ip netns exec` and `stdbuf` replace themselves by it.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Callable, NamedTuple, TypeVar

from .requirements import SYSTEM_PATH
from .waiting import LabError, wait_until

if TYPE_CHECKING:
    from .net import Namespace

T = TypeVar("T")

LISTEN = "0A"  # TCP_LISTEN in /proc/net/tcp
PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LIBC = ctypes.CDLL(None)
UNCONNECTED = "07"  # the state shown for a bound UDP socket


class Result(NamedTuple):
    """What a program did that ran to its end; *exit* is negative when a signal ended it."""

    exit: int
    stdout: str
    stderr: str
    seconds: float


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of every program of the laboratory: a path, no language, and *extra*."""
    return {"PATH": SYSTEM_PATH, "LC_ALL": "C", "HOME": "/root", **(extra or {})}


def inside(netns: Namespace | None, argv: Sequence[str]) -> list[str]:
    """Return *argv* so that it runs in *netns*, with the /sys of that namespace."""
    prefix = ["ip", "netns", "exec", netns.name] if netns else []
    return [*prefix, *map(str, argv)]


def run_client(
    program: str | Sequence[str],
    args: Sequence[str] = (),
    stdin: str | None = None,
    netns: Namespace | None = None,
    timeout: float = 60,
    env: Mapping[str, str] | None = None,
) -> Result:
    """Run *program* (a path, or the first words of the command) to its end.

    *timeout* is in seconds; subprocess.TimeoutExpired, with the output so far, when it is exceeded.
    """
    command = [program] if isinstance(program, str) else list(program)
    begin = time.monotonic()
    done = subprocess.run(
        inside(netns, [*command, *args]),
        input=stdin or "",
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        timeout=timeout,
        env=clean_environment(env),
    )
    return Result(done.returncode, done.stdout, done.stderr, time.monotonic() - begin)


class Daemon:
    """A long-running program whose stdout and stderr go to the file *log*, which is appended to.

    A context manager: started on entry, ended on exit; killed when the tests are, or the thread that started it ends.
    """

    def __init__(
        self,
        argv: Sequence[str],
        log: Path,
        netns: Namespace | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.argv = inside(netns, argv)
        self.log_file = log
        self._env = clean_environment(env)
        self._process: subprocess.Popen[bytes] | None = None
        self._begin = 0

    def __enter__(self) -> Daemon:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Daemon:
        """Start the program; its readiness is the caller's to wait for."""
        with self.log_file.open("ab") as log:
            self._begin = log.tell()
            self._process = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                env=self._env, start_new_session=True, preexec_fn=partial(_end_with, os.getpid()),
            )  # fmt: skip
        return self

    @property
    def pid(self) -> int:
        """The pid of the program itself."""
        return self._started().pid

    def running(self) -> bool:
        """Tell whether the program has not ended yet."""
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        """Return what the program wrote since its last start."""
        with self.log_file.open("rb") as log:
            log.seek(self._begin)
            return log.read().decode("utf-8", "replace")

    def wait_for_line(self, pattern: str, timeout: float = 10.0) -> re.Match[str]:
        """Wait until the log of this run matches the regular expression *pattern* and return the match.

        Raises LabError showing the log when the program ends first, or after *timeout* seconds.
        """
        match = self._wait(lambda: re.search(pattern, self.log(), re.MULTILINE), timeout, f"/{pattern}/")
        assert match is not None  # _wait returns true values only
        return match

    def wait_listening(self, protocol: str, port: int, timeout: float = 10.0) -> None:
        """Wait until the program itself holds *port* of *protocol*: tcp (listening) or udp (bound)."""
        self._wait(lambda: (protocol, port) in self.ports(), timeout, f"{protocol} port {port}")

    def ports(self) -> set[tuple[str, int]]:
        """Return the ports that the program itself listens on, as ("tcp" or "udp", number)."""
        return {
            (protocol, port)
            for protocol, state in (("tcp", LISTEN), ("udp", UNCONNECTED))
            for port, inode in _bound(self.pid, protocol, state)
            if inode in _socket_inodes(self.pid)
        }

    def signal(self, number: int) -> None:
        """Send a signal, unless the program has ended."""
        self._started().send_signal(number)

    def wait(self, timeout: float = 10.0) -> int:
        """Wait for the program to end by itself and return its exit status (negative: a signal)."""
        wait_until(lambda: not self.running(), timeout, f"end of {self.argv}")
        return self._started().wait()

    def stop(self, timeout: float = 10.0) -> int | None:
        """End the program with SIGTERM, after *timeout* seconds with SIGKILL; return its exit status.

        A program that was paused is woken, so that it can obey.  None when it was never started.
        """
        if self._process is None:
            return None
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.returncode

    def kill(self) -> None:
        """End the program with SIGKILL and wait for that."""
        self.signal(signal.SIGKILL)
        self._started().wait()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise LabError(f"not started: {self.argv}")
        return self._process

    def _wait(self, predicate: Callable[[], T], timeout: float, what: str) -> T:
        """Wait for *predicate*, or fail with the log."""
        found: list[T] = []

        def settled() -> bool:
            ended = not self.running()  # asked first: its last words are in the log by then
            found[:] = [predicate()]
            return bool(found[0]) or ended

        try:
            wait_until(settled, timeout, what)
        except LabError as error:
            raise LabError(f"{error}\n{self._story()}") from None
        if not found[0]:
            raise LabError(f"ended before {what}\n{self._story()}")
        return found[0]

    def _story(self) -> str:
        status = "running" if self.running() else f"exit status {self._started().returncode}"
        return f"{' '.join(self.argv)}: {status}; its log:\n{self.log()}"


def _end_with(parent: int) -> None:
    """Have the kernel kill this process when *parent* ends: one that is killed itself cannot clean up."""
    if _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) or os.getppid() != parent:
        os._exit(1)


def _bound(pid: int, protocol: str, state: str) -> list[tuple[int, str]]:
    """Return (port, inode) of the sockets in *state* in the network namespace of *pid* (proc(5))."""
    rows = []
    for table in (protocol, protocol + "6"):
        for line in _lines(Path(f"/proc/{pid}/net/{table}"))[1:]:
            fields = line.split()
            if fields[3] == state:
                rows.append((int(fields[1].rpartition(":")[2], 16), fields[9]))
    return rows


def _socket_inodes(pid: int) -> set[str]:
    links = set()
    try:
        with os.scandir(f"/proc/{pid}/fd") as entries:
            for entry in entries:
                links.add(os.readlink(entry.path))
    except OSError:
        pass  # the process, or this descriptor, is gone
    return {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
