"""What a host remembers across its own restarts: who had which guest, itself included.  One JSON file, replaced whole.

Without it, a host that starts while another is away could not know what that one has, and would have to fail.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from vmfence.errors import VmfenceError
from vmfence.host.pool.directory import Directory, Host
from vmfence.host.pool.messages import Entry

FILE_NAME = "pool.json"
_VERSION = 1
Remembered = dict[int, tuple[float, tuple[Entry, ...]]]


def load(folder: str, wall: float) -> Remembered:
    """Return what was known, by node: the wall time of its departure, and its guests.

    One that had not left when the file was written counts as gone just now: it was seen by nobody since.  Raises
    VmfenceError for a file that cannot be read.
    """
    path = os.path.join(folder, FILE_NAME)
    try:
        with open(path, encoding="ascii") as file:
            found = json.load(file)
        return {
            int(node): (
                wall if host["left_at"] is None else float(host["left_at"]),
                tuple(Entry(str(n), str(u), int(s), bool(m)) for n, u, s, m in host["guests"]),
            )
            for node, host in found["hosts"].items()
        }
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise VmfenceError(f"cannot read {path}", error.strerror or str(error)) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        remedy = "remove it while all hosts of the pool are in its group, then start again"
        raise VmfenceError(f"{path} is damaged", repr(error)[:200], remedy) from error


def take(directory: Directory) -> dict[str, Any]:
    """Return what is to be remembered, fit for save()."""
    hosts = {
        str(node): _plain(host, node in directory.members) for node, host in directory.hosts.items() if host.is_listed
    }
    return {"version": _VERSION, "hosts": hosts}


def save(folder: str, record: Mapping[str, Any]) -> None:
    """Replace the file.  Raises OSError, the file then as it was."""
    path = os.path.join(folder, FILE_NAME)
    text = json.dumps(record, separators=(",", ":")).encode("ascii")
    with open(path + ".new", "wb", opener=_private) as file:
        file.write(text)
        file.flush()
        os.fdatasync(file.fileno())
    os.replace(path + ".new", path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _plain(host: Host, is_here: bool) -> dict[str, Any]:
    guests = [(entry.name, entry.uuid, entry.state, entry.moved) for entry in host.guests.values()]
    return {"left_at": None if is_here else host.left_at, "guests": guests}
