"""The tcp listener: an address and a port of this host."""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import Any

from vmfence.config.settings import TcpSettings
from vmfence.errors import ListenError
from vmfence.host.listeners.direct import BACKLOG, DirectListener
from vmfence.host.reception import Reception
from vmfence.host.security import Security
from vmfence.policy import Origin


def tcp_listener(settings: TcpSettings, security: Security, reception: Reception) -> DirectListener:
    """Return the listener for *settings*, not yet open."""
    return DirectListener(
        f"tcp {settings.address} port {settings.port}",
        lambda: _listening_socket(settings),
        lambda peer: Origin("tcp", _address(peer)),
        security,
        reception,
    )


def _address(peer: tuple[Any, ...]) -> str:
    """Return the address of a peer's socket name: IPv4 as such, a link-local one with its interface."""
    text = str(peer[0])
    if len(peer) == 4 and peer[3]:
        with contextlib.suppress(OSError):  # the interface has just gone
            return f"{text}%{socket.if_indextoname(peer[3])}"
    return text.removeprefix("::ffff:") if "." in text else text


def _listening_socket(settings: TcpSettings) -> socket.socket:
    """Return a bound socket.  Raises ListenError."""
    family = socket.AF_INET6 if settings.family == "ipv6" else socket.AF_INET
    try:
        found = socket.getaddrinfo(settings.address, settings.port, family, socket.SOCK_STREAM)
        listening = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise ListenError(f"cannot listen at {settings.address}", error.strerror or str(error)) from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # fence_virtd at "::" serves IPv4 too, and a file that names it must go on doing so.
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(settings.address != "::"))
        listening.bind(found[0][4])
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        remedy = {
            errno.EADDRINUSE: "another daemon listens there: stop fence_virtd, or use another port",
            errno.EADDRNOTAVAIL: "no interface of this machine has that address",
            errno.EACCES: "ports below 1024 need root",
        }.get(error.errno or 0, "")
        raise ListenError(
            f"cannot listen at {settings.address} port {settings.port}", error.strerror or str(error), remedy
        ) from error
    return listening
