"""Stand-ins for what lies beyond the edge: a hypervisor in memory, and a host that speaks from a script.

Both keep state and record what was asked of them.  The backend keeps the contract of the real one
(test_service.py runs the same contract tests on both) until it is told to misbehave.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Callable, Union

from vmfence.errors import BackendError, GuestNotFound, VmfenceError
from vmfence.host.backends.base import Guest, HypervisorStatus, Wanted
from vmfence.host.backends.live import LiveGuest
from vmfence.policy import is_uuid
from vmfence.protocol.auth import Hash, Key
from vmfence.protocol.exchange import ChallengeBook, DaemonExchange
from vmfence.protocol.reply import State
from vmfence.protocol.request import PACKET_BYTES

ALPHA = Guest("alpha", "11111111-2222-3333-4444-555555555501", State.RUNNING)
BETA = Guest("Beta", "11111111-2222-3333-4444-555555555502", State.SHUT_OFF)
GAMMA = Guest("gamma", "11111111-2222-3333-4444-555555555503", State.RUNNING)


class Lie:
    """Say that it was done, and do nothing."""


class Honest:
    """Do it."""


class DoneButFailed:
    """Do it, and raise all the same."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class Hold:
    """Wait for *release*, then do it, or raise *error*; *begun* tells that the call has come.

    To be made inside the event loop.
    """

    def __init__(self, error: Exception | None = None) -> None:
        self.begun, self.release, self.error = asyncio.Event(), asyncio.Event(), error


Behaviour = Union[Lie, Honest, DoneButFailed, Hold, Exception]
HONEST, LIE = Honest(), Lie()


class FakeWatch:
    """Running guests in memory: the test puts them there."""

    def __init__(self, *guests: LiveGuest) -> None:
        self.changed: Callable[[], None] = lambda: None
        self.heard: Callable[[], None] = lambda: None
        self.running = {guest.uuid: guest for guest in guests}
        self.looked_at: list[str] = []
        self.silent = ""
        self.failure: VmfenceError | None = None

    def put(self, *guests: LiveGuest) -> None:
        """Let exactly these run."""
        self.running = {guest.uuid: guest for guest in guests}
        self.changed()

    async def open(self) -> None:
        if self.failure is not None:
            raise self.failure
        self.silent = ""
        self.changed()

    def guests(self) -> list[LiveGuest]:
        return list(self.running.values())

    def vouched(self) -> list[LiveGuest]:
        return [] if self.silent else self.guests()

    async def look_at(self, uuid: str) -> None:
        self.looked_at.append(uuid)

    def trouble(self) -> str:
        return self.silent

    def close(self) -> None:
        pass


class FakeBackend:
    """Guests in memory.  *calls* records (method, name of the guest or "") in order, *history* all states."""

    def __init__(self, *guests: Guest) -> None:
        self._guests = {guest.uuid: guest for guest in guests}
        self._scripts: dict[str, deque[Behaviour]] = {}
        self._always: dict[str, Behaviour] = {}
        self.calls: list[tuple[str, str]] = []
        self.history: list[tuple[str, State]] = []

    def script(self, method: str, *behaviours: Behaviour) -> None:
        """Let the next calls of *method* behave so, one each; those after them are honest, or as told by always()."""
        self._scripts.setdefault(method, deque()).extend(behaviours)

    def always(self, method: str, behaviour: Behaviour) -> None:
        """Let all calls of *method* behave so."""
        self._always[method] = behaviour

    def state_of(self, guest: Guest) -> State:
        """Return the true state, whatever calls said."""
        return self._guests[guest.uuid].state

    def set_state(self, guest: Guest, state: State) -> None:
        """Change a guest from outside, as an administrator would."""
        self._guests[guest.uuid] = replace(self._guests[guest.uuid], state=state)
        self.history.append((guest.name, state))

    def remove(self, guest: Guest) -> None:
        """Let a guest vanish."""
        del self._guests[guest.uuid]

    def power_calls(self) -> list[tuple[str, str]]:
        """Return the calls that change something."""
        return [call for call in self.calls if call[0] in ("power_off", "power_on", "reset")]

    async def ping(self, deadline: float) -> None:
        await self._do("ping", "", lambda: None)

    async def find(self, target: str, deadline: float) -> Guest:
        await self._do("find", target, lambda: None)
        for guest in self._guests.values():
            if target.lower() == guest.uuid if is_uuid(target) else target == guest.name:
                return guest
        raise GuestNotFound(f"no guest {target}")

    async def guests(self, deadline: float) -> list[Guest]:
        await self._do("guests", "", lambda: None)
        return list(self._guests.values())

    def remembered(self, target: str, lately: bool) -> Guest | None:
        return None

    async def read_back(self, guest: Guest, deadline: float) -> Guest:
        return await self.find(guest.uuid, deadline)

    async def power_off(self, guest: Guest, deadline: float, still_wanted: Wanted) -> State:
        still_wanted()
        before = self.state_of(guest)
        await self._do("power_off", guest.name, lambda: self.set_state(guest, State.SHUT_OFF))
        return before

    async def power_on(self, guest: Guest, deadline: float, still_wanted: Wanted) -> None:
        still_wanted()
        if guest.moved:
            raise BackendError(f"{guest.name} was migrated away")
        await self._do("power_on", guest.name, lambda: self.set_state(guest, State.RUNNING))

    async def reset(self, guest: Guest, deadline: float, still_wanted: Wanted) -> None:
        still_wanted()
        await self._do("reset", guest.name, lambda: self.set_state(guest, State.RUNNING))

    def watch(self, uri: str | None) -> FakeWatch:
        return FakeWatch()

    def describe(self) -> tuple[HypervisorStatus, ...]:
        return ()

    def is_busy(self) -> bool:
        return False

    def close(self) -> None:
        self.calls.append(("close", ""))

    async def _do(self, method: str, name: str, work: Callable[[], None]) -> None:
        self.calls.append((method, name))
        script = self._scripts.get(method)
        behaviour = script.popleft() if script else self._always.get(method, HONEST)
        if isinstance(behaviour, Exception):
            raise behaviour
        if isinstance(behaviour, Hold):
            behaviour.begun.set()
            await behaviour.release.wait()
            if behaviour.error:
                raise behaviour.error
        if not isinstance(behaviour, Lie):
            work()
        if isinstance(behaviour, DoneButFailed):
            raise behaviour.error


Script = Callable[[socket.socket], None]
PEER_WAIT_S = 10.0


class Peer:
    """A host at *port* of 127.0.0.1; *requests* are the packets that came."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.requests: list[bytes] = []
        self.errors: list[Exception] = []


@contextlib.contextmanager
def peer(script: Callable[[Peer, socket.socket], None]) -> Iterator[Peer]:
    """Listen on loopback and play *script* on the first connection, in a thread, while the block runs."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PEER_WAIT_S)
        made = Peer(server.getsockname()[1])
        thread = threading.Thread(target=_play, args=(script, made, server))
        thread.start()
        try:
            yield made
        finally:
            # Wakes accept() when nobody has connected.
            server.shutdown(socket.SHUT_RDWR)
            thread.join(PEER_WAIT_S)
    assert not thread.is_alive()
    assert not made.errors, made.errors


def _play(script: Callable[[Peer, socket.socket], None], made: Peer, server: socket.socket) -> None:
    try:
        connection, _ = server.accept()
    except OSError:
        return
    with connection:
        connection.settimeout(PEER_WAIT_S)
        try:
            script(made, connection)
        except Exception as error:  # noqa: BLE001 - the test fails with it
            made.errors.append(error)


def receive(connection: socket.socket, count: int) -> bytes:
    """Return exactly *count* bytes, or fewer when the other side has closed."""
    data = b""
    while len(data) < count and (piece := connection.recv(count - len(data))):
        data += piece
    return data


def read_request(made: Peer, connection: socket.socket) -> None:
    """Take one request packet."""
    made.requests.append(receive(connection, PACKET_BYTES))


def prove(connection: socket.socket, key: Key, kind: Hash, challenge: bytes = b"D" * 64) -> None:
    """Play the daemon's side of the challenges to the end; return early when the client leaves."""
    exchange = DaemonExchange(key, kind, challenge, ChallengeBook())
    while not exchange.proven and (data := connection.recv(4096)):
        connection.sendall(exchange.receive(data))


def wait_for_end(connection: socket.socket) -> None:
    """Return when the other side has closed."""
    with contextlib.suppress(OSError):
        while connection.recv(4096):
            pass
