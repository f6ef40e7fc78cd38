"""What ``host check`` reads about a pool: Corosync here, what the daemon tells, and who tells of fenced hosts.

Reads only: no group is joined.  A fenced_command is asked as the daemon asks it, unless others could have changed it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from vmfence import proc
from vmfence.config.settings import Settings
from vmfence.errors import NotPermitted, VmfenceError
from vmfence.findings import NotAsked
from vmfence.host import pool_report
from vmfence.host.pool import fenced
from vmfence.host.pool.corosync import Corosync, Sight
from vmfence.host.pool_report import PoolReport
from vmfence.protocol import cpg

NO_POOL = NotAsked("there is no pool")
ANSWER_S = 3.0
_PACEMAKER = ("stonith_admin", "--list-registered")
_NOT_CONNECTED = (102, 107)  # of Pacemaker since 2.0, and of 1.1


@dataclass(frozen=True)
class Program:
    """The file of fenced_command.  *fault*: why it cannot be run; *open_to*: what lets others change it."""

    path: str
    fault: str = ""
    open_to: str = ""


@dataclass(frozen=True)
class Fencing:
    """Who tells whether a host was fenced.  *pacemaker*: why Pacemaker does not, empty where it answers here.

    *fenced*: of each host that is away, what was answered, or the error.
    """

    program: Program | None = None
    pacemaker: str = ""
    fenced: Mapping[int, bool | VmfenceError] = field(default_factory=dict)


def is_pool(settings: Settings) -> bool:
    """Whether this host is to be one of a pool."""
    return settings.backend.name == "cpg"


def _refuse_others(settings: Settings) -> None:
    if not is_pool(settings):
        raise NO_POOL


def look_at_corosync(settings: Settings) -> Sight:
    """Return what Corosync of this host tells.  Raises NotAsked without a pool, ToolMissing, Unreachable; may hang."""
    _refuse_others(settings)
    if os.geteuid() != 0:
        raise NotPermitted("this user may not ask Corosync", "", "run this as root")
    return Corosync(cpg.GROUP).look()


def read_report(settings: Settings) -> PoolReport | None:
    """Return what the daemon tells, None where it runs without a pool.  Raises NotAsked, VmfenceError."""
    _refuse_others(settings)
    return pool_report.ask(settings.daemon.control_socket, ANSWER_S)


def read_fencing(settings: Settings) -> Fencing:
    """Return who tells whether a host was fenced.  Raises NotAsked, and NotPermitted unless root asks."""
    _refuse_others(settings)
    if os.geteuid() != 0:
        raise NotPermitted("this user may not ask who was fenced", "", "run this as root")
    command = settings.backend.fenced_command
    program = None if command is None else judge(command)
    if program is not None:
        is_usable = not program.fault and not program.open_to
        return Fencing(program, "", dict(_fenced(settings, command)) if is_usable else {})
    silence = _pacemaker_silence()
    return Fencing(None, silence, {} if silence else dict(_fenced(settings, None)))


def _fenced(settings: Settings, command: str | None) -> Iterator[tuple[int, bool | VmfenceError]]:
    """Yield what is answered for each host that is away and was ever here."""
    try:
        report = read_report(settings)
    except VmfenceError:
        return  # told by the check of the daemon
    for host in report.away if report else ():
        if host.left_at is not None:
            try:
                yield host.node, fenced.ask_fenced(host.node, host.name, host.left_at, command)
            except VmfenceError as error:
                yield host.node, error


def _pacemaker_silence() -> str:
    """Return why Pacemaker's fencer does not answer on this host, empty where it does."""
    try:
        ended = proc.run(list(_PACEMAKER), ANSWER_S, {"PATH": proc.system_path()})
    except VmfenceError as error:
        return ": ".join(filter(None, (error.what, error.why)))
    return "Pacemaker does not run here" if ended.status in _NOT_CONNECTED else ""


def judge(path: str) -> Program:
    """Return whether the daemon, which is root, can run the program at *path*, and whether others could change it."""
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            return Program(path, "this is not a regular file")
        fault = "" if found.st_mode & 0o111 else f"it is not executable: mode {stat.S_IMODE(found.st_mode):04o}"
        return Program(path, fault, "; ".join(_openings(path)))
    except OSError as error:
        return Program(path, error.strerror or str(error))


def _openings(path: str) -> Iterator[str]:
    """Yield what lets others than root change the program at *path*: its owner or mode, or that of a folder above."""
    place = os.path.realpath(path)
    while True:
        found = os.stat(place)
        mode = stat.S_IMODE(found.st_mode)
        is_sticky = stat.S_ISDIR(found.st_mode) and mode & stat.S_ISVTX
        others = 0o002 if found.st_gid == 0 else 0o022
        if found.st_uid != 0:
            yield f"{place} belongs to user {found.st_uid}"
        if mode & others and not is_sticky:
            yield f"{place} has mode {mode:04o}"
        if place == os.path.dirname(place):
            return
        place = os.path.dirname(place)
