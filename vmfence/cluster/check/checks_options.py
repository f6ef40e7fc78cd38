"""Checks of the options of each device: who is fenced by it, and what its agent is told.  Pure.

Source: Pacemaker's fencer (st_actions.c, fenced_commands.c of 1.1 to 3.0.2), Pacemaker Explained, "Fencing".
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from vmfence.cluster import coverage
from vmfence.cluster.check.facts import VIRT_AGENTS, Facts
from vmfence.cluster.hostmap import parse_host_list, parse_host_map
from vmfence.cluster.remedies import map_to_fill_in, remap, update
from vmfence.errors import VmfenceError
from vmfence.findings import ERROR, WARNING, Check, Fault

NAME_BYTES_MAX = 63
STATIC_NAMES = ("plug", "port", "domain")
_PCMK = re.compile(
    r"pcmk_(?:host_(?:list|map|check|argument)|delay_(?:base|max)|action_limit|arg_map"
    r"|(?:reboot|off|on|list|monitor|status|poweroff|metadata)_(?:action|timeout|retries))"
)
_PCMK_USUAL = [
    "pcmk_host_list",
    "pcmk_host_map",
    "pcmk_host_check",
    "pcmk_host_argument",
    "pcmk_delay_base",
    "pcmk_delay_max",
    "pcmk_action_limit",
    "pcmk_reboot_action",
    "pcmk_reboot_timeout",
    "pcmk_reboot_retries",
    "pcmk_off_action",
    "pcmk_off_timeout",
    "pcmk_off_retries",
    "pcmk_on_timeout",
    "pcmk_list_timeout",
    "pcmk_monitor_timeout",
    "pcmk_status_timeout",
]
_NOT_FOR_AGENT = ("action", "option", "provides", "stonith-timeout", "nodename", "crm_feature_set")


def _host_map(facts: Facts) -> Iterator[Fault]:
    for device in facts.cib.devices:
        text = device.options.get("pcmk_host_map", "")
        faults = parse_host_map(text, facts.version).faults
        remedy = map_to_fill_in(device, facts) if faults else ""
        for fault in faults:
            yield Fault(ERROR, device.id, f"its host map is wrong: {fault}", f"pcmk_host_map={text}", remedy)


def _unknown_node(facts: Facts) -> Iterator[Fault]:
    names = [node.name for node in facts.cib.nodes]
    known = {name.lower() for name in names}
    for device in facts.cib.devices if names else ():
        mapped = parse_host_map(device.options.get("pcmk_host_map", ""), facts.version).pairs
        listed = parse_host_list(device.options.get("pcmk_host_list", ""))
        strangers = [
            name for name in dict.fromkeys([*(node for node, _ in mapped), *listed]) if name.lower() not in known
        ]
        seen, remedy = f"nodes: {', '.join(names)}", map_to_fill_in(device, facts) if strangers else ""
        for name in strangers:
            # Comparing each with each would take minutes where there are thousands.
            nearest = difflib.get_close_matches(name, names, 1, 0.5) if len(strangers) * len(names) < 10_000 else []
            meant = f"; meant {nearest[0]!r}?" if nearest else ""
            message = f"it names {name!r}, which is no node of this cluster{meant}"
            yield Fault(WARNING, device.id, message, seen, remedy)


def _host_check(facts: Facts) -> Iterator[Fault]:
    for device in facts.cib.devices:
        kind = coverage.host_check(device)
        seen = f"pcmk_host_check={device.options.get('pcmk_host_check', '')}"
        has_names = "pcmk_host_map" in device.options or "pcmk_host_list" in device.options
        if kind not in coverage.CHECKS_BY:
            message = (
                f"pcmk_host_check knows {', '.join(coverage.CHECKS_BY)}; with another word the device fences nobody"
            )
            yield Fault(ERROR, device.id, message, seen, update(device.id, pcmk_host_check=""))
        elif kind == "static-list" and not has_names:
            message = "it is to believe its list of nodes, and has none: it fences nobody"
            yield Fault(
                ERROR, device.id, message, f"{seen}, no pcmk_host_map, no pcmk_host_list", map_to_fill_in(device, facts)
            )
        elif kind == "none" and len(facts.coverage.members) > 1:
            message = "it claims that it can fence every node, whether it can or not"
            yield Fault(WARNING, device.id, message, seen, map_to_fill_in(device, facts, pcmk_host_check=""))


def _static_port(facts: Facts) -> Iterator[Fault]:
    for device in facts.cib.devices:
        has_map = "pcmk_host_map" in device.options
        for name in STATIC_NAMES:
            value = device.options.get(name)
            if value is None or device.options.get("pcmk_host_argument") == name:
                continue
            yield Fault(
                ERROR,
                device.id,
                f"{name} is set on the device: Pacemaker adds the node's own, and the agent may act on the wrong guest",
                f"{name}={value}",
                update(device.id, **{name: ""}, **({} if has_map else {"pcmk_host_map": f"NODE:{value}"})),
            )


def _action_set(facts: Facts) -> Iterator[Fault]:
    for device in facts.cib.devices:
        for name in ("action", "option"):
            if name in device.options:
                value = device.options[name]
                message = (
                    f"{name} is set on the device: Pacemaker decides that, and reads this as an order to do always"
                )
                instead = {name: "", "pcmk_reboot_action": value} if value in ("off", "reboot") else {name: ""}
                yield Fault(WARNING, device.id, message, f"{name}={value}", update(device.id, **instead))


def _method_cycle(facts: Facts) -> Iterator[Fault]:
    for device in facts.cib.devices:
        if device.options.get("method", "").lower() == "cycle":
            message = "it resets the machine in one step, so nobody sees it off: a failed reset can look like success"
            yield Fault(WARNING, device.id, message, "method=cycle", update(device.id, method="onoff"))


def _misspelt(facts: Facts) -> Iterator[Fault]:
    for device in facts.cib.devices:
        for name, value in device.options.items():
            if name.startswith("pcmk") and not _PCMK.fullmatch(name):
                nearest = difflib.get_close_matches(name, _PCMK_USUAL, 1)
                message = f"Pacemaker does not know {name}: it has no effect, and is passed to the agent"
                remedy = update(device.id, **{name: "", **({nearest[0]: value} if nearest else {})})
                yield Fault(ERROR, device.id, message, f"{name}={value}", remedy)


def _agent_option(facts: Facts) -> Iterator[Fault]:
    for device in facts.cib.devices:
        agent = facts.agents.get(device.agent)
        if agent is None or isinstance(agent.metadata, VmfenceError):
            continue
        names = [parameter.name for parameter in agent.metadata.parameters]
        for name, value in device.options.items():
            if name in names or name in _NOT_FOR_AGENT or name.startswith(("pcmk", "CRM_meta_")):
                continue
            nearest = difflib.get_close_matches(name, names, 1)
            message = f"{device.agent} has no parameter {name!r}{f'; meant {nearest[0]!r}?' if nearest else ''}"
            remedy = update(device.id, **{name: "", **({nearest[0]: value} if nearest else {})})
            yield Fault(WARNING, device.id, message, f"{name}={value}", remedy)


def _long_names(facts: Facts) -> Iterator[Fault]:
    for claim in facts.claims:
        device, node, port = claim.device, claim.node.name, claim.port
        size = len(port.encode("utf-8", "surrogateescape"))
        if device.agent in VIRT_AGENTS and size > NAME_BYTES_MAX:
            message = f"the guest's name for node {node} is too long for the wire, so it cannot be fenced by it"
            seen = f"{size} bytes, at most {NAME_BYTES_MAX}: {port}"
            yield Fault(ERROR, device.id, message, seen, remap(device, facts, node, "UUID"))


def _unauthenticated(facts: Facts) -> Iterator[Fault]:
    for device in facts.cib.devices:
        words = {device.options.get(name, "sha256").lower() for name in ("hash", "auth")}
        if device.agent in VIRT_AGENTS and words == {"none"}:
            message = "it works without the key: whoever reaches the host can fence, and anybody can pose as the host"
            yield Fault(WARNING, device.id, message, "hash=none, auth=none", update(device.id, hash="", auth=""))


_CIB, _BOTH = ("cib",), ("cib", "version")
CHECKS = (
    Check(
        "cluster-host-map",
        "host maps are read as they were meant",
        """pcmk_host_map is pairs of node:guest parted by semicolons. Pacemaker ignores in silence what it cannot read:
        a comma between pairs makes one broken pair, a blank after the colon an empty guest, and before 3.0.2 a colon in
        a guest's name breaks its pair.""",
        _host_map,
        _BOTH,
    ),
    Check(
        "cluster-unknown-node",
        "devices name nodes of this cluster only",
        """A name in pcmk_host_map or pcmk_host_list that is no node is a typing error, or a full name where the cluster
        uses the short one: the node that was meant is not fenced by it.""",
        _unknown_node,
        _BOTH,
    ),
    Check(
        "cluster-host-check",
        "pcmk_host_check has a meaning that works",
        """static-list believes the list or map, dynamic-list and status ask the agent, none claims every node. Left
        out, Pacemaker chooses well: static-list with a map or list, else dynamic-list.""",
        _host_check,
        _CIB,
    ),
    Check(
        "cluster-static-port",
        "no device has a fixed guest",
        """Pacemaker sends the guest with each action, as port or plug, whichever that version prefers. With the other
        one set on the device the agent gets two guests, in an order that nobody knows, and may stop the wrong one. Use
        pcmk_host_map, also for a device with one node.""",
        _static_port,
        _CIB,
    ),
    Check(
        "cluster-action-set",
        "no device has a fixed action",
        """action on a device is an old habit of guides. Pacemaker does not pass it on; some versions do that action
        instead of the one that is needed. To switch off instead of rebooting, use pcmk_reboot_action=off.""",
        _action_set,
        _CIB,
    ),
    Check(
        "cluster-method-cycle",
        "machines are switched off and on again, not reset",
        """With method=cycle the device resets the machine in one command and its agent cannot see it off. pcs warns of
        it too.""",
        _method_cycle,
        _CIB,
    ),
    Check(
        "cluster-option-unknown",
        "every pcmk_ option is one that Pacemaker knows",
        """A misspelt pcmk_ option has no effect and is handed to the agent like one of its own.""",
        _misspelt,
        _CIB,
    ),
    Check(
        "cluster-agent-option",
        "every option is one that the agent knows",
        """Options that the agent does not list in its metadata are ignored by it, or make it fail.""",
        _agent_option,
        ("cib", "agents"),
    ),
    Check(
        "cluster-name-too-long",
        "names of guests fit the wire",
        """The protocol has room for 63 bytes of name. A longer one is refused; use the guest's UUID in the host
        map.""",
        _long_names,
        _BOTH,
    ),
    Check(
        "cluster-unauthenticated",
        "devices use the key",
        """With hash=none and auth=none neither side proves that it knows the key.""",
        _unauthenticated,
        _CIB,
    ),
)
