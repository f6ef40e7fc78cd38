"""What the systemd service starts: ExecStart= of its unit and of the drop-ins that change it, read from their files.

Where systemd looks, in which order, and how a drop-in replaces another: systemd.unit(5).  Files, because they are what
the next start takes: systemd itself tells what it read at its last daemon-reload.  Changes nothing.
"""

from __future__ import annotations

import glob
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from vmfence.errors import VmfenceError
from vmfence.host import configure

NAME = "vmfence.service"
# The first that has a file of a name hides those of the same name behind it.
FOLDERS = (
    "/etc/systemd/system.control",
    "/run/systemd/system.control",
    "/run/systemd/transient",
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
)


@dataclass(frozen=True)
class Start:
    """What is started.  *unit* None: there is no unit, and the rest means nothing.

    *config*: the configuration that it names, None: the daemon looks for one; *drop_in*: the file that says so, if it
    is not the unit; *fault*: why it cannot be told what it names.
    """

    unit: str | None = None
    config: str | None = None
    drop_in: str | None = None
    fault: VmfenceError | None = None


def find_unit(root: str = "") -> str | None:
    """Return the unit that systemd takes, below the folder *root*."""
    return next((path for folder in FOLDERS if os.path.lexists(path := f"{root}{folder}/{NAME}")), None)


def read(root: str = "") -> Start:
    """Return what the service below the folder *root* starts; a masked one names nothing.

    Raises VmfenceError when a file cannot be read.
    """
    path = find_unit(root)
    start = Start(path)
    if path is None or os.path.realpath(path) == os.devnull:
        return start
    for each in (path, *_drop_ins(root)):
        text = (configure.read_file(each) or b"").decode("utf-8", "replace")
        for value in _values(text):
            start = _started(path, each, value)
    return start


def _drop_ins(root: str) -> Iterator[str]:
    """Yield the drop-ins in the order in which they count: by name, whatever their folder."""
    found: dict[str, str] = {}
    for folder in FOLDERS:
        for path in glob.glob(f"{glob.escape(root)}{folder}/{NAME}.d/*.conf"):
            found.setdefault(os.path.basename(path), path)
    for _, path in sorted(found.items()):
        if os.path.realpath(path) != os.devnull:
            yield path


def _started(unit: str, file: str, value: str) -> Start:
    drop_in = None if file == unit else file
    try:
        return Start(unit, config_of(value), drop_in)
    except ValueError as error:
        why, remedy = f"its ExecStart cannot be read: {error}", "name the configuration with --config"
        return Start(unit, None, drop_in, VmfenceError(f"it is not clear what {file} runs", why, remedy))


def _values(text: str) -> list[str]:
    """Return what *text* sets ExecStart to; an empty one takes back those before it."""
    lines = re.sub(r"\\\n", " ", text)
    return re.findall(r"^[ \t]*ExecStart[ \t]*=[ \t]*(.*?)[ \t]*$", lines, re.MULTILINE)


def config_of(command: str) -> str | None:
    """Return the configuration that the value *command* of ExecStart names, None for none.

    Raises ValueError for odd quotes, and for variables and specifiers, which only systemd knows.
    """
    words = shlex.split(command)
    if any("$" in word.replace("$$", "") for word in words):
        raise ValueError("it has variables")
    named = None
    for word, following in zip(words, [*words[1:], ""]):
        if word in ("-f", "--config"):
            named = following
        elif word.startswith("--config="):
            named = word.partition("=")[2]
        elif re.match("-f.", word):
            named = word[2:]
    if not named:
        return None
    if "%" in named.replace("%%", ""):
        raise ValueError("it has specifiers")
    return os.path.normpath(os.path.join("/", named.replace("%%", "%").replace("$$", "$")))
