"""One libvirt URI: its connections, and the bounded pool of threads that makes its calls.

Every libvirt call blocks, so it runs in a thread, and every thread has a connection of its own: one connection serves
at most five calls at once (libvirtd.conf, max_client_requests).  libvirt's test driver is the exception: there each
connection is a world of its own, so all threads share one.  A caller stops waiting at its deadline; the call itself
ends when libvirt answers or keepalive gives the connection up.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Callable, TypeVar

from vmfence.errors import BackendError, DeadlineExceeded, Unreachable
from vmfence.host.backends import binding as libvirt
from vmfence.host.backends.base import HypervisorStatus

T = TypeVar("T")

CALLS_AT_ONCE = 16
_KEEPALIVE_INTERVAL_S = 5
_KEEPALIVE_COUNT = 2

_event_loop_lock = threading.Lock()
_event_loop_runs = False


def run_event_loop() -> None:
    """Start libvirt's event loop in a thread, once a process: keepalive and events need it."""
    global _event_loop_runs
    with _event_loop_lock:
        if _event_loop_runs:
            return
        libvirt.registerErrorHandler(lambda context, error: None, None)
        libvirt.virEventRegisterDefaultImpl()

        def run() -> None:
            while True:
                libvirt.virEventRunDefaultImpl()

        threading.Thread(target=run, name="libvirt-events", daemon=True).start()
        _event_loop_runs = True


class Hypervisor:
    """One libvirt URI."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.suspect = False
        self._trouble = ""
        self._shared = uri.startswith("test:")
        self._local = threading.local()
        self._lock = threading.Lock()
        self._connections: list[libvirt.virConnect] = []
        self._pool = ThreadPoolExecutor(CALLS_AT_ONCE, f"libvirt {uri}")
        self._running = 0
        self._answered_at = 0.0

    async def call(self, work: Callable[[libvirt.virConnect], T], deadline: float) -> T:
        """Return what *work* returns for a live connection.  Raises BackendError, Unreachable."""
        return await self.wait(self.submit(work), deadline)

    def submit(self, work: Callable[[libvirt.virConnect], T], repeatable: bool = True) -> Future[T]:
        """Begin *work* in a thread.  *repeatable*: call it a second time when the connection was found to be dead.

        Whether a power action is still wanted then is not ours to decide.
        """
        try:
            return self._pool.submit(self._run, work, repeatable)
        except RuntimeError as error:  # a reload has retired this hypervisor
            raise Unreachable(f"libvirt at {self.uri} is not served any more") from error

    async def wait(self, future: Future[T], deadline: float) -> T:
        """Wait for *future* until *deadline*; one that has not begun by then never will."""
        limit = deadline - time.monotonic()
        if limit <= 0:
            future.cancel()
            raise DeadlineExceeded("too late", "the time of this request is over")
        try:
            result = await asyncio.wait_for(asyncio.wrap_future(future), limit)
        except asyncio.TimeoutError:
            error = Unreachable(f"libvirt at {self.uri} does not answer", f"no answer within {limit:.1f} s")
            self.suspect, self._trouble = True, str(error)
            raise error from None
        except Unreachable as error:
            self.suspect, self._trouble = True, str(error)
            raise
        self.suspect, self._trouble, self._answered_at = False, "", time.time()
        return result

    def describe(self) -> HypervisorStatus:
        """Return what is known without asking."""
        connections, calls = len(self._connections), self._running
        return HypervisorStatus(self.uri, not self.suspect, self._trouble, connections, calls, self._answered_at)

    def is_busy(self) -> bool:
        """Whether calls are running in threads."""
        return self._running > 0

    def close(self) -> None:
        """Close all connections and end the threads that are idle."""
        self._pool.shutdown(wait=False)
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(libvirt.libvirtError):
                    connection.close()
            self._connections.clear()

    def _run(self, work: Callable[[libvirt.virConnect], T], repeatable: bool) -> T:
        with self._lock:
            self._running += 1
        try:
            return self._work(work, repeatable)
        finally:
            with self._lock:
                self._running -= 1

    def _work(self, work: Callable[[libvirt.virConnect], T], repeatable: bool) -> T:
        connection, is_fresh = self._connection()
        try:
            return work(connection)
        except libvirt.libvirtError as error:
            if _is_alive(connection):
                raise BackendError("libvirt refused", _text(error)) from error
            self._drop(connection)
            if is_fresh or not repeatable:
                raise Unreachable(f"libvirt at {self.uri} went away", _text(error)) from error
        return self._work(work, repeatable)

    def _connection(self) -> tuple[libvirt.virConnect, bool]:
        """Return this thread's connection and whether it was opened just now.  Raises Unreachable."""
        connection = self._known()
        if connection is not None and _is_alive(connection):
            return connection, False
        if connection is not None:
            self._drop(connection)
        if not self._shared:
            return self._open(), True
        with self._lock:  # the test driver: two threads must not open two worlds
            connection = self._known()
            return (connection, False) if connection is not None else (self._open_unlocked(), True)

    def _known(self) -> libvirt.virConnect | None:
        if self._shared:
            return self._connections[0] if self._connections else None
        return getattr(self._local, "connection", None)

    def _open(self) -> libvirt.virConnect:
        connection = self._connect()
        self._local.connection = connection
        with self._lock:
            self._connections.append(connection)
        return connection

    def _open_unlocked(self) -> libvirt.virConnect:
        connection = self._connect()
        self._connections.append(connection)
        return connection

    def _connect(self) -> libvirt.virConnect:
        try:
            connection = libvirt.open(self.uri)
        except libvirt.libvirtError as error:
            raise Unreachable(
                f"cannot connect to libvirt at {self.uri}", _text(error), "see that libvirt runs"
            ) from error
        with contextlib.suppress(libvirt.libvirtError):  # drivers inside this process have no keepalive
            connection.setKeepAlive(_KEEPALIVE_INTERVAL_S, _KEEPALIVE_COUNT)
        return connection

    def _drop(self, connection: libvirt.virConnect) -> None:
        self._local.connection = None
        with self._lock:
            if connection in self._connections:
                self._connections.remove(connection)
        with contextlib.suppress(libvirt.libvirtError):
            connection.close()


def _is_alive(connection: libvirt.virConnect) -> bool:
    try:
        return bool(connection.isAlive())
    except libvirt.libvirtError:
        return False


def _text(error: libvirt.libvirtError) -> str:
    return (error.get_error_message() or str(error)).rstrip(".")
