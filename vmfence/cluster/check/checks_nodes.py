"""Checks from each node's side: is there a device for it, is its guest the right one, is it in the cluster.  Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone

from vmfence.cluster import properties
from vmfence.cluster.check.checks_guests import guest_state, listed
from vmfence.cluster.check.checks_properties import CLUSTER
from vmfence.cluster.check.facts import VIRT_AGENTS, Facts
from vmfence.cluster.cib import Device
from vmfence.cluster.coverage import host_check
from vmfence.cluster.device import DEFAULT_NAME
from vmfence.cluster.fencer import FAILED, PENDING, SUCCESS, FencingEvent
from vmfence.cluster.remedies import map_to_fill_in
from vmfence.errors import VmfenceError
from vmfence.findings import ERROR, NOTE, WARNING, Check, Fault, command_line, explained

OLD_PROOF_DAYS = 365
_DAY_S = 86400.0


def _not_covered(facts: Facts) -> Iterator[Fault]:
    usable = facts.coverage.usable
    if not usable or not properties.is_true(facts.cib, facts.version, "stonith-enabled"):
        return  # told as such
    uncovered = [node for node in facts.cib.nodes if _is_surely_uncovered(facts, node.name)]
    outside = {node.name: _outside_levels(facts, node.name) for node in uncovered}
    remedies = _to_name(facts, [name for name, device in outside.items() if device is None])
    seen_devices = ", ".join(device.id for device in usable)
    for node in uncovered:
        levels, device = facts.coverage.levels_of(node.name), outside[node.name]
        in_levels = f"its fencing levels name {', '.join(d for one in levels for d in one.devices)}; " if levels else ""
        yield Fault(
            WARNING if node.is_remote else ERROR,
            node.name,
            "no device fences this node: when it is lost the cluster waits for it for ever",
            f"{in_levels}{device.id} names it, but stands in none of them"
            if device
            else f"{in_levels}devices: {seen_devices}, none names it",
            _to_level(facts, node.name, device) if device else remedies[node.name],
        )


def _outside_levels(facts: Facts, node: str) -> Device | None:
    """Return a device that names *node*, and is not used for it only because its fencing levels name others."""
    if not facts.coverage.levels_of(node):
        return None
    named = (one for one in facts.coverage.usable if node in facts.coverage.ports(one))
    return next((one for one in named if facts.coverage.covers(one, node)), None)


def _to_level(facts: Facts, node: str, device: Device) -> str:
    """Return the command that puts *device* into a level of *node* that is free: all devices of one must succeed."""
    taken = {one.index for one in facts.coverage.levels_of(node) if one.kind == "node"}
    free = next((index for index in range(1, 10) if index not in taken), None)
    if free is None:
        return explained("pcs stonith level config", f"no level of the node is free for {device.id}: remove one")
    command = command_line(["pcs", "stonith", "level", "add", str(free), node, device.id])
    return explained(command, "no level of the node has a device for it, see: pcs stonith level config")


def _to_name(facts: Facts, nodes: list[str]) -> dict[str, str]:
    """Return, by node, the command that gives *nodes* a device: one of ours that may be used for them, or a new one.

    Nodes of one device share the command: a second one would take the first one's nodes out of the map again.
    """
    users: dict[str, list[str]] = {}
    for node in nodes:
        ours = (one for one in facts.coverage.wanted_for(node) if one.agent in VIRT_AGENTS)
        users.setdefault(next((one.id for one in ours if host_check(one) == "static-list"), ""), []).append(node)
    remedies = {}
    for name, its_nodes in users.items():
        device = facts.cib.device(name)
        remedy = map_to_fill_in(device, facts, its_nodes) if device else _to_add(facts, its_nodes)
        remedies.update(dict.fromkeys(its_nodes, remedy))
    return remedies


def _to_add(facts: Facts, nodes: list[str]) -> str:
    """Return the command that makes a new device for *nodes*, under a name that is free."""
    ids = facts.cib.ids
    names = (DEFAULT_NAME, *(f"{DEFAULT_NAME}{number}" for number in range(2, len(ids) + 3)))
    name = next(name for name in names if name not in ids)
    return command_line(["vmfence", "cluster", "add-device", name, *(f"--node={node}" for node in nodes)])


def _is_surely_uncovered(facts: Facts, node: str) -> bool:
    return not facts.coverage.has_unresolved_levels and not facts.coverage.candidates(node)


def _fencer(facts: Facts) -> Iterator[Fault]:
    for node in facts.cib.nodes:
        able = facts.fencer.get(node.name, ())
        if able or not facts.coverage.usable or _is_surely_uncovered(facts, node.name):
            continue
        yield Fault(
            WARNING if node.is_remote else ERROR,
            node.name,
            "the fencer of this node has no device for it, although the configuration does not rule that out",
            f"stonith_admin --list={node.name}: 0 devices",
            "see what the host shows: vmfence cluster map",
        )


def _fences_itself(facts: Facts) -> Iterator[Fault]:
    for node in facts.coverage.members:
        devices = [one for one in facts.coverage.candidates(node) if facts.coverage.covers(one, node)]
        if devices and all(facts.coverage.places(device) == {node} for device in devices):
            ids = ", ".join(device.id for device in devices)
            message = "only the node itself may run what fences it, and when it is lost it cannot"
            seen, remedy = (
                f"{ids}: forbidden on all other nodes",
                "remove that constraint, see: pcs constraint location",
            )
            yield Fault(ERROR, node, message, seen, remedy)


def _level(facts: Facts) -> Iterator[Fault]:
    names = {node.name.lower() for node in facts.cib.nodes}
    for level in facts.cib.levels:
        subject, index = f"level {level.index} of {level.target}", str(level.index)
        remedy = command_line(["pcs", "stonith", "level", "remove", index, "target", level.target])
        for name in level.devices:
            device = facts.cib.device(name)
            if device is None or device.is_disabled:
                what = "is disabled" if device else "does not exist"
                seen = f"devices: {', '.join(level.devices)}"
                yield Fault(ERROR, subject, f"its device {name} {what}, so this level always fails", seen, remedy)
        if not 1 <= level.index <= 9:
            message = "Pacemaker knows levels 1 to 9 only, and may ignore this one"
            yield Fault(ERROR, subject, message, f"index={level.index}", remedy)
        if level.kind == "node" and names and level.target.lower() not in names:
            message = "the level is for a node that the cluster does not have"
            yield Fault(WARNING, subject, message, f"nodes: {', '.join(sorted(names))}", remedy)


def _no_quorum(facts: Facts) -> Iterator[Fault]:
    if facts.status.with_quorum is False:
        online = [node.name for node in facts.status.nodes if node.is_online]
        message = "this part of the cluster has no quorum, so it fences nobody and runs nothing"
        yield Fault(
            ERROR,
            CLUSTER,
            message,
            f"online: {listed(online)}; nodes: {len(facts.status.nodes)}",
            "pcs cluster start --all",
        )
    elif not facts.status.dc:
        message = "no node is in charge (DC): the cluster has not agreed yet"
        yield Fault(WARNING, CLUSTER, message, "crm_mon shows no DC", "try again in half a minute")


def _unclean(facts: Facts) -> Iterator[Fault]:
    for node in facts.status.nodes:
        if node.is_unclean:
            message = "the cluster has lost this node and has not fenced it: everything waits for that"
            remedy = f"see why it fails: {command_line(['vmfence', 'cluster', 'history', node.name])}"
            yield Fault(ERROR, node.name, message, "UNCLEAN in crm_mon", remedy)


def _offline(facts: Facts) -> Iterator[Fault]:
    for node in facts.status.nodes:
        if node.is_online or node.is_unclean:
            continue
        event = _last_event(node.name, () if isinstance(facts.history, VmfenceError) else facts.history)
        at = event.completed_at() if event is not None and event.status == SUCCESS else None
        seen = "not online in crm_mon"
        if event is not None and at is not None:
            seen += f"; {event.action} succeeded {_age(facts.now - at)} ago by {event.delegate or 'an unknown node'}"
        seen += "".join(guest_state(facts, node.name))
        message = "the node is not in the cluster" if not node.is_pending else "the node is on its way into the cluster"
        yield Fault(WARNING, node.name, message, seen, command_line(["pcs", "cluster", "start", node.name]))


def _last_fencing(facts: Facts) -> Iterator[Fault]:
    for node in facts.cib.nodes:
        event = _last_event(node.name, facts.history)
        if event is None or event.status == SUCCESS:
            continue
        when = f" {_age(facts.now - at)} ago" if (at := event.completed_at()) is not None else ""
        asked = f"asked for by {event.client} on {event.origin}"
        if event.status == PENDING:
            yield Fault(
                WARNING, node.name, f"a fencing is under way ({event.action})", asked, "vmfence cluster history"
            )
        elif event.status == FAILED:
            message = f"the last fencing of this node failed ({event.action}{when})"
            seen = f"{event.reason or 'no reason in the history'}; {asked}"
            remedy = f"mend the cause, then prove it: {command_line(['vmfence', 'cluster', 'prove', node.name])}"
            yield Fault(ERROR, node.name, message, seen, remedy)


def _last_event(node: str, history: tuple[FencingEvent, ...]) -> FencingEvent | None:
    """Return the newest event on *node*; one that is still pending is newer than all that have ended."""
    events = [event for event in history if event.target.lower() == node.lower()]
    return max(events, key=_ended_at, default=None)


def _ended_at(event: FencingEvent) -> float:
    at = event.completed_at()
    if at is None:
        return float("inf") if event.status == PENDING else 0.0
    return at


def _not_proven(facts: Facts) -> Iterator[Fault]:
    proofs = {name.lower(): proof for name, proof in facts.proofs.items()}
    here = "" if isinstance(facts.node, VmfenceError) else facts.node.lower()
    for node in facts.cib.nodes:
        proof = proofs.get(node.name.lower())
        remedy = command_line(["vmfence", "cluster", "prove", node.name])
        if node.name.lower() == here:
            remedy = f"a node cannot see itself come back, so on another node: {remedy}"
        if proof is None:
            yield Fault(NOTE, node.name, "its fencing was never rehearsed from this node", "no record", remedy)
            continue
        age_s = facts.now - _moment(proof.at)
        if not proof.is_proven:
            message = f"the last rehearsal of its fencing failed, {_age(age_s)} ago"
            yield Fault(ERROR, node.name, message, proof.reason or "no reason recorded", remedy)
            continue
        took = "" if proof.back_s is None else f"; back in the cluster after {proof.back_s:.0f} s"
        seen = f"{proof.at}, {proof.method} of {proof.guest} by {proof.device} ({proof.agent}){took}"
        severity = WARNING if age_s > OLD_PROOF_DAYS * _DAY_S else NOTE
        yield Fault(severity, node.name, f"its fencing was proven {_age(age_s)} ago", seen, remedy)


def _moment(text: str) -> float:
    """Return the moment of an ISO date in seconds of the wall clock; the epoch for anything else."""
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return 0.0
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


def _age(seconds: float) -> str:
    for unit_s, name in ((_DAY_S, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.0f} {name}"
    return f"{max(0.0, seconds):.0f} s"


_BOTH = ("cib", "version")
CHECKS = (
    Check(
        "cluster-level-invalid",
        "fencing levels name devices and nodes that exist",
        """All devices of a level must succeed. A level with a device that is gone or disabled always fails; before 3.0
        an index beyond 9 was accepted and then ignored.""",
        _level,
        ("cib",),
    ),
    Check(
        "cluster-node-not-covered",
        "every node is named by a device",
        """A node that no device fences cannot be recovered: the cluster waits until somebody confirms by hand that it
        is down. With fencing levels only the devices in them are used.""",
        _not_covered,
        _BOTH,
    ),
    Check(
        "cluster-fencer-refuses",
        "the fencer of this node has a device for every node",
        """The fencer itself is asked (stonith_admin --list). It knows what the configuration does not show: a device
        whose agent does not list the node, or that is not registered on this node.""",
        _fencer,
        (*_BOTH, "fencer"),
    ),
    Check(
        "cluster-fences-itself",
        "no node depends on itself to be fenced",
        """Constraints that keep a device on the very node that it fences leave nobody to use it when that node is lost.
        Devices need no constraints.""",
        _fences_itself,
        _BOTH,
    ),
    Check(
        "cluster-no-quorum",
        "the cluster has quorum",
        """Without quorum a part of the cluster neither fences nor starts resources.""",
        _no_quorum,
        ("status",),
    ),
)
STATE = (
    Check(
        "cluster-node-unclean",
        "no node waits to be fenced",
        """An unclean node was lost and could not be fenced yet. Its resources are not recovered until that
        succeeds.""",
        _unclean,
        ("status",),
    ),
    Check(
        "cluster-node-offline",
        "every node is in the cluster",
        """A node that was fenced should come back. If its guest is running and the node stays away, look at the node;
        if the guest is off, its restart failed: fence_virtd reports success for that too.""",
        _offline,
        ("status",),
    ),
    Check(
        "cluster-last-fencing",
        "the last fencing of every node succeeded",
        """The fencer keeps a history. What failed last time will fail again unless its cause was mended; a rehearsal
        proves that. To clear the record alone: pcs stonith history cleanup NODE.""",
        _last_fencing,
        ("cib", "history"),
    ),
    Check(
        "cluster-not-proven",
        "the fencing of every node was rehearsed",
        """All other checks look at parts. Only a rehearsal proves the whole: vmfence cluster prove fences one node
        after another and sees each go down at the host and come back. The record is kept on the node that did it. A
        note tells how old the last proof is, a warning that it is older than a year, an error that it failed.""",
        _not_proven,
        ("cib", "proofs"),
    ),
)
