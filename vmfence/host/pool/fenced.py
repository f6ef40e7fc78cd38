"""Whether a host was fenced since it left: asked of Pacemaker's history where the hosts run it, or of a command.

Blocking, for a thread.  No answer, or one that is not understood, is "not fenced".
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Iterable, Mapping
from datetime import datetime

from vmfence import proc, xmldoc
from vmfence.errors import ToolMissing, VmfenceError

log = logging.getLogger(__name__)

TIMEOUT_S = 5.0
# How far the clock of the host that fenced may be ahead: a host that was fenced is not back sooner.
AHEAD_S = 5.0
_ENDING = ("off", "reboot")


def find_fenced(
    hosts: Iterable[tuple[int, float]], names: Mapping[int, str], command: str | None = None
) -> frozenset[int]:
    """Return those of *hosts* (node, wall time of its departure in seconds) that were fenced since.

    They are asked for as ask_fenced() does.
    """
    found = set()
    for node, left_at in hosts:
        try:
            was_fenced = ask_fenced(node, names.get(node, ""), left_at, command)
        except ToolMissing as error:
            log.info("whether host %d was fenced is not known: %s", node, error)
        except VmfenceError as error:
            log.warning("whether host %d was fenced is not known: %s", node, error)
        else:
            found |= {node} if was_fenced else set()
    return frozenset(found)


def ask_fenced(node: int, name: str, left_at: float, command: str | None = None) -> bool:
    """Return whether the host *node* was fenced since the wall time *left_at*.  Raises VmfenceError.

    *command*, if there is one, is run with the node's name, its number and that time (whole seconds since 1970), and
    says yes with exit code 0; without one Pacemaker is asked.
    """
    return _ask_command(command, node, name, left_at) if command else _ask_pacemaker(name, left_at)


def was_fenced_since(history: str, name: str, since: float, now: float) -> bool:
    """Return whether the XML *history* of stonith_admin has a success on node *name* that ended at *since* or later.

    Its times are whole seconds.  Raises VmfenceError for what is no such XML, and where only a success of the time
    after *now* would do: by a clock that is ahead, a fencing of before *since* looks like that.
    """
    root = xmldoc.parse(history, "the fencer's history")
    ends = [
        _moment(event.get("completed", ""))
        for event in root.iter("fence_event")
        if event.get("status") == "success" and event.get("action") in _ENDING and event.get("target") == name
    ]
    later = [ended_at for ended_at in ends if ended_at is not None and ended_at >= math.floor(since)]
    if later and min(later) > now + AHEAD_S:
        what = f"{name} was fenced {min(later) - now:.0f} s from now, as Pacemaker says"
        raise VmfenceError(what, "the clocks of the hosts differ", "synchronize them, with chronyd for instance")
    return bool(later)


def _ask_command(command: str, node: int, name: str, left_at: float) -> bool:
    return proc.run([command, name, str(node), str(math.floor(left_at))], TIMEOUT_S).status == 0


def _ask_pacemaker(name: str, left_at: float) -> bool:
    if not name:
        return False
    # Without --verbose, Pacemaker 2.1.5 shows the oldest success alone.
    argv = ["stonith_admin", f"--history={name}", "--verbose", "--output-as=xml"]
    ended = proc.run(argv, TIMEOUT_S, {"PATH": proc.system_path()})
    # 2.1.5 ends with an error for a node that was never fenced.
    return ended.status == 0 and was_fenced_since(ended.stdout, name, left_at, time.time())


def _moment(text: str) -> float | None:
    """Return seconds of the wall clock; None for a form that is not known."""
    text = re.sub(r"\s*Z$", "+00:00", text.strip())
    text = re.sub(r"\s+([+-]\d\d):?(\d\d)$", r"\1:\2", text)
    for form in ("%Y-%m-%d %H:%M:%S%z", "%Y-%m-%d %H:%M:%S.%f%z"):
        try:
            return datetime.strptime(text, form).timestamp()
        except (ValueError, OverflowError):
            continue
    return None
