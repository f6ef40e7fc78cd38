"""Corosync's quorum settings that matter to fencing: asked from the running daemon, else read from its file.

Source: votequorum(5), corosync.conf(5), corosync-cmapctl(8) of 2.4 to 3.1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Callable

from vmfence import proc
from vmfence.errors import VmfenceError

CONFIG_FILE = "/etc/corosync/corosync.conf"
_DEADLINE_S = 3.0
_BYTES_MAX = 1 << 20
_KEY_LINE = re.compile(r"(quorum\.\S+) \((\w+)\) = (.*)")
_FILE_LINE = re.compile(r"\s*(?:(?P<open>[\w.]+)\s*\{|(?P<close>\})|(?P<name>[\w.]+)\s*:\s*(?P<value>.*?))\s*")


@dataclass(frozen=True)
class QuorumSettings:
    """*is_two_node*: either of two nodes alone keeps quorum.  *waits_for_all*: a node that starts alone has none.

    *has_device*: a third party votes.  *source*: where this was read, for evidence.
    """

    is_two_node: bool = False
    waits_for_all: bool = False
    has_device: bool = False
    source: str = ""


def load_quorum(run: Callable[..., proc.Result] = proc.run, path: str = CONFIG_FILE) -> QuorumSettings:
    """Return the quorum settings.  Raises VmfenceError when neither Corosync nor its file tells them."""
    try:
        result = run(["corosync-cmapctl", "quorum."], _DEADLINE_S, {"PATH": proc.system_path()})
        if result.status == 0:
            return parse_keys(result.stdout)
    except VmfenceError:
        pass  # not installed, or it hangs: the file tells what it was started with
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return parse_file(file.read(_BYTES_MAX), path)
    except OSError as error:
        remedy = "run this on a node of the cluster, as root"
        raise VmfenceError(f"cannot read {path}", error.strerror or str(error), remedy) from error


def parse_keys(text: str) -> QuorumSettings:
    """Return the settings in the output of ``corosync-cmapctl quorum.``."""
    lines = filter(None, map(_KEY_LINE.fullmatch, map(str.strip, text.splitlines())))
    return _quorum({match[1]: match[3] for match in lines}, "corosync-cmapctl quorum.")


def parse_file(text: str, path: str) -> QuorumSettings:
    """Return the settings in corosync.conf; lines that are not understood there are Corosync's to complain of."""
    values: dict[str, str] = {}
    section: list[str] = []
    for line in text.splitlines():
        match = _FILE_LINE.fullmatch(line.partition("#")[0])
        if match is None:
            continue
        if match["open"]:
            section.append(match["open"])
        elif match["close"]:
            del section[-1:]
        else:
            values[".".join([*section, match["name"]])] = match["value"]
    return _quorum(values, path)


def _quorum(values: Mapping[str, str], source: str) -> QuorumSettings:
    is_two_node = values.get("quorum.two_node") == "1"
    return QuorumSettings(
        is_two_node=is_two_node,
        # two_node turns wait_for_all on unless it is turned off by name (votequorum(5))
        waits_for_all=values.get("quorum.wait_for_all", "1" if is_two_node else "0") == "1",
        has_device="quorum.device.model" in values,
        source=source,
    )
