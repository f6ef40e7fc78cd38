"""The control socket: what the running daemon tells root, or its group, about itself.

A client connects to the Unix socket, sends one line of JSON, {"version": 1, "command": "status"}, and gets one line of
JSON back: {"version": 1, "status": {...}} or {"version": 1, "error": "..."}.  Nothing can be changed here.  The command
pool is answered with {"version": 1, "pool": {...}}: the hosts and all guests of the pool, null where there is none.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import grp
import json
import os
import socket
import stat
import struct
from collections.abc import Mapping
from typing import Any, Callable

from vmfence.errors import NotPermitted, Unreachable, VmfenceError
from vmfence.host import execstart
from vmfence.host.streams import hang_up

VERSION = 1
GROUP = "vmfence"
RESTART = "restart the daemon"  # remedy of a reload that was refused for what only a start takes
_LINE_BYTES_MAX = 4096
_REQUEST_S = 2.0
_ANSWER_BYTES_MAX = 4 << 20
_CONNECTIONS_MAX = 16
_UCRED = struct.Struct("=iII")  # pid, uid, gid
_RUNNING_SYSTEMD = "/run/systemd/system"  # sd_booted(3)
_MOMENT_MAX = 1e11  # seconds of the wall clock: in the year 5138, which calendars can show


class Silent(Unreachable):
    """Somebody has the control socket and does not answer: a daemon that hangs or was stopped, process *pid*.

    *pid* 0: the kernel does not tell it.
    """

    def __init__(self, path: str, pid: int, why: str) -> None:
        self.pid = pid
        who = f"process {pid}" if pid else "a process"
        super().__init__(f"{who} runs and does not answer at {path}", why, restart_remedy(pid))


def restart_remedy(pid: int) -> str:
    """Return how to restart a daemon that hangs as process *pid*."""
    if _has_service():
        return f"restart it: systemctl restart {execstart.NAME}"
    return f"end it with kill -KILL {pid or 'PID'}, and start it again as it was: vmfence host daemon"


def reload_command(pid: int) -> str:
    """Return the command that has the daemon, process *pid*, read its files again."""
    return "systemctl reload vmfence" if _has_service() else f"kill -HUP {pid}"


def _has_service() -> bool:
    return os.path.isdir(_RUNNING_SYSTEMD) and execstart.find_unit() is not None


class ControlSocket:
    """The daemon's side; *status* and *pool* return what is to be told, fit for JSON."""

    def __init__(
        self,
        path: str,
        status: Callable[[], dict[str, Any]],
        pool: Callable[[], dict[str, Any] | None] = lambda: None,
    ) -> None:
        self._path = path
        self._told: dict[str, Callable[[], dict[str, Any] | None]] = {"status": status, "pool": pool}
        self._server: asyncio.AbstractServer | None = None
        self._open = 0

    async def open(self) -> None:
        """Begin to listen; the folder is made when it is missing.  Raises VmfenceError."""
        try:
            self._server = await asyncio.start_unix_server(
                self._connected, sock=_bound_socket(self._path), limit=_LINE_BYTES_MAX
            )
        except OSError as error:
            remedy = "set control_socket to a path that this user can write"
            raise VmfenceError(
                f"cannot open the control socket {self._path}", error.strerror or str(error), remedy
            ) from error

    def close(self) -> None:
        """Stop listening and remove the socket."""
        if self._server is not None:
            self._server.close()
            self._server = None
            with contextlib.suppress(OSError):
                _remove_socket(self._path)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._open >= _CONNECTIONS_MAX:
            writer.transport.abort()
            return
        self._open += 1
        try:
            line = await asyncio.wait_for(reader.readline(), _REQUEST_S)
            writer.write(json.dumps({"version": VERSION, **self._answer(line)}).encode() + b"\n")
            await hang_up(writer)
        except (asyncio.TimeoutError, ValueError, OSError):
            writer.transport.abort()  # silent, too long, or gone
        finally:
            self._open -= 1

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            asked = json.loads(line)
            version, command = asked["version"], asked["command"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return {"error": 'expected one line such as {"version": 1, "command": "status"}'}
        if version != VERSION:
            return {"error": f"version {version!r} is not known, {VERSION} is"}
        if not isinstance(command, str) or command not in self._told:
            return {"error": f"command {command!r} is not known, {' and '.join(self._told)} are"}
        return {command: self._told[command]()}


def ask(path: str, timeout_s: float = 5.0) -> dict[str, Any]:
    """Return the status of the daemon at *path*: what vmfence.host.daemon describes, every part in its place.

    Raises Unreachable when none answers, VmfenceError for nonsense and for what another version says.
    """
    found = _converse(path, "status", timeout_s)
    if not isinstance(found.get("status"), dict):
        raise _nonsense(path, "status", found)
    status: dict[str, Any] = found["status"]
    if found.get("version") != VERSION or not _fits(status, _SHAPE):
        raise _of_another_version(path, f"it calls itself {str(status.get('program'))[:100]!r}")
    return status


def ask_pool(path: str, timeout_s: float = 5.0) -> dict[str, Any] | None:
    """Return what vmfence.host.pool.pool.Pool.report() tells, every part in its place; None where there is no pool.

    Raises as ask().
    """
    found = _converse(path, "pool", timeout_s)
    report = found.get("pool")
    if "pool" not in found:
        raise _of_another_version(path, "it does not tell of the pool")
    if report is not None and not (found.get("version") == VERSION and _fits(report, _POOL_SHAPE)):
        raise _of_another_version(path, "it tells other things of the pool")
    return report if isinstance(report, dict) else None


def _converse(path: str, command: str, timeout_s: float) -> dict[str, Any]:
    """Return what the daemon at *path* answers.  Raises as ask()."""
    pid: int | None = None
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(path)
            pid = _pid_of_peer(connection)
            connection.sendall(json.dumps({"version": VERSION, "command": command}).encode() + b"\n")
            answer = _read_line(connection)
    except OSError as error:
        is_full = isinstance(error, (BlockingIOError, socket.timeout))  # so many wait that one more is not taken
        if pid is not None or is_full:
            raise Silent(path, pid or 0, error.strerror or f"no answer within {timeout_s:g} s") from error
        raise _unreachable(path, error) from error
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError) as error:
        raise VmfenceError(f"the daemon at {path} gave no {command}", repr(answer[:200])) from error
    if not isinstance(found, dict):
        raise _nonsense(path, command, answer[:200])
    return found


def ask_pid(path: str, timeout_s: float = 5.0) -> int:
    """Return which process listens at *path*, also one that hangs; 0 for none, or where the kernel does not tell."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(path)
            return _pid_of_peer(connection)
    except OSError:
        return 0


def _pid_of_peer(connection: socket.socket) -> int:
    """Return the process that listens at the other end (unix(7)); 0 for one outside our process namespace."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return int(_UCRED.unpack(credentials)[0])


def _nonsense(path: str, command: str, found: Any) -> VmfenceError:
    said = found.get("error") if isinstance(found, dict) else None
    return VmfenceError(f"the daemon at {path} gave no {command}", repr(said or found)[:300])


def _of_another_version(path: str, why: str) -> VmfenceError:
    remedy = "have this version run: systemctl restart vmfence"
    return VmfenceError(f"the daemon at {path} is of another version", why, remedy)


def lists_answered(status: Mapping[str, Any]) -> int:
    """Return how many requests for a list the daemon of *status* has answered."""
    found = [one for one in status["requests"] if one["action"] == "list" and one["result"] != "dropped"]
    return sum(int(one["count"]) for one in found)


def _is_moment(value: object) -> bool:
    return isinstance(value, (int, float)) and 0 <= value < _MOMENT_MAX


def _is_tally(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(count, int) for count in value.values())


def _are_reasons(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(reason, str) for reason in value.values())


# What a status must hold for those who read it; it may hold more.
_SHAPE: dict[str, Any] = {
    "program": str,
    "pid": int,
    "started_at": _is_moment,
    "read_at": _is_moment,
    "config": str,
    "refused_reload": lambda value: value is None or _fits(value, {"at": _is_moment, "reason": str, "remedy": str}),
    "state_dir": str,
    "listeners": [{"where": str, "is_optional": bool, "is_open": bool, "trouble": str, "unheard": _are_reasons}],
    "backend": str,
    "hypervisors": [
        {"uri": str, "is_answering": bool, "trouble": str, "connections": int, "calls": int, "answered_at": _is_moment}
    ],
    "keys": [{"owner": str, "path": str, "sha256": str}],
    "access_rules": int,
    "in_flight": int,
    "requests": [{"action": str, "result": str, "count": int}],
    "rejected": _is_tally,
    "last_rejected": [{"at": _is_moment, "origin": str, "reason": str}],
    "last_failed": [{"at": _is_moment, "origin": str, "action": str, "reason": str}],
    "last_answered": lambda value: isinstance(value, dict) and all(map(_is_moment, value.values())),
    "signatures": {"trouble": str},
    "history": {"lost": int, "trouble": str},
}

_POOL_SHAPE: dict[str, Any] = {
    "node": int,
    "is_quorate": bool,
    "is_joined": bool,
    "trouble": str,
    "fenced_command": lambda value: value is None or isinstance(value, str),
    "hosts": [
        {
            "node": int,
            "name": str,
            "is_here": bool,
            "program": str,
            "guests": lambda value: value is None or isinstance(value, int),
            "left_at": lambda value: value is None or _is_moment(value),
        }
    ],
    "listing": [{"node": int, "name": str, "uuid": str, "state": int, "moved": bool}],
}


def _fits(value: object, shape: Any) -> bool:
    """Whether *value* is of the kind *shape*, or what that function says; of a dict the keys named, of a list each."""
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(key in value and _fits(value[key], shape[key]) for key in shape)
    if isinstance(shape, list):
        return isinstance(value, list) and all(_fits(one, shape[0]) for one in value)
    return isinstance(value, shape) if isinstance(shape, type) else bool(shape(value))


def stale_files(status: dict[str, Any]) -> list[str]:
    """Return the configuration and keys that were changed or removed since the daemon of *status* read them."""
    paths = dict.fromkeys([str(status.get("config")), *(str(key["path"]) for key in status.get("keys", ()))])
    found = []
    for path in paths:
        try:
            if os.stat(path).st_ctime > status.get("read_at", 0.0):
                found.append(path)
        except (FileNotFoundError, NotADirectoryError):
            found.append(path)
        except OSError:
            pass  # not for this user to see
    return found


def _read_line(connection: socket.socket) -> bytes:
    answer = b""
    while not answer.endswith(b"\n") and len(answer) < _ANSWER_BYTES_MAX:
        piece = connection.recv(65536)
        if not piece:
            break
        answer += piece
    return answer


def _unreachable(path: str, error: OSError) -> VmfenceError:
    if error.errno in (errno.EACCES, errno.EPERM):
        return NotPermitted(f"not permitted to ask the daemon at {path}", "", f"try as root or in group {GROUP}")
    reason = error.strerror or "no answer in time"
    return Unreachable(
        f"no daemon answers at {path}", reason, "start it: systemctl start vmfence, or vmfence host daemon"
    )


def _bound_socket(path: str) -> socket.socket:
    """Return a socket at *path* for root and the group alone; a dead daemon's is replaced.

    Raises OSError; VmfenceError when a daemon that lives has it.
    """
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            _bind(bound, path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            if _is_served(path):
                remedy = "see it with: vmfence host status; to run another beside it, give that its own control_socket"
                raise VmfenceError(f"another vmfence daemon runs and has {path}", "", remedy) from error
            _remove_socket(path)
            _bind(bound, path)
        with contextlib.suppress(KeyError, PermissionError):
            os.chown(path, -1, grp.getgrnam(GROUP).gr_gid)
            os.chmod(path, 0o660)
    except (OSError, VmfenceError):
        bound.close()
        raise
    return bound


def _bind(bound: socket.socket, path: str) -> None:
    """Bind so that at no moment anybody else may connect."""
    mask = os.umask(0o177)
    try:
        bound.bind(path)
    finally:
        os.umask(mask)


def _remove_socket(path: str) -> None:
    """Remove the socket at *path*.  Raises OSError, also when something else is there: a key, by a slip of the pen."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise FileExistsError(errno.EEXIST, "something is there that is no socket")
    os.unlink(path)


def _is_served(path: str) -> bool:
    """Tell whether a process listens at *path*.  Raises OSError when that cannot be told: its socket stays."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except (BlockingIOError, socket.timeout):
            return True  # so many wait already that one more is not taken: it lives, and is busy or hangs
    return True
