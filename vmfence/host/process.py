"""The daemon as a process: its log, its pid file, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import sys
from collections.abc import Iterator

from vmfence.errors import VmfenceError
from vmfence.host.daemon import Daemon, Options
from vmfence.host.notify import ServiceManager

log = logging.getLogger("vmfence")


def run(options: Options) -> int:
    """Run a daemon to its end and return the exit code.  Raises VmfenceError when it cannot start."""
    daemons: list[Daemon] = []
    try:
        with _pid_file(options.pid_file):
            asyncio.run(_run(options, daemons))
    except VmfenceError as error:
        if not _is_stuck(daemons):
            raise
        log.error("%s", error)
        _leave(error.exit_code)
    if _is_stuck(daemons):
        _leave(0)
    return 0


async def _run(options: Options, daemons: list[Daemon]) -> None:
    daemons.append(Daemon(options, ServiceManager(dict(os.environ))))
    await daemons[0].run()


def _is_stuck(daemons: list[Daemon]) -> bool:
    return any(daemon.is_busy() for daemon in daemons)


def _leave(exit_code: int) -> None:
    """End at once: a thread hangs in a call to a hypervisor, and Python would wait for it for ever."""
    logging.shutdown()
    sys.stderr.flush()
    os._exit(exit_code)


def set_up_log() -> None:
    """Log to stderr; with a time of our own unless the journal adds one."""
    handler = logging.StreamHandler(sys.stderr)
    stamped = "%(levelname)s %(message)s" if "JOURNAL_STREAM" in os.environ else "%(asctime)s %(levelname)s %(message)s"
    handler.setFormatter(logging.Formatter(stamped))
    logging.getLogger("vmfence").addHandler(handler)
    logging.getLogger("asyncio").addHandler(handler)


@contextlib.contextmanager
def _pid_file(path: str | None) -> Iterator[None]:
    """Keep *path* locked and our process number in it.  Raises VmfenceError when another daemon has it."""
    if path is None:
        yield
        return
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise VmfenceError(f"cannot write the pid file {path}", error.strerror or str(error)) from error
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise VmfenceError(f"another daemon has the pid file {path}", "", "stop it first") from None
        if file.read(32).strip(b"0123456789 \n"):
            raise VmfenceError(f"{path} is no pid file", "it holds something else", "name another file with -p")
        file.seek(0)
        file.truncate(0)
        file.write(str(os.getpid()).encode())
        try:
            yield
        finally:
            os.unlink(path)
