"""The daemon: start, reload, stop.

A signal sets a flag; one loop looks at it.  A reload builds the new parts first and keeps the old ones when anything
about the new ones is wrong.  A stop takes no new requests and finishes those that have begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import time
from dataclasses import asdict, dataclass
from typing import Any

from vmfence import __version__
from vmfence.config import settings as configuration
from vmfence.config.settings import ListenerSettings, Settings
from vmfence.errors import ListenError, Unreachable, VmfenceError
from vmfence.host import assemble
from vmfence.host.control import ControlSocket
from vmfence.host.history import History
from vmfence.host.links import LinkWatch
from vmfence.host.listeners.base import Listener
from vmfence.host.notify import ServiceManager
from vmfence.host.reception import Reception
from vmfence.host.service import Rules, Service
from vmfence.host.signatures import SignatureMemory

log = logging.getLogger("vmfence")

FINISH_S = 45.0
_RETRY_S = 2.0
_TICK_S = 10.0
_EXPIRE_EVERY_S = 3600.0
_PING_S = 5.0
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


@dataclass(frozen=True)
class Options:
    """What the command line says: where the configuration is, and fence_virtd's -d, -w, -p."""

    config: str | None = None
    debug: int | None = None
    wait_for_init: bool = False
    pid_file: str | None = None


@dataclass(frozen=True)
class Serving:
    """A listener that is open, and the settings it was made from."""

    settings: ListenerSettings
    listener: Listener


class Daemon:
    """One daemon process.  Create and run it inside its event loop."""

    def __init__(self, options: Options, manager: ServiceManager) -> None:
        self._options, self._manager = options, manager
        self._path = configuration.find(options.config)
        self._plan = self._load()
        self._backend = assemble.make_backend(self._plan.settings)
        self._service = Service(self._backend, _rules(self._plan))
        state_dir = self._plan.settings.daemon.state_dir
        self._reception = Reception(self._service, SignatureMemory(state_dir), History(state_dir))
        self._control = ControlSocket(self._plan.settings.daemon.control_socket, self.describe)
        self._started_at = time.time()
        self._serving: list[Serving] = []
        self._wake = asyncio.Event()
        self._stop = self._reload = False

    async def run(self) -> None:
        """Serve until SIGTERM, SIGINT or SIGQUIT.  Raises VmfenceError when the start fails."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._loop_failed)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            loop.add_signal_handler(number, self._ask, "_stop")
        loop.add_signal_handler(signal.SIGHUP, self._ask, "_reload")
        await self._control.open()
        links = LinkWatch(self._links_changed)
        housekeeping = [asyncio.create_task(self._housekeep())]
        if self._manager.watchdog_s:
            housekeeping.append(asyncio.create_task(self._feed_watchdog(self._manager.watchdog_s / 2)))
        try:
            if await self._start():
                self._manager.ready(self._status())
                log.info("ready: %s", self._status())
                await self._serve()
        finally:
            links.close()
            self._control.close()
            for task in housekeeping:
                task.cancel()
            await self._finish()

    def describe(self) -> dict[str, Any]:
        """Return what ``vmfence host status`` shows, fit for JSON."""
        return {
            "program": f"vmfence {__version__}",
            "pid": os.getpid(),
            "started_at": self._started_at,
            "config": os.path.abspath(self._plan.settings.path),
            "listeners": [_describe(serving.listener) for serving in self._serving],
            "backend": self._plan.settings.backend.name,
            "hypervisors": [asdict(status) for status in self._backend.describe()],
            "keys": [key.as_dict() for key in self._plan.key_uses()],
            "access_rules": len(self._plan.policy.groups or ()),
            **self._reception.describe(),
        }

    def is_busy(self) -> bool:
        """Whether hypervisor calls are still running that nobody waits for."""
        return self._backend.is_busy()

    def _loop_failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Tell of an error outside any request.

        With no descriptor left asyncio (3.11) reports the same one for every place in the backlog, each second.
        """
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in _EXHAUSTED:
            remedy = "raise the limit of open files (LimitNOFILE)"
            self._reception.reject("waiting clients", ListenError("cannot accept", error.strerror or "", remedy))
        else:
            loop.default_exception_handler(context)

    def _ask(self, flag: str) -> None:
        setattr(self, flag, True)
        self._wake.set()

    def _load(self) -> assemble.Plan:
        settings = configuration.load(self._path)
        for warning in settings.warnings:
            log.warning("%s", warning)
        plan = assemble.read_plan(settings)
        level = self._options.debug if self._options.debug is not None else settings.daemon.debug
        logging.getLogger("vmfence").setLevel(logging.DEBUG if level else logging.INFO)
        return plan

    async def _start(self) -> bool:
        """Open everything; with wait_for_init try until it works.  Return whether to serve (False: told to stop)."""
        patient = self._options.wait_for_init or self._plan.settings.daemon.wait_for_init
        told = ""
        while not self._stop:
            try:
                await self._check_backend()
                await self._open_all(self._plan)
                return True
            except (ListenError, Unreachable) as error:
                if not patient:
                    raise
                if str(error) != told:
                    told = str(error)
                    log.warning("not ready yet, trying on: %s", error)
            await self._pause()
        return False

    async def _check_backend(self) -> None:
        """Raise Unreachable when no hypervisor answers; of several, a silent one is only told."""
        try:
            await self._backend.ping(time.monotonic() + _PING_S)
        except Unreachable as error:
            try:
                await self._backend.guests(time.monotonic() + _PING_S)
            except Unreachable:
                raise error from None
            log.error("%s: status and off of its guests will fail", error)

    async def _serve(self) -> None:
        while not self._stop:
            if not self._reload:
                await self._wake.wait()
                self._wake.clear()
                continue
            self._reload = False
            self._manager.reloading()
            await self._take_new_settings()
            self._manager.ready(self._status())

    async def _take_new_settings(self) -> None:
        """Swap to the settings on disk, or keep the present ones if anything about the new ones is wrong."""
        try:
            plan = self._load()
            _refuse_moved_state(self._plan.settings, plan.settings)
        except VmfenceError as error:
            log.error("reload refused, the settings in force stay: %s", error)
            return
        old = self._plan
        try:
            await self._open_all(plan)
        except ListenError as error:
            log.error("reload refused, the settings in force stay: %s", error)
            await self._restore(old)
            return
        self._plan = plan
        self._swap_backend(plan.settings, old.settings)
        self._service.rules = _rules(plan)
        log.info("reloaded: %s", self._status())

    async def _restore(self, plan: assemble.Plan) -> None:
        """Open the listeners of *plan* again, however long it takes: they were open a moment ago."""
        while not self._stop:
            try:
                await self._open_all(plan)
                return
            except ListenError as error:
                log.error("a listener is down, trying on: %s", error)
            await self._pause()

    async def _pause(self) -> None:
        """Wait a moment, or for a signal or a change of the interfaces."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._wake.wait(), _RETRY_S)
        self._wake.clear()

    async def _open_all(self, plan: assemble.Plan) -> None:
        """Make the open listeners those of *plan*; unchanged ones stay open.  Raises ListenError, some then closed."""
        wanted = plan.settings.listeners
        for serving in [s for s in self._serving if s.settings not in wanted]:
            await serving.listener.close()
            self._serving.remove(serving)
        present = [serving.settings for serving in self._serving]
        for settings, security in zip(wanted, plan.securities):
            if settings not in present:
                listener = assemble.make_listener(settings, security, plan.policy, self._reception)
                await listener.open()
                self._serving.append(Serving(settings, listener))
        for serving in self._serving:
            serving.listener.secure(plan.securities[wanted.index(serving.settings)], plan.policy.groups is not None)
        self._reception.is_silent_about_unknown = plan.settings.daemon.unknown_guest == "ignore"

    def _swap_backend(self, new: Settings, old: Settings) -> None:
        if new.backend == old.backend:
            return
        retired, self._backend = self._backend, assemble.make_backend(new)
        self._service.backend = self._backend
        retired.close()

    def _status(self) -> str:
        return "; ".join(serving.listener.where() for serving in self._serving) or "no listener"

    def _links_changed(self) -> None:
        for serving in self._serving:
            serving.listener.links_changed()
        self._wake.set()

    async def _housekeep(self) -> None:
        expired_at = -_EXPIRE_EVERY_S
        while True:
            for line in self._reception.rejects.flush(time.monotonic()):
                log.warning("%s", line)
            if time.monotonic() - expired_at >= _EXPIRE_EVERY_S:
                expired_at = time.monotonic()
                await self._reception.expire_signatures(self._plan.key_ids())
            await asyncio.sleep(_TICK_S)

    async def _feed_watchdog(self, interval_s: float) -> None:
        while True:
            self._manager.alive()
            await asyncio.sleep(interval_s)

    async def _finish(self) -> None:
        self._manager.stopping()
        log.info("stopping")
        for serving in self._serving:
            await serving.listener.close()
        end = time.monotonic() + FINISH_S
        await self._reception.drain(FINISH_S)
        left = await self._service.finish(end - time.monotonic())
        if left:
            log.error("stopped with %d actions under way", left)
        self._backend.close()
        self._reception.close()


def _describe(listener: Listener) -> dict[str, Any]:
    return {"where": listener.where(), "is_open": not listener.trouble(), "trouble": listener.trouble()}


def _rules(plan: assemble.Plan) -> Rules:
    return Rules(plan.policy, plan.settings.daemon.reboot_method)


def _refuse_moved_state(old: Settings, new: Settings) -> None:
    for name in ("state_dir", "control_socket"):
        if getattr(old.daemon, name) != getattr(new.daemon, name):
            raise VmfenceError(f"{name} cannot change while the daemon runs", "", "restart the daemon")
