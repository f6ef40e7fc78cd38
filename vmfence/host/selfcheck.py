"""What ``vmfence host setup`` makes sure of at the end: settings, keys, libvirt, listeners, and a real request.

The request is ``vmfence list`` as a process of its own, so what is tried is what a guest does: packet, signature,
call-back, challenges, list.  By multicast another host with the same key may answer it: then nothing is proven here.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Any

from vmfence import proc
from vmfence.config import settings as configuration
from vmfence.config.settings import MulticastSettings, Settings, TcpSettings
from vmfence.errors import VmfenceError
from vmfence.host import assemble, control, network
from vmfence.host.backends import inventory

REQUEST_S = 5
_LIBVIRT_S = 5.0
_CONFIRM_S, _PAUSE_S = 5.0, 0.05
_ONE_EACH = "hosts need an address or a key of their own: vmfence host configure"
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
            yield _listener(one, settings, program, must_serve, suspect)
        else:
            yield f"listener {one.name} is not tried from here"


def _listener(
    one: MulticastSettings | TcpSettings, settings: Settings, program: Sequence[str], must_serve: bool, suspect: str
) -> str:
    where = f"{one.name} {one.address} port {one.port}"
    if isinstance(one, MulticastSettings) and one.interface is not None:
        found = network.check_interface(one.interface, network.read_interfaces())
        where += f" on {one.interface}" + ("" if found.is_up else " (down)")
    if not _is_taken(one):
        if must_serve:
            raise VmfenceError(f"nobody listens at {where}", "", "see journalctl -u vmfence")
        return f"{where} is free for the daemon"
    known, status = _guests(settings), _status(settings, must_serve)
    done = proc.run([*program, *request(one)], REQUEST_S + 10.0)
    if done.status:
        why = done.stderr.strip().removeprefix("error: ").partition("\n")[0]
        raise VmfenceError(f"{where} gave no answer to a request of this host", why, suspect or "see the daemon's log")
    listed = _listed(done.stdout, where)
    check_answer(where, listed, known, _guests(settings), settings.groups is not None)
    if status is not None:
        _confirm(where, lists_answered(status), settings)
    return f"{where} answers with {len(listed)} guest{'' if len(listed) == 1 else 's'}"


def _guests(settings: Settings) -> set[str]:
    """Return the UUIDs of the guests that are to be served."""
    found = [inventory.read_inventory(uri, _LIBVIRT_S) for uri in settings.backend.uris]
    return {guest.uuid.lower() for one in found for guest in one.guests}


def _status(settings: Settings, must_serve: bool) -> dict[str, Any] | None:
    """Return what the daemon says of itself; None when none does and none has to.  Raises VmfenceError."""
    try:
        return control.ask(settings.daemon.control_socket)
    except VmfenceError:
        if must_serve:
            raise
        return None


def _listed(output: str, where: str) -> dict[str, str]:
    """Return the guests of an answer: UUID -> name."""
    try:
        return {str(guest["uuid"]).lower(): str(guest["name"]) for guest in json.loads(output)}
    except (ValueError, LookupError, TypeError) as error:
        raise VmfenceError(f"the answer of {where} cannot be read", repr(error)) from error


def check_answer(where: str, listed: dict[str, str], before: set[str], after: set[str], has_groups: bool) -> None:
    """Raise VmfenceError unless *listed* (UUID -> name) is the answer of a host with our guests.

    *before*, *after*: UUIDs of our guests, read before and after it.  With *has_groups* access rules may hide them.
    """
    foreign = [name for uuid, name in listed.items() if uuid not in before | after]
    if foreign:
        raise VmfenceError(f"another host answered at {where}", f"not of this host: {network.some(foreign)}", _ONE_EACH)
    if before & after and not listed and not has_groups:
        why = f"but this host has {len(before & after)}: another host answered, or a daemon for another libvirt"
        raise VmfenceError(f"{where} lists no guest", why, _ONE_EACH)


def lists_answered(status: dict[str, Any]) -> int:
    """Return how many requests for a list the daemon of *status* has answered."""
    found = [one for one in status["requests"] if one["action"] == "list" and one["result"] != "dropped"]
    return sum(int(one["count"]) for one in found)


def _confirm(where: str, before: int, settings: Settings) -> None:
    """Return once our daemon has counted one more list than *before*.  Raises VmfenceError when it does not."""
    deadline = time.monotonic() + _CONFIRM_S
    while True:
        status = control.ask(settings.daemon.control_socket)
        if lists_answered(status) > before:
            return
        if not status["in_flight"] or time.monotonic() > deadline:
            raise VmfenceError(f"another host answered at {where}", "the daemon of this host did not", _ONE_EACH)
        time.sleep(_PAUSE_S)  # it counts after it has answered


def request(one: MulticastSettings | TcpSettings) -> list[str]:
    """Return the arguments of ``vmfence`` for a list asked of this listener by its own host."""
    words = ["list", "--json", "-p", str(one.port), "-t", str(REQUEST_S), "-k", one.key_file, "-c", str(one.hash)]
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
