"""What the daemon of this host tells of its pool, for commands: the hosts, and who has which guest.

Pure, but for ask().  Guests are those of the hosts in the group, and what hosts that are away had when they left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vmfence.host import control
from vmfence.host.backends.inventory import GuestFacts
from vmfence.host.pool.messages import Entry
from vmfence.protocol.reply import State

_HOST_KEYS = ("node", "name", "is_here", "program", "guests", "left_at")
_KEYS = ("node", "is_joined", "is_quorate", "trouble", "fenced_command")


@dataclass(frozen=True)
class PoolHost:
    """One node of the cluster.  *is_here*: in the group; *program*: what it runs there, as far as that is known.

    *guests*: how many it has, or had; None: nobody knows.  *left_at*: wall time, None where it was never seen.
    """

    node: int
    name: str = ""
    is_here: bool = True
    program: str = "vmfence"
    guests: int | None = 0
    left_at: float | None = None

    def __str__(self) -> str:
        return self.name or f"host {self.node}"


@dataclass(frozen=True)
class Sighting:
    """A guest as one host has it, or had it when it left."""

    host: PoolHost
    entry: Entry

    @property
    def state_text(self) -> str:
        """The state as libvirt's own tools write it; what it was, of a host that is away."""
        number = self.entry.state
        known = number in State._value2member_map_
        text = State(number).name.lower().replace("_", " ") if known else f"state {number}"
        return text if self.host.is_here else f"was {text}"

    def as_dict(self) -> dict[str, object]:
        """Return it fit for JSON."""
        host = self.host
        return {"node": host.node, "name": host.name, "is_here": host.is_here, "state": self.state_text}


@dataclass(frozen=True)
class PoolReport:
    """The pool as this host's daemon knows it.  *node*: this host's, 0 while it is not *is_joined*; *trouble*: why."""

    node: int
    is_joined: bool = True
    is_quorate: bool = True
    trouble: str = ""
    hosts: tuple[PoolHost, ...] = ()
    sightings: tuple[Sighting, ...] = ()
    fenced_command: str | None = None

    @property
    def away(self) -> tuple[PoolHost, ...]:
        """The nodes of the cluster that are not in the group."""
        return tuple(host for host in self.hosts if not host.is_here)

    def guests(self) -> dict[str, tuple[Sighting, ...]]:
        """Return who has each guest, by UUID, in the order of names."""
        found: dict[str, list[Sighting]] = {}
        for one in sorted(self.sightings, key=lambda one: (one.entry.name.lower(), one.host.node)):
            found.setdefault(one.entry.uuid, []).append(one)
        return {uuid: tuple(sightings) for uuid, sightings in found.items()}

    def facts(self) -> tuple[GuestFacts, ...]:
        """Return all guests as access rules see them."""
        return tuple(GuestFacts(one.entry.name, one.entry.uuid, State.NONE) for one in self.sightings)


def ask(control_socket: str, timeout_s: float) -> PoolReport | None:
    """Return what the daemon at *control_socket* tells; None where it runs without a pool.  Raises as control.ask()."""
    told = control.ask_pool(control_socket, timeout_s)
    return None if told is None else of(told)


def of(told: Mapping[str, Any]) -> PoolReport:
    """Return the report in *told*, which has every part in its place (control.ask_pool())."""
    hosts = {each["node"]: PoolHost(**{key: each[key] for key in _HOST_KEYS}) for each in told["hosts"]}
    sightings = (
        Sighting(hosts[each["node"]], Entry(each["name"], each["uuid"], each["state"], each["moved"]))
        for each in told["listing"]
        if each["node"] in hosts
    )
    return PoolReport(
        **{key: told[key] for key in _KEYS},
        hosts=tuple(host for _, host in sorted(hosts.items())),
        sightings=tuple(sightings),
    )


def telling(sightings: Iterable[Sighting]) -> tuple[Sighting, ...]:
    """Return those of *sightings*, of one guest, that tell where it is: where it is active, or may be, else all.

    A host that is away and had it active may still run it, so what others say that have it shut off counts less.
    """
    found = tuple(sightings)
    running = tuple(one for one in found if one.host.is_here and one.entry.is_active)
    doubtful = tuple(one for one in found if not one.host.is_here and one.entry.is_active)
    ended = tuple(one for one in found if one.host.is_here and not one.entry.moved)
    return running or doubtful or ended or found
