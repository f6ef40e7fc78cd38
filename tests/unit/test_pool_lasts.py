"""Who had a guest last: which opinion is the newer one, without a clock, and what becomes of two that contradict."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmfence.host.pool.lasts import NOBODY_KNOWS, PAST_MAX, Lasts, merge, new_stay
from vmfence.host.pool.messages import Last

U = "11111111-2222-3333-4444-555555555501"


def seen(*stays: tuple[int, int]) -> Lasts:
    """Return the knowledge of one who saw these stays, one after the other."""
    found = Lasts()
    for stay, node in stays:
        found.executes(U, node, stay, ())
    return found


def last(lasts: Lasts) -> Last:
    found = lasts.get(U)
    assert found is not None
    return found


def test_the_one_that_executes_had_it_last() -> None:
    assert seen((7, 1), (8, 2)).nodes(U) == {2}
    assert seen((7, 1)).nodes("another") == frozenset()


def test_who_was_away_learns_what_is_newer_and_does_not_spoil_it() -> None:
    old, new = seen((7, 1)), seen((7, 1), (8, 2))
    assert merge(last(old), last(new)) == merge(last(new), last(old)) == last(new)


def test_where_neither_saw_what_the_other_did_both_count() -> None:
    one, other = seen((7, 1), (8, 2)), seen((7, 1), (9, 3))
    one.hear(last(other))
    assert one.nodes(U) == {2, 3}
    one.executes(U, 1, 10, ())
    assert one.nodes(U) == {1}
    other.hear(last(one))
    assert other.nodes(U) == {1}


def test_a_guest_that_left_is_nobodys_until_it_is_seen() -> None:
    lasts = seen((7, 1))
    lasts.left(U, 1, {})
    assert lasts.nodes(U) == {NOBODY_KNOWS}
    assert merge(last(seen((7, 1))), last(lasts)) == last(lasts)
    assert merge(last(seen((7, 1), (8, 2))), last(lasts)).stays == ((8, 2),)  # who saw where it went knows better
    lasts.executes(U, 2, 8, ())
    assert lasts.nodes(U) == {2}


def test_a_guest_that_left_for_a_host_that_has_it_is_there() -> None:
    """Whichever is told first."""
    lasts = seen((7, 1))
    lasts.executes(U, 2, 8, {1: 7})
    assert lasts.nodes(U) == {1, 2}
    lasts.left(U, 1, {2: 8})
    assert lasts.nodes(U) == {2}
    lasts.left(U, 2, {1: 7})  # it went back before host 1 had seen it leave
    assert lasts.nodes(U) == {1}


def test_a_guest_that_ended_in_one_place_of_two_is_in_the_other() -> None:
    lasts = seen((7, 1))
    lasts.executes(U, 2, 8, {1: 7})
    lasts.ended(U, 1, {2: 8})
    assert lasts.nodes(U) == {2}
    lasts.ended(U, 2, {})
    assert lasts.nodes(U) == {2}


def test_a_host_that_did_not_look_knows_only_that_it_is_gone() -> None:
    lasts = seen((7, 1))
    lasts.lost_track(U, 1, 99)
    assert lasts.nodes(U) == {NOBODY_KNOWS}
    assert merge(last(lasts), last(seen((7, 1), (8, 2)))).stays == ((8, 2),)
    lasts = seen((7, 2))
    lasts.lost_track(U, 1, 99)
    assert lasts.nodes(U) == {NOBODY_KNOWS, 2}


def test_what_ended_and_was_undefined_is_nowhere() -> None:
    lasts = seen((7, 1))
    lasts.is_over(U, 1)
    assert lasts.nodes(U) == frozenset()
    lasts.hear(last(seen((7, 1))))
    assert lasts.nodes(U) == frozenset()


def test_the_past_is_bounded_and_what_was_forgotten_of_it_counts_again() -> None:
    lasts = seen(*((stay, stay % 3 + 1) for stay in range(1, 100)))
    assert len(last(lasts).past) == PAST_MAX
    assert merge(last(seen((1, 5))), last(lasts)).stays == ((1, 5), (99, 1))


def test_all_come_to_the_same_in_whatever_order_they_hear() -> None:
    rng = random.Random(5)
    for _ in range(200):
        opinions = []
        for first in range(3):
            lasts = seen((1, 1))
            for stay in range(rng.randrange(4)):
                if rng.random() < 0.3:
                    lasts.left(U, next(iter(lasts.nodes(U))), {})
                else:
                    lasts.executes(U, rng.randrange(1, 4), 10 * (first + 1) + stay, ())
            opinions.append(last(lasts))
        found = set()
        for one, two, three in itertools.permutations(opinions):
            merged = merge(merge(one, two), three)
            found.add((merged.stays, frozenset(merged.past)))
        assert len(found) == 1


STAYS = st.integers(1, 60)
OPINIONS = st.builds(
    lambda stays, past: Last(U, tuple(sorted(stays.items())), tuple(past - stays.keys())),
    st.dictionaries(STAYS, st.integers(1, 3), max_size=3),
    st.frozensets(STAYS, max_size=PAST_MAX),
)


@given(OPINIONS, OPINIONS)
def test_two_opinions_become_the_same_one_in_whatever_order(one: Last, other: Last) -> None:
    merged = merge(one, other)
    assert merge(other, one).past == merged.past
    assert {stay for stay, _ in merge(other, one).stays} == {stay for stay, _ in merged.stays}
    assert merge(merged, merged) == merged


@given(st.lists(OPINIONS, min_size=2, max_size=4))
def test_who_tell_each_other_come_to_an_end_however_long_the_past(opinions: list[Last]) -> None:
    """Else each answer would bring something new, and the guest would never count as quiet."""
    hosts = [Lasts([opinion]) for opinion in opinions]
    for _ in range(6):
        told = [last(host) for host in hosts]
        is_new = [host.hear(each) for host in hosts for each in told]
    assert not any(is_new)


def test_of_a_long_past_the_first_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(1_800_000_000)
    monkeypatch.setattr("time.time", lambda: next(clock))
    stays = [new_stay() for _ in range(2 * PAST_MAX)]
    assert last(seen(*((stay, 1) for stay in stays))).past == tuple(stays[-PAST_MAX - 1 : -1])
