"""Checks of where the daemon listens: interface, bridge of the guests, group, address.  Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from vmfence.config.settings import MulticastSettings, TcpSettings
from vmfence.errors import ListenError, VmfenceError
from vmfence.findings import ERROR, NOTE, WARNING, Check, Fault, NotReached, command_line, explained
from vmfence.host import network
from vmfence.host.check import running, scope
from vmfence.host.check.facts import Facts
from vmfence.host.network import Bridge
from vmfence.packetfilter import lasting

_CHANGE_IT = "vmfence host configure"
_SET_IT = explained(_CHANGE_IT, "set interface")


def _interface(facts: Facts) -> Iterator[Fault]:
    for one in facts.multicast:
        try:
            if one.interface is not None:
                network.check_interface(one.interface, facts.interfaces)
        except ListenError as error:
            guests = _guests_of(facts, with_guests=True)
            there = f"guests are attached to {', '.join(map(str, guests))}" if guests else "no bridge here has guests"
            remedy = explained(
                _CHANGE_IT, "names another interface; ip link and virsh net-list --all show which there are"
            )
            near = f" ({error.remedy})" if error.remedy else ""
            message = f"{error.what}{near}, so the daemon cannot listen there"
            yield Fault(ERROR, f"interface {one.interface}", message, error.why or there, remedy)


def _interface_down(facts: Facts) -> Iterator[Fault]:
    for one in facts.multicast:
        found = facts.interface(one.interface) if one.interface else None
        if found is not None and not found.is_up and not running.is_outdated(facts, one):
            remedy = lasting.link(command_line(["ip", "link", "set", "dev", found.name, "up"]))
            yield Fault(ERROR, f"interface {found.name}", "is down, so nothing of any guest arrives", "down", remedy)


def _interface_unset(facts: Facts) -> Iterator[Fault]:
    for one in facts.multicast:
        if one.interface is None:
            message = "no interface is set, so the kernel chooses one by its routes, which may change"
            seen = ", ".join(name for name, groups in facts.network.memberships.items() if one.address in groups)
            seen = f"joined on {seen}" if seen else "joined nowhere"
            yield Fault(WARNING, f"multicast {one.address}", message, seen, _SET_IT)


def _group(facts: Facts) -> Iterator[Fault]:
    for one in facts.multicast:
        joined = [name for name, groups in facts.network.memberships.items() if _group_of(one) in groups]
        if one.interface is not None and facts.interface(one.interface) is None:
            continue  # told as missing
        if not running.runs_with(facts, one):
            continue  # told as stale, or as waiting
        if not joined or (one.interface is not None and one.interface not in joined):
            where = one.interface or "any interface"
            message = f"nobody has joined the group on {where}, so the kernel drops the guests' requests"
            seen = f"joined on {', '.join(joined)}" if joined else "joined on no interface"
            yield Fault(ERROR, f"multicast {one.address}", message, seen, running.restart(facts))


def _not_run_with(facts: Facts) -> VmfenceError | None:
    """The interfaces exist, and the daemon runs with the listeners of the configuration."""
    is_known = all(running.runs_with(facts, one) for one in facts.multicast)
    unknown = NotReached("the daemon does not run with the listeners of the configuration")
    return scope.group_interfaces(facts) or (None if is_known else unknown)


def _group_of(one: MulticastSettings) -> str:
    return str(ipaddress.ip_address(one.address))


def _unheard(facts: Facts) -> Iterator[Fault]:
    listening = running.interfaces(facts)
    bridges = _guests_of(facts, with_guests=True)
    if not listening or not bridges:
        return
    heard = {name for bridge in bridges if bridge.name in listening for name in bridge.guests}
    deaf = [bridge for bridge in bridges if bridge.name not in listening and set(bridge.guests) - heard]
    for bridge in deaf:
        missing = [name for name in bridge.guests if name not in heard]
        message = f"the daemon does not listen where guests are attached: it does on {', '.join(sorted(listening))}"
        remedy = explained(_CHANGE_IT, f"set interface of listener multicast to {bridge.name}")
        named = _named(facts, missing)
        severity = NOTE if heard and not named else WARNING if heard else ERROR
        yield Fault(severity, f"bridge {bridge.name}", message, f"guests: {network.some(missing)}", remedy)


def _named(facts: Facts, guests: Iterable[str]) -> bool:
    """Whether access rules name one of *guests*: then it is a node of a cluster, not just a guest."""
    targets = {target for group in facts.settings.groups or () for target in group.targets}
    uuids = {guest.name: guest.uuid for guest in facts.libvirt.guests}
    return any(name in targets or uuids.get(name) in targets for name in guests)


def _guests_of(facts: Facts, with_guests: bool = False) -> list[Bridge]:
    if isinstance(facts.libvirt, VmfenceError) or isinstance(facts.interfaces, VmfenceError):
        return []
    found = network.bridges(facts.interfaces, facts.libvirt.found)
    return [bridge for bridge in found if bridge.guests or not with_guests]


def _address(facts: Facts) -> Iterator[Fault]:
    for one in facts.settings.listeners:
        if not isinstance(one, TcpSettings):
            continue
        if one.address in scope.LOOPBACK:
            bridges = _guests_of(facts, with_guests=True)
            is_only = len(facts.settings.listeners) == 1
            if bridges:
                message = "no guest on a bridge reaches this address, which is the host's own loopback"
                seen = ", ".join(map(str, bridges))
                remedy = explained(_CHANGE_IT, "set address of listener tcp to the bridge's")
                yield Fault(ERROR if is_only else WARNING, f"tcp {one.address}", message, seen, remedy)


def _no_route(facts: Facts) -> Iterator[Fault]:
    for one in facts.multicast:
        if one.interface is None and one.family == "ipv4":
            group = ipaddress.IPv4Address(one.address)
            if not any(group in route.network for route in facts.network.routes):
                message = "no interface is set, and no route tells the kernel which one to join the group on"
                yield Fault(ERROR, f"multicast {one.address}", message, "no default route", _SET_IT)


INTERFACE = (
    Check(
        "host-interface-missing",
        "the interfaces of the configuration exist",
        """A listener joins its group on the interface that it names. fence_virtd takes a name that does not exist for
        any interface, in silence; our daemon does not open the listener. A port of a bridge will not do: what arrives
        there is the bridge's.""",
        _interface,
        ("settings", "interfaces"),
        doubt=scope.named_interfaces,
    ),
    Check(
        "host-interface-down",
        "the interfaces of the configuration are up",
        """A bridge that is down forwards nothing between host and guests.""",
        _interface_down,
        ("settings", "interfaces"),
        doubt=scope.found_interfaces,
    ),
    Check(
        "host-multicast-route",
        "the kernel knows where to join the group",
        """Where no interface is set the kernel joins the group on that of the route to it; without any it refuses.""",
        _no_route,
        ("settings", "network"),
        doubt=scope.no_interface,
    ),
    Check(
        "host-bridge-unheard",
        "the daemon listens where the guests are attached",
        """Multicast stays on its bridge: guests on another one are not heard. Attachments are read from libvirt, also
        through its networks; where it listens a daemon that runs tells itself, for its settings may be those of before.
        Guests that are no cluster nodes need not be heard; they can be fenced all the same.""",
        _unheard,
        ("settings", "answering", "interfaces"),
        doubt=scope.bridges,
    ),
    Check(
        "host-address-loopback",
        "guests reach the address of listener tcp",
        """127.0.0.1 is fence_virtd's default, and an address that only the host itself reaches, and guests with user
        networking.""",
        _address,
        ("settings",),
        doubt=scope.tcp,
    ),
)
UNSET = Check(
    "host-interface-unset",
    "every multicast listener names its interface",
    """Without one the kernel chooses by its routes; when a default route changes, guests are not heard any
    more.""",
    _interface_unset,
    ("settings", "network"),
    doubt=scope.multicast,
)
GROUP = Check(
    "host-group",
    "the multicast group is joined on the right interface",
    """The kernel forgets a membership with its interface: a bridge that is made anew has none, and the socket stays
    open as if nothing were. Our daemon joins again by itself. Memberships are read from /proc/net/igmp.""",
    _group,
    ("settings", "network", "interfaces", "status"),
    doubt=_not_run_with,
)
