"""Where several hosts of a pool hear one request, one of them answers, or none that cannot tell."""

from __future__ import annotations

import asyncio
import time

import pytest

from unit.fakes import FakeBackend
from vmfence.errors import BackendError, GuestNotFound
from vmfence.host.backends.base import Guest
from vmfence.host.pool.messages import Entry
from vmfence.host.pool.procedure import Sighted
from vmfence.host.pool.speaker import is_speaker
from vmfence.host.pool.verdict import NotVouched, View
from vmfence.host.service import Rules, Service
from vmfence.policy import Policy
from vmfence.protocol.reply import State

NAME, UUID = "alpha", "11111111-2222-4333-8444-000000000001"
ON, OFF = (Entry(NAME, UUID, int(State.RUNNING)),), (Entry(NAME, UUID, int(State.SHUT_OFF)),)


@pytest.mark.parametrize(
    ("view", "speaker"),
    [
        (View({1: (), 2: ON, 3: ()}), 2),
        (View({1: ON, 2: (), 3: ON}), 1),
        (View({1: (), 2: OFF, 3: ()}), 1),
        (View({2: ON}, silent={1: "no answer in time"}), 2),
        (View({2: OFF, 3: ()}, silent={1: "no answer in time"}), 1),
        (View({1: ON, 2: (), 3: ()}, references=frozenset({1})), 2),
        (View({1: (), 3: OFF}, references=frozenset({1})), 3),
    ],
)
def test_one_host_speaks(view: View, speaker: int) -> None:
    assert [me for me in (1, 2, 3) if is_speaker(view, me)] == [speaker]


class FakePool:
    """What the host *me* of a pool finds: *found*, or the error."""

    def __init__(self, found: Guest | BackendError, me: int) -> None:
        self._found, self._me = found, me

    async def find(self, target: str, deadline: float) -> Guest:
        if isinstance(self._found, BackendError):
            raise self._found
        return self._found

    def speaks_for(self, guest: Guest) -> bool:
        assert isinstance(guest, Sighted)
        return is_speaker(guest.view, self._me)


RUNNING_AT_2 = Sighted(NAME, UUID, State.RUNNING, view=View({1: (), 2: ON}))


@pytest.mark.parametrize(
    ("found", "me", "answers"),
    [
        # Heard by this host alone; heard by several.
        (RUNNING_AT_2, 2, (True, True)),
        (RUNNING_AT_2, 1, (True, False)),
        (NotVouched("nobody can vouch"), 1, (True, False)),
        (BackendError("the name means several guests"), 1, (True, True)),
        (GuestNotFound("nobody"), 1, (False, False)),
    ],
)
def test_who_answers(found: Guest | BackendError, me: int, answers: tuple[bool, bool]) -> None:
    service = Service(FakeBackend(), Rules(Policy(None)))
    service.pool = FakePool(found, me)  # type: ignore[assignment]

    def knows(is_shared: bool) -> bool:
        return asyncio.run(service.knows(NAME, time.monotonic() + 5, is_shared))

    assert (knows(False), knows(True)) == answers
