"""Which devices the cluster would use for a node, as far as the configuration tells.  Pure.

Source: Pacemaker Explained, "Fencing"; fenced_commands.c target_list_type and fenced_remote.c find_topology_for_host.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from vmfence.cluster.cib import Cib, Device, Level
from vmfence.cluster.hostmap import Version, ports_of

CHECKS_BY = ("static-list", "dynamic-list", "status", "none")


def members(cib: Cib) -> tuple[str, ...]:
    """Return the names of the nodes that are members of the cluster themselves, not remote ones."""
    return tuple(node.name for node in cib.nodes if not node.is_remote)


def usable(cib: Cib) -> tuple[Device, ...]:
    """Return the devices that are not disabled, and not banned from every member."""
    return tuple(device for device in cib.devices if not device.is_disabled and places(device, cib))


def places(device: Device, cib: Cib) -> frozenset[str]:
    """Return the members whose fencer may use *device*; with no member known, as in a file, the empty name."""
    banned = {name.lower() for name in cib.bans.get(device.id, frozenset())}
    return frozenset(name for name in members(cib) or ("",) if name.lower() not in banned)


def wanted_for(node: str, cib: Cib) -> tuple[Device, ...]:
    """Return the usable devices that may be used for *node*: with fencing levels those in them alone."""
    levels = levels_of(node, cib)
    named = {name for level in levels for name in level.devices}
    return tuple(device for device in usable(cib) if not levels or device.id in named)


def levels_of(node: str, cib: Cib) -> tuple[Level, ...]:
    """Return the levels that hold for *node*: those for its very name, else those whose pattern fits.

    Levels by attribute are not resolved: node attributes are no part of what is read.
    """
    named = tuple(one for one in cib.levels if one.kind == "node" and one.target.lower() == node.lower())
    return named or tuple(one for one in cib.levels if one.kind == "pattern" and _fits(one.target, node))


def has_unresolved_levels(cib: Cib) -> bool:
    """Whether levels by attribute make it unknown which devices a node has."""
    return any(level.kind == "attribute" for level in cib.levels)


def covers(device: Device, node: str, version: Version) -> bool | None:
    """Whether *device* claims *node*; None when only the agent or the host can tell."""
    kind = host_check(device)
    if kind == "none":
        return True
    if kind in ("dynamic-list", "status"):
        return None
    return kind == "static-list" and node in ports_of(device, version)


def host_check(device: Device) -> str:
    """Return how the fencer finds out which nodes *device* fences; as written when that is no word it knows.

    Without the option: a list or map is believed, else the agent is asked, which every agent for guests can answer.
    """
    given = device.options.get("pcmk_host_check")
    if given is not None:
        return given.lower()
    has_names = "pcmk_host_list" in device.options or "pcmk_host_map" in device.options
    return "static-list" if has_names else "dynamic-list"


def mapped(cib: Cib, version: Version) -> Iterator[tuple[Device, str, str]]:
    """Yield (device, node, port) for each node of the cluster that a usable device names."""
    for device in usable(cib):
        ports = ports_of(device, version)
        for node in cib.nodes:
            if ports.get(node.name):
                yield device, node.name, ports[node.name]


def _fits(pattern: str, node: str) -> bool:
    try:
        return re.search(pattern, node, re.IGNORECASE) is not None
    except re.error:
        return False
