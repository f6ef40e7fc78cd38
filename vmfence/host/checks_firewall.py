"""Checks of what may stop packets between guests and daemon: firewall, reverse path filter, routes.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vmfence.config.settings import TcpSettings
from vmfence.errors import VmfenceError
from vmfence.findings import ERROR, NOTE, WARNING, Check, Fault, Severity
from vmfence.host import checks_daemon, kernel, network, scope
from vmfence.host.facts import Facts
from vmfence.packetfilter.rules import Opening

_READ_IT = "nft list ruleset; iptables-save"
_STRICT = 1
# Rules there see frames of guests, which a request of the host itself does not pass.
_BELOW_BRIDGE = ("nft insert rule bridge ", "nft insert rule netdev ")


def _firewall(facts: Facts) -> Iterator[Fault]:
    found, through = facts.firewall, facts.got_through()
    now = [argv for argv in found.commands if "--permanent" not in argv]
    later = [argv for argv in found.commands if "--permanent" in argv]
    zones = " and ".join(dict.fromkeys(found.zones))
    wanted = _wanted(facts)
    if now or later:
        remedy = " && ".join(" ".join(argv) for argv in found.commands)
        fix = (*facts.program, "host", "setup", "--config", facts.path, "--no-service", "--no-check")
        if now and not through:
            severity, message = ERROR, f"zone {zones} does not let in what the guests send"
        elif now:
            severity, message = NOTE, f"zone {zones} does not name what the guests send, and lets it in all the same"
        else:
            severity, message = WARNING, f"zone {zones} will not let in what the guests send after its next reload"
        is_ready = facts.accepted is True and severity is not NOTE
        yield Fault(severity, "firewalld", message, f"needed: {wanted}", remedy, fix if is_ready else None)
    for one in found.later:
        message = "will, or may, stop what the guests send after its next reload: it keeps what it does not do yet"
        yield Fault(WARNING, "firewalld", message, one.what, one.command)
    if found.rules:
        seen = f"needed: {wanted}" + ("; a request of this host came through" if through else "")
        message = "rules stop, or may stop, what the guests send"
        yield Fault(_severity(through, found.rules), "packet filter", message, seen, " && ".join(found.rules))


def _severity(through: bool | None, rules: Iterable[str]) -> Severity:
    if through is False:
        return ERROR
    return WARNING if through is None or any(rule.startswith(_BELOW_BRIDGE) for rule in rules) else NOTE


def _wanted(facts: Facts) -> str:
    wanted = [Opening("udp", one.port, one.interface, one.family, one.family == "ipv4") for one in facts.multicast]
    wanted += [Opening("tcp", one.port, None) for one in facts.settings.listeners if isinstance(one, TcpSettings)]
    return ", ".join(map(str, wanted))


def _firewall_unseen(facts: Facts) -> Iterator[Fault]:
    for doubt in facts.firewall.doubts:
        severity = NOTE if facts.got_through() else WARNING
        yield Fault(severity, "packet filter", "it cannot be said whether it stops requests", doubt, _READ_IT)


def _way_back(facts: Facts) -> Iterator[Fault]:
    if facts.way_back:
        failed = [] if isinstance(facts.status, VmfenceError) else checks_daemon.uncalled(facts)
        message = "rules stop, or may stop, the connections back to guests, by which they get their answer"
        wanted = ", ".join(f"TCP {one.port} to guests on {one.interface or 'any interface'}" for one in facts.multicast)
        seen = f"needed: {wanted}" + (f"; the daemon could not call back {network.some(failed)}" if failed else "")
        yield Fault(ERROR if failed else WARNING, "packet filter", message, seen, " && ".join(facts.way_back))


def _filtered(facts: Facts) -> Iterator[Fault]:
    for name in ipv4_interfaces(facts):
        link = facts.network.link(name)
        if link is None or link.rp_filter != _STRICT:
            continue
        elsewhere = kernel.astray(name, facts.network)
        if not elsewhere and kernel.is_routed(name, facts.network):
            continue
        message = "the strict reverse path filter drops what comes from guests whose addresses are routed elsewhere"
        seen = _routes(elsewhere) or f"no address at all is routed to {name}"
        seen += f"; rp_filter 1, {facts.network.filtered} packets dropped so far"
        yield Fault(ERROR, f"interface {name}", message, seen, f"sysctl -w net.ipv4.conf.{name}.rp_filter=2")


def _routed_elsewhere(facts: Facts) -> Iterator[Fault]:
    for name in ipv4_interfaces(facts):
        link = facts.network.link(name)
        elsewhere = kernel.astray(name, facts.network)
        if elsewhere and link is not None and link.rp_filter != _STRICT:
            message = "guests there have addresses that this host routes elsewhere, so it cannot call them back"
            remedy = "mend the routes (ip route), or have the guests ask from another address"
            yield Fault(WARNING, f"interface {name}", message, _routes(elsewhere), remedy)


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
        as one that may stop requests, unless a request of this host came through.""",
        _firewall,
        ("settings", "firewall"),
        doubt=scope.rules,
    ),
    Check(
        "host-firewall-back",
        "the firewall lets out the connections back to guests",
        """The answer to a request by multicast travels over a TCP connection that the daemon opens to the guest, at
        port 1229 unless the guest says otherwise. A rule that may stop it is a warning, and an error once it
        has failed.""",
        _way_back,
        ("settings", "way_back"),
        doubt=scope.multicast,
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
        compared with the bridge's own networks and with the neighbours seen there.""",
        _filtered,
        ("settings", "network"),
        doubt=scope.links,
    ),
    Check(
        "host-route-astray",
        "addresses of guests are routed to their bridge",
        """The daemon connects back to the address that a guest names. Where the route to it leads elsewhere that takes
        five seconds, in vain. A guest with several addresses asks from each of them.""",
        _routed_elsewhere,
        ("settings", "network"),
        doubt=scope.links,
    ),
)
