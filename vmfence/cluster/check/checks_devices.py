"""Checks of the devices as such: that there are some, their agents and operations, and whether they run.  Pure.

Source: Pacemaker's fencer (st_rhcs.c, fenced_commands.c of 1.1 to 3.0.2), Pacemaker Explained, "Fencing".
"""

from __future__ import annotations

from collections.abc import Iterator

from vmfence.cluster import properties
from vmfence.cluster.check.checks_properties import CLUSTER
from vmfence.cluster.check.facts import AGENT_FOLDER, Facts
from vmfence.cluster.rivals import WATCHDOG
from vmfence.errors import VmfenceError
from vmfence.findings import ERROR, WARNING, Check, Fault, command_line

OURS = "fence_vmfence"
_UNFENCING = ("fence_scsi", "fence_mpath")


def _none(facts: Facts) -> Iterator[Fault]:
    cib, version = facts.cib, facts.version
    if any(not device.is_disabled for device in cib.devices) or not properties.is_true(cib, version, "stonith-enabled"):
        return
    has_watchdog = cib.properties.get("have-watchdog", "false").lower() == "true"
    if has_watchdog and properties.seconds(cib, version, "stonith-watchdog-timeout"):
        return
    ids = ", ".join(device.id for device in cib.devices)
    yield Fault(
        ERROR,
        CLUSTER,
        "there is no enabled device: no node can be fenced, and no resource starts",
        f"devices configured: {len(cib.devices)}{f', all disabled: {ids}' if ids else ''}",
        command_line(["pcs", "stonith", "enable", cib.devices[0].id]) if ids else "vmfence cluster add-device",
    )


def _stray(facts: Facts) -> Iterator[Fault]:
    nodes: dict[str, list[str]] = {}
    for node, ids in facts.fencer.items():
        for device_id in ids:
            if facts.cib.device(device_id) is None and device_id != WATCHDOG:
                nodes.setdefault(device_id, []).append(node)
    for device_id, names in nodes.items():
        message = "the fencer of this node has a device that the configuration does not have, and may use it"
        seen = f"stonith_admin --list names it for {', '.join(names)}"
        yield Fault(WARNING, device_id, message, seen, command_line(["stonith_admin", f"--deregister={device_id}"]))


def _disabled(facts: Facts) -> Iterator[Fault]:
    if all(device.is_disabled for device in facts.cib.devices):
        return  # told as no device at all
    for device in facts.cib.devices:
        if device.is_disabled:
            message = "the device is disabled: no node may use it"
            yield Fault(
                WARNING,
                device.id,
                message,
                "target-role=Stopped",
                command_line(["pcs", "stonith", "enable", device.id]),
            )


def _banned(facts: Facts) -> Iterator[Fault]:
    for device in facts.cib.devices:
        if not facts.coverage.places(device):
            nodes = ", ".join(sorted(facts.cib.bans.get(device.id, ())))
            message = "location constraints forbid the device on every node, so nobody may use it"
            remedy = "remove them, see: pcs constraint location"
            yield Fault(ERROR, device.id, message, f"forbidden on: {nodes}", remedy)


def _agent_missing(facts: Facts) -> Iterator[Fault]:
    for device in facts.cib.devices:
        agent = facts.agents.get(device.agent)
        if agent is not None and not agent.is_installed:
            name = device.agent
            link = (
                f'ln -s "$(command -v {name})" {AGENT_FOLDER}/' if name == OURS else f"install the package with {name}"
            )
            message = f"its agent {name} is not installed where Pacemaker looks, so this node cannot fence with it"
            seen = f"not listed by stonith_admin --list-installed; Pacemaker looks in {AGENT_FOLDER} alone"
            yield Fault(ERROR, device.id, message, seen, link)


def _agent_broken(facts: Facts) -> Iterator[Fault]:
    for agent in facts.agents.values():
        path = f"{AGENT_FOLDER}/{agent.name}"
        if not agent.is_installed:
            continue
        if agent.mode is not None and not agent.mode & 0o111:
            message = "the agent cannot be started: its file is not executable"
            remedy = command_line(["chmod", "0755", path])
            yield Fault(ERROR, agent.name, message, f"mode {agent.mode:04o}", remedy, ("chmod", "0755", path))
        elif isinstance(agent.metadata, VmfenceError):
            message = "the agent gives no valid metadata, so Pacemaker does not know what it can do"
            yield Fault(
                ERROR,
                agent.name,
                message,
                str(agent.metadata),
                f"see what it says: {command_line([path, '-o', 'metadata'])}",
            )
        elif "reboot" not in agent.metadata.actions:
            message = "its metadata has no reboot: Pacemaker sends off instead, and the guest stays off"
            yield Fault(WARNING, agent.name, message, f"actions: {', '.join(agent.metadata.actions)}")


def _monitor(facts: Facts) -> Iterator[Fault]:
    for device in facts.cib.devices:
        if device.operation("monitor") is None:
            message = "it has no monitor operation: that it does not work is only found when it is needed"
            remedy = command_line(["pcs", "stonith", "update", device.id, "op", "monitor", "interval=60s"])
            yield Fault(WARNING, device.id, message, "operations: none named monitor", remedy)


def _unfencing(facts: Facts) -> Iterator[Fault]:
    for device in facts.cib.devices:
        if device.agent in _UNFENCING and device.meta.get("provides") != "unfencing":
            message = "a node that it fenced never gets its keys back"
            remedy = command_line(["pcs", "stonith", "update", device.id, "meta", "provides=unfencing"])
            yield Fault(WARNING, device.id, message, "no meta attribute provides=unfencing", remedy)


def _callback_port(facts: Facts) -> Iterator[Fault]:
    xvm = [device for device in facts.coverage.usable if device.agent == "fence_xvm"]
    if len(xvm) > 1:
        ids = ", ".join(device.id for device in xvm)
        message = "fence_xvm waits for the host at one TCP port, so two of them cannot work on a node at the same time"
        remedy = "make one device with a host map of all nodes, or use the agent fence_vmfence"
        yield Fault(WARNING, ids, message, f"devices with fence_xvm: {len(xvm)}", remedy)


def _failed(facts: Facts) -> Iterator[Fault]:
    for device in facts.status.devices:
        if device.is_failed:
            message = (
                "its last start or monitor failed: Pacemaker may still try to fence with it, and that may fail too"
            )
            seen = f"failed in crm_mon, role {device.role}"
            yield Fault(
                ERROR,
                device.id,
                message,
                seen,
                f"mend the cause, then: {command_line(['pcs', 'stonith', 'cleanup', device.id])}",
            )


def _stopped(facts: Facts) -> Iterator[Fault]:
    for device in facts.cib.devices:
        shown = [one for one in facts.status.devices if one.id == device.id]
        if device.is_disabled or any(one.is_started or one.is_failed for one in shown):
            continue
        roles = ", ".join(one.role for one in shown) or "not shown by crm_mon"
        if any(one.role.lower() == "starting" for one in shown):
            remedy = "crm_resource --wait, then check again"
            yield Fault(
                WARNING, device.id, "it is being started: whether that works is not known yet", f"role: {roles}", remedy
            )
            continue
        message = "it is not started on any node: it failed everywhere, or the cluster starts nothing now"
        yield Fault(ERROR, device.id, message, f"role: {roles}", command_line(["pcs", "stonith", "cleanup", device.id]))


_CIB, _BOTH = ("cib",), ("cib", "version")
CHECKS = (
    Check(
        "cluster-no-device",
        "there is an enabled device",
        """Fencing is enabled, so Pacemaker starts no resource until there is a stonith device, or a watchdog that
        really fences. A device with target-role=Stopped does not count.""",
        _none,
        _BOTH,
    ),
    Check(
        "cluster-device-disabled",
        "no device is disabled",
        """A disabled device (target-role=Stopped) is used by no node. One that is merely shown as stopped after
        failures is different: Pacemaker still fences with it.""",
        _disabled,
        _CIB,
    ),
    Check(
        "cluster-device-stray",
        "the fencer of this node has only devices of the configuration",
        """A device that was deleted while another node was joining stays in the fencers of the others, which still use
        it, with the options that it had then (seen with Pacemaker 2.1.5). Who registers one with stonith_admin makes
        one, too. It goes when it is taken away, or with a restart of the cluster on that node. Run this check on every
        node.""",
        _stray,
        ("cib", "fencer"),
    ),
    Check(
        "cluster-device-banned",
        "every device may be used somewhere",
        """A device needs no constraints: every node may use it. Location constraints with -INFINITY take nodes away;
        when none is left the device is useless.""",
        _banned,
        _CIB,
    ),
    Check(
        "cluster-agent-missing",
        "the agents of all devices are installed on this node",
        """Pacemaker looks for agents in /usr/sbin, not in /usr/local/sbin and not in PATH, and only for names that
        begin with fence_. A device whose agent is missing registers all the same; the failure shows when it must fence.
        Run this check on every node.""",
        _agent_missing,
        ("cib", "agents"),
    ),
    Check(
        "cluster-agent-broken",
        "the agents of all devices tell what they can do",
        """Pacemaker asks an agent for metadata. When that fails it does not know of reboot, sends off instead, and
        reports success while the guest stays off.""",
        _agent_broken,
        ("agents",),
    ),
    Check(
        "cluster-no-monitor",
        "every device is monitored",
        """The monitor operation asks the agent now and then whether its host answers. Without it a broken device looks
        healthy until the outage.""",
        _monitor,
        _CIB,
    ),
    Check(
        "cluster-unfencing",
        "nodes get their keys back after storage fencing",
        """fence_scsi and fence_mpath take a node's key away; the meta attribute provides=unfencing gives it back.""",
        _unfencing,
        _CIB,
    ),
    Check(
        "cluster-callback-port",
        "agents do not wait at the same port",
        """fence_xvm listens at TCP port 1229 for the host's call, and fails when another one does so at the same time
        on that node: two devices, or two nodes fenced at once. fence_vmfence takes another port then.""",
        _callback_port,
        _CIB,
    ),
)
RUNNING = (
    Check(
        "cluster-device-failed",
        "no device has failed",
        """The start and monitor of a device are its agent's monitor: a host that does not answer, a wrong key, a
        missing agent. Pacemaker still uses a failed device for fencing, and it fails again unless the cause was
        passing.""",
        _failed,
        ("status",),
    ),
    Check(
        "cluster-device-stopped",
        "every device is started on a node",
        """A device that could be started nowhere has failed on every node. It stays stopped until pcs stonith cleanup,
        also after its cause was mended.""",
        _stopped,
        ("cib", "status"),
    ),
)
