"""Timeouts that add up: the agent gives up before Pacemaker does, so that its own words tell what failed.  Pure.

agent's delay + timeout  <  pcmk_*_timeout, or else the cluster's stonith-timeout;  agent's timeout  <=  that of the
monitor operation.  Source: Pacemaker's fenced_remote.c get_device_timeout, pe_actions.c; the agents' manual pages.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from vmfence.cluster.durations import parse_duration
from vmfence.errors import UsageError, VmfenceError

POWER_ACTIONS = ("reboot", "off", "on")
USUAL_S = 60  # what callers allow unless told: a device that needs more says so itself, whatever the cluster's property
MARGIN_S = 10  # a loaded node starts and ends an agent within this
MONITOR_MARGIN_S = 15
# Agent -> seconds after which it gives up when it is not told: power actions, then monitor, list and status.
_DEFAULTS_S = {"fence_vmfence": (30.0, 15.0), "fence_xvm": (30.0, 30.0), "fence_virt": (30.0, 30.0)}


@dataclass(frozen=True)
class Timeouts:
    """*options* to add to the device, the *monitor* operation's timeout, and the seconds that the cluster's
    *stonith_timeout_s* has to be raised to, None where it suffices.  *note* has the numbers."""

    options: Mapping[str, str]
    monitor: str
    stonith_timeout_s: int | None
    note: str


def add_up(agent: str, options: Mapping[str, str], monitor: str, stonith_timeout_s: float) -> Timeouts:
    """Return the timeouts for a device of *agent* with *options*.

    *monitor*: what the user wants for that operation, or "".  Raises UsageError when what was given does not add up.
    """
    power_s, query_s = agent_timeouts_s(agent, options)
    power_s += _seconds(options, "delay", 0.0)
    given_s = {action: _seconds(options, f"pcmk_{action}_timeout", 0.0) for action in POWER_ACTIONS}
    for action, limit_s in given_s.items():
        if f"pcmk_{action}_timeout" in options and limit_s <= power_s:
            what = f"pcmk_{action}_timeout is {limit_s:g} s, and the agent may take {power_s:g} s"
            raise UsageError(what, "Pacemaker would end it before it can tell", "raise it, or lower timeout and delay")
    needed_s = math.ceil(power_s + MARGIN_S)
    added = {f"pcmk_{action}_timeout": f"{needed_s}s" for action in POWER_ACTIONS} if needed_s > USUAL_S else {}
    added = {name: value for name, value in added.items() if name not in options}
    longest_s = math.ceil(max(needed_s, *given_s.values()))
    monitor = _monitor(options, monitor, query_s)
    limit_s = longest_s if added or any(given_s.values()) else max(longest_s, stonith_timeout_s)
    note = f"timeouts: agent {power_s:g} s < Pacemaker {limit_s:g} s; agent's monitor {query_s:g} s < {monitor}"
    return Timeouts(added, monitor, longest_s if longest_s > stonith_timeout_s else None, note)


def agent_timeouts_s(agent: str, options: Mapping[str, str]) -> tuple[float, float]:
    """Return after how many seconds *agent* gives up a power action, and a monitor."""
    power_s, query_s = _DEFAULTS_S.get(agent, (30.0, 30.0))
    return _seconds(options, "timeout", power_s), _seconds(options, "timeout", query_s)


def _monitor(options: Mapping[str, str], given: str, query_s: float) -> str:
    text = given or options.get("pcmk_monitor_timeout", "") or f"{math.ceil(query_s + MONITOR_MARGIN_S)}s"
    for name, value in (("monitor timeout", text), ("pcmk_monitor_timeout", options.get("pcmk_monitor_timeout", text))):
        if _duration(name, value) < query_s:
            what = f"the {name} is {value}, and the agent may take {query_s:g} s"
            raise UsageError(
                what, "Pacemaker would end it before it can tell", "raise it, or lower the agent's timeout"
            )
    return text


def _seconds(options: Mapping[str, str], name: str, default_s: float) -> float:
    return _duration(name, options[name]) if name in options else default_s


def _duration(name: str, text: str) -> float:
    try:
        return parse_duration(text)
    except VmfenceError as error:
        raise UsageError(f"{name}: {error.what}", error.why, error.remedy) from error
