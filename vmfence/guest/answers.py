"""Ask every host that hears us, not only the fastest: who answers, with which guests, and who speaks for a guest."""

from __future__ import annotations

from dataclasses import dataclass

from vmfence import keyfile
from vmfence.client import census
from vmfence.client.ask import Transport, ask
from vmfence.client.stream import Answer
from vmfence.errors import VmfenceError
from vmfence.guest.guests import Inquiry
from vmfence.protocol.auth import Hash, Key
from vmfence.protocol.reply import Code, Record
from vmfence.protocol.request import Action


@dataclass(frozen=True)
class HostAnswer:
    """One host, proven by the key: its address *peer*, and the guests that it shows us."""

    peer: str
    guests: tuple[Record, ...]


def list_hosts(inquiry: Inquiry) -> tuple[HostAnswer, ...]:
    """Return every host that answers, with its guests, in order of arrival; by TCP that is one.

    Raises as guests.list_guests(); VmfenceError also when any host answers anything but a list.
    """
    answers = _ask(inquiry, Action.LIST, "")
    for answer in answers:
        if answer.code != Code.LIST:
            why, remedy = f"it answered {answer.code}", "see the daemon's log on the host"
            raise VmfenceError(f"{answer.peer} sent no list", why, remedy)
    return tuple(HostAnswer(answer.peer, tuple(answer.records)) for answer in answers)


def speakers(inquiry: Inquiry, guest: str) -> tuple[str, ...]:
    """Return the addresses of the hosts that answer a question about *guest*, whatever they say; there should be one.

    A host that does not have the guest may answer all the same: fence_virtd says that it is off.
    """
    return tuple(answer.peer for answer in _ask(inquiry, Action.STATUS, guest))


def _ask(inquiry: Inquiry, action: Action, guest: str) -> list[Answer]:
    hash_type, auth = Hash.named(inquiry.hash_name), Hash.named(inquiry.auth_name)
    is_open = hash_type is Hash.NONE and auth is Hash.NONE
    key = None if is_open else Key(keyfile.read(inquiry.key_file))
    if inquiry.ipaddr is not None:
        transport = Transport("tcp", address=inquiry.ipaddr, port=inquiry.port)
        return [ask(action, guest, transport, key, hash_type=hash_type, auth=auth, timeout_s=inquiry.timeout_s)]
    return census.count(
        action,
        guest,
        address=inquiry.address,
        family=inquiry.family,
        port=inquiry.port,
        key=key,
        hash_type=hash_type,
        auth=auth,
        timeout_s=inquiry.timeout_s,
    )
