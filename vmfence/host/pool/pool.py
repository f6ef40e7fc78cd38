"""The pool as the service and the daemon see it: carries out the effects of a member (member.py), feeds it the world.

A guest is found and acted on wherever it is; what is to be done here is done by the service of this host.
Deadlines are seconds of the monotonic clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import time
from collections.abc import Coroutine
from typing import Any, Callable, Protocol

from vmfence.errors import BackendError, GuestNotFound, PacketError, Unreachable, VmfenceError
from vmfence.host.backends.base import Backend, Guest, Watch
from vmfence.host.disk import Disk, DiskSlow
from vmfence.host.pool import messages, procedure, record
from vmfence.host.pool.corosync import Delivery, Members
from vmfence.host.pool.directory import Directory
from vmfence.host.pool.effects import Act, Done, Effect, FindFenced, LookHere, ReadGuests, Send
from vmfence.host.pool.fenced import find_fenced
from vmfence.host.pool.link import Link
from vmfence.host.pool.member import Member
from vmfence.host.pool.messages import Entry
from vmfence.host.pool.procedure import Outcome, Sighted, Steps
from vmfence.host.power import look
from vmfence.protocol.reply import Code, State
from vmfence.protocol.request import Action

log = logging.getLogger(__name__)

LOOK_HERE_S = 5.5
READ_S = 12.0
_READ_EVERY_S = 30.0
_TICK_S = 0.05
_PAUSE_S = 0.05
_SAVE_EVERY_S = 3.0
_NODES_EVERY_S = 60.0


class Here(Protocol):
    """What this host can do by itself: the service."""

    backend: Backend

    async def carry_out_here(
        self, action: Action, uuid: str, is_gone: Callable[[], bool], deadline: float
    ) -> tuple[Code, str]:
        """Carry out *action* on a guest of this host."""


class Pool:
    """This host's part in the pool.  Create it in the event loop."""

    def __init__(self, here: Here, folder: str, fenced_command: str | None = None) -> None:
        """Raises VmfenceError when what was remembered in *folder* cannot be read."""
        self._here, self._folder, self._fenced_command = here, folder, fenced_command
        self.directory = Directory(record.load(folder, time.time()))
        self._member = Member(self.directory, int.from_bytes(os.urandom(4), "little"))
        self._link = Link(self)
        self._watch: Watch | None = None
        self._disk = Disk("pool")
        self._tokens = itertools.count()
        self._waiting: dict[Any, asyncio.Future[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._must_read = asyncio.Event()
        self._saved = self.directory.changes
        self._is_flushing = False

    async def open(self) -> None:
        """Join the group.  Raises VmfenceError when that cannot be."""
        await self._link.open()
        if not self._tasks:
            self.follow(self._here.backend)
            for work in (self._keep_time(), self._keep_guests(), self._keep_record(), self._keep_nodes()):
                self._run_beside(work)

    def follow(self, backend: Backend) -> None:
        """Follow the guests of *backend* from now on."""
        if self._watch is not None:
            self._watch.close()
        self._watch = backend.watch(None)
        self._watch.changed = self._watch.heard = self._must_read.set
        self._must_read.set()

    def close(self) -> None:
        """Leave the group."""
        for task in self._tasks:
            task.cancel()
        if self._watch is not None:
            self._watch.close()
        self._link.close()
        self._disk.close(lambda: None)

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
        quorate = directory.is_quorate
        return {"node": directory.me, "is_quorate": quorate, "trouble": self._link.trouble, "hosts": hosts}

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

    async def find_for(self, action: Action, target: str, deadline: float) -> Guest:
        """As find(), for carry_out(), which looks after what has to be vouched for."""
        guest: Guest = await self._follow_steps(procedure.find(target, action is Action.ON, True), deadline)
        return guest

    async def guests(self, deadline: float) -> list[Guest]:
        """Return the guests of all hosts in the group, as they were told; those of hosts that left are not shown."""
        await self.ping(deadline)
        return [_merge(sightings) for sightings in self.directory.guests().values()]

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
        self.directory.set_configured(nodes)
        self._member.joined_group(me)
        log.info("host %d of the pool", me)

    def lost(self, why: str) -> None:
        """Corosync is gone."""
        self._member.left_group(why, time.monotonic(), time.time())
        self._carry_out_effects()

    def happened(self, events: list[Members | Delivery], is_quorate: bool) -> None:
        """Take what the group tells."""
        now = time.monotonic()
        if is_quorate != self.directory.is_quorate:
            text = "quorate" if is_quorate else "not quorate: no guest out of sight is called off"
            log.log(logging.INFO if is_quorate else logging.WARNING, "the pool is %s", text)
        self._member.quorum_changed(is_quorate)
        for event in events:
            if isinstance(event, Members):
                self._members_changed(event.nodes, now)
            else:
                self._delivered(event, now)
        self._carry_out_effects()

    def _members_changed(self, nodes: frozenset[int], now: float) -> None:
        before = self.directory.members
        self._member.members_changed(nodes, now, time.time())
        if nodes != before:
            log.info("hosts of the pool: %s", ", ".join(map(str, sorted(nodes))))
        if before - nodes:
            self._run_beside(self._save())

    def _delivered(self, delivery: Delivery, now: float) -> None:
        try:
            message = messages.decode(delivery.data)
        except PacketError as error:
            log.warning("from host %d: %s", delivery.node, error)
            return
        if message is not None:
            self._member.received(delivery.node, message, now)

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
                self._link.send(messages.encode(effect.message))
            except PacketError as error:
                log.warning("not told to the pool: %s", error)
        elif isinstance(effect, ReadGuests):
            self._must_read.set()
        elif isinstance(effect, LookHere):
            self._run_beside(self._look_here(effect))
        elif isinstance(effect, Act):
            self._run_beside(self._act(effect))
        elif isinstance(effect, FindFenced):
            self._run_beside(self._find_fenced(effect))
        elif isinstance(effect, Done):
            future = self._waiting.get(effect.token)
            if future is not None and not future.done():
                future.set_exception(effect.error) if effect.error else future.set_result(effect.result)

    async def _look_here(self, effect: LookHere) -> None:
        guests: tuple[Entry, ...] = ()
        trouble = ""
        try:
            deadline = time.monotonic() + LOOK_HERE_S
            guests = (_entry(await look(self._here.backend, effect.target, effect.is_for_start, deadline)),)
        except GuestNotFound:
            pass
        except VmfenceError as error:
            trouble = str(error)
        self._member.looked(effect, guests, trouble, time.monotonic())
        self._carry_out_effects()

    async def _act(self, effect: Act) -> None:
        asker = effect.asker

        def is_gone() -> bool:
            return asker not in self.directory.members

        code, detail = await self._here.carry_out_here(effect.action, effect.uuid, is_gone, effect.until_s)
        log.info("%s of %s for host %d: %s %s", effect.action, effect.uuid, asker, code.name.lower(), detail)
        self._member.acted(effect, Outcome(code, detail))
        self._carry_out_effects()
        self._must_read.set()

    async def _find_fenced(self, effect: FindFenced) -> None:
        names = dict(self.directory.configured or {})
        loop = asyncio.get_running_loop()
        fenced = await loop.run_in_executor(None, find_fenced, effect.hosts, names, self._fenced_command)
        self._member.fenced_found(effect.token, fenced, time.monotonic())
        self._carry_out_effects()

    # Kept up beside

    def _run_beside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a part of the pool failed", exc_info=task.exception())

    async def _keep_time(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            if self._member.is_waiting():
                self._member.tick(time.monotonic())
                self._carry_out_effects()

    async def _keep_guests(self) -> None:
        """Read the guests of this host when something happens to them, and now and then."""
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._must_read.wait(), _READ_EVERY_S)
            await asyncio.sleep(_PAUSE_S)  # events come in bursts
            self._must_read.clear()
            backend = self._here.backend
            try:
                if self._watch is not None and self._watch.trouble():
                    await self._watch.open()
                found = await backend.guests(time.monotonic() + READ_S)
            except BackendError as error:
                log.warning("the pool is not told of this host's guests: %s", error)
                await asyncio.sleep(1.0)
                self._must_read.set()
                continue
            entries = {guest.uuid: _entry(guest) for guest in found}
            if not all(status.is_answering for status in backend.describe()):
                # What a silent hypervisor has is not gone.
                mine = self.directory.hosts.get(self.directory.me)
                entries = {**(mine.guests if mine else {}), **entries}
            self._member.guests_read(entries.values())
            self._carry_out_effects()

    async def _keep_record(self) -> None:
        while True:
            await asyncio.sleep(_SAVE_EVERY_S)
            if self.directory.changes != self._saved:
                await self._save()

    async def _save(self) -> None:
        self._saved = self.directory.changes
        try:
            await self._disk.run(record.save, self._folder, record.take(self.directory))
        except (OSError, DiskSlow) as error:
            log.error("what the other hosts have is not remembered across a restart: %s", error)

    async def _keep_nodes(self) -> None:
        """Follow the list of nodes in Corosync's configuration."""
        while True:
            await asyncio.sleep(_NODES_EVERY_S)
            nodes = await self._link.read_nodes()
            if nodes is not None:
                self.directory.set_configured(nodes)

    def _program(self, node: int, now: float) -> str:
        if node not in self.directory.members:
            return ""
        if self.directory.hosts[node].is_ours:
            return "vmfence"
        return "fence_virtd" if self.directory.is_reference(node, now) else "unknown yet"


def _entry(guest: Guest) -> Entry:
    return Entry(guest.name, guest.uuid, int(guest.state), guest.moved)


def _merge(sightings: list[tuple[int, Entry]]) -> Guest:
    """Return one guest as several hosts have told of it: an active one counts."""
    best = next((entry for _, entry in sightings if entry.is_active), sightings[0][1])
    return Guest(best.name, best.uuid, State(best.state) if best.state in State._value2member_map_ else State.NONE)
