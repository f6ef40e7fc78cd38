"""A request of this host to its own listeners, asked as a guest asks: packet, signature, call-back, challenges, list.

It changes nothing.  By multicast other hosts may answer as well, so all answers are taken, told apart by their address,
and our daemon is asked whether it counted one.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from vmfence.config.settings import MulticastSettings, Settings, TcpSettings
from vmfence.errors import NotPermitted, VmfenceError
from vmfence.guest import answers
from vmfence.guest.answers import HostAnswer
from vmfence.guest.guests import Inquiry
from vmfence.host import control, network

TIMEOUT_S = 3.0
_CONFIRM_S, _PAUSE_S = 1.0, 0.05
_STATUS_S = 1.5
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}
Status = dict[str, Any]


@dataclass(frozen=True)
class Probe:
    """What became of the request to the listener *name* at *where*.

    *ours*, *others*: who answered, by an address of this host and by another.  *is_counted*: whether our daemon has
    counted it, None where that cannot be known.  *refused*: reasons for which it dropped packets meanwhile.
    *speakers*: who answers for *guest*, one of ours, asked when there are others.
    """

    name: str
    where: str
    ours: tuple[HostAnswer, ...] = ()
    others: tuple[HostAnswer, ...] = ()
    error: VmfenceError | None = None
    is_counted: bool | None = None
    refused: tuple[str, ...] = ()
    guest: str = ""
    speakers: tuple[str, ...] = ()

    @property
    def got_through(self) -> bool:
        """Whether our daemon has answered."""
        return bool(self.ours) if self.is_counted is None else self.is_counted


def try_listeners(settings: Settings) -> tuple[Probe, ...]:
    """Return what becomes of a request to each listener that this host can reach by itself: multicast and tcp.

    Raises NotPermitted when this user may not read a key.
    """
    wanted = [one for one in settings.listeners if isinstance(one, (MulticastSettings, TcpSettings))]
    for one in wanted:
        refuse_hidden(one.key_file)
    return tuple(_try(one, settings.daemon.control_socket) for one in wanted)


def refuse_hidden(path: str) -> None:
    """Raise NotPermitted when this user may not read the key at *path*, or not see whether it is there."""
    folder = os.path.dirname(path)
    is_shut = os.path.exists(folder) and not os.access(folder, os.X_OK)
    if is_shut or (os.path.exists(path) and not os.access(path, os.R_OK)):
        raise NotPermitted(f"this user may not read the key {path}", "", "run this as root")


def _try(one: MulticastSettings | TcpSettings, control_socket: str) -> Probe:
    inquiry = inquiry_of(one)
    where = f"{one.name} {one.address} port {one.port}"
    before = _status(control_socket)
    try:
        heard = answers.list_hosts(inquiry)
    except VmfenceError as error:
        return _counted(Probe(one.name, where, error=error), before, _status(control_socket))
    ours = tuple(answer for answer in heard if is_own(answer.peer))
    others = tuple(answer for answer in heard if answer not in ours)
    probe = Probe(one.name, where, ours, others)
    probe = _counted(probe, before, _after(control_socket, before))
    return _with_speakers(probe, inquiry) if others else probe


def inquiry_of(one: MulticastSettings | TcpSettings) -> Inquiry:
    """Return how a guest would ask the listener *one*."""
    is_tcp = isinstance(one, TcpSettings)
    return Inquiry(
        ipaddr=_ANY.get(one.address, one.address) if is_tcp else None,
        address="" if is_tcp else one.address,
        family=one.family,
        port=one.port,
        key_file=one.key_file,
        hash_name=str(one.hash),
        auth_name=str(one.auth),
        timeout_s=TIMEOUT_S,
    )


def is_own(address: str) -> bool:
    """Whether *address* is one of this host's."""
    try:
        network.check_address(address.partition("%")[0])
    except VmfenceError:
        return False
    return True


def _status(path: str) -> Status | None:
    try:
        return control.ask(path, _STATUS_S)
    except VmfenceError:
        return None  # told by the check of the daemon


def _after(path: str, before: Status | None) -> Status | None:
    """Return the status once one more list than *before* is counted, which happens after the answer; or the last."""
    if before is None:
        return None
    end = time.monotonic() + _CONFIRM_S
    while True:
        status = _status(path)
        is_over = status is None or control.lists_answered(status) > control.lists_answered(before)
        if is_over or time.monotonic() > end:
            return status
        time.sleep(_PAUSE_S)


def _counted(probe: Probe, before: Status | None, after: Status | None) -> Probe:
    """Return *probe* with what the daemon tells of the time between two of its statuses."""
    if before is None or after is None or before["pid"] != after["pid"]:
        return probe
    refused: Counter[str] = Counter(after["rejected"]) - Counter(before["rejected"])
    is_counted = control.lists_answered(after) > control.lists_answered(before)
    return replace(probe, is_counted=is_counted, refused=tuple(sorted(refused)))


def _with_speakers(
    probe: Probe, inquiry: Inquiry, ask: Callable[[Inquiry, str], tuple[str, ...]] = answers.speakers
) -> Probe:
    """Return *probe* with who answers for a guest of ours: by rights we alone."""
    guest = next((record.name or record.uuid for answer in probe.ours for record in answer.guests), "")
    if not guest:
        return probe
    try:
        return replace(probe, guest=guest, speakers=ask(inquiry, guest))
    except VmfenceError:
        return replace(probe, guest=guest)
