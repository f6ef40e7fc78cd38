"""The log of rejected packets: told at once, never a flood, nothing lost from the counts."""

from __future__ import annotations

import re

import pytest

from vmfence.errors import PacketError, SignatureError
from vmfence.host import refusals
from vmfence.host.refusals import KEPT_MAX, RefusalLimit
from vmfence.host.rejects import INTERVAL_S, KINDS_MAX, RejectLog

BAD, WEAK = PacketError("packet too short", "3 bytes"), SignatureError("weak hash")
START = 1000.0


def more(lines: list[str]) -> int:
    """Return how many rejections *lines* stand for beside themselves."""
    return sum(int(found[1]) for line in lines if (found := re.search(r"\((\d+) more like it\)", line)))


def test_the_first_is_told_at_once_with_who_and_why() -> None:
    line = RejectLog().note("10.0.0.1", BAD, START)
    assert line == "rejected packet from 10.0.0.1: packet too short. 3 bytes."


def test_the_first_is_told_even_when_the_machine_has_just_started() -> None:
    assert RejectLog().note("10.0.0.1", BAD, 0.0)


def test_the_same_again_is_held_back_and_counted() -> None:
    log = RejectLog()
    log.note("10.0.0.1", BAD, START)
    assert [log.note("10.0.0.1", BAD, START + n) for n in range(10)] == [None] * 10
    line = log.note("10.0.0.1", BAD, START + INTERVAL_S)
    assert line and more([line]) == 10
    line = log.note("10.0.0.1", BAD, START + 2 * INTERVAL_S)
    assert line and more([line]) == 0


@pytest.mark.parametrize(("origin", "error"), [("10.0.0.2", BAD), ("10.0.0.1", WEAK)])
def test_another_origin_or_reason_is_told(origin: str, error: PacketError) -> None:
    log = RejectLog()
    log.note("10.0.0.1", BAD, START)
    assert log.note(origin, error, START)


def test_a_flood_from_everywhere_is_bounded() -> None:
    log = RejectLog()
    lines = [line for n in range(20_000) if (line := log.note(f"10.1.{n // 256}.{n % 256}", BAD, START))]
    assert len(lines) == KINDS_MAX + 1
    assert sum(len(vars(log)[name]) for name in ("_told_at", "_held", "counts")) <= 2 * KINDS_MAX + 4
    assert log.counts["packet too short"] == 20_000
    assert len(lines) + more(log.flush(START + INTERVAL_S)) == 20_000


def test_a_flood_does_not_hide_another_reason() -> None:
    log = RejectLog()
    for n in range(5000):
        log.note(str(n), BAD, START)
    assert log.note("10.0.0.1", WEAK, START)


def test_flush_tells_what_was_held_back_once_it_is_due() -> None:
    log = RejectLog()
    for _ in range(4):
        log.note("10.0.0.1", BAD, START)
    log.note("10.0.0.2", BAD, START)
    assert log.flush(START + INTERVAL_S - 0.1) == []
    assert log.flush(START + INTERVAL_S) == ["rejected packets from 10.0.0.1: packet too short (3 more like it)"]
    assert log.flush(START + 2 * INTERVAL_S) == []


def test_flush_forgets_so_that_new_kinds_find_room() -> None:
    log = RejectLog()
    for n in range(KINDS_MAX):
        log.note(str(n), BAD, START)
    log.flush(START + INTERVAL_S)
    line = log.note("10.0.0.1", BAD, START + INTERVAL_S)
    assert line and "10.0.0.1" in line


def test_the_counts_are_of_all() -> None:
    log = RejectLog()
    for number in range(100):
        log.note(str(number % 3), BAD, START + number)
    log.note("x", WEAK, START)
    assert log.counts == {"packet too short": 100, "weak hash": 1}


def test_refusals_of_an_origin_are_kept_up_to_a_number() -> None:
    limit = RefusalLimit()
    told = [limit.note("a", 1.0) for _ in range(KEPT_MAX + 5)]
    assert told == [0] * KEPT_MAX + [None] * 5
    assert limit.note("b", 1.0) == 0, "another origin's are its own"
    assert limit.note("a", 1.0 + refusals.INTERVAL_S) == 5
    assert limit.note("a", 1.0 + refusals.INTERVAL_S) == 0


def test_refusals_of_many_origins_need_little_memory() -> None:
    limit = RefusalLimit()
    for number in range(3 * refusals.ORIGINS_MAX):
        assert limit.note(str(number), 1.0) == 0
    assert len(limit._origins) == refusals.ORIGINS_MAX
