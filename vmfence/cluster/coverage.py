"""Which devices the cluster would use for a node, as far as the configuration tells.  Pure.

Source: Pacemaker Explained, "Fencing"; fenced_commands.c target_list_type, build_port_aliases and
can_fence_host_with_device, and fenced_remote.c find_topology_for_host, of 1.1 to 3.0.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from vmfence.cluster.cib import Cib, Device, Level, Node
from vmfence.cluster.hostmap import ByNode, Version, ports_of, targets_of
from vmfence.cluster.patterns import fits

CHECKS_BY = ("static-list", "dynamic-list", "status", "none")


@dataclass(frozen=True)
class Claim:
    """*device* would be used for *node*, and ask its host for the guest *port*.

    *is_named*: its map or list names the node; else nothing does, and the node's own name is asked for.
    """

    device: Device
    node: Node
    port: str
    is_named: bool


class Coverage:
    """Who fences whom by *cib*, as Pacemaker *version* reads it; every device is read once.

    *usable*: the devices that are not disabled, and not banned from every member.  *has_unresolved_levels*: levels by
    attribute make it unknown which devices a node has.
    """

    def __init__(self, cib: Cib, version: Version) -> None:
        self._cib, self._version = cib, version
        self.members = members(cib)
        self._everywhere = frozenset(self.members or ("",))
        self._places = {device.id: self._allowed(device) for device in cib.devices}
        self.usable = tuple(one for one in cib.devices if not one.is_disabled and self._places[one.id])
        self.has_unresolved_levels = any(level.kind == "attribute" for level in cib.levels)
        self._levels: dict[str, list[Level]] = defaultdict(list)
        for level in cib.levels:
            if level.kind == "node":
                self._levels[level.target.lower()].append(level)
        self._names: dict[str, tuple[ByNode, ByNode]] = {}

    def places(self, device: Device) -> frozenset[str]:
        """Return the members whose fencer may use *device*; with no member known, as in a file, the empty name."""
        return self._places[device.id]

    def levels_of(self, node: str) -> tuple[Level, ...]:
        """Return the levels that hold for *node*: those for its very name, else those whose pattern fits.

        Levels by attribute are not resolved: node attributes are no part of what is read.
        """
        named = tuple(self._levels.get(node.lower(), ()))
        return named or tuple(
            one for one in self._cib.levels if one.kind == "pattern" and fits(one.target, node, ignore_case=True)
        )

    def wanted_for(self, node: str) -> tuple[Device, ...]:
        """Return the usable devices that may be used for *node*: with fencing levels those in them alone."""
        levels = self.levels_of(node)
        named = {name for level in levels for name in level.devices}
        return tuple(device for device in self.usable if device.id in named) if levels else self.usable

    def candidates(self, node: str) -> tuple[Device, ...]:
        """Return those of wanted_for(*node*) that claim it, or of which only agent or host can tell."""
        found = (*self._naming.get(node.lower(), ()), *self._naming.get("", ()))
        if not self.levels_of(node):
            return found
        wanted = {device.id for device in self.wanted_for(node)}
        return tuple(device for device in found if device.id in wanted)

    def covers(self, device: Device, node: str) -> bool | None:
        """Whether *device* claims *node*; None when only the agent or the host can tell."""
        kind = host_check(device)
        if kind == "none":
            return True
        if kind in ("dynamic-list", "status"):
            return None
        return kind == "static-list" and node in self.targets(device)

    def ports(self, device: Device) -> ByNode:
        """Return the port of each node that *device* names."""
        return self._read(device)[0]

    def targets(self, device: Device) -> ByNode:
        """Return all that *device* takes for names of nodes, the ports of its map too."""
        return self._read(device)[1]

    def claims(self, fencer: Mapping[str, tuple[str, ...]]) -> Iterator[Claim]:
        """Yield what the usable devices would do for each node of the cluster, by device.

        *fencer*: node -> devices that the running fencer would use for it, beyond what the configuration tells.
        """
        nodes = {node.name.lower(): node for node in self._cib.nodes}
        listed: dict[str, set[str]] = defaultdict(set)
        for name, ids in fencer.items():
            for device_id in ids:
                listed[device_id].add(name.lower())
        for device in self.usable:
            ports, kind = self.ports(device), host_check(device)
            unnamed = nodes.keys() if kind == "none" else listed[device.id]
            if kind == "static-list":
                unnamed = unnamed | {name.lower() for name in self.targets(device)}
            own = [name for name in nodes if name in unnamed and name not in ports]
            for name in [*(name.lower() for name in ports if ports[name]), *own]:
                if name in nodes:
                    yield Claim(device, nodes[name], ports.get(name, nodes[name].name), name in ports)

    @cached_property
    def _naming(self) -> dict[str, list[Device]]:
        """Name in lower case -> usable devices that name it; "": those that name nobody, and may be for any."""
        naming: dict[str, list[Device]] = defaultdict(list)
        for device in self.usable:
            kind = host_check(device)
            for name in self.targets(device) if kind == "static-list" else [""] if kind in CHECKS_BY else []:
                naming[name.lower()].append(device)
        return naming

    def _read(self, device: Device) -> tuple[ByNode, ByNode]:
        if device.id not in self._names:
            self._names[device.id] = ports_of(device, self._version), targets_of(device, self._version)
        return self._names[device.id]

    def _allowed(self, device: Device) -> frozenset[str]:
        banned = {name.lower() for name in self._cib.bans.get(device.id, frozenset())}
        return frozenset(one for one in self._everywhere if one.lower() not in banned) if banned else self._everywhere


def members(cib: Cib) -> tuple[str, ...]:
    """Return the names of the nodes that are members of the cluster themselves, not remote ones."""
    return tuple(node.name for node in cib.nodes if not node.is_remote)


def host_check(device: Device) -> str:
    """Return how the fencer finds out which nodes *device* fences; as written when that is no word it knows.

    Without the option: a list or map is believed, else the agent is asked, which every agent for guests can answer.
    """
    given = device.options.get("pcmk_host_check")
    if given is not None:
        return given.lower()
    has_names = "pcmk_host_list" in device.options or "pcmk_host_map" in device.options
    return "static-list" if has_names else "dynamic-list"
