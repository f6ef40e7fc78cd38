"""Run outside programs: argument lists, no shell, a clean environment, a deadline.

The only user of subprocess.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from vmfence.errors import DeadlineExceeded, NotPermitted, ToolMissing, VmfenceError

END_S = 10.0
_KEPT = ("PATH", "HOME", "PYTHONPATH", "VIRTUAL_ENV")


@dataclass(frozen=True)
class Result:
    """How a program ended: *status* is its exit code, or minus the signal that ended it."""

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Background:
    """A program that runs meanwhile."""

    process: subprocess.Popen[bytes]

    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    @property
    def status(self) -> int | None:
        """How it ended: exit code, or minus the signal; None while it runs."""
        return self.process.poll()


@dataclass
class _Limit:
    """What holds for all programs of a block: they end at *end* (of the monotonic clock), each after *each_s*."""

    end: float
    each_s: float
    running: dict[int, subprocess.Popen[str]] = field(default_factory=dict)
    is_over: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, argv: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
        """Start a program, unless the block is left: under the lock, for then nobody would be there to end it."""
        with self.lock:
            if self.is_over:
                raise DeadlineExceeded(f"{argv[0]} was not run", "the time was over")
            process = _popen(argv, environment, True)
            self.running[process.pid] = process
            return process

    def remove(self, process: subprocess.Popen[str]) -> None:
        with self.lock:
            self.running.pop(process.pid, None)

    def enforce(self) -> None:
        with self.lock:
            self.is_over = True
            left = tuple(self.running.values())
        for process in left:
            _kill(process)


_LIMIT: ContextVar[_Limit | None] = ContextVar("limit of programs", default=None)


@contextmanager
def limited(total_s: float, each_s: float) -> Iterator[None]:
    """Let every program that is run in the block, or in a thread begun there by vmfence.together, end in time.

    Each is ended after *each_s* seconds, all *total_s* seconds from now, and what still runs when the block is left,
    with whatever it has started.  Only for programs that read.
    """
    limit = _Limit(time.monotonic() + total_s, each_s)
    before = _LIMIT.set(limit)
    try:
        yield
    finally:
        _LIMIT.reset(before)
        limit.enforce()


def run(argv: list[str], timeout_s: float, environment: Mapping[str, str] | None = None) -> Result:
    """Run *argv* to its end, with *environment* besides the clean one.

    Raises ToolMissing, NotPermitted, other VmfenceErrors when it cannot start, DeadlineExceeded after *timeout_s*.
    """
    limit = _LIMIT.get()
    if limit is not None:
        timeout_s = max(0.0, min(timeout_s, limit.each_s, limit.end - time.monotonic()))
    try:
        whole = {**_environment(), **(environment or {})}
        process = _popen(argv, whole, False) if limit is None else limit.start(argv, whole)
    except FileNotFoundError as error:
        raise ToolMissing(f"cannot run {argv[0]}", "it is not installed") from error
    except PermissionError as error:
        raise NotPermitted(f"cannot run {argv[0]}", error.strerror or str(error)) from error
    except OSError as error:
        raise VmfenceError(f"cannot run {argv[0]}", error.strerror or str(error)) from error
    with process:
        try:
            stdout, stderr = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            remedy = "" if limit is None else f"see what keeps it: {shlex.join(argv)}"
            raise DeadlineExceeded(f"{argv[0]} did not end within {timeout_s:.2g} s", "", remedy) from error
        finally:
            if process.returncode is None:
                _kill(process)
            if limit is not None:
                limit.remove(process)
    return Result(tuple(argv), process.returncode, stdout, stderr)


def _popen(argv: list[str], environment: dict[str, str], has_session: bool) -> subprocess.Popen[str]:
    """Start *argv*; *has_session*: in a session of its own, so that its children can be ended with it."""
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        encoding="utf-8",
        errors="replace",
        start_new_session=has_session,
    )


def _kill(process: subprocess.Popen[str]) -> None:
    """End *process*; in a session of its own with all that it has started."""
    with contextlib.suppress(OSError):
        if process.returncode is None and os.getpgid(process.pid) == process.pid:  # not waited for: still that process
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()


@contextmanager
def background(argv: list[str], log_path: str, environment: Mapping[str, str] | None = None) -> Iterator[Background]:
    """Run *argv* while the block runs, its output in *log_path*; then end it, in earnest after END_S."""
    with open(log_path, "wb") as log:
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**_environment(), **(environment or {})},
            )
        except OSError as error:
            raise VmfenceError(f"cannot run {argv[0]}", error.strerror or str(error)) from error
    try:
        yield Background(process)
    finally:
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def system_path() -> str:
    """Return PATH with the directories of system tools, which a plain user's often lacks."""
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join(dict.fromkeys([*folders, "/usr/sbin", "/sbin"]))


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {**kept, "LC_ALL": "C.UTF-8"}
