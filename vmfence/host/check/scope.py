"""What the checks of a host are about: where it is not there, or was not seen, no fault is no proof.  Pure.

Each function is the doubt of checks (see findings.Check): it returns why nothing was looked at, None where it was.
"""

from __future__ import annotations

from vmfence.config.settings import MulticastSettings, SerialSettings, TcpSettings
from vmfence.errors import NotPermitted, VmfenceError
from vmfence.findings import NotAsked, NotReached
from vmfence.host.check import running
from vmfence.host.check.facts import Facts

LOOPBACK = ("127.0.0.1", "::1")


def multicast(facts: Facts) -> VmfenceError | None:
    """There is a listener multicast."""
    return None if facts.multicast else NotAsked("there is no listener multicast")


def no_interface(facts: Facts) -> VmfenceError | None:
    """Some listener multicast leaves the interface to the kernel, which goes by its routes of IPv4."""
    is_open = any(one.interface is None and one.family == "ipv4" for one in facts.multicast)
    return None if is_open else NotAsked("no listener leaves its interface to the kernel")


def named_interfaces(facts: Facts) -> VmfenceError | None:
    """Some listener multicast names its interface."""
    return None if _named(facts) else NotAsked("no listener names an interface")


def found_interfaces(facts: Facts) -> VmfenceError | None:
    """Some listener multicast names its interface, and all that are named exist."""
    missing = [name for name in _named(facts) if facts.interface(name) is None]
    return NotReached(f"there is no interface {missing[0]}") if missing else named_interfaces(facts)


def group_interfaces(facts: Facts) -> VmfenceError | None:
    """There is a listener multicast, and every interface that one names exists."""
    return multicast(facts) or (found_interfaces(facts) if _named(facts) else None)


def links(facts: Facts) -> VmfenceError | None:
    """Some listener multicast of IPv4 names its interface, and the kernel tells of all that are named."""
    names = [one.interface for one in facts.multicast if one.interface and one.family == "ipv4"]
    unseen = [name for name in names if facts.network.link(name) is None]
    if unseen:
        return NotReached(f"there is no interface {unseen[0]}")
    return None if names else NotAsked("no listener of IPv4 names an interface")


def _named(facts: Facts) -> list[str]:
    return [one.interface for one in facts.multicast if one.interface is not None]


def bridges(facts: Facts) -> VmfenceError | None:
    """Guests ask by multicast alone, on interfaces that are named."""
    if any(not isinstance(one, MulticastSettings) for one in facts.settings.listeners):
        return NotAsked("guests have other ways than multicast")
    return named_interfaces(facts) or guests(facts)


def tcp(facts: Facts) -> VmfenceError | None:
    """There is a listener tcp; where it is at the host's own loopback it is known where guests are attached."""
    found = [one for one in facts.settings.listeners if isinstance(one, TcpSettings)]
    if not found:
        return NotAsked("there is no listener tcp")
    if not any(one.address in LOOPBACK for one in found):
        return None
    unread = next((one for one in (facts.libvirt, facts.interfaces) if isinstance(one, VmfenceError)), None)
    return unread or NotAsked("no guest is attached to a bridge")


def network_listeners(facts: Facts) -> VmfenceError | None:
    """Some listener waits for packets from the network."""
    is_there = any(isinstance(one, (MulticastSettings, TcpSettings)) for one in facts.settings.listeners)
    return None if is_there else NotAsked("no listener waits for packets from the network")


def channels(facts: Facts) -> VmfenceError | None:
    """There is a listener for channels, and none is closed."""
    if not any(isinstance(one, SerialSettings) for one in facts.settings.listeners):
        return NotAsked("there is no listener serial")
    is_closed = not all(one["is_open"] for one in facts.status["listeners"])
    return NotReached("a listener is closed") if is_closed else None


def rules(facts: Facts) -> VmfenceError | None:
    """Some listener waits for packets, and all rules were read, or a request came through."""
    if facts.firewall.doubts and not facts.got_through():
        return NotReached("not all rules of the firewall can be read")
    return network_listeners(facts)


def ports(facts: Facts) -> VmfenceError | None:
    """Some listener waits at a port, and it is seen whose sockets are there."""
    if any(not holder.pid for holder in facts.holders):
        return NotReached("it cannot be seen whose sockets are at the ports", "only root sees that", "run this as root")
    return network_listeners(facts)


def network_access(facts: Facts) -> VmfenceError | None:
    """Some listener asks for a key."""
    is_there = any(not isinstance(one, SerialSettings) for one in facts.settings.listeners)
    return None if is_there else NotAsked("channels use no key")


def keys(facts: Facts) -> VmfenceError | None:
    """There are keys in the configuration."""
    return None if facts.keys else NotAsked("the configuration names no key")


def present_keys(facts: Facts) -> VmfenceError | None:
    """There are keys, and all are there."""
    missing = any(not key.exists for key in facts.keys)
    return NotReached("a key is missing") if missing else keys(facts)


def usable_keys(facts: Facts) -> VmfenceError | None:
    """There are keys, and all can be used."""
    unusable = any(key.fault is not None for key in facts.keys)
    return present_keys(facts) or (NotReached("a key cannot be used") if unusable else None)


def guests(facts: Facts) -> VmfenceError | None:
    """Libvirt shows guests."""
    return None if facts.libvirt.guests else NotAsked("libvirt has no guest")


def processes(facts: Facts) -> VmfenceError | None:
    """This user sees all processes that may be guests."""
    if facts.veiled:
        return NotPermitted("this user may not see all processes", f"{facts.veiled} are hidden", "run this as root")
    return None


def guests_or_processes(facts: Facts) -> VmfenceError | None:
    """Libvirt shows guests, or this user would see them as processes."""
    return None if facts.libvirt.guests else processes(facts)


def network_guests(facts: Facts) -> VmfenceError | None:
    """There are guests, and they ask by the network alone."""
    if any(not isinstance(one, (MulticastSettings, TcpSettings)) for one in facts.settings.listeners):
        return NotAsked("guests have other ways than the network")
    return guests(facts)


def access_rules(facts: Facts) -> VmfenceError | None:
    """There are access rules."""
    return None if facts.settings.groups is not None else NotAsked("there are no access rules")


def listed_guests(facts: Facts) -> VmfenceError | None:
    """There are access rules, and guests that they may list."""
    return access_rules(facts) or guests(facts)


def reached_libvirt(facts: Facts) -> VmfenceError | None:
    """This check itself reaches a libvirt."""
    return None if facts.libvirt.found else NotReached("this check reaches no libvirt")


def probes(facts: Facts) -> VmfenceError | None:
    """Some listener was tried by a request."""
    return None if facts.probes else NotAsked("no listener can be tried from here")


def snooping(facts: Facts) -> VmfenceError | None:
    """A request was tried, and some listener is on a bridge that is known."""
    return probes(facts) or links(facts)


def manager(facts: Facts) -> VmfenceError | None:
    """systemd runs."""
    return None if facts.unit.is_manager else NotAsked("no systemd runs here")


def started(facts: Facts) -> VmfenceError | None:
    """The daemon has finished its start."""
    return NotReached("the daemon waits in its start") if running.is_waiting(facts) else None


def read_unit(facts: Facts) -> VmfenceError | None:
    """systemd runs, or what it tells could not be read, which is told as such."""
    return None if isinstance(facts.unit, VmfenceError) else manager(facts)


def service(facts: Facts) -> VmfenceError | None:
    """There is a service for systemd to run."""
    return manager(facts) or (None if facts.unit.path is not None else NotAsked("there is no service"))


def selinux(facts: Facts) -> VmfenceError | None:
    """This kernel has SELinux."""
    return None if facts.selinux.is_enabled else NotAsked("there is no SELinux here")


def clock(facts: Facts) -> VmfenceError | None:
    """Somebody tells whether the clock is kept right."""
    if facts.clock.silence is not None:
        return NotReached("it cannot be asked whether the clock is kept right")
    return (
        None if facts.clock.is_synchronised is not None else NotAsked("nothing here tells whether the clock is right")
    )
