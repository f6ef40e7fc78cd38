"""Which configuration is meant on this host: the one that was named, else the service's, else the usual one.

The service has its own where its unit names one, or where the daemon that runs has read another than it would find
now.  It may hold access rules: to pass over it would look at, or write, what nobody serves with.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from vmfence.config import settings as configuration
from vmfence.config.grammar import FILE_BYTES_MAX
from vmfence.config.settings import CONTROL_SOCKET, SEARCH_PATHS
from vmfence.errors import ConfigError, ConfigErrors, VmfenceError
from vmfence.host import control, execstart

_ASK_S = 1.5
_CONTROL_SOCKET = re.compile(r'^[^#\n]*\bcontrol_socket\s*=\s*"(/[^"\n]+)"', re.MULTILINE)


@dataclass(frozen=True)
class Place:
    """A configuration.  *note*: why it is none that is found without looking at the service, or ""."""

    path: str
    note: str = ""


def find(explicit: str | None) -> Place:
    """Return the configuration for a command that only looks; where unit and daemon disagree the daemon's.

    Raises ConfigError when there is none, VmfenceError when it is not clear what the service runs.
    """
    if explicit is not None:
        return Place(explicit)
    by_unit, by_daemon = _named_by_unit(), running()
    path = by_daemon or by_unit
    if path is None:
        return Place(configuration.find(None))
    if path == _unnamed():
        return Place(path)
    who = "the service's unit names it" if by_daemon is None else "the daemon that runs has it"
    other = _next_start(by_unit) if by_daemon is not None else None
    differs = f"; the next start takes {other}" if other not in (None, by_daemon) else ""
    return Place(path, f"configuration {path}: {who}{differs}")


def in_service() -> str | None:
    """Return the configuration that the service's unit names or its daemon has read, None when neither does.

    Raises VmfenceError when they disagree: then it is not clear which one is to be changed.
    """
    by_unit, by_daemon = _named_by_unit(), running()
    if by_daemon is None:
        return by_unit
    other = _next_start(by_unit)
    if other not in (None, by_daemon):
        why = f"the daemon that runs has {by_daemon}, the next start of the service takes {other}"
        raise VmfenceError("it is not clear which configuration is meant", why, "name it with --config")
    return by_daemon


def running() -> str | None:
    """Return the configuration of the daemon at the usual socket; None when none tells it."""
    try:
        return str(control.ask(CONTROL_SOCKET, _ASK_S)["config"])
    except VmfenceError:
        return None


def paths_of(fault: VmfenceError) -> tuple[str, ...]:
    """Return the configuration that a *fault* found when it was read is about, if it names one that is there."""
    one = fault.faults[0] if isinstance(fault, ConfigErrors) else fault
    return (one.path,) if isinstance(one, ConfigError) and os.path.lexists(one.path) else ()


def control_socket(paths: Iterable[str]) -> tuple[str, bool]:
    """Return where the daemon may answer by faulty configurations at *paths*, and whether they say so.

    That is the usual place where they name none, or one where nothing is.
    """
    told = None
    for path in filter(os.path.isfile, paths):
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
            told = told or _CONTROL_SOCKET.search(file.read(FILE_BYTES_MAX))
    place = CONTROL_SOCKET if told is None or not os.path.exists(told[1]) else told[1]
    return place, told is not None


def daemon_uris(place: str) -> tuple[str, ...]:
    """Return the hypervisors that the daemon at the control socket *place* asks; none where no daemon tells."""
    try:
        return tuple(str(one["uri"]) for one in control.ask(place, _ASK_S)["hypervisors"])
    except VmfenceError:
        return ()


def is_found_unnamed(path: str) -> bool:
    """Whether a daemon to which no configuration is named takes the one at *path*, once it is there."""
    first = _unnamed()
    before = SEARCH_PATHS[: SEARCH_PATHS.index(path)] if path in SEARCH_PATHS else ()
    return path in SEARCH_PATHS and first not in before


def _unnamed() -> str | None:
    return next((path for path in SEARCH_PATHS if os.path.lexists(path)), None)


def _next_start(by_unit: str | None) -> str | None:
    """Return what the service takes when it starts, None without a unit."""
    return by_unit or (_unnamed() if execstart.find_unit() else None)


def _named_by_unit() -> str | None:
    """Return the configuration that the unit names.  Raises VmfenceError when that cannot be told, by no daemon."""
    start = execstart.read()
    if start.fault is not None and running() is None:
        raise start.fault
    return start.config
