"""One member of a pool among hosts that the test plays: whom it believes, whom it answers, and how long it waits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from vmfence.errors import DeadlineExceeded, GuestNotFound, Unreachable, VmfenceError
from vmfence.host.backends.base import Guest
from vmfence.host.pool import procedure
from vmfence.host.pool.directory import GREETING_S, Directory
from vmfence.host.pool.effects import Act, Done, FindFenced, LookHere, NoteFences, Send
from vmfence.host.pool.lasts import NOBODY_KNOWS
from vmfence.host.pool.look import LOOK_S
from vmfence.host.pool.member import Member
from vmfence.host.pool.messages import (
    Away,
    Entry,
    Hello,
    Last,
    Lasts,
    Listing,
    Message,
    Missing,
    Order,
    Query,
    Report,
    Result,
)
from vmfence.host.pool.procedure import Outcome
from vmfence.host.pool.verdict import NotVouched, View
from vmfence.protocol.cpg import Reply, Request, Store
from vmfence.protocol.reply import Code, State
from vmfence.protocol.request import Action

UUID, OTHER = "11111111-2222-3333-4444-555555555501", "11111111-2222-3333-4444-555555555502"
RUNNING, OFF = Entry("alpha", UUID, 1), Entry("alpha", UUID, 5)
BETA = Entry("Beta", OTHER, 1)
T = ("test",)


class Stage:
    """Host 1, and hosts 2 and 3 played by the test; *theirs* are fence_virtd."""

    def __init__(
        self,
        *theirs: int,
        me: int = 1,
        quorate: bool = True,
        directory: Directory | None = None,
        mine: tuple[Entry, ...] = (),
    ) -> None:
        self.now = 100.0
        self.member = Member(directory or Directory(), 1000)
        self.member.directory.set_configured({1: "h1", 2: "h2", 3: "h3"})
        self.member.joined_group(me)
        self.member.quorum_changed(quorate, 0.0)
        self.member.members_changed(frozenset({1, 2, 3}), self.now, 0.0)
        self.member.guests_read(mine)
        self.told = [effect.message for effect in self.take() if isinstance(effect, Send)]
        for node in {1, 2, 3} - set(theirs):
            self.hear(node, Hello())
            self.hear(node, Listing((), (), True, True))
        self.pass_time(GREETING_S)
        self.me = me
        self.take()

    def hear(self, node: int, message: Message) -> None:
        self.member.received(node, message, self.now)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.member.tick(self.now)

    def take(self) -> list[Any]:
        return self.member.take()

    def sent(self, kind: type) -> list[Any]:
        return [
            effect.message for effect in self.take() if isinstance(effect, Send) and isinstance(effect.message, kind)
        ]

    def find(self, target: str, seconds: float = 20.0) -> Query:
        """Begin to look for a guest; return the question to all."""
        self.member.begin(T, procedure.find(target), self.now + seconds, self.now)
        (query,) = self.sent(Query)
        return query

    def report(self, node: int, query: Query, *guests: Entry, **more: Any) -> None:
        self.hear(node, Report(self.me, query.seqno, guests, self.now, **more))

    def done(self) -> Done:
        (found,) = [effect for effect in self.take() if isinstance(effect, Done)]
        return found

    def error(self) -> VmfenceError:
        error = self.done().error
        assert error is not None
        return error


def test_a_question_is_answered_from_libvirt() -> None:
    stage = Stage()
    stage.hear(2, Query(7, "alpha"))
    (look,) = [effect for effect in stage.take() if isinstance(effect, LookHere)]
    stage.member.looked(look, [RUNNING], "", stage.now)
    (report,) = stage.sent(Report)
    (entry,) = report.guests
    assert (report.asker, report.seqno, replace(entry, stay=0)) == (2, 7, RUNNING)


def test_a_guest_is_where_it_is_reported() -> None:
    stage = Stage()
    query = stage.find("alpha")
    for node, guests in ((1, ()), (3, (RUNNING,)), (2, ())):
        stage.report(node, query, *guests)
    assert stage.done().result.view.active() == {3: RUNNING}


def test_what_nobody_knows_is_not_found_when_all_have_said_so() -> None:
    stage = Stage()
    query = stage.find("alpha")
    for node in (1, 2, 3):
        stage.report(node, query)
    assert isinstance(stage.error(), GuestNotFound)


def test_a_silent_host_delays_and_forbids_but_does_not_block() -> None:
    stage = Stage()
    query = stage.find(UUID)
    for node in (1, 2):
        stage.report(node, query, *([OFF] if node == 1 else []))
    stage.pass_time(LOOK_S - 0.1)
    assert not [effect for effect in stage.take() if isinstance(effect, Done)]
    stage.pass_time(0.2)
    assert isinstance(stage.error(), NotVouched)


def test_a_running_guest_does_not_wait_for_a_silent_host_that_never_had_it() -> None:
    stage = Stage()
    query = stage.find(UUID)
    stage.report(1, query)
    stage.report(2, query, RUNNING)
    stage.pass_time(1.1)
    assert stage.done().result.state == 1


def test_the_group_changes_and_everybody_is_asked_again() -> None:
    stage = Stage()
    first = stage.find(UUID)
    stage.report(1, first)
    stage.report(3, first)
    stage.member.members_changed(frozenset({1, 3}), stage.now, 5.0)
    (second,) = stage.sent(Query)
    assert second.seqno != first.seqno
    stage.report(2, first, RUNNING)  # of who has left
    away = (Away(2, 5.0, RUNNING, False, True),)
    stage.report(1, second, away=away)
    stage.report(3, second)
    (asked,) = [effect for effect in stage.take() if isinstance(effect, FindFenced)]
    assert asked.hosts == ((2, 5.0, None),)
    stage.member.fenced_found(asked.token, frozenset(), stage.now)
    assert isinstance(stage.error(), NotVouched)


def test_corosync_goes_and_requests_end() -> None:
    stage = Stage()
    stage.find("alpha")
    stage.member.left_group("it was killed", stage.now, 0.0)
    assert isinstance(stage.error(), Unreachable)
    stage.member.begin(T, procedure.find("alpha"), stage.now + 5, stage.now)
    assert isinstance(stage.error(), Unreachable)


def order(stage: Stage, action: Action = Action.OFF) -> Order:
    """Let the guest run at host 2, begin an action on it, and return what host 2 is ordered."""
    query = stage.find(UUID)
    for node in (1, 2, 3):
        stage.report(node, query, *([RUNNING] if node == 2 else []))
    guest = stage.done().result
    stage.member.begin(T, procedure.carry_out(action, guest, guest.view), stage.now + 20, stage.now)
    (found,) = stage.sent(Order)
    assert (found.node, found.action, found.uuid) == (2, action, UUID)
    return found


def test_off_is_success_once_its_host_and_then_all_have_said_so() -> None:
    stage = Stage()
    ordered = order(stage)
    stage.hear(2, Result(1, ordered.seqno, Code.SUCCESS))
    (query,) = stage.sent(Query)
    for node in (1, 2, 3):
        stage.report(node, query, *([OFF] if node == 2 else []))
    assert stage.done().result.code == Code.SUCCESS


def test_off_is_failure_when_the_guest_is_still_there() -> None:
    stage = Stage()
    ordered = order(stage)
    stage.hear(2, Result(1, ordered.seqno, Code.SUCCESS))
    (query,) = stage.sent(Query)
    for node in (1, 2, 3):
        stage.report(node, query, *([RUNNING] if node == 2 else []))
    assert isinstance(stage.error(), NotVouched)


def test_only_the_host_that_was_ordered_is_believed() -> None:
    stage = Stage()
    ordered = order(stage)
    stage.hear(3, Result(1, ordered.seqno, Code.SUCCESS))
    stage.hear(2, Result(3, ordered.seqno, Code.SUCCESS))
    stage.hear(2, Result(1, ordered.seqno - 1, Code.SUCCESS))
    assert stage.take() == []
    stage.pass_time(20)
    assert isinstance(stage.error(), DeadlineExceeded)


def test_an_answer_to_an_earlier_run_is_not_for_this_one() -> None:
    """The numbers of a daemon begin anew at random."""
    assert Member(Directory(), 5)._runs.next_seqno() != Member(Directory(), 77)._runs.next_seqno()


def test_an_order_has_a_deadline_of_the_clock_of_who_gets_it() -> None:
    stage = Stage()
    query = stage.find(UUID)
    stage.hear(2, Report(1, query.seqno, (RUNNING,), 5000.0))
    for node in (1, 3):
        stage.report(node, query)
    guest = stage.done().result
    stage.member.begin(T, procedure.carry_out(Action.OFF, guest, guest.view), stage.now + 20, stage.now)
    (found,) = stage.sent(Order)
    assert 5000.0 < found.until_s <= 5020.0


def test_an_order_is_carried_out_and_answered() -> None:
    stage = Stage()
    stage.hear(3, Order(1, 9, Action.OFF, UUID, 123.0))
    (act,) = [effect for effect in stage.take() if isinstance(effect, Act)]
    assert (act.asker, act.action, act.uuid, act.until_s) == (3, Action.OFF, UUID, 123.0)
    stage.member.acted(act, Outcome(Code.FAILURE, "why"))
    assert stage.sent(Result) == [Result(3, 9, Code.FAILURE, "why")]
    stage.hear(3, Order(2, 9, Action.OFF, UUID, 123.0))
    assert stage.take() == []
    stage.hear(3, Order(1, 10, 77, UUID, 123.0))
    assert [message.code for message in stage.sent(Result)] == [Code.FAILURE]


def test_a_host_that_dies_under_an_order_leaves_an_answer() -> None:
    stage = Stage()
    order(stage)
    stage.member.members_changed(frozenset({1, 3}), stage.now, 5.0)
    (query,) = stage.sent(Query)
    for node in (1, 3):
        stage.report(node, query, away=(Away(2, 5.0, RUNNING, False, True),))
    (asked,) = [effect for effect in stage.take() if isinstance(effect, FindFenced)]
    stage.member.fenced_found(asked.token, frozenset(), stage.now)
    assert isinstance(stage.error(), NotVouched)


@pytest.mark.parametrize("action", [Action.OFF, Action.REBOOT])
def test_a_guest_whose_host_was_fenced_is_off_though_nobody_can_start_it(action: Action) -> None:
    stage = Stage()
    stage.member.members_changed(frozenset({1, 3}), stage.now, 5.0)
    stage.take()
    guest = Guest("alpha", UUID, State.SHUT_OFF)
    view = View({1: (), 3: ()}, away={2: Away(2, 5.0, RUNNING, False, True)}, is_everybody_here=False)
    stage.member.begin(T, procedure.carry_out(action, guest, view), stage.now + 20, stage.now)
    (asked,) = stage.take()
    assert asked == FindFenced(T, ((2, 5.0, None),))
    stage.member.fenced_found(T, frozenset({2}), stage.now)
    assert stage.done().result.code == Code.SUCCESS


def test_a_fence_does_not_count_for_a_host_that_is_up_again() -> None:
    """It has booted, and its daemon is not there yet, or will never be."""
    for is_up in (False, True):
        stage = Stage()
        stage.member.members_changed(frozenset({1, 3}), stage.now, 5.0)
        query = stage.find(UUID)
        for node in (1, 3):
            stage.report(node, query, away=(Away(2, 5.0, RUNNING, False, True),))
        (asked,) = [effect for effect in stage.take() if isinstance(effect, FindFenced)]
        if is_up:
            stage.member.view_changed(frozenset({1, 2, 3}), 9.0)
        stage.hear(1, Listing((), (), number=1))
        stage.member.fenced_found(asked.token, frozenset({2}), stage.now)
        assert isinstance(stage.done().error, NotVouched) is is_up


def test_a_fence_of_before_a_host_was_seen_up_counts_never() -> None:
    stage = Stage()
    stage.hear(2, Listing((RUNNING,), number=1))
    stage.member.members_changed(frozenset({1, 3}), stage.now, 5.0)
    stage.member.view_changed(frozenset({1, 2, 3}), 8.0)
    stage.member.view_changed(frozenset({1, 3}), 9.0)
    assert [away.left_at for away in stage.member.directory.away(UUID)] == [9.0]


def test_what_the_fencer_knew_while_a_host_was_there_is_asked_for_and_told() -> None:
    stage = Stage()
    stage.member.members_changed(frozenset({1, 2, 3, 4}), stage.now, 5.0)
    assert NoteFences((4,)) in stage.take()
    stage.member.fences_noted({3: 77.0, 4: 0.0})
    stage.member.members_changed(frozenset({1, 3}), stage.now, 6.0)
    assert NoteFences((2,)) in stage.take()  # it was not known in time; better late than never
    stage.member.members_changed(frozenset({1}), stage.now, 7.0)
    assert not [effect for effect in stage.take() if isinstance(effect, NoteFences)]
    stage.member.fences_noted({2: 70.0})
    stage.member.fences_noted({2: 90.0})
    away = stage.member.directory.away(UUID)
    assert {each.node: each.fence_before for each in away} == {2: 70.0, 3: 77.0}


def ended(stage: Stage, state: int, **more: Any) -> None:
    """Let host 2 end the guest in *state*, and all tell then that it is off, or does not exist."""
    ordered = order(stage)
    stage.hear(2, Result(1, ordered.seqno, Code.SUCCESS, "", state))
    (query,) = stage.sent(Query)
    for node in (1, 2, 3):
        if node in stage.member.directory.members:
            stage.report(node, query, *([OFF] if node == 2 else []), **more)


@pytest.mark.parametrize(("state", "is_success"), [(1, True), (3, False), (0, False)])
def test_who_ended_a_guest_that_did_not_execute_may_have_ended_what_was_leaving(state: int, is_success: bool) -> None:
    """At the end of a migration the source still has it, paused, and the target runs."""
    stage = Stage()
    stage.member.directory.set_configured({1: "h1", 2: "h2", 3: "h3", 4: "h4"})
    ended(stage, state, away=(Away(4, 5.0, OFF, False, True),))
    for effect in stage.take():
        if isinstance(effect, FindFenced):
            stage.member.fenced_found(effect.token, frozenset(), stage.now)
        elif isinstance(effect, Done):
            assert is_success and effect.result.code == Code.SUCCESS
            return
    assert isinstance(stage.error(), NotVouched) is not is_success


def test_a_guest_that_was_ended_paused_counts_as_moved_until_it_is_seen() -> None:
    for state, is_moved in ((1, False), (3, True)):
        stage = Stage()
        stage.member.guests_read([replace(RUNNING, state=state)])
        act = Act(3, 9, Action.OFF, UUID, 123.0)
        stage.take()
        stage.member.acted(act, Outcome(Code.SUCCESS, "", state))
        sent = [effect.message for effect in stage.take() if isinstance(effect, Send)]
        assert sent == [
            Listing((replace(OFF, moved=is_moved),), number=2),
            Result(3, 9, Code.SUCCESS, "", state),
        ]
        stage.member.guests_read([OFF])
        assert stage.take() == []
        stage.member.guests_read([RUNNING])
        stage.member.guests_read([OFF])
        assert not stage.sent(Listing)[-1].guests[0].moved


def test_what_moved_while_all_were_asked_may_be_where_it_was_not_yet_seen() -> None:
    """What had moved before is nowhere, as all say that it is not there."""
    moved = replace(OFF, moved=True)
    for before, is_known in ((RUNNING, False), (OFF, False), (moved, True)):
        stage = Stage()
        stage.hear(2, Listing((RUNNING,), number=1))
        stage.hear(2, Listing((before,), number=2))
        query = stage.find(UUID)
        for node in (1, 2, 3):
            stage.report(node, query, *([moved] if node == 2 else []))
        done = stage.done()
        assert (done.error is None and done.result.is_off) if is_known else isinstance(done.error, NotVouched)


def test_who_had_it_last_by_the_word_of_one_alone_counts() -> None:
    """And is remembered by who asked."""
    stage = Stage()
    query = stage.find(UUID)
    stage.report(1, query)
    stage.report(2, query, OFF)
    stage.report(3, query, lasts=(Last(UUID, ((-7, NOBODY_KNOWS),)),))
    assert "nobody has seen where to" in stage.error().why
    assert stage.member.directory.lasts.nodes(UUID) == {NOBODY_KNOWS}


def test_a_reboot_is_an_end_that_all_confirm_and_then_a_start() -> None:
    stage = Stage()
    query = stage.find(UUID)
    for node in (1, 2, 3):
        stage.report(node, query, *([RUNNING] if node == 2 else []))
    guest = stage.done().result
    stage.member.begin(T, procedure.carry_out(Action.REBOOT, guest, guest.view), stage.now + 20, stage.now)
    (ordered,) = stage.sent(Order)
    assert (ordered.node, ordered.action) == (2, Action.OFF)
    stage.hear(2, Result(1, ordered.seqno, Code.SUCCESS, "", 1))
    (query,) = stage.sent(Query)
    for node in (1, 2, 3):
        stage.report(node, query, *([OFF] if node == 2 else []))
    (ordered,) = stage.sent(Order)
    assert (ordered.node, ordered.action) == (2, Action.ON)
    stage.hear(2, Result(1, ordered.seqno, Code.SUCCESS))
    assert stage.done().result.code == Code.SUCCESS


def test_of_two_starts_the_first_alone_counts() -> None:
    """Two hosts that were asked at once may have come to different homes for the guest."""
    stage = Stage()
    stage.hear(3, Order(2, 8, Action.ON, UUID, 123.0))
    stage.hear(3, Order(1, 9, Action.ON, UUID, 123.0))
    (refused,) = stage.sent(Result)
    assert refused.code == Code.FAILURE and "host 2 was told" in refused.detail
    stage.pass_time(31)
    stage.hear(3, Order(1, 9, Action.ON, UUID, 223.0))
    assert [type(effect) for effect in stage.take()] == [Act]


def test_a_guest_that_ran_where_it_was_started_may_be_started_elsewhere_after_its_end() -> None:
    stage = Stage()
    stage.hear(3, Order(2, 8, Action.ON, UUID, 123.0))
    stage.hear(2, Listing((RUNNING,), number=1))
    stage.hear(2, Listing((OFF,), number=2))
    stage.take()
    stage.hear(3, Order(1, 9, Action.ON, UUID, 123.0))
    assert [type(effect) for effect in stage.take()] == [Act]


def test_what_runs_elsewhere_is_not_started() -> None:
    stage = Stage()
    stage.hear(2, Listing((RUNNING,), number=1))
    stage.hear(3, Order(1, 9, Action.ON, UUID, 123.0))
    (refused,) = stage.sent(Result)
    assert "host 2 has told that it runs there" in refused.detail


def test_an_order_leaves_time_for_its_answer() -> None:
    stage = Stage()
    assert order(stage).until_s < stage.now + 19


def test_a_name_that_means_several_guests_is_refused() -> None:
    stage = Stage()
    query = stage.find("alpha")
    stage.report(1, query, OFF)
    stage.report(2, query, Entry("alpha", OTHER, 5))
    stage.report(3, query)
    assert "means several" in stage.error().what


def test_a_guest_asked_for_by_name_may_have_another_name_elsewhere() -> None:
    stage = Stage()
    first = stage.find("alpha")
    for node in (1, 2, 3):
        stage.report(node, first, *([OFF] if node == 1 else []))
    (second,) = stage.sent(Query)
    assert second.target == UUID
    for node in (1, 2, 3):
        stage.report(node, second, *([OFF] if node == 1 else [Entry("new name", UUID, 1)] if node == 2 else []))
    assert stage.done().result.state == State.RUNNING


def test_a_running_guest_waits_for_a_silent_host_that_lists_it() -> None:
    """There it may run, too."""
    stage = Stage()
    stage.hear(3, Listing((OFF,), number=1))
    query = stage.find(UUID)
    stage.report(1, query)
    stage.report(2, query, RUNNING)
    stage.pass_time(1.1)
    assert stage.take() == []
    stage.report(3, query, RUNNING)
    assert set(stage.done().result.view.active()) == {2, 3}


def test_who_is_not_in_the_group_is_not_heard() -> None:
    stage = Stage()
    query = stage.find(UUID)
    stage.report(4, query, RUNNING)
    stage.hear(4, Order(1, 9, Action.OFF, UUID, 123.0))
    stage.hear(4, Listing((RUNNING,), number=1))
    assert stage.take() == []
    assert stage.member.directory.holders(UUID) == []


# Telling


def test_newcomers_are_told_of_who_is_away_and_of_who_had_what() -> None:
    """By one of those who know, so that all daemons can be restarted one after the other."""
    for me in (1, 3):
        stage = Stage(me=me)
        stage.hear(2, Listing((replace(RUNNING, stay=7),), number=1))
        stage.hear(2, Listing((OFF,), number=2))
        stage.member.members_changed(frozenset({1, 3}), stage.now, 5.0)
        stage.member.directory.set_configured({1: "h1", 2: "h2", 3: "h3", 4: "h4"})
        stage.take()
        stage.member.members_changed(frozenset({1, 3, 4}), stage.now, 6.0)
        told = [effect.message for effect in stage.take() if isinstance(effect, Send)]
        missing = [message for message in told if isinstance(message, Missing)]
        lasts = [message for message in told if isinstance(message, Lasts)]
        assert missing == ([Missing(2, 5.0, (OFF,), True, True)] if me == 1 else [])
        assert lasts == ([Lasts((Last(UUID, ((7, 2),)),))] if me == 1 else [])


def test_a_newcomer_knows_what_it_is_told_of_who_is_away() -> None:
    for is_quorate in (True, False):
        stage = Stage(quorate=is_quorate)
        stage.hear(2, Missing(4, 5.0, (RUNNING,), is_first=True))
        stage.hear(2, Missing(4, 5.0, (BETA,), is_last=True, fence_before=3.0))
        away = stage.member.directory.away(UUID)
        assert away == ((Away(4, 5.0, RUNNING, False, True, 3.0),) if is_quorate else ())
    stage.hear(2, Missing(3, 5.0, (RUNNING,), is_first=True, is_last=True))
    assert stage.member.directory.hosts[3].guests == {}  # it is here


def test_half_of_what_was_told_before_the_group_changed_is_nothing() -> None:
    stage = Stage()
    stage.hear(2, Missing(4, 5.0, (RUNNING,), is_first=True))
    stage.member.members_changed(frozenset({1, 2}), stage.now, 5.0)
    stage.hear(2, Missing(4, 5.0, (BETA,), is_last=True))
    assert [each.node for each in stage.member.directory.away(UUID)] == [3]


def test_what_was_here_and_is_not_any_more_is_told() -> None:
    """It was undefined while this daemon did not run, or migrated away."""
    directory = Directory({1: (0.0, [RUNNING, replace(BETA, state=5, moved=True)])})
    stage = Stage(directory=directory)
    assert stage.member.directory.lasts.nodes(UUID) == {NOBODY_KNOWS}
    assert {last.uuid for message in stage.told if isinstance(message, Lasts) for last in message.lasts} == {UUID}


def test_a_guest_that_had_left_when_the_daemon_ended_has_still_left() -> None:
    stage = Stage(directory=Directory({1: (0.0, [replace(OFF, moved=True)])}), mine=(OFF,))
    stage.hear(2, Query(7, UUID))
    (look,) = [effect for effect in stage.take() if isinstance(effect, LookHere)]
    stage.member.looked(look, [OFF], "", stage.now)
    assert stage.sent(Report)[0].guests[0].moved


def test_changes_are_told_and_nothing_else() -> None:
    stage = Stage()
    stage.member.guests_read([RUNNING, BETA])
    (told,) = stage.sent(Listing)
    assert tuple(replace(entry, stay=0) for entry in told.guests) == (RUNNING, BETA) and not told.is_first
    stage.member.guests_read([RUNNING, BETA])
    assert stage.take() == []
    stage.member.guests_read([OFF])
    (told,) = stage.sent(Listing)
    assert told.guests == (OFF,) and told.gone == (OTHER,)


def test_fence_virtd_is_told_in_its_own_words_and_ours_are_not() -> None:
    stage = Stage(3)
    stage.member.guests_read([RUNNING])
    assert stage.sent(Store) == [Store("alpha", UUID, 1, 1)]
    stage = Stage()
    stage.member.guests_read([RUNNING])
    assert stage.sent(Store) == []
    stage.member.members_changed(frozenset({1, 2, 3, 4}), stage.now, 0.0)
    assert stage.sent(Store) == []
    stage.pass_time(GREETING_S)  # it has not greeted
    assert stage.sent(Store) == [Store("alpha", UUID, 1, 1)]


def test_a_guest_that_left_stays_so_when_libvirt_forgets_it() -> None:
    stage = Stage()
    stage.member.guests_read([Entry("alpha", UUID, 5, True)])
    stage.member.guests_read([OFF])
    stage.hear(2, Query(7, UUID))
    (look,) = [effect for effect in stage.take() if isinstance(effect, LookHere)]
    stage.member.looked(look, [OFF], "", stage.now)
    assert stage.sent(Report)[0].guests[0].moved


# Together with fence_virtd


@pytest.mark.parametrize("code", [0, 1, 2, -1])
def test_a_guest_of_fence_virtd_is_what_it_tells_after_the_question(code: int) -> None:
    """Its answer only marks the end of what it tells: in its other mode it calls each guest off."""
    stage = Stage(3)
    stage.hear(3, Store("alpha", UUID, 3, 5))
    query = stage.find(UUID)
    stage.report(1, query)
    stage.report(2, query)
    stage.pass_time(0.0)
    probe = probe_of(stage, query)
    stage.hear(1, probe)
    stage.hear(3, Store("alpha", UUID, 3, 1))
    stage.hear(3, Reply(probe.seqno, 1, code))
    assert stage.done().result.state == 1


def probe_of(stage: Stage, query: Query) -> Request:
    run = stage.member._runs._runs[T]
    assert run.look is not None
    probe = run.look.probes[3]
    return Request(probe.seqno, "", Action.STATUS)


def test_a_guest_that_fence_virtd_does_not_tell_of_any_more_is_gone_from_there() -> None:
    stage = Stage(3)
    stage.hear(3, Store("alpha", UUID, 3, 1))
    stage.hear(3, Store("Beta", OTHER, 3, 1))
    query = stage.find(UUID)
    probe = probe_of(stage, query)
    stage.report(1, query)
    stage.report(2, query)
    stage.hear(1, probe)
    stage.hear(3, Store("Beta", OTHER, 3, 1))
    stage.hear(3, Reply(probe.seqno, 1, 0))
    assert stage.error().what.startswith(("nobody can vouch", "no guest", "whether"))


def test_fence_virtd_is_only_believed_by_a_name_under_which_it_found_the_guest_running() -> None:
    """In its other mode it is success to have done nothing."""
    stage = Stage(3)
    stage.hear(3, Store("alpha", UUID, 3, 1))
    query = stage.find(UUID)
    probe = probe_of(stage, query)
    stage.report(1, query)
    stage.report(2, query)
    stage.hear(1, probe)
    stage.hear(3, Store("alpha", UUID, 3, 1))
    stage.hear(3, Reply(probe.seqno, 1, 2))
    guest = stage.done().result
    stage.member.begin(T, procedure.carry_out(Action.OFF, guest, guest.view), stage.now + 20, stage.now)
    for target, code in (("alpha", Code.OFF), (UUID, Code.SUCCESS)):
        (asked,) = stage.sent(Request)
        assert (asked.target, asked.action) == (target, Action.STATUS)
        stage.hear(3, Reply(asked.seqno, 1, code))
    (asked,) = stage.sent(Request)
    assert (asked.target, asked.action) == (UUID, Action.OFF)


def test_fence_virtd_that_has_told_of_no_guest_is_asked_until_it_does() -> None:
    stage = Stage(3)
    query = stage.find("alpha")
    stage.report(1, query)
    stage.report(2, query)
    probe = probe_of(stage, query)
    stage.hear(1, probe)
    stage.hear(3, Store("Beta", OTHER, 3, 1))
    stage.pass_time(2.1)
    (asked,) = stage.sent(Request)
    assert asked.target == "Beta"
    stage.hear(1, asked)
    stage.hear(3, Store("Beta", OTHER, 3, 1))
    stage.hear(3, Reply(asked.seqno, 1, 0))
    assert isinstance(stage.error(), GuestNotFound)


@pytest.mark.parametrize("answer", ["silent", "early", "another's"])
def test_fence_virtd_that_does_not_answer_is_not_guessed_at(answer: str) -> None:
    stage = Stage(3)
    query = stage.find(UUID)
    stage.report(1, query, OFF)
    stage.report(2, query)
    probe = probe_of(stage, query)
    if answer == "early":  # before it can have got the question
        stage.hear(3, Reply(probe.seqno, 1, 2))
    stage.hear(1, probe)
    if answer == "another's":
        stage.hear(2, Reply(probe.seqno, 1, 2))
    stage.pass_time(2.1)
    stage.pass_time(2.1)
    stage.pass_time(2.1)
    assert isinstance(stage.error(), NotVouched)


@pytest.mark.parametrize(
    ("me", "answers"), [(3, True), (1, False)], ids=["highest answers that it cannot tell", "others are silent"]
)
def test_fence_virtd_asks_for_an_unknown_guest(me: int, answers: bool) -> None:
    stage = Stage(2, me=me)
    stage.hear(2, Request(5, "nobody", Action.OFF))
    queries = stage.sent(Query)
    assert bool(queries) == answers
    for query in queries:
        stage.report(1, query)
        stage.report(3, query)
        stage.pass_time(LOOK_S + 1)
        (reply,) = stage.sent(Reply)
        assert (reply.asker, reply.seqno, reply.code) == (2, 5, Code.FAILURE)


def test_fence_virtd_asks_for_a_guest_and_one_of_ours_answers() -> None:
    for me in (1, 3):
        stage = Stage(2, me=me)
        stage.hear(3, Listing((RUNNING,), number=1))
        stage.hear(2, Request(5, "alpha", Action.STATUS))
        assert bool(stage.sent(Query)) == (me == 3)


def test_our_requests_to_fence_virtd_are_not_ours_to_answer() -> None:
    stage = Stage(2, me=3)
    stage.hear(1, Request(5, "nobody", Action.OFF))
    assert stage.take() == []


def reboot_at_fence_virtd(stage: Stage) -> None:
    """Find the guest running at host 3, begin its reboot, and let host 3 answer off, as it does if it did nothing."""
    stage.hear(3, Store("alpha", UUID, 3, 1))
    query = stage.find(UUID)
    probe = probe_of(stage, query)
    stage.report(1, query)
    stage.report(2, query)
    stage.hear(1, probe)
    stage.hear(3, Store("alpha", UUID, 3, 1))
    stage.hear(3, Reply(probe.seqno, 1, 0))
    guest = stage.done().result
    stage.member.begin(T, procedure.carry_out(Action.REBOOT, guest, guest.view), stage.now + 20, stage.now)
    (asked,) = stage.sent(Request)
    assert asked.action == Action.STATUS
    stage.hear(3, Reply(asked.seqno, 1, Code.SUCCESS))
    (asked,) = stage.sent(Request)
    assert asked.action == Action.OFF
    stage.hear(1, asked)


def confirm(stage: Stage, *guests: Store, trouble: str = "") -> None:
    """Answer the question after an off: host 3 tells of *guests*, 2 of none."""
    (query,) = stage.sent(Query)
    probe = probe_of(stage, query)
    stage.report(1, query)
    stage.report(2, query, trouble=trouble)
    stage.hear(1, probe)
    for guest in guests:
        stage.hear(3, guest)
    stage.hear(3, Reply(probe.seqno, 1, Code.OFF))


def test_a_reboot_by_fence_virtd_is_believed_only_when_it_was_seen_off_and_started() -> None:
    stage = Stage(3)
    reboot_at_fence_virtd(stage)
    off = stage.member._runs._runs[T].seqno
    stage.hear(3, Store("alpha", UUID, 3, 1))
    stage.hear(3, Reply(off, 1, Code.SUCCESS))
    confirm(stage, Store("alpha", UUID, 3, 5))
    (asked,) = stage.sent(Request)
    assert asked.action == Action.ON
    stage.hear(3, Reply(asked.seqno, 1, Code.SUCCESS))
    assert stage.done().result.code == Code.SUCCESS


@pytest.mark.parametrize("trouble", ["", "libvirt hangs"])
def test_success_of_fence_virtd_may_mean_that_nothing_was_done(trouble: str) -> None:
    stage = Stage(3)
    reboot_at_fence_virtd(stage)
    stage.hear(3, Reply(stage.member._runs._runs[T].seqno, 1, Code.SUCCESS))
    confirm(stage, trouble=trouble)
    assert isinstance(stage.error(), NotVouched)


def test_an_answer_of_another_fence_virtd_is_not_taken() -> None:
    """It answers "off" for what it does not know."""
    stage = Stage(2, 3)
    stage.hear(3, Store("alpha", UUID, 3, 1))
    view = View({1: (), 2: (), 3: (RUNNING,)}, references=frozenset({2, 3}))
    guest = Guest("alpha", UUID, State.RUNNING)
    stage.member.begin(T, procedure.carry_out(Action.OFF, guest, view), stage.now + 20, stage.now)
    (asked,) = stage.sent(Request)
    stage.hear(2, Reply(asked.seqno, 1, Code.SUCCESS))
    assert stage.take() == []


@pytest.mark.parametrize("has_seen", [(1,), (2,), (1, 2), ()])
def test_of_those_who_have_a_guest_exactly_one_answers_fence_virtd(has_seen: tuple[int, ...]) -> None:
    """Whatever each of them has seen besides what all were told."""
    answering = []
    for me in (1, 2):
        stage = Stage(3, me=me)
        if me in has_seen:
            stage.member.directory.see(2, [RUNNING], stage.now)
        stage.hear(1, Listing((OFF,), number=1))
        stage.hear(2, Listing((OFF,), number=1))
        stage.take()
        stage.hear(3, Request(5, "alpha", Action.STATUS))
        answering += [me] if stage.sent(Query) else []
    assert answering == [1]


def test_who_executes_a_guest_answers_fence_virtd_for_it() -> None:
    for me in (1, 2):
        stage = Stage(3, me=me)
        stage.hear(1, Listing((OFF,), number=1))
        stage.hear(2, Listing((RUNNING,), number=1))
        stage.take()
        stage.hear(3, Request(5, "alpha", Action.STATUS))
        assert bool(stage.sent(Query)) == (me == 2)


def test_guests_that_fence_virtd_stops_telling_of_are_forgotten() -> None:
    stage = Stage(3)
    for place in range(100):
        stage.hear(3, Store(f"guest{place}", f"{place:08x}-0000-4000-8000-000000000000", 3, 1))
        stage.hear(2, Request(place, "x", Action.STATUS))
        stage.hear(3, Store("alpha", UUID, 3, 1))
        stage.hear(3, Reply(place, 2, Code.OFF))
    assert list(stage.member.directory.hosts[3].guests) == [UUID]
