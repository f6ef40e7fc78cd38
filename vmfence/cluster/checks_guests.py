"""Checks of what the host maps lead to: guests that exist, one for each node, and the right ones.  Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from vmfence.cluster import coverage, machine
from vmfence.cluster.facts import Facts
from vmfence.errors import VmfenceError
from vmfence.findings import ERROR, Check, Fault
from vmfence.protocol.reply import Record, State

SHOWN_MAX = 10
_WAY = ("ipaddr", "multicast_address", "ipport", "vsock", "serial_device", "channel_address", "transport")
_NOT_RUNNING = (State.SHUT_OFF, State.CRASHED, State.SUSPENDED)


def resolved(facts: Facts) -> Iterator[tuple[str, str, str, tuple[Record, ...], tuple[Record, ...]]]:
    """Yield (device, node, port, guests that the port means, all guests) where the hosts have answered."""
    for device, node, port in coverage.mapped(facts.cib, facts.version):
        host = facts.hosts_of(device)
        if host is not None and host.answers:
            yield device.id, node, port, _named(port, host.guests), host.guests


def _named(port: str, guests: tuple[Record, ...]) -> tuple[Record, ...]:
    """Return the guests of that name or UUID, each once however many hosts show it."""
    found = {one.uuid: one for one in guests if one.name == port or one.uuid.lower() == port.lower()}
    return tuple(found.values())


def _guest_missing(facts: Facts) -> Iterator[Fault]:
    for device, node, port, found, guests in resolved(facts):
        if not found:
            names = [guest.name for guest in guests]
            nearest = difflib.get_close_matches(port, names, 1)
            meant = f"; meant {nearest[0]!r}?" if nearest else ""
            message = f"{device} maps it to {port!r}, and the host shows no such guest{meant}"
            seen = f"guests that the host shows: {listed(names)}"
            remedy = f"vmfence cluster add-device {device} --map {node}:{nearest[0] if nearest else 'GUEST'}"
            yield Fault(ERROR, node, message, seen, remedy)


def _guest_ambiguous(facts: Facts) -> Iterator[Fault]:
    for device, node, port, found, _ in resolved(facts):
        if len(found) > 1:
            message = f"{device} maps it to {port!r}, a name that {len(found)} guests have"
            remedy = f"vmfence cluster add-device {device} --map {node}:UUID"
            yield Fault(ERROR, node, message, f"UUIDs: {listed([one.uuid for one in found])}", remedy)


def _guest_twice(facts: Facts) -> Iterator[Fault]:
    users: dict[tuple[str, ...], dict[str, str]] = {}
    hosts_known = not isinstance(facts.hosts, VmfenceError)
    for device, node, port in coverage.mapped(facts.cib, facts.version):
        host = facts.hosts_of(device) if hosts_known else None
        found = _named(port, host.guests) if host is not None else ()
        # Without an answer, an equal name means the same guest where the same host is asked.
        way = tuple(device.options.get(name, "") for name in _WAY)
        users.setdefault((found[0].uuid,) if len(found) == 1 else (port, *way), {})[node] = device.id
    for guest, nodes in users.items():
        if len(nodes) > 1:
            message = f"these nodes are mapped to the same guest {guest[0]}: fencing one of them stops another"
            seen = ", ".join(f"{node} by {device}" for node, device in nodes.items())
            yield Fault(ERROR, ", ".join(nodes), message, seen, "see which guest each one is: vmfence cluster map")


def _uuid_mismatch(facts: Facts) -> Iterator[Fault]:
    mine = (facts.machine_uuid, machine.swapped(facts.machine_uuid))
    for device, node, port, found, guests in resolved(facts):
        if node.lower() == facts.node.lower() and len(found) == 1 and found[0].uuid.lower() not in mine:
            true = next((guest.name for guest in guests if guest.uuid.lower() in mine), None)
            message = (
                f"{device} maps this node to {port!r}, which is another machine: fencing would stop the wrong guest"
            )
            known = f", which is guest {true}" if true else ""
            seen = f"this machine: {facts.machine_uuid}{known}; {port}: {found[0].uuid}"
            remedy = f"vmfence cluster add-device {device} --map {node}:{true or 'GUEST'}"
            yield Fault(ERROR, node, message, seen, remedy)


def _guest_not_running(facts: Facts) -> Iterator[Fault]:
    for device, node, port, found, _ in resolved(facts):
        status = facts.status.node(node)
        if status is not None and status.is_online and len(found) == 1 and found[0].state in _NOT_RUNNING:
            message = (
                f"the node is online, and {port!r}, to which {device} maps it, is not running: it is another guest"
            )
            seen = f"state of the guest at the host: {found[0].as_dict()['state']}"
            yield Fault(ERROR, node, message, seen, f"vmfence cluster add-device {device} --map {node}:GUEST")


def guest_state(facts: Facts, node: str) -> Iterator[str]:
    """Yield, as evidence, what the host says of the guest of *node*, where that is known."""
    if not isinstance(facts.hosts, VmfenceError) and not isinstance(facts.version, VmfenceError):
        for _, name, port, found, _ in resolved(facts):
            if name.lower() == node.lower() and len(found) == 1:
                yield f"; guest {port} at the host: {found[0].as_dict()['state']}"


def listed(names: list[str]) -> str:
    """Return *names* for one line, not endless."""
    more = f" and {len(names) - SHOWN_MAX} more" if len(names) > SHOWN_MAX else ""
    return (", ".join(names[:SHOWN_MAX]) or "none") + more


_BOTH = ("cib", "version")
CHECKS = (
    Check(
        "cluster-guest-missing",
        "every mapped guest is there",
        """The host does not show the guest that stands for the node: misspelt, renamed, moved to another host, or
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
