"""The guests of a pool in one list: of this host as libvirt tells them, of others as the daemon has heard.  Pure.

A guest that several hosts have is one row: where it runs, or may run, else all hosts that have it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from vmfence.errors import NotPermitted, Unreachable, VmfenceError
from vmfence.host.backends.inventory import GuestFacts, Inventory
from vmfence.host.pool.messages import Entry
from vmfence.host.pool_report import PoolHost, PoolReport, Sighting, telling
from vmfence.protocol.reply import State

_START_IT = "see: vmfence host check"


@dataclass(frozen=True)
class Row:
    """One guest.  *uri*: where libvirt of this host has it, None where it has not; *hosts*: for JSON, None: no pool.

    *places*: the hosts as text.
    """

    guest: GuestFacts
    state: str
    uri: str | None
    hosts: list[dict[str, object]] | None = None
    places: str = ""


def rows(inventories: Iterable[Inventory], pool: PoolReport | None) -> list[Row]:
    """Return all guests: first those that libvirt of this host has, in its order, then those of the other hosts."""
    local = [(one.uri, guest) for one in inventories for guest in one.guests]
    if pool is None:
        return [Row(guest, guest.state_text, uri) for uri, guest in local]
    here = next((host for host in pool.hosts if host.node == pool.node), PoolHost(pool.node))
    elsewhere = {
        uuid: tuple(one for one in sightings if one.host.node != pool.node) for uuid, sightings in pool.guests().items()
    }
    found = []
    for uri, guest in local:
        moved = any(one.entry.moved for one in pool.sightings if _is_same(one, guest) and one.host == here)
        own = Sighting(here, Entry(guest.name, guest.uuid.lower(), int(guest.state), moved))
        found.append(_row(guest, uri, (own, *elsewhere.pop(guest.uuid.lower(), ())), pool.node))
    for uuid, sightings in elsewhere.items():
        if sightings:
            name = telling(sightings)[0].entry.name
            found.append(_row(GuestFacts(name, uuid, State.NONE), None, sightings, pool.node))
    return found


def _is_same(one: Sighting, guest: GuestFacts) -> bool:
    return one.entry.uuid == guest.uuid.lower()


def _row(guest: GuestFacts, uri: str | None, sightings: Sequence[Sighting], me: int) -> Row:
    shown = telling(sightings)
    places = ", ".join(_place(one.host, me) for one in shown)
    return Row(guest, shown[0].state_text, uri, [one.as_dict() for one in sightings], places)


def _place(host: PoolHost, me: int) -> str:
    if host.node == me:
        return f"{host} (this one)"
    return str(host) if host.is_here else f"{host} (away)"


def doubts(pool: PoolReport) -> Iterator[str]:
    """Yield what the list of *pool* cannot tell."""
    for host in pool.away:
        if host.guests is None:
            yield f"{host} was never in the group of the pool: which guests it has is not known"
        elif host.guests:
            yield f"{host} is not in the group of the pool: its guests are shown as they were when it left"
    if not pool.is_quorate:
        yield "the pool is not quorate: hosts out of sight may have started guests"


def not_joined(report: PoolReport | None) -> VmfenceError:
    """Return why a daemon that answers knows of no other host."""
    if report is None:
        remedy = "systemctl restart vmfence"
        return Unreachable("the daemon runs without the pool", "the backend was changed since it was started", remedy)
    return Unreachable("the daemon is not in the group of its pool", report.trouble, _START_IT)


def incomplete(error: VmfenceError) -> VmfenceError:
    """Return *error* as the reason why guests of other hosts, and which host has which, are missing."""
    kind = NotPermitted if isinstance(error, NotPermitted) else Unreachable
    why = ": ".join(filter(None, (error.what, error.why)))
    return kind(
        "only the guests of this host are shown, and not those of the other hosts of its pool", why, error.remedy
    )
