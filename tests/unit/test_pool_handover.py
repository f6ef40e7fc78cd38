"""What comes between: hosts come and go, and guests move, while a host asks, starts or answers fence_virtd."""

from __future__ import annotations

from typing import Any

import pytest

from unit.test_pool_member import OFF, RUNNING, UUID, Stage, T
from vmfence.host.backends.base import Guest
from vmfence.host.pool import procedure
from vmfence.host.pool.directory import GREETING_S
from vmfence.host.pool.effects import Act, Done, FindFenced
from vmfence.host.pool.member import START_S
from vmfence.host.pool.messages import Away, Entry, Hello, Listing, Order, Query, Result, Start
from vmfence.host.pool.verdict import NotVouched, View
from vmfence.protocol.cpg import Reply, Request, Store
from vmfence.protocol.reply import Code, State
from vmfence.protocol.request import Action

ALL = frozenset({1, 2, 3})
PAUSED = Entry("alpha", UUID, 3)


def ask_who_was_fenced(stage: Stage) -> FindFenced:
    """Let host 3 leave with the guest running, ask for that, and return the question to the fencer."""
    stage.hear(3, Listing((RUNNING,), number=1))
    stage.member.members_changed(ALL - {3}, stage.now, 5.0)
    query = stage.find(UUID)
    for node in (1, 2):
        stage.report(node, query, away=(Away(3, 5.0, RUNNING, False, True),))
    (asked,) = [effect for effect in stage.take() if isinstance(effect, FindFenced)]
    return asked


def test_a_host_that_is_back_before_the_fencer_answers_is_asked_itself() -> None:
    stage = Stage()
    asked = ask_who_was_fenced(stage)
    stage.member.members_changed(ALL, stage.now, 6.0)
    stage.hear(3, Hello())
    stage.hear(3, Listing((RUNNING,), (), True, True))
    stage.take()
    stage.member.fenced_found(asked.token, frozenset({3}), stage.now)
    (query,) = stage.sent(Query)
    for node in (1, 2, 3):
        stage.report(node, query, *([RUNNING] if node == 3 else []))
    assert set(stage.done().result.view.active()) == {3}


def test_a_host_that_is_here_is_not_off_by_having_been_fenced() -> None:
    stage = Stage()
    view = View({1: (OFF,), 2: ()}, away={3: Away(3, 5.0, RUNNING, False, True)}, is_everybody_here=False)
    guest = Guest("alpha", UUID, State.SHUT_OFF)
    stage.member.begin(T, procedure.carry_out(Action.OFF, guest, view), stage.now + 20, stage.now)
    stage.take()
    stage.member.fenced_found(T, frozenset({3}), stage.now)
    assert isinstance(stage.error(), NotVouched)


def test_a_host_that_came_back_after_the_guest_was_found_is_asked_itself() -> None:
    stage = Stage()
    asked = ask_who_was_fenced(stage)
    stage.member.fenced_found(asked.token, frozenset({3}), stage.now)
    guest = stage.done().result
    stage.member.members_changed(ALL, stage.now, 6.0)
    stage.take()
    stage.member.begin(T, procedure.carry_out(Action.OFF, guest, guest.view), stage.now + 20, stage.now)
    assert stage.sent(Query)


def test_a_group_that_never_rests_is_not_asked_for_ever() -> None:
    stage = Stage()
    asked = ask_who_was_fenced(stage)
    queries = 0
    for _ in range(20):
        stage.member.members_changed(ALL, stage.now, 6.0)
        stage.member.members_changed(ALL - {3}, stage.now, 6.0)
        stage.take()
        stage.member.fenced_found(asked.token, frozenset({3}), stage.now)
        effects = stage.take()
        if any(isinstance(effect, Done) for effect in effects):
            break
        queries += 1
        run = stage.member._runs._runs[T]
        for node in (1, 2):
            stage.report(node, Query(run.seqno, UUID), away=(Away(3, 5.0, RUNNING, False, True),))
        stage.take()
    (ended,) = effects
    assert isinstance(ended.error, NotVouched) and queries == procedure.ROUNDS_MAX - 1


def test_what_a_host_tells_after_its_answer_is_asked_for_again() -> None:
    """It had not come yet when host 2 was asked, and had left when host 3 was."""
    stage = Stage()
    query = stage.find(UUID)
    stage.report(1, query, OFF)
    stage.report(2, query)
    stage.hear(2, Listing((PAUSED,), number=1))
    stage.report(3, query)
    (again,) = stage.sent(Query)
    for node in (1, 2, 3):
        stage.report(node, again, *([RUNNING] if node == 2 else [OFF] if node == 1 else []))
    assert set(stage.done().result.view.active()) == {2}


def test_a_guest_that_never_rests_is_not_vouched_for() -> None:
    stage = Stage()
    query = stage.find(UUID)
    effects: list[Any] = []
    for number in range(1, 20):
        stage.report(1, query, OFF)
        stage.report(2, query)
        stage.hear(2, Listing((PAUSED,) if number % 2 else (), () if number % 2 else (UUID,), number=number))
        stage.report(3, query)
        effects = stage.take()
        if any(isinstance(effect, Done) for effect in effects):
            break
        query = Query(stage.member._runs._runs[T].seqno, UUID)
    assert isinstance(effects[-1].error, NotVouched) and number == procedure.ROUNDS_MAX


def start(stage: Stage) -> Any:
    """Find the guest shut off at host 1, which had it last, and return it as it was found."""
    stage.hear(1, Listing((RUNNING,), number=1))
    stage.hear(1, Listing((OFF,), number=2))
    query = stage.find(UUID)
    for node in (1, 2, 3):
        stage.report(node, query, *([OFF] if node == 1 else []))
    return stage.done().result


@pytest.mark.parametrize("action", [Action.ON, Action.REBOOT])
def test_a_guest_that_was_seen_elsewhere_since_it_was_found_off_is_not_started(action: Action) -> None:
    stage = Stage()
    guest = start(stage)
    stage.hear(2, Listing((PAUSED,), number=1))
    stage.member.begin(T, procedure.carry_out(action, guest, guest.view), stage.now + 20, stage.now)
    effects = stage.take()
    assert [type(effect.message) for effect in effects] == [Query]


def test_a_guest_that_rests_is_started() -> None:
    stage = Stage()
    guest = start(stage)
    stage.member.begin(T, procedure.carry_out(Action.ON, guest, guest.view), stage.now + 20, stage.now)
    assert [(order.node, order.action) for order in stage.sent(Order)] == [(1, Action.ON)]


# Starts


def test_newcomers_are_told_of_starts() -> None:
    stage = Stage()
    stage.hear(3, Order(2, 9, Action.ON, UUID, 123.0))
    stage.pass_time(10)
    stage.member.members_changed(ALL | {4}, stage.now, 5.0)
    assert stage.sent(Hello) == [Hello(starts=(Start(UUID, 2, START_S - 10),))]
    stage.pass_time(START_S)
    stage.member.members_changed(ALL, stage.now, 5.0)
    stage.member.members_changed(ALL | {4}, stage.now, 5.0)
    assert stage.sent(Hello) == [Hello()]


def test_what_was_started_before_a_host_joined_is_not_started_there() -> None:
    stage = Stage()
    stage.hear(2, Hello(starts=(Start(UUID, 2, 20.0),)))
    stage.hear(3, Hello(starts=(Start(UUID, 2, 19.0),)))
    stage.hear(3, Order(1, 9, Action.ON, UUID, 123.0))
    (refused,) = stage.sent(Result)
    assert refused.code == Code.FAILURE and "host 2 was told to start it" in refused.detail
    stage.pass_time(20.1)
    stage.hear(3, Order(1, 9, Action.ON, UUID, 123.0))
    assert [type(effect) for effect in stage.take()] == [Act]


def test_of_what_two_parts_have_started_nobody_starts_more() -> None:
    stage = Stage()
    stage.hear(2, Hello(starts=(Start(UUID, 2, 20.0),)))
    stage.hear(3, Hello(starts=(Start(UUID, 1, 1e11),)))
    stage.hear(3, Order(1, 9, Action.ON, UUID, 123.0))
    (refused,) = stage.sent(Result)
    assert "another host was told to start it" in refused.detail
    stage.pass_time(START_S + 0.1)
    stage.hear(3, Order(1, 9, Action.ON, UUID, 123.0))
    assert [type(effect) for effect in stage.take()] == [Act]


@pytest.mark.parametrize("greets", [True, False], ids=["ours", "fence_virtd"])
def test_nothing_is_started_before_newcomers_have_told_what_was(greets: bool) -> None:
    stage = Stage()
    stage.member.members_changed(ALL - {3}, stage.now, 5.0)
    stage.member.members_changed(ALL, stage.now, 5.0)
    stage.take()
    stage.hear(2, Order(1, 9, Action.ON, UUID, 123.0))
    (refused,) = stage.sent(Result)
    assert "host 3 has not told what was started" in refused.detail
    if greets:
        stage.hear(3, Hello())
    else:
        stage.pass_time(GREETING_S)
        stage.take()
    stage.hear(2, Order(1, 9, Action.ON, UUID, 123.0))
    assert [type(effect) for effect in stage.take()] == [Act]


# Requests of fence_virtd's, which waits without limit

REQUEST = Request(5, "alpha", Action.STATUS)


def replies(stage: Stage) -> list[tuple[int, int, int]]:
    return [(reply.asker, reply.seqno, reply.code) for reply in stage.sent(Reply)]


def test_somebody_answers_for_a_guest_of_a_host_that_has_just_come_back() -> None:
    answering = []
    for me in (2, 3):
        stage = Stage(1, me=me)
        stage.hear(3, Listing((RUNNING,), number=1))
        if me == 3:
            stage.member.left_group("its daemon is started anew", stage.now, 5.0)
            stage.member.joined_group(3)
            stage.member.quorum_changed(True, 5.0)
        else:
            stage.member.members_changed(ALL - {3}, stage.now, 5.0)
        stage.member.members_changed(ALL, stage.now, 5.0)
        for node in (2, 3):
            stage.hear(node, Hello())
        stage.take()
        stage.hear(1, REQUEST)
        answering += [me] if stage.sent(Query) else []
    assert answering == [3]


def leave_in_the_midst(stage: Stage) -> None:
    """Let host 3, which has the guest, be the one to answer host 1, and leave."""
    stage.hear(3, Listing((RUNNING,), number=1))
    stage.hear(1, REQUEST)
    stage.pass_time(10)
    assert not stage.sent(Query)


def test_the_next_host_answers_when_the_one_that_was_to_leaves() -> None:
    stage = Stage(1, me=2)
    leave_in_the_midst(stage)
    stage.member.members_changed(ALL - {3}, stage.now, 5.0)
    assert stage.sent(Query)
    stage.pass_time(17)
    stage.pass_time(2)
    assert replies(stage) == [(1, 5, Code.FAILURE)]


def test_a_newcomer_has_not_heard_the_request_and_is_not_left_to_answer() -> None:
    stage = Stage(1, me=2)
    leave_in_the_midst(stage)
    stage.member.members_changed(ALL | {4}, stage.now, 5.0)
    stage.hear(4, Hello())
    stage.hear(4, Listing((RUNNING,), (), True, True))
    stage.take()
    stage.member.members_changed(ALL - {3} | {4}, stage.now, 5.0)
    assert stage.sent(Query)


@pytest.mark.parametrize("why", ["answered", "asker has left", "long ago", "another has left"])
def test_nobody_answers_what_is_not_waited_for(why: str) -> None:
    stage = Stage(1, me=2)
    stage.member.members_changed(ALL | {4}, stage.now, 5.0)
    stage.hear(4, Hello())
    leave_in_the_midst(stage)
    left = {3}
    if why == "answered":
        stage.hear(3, Reply(5, 1, Code.SUCCESS))
    elif why == "asker has left":
        left = {1, 3}
    elif why == "long ago":
        stage.pass_time(100)
        stage.hear(1, Request(6, "alpha", Action.STATUS))
        stage.hear(3, Reply(6, 1, Code.SUCCESS))
    else:  # and the guest has moved; host 3 is about to answer nevertheless
        stage.hear(2, Listing((RUNNING,), number=1))
        stage.hear(3, Listing((), (UUID,), number=2))
        left = {4}
    stage.take()
    stage.member.members_changed(ALL - left, stage.now, 5.0)
    assert not stage.sent(Query)


def test_the_last_host_of_ours_answers_before_it_leaves() -> None:
    for others in ((1, 3), (1,)):
        stage = Stage(*others, me=2)
        stage.hear(2, Listing((RUNNING,), number=1))
        stage.hear(2, Store("alpha", UUID, 2, 1))
        stage.take()
        stage.hear(1, REQUEST)
        assert stage.sent(Query)
        stage.member.leaves()
        assert replies(stage) == ([(1, 5, Code.FAILURE)] if 3 in others else [])
