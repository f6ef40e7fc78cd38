"""What is lost when a device goes: which nodes it fences, and which of them nothing else would.  Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from vmfence.cluster.cib import Cib, Device, Level
from vmfence.cluster.coverage import Coverage
from vmfence.errors import UsageError

Version = tuple[int, ...]
Fencer = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Loss:
    """*covered*: the nodes that the device fences; *bare*: those of them that nothing fences without it."""

    covered: tuple[str, ...]
    bare: tuple[str, ...]


def loss_of(name: str, cib: Cib, version: Version, fencer: Fencer) -> Loss:
    """Return what the cluster loses with the device *name*.

    *fencer*: node -> devices that the running fencer would use for it; it decides about devices that name no nodes
    themselves, and without it those fence none.  Raises UsageError when there is no such device.
    """
    require_device(name, cib)
    now = Coverage(cib, version)
    covered = [node.name for node in cib.nodes if name in _fencing(node.name, now, fencer)]
    rest = replace(
        cib,
        devices=tuple(one for one in cib.devices if one.id != name),
        levels=tuple(_levels_without(name, cib)),
    )
    then = Coverage(rest, version)
    bare = [node for node in covered if not _fencing(node, then, fencer)]
    return Loss(tuple(covered), tuple(bare))


def require_device(name: str, cib: Cib) -> Device:
    """Return the device of that name.  Raises UsageError, with the names that there are."""
    device = cib.device(name)
    if device is None:
        known = ", ".join(one.id for one in cib.devices) or "none at all"
        raise UsageError(f"there is no device {name!r}", f"the cluster has {known}")
    return device


def _fencing(node: str, coverage: Coverage, fencer: Fencer) -> list[str]:
    """Return the devices that would be used for *node*."""
    able = fencer.get(node, ())
    return [one.id for one in coverage.candidates(node) if coverage.covers(one, node) or one.id in able]


def _levels_without(name: str, cib: Cib) -> Iterator[Level]:
    """Yield the levels as pcs leaves them: without the device, and none that is empty then."""
    for level in cib.levels:
        left = tuple(one for one in level.devices if one != name)
        if left:
            yield replace(level, devices=left)
