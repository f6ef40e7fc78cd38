"""Checks of what the hosts that answer have: their guests, and whether they agree.  Pure."""

from __future__ import annotations

from collections.abc import Iterator

from vmfence.findings import ERROR, NOTE, WARNING, Check, Fault
from vmfence.guest.agreement import APART, Agreement, agreement, empty, shown
from vmfence.guest.checks_trial import ON_HOST, ungathered
from vmfence.guest.facts import Facts


def _hosts_differ(facts: Facts) -> Iterator[Fault]:
    found = facts.hosts
    subject, seen = f"{len(found.hosts)} hosts", shown(found.hosts)
    asked = f"{seen}; about guest {found.asked} spoke {', '.join(found.speakers)}"
    how = agreement(found.hosts, found.asked, found.speakers)
    if how is Agreement.UNKNOWN:
        message = "several hosts answer with different guests, and it was not seen whether each speaks for its own"
        yield Fault(WARNING, subject, message, seen, f"run the check again; {APART}")
    elif how is Agreement.RIVALS:
        message = "several hosts speak for one guest, and the first to call back decides: it may not have the guest"
        yield Fault(ERROR, subject, message, asked, APART)
    elif how is Agreement.DISCREET:
        yield Fault(NOTE, subject, "several hosts answer to a list, and only who has a guest speaks for it", asked)
    elif how is Agreement.SAME:
        yield Fault(NOTE, subject, "several addresses answer with the same guests: a pool, or one host", seen)


def _no_guests(facts: Facts) -> Iterator[Fault]:
    found, has_others = empty(facts.hosts.hosts)
    for host in found:
        message = "the host shows this machine no guest at all, so nothing could be fenced"
        if has_others:
            message = "the host shows this machine no guest, while another does"
        remedy = f"{ON_HOST}: its access rules may not name this machine, or its libvirt URI has no guests"
        yield Fault(NOTE if has_others else ERROR, host.peer, message, "an empty list", remedy)


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
        "one host answers for each guest, or several that agree",
        "With the libvirt backend each host knows its own guests alone, hears the requests for all, and may be first "
        "to answer that it could not do it, or that a guest is off. So the hosts are asked about guests that not all "
        "of them have: where only the host of a guest speaks for it, all is well.",
        _hosts_differ,
        needs=("hosts",),
    ),
    Check(
        "guest-no-guests",
        "the host shows this machine guests",
        "Access rules that name another address, a libvirt URI without guests, or guests of a user's session. Of "
        "several hosts one may have none for this machine.",
        _no_guests,
        needs=("hosts",),
    ),
)
