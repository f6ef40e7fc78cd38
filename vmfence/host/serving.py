"""The listeners of a daemon: opened, exchanged on reload, opened again when closed against their will.

A listener that cannot be opened stops the start, or the reload, unless its block says optional: then it is kept with
its trouble, and tried again with those that broke later.  Opening may take long (libvirt hangs): only the start waits
for that, and only for one that is not optional.  Otherwise nobody waits for longer than a moment: a reload goes on, and
what is not open yet is treated like one that broke later.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Callable

from vmfence.errors import ListenError
from vmfence.host import assemble
from vmfence.host.assemble import Plan, Wanted
from vmfence.host.backends.base import Backend
from vmfence.host.listeners.base import Listener
from vmfence.host.reception import Reception

log = logging.getLogger(__name__)

_OPEN_S = 1.0
_NOT_YET = ListenError("it is not open yet")


@dataclass
class Serving:
    """A listener, what it was made from, what the log has last told of its trouble, and the task that opens it."""

    wanted: Wanted
    listener: Listener
    told: str = ""
    opening: asyncio.Task[ListenError | None] | None = None

    async def close(self) -> None:
        """Close it, open or not yet."""
        if self.opening is not None:
            self.opening.cancel()
            await asyncio.wait({self.opening})
        await self.listener.close()


class Listeners:
    """All listeners.  *wake* is called when one of them wants to be opened again."""

    def __init__(self, reception: Reception, wake: Callable[[], None]) -> None:
        self._reception, self._wake = reception, wake
        self._serving: list[Serving] = []

    def where(self) -> str:
        """Return where requests can arrive."""
        open_ones = [each.listener.where() for each in self._serving if not each.listener.trouble()]
        return "; ".join(open_ones) or "no listener"

    def describe(self) -> list[dict[str, Any]]:
        """Return what ``vmfence host status`` shows of them, fit for JSON."""
        return [
            {
                "where": each.listener.where(),
                "is_optional": each.wanted.settings.optional,
                "is_open": not each.listener.trouble(),
                "trouble": each.listener.trouble(),
                "unheard": each.listener.unheard(),
            }
            for each in self._serving
        ]

    def is_troubled(self) -> bool:
        """Whether one of them is closed against its will."""
        return any(each.listener.trouble() for each in self._serving)

    async def change(self, plan: Plan, backend: Backend) -> None:
        """Make them those of *plan*; unchanged ones are never closed.

        Raises ListenError with those of before in place.  One of them that had to make room may be closed then:
        open_again() tries to open it.
        """
        before = list(self._serving)
        try:
            await self.open_missing(plan, backend, _OPEN_S)
        except ListenError:
            for each in self._serving[len(before) :]:
                await each.close()
            self._serving = before
            await self.open_again()
            raise
        wanted = plan.wanted()
        self._serving = [each for each in self._serving if each.wanted in wanted]
        for each in before:
            if each.wanted not in wanted:
                await each.close()

    async def open_missing(self, plan: Plan, backend: Backend, limit_s: float | None = None) -> None:
        """Open the listeners of *plan* that are not there yet, each within *limit_s*; all demand then what it says.

        Raises ListenError for one that is not optional and cannot be opened; beyond *limit_s* it is tried on.
        """
        wanted = plan.wanted()
        present = [each.wanted for each in self._serving]
        for one, security in zip(wanted, plan.securities):
            if one not in present:
                listener = assemble.make_listener(one, security, plan.policy, self._reception, backend, self._wake)
                serving = Serving(one, listener)
                await self._open(serving, wanted, limit_s)
                self._serving.append(serving)
        for each in self._serving:
            if each.wanted in wanted:
                place = wanted.index(each.wanted)
                each.wanted = wanted[place]  # line and optional may have changed
                each.listener.secure(plan.securities[place], plan.policy.groups is not None)

    async def open_again(self) -> None:
        """Try to open those that are closed against their will, each for itself."""
        for each in self._serving:
            if each.told and not each.listener.trouble():
                log.info("listening again: %s", each.listener.where())
                each.told = ""
        await self._open_beside([each for each in self._serving if each.listener.trouble()])

    def links_changed(self) -> None:
        """Let them look at the network interfaces again."""
        for each in self._serving:
            each.listener.links_changed()
        self.tell_troubles()

    def tell_troubles(self) -> None:
        """Log trouble that the log does not have yet."""
        for each in self._serving:
            trouble = each.listener.trouble()
            if trouble and not each.told:
                _tell(each, ListenError(trouble))

    async def close(self) -> None:
        """Close all."""
        await asyncio.gather(*(each.close() for each in self._serving))

    async def _open(self, serving: Serving, wanted: tuple[Wanted, ...], limit_s: float | None) -> None:
        """Open a new listener, in the place of one that is not wanted any more.

        Raises ListenError when that fails within *limit_s*, unless it is optional: then, and later, it is tried again.
        """
        settings = serving.wanted.settings
        in_its_way = [
            each for each in self._serving if each.wanted not in wanted and _may_collide(each.wanted, serving.wanted)
        ]
        task = serving.opening = asyncio.create_task(self._open_one(serving, in_its_way, is_new=True))
        await asyncio.wait({task}, timeout=_OPEN_S if settings.optional else limit_s)
        error = task.result() if task.done() else _NOT_YET
        if error is None:
            return
        if task.done() and not settings.optional:
            await serving.close()
            raise ListenError(f"listener {settings.name}: {error.what}", error.why, error.remedy) from error
        _tell(serving, error)

    async def _open_beside(self, closed: list[Serving]) -> None:
        """Open those in tasks of their own, and wait a moment for them."""
        tasks = []
        for each in closed:
            if each.opening is None or each.opening.done():
                each.opening = asyncio.create_task(self._open_one(each))
            tasks.append(each.opening)
        if tasks:
            await asyncio.wait(tasks, timeout=_OPEN_S)
        for each, task in zip(closed, tasks):
            if not task.done() and not each.told:
                _tell(each, _NOT_YET)

    async def _open_one(
        self, serving: Serving, in_its_way: Sequence[Serving] = (), is_new: bool = False
    ) -> ListenError | None:
        """Open it; log how that ends unless it *is_new* and still waited for.  Return why it cannot be."""
        error = await _attempt(serving.listener, in_its_way)
        if is_new and not serving.told:
            return error
        if error is not None:
            _tell(serving, error)
        elif not serving.listener.trouble():
            log.info("listening again: %s", serving.listener.where())
            serving.told = ""
        return error


def _tell(serving: Serving, error: ListenError) -> None:
    """Log why no request can arrive at a listener, unless the log has it."""
    trouble = ": ".join(filter(None, (error.what, error.why)))
    if trouble != serving.told:
        serving.told = trouble
        log.error("no request can arrive at %s: %s", serving.listener.where(), ListenError(trouble, "", error.remedy))


def _may_collide(one: Wanted, other: Wanted) -> bool:
    """Whether two listeners may want the same address, in whatever way it is written."""
    port, other_port = (getattr(each.settings, "port", None) for each in (one, other))
    return one.settings.name == other.settings.name and port == other_port and port is not None


async def _attempt(listener: Listener, in_its_way: Sequence[Serving]) -> ListenError | None:
    """Open *listener*; those *in_its_way* are closed for it only if they are.  Return why it cannot be."""
    try:
        await listener.open()
    except ListenError as error:
        if not in_its_way or not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.EADDRINUSE:
            return error
        for serving in in_its_way:
            await serving.close()
        return await _attempt(listener, ())
    return None
