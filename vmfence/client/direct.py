"""Ask over a connection that we open: TCP, or a VM socket.

Light module (loaded by the fence agent: standard library only).  Only literal addresses: a fence must not wait for,
or trust, a name service.
"""

from __future__ import annotations

import os
import socket
import time

from vmfence.client.stream import Answer, Waiting
from vmfence.errors import Unreachable, UsageError
from vmfence.protocol.auth import Hash, Key, sign
from vmfence.protocol.request import RANDOM_BYTES, Request, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CONNECT_S = 3.0


def ask(request: Request, address: str, port: int, key: Key | None, hash_type: Hash, waiting: Waiting) -> Answer:
    """Ask the daemon at *address*:*port*.  Raises UsageError, Unreachable, NoAnswer, HostNotProven, NotAccepted."""
    sock = connect(address, port, waiting.left())
    waiting.log(f"connected to {address} port {port}")
    return converse(request, sock, address, key, hash_type, waiting)


def ask_vsock(request: Request, cid: int, port: int, key: Key | None, hash_type: Hash, waiting: Waiting) -> Answer:
    """Ask the daemon at the VM socket *cid*:*port*.  Raises as ask()."""
    sock = connect_vsock(cid, port, waiting.left())
    waiting.log(f"connected to CID {cid} port {port}")
    return converse(request, sock, f"CID {cid}", key, hash_type, waiting)


def converse(
    request: Request, sock: socket.socket, peer: str, key: Key | None, hash_type: Hash, waiting: Waiting
) -> Answer:
    """Ask over the connected *sock*, which is closed with *waiting*."""
    if hash_type is not Hash.NONE:
        request.random = os.urandom(RANDOM_BYTES)
    waiting.add(sock, peer, sign(encode(request), key or Key(b""), hash_type))
    answer = waiting.run_until(waiting.deadline)
    if answer is None:
        raise waiting.no_answer(f"{peer} did not answer in time")
    return answer


def connect(address: str, port: int, left_s: float) -> socket.socket:
    """Return a TCP connection, within *left_s* and never more than three seconds.  Raises UsageError, Unreachable."""
    try:
        # As bytes: for text Python loads encodings.idna and the Unicode database, which no address needs.
        host = address.encode("ascii")
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, ValueError):
        raise UsageError(f"{address!r} is no IP address", "", "give the host's literal IPv4 or IPv6 address") from None
    family, _, _, _, target = found[0]
    what = f"Unable to connect to fence_virtd host {address}:{port}"
    remedy = "see that the daemon's tcp listener has this address and port, and that the host's firewall admits it"
    sock = _connected(family, target, left_s, what, remedy)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return sock


def connect_vsock(cid: int, port: int, left_s: float) -> socket.socket:
    """Return a connection to the VM socket *cid*:*port*, within *left_s* and three seconds.  Raises Unreachable."""
    what = f"Unable to connect to VM socket CID {cid} port {port}"
    remedy = "see that this guest has a vsock device, and that the host's daemon has a vsock listener at this port"
    return _connected(socket.AF_VSOCK, (cid, port), left_s, what, remedy)


def _connected(family: int, target: Any, left_s: float, what: str, remedy: str) -> socket.socket:
    started = time.monotonic()
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise Unreachable(what, error.strerror or str(error), remedy) from error
    try:
        sock.settimeout(max(0.01, min(_CONNECT_S, left_s)))
        sock.connect(target)
        return sock
    except OSError as error:
        sock.close()
        reason = error.strerror or f"no answer within {time.monotonic() - started:.1f} s"
        raise Unreachable(what, reason, remedy) from error
