"""Checks of what the host maps lead to: guests that exist, one for each node, and the right ones.  Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass

from vmfence.cluster import machine
from vmfence.cluster.check.checks_options import STATIC_NAMES
from vmfence.cluster.check.facts import Facts
from vmfence.cluster.cib import Device
from vmfence.cluster.coverage import Claim
from vmfence.cluster.hostmap import parse_host_map
from vmfence.cluster.matching import NOT_RUNNING, is_same
from vmfence.cluster.remedies import GUEST, remap
from vmfence.errors import VmfenceError
from vmfence.findings import ERROR, WARNING, Check, Fault
from vmfence.guest.guests import Inquiry
from vmfence.protocol.reply import Record

SHOWN_MAX = 10
# What tells hosts apart, and its default; a host answers to its own key alone.
_WAY = {
    **dict.fromkeys(("ipaddr", "multicast_address", "vsock", "serial_device", "channel_address", "transport"), ""),
    "ipport": str(Inquiry.port),
    "ip_family": Inquiry.family,
    "key_file": Inquiry.key_file,
    "serial_params": Inquiry.serial_params,
}


@dataclass(frozen=True)
class Lead:
    """Where a claim leads: the guests *found* under its port among *all* that the hosts show."""

    claim: Claim
    found: tuple[Record, ...]
    all: tuple[Record, ...]

    @property
    def device(self) -> Device:
        """The device that claims the node."""
        return self.claim.device

    @property
    def node(self) -> str:
        """The node's name."""
        return self.claim.node.name

    @property
    def how(self) -> str:
        """What leads there, to begin a sentence with."""
        if self.claim.is_named:
            return f"{self.device.id} maps it to {self.claim.port!r}"
        return f"{self.device.id} claims it without mapping it, so it asks for {self.claim.port!r}"


def leads(facts: Facts) -> Iterator[Lead]:
    """Yield where each claim leads, where the hosts have answered; not for devices that ask for a fixed guest."""
    for claim in facts.claims:
        host = facts.hosts_of(claim.device)
        if host is not None and host.answers and not _is_fixed(claim):
            yield Lead(claim, host.shown.named(claim.port), host.guests)


def _is_fixed(claim: Claim) -> bool:
    """Whether the device asks for the guest that it has in its options, whatever the port."""
    options = claim.device.options
    fixed = [name for name in STATIC_NAMES if name in options]
    return bool(fixed) and (not claim.is_named or options.get("pcmk_host_argument") in (*fixed, "none"))


def _guest_missing(facts: Facts) -> Iterator[Fault]:
    missing = [lead for lead in leads(facts) if not lead.found]
    for lead in missing:
        names = [guest.name for guest in lead.all]
        # Comparing each with each would take minutes where there are thousands.
        nearest = difflib.get_close_matches(lead.claim.port, names, 1) if len(missing) * len(names) < 10_000 else []
        meant = f"; meant {nearest[0]!r}?" if nearest else ""
        message = f"{lead.how}, and the host shows no such guest{meant}"
        seen = f"guests that the host shows: {listed(names)}"
        severity = WARNING if lead.claim.node.is_remote and not lead.claim.is_named else ERROR
        remedy = remap(lead.device, facts, lead.node, nearest[0] if nearest else GUEST)
        yield Fault(severity, lead.node, message, seen, remedy)


def _guest_ambiguous(facts: Facts) -> Iterator[Fault]:
    for lead in leads(facts):
        if len(lead.found) > 1:
            message = f"{lead.how}, a name that {len(lead.found)} guests have"
            seen = f"UUIDs: {listed([one.uuid for one in lead.found])}"
            yield Fault(ERROR, lead.node, message, seen, remap(lead.device, facts, lead.node, "UUID"))


def _guest_twice(facts: Facts) -> Iterator[Fault]:
    users: dict[tuple[str, ...], dict[str, str]] = {}
    hosts_known = not isinstance(facts.hosts, VmfenceError)
    for claim in facts.claims:
        device, node, port = claim.device, claim.node.name, claim.port
        host = facts.hosts_of(device) if hosts_known else None
        found = host.shown.named(port) if host is not None else ()
        # Without an answer, an equal name means the same guest where the same host is asked.
        way = tuple(device.options.get(name, usual) for name, usual in _WAY.items())
        users.setdefault((found[0].uuid,) if len(found) == 1 else (port, *way), {})[node] = device.id
    for guest, nodes in users.items():
        if len(nodes) > 1:
            message = f"these nodes are mapped to the same guest {guest[0]}: fencing one of them stops another"
            seen = ", ".join(f"{node} by {device}" for node, device in nodes.items())
            yield Fault(ERROR, ", ".join(nodes), message, seen, "see which guest each one is: vmfence cluster map")


def _guests_differ(facts: Facts) -> Iterator[Fault]:
    by_node: dict[str, dict[str, list[str]]] = {}
    for lead in leads(facts):
        if len(lead.found) == 1:
            by_node.setdefault(lead.node, {}).setdefault(lead.found[0].uuid, []).append(lead.device.id)
    for node, guests in by_node.items():
        if len(guests) > 1:
            message = f"its devices lead to {len(guests)} different guests: with one of them it would stop a stranger"
            seen = "; ".join(f"{', '.join(devices)}: {uuid}" for uuid, devices in guests.items())
            remedy = "compare with the UUID that the node itself has, see: vmfence cluster map"
            yield Fault(ERROR, node, message, seen, remedy)


def _port_is_node(facts: Facts) -> Iterator[Fault]:
    """A map's ports are names of nodes too: for a node that the map does not name, its namesake's guest is fenced."""
    names = {node.name.lower(): node.name for node in facts.cib.nodes}
    for device in facts.coverage.usable:
        pairs = parse_host_map(device.options.get("pcmk_host_map", ""), facts.version).ports()
        for node, port in pairs.items():
            other = names.get(port.lower(), "")
            if not other or is_same(other, node) or other in pairs:
                continue
            host = None if isinstance(facts.hosts, VmfenceError) else facts.hosts_of(device)
            found = host.shown.named(port) if host is not None else ()
            message = f"{device.id} maps {node} to the guest {port!r}: asked to fence node {other}, it stops that guest"
            seen = f"the port {port!r} of {node} is the name of node {other}, which the map does not name"
            uuid = found[0].uuid if len(found) == 1 and found[0].uuid else "UUID"
            yield Fault(ERROR, other, message, seen, remap(device, facts, node, uuid))


def _uuid_mismatch(facts: Facts) -> Iterator[Fault]:
    mine = (facts.machine_uuid, machine.swapped(facts.machine_uuid))
    for lead in leads(facts):
        if is_same(lead.node, facts.node) and len(lead.found) == 1 and lead.found[0].uuid.lower() not in mine:
            true = next((guest.name for guest in lead.all if guest.uuid.lower() in mine), None)
            message = f"{lead.how}, which is another machine: fencing would stop the wrong guest"
            known = f", which is guest {true}" if true else ""
            seen = f"this machine: {facts.machine_uuid}{known}; {lead.claim.port}: {lead.found[0].uuid}"
            yield Fault(ERROR, lead.node, message, seen, remap(lead.device, facts, lead.node, true or GUEST))


def _guest_not_running(facts: Facts) -> Iterator[Fault]:
    online = {node.name.lower() for node in facts.status.nodes if node.is_online}
    for lead in leads(facts):
        if lead.node.lower() in online and len(lead.found) == 1 and lead.found[0].state in NOT_RUNNING:
            message = f"the node is online, and {lead.how}, which is not running: it is another guest"
            seen = f"state of the guest at the host: {lead.found[0].as_dict()['state']}"
            yield Fault(ERROR, lead.node, message, seen, remap(lead.device, facts, lead.node, GUEST))


def guest_state(facts: Facts, node: str) -> Iterator[str]:
    """Yield, as evidence, what the host says of the guest of *node*, where that is known."""
    if not any(isinstance(fact, VmfenceError) for fact in (facts.cib, facts.version, facts.hosts)):
        for lead in leads(facts):
            if is_same(lead.node, node) and len(lead.found) == 1:
                yield f"; guest {lead.claim.port} at the host: {lead.found[0].as_dict()['state']}"


def listed(names: list[str]) -> str:
    """Return *names* for one line, not endless."""
    more = f" and {len(names) - SHOWN_MAX} more" if len(names) > SHOWN_MAX else ""
    return (", ".join(names[:SHOWN_MAX]) or "none") + more


_BOTH = ("cib", "version")
CHECKS = (
    Check(
        "cluster-port-is-node",
        "no guest in a host map is named like another node",
        """Pacemaker takes the guests in pcmk_host_map for names of nodes, too. A device with n1:n2 claims node n2 as
        well, unless its map names n2 itself, and fences the guest n2 for it, which is node n1. Use the guest's UUID
        there: add-device does.""",
        _port_is_node,
        _BOTH,
    ),
    Check(
        "cluster-guest-missing",
        "every mapped guest is there",
        """The host does not show the guest that stands for the node, or the one named like a node that a device claims
        without mapping it (pcmk_host_check=none, or its agent said so): misspelt, renamed, moved to another host, or
        hidden by the host's access rules. fence_virtd reports such a guest as OFF, so fencing seems to work and does
        nothing.""",
        _guest_missing,
        (*_BOTH, "answering"),
    ),
    Check(
        "cluster-guest-ambiguous",
        "every mapped name means one guest",
        """Two hosts, or two libvirt connections, have a guest of that name. Use the UUID in the host map.""",
        _guest_ambiguous,
        (*_BOTH, "answering"),
    ),
    Check(
        "cluster-guests-differ",
        "all devices of a node lead to the same guest",
        """A node is one machine. When its devices lead to different guests, at least one of them would stop a guest
        that is not the node, and report success. Which one is right the node itself knows: its firmware shows the UUID
        (cat /sys/class/dmi/id/product_uuid).""",
        _guests_differ,
        (*_BOTH, "answering"),
    ),
    Check(
        "cluster-guest-twice",
        "no two nodes are mapped to one guest",
        """Fencing one node would stop another one, and leave the lost one running.""",
        _guest_twice,
        _BOTH,
    ),
    Check(
        "cluster-uuid-mismatch",
        "this node is the guest to which it is mapped",
        """libvirt gives a guest's UUID to its firmware, so this machine knows which guest it is. The host map says
        another one: fencing this node would stop a stranger. Run this check on every node, each proves itself.""",
        _uuid_mismatch,
        (*_BOTH, "answering", "machine_uuid", "node"),
    ),
    Check(
        "cluster-guest-not-running",
        "the guests of online nodes are running",
        """A node that is online runs in a guest that is running. If the guest of the host map is off, the map is wrong,
        and fencing the node would report success without touching it.""",
        _guest_not_running,
        (*_BOTH, "answering", "status"),
    ),
)
