"""What ``vmfence host setup`` makes sure of at the end: settings, keys, libvirt, listeners, and a real request.

The request is ``vmfence list`` as a process of its own, so what is tried is what a guest does: packet, signature,
call-back, challenges, list.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator, Sequence

from vmfence import proc
from vmfence.config import settings as configuration
from vmfence.config.settings import MulticastSettings, TcpSettings
from vmfence.errors import VmfenceError
from vmfence.host import assemble, network
from vmfence.host.backends import inventory

REQUEST_S = 5
_LIBVIRT_S = 5.0
Network = (MulticastSettings, TcpSettings)


def check(path: str, program: Sequence[str], must_serve: bool, suspect: str = "") -> Iterator[str]:
    """Yield one line for everything that is as it must be.  Raises VmfenceError at the first that is not.

    *program*: the words that start vmfence; *must_serve*: the daemon was started, so that it has to answer; *suspect*:
    what to look at first when it does not.
    """
    settings = configuration.load(path)
    assemble.read_plan(settings)
    yield f"{path} and its keys can be used"
    for uri in settings.backend.uris:
        yield str(inventory.read_inventory(uri, _LIBVIRT_S))
    for one in settings.listeners:
        if isinstance(one, Network):
            yield _listener(one, program, must_serve, suspect)


def _listener(one: MulticastSettings | TcpSettings, program: Sequence[str], must_serve: bool, suspect: str) -> str:
    where = f"{one.name} {one.address} port {one.port}"
    if isinstance(one, MulticastSettings) and one.interface is not None:
        found = network.check_interface(one.interface, network.read_interfaces())
        where += f" on {one.interface}" + ("" if found.is_up else " (down)")
    if not _is_taken(one):
        if must_serve:
            raise VmfenceError(f"nobody listens at {where}", "", "see journalctl -u vmfence")
        return f"{where} is free for the daemon"
    done = proc.run([*program, *request(one)], REQUEST_S + 10.0)
    if done.status:
        why = done.stderr.strip().removeprefix("error: ").partition("\n")[0]
        raise VmfenceError(f"{where} gave no answer to a request of this host", why, suspect or "see the daemon's log")
    count = len(done.stdout.splitlines())
    return f"{where} answers with {count} guest{'' if count == 1 else 's'}"


def request(one: MulticastSettings | TcpSettings) -> list[str]:
    """Return the arguments of ``vmfence`` for a list asked of this listener by its own host."""
    words = ["list", "-p", str(one.port), "-t", str(REQUEST_S), "-k", one.key_file, "-c", str(one.hash)]
    words += ["-C", str(one.auth)]
    if isinstance(one, MulticastSettings):
        return [*words, "-a", one.address, "-i", one.family]
    any_address = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    return [*words, "-T", any_address.get(one.address, one.address)]


def _is_taken(one: MulticastSettings | TcpSettings) -> bool:
    """Whether somebody listens there.  Raises VmfenceError when the address is none of this host's."""
    kind = socket.SOCK_DGRAM if isinstance(one, MulticastSettings) else socket.SOCK_STREAM
    family = socket.AF_INET6 if one.family == "ipv6" else socket.AF_INET
    try:
        target = socket.getaddrinfo(one.address, one.port, family, kind)[0][4]
        if family == socket.AF_INET6 and isinstance(one, MulticastSettings) and one.interface:
            target = (one.address, one.port, 0, socket.if_nametoindex(one.interface))
        with socket.socket(family, kind | socket.SOCK_CLOEXEC) as probe:
            if kind == socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            what = f"cannot listen at {one.address} port {one.port}"
            raise VmfenceError(what, error.strerror or os.strerror(error.errno or 0)) from error
        return True
    return False
