"""What a host remembers across its own restarts: who had which guest, itself included, and who had each last.

One JSON file, replaced whole.  Without it, a host that starts while another is away could not know what that one has,
and would have to fail.  It is taken whole or not at all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from vmfence.errors import VmfenceError
from vmfence.host.pool.directory import Directory
from vmfence.host.pool.known import Host
from vmfence.host.pool.messages import Entry, Last, moment, number

FILE_NAME = "pool.json"
BOOT_ID = "/proc/sys/kernel/random/boot_id"
_VERSION = 1


def load(folder: str, wall: float) -> Directory:
    """Return what was known.

    A host that had not left when the file was written counts as gone just now: it was seen by nobody since.  Raises
    VmfenceError for a file that cannot be read.
    """
    path = os.path.join(folder, FILE_NAME)
    remedy = "remove it while all hosts of the pool are in its group, then start again"
    try:
        with open(path, encoding="ascii") as file:
            found = json.load(file)
        version = found["version"]
        if version == _VERSION:
            directory = restore(found, wall)
            directory.is_of_this_boot = found.get("boot") == this_boot()
            return directory
    except FileNotFoundError:
        directory = Directory(wall=wall)
        directory.is_of_this_boot = False  # nobody knows
        return directory
    except OSError as error:
        raise VmfenceError(f"cannot read {path}", error.strerror or str(error)) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise VmfenceError(f"{path} is damaged", repr(error)[:200], remedy) from error
    raise VmfenceError(f"{path} is damaged", f"its version is {str(version)[:20]}, not {_VERSION}", remedy)


def restore(record: Mapping[str, Any], wall: float) -> Directory:
    """Return what take() has put into *record*.  Raises ValueError, KeyError, TypeError, AttributeError."""
    hosts = {
        int(node): (
            wall if host["left_at"] is None else moment(host["left_at"]),
            [_entry(*each) for each in host["guests"]],
        )
        for node, host in record["hosts"].items()
    }
    lasts = [
        Last(str(uuid), tuple((number(stay), number(node)) for stay, node in stays), tuple(map(number, past)))
        for uuid, stays, past in record.get("lasts", ())
    ]
    return Directory(hosts, lasts, wall)


def take(directory: Directory) -> dict[str, Any]:
    """Return what is to be remembered, fit for save()."""
    hosts = {
        str(node): _plain(host, node in directory.members) for node, host in directory.hosts.items() if host.is_listed
    }
    lasts = [(last.uuid, last.stays, last.past) for last in directory.lasts]
    return {"version": _VERSION, "hosts": hosts, "lasts": lasts}


def save(folder: str, record: Mapping[str, Any]) -> None:
    """Replace the file.  Raises OSError, the file then as it was."""
    path = os.path.join(folder, FILE_NAME)
    text = json.dumps({**record, "boot": this_boot()}, separators=(",", ":")).encode("ascii")
    with open(path + ".new", "wb", opener=_private) as file:
        file.write(text)
        file.flush()
        os.fdatasync(file.fileno())
    os.replace(path + ".new", path)


def this_boot() -> str:
    """Return what names this run of the kernel (proc(5)); where that cannot be read, all runs are called alike."""
    try:
        with open(BOOT_ID, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _entry(name: str, uuid: str, state: int, moved: bool) -> Entry:
    return Entry(str(name), str(uuid), number(state), bool(moved))


def _plain(host: Host, is_here: bool) -> dict[str, Any]:
    guests = [(entry.name, entry.uuid, entry.state, entry.moved) for entry in host.guests.values()]
    return {"left_at": None if is_here else host.left_at, "guests": guests}
