"""Several hosts that answer one question: do they agree, or may the fastest be one that does not have the guest?  Pure.

One rule for guest check and cluster check.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

from vmfence.findings import counted
from vmfence.guest.answers import HostAnswer

APART = (
    "one multicast address, port or key for each host (the same in its device), or on each host "
    'unknown_guest = "ignore" in fence_virtd, or a pool: backend cpg in vmfence.conf(5)'
)


class Agreement(enum.Enum):
    """How the hosts stand to each other."""

    ALONE = "one host answers, or none"
    SAME = "all show the same guests: a pool, or one host with two addresses"
    DISCREET = 'each is silent about guests that it does not have, by unknown_guest = "ignore"'
    UNKNOWN = "they show different guests, and it was not seen who speaks for them"
    RIVALS = "several speak for one guest, so one without it may be first"


def agreement(hosts: Sequence[HostAnswer], asked: str, speakers: Sequence[str]) -> Agreement:
    """Return how *hosts* stand to each other; *speakers* answer for the guest *asked*: see survey.voices().

    One that does not show it, and answers alone, was only faster than the host that does.
    """
    if len(hosts) < 2:
        return Agreement.ALONE
    if len({frozenset(guest.uuid for guest in host.guests) for host in hosts}) == 1:
        return Agreement.SAME
    if not asked:
        return Agreement.UNKNOWN
    owners = {host.peer for host in hosts if any(asked in (guest.name, guest.uuid) for guest in host.guests)}
    return Agreement.RIVALS if len(speakers) > 1 or {*speakers} - owners else Agreement.DISCREET


def shown(hosts: Sequence[HostAnswer]) -> str:
    """Return, as evidence, how many guests each of *hosts* shows."""
    return ", ".join(f"{host.peer} shows {counted(len(host.guests), 'guest')}" for host in hosts)


def empty(hosts: Sequence[HostAnswer]) -> tuple[tuple[HostAnswer, ...], bool]:
    """Return those of *hosts* that show no guest, and whether others of them show some: then that is no fault."""
    found = tuple(host for host in hosts if not host.guests)
    return found, len(found) < len(hosts)
