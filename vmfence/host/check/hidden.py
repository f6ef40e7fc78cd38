"""Guests of this machine that the daemon cannot see: QEMU processes by their command line, whoever started them."""

from __future__ import annotations

import contextlib
import glob
import os
import pwd
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

_QEMU = re.compile(r"qemu|kvm")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


@dataclass(frozen=True)
class Process:
    """A QEMU process: the guest's name and UUID as they stand in its command line, and the user that runs it.

    *user_name*: "" where nobody knows one.
    """

    pid: int
    name: str
    uuid: str
    user: int
    user_name: str = ""


def read_processes(proc_folder: str = "/proc") -> tuple[Process, ...]:
    """Return the QEMU processes in our network that run a guest with a UUID, as far as this user may see them."""
    found = []
    with contextlib.suppress(OSError):
        ours = os.readlink(f"{proc_folder}/self/ns/net")
        for folder in sorted(glob.glob(f"{proc_folder}/[0-9]*")):
            with contextlib.suppress(OSError):
                process = _process(folder)
                if process is not None and os.readlink(f"{folder}/ns/net") == ours:
                    found.append(replace(process, user_name=_user_name(process.user)))
    return tuple(found)


def count_veiled(proc_folder: str = "/proc") -> int:
    """Return how many processes may be guests of ours, and this user may not see whether they are.

    They are QEMU's whose network is not shown, and where others' processes are hidden (hidepid) the first of all, which
    stands for them.
    """
    return sum(_is_veiled(folder) for folder in {f"{proc_folder}/1", *glob.glob(f"{proc_folder}/[0-9]*")})


def _is_veiled(folder: str) -> bool:
    is_first = os.path.basename(folder) == "1"
    try:
        is_guest = _process(folder) is not None
    except FileNotFoundError:
        return is_first  # any other has just ended
    except PermissionError:
        return True
    except OSError:
        return False
    try:
        os.readlink(f"{folder}/ns/net")
    except PermissionError:
        return is_guest
    except OSError:
        return False
    return False


def _user_name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return ""


def _process(folder: str) -> Process | None:
    with open(f"{folder}/comm", encoding="utf-8", errors="replace") as file:
        if not _QEMU.match(file.read()):
            return None
    with open(f"{folder}/cmdline", "rb") as raw:
        words = raw.read(1 << 16).decode("utf-8", "replace").split("\0")
    uuid = _after(words, "-uuid")
    if not _UUID.fullmatch(uuid):
        return None
    return Process(int(os.path.basename(folder)), name_of(words), uuid.lower(), os.stat(folder).st_uid)


def name_of(words: list[str]) -> str:
    """Return the guest's name in the command line *words*: ``-name guest=a,debug-threads=on``, or ``-name a``."""
    first = _after(words, "-name").partition(",")[0]
    return first.removeprefix("guest=") or "a guest without a name"


def unseen(processes: Iterable[Process], seen: Iterable[str]) -> tuple[Process, ...]:
    """Return those of *processes* whose UUID is not among *seen*."""
    known = {uuid.lower() for uuid in seen}
    return tuple(process for process in processes if process.uuid not in known)


def _after(words: list[str], option: str) -> str:
    position = words.index(option) + 1 if option in words else len(words)
    return words[position] if position < len(words) else ""
