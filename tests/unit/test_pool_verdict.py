"""When a guest that runs nowhere in sight may be called off: never while any one reason against it holds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vmfence.host.pool.lasts import NOBODY_KNOWS
from vmfence.host.pool.messages import Away, Entry
from vmfence.host.pool.verdict import View, doubts, doubts_after

UUID = "11111111-2222-3333-4444-555555555501"
RUNNING, PAUSED, OFF = (Entry("alpha", UUID, state) for state in (1, 3, 5))
MOVED = replace(OFF, moved=True)
NONE: frozenset[int] = frozenset()
# Shut off at host 1, which had it last; 2 and 3 do not know it.
CLEAR = View({1: (OFF,), 2: (), 3: ()}, last=frozenset({1}))


def away(**hosts: Entry | None) -> dict[int, Away]:
    return {int(name[1:]): Away(int(name[1:]), 100.0, entry, False, True) for name, entry in hosts.items()}


def test_a_guest_that_ended_where_it_ran_last_is_off() -> None:
    assert doubts(CLEAR, NONE) == []


def test_a_guest_that_nobody_saw_running_is_off_where_it_is_defined() -> None:
    assert doubts(replace(CLEAR, last=NONE), NONE) == []


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        (replace(CLEAR, is_quorate=False), "not quorate"),
        (replace(CLEAR, is_everybody_here=None), "does not tell which hosts there are"),
        (
            replace(CLEAR, sightings={1: (OFF,), 2: ()}, silent={3: "libvirt hangs"}),
            "host 3 does not tell: libvirt hangs",
        ),
        (replace(CLEAR, sightings={1: (OFF,), 2: (RUNNING,), 3: ()}), "host 2 has it running"),
        (replace(CLEAR, sightings={1: (OFF,), 2: (PAUSED,), 3: ()}), "host 2 has it paused"),
        (replace(CLEAR, away=away(h4=RUNNING)), "host 4 had it running when it left"),
        (replace(CLEAR, away=away(h4=OFF)), "host 4 had it shut off when it left"),
        (replace(CLEAR, unheard=frozenset({4})), "host 4 is away and nobody knows"),
        (replace(CLEAR, last=frozenset({2})), "host 2 had it last and does not know it any more"),
        (replace(CLEAR, last=frozenset({4})), "host 4 had it last and cannot be asked"),
        (replace(CLEAR, last=frozenset({4}), away=away(h4=None)), "host 4 had it last and cannot be asked"),
        (replace(CLEAR, last=frozenset({1, NOBODY_KNOWS})), "nobody has seen where to"),
        (replace(CLEAR, sightings={1: (MOVED,), 2: (), 3: ()}), "nobody has seen where to"),
        (replace(CLEAR, sightings={1: (MOVED,), 2: (OFF,), 3: ()}, last=NONE), "nobody has seen where to"),
        (replace(CLEAR, sightings={1: (), 2: (), 3: ()}, last=NONE), "no host says that it ended there"),
        (
            replace(CLEAR, away={4: Away(4, 100.0)}),
            "nobody who is here saw host 4 leave",
        ),
        (replace(CLEAR, references=frozenset({1}), is_everybody_here=False), "host 1 is fence_virtd"),
    ],
)
def test_each_reason_alone_forbids_it(view: View, reason: str) -> None:
    assert any(reason in doubt for doubt in doubts(view, NONE)), doubts(view, NONE)


def test_it_moved_and_ended_where_it_went() -> None:
    assert doubts(replace(CLEAR, sightings={1: (OFF,), 2: (MOVED,), 3: ()}), NONE) == []


def test_a_host_that_never_had_it_may_be_away() -> None:
    assert doubts(replace(CLEAR, away=away(h4=None)), NONE) == []


def test_an_old_definition_at_a_host_that_is_away_is_excused_by_who_ran_since() -> None:
    had = {4: Away(4, 100.0, OFF, True, True)}
    assert doubts(replace(CLEAR, away=had), NONE) == []
    had = {4: Away(4, 100.0, RUNNING, True, True)}
    assert doubts(replace(CLEAR, away=had), NONE)


def test_a_fenced_host_is_off_with_its_guests() -> None:
    gone = replace(CLEAR, sightings={1: (), 2: (), 3: ()}, away=away(h4=RUNNING), last=frozenset({4}))
    assert doubts(gone, NONE)
    assert doubts(gone, frozenset({4})) == []


def test_it_may_have_moved_from_the_fenced_host_to_another_that_is_away() -> None:
    gone = replace(CLEAR, sightings={1: (), 2: ()}, away=away(h4=RUNNING, h5=None), last=frozenset({4}))
    assert "it may have moved to host 5" in doubts(gone, frozenset({4}))[0]
    assert doubts(gone, frozenset({4, 5})) == []


def test_a_fence_of_long_ago_proves_nothing_of_where_it_ran_since() -> None:
    gone = replace(CLEAR, sightings={1: (), 2: ()}, away=away(h4=RUNNING), last=frozenset({NOBODY_KNOWS}))
    assert doubts(gone, frozenset({4}))


def test_a_host_that_nobody_saw_leave_may_have_anything() -> None:
    """Most hosts may be here, and all of their daemons have been started since."""
    unseen = replace(CLEAR, away={4: Away(4, 100.0)})
    assert doubts(unseen, NONE) == ["nobody who is here saw host 4 leave"]
    assert doubts(unseen, frozenset({4})) == []  # since we look: then it has nothing any more


def test_a_guest_that_is_nowhere_of_all_hosts_is_off_wherever_it_was() -> None:
    moved = replace(CLEAR, sightings={1: (MOVED,), 2: (), 3: ()}, last=frozenset({NOBODY_KNOWS}))
    assert doubts(moved, NONE)
    quiet = replace(moved, is_quiet=True)
    assert doubts(quiet, NONE) == []
    for more in (
        {"away": away(h4=None)},
        {"unheard": frozenset({4})},
        {"references": frozenset({2})},
        {"silent": {2: "libvirt hangs"}},
        {"is_everybody_here": None},
    ):
        assert doubts(replace(quiet, **more), NONE), more
    assert doubts(replace(quiet, away=away(h4=None)), frozenset({4})) == []


# After an off that its host has confirmed


def test_after_a_confirmed_off_others_need_not_answer() -> None:
    view = View({1: (OFF,), 2: ()}, silent={3: "hangs"}, is_quorate=False, concerned=frozenset({1}))
    assert doubts_after(view, frozenset({1}), NONE) == []


@pytest.mark.parametrize(
    "view",
    [
        View({1: (OFF,), 2: (RUNNING,)}),
        View({1: (OFF,), 2: (PAUSED,)}),
        View({1: ()}),
        View({1: (MOVED,)}),
        View({2: ()}),
        View({1: (OFF,)}, silent={2: "hangs"}, concerned=frozenset({1, 2})),
        View({1: (OFF,)}, away=away(h4=RUNNING)),
    ],
)
def test_after_a_confirmed_off_it_may_still_run_elsewhere(view: View) -> None:
    assert doubts_after(view, frozenset({1}), NONE)


def test_after_a_confirmed_off_old_definitions_mean_nothing() -> None:
    view = View({1: (OFF,)}, away=away(h4=OFF), unheard=frozenset({5}))
    assert doubts_after(view, frozenset({1}), NONE) == []
