"""Checks of a real exchange: is a request answered, by this daemon alone, and what comes between hosts?  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vmfence.errors import VmfenceError
from vmfence.findings import ERROR, NOTE, WARNING, Check, Fault, NotReached, command_line, counted, explained
from vmfence.host.check import checks_setup, running, scope
from vmfence.host.check.checks_firewall import ipv4_interfaces
from vmfence.host.check.facts import Facts
from vmfence.host.pool_report import PoolReport
from vmfence.host.probe import Probe

_EACH = "a multicast address or key for each host"


def _several(facts: Facts) -> Iterator[Fault]:
    for probe in facts.probes:
        if not probe.others and not probe.failed_elsewhere:
            continue
        shown = [f"{one.peer} shows {counted(len(one.guests), 'guest')}" for one in (*probe.ours, *probe.others)]
        seen = ", ".join([*shown, *(f"{address} answers failure" for address in probe.failed_elsewhere)])
        views = {frozenset(guest.uuid for guest in one.guests) for one in (*probe.ours, *probe.others)}
        is_pool = _is_of_pool(facts, probe)
        if is_pool and not _are_pool_hosts_discreet(facts):
            message = "another host of the pool answers too, and the first is believed: perhaps one that is cut off"
            yield Fault(WARNING, probe.where, message, seen, 'unknown_guest = "ignore" in fence_virtd, on each host')
        elif is_pool or (len(views) == 1 and probe.others and not probe.failed_elsewhere):
            yield Fault(NOTE, probe.where, "another host answers with the same guests: a pool of hosts", seen)
        elif len(probe.speakers) > 1:
            message = "another host answers for guests of this one, and the fastest answer wins"
            seen += f"; about guest {probe.guest} spoke {', '.join(probe.speakers)}"
            remedy = f'{_EACH}, or on each unknown_guest = "ignore"'
            yield Fault(ERROR, probe.where, message, seen, remedy)
        elif probe.guest:
            message = "another host hears the same requests, and is silent about guests of this one"
            yield Fault(NOTE, probe.where, message, seen)
        else:
            message = "another host answers on the same address with the same key"
            yield Fault(WARNING, probe.where, message, seen, _EACH)


def _is_of_pool(facts: Facts, probe: Probe) -> bool:
    """Whether who else answers has guests of our pool alone, as its hosts do: their lists may be a moment apart."""
    if not isinstance(facts.pool, PoolReport) or probe.failed_elsewhere:
        return False
    known = {one.entry.uuid.lower() for one in facts.pool.sightings}
    return all(guest.uuid.lower() in known for other in probe.others for guest in other.guests)


def _are_pool_hosts_discreet(facts: Facts) -> bool:
    return not isinstance(facts.settings, VmfenceError) and facts.settings.daemon.unknown_guest == "ignore"


def _unanswered(facts: Facts) -> Iterator[Fault]:
    for probe in facts.probes:
        if probe.is_served or _is_outdated(facts, probe):
            continue
        log = checks_setup.log(facts)
        if probe.got_through:
            message = "the daemon answered a request of this host with failure, as it does those of guests"
            yield Fault(ERROR, probe.where, message, probe.failure or "it told no reason", log)
        elif (probe.ours or probe.has_failed) and probe.is_counted is False:
            message = "a request was answered at an address of this host, and not by this daemon"
            yield Fault(ERROR, probe.where, message, "another daemon on this host", "ss -lunp; ss -ltnp")
        elif probe.others:
            message = "a request was answered by another host alone: this daemon does not hear what guests send"
            yield Fault(ERROR, probe.where, message, ", ".join(one.peer for one in probe.others), log)
        else:
            message = "a request of this host had no answer, so one of a guest has none either"
            seen = probe.error.what if probe.error else "no answer"
            seen += f"; meanwhile the daemon refused: {', '.join(probe.refused)}" if probe.refused else ""
            seen += f"; the daemon has {counted(probe.in_hand, 'request')} in hand" if probe.in_hand else ""
            yield Fault(ERROR, probe.where, message, seen, log)


def _is_outdated(facts: Facts, probe: Probe) -> bool:
    """Whether the daemon runs without the listener that was tried, as is told of its configuration."""
    if isinstance(facts.settings, VmfenceError):
        return False
    return any(one.name == probe.name and running.is_outdated(facts, one) for one in facts.multicast)


def _tried(facts: Facts) -> VmfenceError | None:
    """Some listener was tried, and the daemon runs with all that were."""
    if any(not probe.is_served and _is_outdated(facts, probe) for probe in facts.probes):
        return NotReached("the daemon does not run with the listeners of the configuration")
    return scope.probes(facts)


def _snooping(facts: Facts) -> Iterator[Fault]:
    if facts.got_through() is not False and not _others(facts.probes):
        return  # one host alone needs no querier, and a request that came through had none
    for name in ipv4_interfaces(facts):
        link = facts.network.link(name)
        if link is not None and link.snooping and not link.querier and link.uplinks:
            message = "the bridge snoops IGMP without a querier, so switches between hosts may forget the group"
            seen = f"multicast_snooping 1, multicast_querier 0, uplink {', '.join(link.uplinks)}"
            command = command_line(["ip", "link", "set", "dev", name, "type", "bridge", "mcast_querier", "1"])
            remedy = explained(command, "or a querier on the switch")
            yield Fault(NOTE, f"bridge {name}", message, seen, remedy)


def _others(probes: Iterable[Probe]) -> bool:
    return any(probe.others or probe.failed_elsewhere for probe in probes)


CHECKS = (
    Check(
        "host-several",
        "no other host answers for the guests of this one",
        """By multicast every host that hears a request and has the key answers, and the guest takes the first answer.
        A host that does not have the guest answers failure, or (fence_virtd) that it is off: the most dangerous
        answer.""",
        _several,
        ("heard",),
        doubt=scope.probes,
    ),
    Check(
        "host-unanswered",
        "a request of this host is answered by its daemon",
        """A list is asked for as a guest does, over each listener of multicast and tcp: signature, call-back, both
        challenges, answer; and the daemon has to have counted it. Failure counts as no answer, and the daemon tells its
        reason. What guests send passes the same way, except for the ports of the bridge.""",
        _unanswered,
        ("serving", "probes"),
        doubt=_tried,
    ),
    Check(
        "host-snooping",
        "IGMP snooping does not come between hosts",
        """A switch that snoops forgets a group when no querier asks for it, after some minutes. A bridge of this host
        keeps delivering to the host itself, so this matters only with other hosts behind an uplink, and never where a
        request came through.""",
        _snooping,
        ("settings", "network", "probes"),
        doubt=scope.snooping,
    ),
)
