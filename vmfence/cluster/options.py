"""The options of a device that the fencer itself reads (pcmk_*), and what may stand in any option.  Pure.

Source: Pacemaker's lib/common/options.c (fencing_params), 1.1 to 3.0.  pcs checks no value, so what is wrong in one
would be found out by the first fencing.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Callable

from vmfence.cluster.durations import parse_duration
from vmfence.errors import UsageError, VmfenceError

ACTIONS = ("reboot", "off", "on", "list", "monitor", "status")
HOST_CHECKS = ("static-list", "dynamic-list", "status", "none")
VALUE_MAX = 100_000
_FIXED = {
    "pcmk_host_list": "The nodes that the device fences, parted by commas.",
    "pcmk_host_check": f"How Pacemaker finds out which nodes it fences: {', '.join(HOST_CHECKS)}.",
    "pcmk_host_argument": "The agent's parameter that names the guest, or none.",
    "pcmk_delay_base": "Delay before off and reboot: a time, or NODE:TIME;NODE:TIME since Pacemaker 2.1.2.",
    "pcmk_delay_max": "Random addition to the delay, up to this.",
    "pcmk_action_limit": "How many actions of the device run at once; -1: any number.",
}
_EACH = {
    "action": "What the agent is told to do for {}.",
    "timeout": "How long {} may take, in place of the cluster's stonith-timeout.",
    "retries": "How often {} is tried at most.",
}
# Option -> what it is.  pcmk_host_map is not among them: it is made from the pairs.
PCMK = {
    **_FIXED,
    **{f"pcmk_{action}_{what}": text.format(action) for action in ACTIONS for what, text in _EACH.items()},
}
_GUEST_NAMES = ("plug", "port", "domain")
_VERBS = ("action", "option", "nodename", "nodeid", "self", "agent")


def check(options: Mapping[str, str]) -> None:
    """Raise UsageError for the first of *options* that the fencer would misread, or that must not be set."""
    for name, value in options.items():
        _check_name(name)
        _check_text(name, value)
        if name in PCMK:
            _check_value(name, value)


def _check_name(name: str) -> None:
    if name in _GUEST_NAMES:
        why = "Pacemaker names the guest of each node itself, and the agent would get two names"
        raise UsageError(f"{name} must not be set for a device", why, "say --map NODE:GUEST")
    if name in _VERBS:
        remedy = "pcmk_reboot_action=off is the way to leave a node off" if name in ("action", "option") else ""
        raise UsageError(f"{name} must not be set for a device", "Pacemaker sends it with each action", remedy)
    if name == "pcmk_host_map":
        raise UsageError("pcmk_host_map is made from the pairs", "", "say --map NODE:GUEST")
    if name.startswith("pcmk_") and name not in PCMK:
        nearest = difflib.get_close_matches(name, PCMK, 1)
        why = f"the nearest is {nearest[0]}" if nearest else ""
        raise UsageError(f"Pacemaker has no option {name!r}", why, f"it has {', '.join(_FIXED)} and pcmk_ACTION_...")
    if not name or not all(c.isascii() and (c.isalnum() or c in "_-") for c in name) or name.startswith("-"):
        raise UsageError(f"{name!r} is no name of an option", "", "write NAME=VALUE")


def _check_text(name: str, value: str) -> None:
    """The agent reads lines of name=value, cut at the line's end; fence_xvm cuts at any blank."""
    if not value:
        raise UsageError(f"{name} has no value", "", "leave it out to have the default")
    bad = next((c for c in value if not c.isprintable() or (c.isspace() and not name.startswith("pcmk_"))), None)
    if bad is not None:
        why = f"the character {bad!r} would not reach the agent"
        raise UsageError(f"the value of {name} cannot be {value[:100]!r}", why, "use a value without it")
    if len(value) > VALUE_MAX:
        raise UsageError(f"the value of {name} has {len(value)} characters", f"at most {VALUE_MAX} are taken")


def _check_value(name: str, value: str) -> None:
    what, valid, remedy = _kind(name)
    try:
        is_valid = valid(value)
    except (ValueError, VmfenceError):
        is_valid = False
    if not is_valid:
        raise UsageError(f"{name} cannot be {value[:100]!r}", f"it is {what}", remedy)


def _kind(name: str) -> tuple[str, Callable[[str], bool], str]:
    """Return what *name* is, how that is checked, and how to write it."""
    if name == "pcmk_host_check":
        return "one of a few words", lambda value: value in HOST_CHECKS, f"write one of {', '.join(HOST_CHECKS)}"
    if name == "pcmk_delay_base":
        return "a time, or pairs of node and time", _has_delays, "write 10s, or NODE:10s;NODE:0s"
    if name == "pcmk_delay_max" or name.endswith("_timeout"):
        return "a time", lambda value: parse_duration(value) >= 0, 'write seconds ("90") or "90s"'
    if name == "pcmk_action_limit":
        return "a number", lambda value: value == "-1" or _count(value) > 0, "write a whole number, or -1 for any"
    if name.endswith("_retries"):
        return "a number of tries", lambda value: _count(value) > 0, "write a whole number from 1"
    return "text", bool, ""


def _has_delays(value: str) -> bool:
    times = [entry.rpartition(":")[2] for entry in value.replace("\t", " ").replace(" ", ";").split(";") if entry]
    return bool(times) and all(parse_duration(time) >= 0 for time in times)


def _count(value: str) -> int:
    return int(value) if value.isascii() and value.isdigit() and len(value) < 10 else 0
