"""A request of this host to its own listeners, asked as a guest asks: packet, signature, call-back, challenges, list.

It changes nothing.  By multicast other hosts may answer as well, so all answers are taken, told apart by their address,
and our daemon is asked whether it counted one.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from vmfence import together
from vmfence.config.settings import MulticastSettings, Settings, TcpSettings
from vmfence.errors import NotPermitted, VmfenceError
from vmfence.guest import answers
from vmfence.guest.answers import HostAnswer, NoList
from vmfence.guest.guests import Inquiry
from vmfence.host import control, network

TIMEOUT_S = 3.0
_CONFIRM_S, _PAUSE_S = 1.0, 0.05
_STATUS_S = 1.5
_SPEAK_S = 1.5
_LATE_S = 0.5
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}
Status = dict[str, Any]


@dataclass(frozen=True)
class Probe:
    """What became of the request to the listener *name* at *where*.

    *ours*, *others*: who answered, by an address of this host and by another.  *is_counted*: whether our daemon has
    counted it, None where that cannot be known.  *refused*: reasons for which it dropped packets meanwhile.
    *speakers*: who answers for *guest*, one of ours, asked when there are others.  *has_failed*: an address of this
    host answered with failure; *failure*: why our daemon did, as it tells itself; *failed_elsewhere*: other hosts that
    did.  *in_hand*: how many requests our daemon had not answered yet.
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
    has_failed: bool = False
    failure: str = ""
    failed_elsewhere: tuple[str, ...] = ()
    in_hand: int = 0

    @property
    def got_through(self) -> bool:
        """Whether our daemon has answered, if only that it failed."""
        return bool(self.ours) or self.has_failed if self.is_counted is None else self.is_counted

    @property
    def is_heard(self) -> bool:
        """Whether anybody has answered, with whatever."""
        return bool(self.ours or self.others or self.failed_elsewhere or self.has_failed)

    @property
    def is_served(self) -> bool:
        """Whether our daemon has answered with what was asked for."""
        return self.got_through and not self.has_failed


def try_listeners(settings: Settings) -> tuple[Probe, ...]:
    """Return what becomes of a request to each listener that this host can reach by itself: multicast and tcp.

    Raises NotPermitted when this user may not read a key.
    """
    wanted = [one for one in settings.listeners if isinstance(one, (MulticastSettings, TcpSettings))]
    for one in wanted:
        refuse_hidden(one.key_file)
    return _try_all(wanted, settings.daemon.control_socket)


def refuse_hidden(path: str) -> None:
    """Raise NotPermitted when this user may not read the key at *path*, or not see whether it is there."""
    folder = os.path.dirname(path)
    is_shut = os.path.exists(folder) and not os.access(folder, os.X_OK)
    if is_shut or (os.path.exists(path) and not os.access(path, os.R_OK)):
        raise NotPermitted(f"this user may not read the key {path}", "", "run this as root")


def _try_all(wanted: Sequence[MulticastSettings | TcpSettings], control_socket: str) -> tuple[Probe, ...]:
    """Return what becomes of a request to each, all at the same time; a daemon that does not answer is asked once."""
    before = _status(control_socket)
    tried = together.call({str(number): partial(_try, one) for number, one in enumerate(wanted)}, TIMEOUT_S + _LATE_S)
    probes = [
        Probe(one.name, _where(one), error=probe) if isinstance(probe, VmfenceError) else probe
        for one, probe in zip(wanted, tried.values())
    ]
    after = _after(control_socket, before, sum(probe.error is None for probe in probes))
    counted = [_counted(probe, before, after, probes) for probe in probes]
    asked = {
        str(number): partial(_with_speakers, probe, replace(inquiry_of(one), timeout_s=_SPEAK_S))
        for number, (one, probe) in enumerate(zip(wanted, counted))
        if probe.others or probe.failed_elsewhere
    }
    told = together.call(asked, _SPEAK_S + _LATE_S)
    heard = (told.get(str(number)) for number in range(len(counted)))
    return tuple(new if isinstance(new, Probe) else probe for new, probe in zip(heard, counted))


def _where(one: MulticastSettings | TcpSettings) -> str:
    return f"{one.name} {one.address} port {one.port}"


def _is_answered(probe: Probe) -> bool:
    """Whether an address of this host has answered."""
    return bool(probe.ours) or probe.has_failed


def _try(one: MulticastSettings | TcpSettings) -> Probe:
    inquiry, where, failed = inquiry_of(one), _where(one), frozenset[str]()
    try:
        heard = answers.list_hosts(inquiry)
    except NoList as error:
        heard, failed = error.lists, frozenset(error.failed)
    except VmfenceError as error:
        return Probe(one.name, where, error=error)
    ours = tuple(answer for answer in heard if is_own(answer.peer))
    others = tuple(answer for answer in heard if answer not in ours)
    strangers = tuple(address for address in sorted(failed) if not is_own(address))
    return Probe(one.name, where, ours, others, has_failed=len(strangers) < len(failed), failed_elsewhere=strangers)


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


def _after(path: str, before: Status | None, wanted: int) -> Status | None:
    """Return the status once *wanted* more lists than *before* are counted, after the answers; or the last.

    None where it did not answer before.
    """
    if before is None:
        return None
    end = time.monotonic() + _CONFIRM_S
    while True:
        status = _status(path)
        is_over = status is None or control.lists_answered(status) - control.lists_answered(before) >= wanted
        if is_over or time.monotonic() > end:
            return status
        time.sleep(_PAUSE_S)


def _counted(probe: Probe, before: Status | None, after: Status | None, probes: Sequence[Probe]) -> Probe:
    """Return *probe* with what the daemon tells of the time between two statuses, in which all *probes* were made."""
    if before is None or after is None or before["pid"] != after["pid"]:
        return probe
    refused: Counter[str] = Counter(after["rejected"]) - Counter(before["rejected"])
    is_counted = _is_counted(probe, control.lists_answered(after) - control.lists_answered(before), probes)
    known = before["last_failed"]
    reasons = [
        str(one["reason"])
        for one in after["last_failed"]
        if one not in known and one["action"] == "list" and is_own(str(one["origin"]))
    ]
    return replace(
        probe,
        is_counted=is_counted,
        refused=tuple(sorted(refused)),
        failure=reasons[-1] if reasons else "",
        in_hand=0 if is_counted else int(after["in_flight"]),
    )


def _is_counted(probe: Probe, counted: int, probes: Sequence[Probe]) -> bool | None:
    """Return whether *probe* is one of the *counted*, of which the daemon does not tell which they are."""
    answered = sum(map(_is_answered, probes))
    if counted == 0 or counted >= len(probes):
        return counted > 0
    if counted < answered:
        return None
    return True if _is_answered(probe) else None if counted > answered else False


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
