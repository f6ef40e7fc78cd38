"""Checks of libvirt and its guests: does it answer, and can its guests be fenced, and ask for it?  Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator

from vmfence.config.settings import MulticastSettings, TcpSettings
from vmfence.errors import VmfenceError
from vmfence.findings import (
    ERROR,
    NOTE,
    WARNING,
    Check,
    Fault,
    NotAsked,
    NotReached,
    Severity,
    command_line,
    counted,
    explained,
)
from vmfence.host import choice, network
from vmfence.host.backends.inventory import GuestFacts, Hung, Inventory
from vmfence.host.check import hidden, scope
from vmfence.host.check.facts import LIBVIRT_S, Facts, Libvirt
from vmfence.host.check.hidden import Process
from vmfence.host.pool_report import PoolReport
from vmfence.packetfilter import lasting
from vmfence.policy import Group
from vmfence.protocol.request import DOMAIN_BYTES_MAX


def _silent(facts: Facts) -> Iterator[Fault]:
    for uri, error in facts.libvirt.silent:
        message = "libvirt does not answer, so no guest there can be fenced, and its state is unknown"
        seen = f"{': '.join(filter(None, (error.what, error.why)))}; sockets: {_sockets(facts)}"
        is_local = uri.startswith(("qemu:", "qemu+unix:"))
        is_hung = isinstance(error, Hung)  # it runs, so to start it does nothing
        fix = ("systemctl", "start", facts.libvirt.unit.unit)
        may_start = bool(facts.libvirt.unit.unit) and "qemu:///system" in uri and not is_hung
        remedy = _waking(facts.libvirt, is_hung) if is_local else error.remedy
        yield Fault(ERROR, uri, message, seen, remedy, fix if may_start else None)


def _waking(found: Libvirt, is_hung: bool) -> str:
    """Return how the daemon of this host is made to answer."""
    daemon, unit = found.unit.daemon, found.unit.unit
    if not unit:
        return explained("systemctl list-unit-files 'libvirtd*' 'virtqemud*'", "shows which daemon of libvirt there is")
    if is_hung:
        return f"systemctl restart {daemon}.service   # guests run on; before that: systemctl status {daemon}.service"
    return f"systemctl start {unit} && systemctl status {unit}"


def _asked(facts: Facts) -> VmfenceError | None:
    """Some libvirt was asked: without a configuration the daemon may tell which."""
    return None if facts.libvirt.found else NotReached("it is not known which libvirt the daemon asks")


def _sockets(facts: Facts) -> str:
    return ", ".join(facts.libvirt.sockets) or "none in /run/libvirt"


def _unseen(facts: Facts) -> Iterator[Fault]:
    served = {guest.uuid.lower() for guest in facts.libvirt.guests}
    running = hidden.unseen(facts.processes, served)
    known = {guest.uuid.lower() for one in facts.libvirt.elsewhere for guest in one.guests}
    severity = WARNING if facts.libvirt.guests else ERROR
    message = "has guests that the daemon does not see, so it cannot fence them"
    for one in facts.libvirt.elsewhere:
        guests = [guest for guest in one.guests if guest.uuid.lower() not in served]
        if guests:
            remedy = f'add to backends/{facts.settings.backend.name}: {_next_uri(facts)} = "{one.uri}";'
            names = network.some([guest.name for guest in guests])
            yield Fault(_weighed(facts, severity, guests), one.uri, message, names, remedy)
    for process in hidden.unseen(running, known):
        seen = f"process {process.pid} of user {process.user_name or process.user}"
        remedy = explained(f"ls /run/user/{process.user}/libvirt", "finds its libvirt: add its URI")
        message = "runs here, and no libvirt of the configuration knows it, so it cannot be fenced"
        yield Fault(_weighed(facts, severity, [process]), f"guest {process.name}", message, seen, remedy)


def _weighed(facts: Facts, severity: Severity, guests: Iterable[GuestFacts | Process]) -> Severity:
    """Return *severity* for what concerns *guests*; of those that the rules let nobody fence it is a note."""
    return severity if any(_is_listed(facts, guest.name, guest.uuid) for guest in guests) else NOTE


def _next_uri(facts: Facts) -> str:
    return f"uri{len(facts.settings.backend.uris)}"


def _none(facts: Facts) -> Iterator[Fault]:
    has_others = facts.processes or facts.veiled
    if facts.libvirt.found and not facts.libvirt.guests and not has_others:
        uris = ", ".join(one.uri for one in facts.libvirt.found)
        yield Fault(NOTE, uris, "libvirt answers, and has no guest yet", "0 guests", "virsh list --all")


def _macvtap(facts: Facts) -> Iterator[Fault]:
    if any(not isinstance(one, (MulticastSettings, TcpSettings)) for one in facts.settings.listeners):
        return  # vsock and channels need no network
    guests = facts.libvirt.guests
    cut_off = [guest for guest in guests if guest.direct and not guest.bridges and not guest.unresolved]
    if cut_off:
        is_all = all(guest in cut_off for guest in guests if _is_listed(facts, guest.name, guest.uuid))
        severity = _weighed(facts, ERROR if is_all else WARNING, cut_off)
        links = sorted({link for guest in cut_off for link in guest.direct})
        message = "attached by macvtap alone, by which no guest reaches its own host, so they cannot ask for fencing"
        remedy = "give them a second link to a bridge, or add listener vsock or serial: vmfence host configure"
        names = network.some([guest.name for guest in cut_off])
        yield Fault(severity, names, message, f"macvtap on {', '.join(links)}", remedy)


def _network_down(facts: Facts) -> Iterator[Fault]:
    there = {one.name for one in facts.interfaces}
    listening = {one.interface for one in facts.multicast}
    for one in facts.libvirt.found:
        missing: dict[str, list[GuestFacts]] = {}
        for guest in one.guests:
            for link in (*guest.unresolved, *(each for each in guest.bridges if each not in there)):
                if link not in listening:
                    missing.setdefault(link, []).append(guest)
        for link, guests in missing.items():
            names = network.some([guest.name for guest in guests])
            message = "is not up, and guests are attached to it"
            yield Fault(_weighed(facts, WARNING, guests), link, message, names, _raising(one, link))


def _raising(one: Inventory, link: str) -> str:
    """Return how *link* comes up: a bridge of one of libvirt's networks, another bridge, or a network not known."""
    virsh = ["virsh", "-c", one.uri]
    owner = next((name for name, bridge in one.networks if bridge == link), None)
    if owner is not None:
        commands = [[*virsh, verb, "--network", owner] for verb in ("net-start", "net-autostart")]
        return " && ".join(map(command_line, commands))
    if any(link in guest.unresolved for guest in one.guests):
        return explained(command_line([*virsh, "net-list", "--all"]), "libvirt has no such network: define it")
    commands = [["ip", "link", "add", "name", link, "type", "bridge"], ["ip", "link", "set", "dev", link, "up"]]
    return lasting.link(" && ".join(map(command_line, commands)))


def _long(facts: Facts) -> Iterator[Fault]:
    for guest in facts.libvirt.guests:
        size = len(guest.name.encode("utf-8", "surrogateescape"))
        if size > DOMAIN_BYTES_MAX:
            message = "the name is too long for the protocol, so no agent can ask for this guest by it"
            seen = f"{size} bytes, {DOMAIN_BYTES_MAX} fit"
            remedy = f"use the UUID in pcmk_host_map: {guest.uuid}"
            severity = _weighed(facts, WARNING, [guest])
            yield Fault(severity, f"guest {network.some([guest.name])}", message, seen, remedy)


def _targets(facts: Facts) -> Iterator[Fault]:
    elsewhere = facts.pool.facts() if isinstance(facts.pool, PoolReport) else ()
    for doubt in choice.unknown_targets(facts.settings, facts.libvirt.found, elsewhere):
        message = "access rules name a guest that this host does not have, so the rule is for nobody"
        severity = ERROR if _may_fence_nobody(facts) else WARNING
        yield Fault(severity, facts.path, message, doubt, explained("virsh list --all", "then mend the rule"))


def _denied(facts: Facts) -> Iterator[Fault]:
    alone = _alone(facts)
    if alone:
        severity = ERROR if _may_fence_nobody(facts) else NOTE
        message = "no group of the access rules lists them, so nobody may fence them"
        rules = counted(len(facts.settings.groups or ()), "group")
        yield Fault(severity, network.some(alone), message, rules, explained("vmfence host list", "shows who may"))


def _alone(facts: Facts) -> list[str]:
    """Return the guests of this host that no group lists; none without access rules."""
    return [guest.name for guest in facts.libvirt.guests if not _is_listed(facts, guest.name, guest.uuid)]


def _is_listed(facts: Facts, name: str, uuid: str) -> bool:
    groups = facts.settings.groups
    return groups is None or any(Group(one.label, (), one.targets).lists(name, uuid) for one in groups)


def _may_fence_nobody(facts: Facts) -> bool:
    """Whether there are guests, and the access rules list none of them, nor any of other hosts of a pool."""
    guests = facts.libvirt.guests
    elsewhere = facts.pool.sightings if isinstance(facts.pool, PoolReport) else ()
    is_any_listed = any(_is_listed(facts, one.entry.name, one.entry.uuid) for one in elsewhere)
    return bool(guests) and len(_alone(facts)) == len(guests) and not is_any_listed


def _moved(facts: Facts) -> Iterator[Fault]:
    if in_pool(facts):
        return
    guests = facts.libvirt.guests
    for guest in guests:
        if guest.moved and not any(other.uuid == guest.uuid and not other.moved for other in guests):
            message = "was migrated away: this host refuses to fence it, and who asks here first is told that it failed"
            remedy = (
                f"fence it by the host where it runs now; if it stays there: virsh undefine {shlex.quote(guest.name)}; "
                "for guests that come and go: a pool of hosts, backend cpg in vmfence.conf(5)"
            )
            yield Fault(WARNING, f"guest {guest.name}", message, "shut off here, by migration", remedy)


def in_pool(facts: Facts) -> VmfenceError | None:
    """Return that hosts of a pool know where guests went, None where this one is on its own."""
    is_pool = facts.settings.backend.name == "cpg"
    return NotAsked("hosts of a pool tell each other where guests run") if is_pool else None


LIBVIRT = (
    Check(
        "host-libvirt",
        f"libvirt answers within {LIBVIRT_S:g} seconds",
        """Every URI of the configuration is asked for its guests. There are two flavours of libvirt: one daemon,
        libvirtd, or one for each hypervisor, virtqemud; their sockets in /run/libvirt tell which this host has. A
        libvirt that hangs makes every fence fail.""",
        _silent,
        ("libvirt",),
        doubt=_asked,
    ),
)
CHECKS = (
    Check(
        "host-guests-unseen",
        "the daemon sees all guests that run here",
        """A user's guests live in a libvirt of his own (qemu:///session), which the daemon asks only where the
        configuration says so. QEMU processes and the sockets of other libvirt daemons are compared with what the
        configured ones show. Root sees all of them, others only their own.""",
        _unseen,
        ("settings", "complete", "processes", "veiled"),
        doubt=scope.processes,
    ),
    Check(
        "host-guests-none",
        "there are guests",
        """A host without guests is nothing wrong, unless they are where nobody looks.""",
        _none,
        ("settings", "complete", "processes", "veiled"),
        doubt=scope.guests_or_processes,
    ),
    Check(
        "host-guest-moved",
        "no guest of this host was migrated to another",
        """A guest that was migrated and left its definition behind is shut off here and runs elsewhere. A host on its
        own does not know where, so it calls it neither off nor on, and refuses to start it: it would run twice.""",
        _moved,
        ("settings", "answering"),
        doubt=in_pool,
    ),
    Check(
        "host-macvtap",
        "guests can reach this host",
        """A guest that is attached by macvtap (interface type direct) reaches everybody except its own host. vsock and
        channels work without any network.""",
        _macvtap,
        ("settings", "answering"),
        doubt=scope.network_guests,
    ),
    Check(
        "host-network-down",
        "the networks of all guests are up",
        """A libvirt network that is not started has no bridge, so its guests cannot be started, or ask.""",
        _network_down,
        ("settings", "answering", "interfaces"),
        doubt=scope.guests,
    ),
    Check(
        "host-name-long",
        "names of guests fit the protocol",
        """A request has room for 63 bytes of a guest's name. Longer ones are refused or cut; the UUID always fits.""",
        _long,
        ("settings", "answering"),
        doubt=scope.guests,
    ),
    Check(
        "host-target-unknown",
        "all guests that access rules name exist",
        """A slip in the name or UUID of a group makes the rule void: its guest cannot be fenced when it matters.""",
        _targets,
        ("settings", "complete", "everywhere"),
        doubt=scope.access_rules,
    ),
    Check(
        "host-guest-denied",
        "every guest may be fenced by somebody",
        """With access rules everything is denied that no group allows. Guests that are no cluster nodes need no group,
        and the host cannot tell which guests are nodes: so it is a note, and a warning once nobody may be fenced at
        all. The cluster can tell: there a node whose guest the rules forget is an error, cluster-guest-missing.""",
        _denied,
        ("settings", "answering"),
        doubt=scope.listed_guests,
    ),
)
