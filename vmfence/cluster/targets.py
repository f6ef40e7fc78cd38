"""How a node would be fenced: by which devices, and which guest of which host stands for it over each of them.

Nobody can tell which of several devices the fencer will take, or has taken: its history names none (see rivals).
"""

from __future__ import annotations

from dataclasses import dataclass

from vmfence.cluster import rivals, watch
from vmfence.cluster.cib import Cib, Device
from vmfence.cluster.coverage import Coverage
from vmfence.cluster.hostmap import ports_of
from vmfence.cluster.inquiry import AGENTS, inquiry_of
from vmfence.cluster.means import Means
from vmfence.cluster.pacemaker import Pacemaker
from vmfence.cluster.patterns import fits
from vmfence.cluster.rivals import Rival
from vmfence.cluster.watch import Look, Sight
from vmfence.errors import UsageError, VmfenceError
from vmfence.guest.guests import Inquiry


@dataclass(frozen=True)
class Target:
    """Over *device*, *guest* of the host stands for *node*.

    *stays_off*: a reboot by this device leaves it off (pcmk_reboot_action).
    """

    node: str
    guest: str
    device: str
    agent: str
    inquiry: Inquiry
    stays_off: bool = False


@dataclass(frozen=True)
class Aim:
    """The *targets* of *node* whose host can be asked, never empty, in the cluster's order.

    *devices*: all that the cluster may take, also those that cannot be asked.  *node_id*: corosync's, -1 for none.
    *rivals*: by what else it may be fenced; *resetters*: what brings it back though it was not.
    """

    node: str
    targets: tuple[Target, ...]
    devices: tuple[Device, ...]
    node_id: int
    rivals: tuple[Rival, ...] = ()
    resetters: tuple[Rival, ...] = ()

    @property
    def device(self) -> str:
        """The device, or all that it may be."""
        return " or ".join(device.id for device in self.devices)

    @property
    def agent(self) -> str:
        """The agent of the device, or all that it may be."""
        return " or ".join(dict.fromkeys(device.agent for device in self.devices))

    @property
    def stays_off(self) -> bool:
        """Whether a reboot leaves the node off, whichever device is taken."""
        return all(target.stays_off for target in self.targets)


@dataclass(frozen=True)
class Sighting:
    """What the host of *target* showed of its guest."""

    target: Target
    look: Look

    def __str__(self) -> str:
        return f"guest {self.target.guest} ({self.look} at the host)"


@dataclass(frozen=True)
class Survey:
    """What is seen before a node is fenced: one of *sightings* for each target; *is_online*: in crm_mon."""

    aim: Aim
    sightings: tuple[Sighting, ...]
    is_online: bool

    @property
    def watched(self) -> tuple[Sighting, ...]:
        """One sighting of each guest; where no host shows any, one of each that should be there.  Never empty."""
        shown = {sighting.look.uuid: sighting for sighting in reversed(self.sightings) if sighting.look.uuid}
        if shown:
            return tuple(sighting for sighting in self.sightings if shown.get(sighting.look.uuid) is sighting)
        return self.sightings

    def disagreement(self) -> str:
        """Return why the devices do not all lead to one guest, "" when they do."""
        uuids = {sighting.look.uuid for sighting in self.sightings}
        if len(self.sightings) == 1 or (len(uuids) == 1 and "" not in uuids):
            return ""
        shown = (f"{one.target.device}: {one}" for one in self.sightings)
        return f"its devices do not all lead to one guest: {', '.join(shown)}"

    def contradiction(self) -> str:
        """Return why the guest cannot be the node's, "" when nothing speaks against it."""
        for sighting in self.watched:
            if self.is_online and sighting.look.sight is Sight.OFF:
                guest, device = sighting.target.guest, sighting.target.device
                return f"{self.aim.node} is online in the cluster, but guest {guest} of device {device} is off"
        return ""

    def silence(self) -> str:
        """Return what to do about a host that does not answer, "" when all do."""
        silent = [one.target.inquiry for one in self.sightings if one.look.sight is Sight.SILENT]
        return f"see why nobody answers by {silent[0]}: vmfence guest check" if silent else ""

    def has_changed(self, since: Survey) -> bool:
        """Whether other devices or guests stand for the node than *since*."""
        uuids = ((one.look.uuid, other.look.uuid) for one, other in zip(self.sightings, since.sightings))
        return self.aim != since.aim or any(now and before and now != before for now, before in uuids)


def changed(before: Survey, now: Survey) -> VmfenceError:
    """Return the error for a node whose devices or guests are no longer those of the question."""
    was, is_now = (", ".join(f"{one.target.device}: {one}" for one in each.sightings) for each in (before, now))
    why = f"its devices or guests have changed meanwhile: {was}; now {is_now}"
    return VmfenceError(f"{before.aim.node} was not fenced", why, "look, and say it again")


def survey(node: str, means: Means) -> Survey:
    """Return what is seen of *node* now.  Raises as locate() and Pacemaker."""
    aim = locate(node, means.pacemaker.load_cib(), means.pacemaker)
    return look_at(aim, means)


def look_at(aim: Aim, means: Means) -> Survey:
    """Return what cluster and hosts show of *aim*.  Raises as Pacemaker."""
    status = means.pacemaker.load_status().node(aim.node)
    looks: dict[tuple[Inquiry, str], Look] = {}
    for target in aim.targets:
        question = target.inquiry, target.guest
        if question not in looks:
            looks[question] = _look(target, means)
    sightings = tuple(Sighting(target, looks[target.inquiry, target.guest]) for target in aim.targets)
    return Survey(aim, sightings, status is not None and status.is_online)


def locate(node: str, cib: Cib, pacemaker: Pacemaker) -> Aim:
    """Return how *node* is fenced.

    Raises UsageError for a node that the cluster does not have, VmfenceError when no device covers it whose host we
    can ask.
    """
    name = next((one.name for one in cib.nodes if one.name.lower() == node.lower()), None)
    if name is None:
        nodes = ", ".join(one.name for one in cib.nodes)
        raise UsageError(f"the cluster has no node {node!r}", "", f"its nodes are: {nodes}" if nodes else "")
    able, version = pacemaker.devices_for(name), pacemaker.version()
    coverage = Coverage(cib, version)
    usable = {*able, *rivals.registered_elsewhere(name, coverage, pacemaker.node_name())}
    devices = tuple(device for device in in_order(name, cib) if device.id in usable)
    targets = []
    why = f"the fencer has for it: {', '.join(able) or 'no device'}"
    for device in devices:
        if device.agent not in AGENTS:
            continue
        try:
            inquiry = inquiry_of(device.options, device.agent)
        except VmfenceError as error:
            why = f"device {device.id}: {error}".rstrip(".")
            continue
        guest = ports_of(device, version).get(name, name)
        stays_off = device.options.get("pcmk_reboot_action", "").lower() == "off"
        targets.append(Target(name, guest, device.id, device.agent, inquiry, stays_off))
    if not targets:
        remedy = "make a device for it with: vmfence cluster add-device"
        raise VmfenceError(f"no device whose host can be asked ({', '.join(AGENTS)}) fences {name}", why, remedy)
    ours = {target.device for target in targets}
    return Aim(
        node=name,
        targets=tuple(targets),
        devices=devices,
        node_id=corosync_id(name, cib),
        rivals=(*rivals.other_devices(name, coverage, devices, ours), *rivals.other_means(cib, version, able)),
        resetters=tuple(rivals.resetters(cib, version)),
    )


def corosync_id(node: str, cib: Cib) -> int:
    """Return the number by which corosync knows *node*, -1 for one that it does not know."""
    found = next((one for one in cib.nodes if one.name == node and not one.is_remote), None)
    return int(found.id) if found is not None and found.id.isascii() and found.id.isdecimal() else -1


def in_order(node: str, cib: Cib) -> tuple[Device, ...]:
    """Return the devices that the cluster would use for *node*: those of its levels in their order, or all."""
    levels = [level for level in cib.levels if level.kind == "node" and level.target.lower() == node.lower()]
    levels = levels or [
        level for level in cib.levels if level.kind == "pattern" and fits(level.target, node, ignore_case=True)
    ]
    names = [name for level in sorted(levels, key=lambda level: level.index) for name in level.devices]
    listed = tuple(filter(None, map(cib.device, dict.fromkeys(names))))
    return listed or tuple(device for device in cib.devices if not device.is_disabled)


def _look(target: Target, means: Means) -> Look:
    """Look in the way in which the guest will be watched; tell when only another way leads to the host."""
    found = means.look(watch.unobtrusive(target.inquiry), target.guest)
    if found.sight is Sight.ABSENT:  # the first host to answer need not be the one that has it
        return watch.look(target.inquiry, target.guest, means.ask_all)
    is_deaf = found.sight is Sight.SILENT and target.inquiry.kind == "multicast"
    if is_deaf and means.look(target.inquiry, target.guest).sight is not Sight.SILENT:
        port = target.inquiry.port
        return Look(Sight.SILENT, f"its call-backs get through at TCP {port} alone, which fence agents here need")
    return found
