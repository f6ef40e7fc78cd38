"""Ask over multicast: send signed datagrams, wait for the host to call back by TCP.

Light module (loaded by the fence agent: standard library only).  As fence_xvm does: one copy for each local address,
repeated every retransmission interval with the same number and new random bytes, until the time is over.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time

from vmfence.client.addresses import LocalAddress, callable_addresses
from vmfence.client.stream import Answer, Waiting
from vmfence.errors import ListenError, UsageError
from vmfence.protocol.auth import Hash, Key, sign
from vmfence.protocol.request import RANDOM_BYTES, Request, encode

DEFAULT_GROUPS = {socket.AF_INET: "225.0.0.12", socket.AF_INET6: "ff05::3:1"}
_TTL = 2
_NAMED = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}


def family_of(family: str, address: str) -> tuple[int, str]:
    """Return the address family and group meant by *family* ("auto", "ipv4", "ipv6") and *address* (or "").

    Raises UsageError when they do not fit, or the address is none of a multicast group.
    """
    chosen = _NAMED.get(family) or (socket.AF_INET6 if ":" in address else socket.AF_INET)
    group = address or DEFAULT_GROUPS[socket.AddressFamily(chosen)]
    try:
        packed = socket.inet_pton(chosen, group)
    except (OSError, ValueError):
        raise UsageError("Could not determine address family", f"{group!r} is no {family} address") from None
    if (packed[0] & 0xF0 != 0xE0) if chosen == socket.AF_INET else (packed[0] != 0xFF):
        raise UsageError(f"{group} is not a multicast address", "", "225.0.0.12 and ff05::3:1 are the defaults")
    return chosen, group


def ask(
    request: Request,
    group: str,
    family: int,
    port: int,
    key: Key | None,
    hash_type: Hash,
    retrans_s: float,
    waiting: Waiting,
    callback_port: int | None = None,
) -> Answer:
    """Send *request* to *group* until a host has answered or the time of *waiting* is over.

    The host calls back at *callback_port* (0: any free one; None: *port*, which firewalls admit).
    Raises NoAnswer, HostNotProven, NotAccepted; ListenError when no call-back port is to be had.
    """
    listener = listen(family, port if callback_port is None else callback_port)
    request.port = listener.getsockname()[1]
    request.family = int(family)
    waiting.log(f"waiting for call-backs at port {request.port}")
    waiting.listen(listener)
    sent = 0
    while waiting.left() > 0:
        sent = _send_copies(request, group, family, port, key, hash_type, waiting)
        answer = waiting.run_until(time.monotonic() + retrans_s)
        if answer is not None:
            return answer
    raise waiting.no_answer(
        "no host answered" if sent else "no host could be asked: nothing could be sent",
        "on the host, see that the daemon runs on the bridge of this guest, has the same key, takes hash "
        f"{hash_type}, and UDP {port} is open, TCP {request.port} on the way out too; on this machine, that TCP "
        f"{request.port} is open for the call-back",
    )


def listen(family: int, port: int) -> socket.socket:
    """Return a listening socket at *port*, which guests' firewalls admit, or at any other when that one is taken."""
    for candidate in (port, 0):
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(("", candidate))
            listener.listen(64)
            return listener
        except OSError as error:
            listener.close()
            if error.errno != errno.EADDRINUSE or not candidate:
                raise ListenError("Failed to listen", f"port {candidate}: {error.strerror}") from error
    raise AssertionError("unreachable: the last candidate returns or raises")


def _send_copies(
    request: Request, group: str, family: int, port: int, key: Key | None, hash_type: Hash, waiting: Waiting
) -> int:
    """Send one copy of *request* from each local address; return how many left."""
    sent = 0
    for address in callable_addresses(family):
        request.address = address.packed
        request.random = os.urandom(RANDOM_BYTES) if hash_type is not Hash.NONE else bytes(RANDOM_BYTES)
        packet = sign(encode(request), key or Key(b""), hash_type)
        try:
            send(packet, address, family, group, port)
            sent += 1
        except OSError as error:
            waiting.log(f"cannot send from {address.text()}: {error.strerror}")
    return sent


def send(packet: bytes, address: LocalAddress, family: int, group: str, port: int) -> None:
    """Send *packet* out of the interface that has *address*, with that address as its source.  Raises OSError."""
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        if family == socket.AF_INET:
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, _TTL)
            # struct ip_mreqn: the index decides, so an address that two interfaces share is no riddle.
            outgoing = struct.pack("=4s4si", bytes(4), address.packed, address.index)
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, outgoing)
        else:
            sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _TTL)
            sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, address.index)
        sender.bind((address.text(), 0))
        sender.sendto(packet, (group, port))
