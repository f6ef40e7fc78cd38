"""Commands that mend a device, to paste: they change what is wrong and leave the rest of it as it is.  Pure."""

from __future__ import annotations

from collections.abc import Iterable

from vmfence.cluster.check.facts import Facts
from vmfence.cluster.cib import Device
from vmfence.cluster.hostmap import format_host_map, parse_host_map
from vmfence.errors import VmfenceError
from vmfence.findings import command_line

GUEST = "GUEST"  # stands where the user knows better than we do
PAIRS_MAX = 64


def update(device: str, **options: str) -> str:
    """Return the command that gives *device* options; an empty value removes one."""
    return command_line(["pcs", "stonith", "update", device, *(f"{name}={value}" for name, value in options.items())])


def map_to_fill_in(device: Device, facts: Facts, nodes: Iterable[str] | None = None, **options: str) -> str:
    """Return the command that writes the host map with every member in it, with GUEST for what is not known.

    *nodes*: add these, and no others.  *options*: what has to change with it.
    """
    known = {node.name.lower(): node.name for node in facts.cib.nodes}
    pairs = {node: port for node, port in _pairs(device, facts) if not known or node.lower() in known}
    named = {name.lower() for name in [*pairs, *facts.coverage.ports(device)]}
    missing = [name for name in (facts.coverage.members if nodes is None else nodes) if name.lower() not in named]
    pairs.update(dict.fromkeys(missing if pairs or missing else ["NODE"], GUEST))
    return update(device.id, pcmk_host_map=_portable(pairs.items()), **options)


def remap(device: Device, facts: Facts, node: str, guest: str) -> str:
    """Return the command that maps *node* to *guest* in *device*, and keeps all other pairs.

    For a map that is too long for a command line it is told in words.
    """
    if len(facts.coverage.ports(device)) > PAIRS_MAX:
        return f"in the pcmk_host_map of {device.id} the pair of {node} must be {command_line([f'{node}:{guest}'])}"
    pairs = dict(_pairs(device, facts))
    name = next((one for one in pairs if one.lower() == node.lower()), node)
    return update(device.id, pcmk_host_map=_portable({**pairs, name: guest}.items()))


def _pairs(device: Device, facts: Facts) -> list[tuple[str, str]]:
    """Return the pairs of its map, each node once."""
    return list(parse_host_map(device.options.get("pcmk_host_map", ""), facts.version).ports().items())


def _portable(pairs: Iterable[tuple[str, str]]) -> str:
    """Return the map as every version reads it; what no such map can hold is left to the user."""
    texts = []
    for node, port in pairs:
        try:
            texts.append(format_host_map([(node, port)]))
        except VmfenceError:
            texts.append(f"{node}:{GUEST}")
    return ";".join(texts)
