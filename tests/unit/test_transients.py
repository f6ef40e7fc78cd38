"""What is remembered of guests that libvirt forgot: never more than it proves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vmfence.host.backends import transients
from vmfence.host.backends.base import Guest
from vmfence.host.backends.transients import RETRY_S, TransientMemory
from vmfence.protocol.reply import State

GUEST = Guest("tran", "11111111-2222-3333-4444-5555555555aa", State.RUNNING)


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(transients, "time", made)
    return made


@pytest.fixture
def memory(clock: Clock) -> TransientMemory:
    made = TransientMemory()
    made.keep(GUEST, "<domain/>")
    return made


def test_before_its_end_is_confirmed_it_is_good_for_a_start_alone(memory: TransientMemory) -> None:
    assert memory.find("tran", lately=True) is None
    found = memory.find("tran", lately=False)
    assert found is not None and found.state is State.SHUT_OFF
    assert memory.xml(GUEST.uuid) == "<domain/>"


@pytest.mark.parametrize("target", ["tran", GUEST.uuid, GUEST.uuid.upper()])
def test_a_moment_after_its_end_it_counts_as_off(memory: TransientMemory, clock: Clock, target: str) -> None:
    memory.ended(GUEST.uuid)
    clock.now += RETRY_S
    assert memory.find(target, lately=True) is not None
    clock.now += 0.1
    assert memory.find(target, lately=True) is None
    assert memory.find(target, lately=False) is not None


def test_seen_after_its_end_it_lives(memory: TransientMemory, clock: Clock) -> None:
    memory.ended(GUEST.uuid)
    clock.now += 1
    memory.seen(GUEST.uuid, clock.now)
    assert memory.find("tran", lately=True) is None


def test_a_look_that_began_before_its_end_says_nothing(memory: TransientMemory, clock: Clock) -> None:
    """A status that saw it running may come back after it was ended: its XML must not be lost by that."""
    asked_at = clock.now
    clock.now += 1
    memory.ended(GUEST.uuid)
    memory.seen(GUEST.uuid, asked_at)
    assert memory.find("tran", lately=True) is not None
    assert memory.xml(GUEST.uuid) == "<domain/>"


def test_names_are_exact(memory: TransientMemory) -> None:
    memory.ended(GUEST.uuid)
    assert memory.find("TRAN", lately=True) is None
    assert memory.find("", lately=False) is None


def test_it_is_bounded(memory: TransientMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transients, "REMEMBERED_MAX", 3)
    for number in range(5):
        memory.keep(replace(GUEST, name=f"t{number}", uuid=f"u{number}"), f"x{number}")
    assert [memory.xml(f"u{number}") for number in range(5)] == [None, None, "x2", "x3", "x4"]
    assert memory.xml(GUEST.uuid) is None
