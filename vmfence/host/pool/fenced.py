"""Whether a host was fenced since it left: asked of Pacemaker's history where the hosts run it, or of a command.

Blocking, for a thread.  No answer, or one that is not understood, is "not fenced".

The fencer has a clock of its own, and its history tells of earlier lives of a host too.  So a fencing counts that ended
after the host had left by our clock, and that is newer by the fencer's own than all that was known of while the host
was here.  A fencing that is over before Corosync has noticed that the host is gone (token timeout) counts never: then
the host's guests cannot be told of until it is back, which is safe.  A command has the first of both alone to go by.
"""

from __future__ import annotations

import math
import re
import time
from datetime import datetime

from vmfence import proc, xmldoc
from vmfence.errors import Unreachable, VmfenceError

TIMEOUT_S = 5.0
# How far the clock of the host that fenced may be ahead: a host that was fenced is not back sooner.
AHEAD_S = 5.0
NEVER = 0.0
_ENDING = ("off", "reboot")
_NOT_CONNECTED = (102, 107)  # of Pacemaker since 2.0, and of 1.1


def ask_fenced(node: int, name: str, left_at: float, command: str | None = None) -> bool:
    """Return whether the host *node* was fenced since the wall time *left_at*.  Raises VmfenceError.

    Nobody can tell of one without a name.
    """
    if not name:
        return False
    if command:
        return ask_command(command, node, name, left_at)
    return was_fenced_since(read_history(), name, left_at, time.time())


def ask_command(command: str, node: int, name: str, left_at: float) -> bool:
    """Return whether *command* says yes, with exit code 0, to a node's name, its number and the time of its departure.

    That is in whole seconds since 1970.  Raises VmfenceError.
    """
    return proc.run([command, name, str(node), str(math.floor(left_at))], TIMEOUT_S).status == 0


def read_history() -> str:
    """Return what Pacemaker on this host knows of the fencing of all nodes, as XML.

    Raises ToolMissing, Unreachable where it does not run, other VmfenceErrors.
    """
    # Without --verbose, Pacemaker 2.1.5 shows the oldest success alone.
    argv = ["stonith_admin", "--history=*", "--verbose", "--output-as=xml"]
    ended = proc.run(argv, TIMEOUT_S, {"PATH": proc.system_path()})
    if ended.status in _NOT_CONNECTED:
        raise Unreachable("Pacemaker does not run here")
    if ended.status != 0:
        raise VmfenceError("Pacemaker does not tell who was fenced", f"stonith_admin: exit code {ended.status}")
    return ended.stdout


def newest_fencings(history: str) -> dict[str, float]:
    """Return when each node was fenced last, by name, in seconds of the fencer's wall clock.  Raises VmfenceError."""
    return {name: max(ends) for name, ends in _successes(history).items()}


def was_fenced_since(history: str, name: str, since: float, now: float, before: float | None = None) -> bool:
    """Return whether *history* has a success on node *name* that ended at *since* or later, and after *before*.

    *since* is of our clock, *before* of the fencer's (None: not known).  The history's times are whole seconds.  Raises
    VmfenceError for what is no such XML, and where only a success of the time after *now* would do: by a clock that is
    ahead, a fencing of before *since* looks like that.
    """
    ends = [at for at in _successes(history).get(name, ()) if before is None or at > before]
    later = [ended_at for ended_at in ends if ended_at >= math.floor(since)]
    if later and min(later) > now + AHEAD_S:
        what = f"{name} was fenced {min(later) - now:.0f} s from now, as Pacemaker says"
        raise VmfenceError(what, "the clocks of the hosts differ", "synchronize them, with chronyd for instance")
    return bool(later)


def _successes(history: str) -> dict[str, list[float]]:
    root = xmldoc.parse(history, "the fencer's history")
    found: dict[str, list[float]] = {}
    for event in root.iter("fence_event"):
        if event.get("status") == "success" and event.get("action") in _ENDING:
            ended_at = _moment(event.get("completed", ""))
            if ended_at is not None:
                found.setdefault(event.get("target", ""), []).append(ended_at)
    return found


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
