"""Checks of times: timeouts that add up, delays, and what keeps two nodes from fencing each other.  Pure.

Source: fenced_remote.c get_device_timeout, fenced_commands.c get_action_delay_base, pe_actions.c; votequorum(5).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from vmfence.cluster import properties, timeouts
from vmfence.cluster.check.checks_properties import CLUSTER, set_property
from vmfence.cluster.check.facts import VIRT_AGENTS, Facts
from vmfence.cluster.cib import Device
from vmfence.cluster.durations import parse_duration
from vmfence.cluster.hostmap import parse_delay_map
from vmfence.cluster.remedies import update
from vmfence.errors import VmfenceError
from vmfence.findings import ERROR, WARNING, Check, Fault, command_line

MONITOR_DEFAULT_S = 20.0
_UNITS_SINCE, _PREFIX_SINCE, _PREFIX_UNTIL = (2, 1, 8), (2, 1, 2), (3, 0, 2)
_SECONDS = re.compile(r"\d+s?")


def seconds(options: Mapping[str, str], name: str) -> float | None:
    """Return the seconds of a device's option; None when it is not set, or no time."""
    try:
        return parse_duration(options[name])
    except (KeyError, VmfenceError):
        return None


def _power(facts: Facts) -> Iterator[Fault]:
    """Compare what the agent may take with what Pacemaker gives it."""
    base_s = properties.seconds(facts.cib, facts.version, "stonith-timeout")
    actions = (
        ("off",)
        if properties.effective(facts.cib, facts.version, "stonith-action").value == "off"
        else ("reboot", "off")
    )
    for device in _judged(facts):
        agent_s = _agent_s(device)[0] + (seconds(device.options, "delay") or 0.0)
        for action in actions:
            name = f"pcmk_{action}_timeout"
            own_s = seconds(device.options, name)
            limit_s = base_s if own_s is None else own_s
            limit = "stonith-timeout" if own_s is None else name
            numbers = f"agent {agent_s:g} s (delay + timeout), {limit} {limit_s:g} s"
            if agent_s >= limit_s:
                message = (
                    f"Pacemaker kills the agent before it can report {action}: a node that is down counts as not fenced"
                )
                wanted = f"{agent_s + timeouts.MARGIN_S:g}s"
                yield Fault(ERROR, device.id, message, numbers, update(device.id, **{name: wanted}))
                break
            if limit_s > base_s:
                message = "the device may take longer than the cluster waits for one fencing"
                yield Fault(
                    WARNING,
                    device.id,
                    message,
                    f"{numbers}, stonith-timeout {base_s:g} s",
                    set_property(facts, "stonith-timeout", f"{limit_s:g}s"),
                )
                break


def _monitor(facts: Facts) -> Iterator[Fault]:
    for device in _judged(facts):
        agent_s = _agent_s(device)[1]
        operation = device.operation("monitor")
        if operation is None:
            continue  # told as such
        where, text = next(
            (name, value)
            for name, value in (
                ("pcmk_monitor_timeout", device.options.get("pcmk_monitor_timeout")),
                ("timeout of the monitor operation", operation.timeout),
                ("timeout of op_defaults", facts.cib.operation_defaults.get("timeout")),
                ("default timeout of operations", f"{MONITOR_DEFAULT_S:g}s"),
            )
            if value
        )
        try:
            limit_s = parse_duration(text)
        except VmfenceError:
            continue  # told as invalid
        if agent_s > limit_s:
            message = "Pacemaker ends the monitor before the agent gives up, so the agent's own words are lost"
            wanted = [
                "op",
                "monitor",
                f"interval={operation.interval or '60s'}",
                f"timeout={agent_s + timeouts.MARGIN_S:g}s",
            ]
            remedy = command_line(["pcs", "stonith", "update", device.id, *wanted])
            yield Fault(WARNING, device.id, message, f"agent {agent_s:g} s, {where} {limit_s:g} s", remedy)


def _judged(facts: Facts) -> Iterator[Device]:
    """Yield the devices whose agents' own timeouts are known, and are times."""
    for device in facts.coverage.usable:
        if device.agent in VIRT_AGENTS and ("timeout" not in device.options or seconds(device.options, "timeout")):
            yield device


def _agent_s(device: Device) -> tuple[float, float]:
    return timeouts.agent_timeouts_s(device.agent, device.options)


def _invalid(facts: Facts) -> Iterator[Fault]:
    for device in facts.cib.devices:
        names = [name for name in device.options if re.fullmatch(r"pcmk_\w+_timeout|pcmk_delay_max", name)]
        if device.agent in VIRT_AGENTS:
            names += [name for name in ("timeout", "delay") if name in device.options]
        for name in names:
            yield from _time(facts, device.id, name, device.options[name])
        for fault in parse_delay_map(device.options.get("pcmk_delay_base", ""), facts.version).faults:
            seen = f"pcmk_delay_base={device.options.get('pcmk_delay_base')}"
            yield Fault(WARNING, device.id, f"its delay is wrong: {fault}", seen, update(device.id, pcmk_delay_base=""))
        for operation in device.operations:
            for name, text in (("interval", operation.interval), ("timeout", operation.timeout)):
                if text:
                    yield from _time(facts, device.id, f"{name} of {operation.name}", text)


def _time(facts: Facts, device: str, name: str, text: str) -> Iterator[Fault]:
    remedy = (
        update(device, **{name: "60s"})
        if " " not in name
        else f"see it with: {command_line(['pcs', 'stonith', 'config', device])}"
    )
    try:
        parse_duration(text)
    except VmfenceError as error:
        yield Fault(WARNING, device, f"{name} is no time, so it is ignored", f"{name}={text}: {error.what}", remedy)
        return
    if name.startswith("pcmk_") and facts.version < _UNITS_SINCE and not _SECONDS.fullmatch(text):
        message = f"{name} has a unit that this Pacemaker does not know: before 2.1.8 only seconds"
        yield Fault(
            WARNING, device, message, f"{name}={text}", update(device, **{name: f"{parse_duration(text):.0f}s"})
        )


def _limited(facts: Facts) -> Iterator[Fault]:
    for device in facts.coverage.usable:
        longest_s = seconds(device.options, "pcmk_delay_max") or 0.0
        delays = parse_delay_map(device.options.get("pcmk_delay_base", ""), facts.version)
        base_s = max([delays.everyone_s, *dict(delays.pairs).values()])
        if 0 < longest_s < base_s:
            message = "pcmk_delay_base is longer than pcmk_delay_max, and is cut to it"
            seen = f"pcmk_delay_base up to {base_s:g} s, pcmk_delay_max {longest_s:g} s"
            yield Fault(WARNING, device.id, message, seen, update(device.id, pcmk_delay_max=f"{base_s:g}s"))


def _prefix(facts: Facts) -> Iterator[Fault]:
    if not _PREFIX_SINCE <= facts.version < _PREFIX_UNTIL:
        return
    for device in facts.coverage.usable:
        delays = parse_delay_map(device.options.get("pcmk_delay_base", ""), facts.version)
        own = {name.lower(): delay_s for name, delay_s in delays.pairs}
        for node in facts.coverage.members if delays.pairs else ():
            meant_s = own.get(node.lower(), delays.everyone_s)
            if delays.delay_s(node, facts.version) != meant_s:
                message = (
                    f"{node} gets the delay of a node whose name it begins with: this Pacemaker compares beginnings"
                )
                ordered = sorted(delays.pairs, key=lambda pair: -len(pair[0]))
                missing = [] if node.lower() in own else [(node, 0.0)]
                text = ";".join(f"{name}:{delay_s:g}s" for name, delay_s in [*missing, *ordered])
                seen = f"{node} is delayed by {delays.delay_s(node, facts.version):g} s instead of {meant_s:g} s"
                yield Fault(WARNING, device.id, message, seen, update(device.id, pcmk_delay_base=text))


def _two_nodes(facts: Facts) -> Iterator[Fault]:
    nodes = facts.coverage.members
    if len(nodes) != 2 or _has_arbiter(facts) or not facts.coverage.usable:
        return
    if properties.seconds(facts.cib, facts.version, "priority-fencing-delay"):
        return
    first = {node: _used_first(facts, node) for node in nodes}
    if any(seconds(device.options, "pcmk_delay_max") for devices in first.values() for device in devices):
        return  # random: weaker, but a tie-break
    delays_s = {node: max((_delay_s(facts, one, node) for one in first[node]), default=0.0) for node in nodes}
    if abs(delays_s[nodes[0]] - delays_s[nodes[1]]) < 1:
        numbers = ", ".join(f"{node} {delay_s:g} s" for node, delay_s in delays_s.items())
        survivor = _survivor(nodes, facts.version)
        device = (first[survivor] or facts.coverage.usable)[0]
        message = "when the two nodes lose each other, both fence at the same moment, and both may die"
        base = f"{survivor}:10s" if facts.version >= _PREFIX_SINCE else "10s"
        ids = ", ".join(dict.fromkeys(one.id for devices in first.values() for one in devices))
        seen = (
            f"delays: {numbers}; no priority-fencing-delay, no pcmk_delay_max on what is used first ({ids or 'none'})"
        )
        yield Fault(WARNING, CLUSTER, message, seen, update(device.id, pcmk_delay_base=base))


def _used_first(facts: Facts, node: str) -> tuple[Device, ...]:
    """Return the devices for *node* in the lowest of its levels that has any; without levels, all that may be used."""
    devices = facts.coverage.candidates(node)
    for level in sorted(facts.coverage.levels_of(node), key=lambda one: one.index):
        if found := tuple(device for device in devices if device.id in level.devices):
            return found
    return devices


def _delay_s(facts: Facts, device: Device, node: str) -> float:
    read = parse_delay_map(device.options.get("pcmk_delay_base", ""), facts.version)
    return read.delay_s(node, facts.version) + (seconds(device.options, "delay") or 0.0)


def _survivor(nodes: Sequence[str], version: tuple[int, ...]) -> str:
    """Return the node to delay: the first, but the other one where a delay of the first would be one of both."""
    is_prefix = _PREFIX_SINCE <= version < _PREFIX_UNTIL and nodes[1].lower().startswith(nodes[0].lower())
    return nodes[1] if is_prefix else nodes[0]


def _has_arbiter(facts: Facts) -> bool:
    """Whether a third party decides who keeps quorum, as far as that is known."""
    return not isinstance(facts.corosync, VmfenceError) and facts.corosync.has_device


def _two_node_quorum(facts: Facts) -> Iterator[Fault]:
    settings, number = facts.corosync, len(facts.coverage.members)
    if number == 2 and not settings.is_two_node and not settings.has_device:
        message = "of two nodes the one that is left has no quorum, so it does not fence the other and runs nothing"
        remedy = "set two_node: 1 in the quorum section of corosync.conf on both nodes, then: corosync-cfgtool -R"
        yield Fault(ERROR, CLUSTER, message, f"two_node is not set ({settings.source}); nodes: 2", remedy)
    elif number > 2 and settings.is_two_node:
        message = "Corosync is set for two nodes, and there are more: single nodes would keep quorum"
        remedy = "remove two_node from the quorum section of corosync.conf on all nodes, then: corosync-cfgtool -R"
        yield Fault(ERROR, CLUSTER, message, f"two_node: 1 ({settings.source}); nodes: {number}", remedy)


def _wait_for_all(facts: Facts) -> Iterator[Fault]:
    settings = facts.corosync
    if settings.is_two_node and not settings.waits_for_all and len(facts.coverage.members) == 2:
        message = "a node that starts alone fences the other one, which does the same when it starts: a fence loop"
        remedy = command_line(["pcs", "quorum", "update", "wait_for_all=1"])
        yield Fault(WARNING, CLUSTER, message, f"wait_for_all: 0 ({settings.source})", remedy)


_BOTH = ("cib", "version")
CHECKS = (
    Check(
        "cluster-timeouts",
        "agents give up before Pacemaker does",
        """The agent needs its delay and timeout for one action; Pacemaker gives it pcmk_reboot_timeout or
        pcmk_off_timeout, or else stonith-timeout (60 s). If the agent's time is not shorter, Pacemaker kills it and
        counts a fencing as failed that may have happened. A device's own timeout should not exceed stonith-timeout
        either.""",
        _power,
        _BOTH,
    ),
    Check(
        "cluster-monitor-timeout",
        "monitor operations last as long as their agents",
        """The monitor has pcmk_monitor_timeout, or the timeout of its operation, or 20 s. fence_xvm waits 30 s for its
        host by default, so without a timeout Pacemaker ends it first, and its message is lost.""",
        _monitor,
        _BOTH,
    ),
    Check(
        "cluster-duration-invalid",
        "times are times",
        """Pacemaker ignores a time that it cannot read. Before 2.1.8 the pcmk_ timeouts took seconds only.""",
        _invalid,
        _BOTH,
    ),
    Check(
        "cluster-delay-limited",
        "fixed delays are not cut short",
        """pcmk_delay_max limits the whole delay, the fixed part included.""",
        _limited,
        _BOTH,
    ),
    Check(
        "cluster-delay-prefix",
        "delays reach the nodes that they were meant for",
        """From Pacemaker 2.1.2 to 3.0.1 the names in a delay by node are compared as beginnings: node1 also means
        node10. Put longer names first.""",
        _prefix,
        _BOTH,
    ),
    Check(
        "cluster-two-node-delay",
        "two nodes do not fence each other at once",
        """Of two nodes that lose each other, each has quorum and fences the other. A delay on the fencing of one of
        them lets that one survive. pcmk_delay_base on the device, or by node in its map form, does that; so do
        priority-fencing-delay, pcmk_delay_max (at random), or a quorum device. With fencing levels the
        delays of the first level count.""",
        _two_nodes,
        _BOTH,
    ),
    Check(
        "cluster-two-node-quorum",
        "Corosync's two_node fits the number of nodes",
        """With two nodes and without two_node the one that is left has one vote of two, which is no quorum: it may not
        even fence. With more nodes two_node is wrong.""",
        _two_node_quorum,
        ("cib", "corosync"),
    ),
    Check(
        "cluster-wait-for-all",
        "a node that starts alone waits for the other",
        """wait_for_all keeps a node without quorum until it has seen the other one once. Without it, two nodes behind a
        broken network fence each other each time they start.""",
        _wait_for_all,
        ("cib", "corosync"),
    ),
)
