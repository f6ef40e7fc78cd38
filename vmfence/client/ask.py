"""Ask one host one thing and return its answer before a deadline, over the transport that was chosen.

Light module (loaded by the fence agent: standard library only).
"""

from __future__ import annotations

import os
import time

from vmfence.client import direct, multicast
from vmfence.client.stream import Answer, Waiting
from vmfence.errors import AuthenticationError, UsageError
from vmfence.protocol.auth import Hash, Key
from vmfence.protocol.request import DOMAIN_BYTES_MAX, Action, Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

DEFAULT_PORT = 1229
AVAILABLE = ("multicast", "tcp")
_WITHOUT_KEY = ("serial", "vmchannel")


class Transport:
    """How a request travels.  *kind*: multicast, tcp, vsock, serial or vmchannel; the rest as the kind needs it."""

    __slots__ = ("address", "cid", "device", "family", "kind", "line", "port", "retrans_s")

    def __init__(
        self,
        kind: str,
        *,
        address: str = "",
        port: int = DEFAULT_PORT,
        family: str = "auto",
        retrans_s: float = 2.0,
        cid: int = 2,
        device: str = "",
        line: str = "115200,8N1",
    ) -> None:
        self.kind, self.address, self.port, self.family, self.retrans_s = kind, address, port, family, retrans_s
        self.cid, self.device, self.line = cid, device, line


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
) -> Answer:
    """Return the answer of the first host that proves the key (with *auth* none: of the first host).

    *target* is a guest's name or UUID, or empty; *timeout_s* counts from now, for everything together.
    Without the key that *hash_type* or *auth* needs nothing is sent (fence_xvm 4.12.1 went on with an empty one).
    Raises NoAnswer, HostNotProven, NotAccepted, Unreachable, ListenError, PacketError, UsageError,
    AuthenticationError.
    """
    if transport.kind not in _WITHOUT_KEY and max(hash_type, auth) > Hash.NONE and not key:
        raise AuthenticationError("no key", f"hash {hash_type} and auth {auth} need one")
    domain = target.encode("utf-8", "surrogateescape")
    if len(domain) > DOMAIN_BYTES_MAX or b"\0" in domain:
        raise UsageError("Invalid domain name", f"{len(domain)} bytes, the wire takes 63", "use the guest's UUID")
    # 32 random bits instead of the clock's microseconds: two clients never draw the same number by chance.
    seqno = int.from_bytes(os.urandom(4), "little")
    request = Request(action, domain, seqno=seqno, flags=flags)
    waiting = Waiting(key, auth, time.monotonic() + timeout_s, log or _ignore)
    try:
        if transport.kind == "multicast":
            family, group = multicast.family_of(transport.family, transport.address)
            return multicast.ask(request, group, family, transport.port, key, hash_type, transport.retrans_s, waiting)
        if transport.kind == "tcp":
            return direct.ask(request, transport.address, transport.port, key, hash_type, waiting)
    finally:
        waiting.close()
    raise unavailable(transport.kind)


def unavailable(kind: str) -> UsageError:
    """Return the error of a transport that is known and not built yet."""
    return UsageError(f"transport {kind} is not available in this version", "", "use multicast or tcp (ipaddr)")


def _ignore(_: str) -> None:
    pass
