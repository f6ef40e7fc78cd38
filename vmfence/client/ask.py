"""Ask one host one thing and return its answer before a deadline, over the transport that was chosen.

Light module (loaded by the fence agent: standard library only).
"""

from __future__ import annotations

import os
import time

from vmfence.client import direct, multicast
from vmfence.client.stream import Answer, Waiting
from vmfence.client.transport import DEFAULT_PORT, WITHOUT_KEY, Transport
from vmfence.errors import AuthenticationError, UsageError
from vmfence.protocol.auth import Hash, Key
from vmfence.protocol.request import DOMAIN_BYTES_MAX, Action, Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

__all__ = ["DEFAULT_PORT", "Transport", "ask"]


def ask(
    action: Action,
    target: str,
    transport: Transport,
    key: Key | None,
    *,
    hash_type: Hash,
    auth: Hash,
    timeout_s: float,
    flags: int = 0,
    log: Callable[[str], None] | None = None,
    tell: Callable[[str], None] | None = None,
) -> Answer:
    """Return the answer of the first host that proves the key (with *auth* none: of the first host).

    *target* is a guest's name or UUID, or empty; *timeout_s* counts from now, for everything together.  *log* is told
    what is done, *tell* which way transport "auto" takes.
    Without the key that *hash_type* or *auth* needs nothing is sent (fence_xvm 4.12.1 went on with an empty one).
    Raises NoAnswer, HostNotProven, NotAccepted, Unreachable, ListenError, PacketError, UsageError,
    AuthenticationError.
    """
    lacks_key = max(hash_type, auth) > Hash.NONE and not key
    if lacks_key and transport.kind not in (*WITHOUT_KEY, "auto"):
        raise AuthenticationError("no key", f"hash {hash_type} and auth {auth} need one")
    domain = target.encode("utf-8", "surrogateescape")
    if len(domain) > DOMAIN_BYTES_MAX or b"\0" in domain:
        raise UsageError("Invalid domain name", f"{len(domain)} bytes, the wire takes 63", "use the guest's UUID")
    # 32 random bits instead of the clock's microseconds: two clients never draw the same number by chance.
    seqno = int.from_bytes(os.urandom(4), "little")
    request = Request(action, domain, seqno=seqno, flags=flags)
    waiting = Waiting(key, auth, time.monotonic() + timeout_s, log or _ignore)
    try:
        if transport.kind == "auto":
            return _search(request, transport, key, hash_type, lacks_key, waiting, tell or _ignore)
        return _by(request, transport, key, hash_type, waiting)
    finally:
        waiting.close()


def _by(request: Request, transport: Transport, key: Key | None, hash_type: Hash, waiting: Waiting) -> Answer:
    if transport.kind == "multicast":
        family, group = multicast.family_of(transport.family, transport.address)
        return multicast.ask(
            request,
            group,
            family,
            transport.port,
            key,
            hash_type,
            transport.retrans_s,
            waiting,
            transport.callback_port,
        )
    if transport.kind == "tcp":
        return direct.ask(request, transport.address, transport.port, key, hash_type, waiting)
    if transport.kind == "vsock":
        return direct.ask_vsock(request, transport.cid, transport.port, key, hash_type, waiting)
    if transport.kind in WITHOUT_KEY:
        return _by_pipe(request, transport, waiting)
    raise UsageError(f"there is no transport {transport.kind}")


def _by_pipe(request: Request, transport: Transport, waiting: Waiting) -> Answer:
    from vmfence.client import serial  # terminals and signals, which no other transport needs

    if transport.kind == "vmchannel":
        return serial.ask_channel(request, transport.address, transport.port, waiting.deadline, waiting.log)
    device = transport.virtio_device if transport.kind == "virtio" and not transport.device else transport.device
    return serial.ask_device(request, device, transport.line, waiting.deadline, waiting.log)


def _search(
    request: Request,
    transport: Transport,
    key: Key | None,
    hash_type: Hash,
    lacks_key: bool,
    waiting: Waiting,
    tell: Callable[[str], None],
) -> Answer:
    from vmfence.client import auto  # every transport there is

    return auto.Search(request, transport, key, hash_type, lacks_key, waiting, tell).ask()


def _ignore(_: str) -> None:
    pass
