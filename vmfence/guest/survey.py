"""Who answers, and who speaks for guests that not all of the hosts have.

Two questions show that, of any number of hosts.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from vmfence.client.census import SETTLE_S
from vmfence.errors import DeadlineExceeded, VmfenceError
from vmfence.guest import answers
from vmfence.guest.agreement import Agreement, agreement
from vmfence.guest.answers import HostAnswer
from vmfence.guest.guests import Inquiry

# The rest of the time is for whoever waits for us; with less a host would be missed that answers after the first.
_SHARE, _HEARING_S = 0.9, SETTLE_S + 0.1


@dataclass(frozen=True)
class Survey:
    """All *hosts* that answer, and the *speakers* for the guest *asked*, where some host has one that others lack."""

    hosts: tuple[HostAnswer, ...]
    asked: str = ""
    speakers: tuple[str, ...] = ()


def survey(inquiry: Inquiry, all_s: float | None = None) -> Survey:
    """Return who answers within the inquiry's time, and who speaks for guests that not all of them have.

    *all_s*: seconds for both, None: the inquiry's time.  Where the second cannot be seen *asked* is "".  Raises as
    answers.list_hosts().
    """
    end = time.monotonic() + (_SHARE * inquiry.timeout_s if all_s is None else all_s)
    hosts = answers.list_hosts(inquiry)
    try:
        return Survey(hosts, *voices(inquiry, hosts, end))
    except VmfenceError:
        return Survey(hosts)


def voices(inquiry: Inquiry, hosts: Sequence[HostAnswer], end: float) -> tuple[str, tuple[str, ...]]:
    """Return a guest that not all of *hosts* have, and who answers for it: the one that shows rivals, if any does.

    "" where all of them show the same.  Raises as answers.list_hosts(); DeadlineExceeded when that monotonic time *end*
    comes too soon to hear all of them.
    """
    asked = ""
    heard: tuple[str, ...] = ()
    for guest in _telling(hosts):
        left_s = end - time.monotonic()
        if left_s < _HEARING_S:
            raise DeadlineExceeded("the hosts were not asked who speaks for a guest", f"{left_s:.1f} s were left")
        asked, heard = guest, answers.speakers(replace(inquiry, timeout_s=left_s), guest)
        if agreement(hosts, asked, heard) is Agreement.RIVALS:
            break
    return asked, heard


def _telling(hosts: Sequence[HostAnswer]) -> Iterator[str]:
    """Yield a guest about which all hosts should be silent but its own, then one about which that host should be."""
    holders = Counter(uuid for host in hosts for uuid in {guest.uuid for guest in host.guests})
    rare = [one for host in hosts for one in host.guests if holders[one.uuid] < len(hosts)]
    rare.sort(key=lambda one: holders[one.uuid])
    for first in rare[:1]:
        yield first.name or first.uuid
        owner = next(host for host in hosts if first in host.guests)
        theirs = {guest.uuid for guest in owner.guests}
        second = next((one for one in rare if one.uuid not in theirs), None)
        if second is not None:
            yield second.name or second.uuid
