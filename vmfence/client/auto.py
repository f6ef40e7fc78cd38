"""Find a way to the host: VM socket, virtio port, the serial device that was named, multicast.

Light module (standard library only; the agent loads it for transport "auto" alone).  The first way that the host can
be reached by is taken, and nothing is sent before it is chosen: a request goes out by one way only, so it can never be
carried out twice, and monitor tells of the very way by which a fence will go.
"""

from __future__ import annotations

import os
import time

from vmfence.client import direct, multicast, serial
from vmfence.client.stream import Answer, Waiting
from vmfence.errors import UsageError, VmfenceError
from vmfence.protocol.auth import Hash, Key
from vmfence.protocol.request import Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from vmfence.client.transport import Transport

    Way = Callable[[], Answer]

VSOCK_DEVICE = "/dev/vsock"
_LOOK_S = 3.0
_PART = 0.25  # of the time, at most, for finding out that a way leads nowhere


class Search:
    """One request, and the ways by which it may go.  *tell* is told which way was taken, and why not another."""

    def __init__(
        self,
        request: Request,
        transport: Transport,
        key: Key | None,
        hash_type: Hash,
        lacks_key: bool,
        waiting: Waiting,
        tell: Callable[[str], None],
    ) -> None:
        self._request, self._transport, self._key, self._hash = request, transport, key, hash_type
        self._lacks_key, self._waiting, self._tell = lacks_key, waiting, tell
        self._skipped: list[str] = []

    def ask(self) -> Answer:
        """Ask by the first way that leads to a host.  Raises what that way raises, UsageError when there is none."""
        ways = {"vsock": self._vsock, "virtio": self._virtio, "serial": self._serial, "multicast": self._multicast}
        for name, way in ways.items():
            try:
                return way()
            except _NoWay as reason:
                self._skipped.append(f"{name}: {reason.args[0]}")
        raise UsageError("there is no way to a host", "; ".join(self._skipped), "name the transport, or give a key")

    def _vsock(self) -> Answer:
        self._demand_key()
        if not os.path.exists(VSOCK_DEVICE):
            raise _NoWay(f"there is no {VSOCK_DEVICE}")
        cid, port = self._transport.cid, self._transport.port
        try:
            sock = direct.connect_vsock(cid, port, self._look_s())
        except VmfenceError as error:
            raise _NoWay(error.why) from error
        self._take(f"vsock (CID {cid} port {port})")
        return direct.converse(self._request, sock, f"CID {cid}", self._key, self._hash, self._waiting)

    def _virtio(self) -> Answer:
        return self._by_device(self._transport.virtio_device, "virtio")

    def _serial(self) -> Answer:
        if not self._transport.device:
            raise _NoWay("no serial_device was named")
        return self._by_device(self._transport.device, "serial")

    def _by_device(self, device: str, name: str) -> Answer:
        if not os.path.exists(device):
            raise _NoWay(f"there is no {device}")
        transport, deadline = self._transport, self._waiting.deadline
        chosen = False
        try:
            turn = time.monotonic() + (deadline - time.monotonic()) * _PART  # another agent may have it, for long
            with serial.opened(device, transport.line, turn, self._waiting.log) as pipe:
                pipe.wait_for_host(self._look_s())
                self._take(f"{name} ({device})")
                chosen = True
                return pipe.ask(self._request, deadline)
        except VmfenceError as error:
            if chosen:
                raise
            raise _NoWay(f"{error.what}: {error.why}" if error.why else error.what) from error

    def _multicast(self) -> Answer:
        self._demand_key()
        transport = self._transport
        family, group = multicast.family_of(transport.family, transport.address)
        self._take(f"multicast ({group} port {transport.port})")
        return multicast.ask(
            self._request, group, family, transport.port, self._key, self._hash, transport.retrans_s, self._waiting
        )

    def _demand_key(self) -> None:
        if self._lacks_key:
            raise _NoWay("it needs a key, and there is none")

    def _look_s(self) -> float:
        return min(_LOOK_S, (self._waiting.deadline - time.monotonic()) * _PART)

    def _take(self, way: str) -> None:
        """Say which way was chosen, before anything is sent."""
        skipped = f", not {'; '.join(self._skipped)}" if self._skipped else ""
        self._tell(f"transport: {way}{skipped}")


class _NoWay(Exception):
    """Why a way does not lead to a host; nothing was sent."""
