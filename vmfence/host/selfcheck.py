"""What ``vmfence host setup`` makes sure of at the end: settings, keys, libvirt, listeners, and real requests.

A request is what a guest does: packet, signature, call-back, challenges, list; one for each key that the access rules
know.  The answer has to come from an address of this host, be counted by its daemon, and hold exactly the guests that
the rules show to this origin and key.  By multicast other hosts may answer as well: all answers are taken.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Callable

from vmfence.config import settings as configuration
from vmfence.config.settings import MulticastSettings, Settings, TcpSettings
from vmfence.errors import VmfenceError
from vmfence.guest import answers
from vmfence.guest.answers import HostAnswer
from vmfence.host import assemble, control, network, probe
from vmfence.host.backends import inventory
from vmfence.host.execstart import NAME
from vmfence.policy import Origin, Policy
from vmfence.protocol.auth import Hash

REQUEST_S = 5.0
_TRIES = 3
_LIBVIRT_S = 5.0
_CONFIRM_S, _PAUSE_S = 5.0, 0.05
_ONE_EACH = "hosts need an address or a key of their own: vmfence host configure"
_NOTHING_PROVED = "the access rules show this host no guest, so nothing is proved for guests: ask on one of them"
Network = (MulticastSettings, TcpSettings)
Guests = Mapping[str, str]  # UUID in lower case -> name


def check(path: str, must_serve: bool, suspect: str, note: Callable[[str], None]) -> Iterator[str]:
    """Yield one line for everything that is as it must be.  Raises VmfenceError at the first that is not.

    *must_serve*: the daemon was started, so that it has to answer; *suspect*: what to look at first when it does not.
    *note* is told what is worth a look.
    """
    settings = configuration.load(path)
    policy = assemble.read_plan(settings).policy
    yield f"{path} and its keys can be used"
    is_tried = any(isinstance(one, Network) for one in settings.listeners)
    _check_daemon(settings, must_serve and not is_tried)
    for uri in settings.backend.uris:
        yield str(inventory.read_inventory(uri, _LIBVIRT_S))
    for one in settings.listeners:
        if isinstance(one, Network):
            yield from _Trial(one, settings, policy, must_serve, suspect, note).lines()
        else:
            yield f"listener {one.name} is not tried from here"


def _check_daemon(settings: Settings, must_serve: bool) -> None:
    """Raise VmfenceError when the daemon at our control socket runs with another configuration, or must be there."""
    status = _status(settings, must_serve)
    path = os.path.abspath(settings.path)
    if status is not None and status["config"] != path:
        remedy = f"see what names it with: systemctl cat {NAME}"
        raise VmfenceError(f"the daemon runs with {status['config']}, not with {path}", "", remedy)


def _status(settings: Settings, must_serve: bool) -> dict[str, Any] | None:
    """Return what the daemon says of itself; None when none does and none has to.  Raises VmfenceError."""
    try:
        return control.ask(settings.daemon.control_socket)
    except VmfenceError:
        if must_serve:
            raise
        return None


class NotListed(VmfenceError):
    """The daemon leaves out guests of this host."""


@dataclass(frozen=True)
class _Trial:
    """The requests to one listener.  *must_serve*, *suspect*, *note*: as of check()."""

    one: MulticastSettings | TcpSettings
    settings: Settings
    policy: Policy
    must_serve: bool
    suspect: str
    note: Callable[[str], None]

    def lines(self) -> Iterator[str]:
        """Yield what was seen.  Raises VmfenceError."""
        where = self._where()
        if not is_taken(self.one):
            if self.must_serve:
                raise VmfenceError(f"nobody listens at {where}", "", "see journalctl -u vmfence")
            yield f"{where} is free for the daemon"
            return
        is_any_shown = False
        for key_file, key_id in self._keys():
            shown = self._ask(where, key_file, key_id)
            is_any_shown = is_any_shown or shown > 0
            by = f" by {key_file}" if self.policy.groups is not None else ""
            yield f"{where} answers{by} with {shown} guest{'' if shown == 1 else 's'}"
        if self.policy.groups is not None and not is_any_shown:
            self.note(f"{where}: {_NOTHING_PROVED}")
        if self.policy.groups is not None and self.one.hash is Hash.NONE and self._group_keys():
            self.note(f"{where}: the keys of groups are not tried, because nothing has to be signed there")

    def _where(self) -> str:
        where = f"{self.one.name} {self.one.address} port {self.one.port}"
        if isinstance(self.one, MulticastSettings) and self.one.interface is not None:
            found = network.check_interface(self.one.interface, network.read_interfaces())
            where += f" on {self.one.interface}" + ("" if found.is_up else " (down)")
        return where

    def _keys(self) -> list[tuple[str, object | None]]:
        """Return the file of each key to ask with, and what the access rules call it."""
        of_groups = {} if self.one.hash is Hash.NONE else self._group_keys()
        return [(self.one.key_file, None), *of_groups.items()]

    def _group_keys(self) -> dict[str, object | None]:
        rules = zip(self.settings.groups or (), self.policy.groups or ())
        return {group.key_file: rule.key for group, rule in rules if group.key_file is not None}

    def _ask(self, where: str, key_file: str, key_id: object | None) -> int:
        """Return how many guests our daemon shows.  Raises VmfenceError.

        One of a pool lists its own guests as it has told them to the others, a moment after it has joined.
        """
        deadline = time.monotonic() + _CONFIRM_S
        while True:
            try:
                return self._ask_once(where, key_file, key_id)
            except NotListed:
                if self.settings.backend.name != "cpg" or time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE_S)

    def _ask_once(self, where: str, key_file: str, key_id: object | None) -> int:
        """Ask until our daemon has answered; return how many guests it shows.  Raises VmfenceError."""
        inquiry = replace(probe.inquiry_of(self.one), key_file=key_file, timeout_s=REQUEST_S)
        for _ in range(_TRIES):
            before, status = _guests(self.settings), _status(self.settings, self.must_serve)
            try:
                heard = answers.list_hosts(inquiry)
            except VmfenceError as error:
                what = f"{where} gave no answer to a request of this host"
                raise VmfenceError(what, str(error), self.suspect or "see the daemon's log") from error
            own = [answer for answer in heard if probe.is_own(answer.peer)]
            is_counted = status is None or _has_counted(control.lists_answered(status), self.settings)
            if own and is_counted:
                break
        else:
            raise VmfenceError(f"another host answered at {where}", "the daemon of this host did not", _ONE_EACH)
        self._tell_others([answer for answer in heard if answer not in own])
        listed = {record.uuid.lower(): record.name for record in own[0].guests}
        after = _guests(self.settings)
        origin = Origin(self.one.name, self._with_zone(own[0].peer))
        guests = {**before, **after}
        if self.settings.backend.name == "cpg":  # the guests of all its hosts
            guests.update(listed)
        allowed = {u for u, name in guests.items() if self.policy.shows(origin, key_id, name, u)}
        check_answer(where, listed, guests, allowed, [u for u in before if u in after])
        return len(listed)

    def _with_zone(self, address: str) -> str:
        """Return *address* as the daemon sees it: a link-local one with its interface."""
        zone = getattr(self.one, "interface", None)
        return f"{address}%{zone}" if zone and address.startswith("fe80:") and "%" not in address else address

    def _tell_others(self, others: Collection[HostAnswer]) -> None:
        daemon = self.settings.daemon
        if daemon.unknown_guest == "ignore" or self.settings.backend.name == "cpg":
            return  # several hosts at one address, and each speaks for its own guests alone
        for other in others:
            names = network.some([record.name for record in other.guests]) if other.guests else "no guest"
            remedy = f'{_ONE_EACH}; or all of them unknown_guest = "ignore"'
            self.note(f"{other.peer} answers too, with the same key and {names}: who is faster is believed; {remedy}")


def _guests(settings: Settings) -> dict[str, str]:
    """Return the guests that are to be served."""
    found = [inventory.read_inventory(uri, _LIBVIRT_S) for uri in settings.backend.uris]
    return {guest.uuid.lower(): guest.name for one in found for guest in one.guests}


def check_answer(where: str, listed: Guests, here: Guests, allowed: Collection[str], steady: Collection[str]) -> None:
    """Raise VmfenceError unless *listed* is the answer of a daemon that has our guests, *here*, and our access rules.

    *allowed*: UUIDs of what they show to whoever asked; *steady*: of guests that were here before and after it.
    """
    foreign = [name for uuid, name in listed.items() if uuid not in here]
    if foreign:
        raise VmfenceError(f"another host answered at {where}", f"not of this host: {network.some(foreign)}", _ONE_EACH)
    reread = "have the daemon read its configuration: systemctl restart vmfence"
    shown = [name for uuid, name in listed.items() if uuid not in allowed]
    if shown:
        why = f"shown though no access rule allows it: {network.some(shown)}"
        raise VmfenceError(f"{where} does not answer by the access rules", why, reread)
    hidden = [here[uuid] for uuid in steady if uuid in allowed and uuid not in listed]
    if hidden:
        why = f"missing: {network.some(hidden)}; a daemon for another libvirt, or with other access rules"
        raise NotListed(f"{where} does not list all guests of this host", why, reread)


def _has_counted(before: int, settings: Settings) -> bool:
    """Tell whether our daemon has counted one more list than *before*.  Raises VmfenceError when it does not say."""
    deadline = time.monotonic() + _CONFIRM_S
    while True:
        status = control.ask(settings.daemon.control_socket)
        if control.lists_answered(status) > before:
            return True
        if not status["in_flight"] or time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE_S)  # it counts after it has answered


def is_taken(one: MulticastSettings | TcpSettings) -> bool:
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
