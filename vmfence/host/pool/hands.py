"""What a member of a pool wants done on this host: look at libvirt, act, ask who was fenced.

Each call ends in time, and none that hangs delays another, or the end of the daemon.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, Callable, Protocol

from vmfence.errors import GuestNotFound, ToolMissing, Unreachable, VmfenceError
from vmfence.host.backends.base import Backend, Guest
from vmfence.host.pool import fenced
from vmfence.host.pool.effects import Act, Departed
from vmfence.host.pool.messages import Entry
from vmfence.host.pool.procedure import Outcome
from vmfence.host.pool.workers import Workers
from vmfence.host.power import look
from vmfence.protocol.reply import Code, State
from vmfence.protocol.request import Action

log = logging.getLogger(__name__)

LOOK_HERE_S = 5.5
# A program that hangs is ended after fenced.TIMEOUT_S; one that cannot be ended is left alone then.
FENCED_S = fenced.TIMEOUT_S + 1.0
# Answers that are so young are not asked for again: of one request, and of several at once.
FRESH_S = 2.0
_ASKED_MAX = 64


class Here(Protocol):
    """What this host can do by itself: the service."""

    backend: Backend

    async def carry_out_here(
        self, action: Action, uuid: str, is_gone: Callable[[], bool], deadline: float
    ) -> tuple[Code, str, State]:
        """Carry out *action* on a guest of this host; return how, and which state it had directly before its end."""


class Hands:
    """The doing of one host; *fenced_command* tells who was fenced, Pacemaker where it is None."""

    def __init__(self, here: Here, fenced_command: str | None = None) -> None:
        self._here, self._fenced_command = here, fenced_command
        self._workers = Workers("who tells which hosts were fenced", _ASKED_MAX)
        self._asked: dict[Hashable, asyncio.Task[Any]] = {}

    async def look(self, target: str, is_for_start: bool) -> tuple[tuple[Entry, ...], str]:
        """Return the guest called *target* as libvirt has it, and why that cannot be told."""
        deadline = time.monotonic() + LOOK_HERE_S
        try:
            return (entry_of(await look(self._here.backend, target, is_for_start, deadline)),), ""
        except GuestNotFound:
            return (), ""
        except VmfenceError as error:
            return (), str(error)

    async def act(self, effect: Act, is_gone: Callable[[], bool]) -> Outcome:
        """Carry out an order; *is_gone* tells whether the asker is."""
        code, detail, ended = await self._here.carry_out_here(effect.action, effect.uuid, is_gone, effect.until_s)
        log.info("%s of %s for host %d: %s %s", effect.action, effect.uuid, effect.asker, code.name.lower(), detail)
        return Outcome(code, detail, int(ended))

    async def find_fenced(self, hosts: Iterable[Departed], names: Mapping[int, str]) -> frozenset[int]:
        """Return those of *hosts* that were fenced since they left; all are asked for at once."""

        async def find(host: Departed) -> int | None:
            try:
                is_fenced = await self._is_fenced(host, names.get(host.node, ""))
            except (ToolMissing, Unreachable) as error:
                log.info("whether host %d was fenced is not known: %s", host.node, error)
            except VmfenceError as error:
                log.warning("whether host %d was fenced is not known: %s", host.node, error)
            else:
                return host.node if is_fenced else None
            return None

        return frozenset(filter(None, await asyncio.gather(*map(find, hosts))))

    async def newest_fencings(self) -> dict[str, float] | None:
        """Return when each node was fenced last, by name and the fencer's clock; None where that cannot be told."""
        if self._fenced_command is not None:
            return None
        try:
            return fenced.newest_fencings(await self._workers.run(fenced.read_history, FENCED_S))
        except VmfenceError as error:
            log.debug("which hosts were fenced is not known yet: %s", error)
            return None

    async def _is_fenced(self, host: Departed, name: str) -> bool:
        command, node, left_at = self._fenced_command, host.node, host.left_at
        if not name:
            return False
        if command is not None:
            asked = (node, name, left_at)
            return bool(await self._once(asked, lambda: fenced.ask_command(command, node, name, left_at)))
        history = await self._once("history", fenced.read_history)
        return fenced.was_fenced_since(history, name, left_at, time.time(), host.fence_before)

    async def _once(self, asked: Hashable, work: Callable[[], Any]) -> Any:
        """Return what *work* returns; together with others who ask the same, now or a moment ago."""
        if asked not in self._asked:
            self._asked[asked] = asyncio.ensure_future(self._workers.run(work, FENCED_S))
            self._asked[asked].add_done_callback(lambda ended: self._grow_stale(asked, ended))
        return await asyncio.shield(self._asked[asked])

    def _grow_stale(self, asked: Hashable, ended: asyncio.Task[Any]) -> None:
        if not ended.cancelled():
            ended.exception()  # marked as seen: nobody may be waiting any more
        asyncio.get_running_loop().call_later(FRESH_S, self._asked.pop, asked, None)


def entry_of(guest: Guest) -> Entry:
    """Return *guest* for the member."""
    return Entry(guest.name, guest.uuid, int(guest.state), guest.moved, is_unexplained=guest.is_unexplained)
