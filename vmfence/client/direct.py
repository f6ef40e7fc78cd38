"""Ask over a connection that we open: TCP.

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

_CONNECT_S = 3.0


def ask(request: Request, address: str, port: int, key: Key | None, hash_type: Hash, waiting: Waiting) -> Answer:
    """Ask the daemon at *address*:*port*.  Raises UsageError, Unreachable, NoAnswer, HostNotProven, NotAccepted."""
    sock = _connect(address, port, waiting.left())
    waiting.log(f"connected to {address} port {port}")
    if hash_type is not Hash.NONE:
        request.random = os.urandom(RANDOM_BYTES)
    waiting.add(sock, address, sign(encode(request), key or Key(b""), hash_type))
    answer = waiting.run_until(waiting.deadline)
    if answer is None:
        raise waiting.no_answer(f"{address} did not answer in time")
    return answer


def _connect(address: str, port: int, left_s: float) -> socket.socket:
    try:
        # As bytes: for text Python loads encodings.idna and the Unicode database, which no address needs.
        host = address.encode("ascii")
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, ValueError):
        raise UsageError(f"{address!r} is no IP address", "", "give the host's literal IPv4 or IPv6 address") from None
    family, kind, _, _, target = found[0]
    sock = socket.socket(family, kind)
    started = time.monotonic()
    try:
        sock.settimeout(max(0.01, min(_CONNECT_S, left_s)))
        sock.connect(target)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return sock
    except OSError as error:
        sock.close()
        reason = error.strerror or f"no answer within {time.monotonic() - started:.1f} s"
        raise Unreachable(
            f"Unable to connect to fence_virtd host {address}:{port}",
            reason,
            "see that the daemon's tcp listener has this address and port, and that the host's firewall admits it",
        ) from error
