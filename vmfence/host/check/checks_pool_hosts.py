"""Checks of the other hosts of a pool, of who tells that one was fenced, and of the guests of all.  Pure."""

from __future__ import annotations

import time
from collections.abc import Iterator

from vmfence.errors import VmfenceError
from vmfence.findings import ERROR, NOTE, WARNING, Check, Fault, NotAsked, NotReached
from vmfence.host import network, unit
from vmfence.host.check.checks_pool import CONFIG_FILE, RESTART, numbers
from vmfence.host.check.facts import Facts
from vmfence.host.pool_report import PoolHost, PoolReport


def _names(facts: Facts) -> Iterator[Fault]:
    nameless = [node for node, name in sorted((facts.corosync.nodes or {}).items()) if not name]
    if nameless:
        command = facts.settings.backend.fenced_command
        message = f"hosts have no name, by which {'Pacemaker' if command is None else 'fenced_command'} is asked"
        message += " whether one was fenced: that counts as no"
        remedy = f"add name: to each node in {CONFIG_FILE}, as Pacemaker calls it; then: corosync-cfgtool -R"
        yield Fault(WARNING, f"node {numbers(nameless)}", message, "no name", remedy)


def _listed(facts: Facts) -> VmfenceError | None:
    """There is a list of nodes."""
    return None if facts.corosync.nodes else NotReached("Corosync does not tell which hosts there are")


def _away(facts: Facts) -> Iterator[Fault]:
    for host in facts.pool.away:
        if host.left_at is None:
            message = "was never here, and nobody knows what guests it has, so none out of sight is called off"
            yield Fault(WARNING, str(host), message, "in Corosync's list, never in the group", _bring_back(host))
            continue
        fencing = facts.fencing
        answer = fencing if isinstance(fencing, VmfenceError) else fencing.fenced.get(host.node)
        left = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(host.left_at))
        guests = "guests not known" if host.guests is None else f"guests it had: {host.guests}"
        seen = f"not in the group since {left}; {guests}; {_answer(answer)}"
        if answer is True:
            message = "is away, and was fenced since it left: its guests count as off"
            yield Fault(NOTE, str(host), message, seen, _bring_back(host))
        else:
            message = "is away and not known to have been fenced: guests that it had may run on, and are not called off"
            yield Fault(WARNING, str(host), message, seen, f"{_bring_back(host)}; or fence it")


def _answer(answer: bool | VmfenceError | None) -> str:
    if isinstance(answer, VmfenceError):
        return f"whether it was fenced is not known: {answer.what}"
    return {True: "fenced since", False: "not fenced since", None: "nobody tells whether it was fenced"}[answer]


def _bring_back(host: PoolHost) -> str:
    return f"on {host}: systemctl start corosync {unit.NAME}, and vmfence host check"


def _fence_virtd(facts: Facts) -> Iterator[Fault]:
    found = [host for host in facts.pool.hosts if host.program == "fence_virtd"]
    if found:
        message = (
            "run fence_virtd: asked there, a guest that they do not see is called off, whoever runs it; "
            "here what they cannot tell is failure"
        )
        names = network.some([str(host) for host in found])
        yield Fault(NOTE, names, message, f"{len(found)} of {len(facts.pool.hosts)} hosts", "move them to vmfence")


# Fenced hosts


def _fenced_command(facts: Facts) -> Iterator[Fault]:
    program = facts.fencing.program
    if program is None:
        return
    if program.fault:
        message = "fenced_command cannot be run, so a host that dies is never known to be fenced"
        yield Fault(ERROR, program.path, message, program.fault, f"mend it, or {_change('fenced_command')}")
    if program.open_to:
        message = "others than root can change fenced_command, which the daemon runs as root and believes"
        yield Fault(
            ERROR, program.path, message, program.open_to, f"chown root {program.path}; chmod go-w {program.path}"
        )
    if isinstance(facts.pool, PoolReport) and facts.pool.fenced_command != program.path:
        message = "the daemon runs with another fenced_command, which no reload takes over"
        yield Fault(WARNING, program.path, message, f"it has {facts.pool.fenced_command or 'none'}", RESTART)


def _change(key: str) -> str:
    return f"give another with: vmfence host configure --{key.replace('_', '-')}"


def _has_command(facts: Facts) -> VmfenceError | None:
    """There is a fenced_command."""
    return None if facts.fencing.program is not None else NotAsked("there is no fenced_command: Pacemaker is asked")


def _unvouched(facts: Facts) -> Iterator[Fault]:
    found = facts.fencing
    if found.program is None and found.pacemaker:
        message = "nobody tells whether a host was fenced, so when one dies its guests are never called off"
        remedy = f"run Pacemaker with fencing on the hosts, or {_change('fenced_command')}"
        yield Fault(WARNING, "fencing of hosts", message, f"no fenced_command; {found.pacemaker}", remedy)


# The guests of all hosts


def _guest_twice(facts: Facts) -> Iterator[Fault]:
    for uuid, sightings in facts.pool.guests().items():
        running = [one for one in sightings if one.host.is_here and one.entry.is_executing]
        if len(running) > 1:
            message = "runs on two hosts at once: both may write to its disks"
            seen = f"{uuid} at {', '.join(str(one.host) for one in running)}"
            remedy = "shut it off on the host where it does not belong: virsh destroy"
            yield Fault(ERROR, f"guest {running[0].entry.name}", message, seen, remedy)


def _name_twice(facts: Facts) -> Iterator[Fault]:
    places: dict[str, dict[str, str]] = {}
    for one in facts.pool.sightings:
        places.setdefault(one.entry.name, {}).setdefault(one.entry.uuid, str(one.host))
    for name, uuids in sorted(places.items()):
        if len(uuids) > 1:
            message = "is the name of several guests, so every request by this name fails"
            seen = ", ".join(f"{uuid} at {host}" for uuid, host in sorted(uuids.items()))
            remedy = f"use the UUIDs in pcmk_host_map, or rename one: virsh domrename {name} NEW"
            yield Fault(WARNING, f"guest {name}", message, seen, remedy)


CHECKS = (
    Check(
        "host-pool-guest-twice",
        "no guest runs on two hosts",
        """The same UUID, running on two hosts of the pool, as their libvirts tell: two systems on one disk. An off by
        the pool ends both. A guest that is on its way from one to the other is paused on one of them.""",
        _guest_twice,
        ("joined",),
    ),
    Check(
        "host-pool-away",
        "all hosts of the pool are in its group",
        """Nodes of Corosync's list whose daemon is not in the group. What such a host had may run on: it is called off
        only when the host was fenced since it left, or is back. Pacemaker's history is asked for that, or
        fenced_command.""",
        _away,
        ("joined",),
    ),
    Check(
        "host-pool-names",
        "the hosts of the pool have names",
        """Pacemaker knows hosts by name, Corosync by number; the names of corosync.conf lead from one to the other.""",
        _names,
        ("settings", "corosync"),
        doubt=_listed,
    ),
    Check(
        "host-pool-fenced-command",
        "fenced_command can be run, and root alone can change it",
        """It says whether a host was fenced, and is believed: it decides whether a guest counts as off, and so may be
        started elsewhere. It runs as root, so nobody else may write to it, or to a folder above it.""",
        _fenced_command,
        ("fencing",),
        doubt=_has_command,
    ),
    Check(
        "host-pool-fencing",
        "somebody tells whether a host was fenced",
        """When a host dies, its guests are known to be off only if it was fenced. Pacemaker on the hosts tells that by
        its history; where something else fences them, fenced_command asks it. Without either, a cluster whose node was
        on the dead host waits until that host is back.""",
        _unvouched,
        ("fencing",),
    ),
    Check(
        "host-pool-name-twice",
        "a name means one guest in the whole pool",
        """Two guests of one name on different hosts: which is meant cannot be told, so requests by name fail. Those by
        UUID work.""",
        _name_twice,
        ("joined",),
    ),
    Check(
        "host-pool-fence-virtd",
        "all hosts of the pool run vmfence",
        """fence_virtd can be a member, so that a pool is moved host by host. It never tells which of its guests have
        left, and says off of any guest that it does not know: who asks it, and not vmfence, can be told that a running
        guest is off.""",
        _fence_virtd,
        ("joined",),
    ),
)
