"""What besides our devices could make a node go, or come back, so that a rehearsal would not tell what did it.  Pure.

The fencer's history names the node that carried a fencing out, never the device (Pacemaker 1.1 to 3.0.2).  So only the
configuration tells: one of our devices did it if the cluster had no other means.

A node that hears of its own fencing was not fenced: another guest was.  It stops its cluster and stays away, unless
something resets it (daemons/controld/controld_fencing.c; SBD does when Pacemaker ends without a regular shutdown).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from vmfence.cluster import properties
from vmfence.cluster.cib import Cib, Device
from vmfence.cluster.coverage import Coverage
from vmfence.cluster.properties import Version
from vmfence.errors import VmfenceError
from vmfence.findings import command_line

WATCHDOG = "watchdog"  # the device that the fencer makes itself


@dataclass(frozen=True)
class Rival:
    """One of them: *what* it is, and the *remedy* that takes it away for a rehearsal."""

    what: str
    remedy: str


def registered_elsewhere(node: str, coverage: Coverage, this_node: str) -> frozenset[str]:
    """Return the ids of the devices that may fence *node*, and that a ban keeps from the fencer of *this_node*."""
    here = this_node.lower()
    places = {device.id: {place.lower() for place in coverage.places(device)} for device in coverage.usable}
    return frozenset(device.id for device in coverage.candidates(node) if here not in places[device.id])


def other_devices(node: str, coverage: Coverage, devices: Collection[Device], ours: Collection[str]) -> Iterator[Rival]:
    """Yield those of *devices* that are not in *ours*."""
    levels = [level.devices for level in coverage.levels_of(node) if not set(level.devices).isdisjoint(ours)]
    beside_ours = {name for names in levels for name in names}
    for device in devices:
        if device.id not in ours:
            disable = command_line(["pcs", "stonith", "disable", device.id])
            remedy = "take it out of the fencing level of ours" if device.id in beside_ours else disable
            yield Rival(f"device {device.id} ({device.agent})", remedy)


def other_means(cib: Cib, version: Version, ids: Collection[str]) -> Iterator[Rival]:
    """Yield what is no device of the configuration.  *ids*: the devices that the fencer has for the node."""
    value, _, name = properties.effective(cib, version, "stonith-watchdog-timeout")
    try:
        is_trusted = bool(properties.watchdog_s(cib, version))
    except VmfenceError:
        is_trusted = True
    if is_trusted or WATCHDOG in ids:
        yield Rival(f"the watchdog ({name}={value})", _set(f"{name}=0"))
    for unknown in ids:
        if unknown != WATCHDOG and cib.device(unknown) is None:
            remedy = command_line(["stonith_admin", f"--deregister={unknown}"])
            yield Rival(f"device {unknown} (not in the configuration)", remedy)


def resetters(cib: Cib, version: Version) -> Iterator[Rival]:
    """Yield what resets a node that hears of its own fencing."""
    value, _, name = properties.effective(cib, version, "fence-reaction")
    if properties.word(cib, version, name) == "panic":
        yield Rival(f"{name}={value}", _set(f"{name}=stop"))
    if properties.is_true(cib, version, "have-watchdog"):
        remedy = f"{command_line(['pcs', 'stonith', 'sbd', 'disable'])}, then restart the cluster"
        yield Rival("SBD (have-watchdog=true)", remedy)


def _set(setting: str) -> str:
    return command_line(["vmfence", "cluster", "properties", "set", setting])
