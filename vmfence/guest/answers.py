"""Ask every host that hears us, not only the fastest: who answers, with which guests, and who speaks for a guest."""

from __future__ import annotations

from dataclasses import dataclass

from vmfence.client import census
from vmfence.client.stream import Answer
from vmfence.errors import VmfenceError
from vmfence.guest.guests import Inquiry, put, read_key
from vmfence.protocol.auth import Hash
from vmfence.protocol.reply import Code, Record
from vmfence.protocol.request import Action


@dataclass(frozen=True)
class HostAnswer:
    """One host, proven by the key: its address *peer*, and the guests that it shows us."""

    peer: str
    guests: tuple[Record, ...]


class NoList(VmfenceError):
    """Some host answered something else than a list: its address is in *failed*; *lists*: what the others answered."""

    def __init__(self, failed: list[Answer], lists: tuple[HostAnswer, ...]) -> None:
        self.failed, self.lists = tuple(answer.peer for answer in failed), lists
        why, remedy = f"it answered {failed[0].code}", "see the daemon's log on the host"
        super().__init__(f"{failed[0].peer} sent no list", why, remedy)


def list_hosts(inquiry: Inquiry) -> tuple[HostAnswer, ...]:
    """Return every host that answers, with its guests, in order of arrival; one, unless by multicast.

    Raises as guests.list_guests(); NoList also when any host answers anything but a list.
    """
    answers = _ask(inquiry, Action.LIST, "")
    lists = tuple(HostAnswer(answer.peer, tuple(answer.records)) for answer in answers if answer.code == Code.LIST)
    failed = [answer for answer in answers if answer.code != Code.LIST]
    if failed:
        raise NoList(failed, lists)
    return lists


def speakers(inquiry: Inquiry, guest: str) -> tuple[str, ...]:
    """Return the addresses of the hosts that answer a question about *guest*, whatever they say; there should be one.

    A host that does not have the guest may answer all the same: fence_virtd says that it is off.
    """
    return tuple(answer.peer for answer in _ask(inquiry, Action.STATUS, guest))


def _ask(inquiry: Inquiry, action: Action, guest: str) -> list[Answer]:
    if inquiry.kind != "multicast":  # every other way leads to one host
        return [put(inquiry, action, guest)]
    return census.count(
        action,
        guest,
        address=inquiry.address,
        family=inquiry.family,
        port=inquiry.port,
        key=read_key(inquiry),
        hash_type=Hash.named(inquiry.hash_name),
        auth=Hash.named(inquiry.auth_name),
        timeout_s=inquiry.timeout_s,
    )
