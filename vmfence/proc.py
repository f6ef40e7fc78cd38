"""Run outside programs: argument lists, no shell, a clean environment, a deadline.

The only user of subprocess.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

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


def run(argv: list[str], timeout_s: float, environment: Mapping[str, str] | None = None) -> Result:
    """Run *argv* to its end, with *environment* besides the clean one.

    Raises ToolMissing, NotPermitted, other VmfenceErrors when it cannot start, DeadlineExceeded after *timeout_s*.
    """
    try:
        ended = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            env={**_environment(), **(environment or {})},
            check=False,
            encoding="utf-8",
            errors="replace",
        )
    except FileNotFoundError as error:
        raise ToolMissing(f"cannot run {argv[0]}", "it is not installed") from error
    except PermissionError as error:
        raise NotPermitted(f"cannot run {argv[0]}", error.strerror or str(error)) from error
    except OSError as error:
        raise VmfenceError(f"cannot run {argv[0]}", error.strerror or str(error)) from error
    except subprocess.TimeoutExpired as error:
        raise DeadlineExceeded(f"{argv[0]} did not end within {timeout_s:.0f} s") from error
    return Result(tuple(argv), ended.returncode, ended.stdout, ended.stderr)


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
