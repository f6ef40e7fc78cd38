"""Rehearsals that were held: which node was fenced when, how long it took, over which path, with what result.

A JSON file on the node that held them.  Written whole or not at all, bounded, and never written over when it is broken:
what it said about other nodes would be lost.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from vmfence.errors import NotPermitted, VmfenceError

RECORD_FILE = "/var/lib/vmfence/proofs.json"
KEPT_MAX = 1000
TEXT_MAX = 1000
_FILE_BYTES_MAX = 16 << 20
_VERSION = 1


@dataclass(frozen=True)
class Proof:
    """One rehearsal of *node*.

    *at*: when it began, ISO 8601 in UTC.  *is_proven* and, if not, the *reason*.  *method*: "reboot", or "off" for off
    and on again.  The path: *guest* at the host, *device*, its *agent*, and the node that carried it out (*delegate*).
    Seconds from the start, None for what was not seen: *down_s* guest off (in a reboot: not running) at the host,
    *fence_s* the cluster called it done, *back_s* online in the cluster again.
    """

    node: str
    at: str
    is_proven: bool
    reason: str = ""
    method: str = "reboot"
    guest: str = ""
    device: str = ""
    agent: str = ""
    delegate: str = ""
    down_s: float | None = None
    fence_s: float | None = None
    back_s: float | None = None


def load(path: str = RECORD_FILE) -> Mapping[str, Proof]:
    """Return the last rehearsal of each node; nothing when there is no file.  Raises as read() does."""
    return {proof.node: proof for proof in read(path)}


def read(path: str = RECORD_FILE) -> tuple[Proof, ...]:
    """Return all rehearsals kept, oldest first.  Raises NotPermitted; VmfenceError for a file that is no record."""
    try:
        with open(path, "rb") as file:
            content = file.read(_FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return ()
    except PermissionError as error:
        raise NotPermitted(f"cannot read {path}", error.strerror or str(error), "run this as root") from error
    except OSError as error:
        raise VmfenceError(f"cannot read {path}", error.strerror or str(error)) from error
    if len(content) > _FILE_BYTES_MAX:
        raise _broken(path, f"larger than {_FILE_BYTES_MAX >> 20} MiB")
    try:
        found = json.loads(content)
        if found["version"] != _VERSION:
            raise _broken(path, f"version {found['version']!r} instead of {_VERSION}")
        return tuple(_proof(entry) for entry in found["proofs"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise _broken(path, str(error) or type(error).__name__) from error


class Record:
    """The writing side, open to one process at a time: see keep()."""

    def __init__(self, path: str) -> None:
        self._path = path

    def add(self, proof: Proof) -> None:
        """Append *proof*, dropping the oldest beyond KEPT_MAX; on return it is on the disk.  Raises VmfenceError."""
        self._store((*read(self._path), proof))

    def replace(self, proof: Proof) -> None:
        """Put *proof* in the place of the last one, which was added when this rehearsal began.  Raises VmfenceError."""
        self._store((*read(self._path)[:-1], proof))

    def _store(self, all_proofs: tuple[Proof, ...]) -> None:
        kept = all_proofs[-KEPT_MAX:]
        text = json.dumps({"version": _VERSION, "proofs": [_entry(each) for each in kept]}, indent=1)
        try:
            _replace(self._path, text.encode("ascii") + b"\n")
        except OSError as error:
            raise VmfenceError(f"cannot write {self._path}", error.strerror or str(error)) from error


@contextlib.contextmanager
def keep(path: str) -> Iterator[Record]:
    """Give the record at *path* while the block runs; its folder is made (0700) when missing.

    Tries all that can fail beforehand: nothing is fenced whose result could not be kept.  Raises NotPermitted;
    VmfenceError when another process keeps it, it is broken, or cannot be written.
    """
    folder = os.path.dirname(os.path.abspath(path))
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError as error:
        raise NotPermitted(f"cannot write {path}", error.strerror or str(error), "try as root") from error
    except OSError as error:
        raise VmfenceError(f"cannot write {path}", error.strerror or str(error)) from error
    try:
        _lock(lock, path)
        read(path)
        _try_to_write(path)
        yield Record(path)
    finally:
        os.close(lock)


def _lock(folder: int, path: str) -> None:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise VmfenceError(
            "another rehearsal is under way", f"it keeps {path}", "wait until it has ended, or name another --record"
        ) from error


def _try_to_write(path: str) -> None:
    if os.path.lexists(path) and not os.path.isfile(path):
        raise VmfenceError(f"{path} is no regular file", "", "name the file that is to hold the record")
    try:
        _write(_temporary(path), b"")
        os.unlink(_temporary(path))
    except PermissionError as error:
        raise NotPermitted(f"cannot write {path}", error.strerror or str(error), "try as root") from error
    except OSError as error:
        raise VmfenceError(f"cannot write {path}", error.strerror or str(error)) from error


def _replace(path: str, content: bytes) -> None:
    temporary = _temporary(path)
    try:
        _write(temporary, content)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    folder = os.open(os.path.dirname(temporary), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _temporary(path: str) -> str:
    """Return the name of the file that becomes *path*; only who holds the lock makes it."""
    folder, name = os.path.split(os.path.abspath(path))
    return os.path.join(folder, f".{name}.new")


def _write(path: str, content: bytes) -> None:
    with contextlib.suppress(FileNotFoundError):  # of a run that was killed: the lock is ours, so it is nobody's
        os.unlink(path)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _entry(proof: Proof) -> dict[str, Any]:
    return {name: value[:TEXT_MAX] if isinstance(value, str) else value for name, value in asdict(proof).items()}


def _proof(entry: Any) -> Proof:
    """Return the rehearsal in *entry*.  Raises KeyError, TypeError, ValueError, OverflowError."""
    proof = Proof(**{field.name: entry[field.name] for field in fields(Proof)})
    numbers = (proof.down_s, proof.fence_s, proof.back_s)
    texts = (proof.node, proof.at, proof.reason, proof.method, proof.guest, proof.device, proof.agent, proof.delegate)
    if not all(isinstance(text, str) for text in texts) or not isinstance(proof.is_proven, bool):
        raise ValueError("an entry has a value of a wrong kind")
    if not all(number is None or (type(number) in (int, float) and math.isfinite(number)) for number in numbers):
        raise ValueError("an entry has a time that is no number")
    return proof


def _broken(path: str, why: str) -> VmfenceError:
    return VmfenceError(f"{path} is no record of rehearsals", why, f"mend it, or move it away: mv {path} {path}.broken")
