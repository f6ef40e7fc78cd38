"""Checks of what may stop packets between guests and daemon: firewall, reverse path filter, routes.  Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vmfence.config.settings import TcpSettings
from vmfence.errors import VmfenceError
from vmfence.findings import ERROR, NOTE, WARNING, Check, Fault, NotReached, Severity, command_line, counted
from vmfence.host import kernel, network
from vmfence.host.check import checks_rejected, scope
from vmfence.host.check.facts import WHO_HANGS, Facts
from vmfence.packetfilter import lasting
from vmfence.packetfilter.firewalld import opened
from vmfence.packetfilter.rules import Opening
from vmfence.packetfilter.rulesets import Obstacle

_READ_IT = "nft list ruleset; iptables-save"
_INSTALL_IT = "install nftables, whose program nft shows them: apt install nftables, or dnf install nftables"
_READ_FIREWALLD = "look at firewall-cmd --list-all-zones and firewall-cmd --query-panic"
_RULES_SHOWN_MAX = 4
_STRICT = 1
_GUARDED = "# then mend the rule itself: one that accepts, before it, would let in frames with forged addresses"


def _firewall(facts: Facts) -> Iterator[Fault]:
    found, through = facts.firewall, facts.got_through()
    now = [argv for argv in found.commands if "--permanent" not in argv]
    later = [argv for argv in found.commands if "--permanent" in argv]
    zones = " and ".join(dict.fromkeys(found.zones))
    wanted = _wanted(facts)
    if now or later:
        remedy = " && ".join(map(command_line, found.commands))
        fix = (*facts.program, "host", "setup", "--config", facts.path, "--no-service", "--no-check")
        if now and not through:
            severity, message = ERROR, f"zone {zones} does not let in what the guests send"
        elif now:
            severity, message = NOTE, f"zone {zones} does not name what the guests send, and lets it in all the same"
        else:
            severity, message = WARNING, f"zone {zones} will not let in what the guests send after its next reload"
        is_ready = facts.accepted is True and severity is not NOTE
        opens = opened(found.commands)
        yield Fault(severity, "firewalld", message, f"needed: {wanted}", remedy, fix if is_ready else None, opens)
    for one in found.later:
        message = "will, or may, stop what the guests send after its next reload: it keeps what it does not do yet"
        yield Fault(WARNING, "firewalld", message, one.what, one.command)
    of_firewalld = [each for each in found.obstacles if each.is_of_firewalld]
    others = [each for each in found.obstacles if each not in of_firewalld]
    for subject, obstacles in (("firewalld", of_firewalld), ("packet filter", others)):
        if obstacles:
            severity = max(_severity(through, each) for each in obstacles)
            message = f"rules {_stop(severity)} what the guests send"
            yield Fault(severity, subject, message, _obstructed(wanted, through, obstacles), _remedy(obstacles))


def _severity(through: bool | None, one: Obstacle) -> Severity:
    """Return how bad it is; *through*: what became of a request of this host, which is of another origin than guests'.

    An error is what certainly stops a guest: all of them, or one that is known.
    """
    is_proof = through is not None and not one.stoppage.is_of_origin
    if through is False or (one.stops and not is_proof):
        return ERROR
    return NOTE if is_proof else WARNING


def _stop(severity: Severity) -> str:
    return "stop" if severity is ERROR else "stop, or may stop,"


def _obstructed(wanted: str, through: bool | None, obstacles: Sequence[Obstacle]) -> str:
    """Return what is needed, the rules that stop it, and whom."""
    rules = list(dict.fromkeys(rule for each in obstacles for rule in each.stoppage.by))
    guests = list(dict.fromkeys(str(guest) for each in obstacles if each.is_request for guest in each.stoppage.guests))
    seen = [f"needed: {wanted}", *(f"stopped by: {rule}" for rule in rules[:_RULES_SHOWN_MAX])]
    seen += [f"and {len(rules) - _RULES_SHOWN_MAX} more rules"] if len(rules) > _RULES_SHOWN_MAX else []
    seen += [f"guests that are stopped: {network.some(guests)}"] if guests else []
    is_other = any(each.stoppage.is_of_origin for each in obstacles)
    proof = ", which says nothing about rules that tell senders apart" if is_other else ""
    return "; ".join(seen + ([f"a request of this host came through{proof}"] if through else []))


def _remedy(obstacles: Sequence[Obstacle]) -> str:
    """Return the line to paste: it shows the chain where nobody may be led round a rule."""
    commands = list(dict.fromkeys(each.command for each in obstacles if not each.stoppage.is_guarded))
    shown = list(dict.fromkeys(each.command for each in obstacles if each.stoppage.is_guarded))
    if any(each.is_of_firewalld for each in obstacles):
        return " && ".join(commands)
    if not commands:
        return f"{' && '.join(shown)}   {_GUARDED}"
    return " && ".join([*shown, lasting.rules(commands)])


def _wanted(facts: Facts) -> str:
    wanted = [Opening("udp", one.port, one.interface, one.family, one.family == "ipv4") for one in facts.multicast]
    wanted += [Opening("tcp", one.port, None) for one in facts.settings.listeners if isinstance(one, TcpSettings)]
    return ", ".join(map(str, wanted))


def _firewall_unseen(facts: Facts) -> Iterator[Fault]:
    found = facts.firewall
    for doubt in (each for each in found.doubts if each not in found.told):  # those are told by the rules
        is_proven = facts.got_through() and doubt not in found.hung and not found.is_of_origin
        message = "it cannot be said whether it stops requests"
        is_missing, is_hung = doubt.startswith("nft is not installed"), doubt in found.hung
        remedy = _INSTALL_IT if is_missing else WHO_HANGS if is_hung else _READ_IT
        yield Fault(NOTE if is_proven else WARNING, "packet filter", message, doubt, remedy)


def _way_back(facts: Facts) -> Iterator[Fault]:
    obstacles = facts.way_back.obstacles
    if obstacles:
        failed = [] if isinstance(facts.status, VmfenceError) else checks_rejected.uncalled(facts)
        severity = ERROR if failed or any(each.stops for each in obstacles) else WARNING
        message = f"rules {_stop(severity)} the connections back to guests, by which they get their answer"
        ways = ((one.port, one.interface or "any interface") for one in facts.multicast)
        wanted = ", ".join(f"TCP {port} to guests on {name}, and what they answer from there" for port, name in ways)
        seen = _obstructed(wanted, None, obstacles)
        seen += f"; the daemon could not call back {network.some(failed)}" if failed else ""
        yield Fault(severity, "packet filter", message, seen, _remedy(obstacles))


def _unread_back(facts: Facts) -> VmfenceError | None:
    """There is a listener multicast, and all rules were read."""
    doubts = facts.way_back.doubts
    if not doubts:
        return scope.multicast(facts)
    return NotReached(doubts[0], "", _READ_FIREWALLD if doubts[0].startswith("firewalld") else _INSTALL_IT)


def _filtered(facts: Facts) -> Iterator[Fault]:
    for name in ipv4_interfaces(facts):
        link = facts.network.link(name)
        if link is None or link.rp_filter != _STRICT:
            continue
        elsewhere = kernel.astray(name, facts.network)
        if not elsewhere and facts.network.filtered_meanwhile:
            elsewhere = kernel.carved_out(name, facts.network)
        if not elsewhere and kernel.is_routed(name, facts.network):
            continue
        message = "the strict reverse path filter drops what comes from guests whose addresses are routed elsewhere"
        seen = _routes(elsewhere) or f"no address at all is routed to {name}"
        seen += f"; rp_filter 1, {counted(facts.network.filtered, 'packet')} dropped so far, "
        seen += f"{facts.network.filtered_meanwhile} of them during this check"
        yield Fault(ERROR, f"interface {name}", message, seen, lasting.loosened(name))


def _routed_elsewhere(facts: Facts) -> Iterator[Fault]:
    remedy = "mend the routes (ip route), or have the guests ask from another address"
    for name in ipv4_interfaces(facts):
        link = facts.network.link(name)
        elsewhere, carved_out = kernel.astray(name, facts.network), kernel.carved_out(name, facts.network)
        if elsewhere and link is not None and link.rp_filter != _STRICT:
            message = "guests there have addresses that this host routes elsewhere, so it cannot call them back"
            yield Fault(WARNING, f"interface {name}", message, _routes(elsewhere), remedy)
        elif carved_out and not elsewhere:
            message = "a part of its network is routed elsewhere; no guest there is seen to have an address in it"
            yield Fault(NOTE, f"interface {name}", message, _routes(carved_out), remedy)


def ipv4_interfaces(facts: Facts) -> list[str]:
    """Return the interfaces that multicast listeners of IPv4 name."""
    return list(dict.fromkeys(one.interface for one in facts.multicast if one.interface and one.family == "ipv4"))


def _routes(elsewhere: dict[str, str]) -> str:
    return network.some([f"{what} is routed to {device}" for what, device in elsewhere.items()])


CHECKS = (
    Check(
        "host-firewall",
        "the firewall lets in what the guests send",
        """Guests send UDP 1229 (or the port of the configuration) to the host, and IGMP; the host connects back to the
        guests, which is their firewall's matter. libvirt puts its bridges into firewalld's zone libvirt, which rejects
        what it does not list. What firewalld keeps for its next reload counts too: zones, their sources, rich rules and
        policies. Rules of nft and iptables are read in their order; where one cannot be judged it counts
        as one that may stop requests, unless a request of this host came through. That shows nothing about rules which
        tell senders apart, by address, interface or port of the bridge: what certainly stops all guests, or one that is
        known as a neighbour or by its lease, is an error, what may stop one a warning. Rules that stop only frames with
        forged addresses, as libvirt's nwfilter makes them, are none.""",
        _firewall,
        ("settings", "firewall"),
        doubt=scope.rules,
    ),
    Check(
        "host-firewall-back",
        "the firewall lets out the connections back to guests, and their answers in",
        """The answer to a request by multicast travels over a TCP connection that the daemon opens to the guest, at
        port 1229 unless the guest says otherwise. What the guest sends on it has to come in, from that port, as a part
        of an established connection: rules may let in requests and stop that. A rule that may stop it is a warning, and
        an error where it certainly does, or once it has failed.""",
        _way_back,
        ("settings", "way_back"),
        doubt=_unread_back,
    ),
    Check(
        "host-firewall-unseen",
        "all rules of the firewall can be read",
        """Rules are read by firewall-cmd, nft and iptables-save, as root.""",
        _firewall_unseen,
        ("settings", "firewall"),
        doubt=scope.network_listeners,
    ),
    Check(
        "host-rp-filter",
        "the reverse path filter does not drop what guests send",
        """With rp_filter 1 the kernel drops a packet whose source it would not route to the interface that it came
        from: tcpdump shows it, the daemon never does. The stricter of conf/all and conf/INTERFACE counts. Routes are
        compared with the neighbours seen there, and with the bridge's own networks where the filter drops packets
        during the check.""",
        _filtered,
        ("settings", "network"),
        doubt=scope.links,
    ),
    Check(
        "host-route-astray",
        "addresses of guests are routed to their bridge",
        """The daemon connects back to the address that a guest names. Where the route to it leads elsewhere that takes
        five seconds, in vain. A guest with several addresses asks from each of them. A part of the bridge's network
        that is routed elsewhere, as another network of libvirt's may be, is a note while nobody on the bridge is seen
        to have an address there.""",
        _routed_elsewhere,
        ("settings", "network"),
        doubt=scope.links,
    ),
)
