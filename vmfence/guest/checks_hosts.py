"""Checks of what the hosts that answer have: their guests, and whether they agree.  Pure."""

from __future__ import annotations

from collections.abc import Iterator

from vmfence.findings import ERROR, Check, Fault
from vmfence.guest.checks_trial import ON_HOST, ungathered
from vmfence.guest.facts import Facts


def _hosts_differ(facts: Facts) -> Iterator[Fault]:
    shown = {frozenset(guest.uuid for guest in host.guests) for host in facts.hosts}
    if len(shown) > 1:
        message = (
            "several hosts answer, with different guests: the first to call back decides, and may not have the one"
        )
        seen = "; ".join(f"{host.peer}: {len(host.guests)} guests" for host in facts.hosts)
        remedy = "give each host an address, a port or a key of its own, or join them with the cpg backend"
        yield Fault(ERROR, f"{len(facts.hosts)} hosts", message, seen, remedy)


def _no_guests(facts: Facts) -> Iterator[Fault]:
    for host in facts.hosts:
        if not host.guests:
            message = "the host shows this machine no guest at all, so nothing could be fenced"
            remedy = f"{ON_HOST}: its access rules may not name this machine, or its libvirt URI has no guests"
            yield Fault(ERROR, host.peer, message, "an empty list", remedy)


CHECKS = (
    Check(
        "guest-hosts-unread",
        "hosts list their guests",
        "After monitor they are asked for their guests, which needs their libvirt.",
        ungathered("hosts", "the host answers, and does not list its guests: ", ON_HOST),
        reads="hosts",
    ),
    Check(
        "guest-hosts-differ",
        "one host answers, or several that agree",
        "With the libvirt backend each host knows its own guests alone, hears the requests for all, and may be first "
        "to answer that it could not do it, or that a guest is off.",
        _hosts_differ,
        needs=("hosts",),
    ),
    Check(
        "guest-no-guests",
        "the host shows this machine guests",
        "Access rules that name another address, a libvirt URI without guests, or guests of a user's session.",
        _no_guests,
        needs=("hosts",),
    ),
)
