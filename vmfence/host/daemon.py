"""The daemon: start, reload, stop.

A signal sets a flag; one loop looks at it.  A reload builds the new parts first and keeps the old ones when anything
about the new ones is wrong.  The same loop opens again what is closed against its will.  A stop takes no new requests
and finishes those that have begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import threading
import time
from collections.abc import Coroutine
from dataclasses import asdict, dataclass
from typing import Any

from vmfence import __version__
from vmfence.config import settings as configuration
from vmfence.config.settings import Settings
from vmfence.errors import ListenError, Unreachable, VmfenceError
from vmfence.host import assemble
from vmfence.host.backends.base import Backend
from vmfence.host.control import RESTART, ControlSocket
from vmfence.host.history import History
from vmfence.host.links import LinkWatch
from vmfence.host.notify import ServiceManager
from vmfence.host.reception import Reception
from vmfence.host.service import Rules, Service
from vmfence.host.serving import Listeners
from vmfence.host.signatures import SignatureMemory

log = logging.getLogger("vmfence")

FINISH_S = 45.0
# Longer than any request, with the start that ends a reboot, takes.
_RETIRE_S = 75.0
_CLOSE_S = 1.0
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


class Retired:
    """A backend that is not asked any more.  It is closed in a thread: that asks libvirt, which may hang."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._closing: threading.Thread | None = None

    def close(self) -> None:
        """Begin to close it, the first time."""
        if self._closing is None:
            self._closing = threading.Thread(target=self._backend.close, name="close backend", daemon=True)
            self._closing.start()

    def wait(self, limit_s: float) -> None:
        """Wait until it is closed, at most *limit_s*."""
        if self._closing is not None:
            self._closing.join(max(0.0, limit_s))

    def is_over(self) -> bool:
        """Whether it is closed and none of its calls is running."""
        return self._closing is not None and not self.is_busy()

    def is_busy(self) -> bool:
        """Whether a thread hangs in it."""
        return self._backend.is_busy() or (self._closing is not None and self._closing.is_alive())


class Daemon:
    """One daemon process.  Create and run it inside its event loop."""

    def __init__(self, options: Options, manager: ServiceManager) -> None:
        self._options, self._manager = options, manager
        self._path = configuration.find(options.config)
        self._plan, self._read_at = self._load()
        self._take_level(self._plan.settings)
        self._refused_reload: dict[str, Any] | None = None
        self._backend = assemble.make_backend(self._plan.settings)
        self._service = Service(self._backend, _rules(self._plan))
        state_dir = self._plan.settings.daemon.state_dir
        self._reception = Reception(self._service, SignatureMemory(state_dir), History(state_dir))
        self._service.pool = self._pool = assemble.make_pool(self._plan.settings, self._service)
        self._control = ControlSocket(self._plan.settings.daemon.control_socket, self.describe, self.describe_pool)
        self._started_at = time.time()
        self._retired: list[Retired] = []
        self._background: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._listeners = Listeners(self._reception, self._listener_changed)
        self._stop = self._reload = self._has_served = False

    async def run(self) -> None:
        """Serve until SIGTERM, SIGINT or SIGQUIT.  Raises VmfenceError when the start fails."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._loop_failed)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            loop.add_signal_handler(number, self._ask, "_stop")
        loop.add_signal_handler(signal.SIGHUP, self._ask, "_reload")
        links = LinkWatch(self._links_changed)
        await self._control.open()
        self._run_beside(self._housekeep())
        if self._manager.watchdog_s:
            self._run_beside(self._feed_watchdog(self._manager.watchdog_s / 2))
        try:
            if await self._start():
                self._has_served = True
                self._manager.ready(self._status())
                log.info("ready: %s", self._status())
                await self._serve()
        finally:
            links.close()
            self._control.close()
            for task in self._background:
                task.cancel()
            await self._finish()

    def describe(self) -> dict[str, Any]:
        """Return what ``vmfence host status`` shows, fit for JSON."""
        return {
            "program": f"vmfence {__version__}",
            "pid": os.getpid(),
            "started_at": self._started_at,
            "read_at": self._read_at,
            "config": os.path.abspath(self._plan.settings.path),
            "refused_reload": self._refused_reload,
            "state_dir": os.path.abspath(self._plan.settings.daemon.state_dir),
            "listeners": self._listeners.describe(),
            "backend": self._plan.settings.backend.name,
            "hypervisors": [asdict(status) for status in self._backend.describe()],
            "pool": None if self._pool is None else self._pool.describe(),
            "keys": [key.as_dict() for key in self._plan.key_uses()],
            "access_rules": len(self._plan.policy.groups or ()),
            **self._reception.describe(),
        }

    def describe_pool(self) -> dict[str, Any] | None:
        """Return what Pool.report() tells, None without a pool."""
        return None if self._pool is None else self._pool.report()

    def is_busy(self) -> bool:
        """Whether threads hang, in a hypervisor or on the disk, that nobody waits for."""
        hangs = self._backend.is_busy() or any(retired.is_busy() for retired in self._retired)
        return hangs or self._reception.is_busy()

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

    def _run_beside(self, work: Coroutine[Any, Any, None]) -> None:
        """Run *work* in a task, until its end or ours."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _load(self) -> tuple[assemble.Plan, float]:
        """Return what the files say now, and since when that is known, in seconds of the wall clock."""
        begun_at = time.time()
        settings = configuration.load(self._path)
        for warning in settings.warnings:
            log.warning("%s", warning)
        return assemble.read_plan(settings), begun_at

    def _take_level(self, settings: Settings) -> None:
        level = self._options.debug if self._options.debug is not None else settings.daemon.debug
        logging.getLogger("vmfence").setLevel(logging.DEBUG if level else logging.INFO)

    async def _start(self) -> bool:
        """Open everything; with wait_for_init try until it works.  Return whether to serve (False: told to stop)."""
        patient = self._options.wait_for_init or self._plan.settings.daemon.wait_for_init
        told = ""
        while not self._stop:
            try:
                await self._check_backend()
                if self._pool is not None:
                    await self._pool.open()
                await self._listeners.open_missing(self._plan, self._backend)
                self._take_rules(self._plan)
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
            if self._reload:
                self._reload = False
                self._manager.reloading()
                await self._take_new_settings()
                self._manager.ready(self._status())
            elif self._listeners.is_troubled():
                await self._pause()
                await self._listeners.open_again()
            else:
                await self._wake.wait()
                self._wake.clear()

    async def _take_new_settings(self) -> None:
        """Swap to the settings on disk, or keep the present ones if anything about the new ones is wrong."""
        try:
            plan, read_at = self._load()
            _refuse_moved_state(self._plan.settings, plan.settings)
            backend = self._backend_for(plan)
            try:
                await self._listeners.change(plan, backend)
            except VmfenceError:
                self._put_away(backend)
                raise
        except VmfenceError as error:
            log.error("reload refused, the settings in force stay: %s", error)
            reason = ": ".join(filter(None, (error.what, error.why)))
            self._refused_reload = {"at": time.time(), "reason": reason, "remedy": error.remedy}
            return
        self._plan, self._read_at, self._refused_reload = plan, read_at, None
        self._take_level(plan.settings)
        self._swap_backend(backend)
        self._take_rules(plan)
        log.info("reloaded: %s", self._status())

    async def _pause(self) -> None:
        """Wait a moment, or for a signal or a change of the interfaces."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._wake.wait(), _RETRY_S)
        self._wake.clear()

    def _take_rules(self, plan: assemble.Plan) -> None:
        self._service.rules = _rules(plan)
        self._reception.is_silent_about_unknown = plan.settings.daemon.unknown_guest == "ignore"

    def _backend_for(self, plan: assemble.Plan) -> Backend:
        """Return the backend in use, or a new one where *plan* names another."""
        same = plan.settings.backend == self._plan.settings.backend
        return self._backend if same else assemble.make_backend(plan.settings)

    def _swap_backend(self, backend: Backend) -> None:
        before, self._backend = self._backend, backend
        self._service.backend = backend
        if self._pool is not None and backend is not before:
            self._pool.follow(backend)
        self._put_away(before)

    def _put_away(self, backend: Backend) -> None:
        """Retire *backend* unless it is the one in use."""
        if backend is not self._backend:
            retired = Retired(backend)
            self._retired = [other for other in self._retired if not other.is_over()] + [retired]
            self._run_beside(self._retire(retired))

    async def _retire(self, retired: Retired) -> None:
        """Close a backend when the requests that began with it, and their actions, are over."""
        end = time.monotonic() + _RETIRE_S
        await self._reception.drain(_RETIRE_S)
        await self._service.finish(max(0.0, end - time.monotonic()))
        retired.close()

    def _status(self) -> str:
        return self._listeners.where()

    def _links_changed(self) -> None:
        self._listeners.links_changed()
        self._wake.set()

    def _listener_changed(self) -> None:
        self._listeners.tell_troubles()
        self._wake.set()

    async def _housekeep(self) -> None:
        expired_at = -_EXPIRE_EVERY_S
        while True:
            try:
                for line in self._reception.rejects.flush(time.monotonic()):
                    log.warning("%s", line)
                if time.monotonic() - expired_at >= _EXPIRE_EVERY_S:
                    expired_at = time.monotonic()
                    await self._reception.expire_signatures(self._plan.key_ids())
            except Exception:
                # The process keeps serving: a defect of ours costs one round, aloud.
                log.exception("housekeeping failed")
            await asyncio.sleep(_TICK_S)

    async def _feed_watchdog(self, interval_s: float) -> None:
        while True:
            self._manager.alive()
            await asyncio.sleep(interval_s)

    async def _finish(self) -> None:
        self._manager.stopping()
        if self._stop or self._has_served:  # else the error that ends the start says enough
            log.info("stopping")
        await self._listeners.close()
        end = time.monotonic() + FINISH_S
        await self._reception.drain(FINISH_S)
        left = await self._service.finish(end - time.monotonic())
        if left:
            log.error("stopped with %d actions under way", left)
        if self._pool is not None:
            self._pool.close()
        await self._close_backends()
        self._reception.close()

    async def _close_backends(self) -> None:
        """Close what is left, waiting a moment: libvirtd complains in its log of those who just go away."""
        self._retired.append(Retired(self._backend))
        for retired in self._retired:
            retired.close()
        end = time.monotonic() + _CLOSE_S
        for retired in self._retired:
            await asyncio.get_running_loop().run_in_executor(None, retired.wait, end - time.monotonic())


def _rules(plan: assemble.Plan) -> Rules:
    return Rules(plan.policy, plan.settings.daemon.reboot_method)


def _refuse_moved_state(old: Settings, new: Settings) -> None:
    for name in ("state_dir", "control_socket"):
        if getattr(old.daemon, name) != getattr(new.daemon, name):
            raise VmfenceError(f"{name} cannot change while the daemon runs", "", RESTART)
    for name in ("name", "fenced_command"):
        if getattr(old.backend, name) != getattr(new.backend, name) and "cpg" in (old.backend.name, new.backend.name):
            raise VmfenceError("the pool cannot change while the daemon runs", "", RESTART)
