"""What a host keeps of its pool: on the disk, and from the fencer's history."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from vmfence.errors import VmfenceError
from vmfence.host.pool import record
from vmfence.host.pool.directory import FORGET_S, Directory
from vmfence.host.pool.effects import NoteFences, Send
from vmfence.host.pool.lasts import NOBODY_KNOWS
from vmfence.host.pool.look import Look
from vmfence.host.pool.member import Member
from vmfence.host.pool.messages import Away, Entry, Listing, Missing, Report, Sight
from vmfence.protocol.cpg import Store

ALPHA = Entry("älpha", "11111111-2222-3333-4444-555555555501", 1)


def known() -> Directory:
    """Hosts 1 (this one), 2 with a guest, and 3 that has left with the same one shut off."""
    directory = Directory()
    directory.me = 1
    directory.set_configured({1: "h1", 2: "h2", 3: "h3"})
    directory.set_members(frozenset({1, 2, 3}), 10.0, 1000.0)
    for node, guests in ((1, ()), (2, (ALPHA,)), (3, (Entry("älpha", ALPHA.uuid, 5, True),))):
        directory.greeted(node)
        directory.listed(node, Listing(guests, (), True, True), 11.0)
    directory.set_members(frozenset({1, 2}), 12.0, 1002.0)
    return directory


def test_what_was_known_is_known_after_a_restart(tmp_path: Path) -> None:
    record.save(str(tmp_path), record.take(known()))
    loaded = record.load(str(tmp_path), 2000.0)
    assert loaded.hosts[3].left_at == 1002.0
    loaded.set_members(frozenset({1}), 20.0, 2001.0)
    away = {away.node: away for away in loaded.away("älpha")}
    assert {node: each.entry for node, each in away.items()} == {2: ALPHA, 3: Entry("älpha", ALPHA.uuid, 5, True)}
    # Nobody has looked while this host did not: they may have been back, and a fence of before does not count.
    assert {(each.left_at, each.is_seen_leaving) for each in away.values()} == {(2001.0, False)}
    assert loaded.lasts.nodes(ALPHA.uuid) == {2}
    assert (tmp_path / record.FILE_NAME).stat().st_mode & 0o777 == 0o600


def test_without_a_file_nothing_is_known(tmp_path: Path) -> None:
    assert record.load(str(tmp_path), 1.0).hosts == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"version": 1, "hosts": {"x": 1}}',
        '{"version": 1, "hosts": {"2": {"left_at": 1}}}',
        '{"version": 1, "hosts": {"2": {"left_at": NaN, "guests": []}}}',
        '{"version": 1, "hosts": {"2": {"left_at": 1e999, "guests": []}}}',
        '{"version": 1, "hosts": {"2": {"left_at": 1, "guests": [["a", "u", 1e99, false]]}}}',
        '{"version": 1, "hosts": {}, "lasts": [["u", [[1]], []]]}',
        '{"version": 99, "hosts": {}}',
        '{"version": NaN, "hosts": {}}',
        '{"hosts": {}}',
        "[" * 100_000,
        "\xff",
    ],
    ids=lambda text: text[-40:],
)
def test_a_damaged_file_is_not_taken_for_an_empty_one(tmp_path: Path, text: str) -> None:
    (tmp_path / record.FILE_NAME).write_text(text, encoding="latin-1")
    with pytest.raises(VmfenceError, match="damaged"):
        record.load(str(tmp_path), 1.0)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / record.FILE_NAME).mkdir()
    with pytest.raises(VmfenceError, match="cannot read"):
        record.load(str(tmp_path), 1.0)


def test_a_host_taken_out_of_the_configuration_is_forgotten() -> None:
    directory = known()
    directory.set_configured({1: "h1", 2: "h2"})
    assert directory.away("älpha") == ()


def test_a_departed_host_excuses_itself_only_by_what_ran_since() -> None:
    directory = known()
    assert directory.away("älpha")[0].is_excused is False
    directory.see(2, (ALPHA,), 13.0)
    assert directory.away("älpha")[0].is_excused is True
    directory.set_members(frozenset({1, 2, 4}), 14.0, 1004.0)  # what a newcomer knows may be newer
    assert directory.away("älpha")[0].is_excused is False


def test_a_guest_that_left_is_nobodys() -> None:
    directory = known()
    assert directory.lasts.nodes(ALPHA.uuid) == {2}
    directory.listed(2, Listing((Entry("älpha", ALPHA.uuid, 5, True),), number=1), 15.0)
    assert directory.lasts.nodes(ALPHA.uuid) == {NOBODY_KNOWS}


def test_who_had_a_guest_last_is_known_after_a_restart(tmp_path: Path) -> None:
    directory = known()
    directory.listed(2, Listing((Entry("älpha", ALPHA.uuid, 5, True),), number=1), 15.0)
    record.save(str(tmp_path), record.take(directory))
    loaded = record.load(str(tmp_path), 2000.0)
    assert loaded.lasts_of(ALPHA.uuid) == directory.lasts_of("älpha") != ()


def test_without_quorum_those_who_are_away_may_be_together_elsewhere() -> None:
    """So what is known of them is old, and a fencing counts only from when this side can decide again."""
    directory = known()
    directory.hosts[3].is_seen_leaving = False
    directory.set_quorate(True, 1003.0)
    directory.set_members(frozenset({1}), 13.0, 1004.0)
    assert [(each.node, each.left_at, each.is_seen_leaving) for each in directory.away("x")] == [
        (2, 1004.0, True),
        (3, 1003.0, False),
    ]
    directory.set_quorate(False, 1005.0)
    directory.set_quorate(True, 1006.0)
    assert [(each.node, each.left_at, each.is_seen_leaving) for each in directory.away("x")] == [
        (2, 1006.0, False),
        (3, 1006.0, False),
    ]


def test_the_departure_that_was_seen_counts_and_the_latest_of_those() -> None:
    directory = known()
    directory.set_members(frozenset({1, 2, 4}), 14.0, 1004.0)
    look = Look(ALPHA.uuid, False, 14.0, 30.0)
    reports = {
        1: Away(3, 5.0, None, False, True, 1.0),
        2: Away(3, 6.0, None, False, True, None),
        4: Away(3, 9.0, ALPHA, False, False, 8.0),
    }
    for node, away in reports.items():
        look.reported(node, Report(1, 1, (), 14.0, away=(away,)), 14.0)
    assert look.view(directory).away == {3: Away(3, 6.0, ALPHA, False, True, 1.0)}
    for node in (1, 2):
        look.reported(node, Report(1, 1, (), 14.0, away=(replace(reports[node], is_seen_leaving=False),)), 14.0)
    assert look.view(directory).away == {3: Away(3, 9.0, ALPHA, False, False, 8.0)}


def test_a_list_told_anew_is_not_the_one_of_before() -> None:
    """With the same number: a daemon that was started again counts from the beginning."""
    directory = known()
    directory.set_members(frozenset({1}), 13.0, 1003.0)
    directory.set_members(frozenset({1, 2}), 14.0, 1004.0)
    directory.greeted(2)
    assert not directory.hosts[2].is_listed
    directory.listed(2, Listing((), (), True, True), 15.0)
    assert directory.holders("älpha") == []


def test_what_nobody_has_is_forgotten_when_all_were_here_for_long() -> None:
    directory = known()
    directory.set_configured({1: "h1", 2: "h2"})
    for place in range(100):
        entry = Entry(f"g{place}", f"{place:08x}-0000-4000-8000-000000000000", 1)
        directory.listed(2, Listing((entry,), number=2 * place + 1), 16.0)
        directory.listed(2, Listing((), (entry.uuid,), number=2 * place + 2), 16.0)
    assert len(directory.lasts) == 101
    directory.sweep(17.0 + FORGET_S)
    assert len(directory.lasts) == 101
    directory.set_members(frozenset({1}), 18.0 + FORGET_S, 1005.0)
    directory.sweep(19.0 + 3 * FORGET_S)
    directory.sweep(19.0 + 4 * FORGET_S)
    assert len(directory.lasts) == 101  # host 2 is away
    directory.set_members(frozenset({1, 2}), 0.0, 1006.0)
    directory.greeted(2)
    directory.listed(2, Listing((ALPHA,), (), True, True), 1.0)
    directory.greeted(1)
    directory.listed(1, Listing((), (), True, True), 1.0)
    directory.sweep(FORGET_S)
    directory.sweep(2 * FORGET_S)
    assert [last.uuid for last in directory.lasts] == [ALPHA.uuid]


def test_what_fence_virtd_was_told_of_is_bounded() -> None:
    directory = known()
    for place in range(60_000):
        directory.stored(2, Store(f"g{place}", f"{place:08x}-0000-4000-8000-000000000000", 2, 1), 16.0)
        directory.requested(2, place)
    assert directory.owner_told("g59999") == 2 and directory.owner_told("g1") is None
    assert not directory.is_asked(2, 1)


def test_the_record_is_plain(tmp_path: Path) -> None:
    record.save(str(tmp_path), record.take(known()))
    assert json.loads((tmp_path / record.FILE_NAME).read_text())["version"] == 1


def both_away() -> Directory:
    """Host 3 has left, then host 2 with a guest, seen by host 1; then host 2 is back."""
    directory = known()
    directory.set_quorate(True, 1003.0)
    directory.hosts[3].is_seen_leaving = True
    directory.set_members(frozenset({1}), 13.0, 1004.0)
    directory.set_members(frozenset({1, 2}), 14.0, 1005.0)
    return directory


def test_what_a_host_had_that_has_booted_may_be_at_one_that_is_still_away() -> None:
    """A guest moved from 2 to 3 while both daemons were down; then host 2 crashed, and says that the guest is off."""
    directory = both_away()
    directory.told_sight(2, Sight())
    assert directory.away("x")[0].is_seen_leaving and directory.missing()
    directory.told_sight(2, Sight(has_booted=True))
    assert not directory.away("x")[0].is_seen_leaving and not directory.missing()
    # What was said just before that does not count either.
    directory.take_missing(1, Missing(3, 1002.0, (), True, True), 15.0)
    look = Look("x", False, 14.0, 30.0)
    look.reported(1, Report(1, 1, (), 14.0, away=(Away(3, 5.0, None, False, True),)), 14.0)
    assert not directory.away("x")[0].is_seen_leaving and not look.view(directory).away[3].is_seen_leaving


def test_a_host_that_came_and_left_again_is_known_again() -> None:
    directory = both_away()
    directory.told_sight(2, Sight(has_booted=True))
    directory.set_members(frozenset({1, 2, 3}), 15.0, 1006.0)
    directory.greeted(3)
    directory.listed(3, Listing((), (), True, True), 15.0)
    directory.set_members(frozenset({1, 2}), 16.0, 1007.0)
    look = Look("x", False, 17.0, 30.0)
    look.reported(1, Report(1, 1, (), 17.0, away=directory.away("x")), 17.0)
    assert look.view(directory).away[3].is_seen_leaving


def test_a_host_that_could_not_read_its_hypervisor_is_not_known_when_it_leaves() -> None:
    for sights, is_known in (([True], False), ([True, False], True)):
        directory = known()
        directory.set_quorate(True, 1003.0)
        for is_blind in sights:
            directory.told_sight(2, Sight(is_blind))
        directory.set_members(frozenset({1}), 13.0, 1004.0)
        assert {each.node: each.is_seen_leaving for each in directory.away("x")}[2] is is_known


def test_what_a_host_tells_that_cannot_read_its_hypervisor_excuses_nobody() -> None:
    directory = known()
    directory.told_sight(2, Sight(is_blind=True))
    directory.listed(2, Listing((ALPHA,), (), True, True), 15.0)  # told anew for a newcomer
    assert not directory.away("älpha")[0].is_excused
    directory.told_sight(2, Sight())
    directory.listed(2, Listing((ALPHA,), (), True, True), 15.0)
    assert directory.away("älpha")[0].is_excused


def test_a_host_that_is_up_without_its_daemon_was_fenced_before_that() -> None:
    """Its fencing may look newer than that, by the fencer's clock."""
    directory = known()
    directory.note_fences({3: 5.0})
    directory.note_fences({3: 6.0})
    assert directory.away("x")[0].fence_before == 5.0  # the second may be of after it left
    assert directory.set_view(frozenset({1, 2}), 1003.0) == frozenset()
    assert directory.set_view(frozenset({1, 2, 3}), 1004.0) == {3}
    directory.set_view(frozenset({1, 2}), 1005.0)  # and the answer comes only now
    directory.note_fences({3: 1100.0})
    directory.note_fences({3: 1200.0})
    assert directory.away("x")[0].fence_before == 1100.0


def test_a_member_asks_for_fencings_and_tells_and_takes_what_is_known_of_guests() -> None:
    directory = known()
    member = Member(directory, 1000)
    member.view_changed(frozenset({1, 2, 3}), 1003.0)
    member.sight_changed(True)
    assert member.take() == [NoteFences((3,)), Send(Sight(is_blind=True))]
    member.view_changed(frozenset({1, 2, 3}), 1004.0)
    assert member.take() == []
    member.received(2, Sight(is_blind=True), 14.0)
    assert directory.hosts[2].is_blind
