"""The pool as the service and the daemon see it: feeds the world to a member (member.py), carries its effects out.

A guest is found and acted on wherever it is; what is to be done here is done by the service of this host (hands.py).
Deadlines are seconds of the monotonic clock.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from collections.abc import Iterable, Mapping
from typing import Any

from vmfence.errors import PacketError, Unreachable
from vmfence.host.backends.base import Backend, Guest
from vmfence.host.pool import messages, procedure, record
from vmfence.host.pool.corosync import Delivery, Event, Members, Up
from vmfence.host.pool.effects import Act, Done, Effect, FindFenced, LookHere, NoteFences, ReadGuests, Send
from vmfence.host.pool.hands import Hands, Here
from vmfence.host.pool.link import Link
from vmfence.host.pool.member import Member
from vmfence.host.pool.messages import Entry
from vmfence.host.pool.procedure import Outcome, Sighted, Steps
from vmfence.host.pool.speaker import is_speaker
from vmfence.host.pool.tasks import Tasks
from vmfence.host.pool.upkeep import Upkeep
from vmfence.protocol.reply import Code, State
from vmfence.protocol.request import Action

log = logging.getLogger(__name__)

# Within so long a host has told of its guests after it has joined, unless its libvirt hangs.
LIST_S = 5.0
_TICK_S = 0.05


class Pool:
    """This host's part in the pool.  Create it in the event loop."""

    def __init__(self, here: Here, folder: str, fenced_command: str | None = None) -> None:
        """Raises VmfenceError when what was remembered in *folder* cannot be read."""
        self._fenced_command = fenced_command
        self.directory = record.load(folder, time.time())
        self._member = Member(self.directory, int.from_bytes(os.urandom(4), "little"))
        self._link = Link(self)
        self._hands = Hands(here, fenced_command)
        self._upkeep = Upkeep(here, folder, self.directory, self._hands, self, self._link.read_nodes)
        self._tasks = Tasks()
        self._tokens = itertools.count()
        self._waiting: dict[Any, asyncio.Future[Any]] = {}
        self._is_flushing = False

    async def open(self) -> None:
        """Join the group.  Raises VmfenceError when that cannot be."""
        await self._link.open()
        self._upkeep.open()
        if not self._tasks.is_keeping():
            self._tasks.keep(self._keep_time)

    def follow(self, backend: Backend) -> None:
        """Follow the guests of *backend* from now on."""
        self._upkeep.follow(backend)

    def close(self) -> None:
        """Leave the group."""
        self._member.leaves()
        self._carry_out_effects()
        self._tasks.close()
        self._upkeep.close()
        self._link.close()

    def describe(self) -> dict[str, Any]:
        """Return what ``vmfence host status`` shows of the pool, fit for JSON."""
        directory, now = self.directory, time.monotonic()
        names = directory.configured or {}
        hosts = [
            {
                "node": node,
                "name": names.get(node, ""),
                "is_here": node in directory.members,
                "program": self._program(node, now),
                "guests": len(host.guests),
                "left_at": None if node in directory.members else host.left_at,
            }
            for node, host in sorted(directory.hosts.items())
        ]
        hosts += [
            {"node": node, "name": name, "is_here": False, "program": "", "guests": None, "left_at": None}
            for node, name in sorted(names.items())
            if node not in directory.hosts
        ]
        trouble = "; ".join(filter(None, (self._link.trouble, self._upkeep.trouble)))
        return {"node": directory.me, "is_quorate": directory.is_quorate, "trouble": trouble, "hosts": hosts}

    def report(self) -> dict[str, Any]:
        """Return what ``vmfence host list`` and ``host check`` ask for, fit for JSON: describe(), and all guests known.

        Those of a host that is away are as it had them when it left.
        """
        listing = [
            {"node": node, "name": entry.name, "uuid": entry.uuid, "state": entry.state, "moved": entry.moved}
            for node, host in sorted(self.directory.hosts.items())
            for entry in host.guests.values()
        ]
        is_joined = self.directory.me in self.directory.members
        return {
            **self.describe(),
            "is_joined": is_joined,
            "fenced_command": self._fenced_command,
            "listing": listing,
        }

    # Asked by the service

    async def ping(self, deadline: float) -> None:
        """Return if this host is in the group.  Raises Unreachable."""
        if self.directory.me not in self.directory.members:
            raise Unreachable("this host is not in the group of its pool", self._link.trouble)

    async def find(self, target: str, deadline: float) -> Guest:
        """Return the guest called *target*, wherever it is; shut off only if that is vouched for."""
        guest: Guest = await self._follow_steps(procedure.find(target), deadline)
        return guest

    def speaks_for(self, guest: Guest) -> bool:
        """Whether of all hosts that hear a request for the guest as find() gave it, this one is to answer."""
        assert isinstance(guest, Sighted)
        return is_speaker(guest.view, self.directory.me)

    async def find_for(self, action: Action, target: str, deadline: float) -> Guest:
        """As find(), for carry_out(), which looks after what has to be vouched for."""
        guest: Guest = await self._follow_steps(procedure.find(target, action is Action.ON, True), deadline)
        return guest

    async def guests(self, deadline: float) -> list[Guest]:
        """Return the guests of all hosts in the group, as they were told; those of hosts that left are not shown.

        One that may run where nobody has told of it is in no state.  Raises Unreachable while a host has not told.
        """
        await self.ping(deadline)
        end = min(deadline, time.monotonic() + LIST_S)
        while untold := self._untold():
            if time.monotonic() + _TICK_S >= end:
                raise Unreachable(
                    "not all guests of the pool are known", f"host {untold[0]} has not told of its guests"
                )
            await asyncio.sleep(_TICK_S)
        return [
            merge(sightings, self.directory.lasts.nodes(uuid)) for uuid, sightings in self.directory.guests().items()
        ]

    def _untold(self) -> list[int]:
        """Return the members whose guests are not known yet; what fence_virtd has told by now may be all it has."""
        now, directory = time.monotonic(), self.directory
        return [
            node
            for node in sorted(directory.members)
            if not directory.hosts[node].is_listed and not directory.is_reference(node, now)
        ]

    async def carry_out(self, action: Action, guest: Guest, deadline: float) -> tuple[Code, str]:
        """Carry out *action* on the guest as find_for() gave it.  Raises VmfenceError when it failed."""
        assert isinstance(guest, Sighted)
        outcome: Outcome = await self._follow_steps(procedure.carry_out(action, guest, guest.view), deadline)
        return outcome.code, outcome.detail

    async def _follow_steps(self, steps: Steps, deadline: float) -> Any:
        token = ("service", next(self._tokens))
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[token] = future
        try:
            self._member.begin(token, steps, deadline, time.monotonic())
            self._carry_out_effects()
            return await future
        finally:
            del self._waiting[token]

    # Told by the link

    def connected(self, me: int, nodes: dict[int, str] | None) -> None:
        """The group was joined."""
        self._upkeep.take_nodes(nodes)
        self._member.joined_group(me)
        log.info("host %d of the pool", me)

    def lost(self, why: str) -> None:
        """Corosync is gone."""
        self._member.left_group(why, time.monotonic(), time.time())
        self._carry_out_effects()

    def happened(self, events: list[Event], is_quorate: bool) -> None:
        """Take what the group tells; what fails to be taken costs nothing of the rest."""
        if is_quorate != self.directory.is_quorate:
            text = "quorate" if is_quorate else "not quorate: no guest out of sight is called off"
            log.log(logging.INFO if is_quorate else logging.WARNING, "the pool is %s", text)
        self._member.quorum_changed(is_quorate, time.time())
        for event in events:
            try:
                self._take(event)
            except PacketError as error:
                log.warning("a message of the pool is not understood: %s", error)
            except Exception:
                log.exception("a message of the pool was not taken: %r", event)
        self._carry_out_effects()

    def _take(self, event: Event) -> None:
        if isinstance(event, Members):
            self._members_changed(event.nodes)
        elif isinstance(event, Up):
            self._member.view_changed(event.nodes, time.time())
        else:
            self._delivered(event)

    def _members_changed(self, nodes: frozenset[int]) -> None:
        before = self.directory.members
        self._member.members_changed(nodes, time.monotonic(), time.time())
        if nodes != before:
            log.info("hosts of the pool: %s", ", ".join(map(str, sorted(nodes))))
        if before - nodes:
            self._upkeep.save()

    def _delivered(self, delivery: Delivery) -> None:
        message = messages.decode(delivery.data)
        if message is not None:
            self._member.received(delivery.node, message, time.monotonic())

    # Told by the upkeep

    def guests_read(self, guests: Iterable[Entry]) -> None:
        """Take the guests of this host."""
        self._member.guests_read(guests)
        self._carry_out_effects()

    def sight_changed(self, is_blind: bool) -> None:
        """Take whether the guests of this host cannot be read."""
        self._member.sight_changed(is_blind)
        self._carry_out_effects()

    def fences_noted(self, newest: Mapping[int, float]) -> None:
        """Take when hosts that are here were fenced last, by the fencer's clock."""
        self._member.fences_noted(newest)
        self._carry_out_effects()

    # Effects

    def _carry_out_effects(self) -> None:
        if self._is_flushing:
            return
        self._is_flushing = True
        try:
            while effects := self._member.take():
                for effect in effects:
                    self._carry_out_effect(effect)
        finally:
            self._is_flushing = False

    def _carry_out_effect(self, effect: Effect) -> None:
        if isinstance(effect, Send):
            try:
                self._link.send(messages.encode(effect.message), effect.until_s)
            except PacketError as error:
                log.warning("not told to the pool: %s", error)
        elif isinstance(effect, ReadGuests):
            self._upkeep.read_guests()
        elif isinstance(effect, LookHere):
            self._tasks.run(self._look_here(effect))
        elif isinstance(effect, Act):
            self._tasks.run(self._act(effect))
        elif isinstance(effect, FindFenced):
            self._tasks.run(self._find_fenced(effect))
        elif isinstance(effect, NoteFences):
            if self._fenced_command is None:
                self._upkeep.note_fences(effect.nodes)
        elif isinstance(effect, Done):
            future = self._waiting.get(effect.token)
            if future is not None and not future.done():
                future.set_exception(effect.error) if effect.error else future.set_result(effect.result)

    async def _look_here(self, effect: LookHere) -> None:
        guests, trouble = await self._hands.look(effect.target, effect.is_for_start)
        self._member.looked(effect, guests, trouble, time.monotonic())
        self._carry_out_effects()

    async def _act(self, effect: Act) -> None:
        outcome = await self._hands.act(effect, lambda: effect.asker not in self.directory.members)
        self._member.acted(effect, outcome)
        self._carry_out_effects()
        self._upkeep.read_guests()

    async def _find_fenced(self, effect: FindFenced) -> None:
        fenced = await self._hands.find_fenced(effect.hosts, self.directory.configured or {})
        self._member.fenced_found(effect.token, fenced, time.monotonic())
        self._carry_out_effects()

    async def _keep_time(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            if self._member.is_waiting():
                self._member.tick(time.monotonic())
                self._carry_out_effects()

    def _program(self, node: int, now: float) -> str:
        if node not in self.directory.members:
            return ""
        if self.directory.hosts[node].is_ours:
            return "vmfence"
        return "fence_virtd" if self.directory.is_reference(node, now) else "unknown yet"


def merge(sightings: list[tuple[int, Entry]], last: Iterable[int]) -> Guest:
    """Return one guest as several hosts have told of it: an active one counts.

    Shut off only where who had it active *last* says so; else it may run where nobody is here to tell.
    """
    ended = {node for node, entry in sightings if entry.is_off}
    has_moved = any(entry.moved for _, entry in sightings)
    best = next((entry for _, entry in sightings if entry.is_active), None)
    if best is not None:
        return Guest(best.name, best.uuid, State(best.state) if best.state in State._value2member_map_ else State.NONE)
    where = set(last)
    is_off = bool(ended) and where <= ended and (bool(where) or not has_moved)
    entry = sightings[0][1]
    return Guest(entry.name, entry.uuid, State.SHUT_OFF if is_off else State.NONE)
