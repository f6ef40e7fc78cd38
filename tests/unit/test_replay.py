"""The window of requests: one wish is carried out once, and an honest client is always heard."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vmfence.protocol.replay import LIFETIME_S, ReplayWindow, Verdict
from vmfence.protocol.request import Action, Request

HOME, AWAY = "10.0.0.1", "192.168.0.1"
START = 1000.0


def wish(seqno: int = 7, domain: bytes = b"alpha", action: int = Action.OFF) -> Request:
    return Request(action, domain, seqno=seqno, random=b"random")


@dataclass
class Window:
    """A window with a clock."""

    window: ReplayWindow = field(default_factory=ReplayWindow)
    now: float = START

    def admit(self, request: Request, origin: str = HOME) -> Verdict:
        return self.window.admit(request, origin, self.now)

    def done(self, request: Request, origin: str = HOME) -> None:
        self.window.done(request, origin, self.now)


def test_a_retransmission_is_heard_once() -> None:
    window = Window()
    repeat = wish()
    repeat.random, repeat.signature = b"others", b"s" * 64
    assert [window.admit(wish()), window.admit(repeat)] == [Verdict.NEW, Verdict.IN_FLIGHT]
    window.done(wish())
    assert window.admit(repeat) is Verdict.DONE


@pytest.mark.parametrize("other", [wish(seqno=8), wish(domain=b"beta"), wish(action=Action.ON)])
def test_another_wish_is_another_wish(other: Request) -> None:
    window = Window()
    assert [window.admit(wish()), window.admit(other)] == [Verdict.NEW, Verdict.NEW]
    assert window.window.claim(wish(), HOME) and window.window.claim(other, HOME)


def test_names_that_differ_in_case_are_the_same_wish() -> None:
    window = Window()
    assert [window.admit(wish()), window.admit(wish(domain=b"ALPHA"))] == [Verdict.NEW, Verdict.IN_FLIGHT]


def test_copies_for_several_addresses_are_tried_until_one_is_proven() -> None:
    window = Window()
    assert [window.admit(wish(), HOME), window.admit(wish(), AWAY)] == [Verdict.NEW, Verdict.NEW]
    assert window.window.claim(wish(), AWAY)
    assert not window.window.claim(wish(), HOME)
    assert window.window.claim(wish(), AWAY)
    assert window.admit(wish(), "10.9.9.9") is Verdict.IN_FLIGHT


def test_the_copy_that_lost_does_not_take_the_claim_with_it() -> None:
    window = Window()
    window.admit(wish(), HOME)
    window.admit(wish(), AWAY)
    window.window.claim(wish(), AWAY)
    window.window.forget(wish(), HOME)
    assert window.admit(wish(), HOME) is Verdict.IN_FLIGHT
    window.done(wish(), AWAY)
    assert [window.admit(wish(), AWAY), window.admit(wish(), HOME)] == [Verdict.DONE, Verdict.NEW]


@pytest.mark.parametrize("is_claimed", [False, True])
def test_what_was_forgotten_is_heard_again(is_claimed: bool) -> None:
    window = Window()
    window.admit(wish())
    if is_claimed:
        window.window.claim(wish(), HOME)
    window.window.forget(wish(), HOME)
    assert window.admit(wish()) is Verdict.NEW
    assert window.window.claim(wish(), HOME)


@pytest.mark.parametrize(
    ("age_s", "verdict"),
    [(0.0, Verdict.DONE), (9.999, Verdict.DONE), (LIFETIME_S, Verdict.NEW), (11.0, Verdict.NEW)],
)
def test_an_answer_is_remembered_for_ten_seconds(age_s: float, verdict: Verdict) -> None:
    window = Window()
    window.admit(wish())
    window.done(wish())
    window.now += age_s
    assert window.admit(wish()) is verdict
    assert LIFETIME_S == 10.0


def test_a_request_in_flight_does_not_expire() -> None:
    window = Window()
    window.admit(wish())
    window.now += 1000
    assert window.admit(wish()) is Verdict.IN_FLIGHT


def test_answered_twice_it_counts_from_the_second_time() -> None:
    window = Window()
    for _ in range(2):
        window.window.forget(wish(), HOME)
        window.admit(wish(), AWAY)
        window.done(wish())
        window.now += 6
    assert window.admit(wish()) is Verdict.DONE


def test_an_answer_given_again_does_not_keep_others() -> None:
    window = Window()
    window.done(wish(1))
    window.now += 1
    window.done(wish(2))
    window.now += 4
    window.done(wish(1))
    window.now = START + 1 + LIFETIME_S
    assert [window.admit(wish(2)), window.admit(wish(1))] == [Verdict.NEW, Verdict.DONE]


def test_a_copy_under_way_while_another_is_answered_is_never_carried_out() -> None:
    """Its call-back may be taken by the next client at that port, who asked for something else."""
    window = Window()
    for origin in (HOME, AWAY):
        assert window.window.admit(wish(1), origin, window.now) is Verdict.NEW
    assert window.window.claim(wish(1), HOME)
    window.window.done(wish(1), HOME, window.now)
    assert not window.window.claim(wish(1), AWAY)
    window.window.forget(wish(1), AWAY)
    assert window.window.admit(wish(1), AWAY, window.now) is Verdict.NEW
    assert window.window.claim(wish(1), AWAY)


def size(window: ReplayWindow) -> int:
    return sum(len(getattr(window, name)) for name in ReplayWindow.__slots__)


def test_memory_is_bounded_by_what_happens_in_ten_seconds() -> None:
    window = Window()
    for number in range(5000):
        window.now += 0.1
        assert window.admit(wish(number)) is Verdict.NEW
        window.window.claim(wish(number), HOME)
        if number % 2:
            window.done(wish(number))
        else:
            window.window.forget(wish(number), HOME)
        assert size(window.window) <= 102
    window.now += LIFETIME_S
    window.admit(wish(1))
    window.window.forget(wish(1), HOME)
    assert size(window.window) == 0


WISHES = st.builds(wish, st.sampled_from([1, 2]), st.sampled_from([b"alpha", b"ALPHA", b"beta"]))
ORIGINS = st.sampled_from([HOME, AWAY, "::1"])
Copy = tuple[tuple[int, int, bytes], str]


def identity(request: Request) -> tuple[int, int, bytes]:
    return request.action, request.seqno, request.domain.lower()


class Machine(RuleBasedStateMachine):
    """Any order of copies, proofs, failures and answers, beside a model that is plainly right."""

    def __init__(self) -> None:
        super().__init__()
        self.window = ReplayWindow()
        self.now = START
        self.open: dict[Copy, Request] = {}
        self.claims: dict[tuple[int, int, bytes], str] = {}
        self.answered: dict[Copy, float] = {}
        self.spent: set[Copy] = set()

    def expected(self, copy: Copy) -> Verdict:
        if copy[0] in self.claims or copy in self.open:
            return Verdict.IN_FLIGHT
        return Verdict.DONE if self.answered.get(copy, -100) > self.now - LIFETIME_S else Verdict.NEW

    @rule(request=WISHES, origin=ORIGINS)
    def copy_comes(self, request: Request, origin: str) -> None:
        copy = (identity(request), origin)
        verdict = self.window.admit(request, origin, self.now)
        assert verdict is self.expected(copy)
        if verdict is Verdict.NEW:
            self.open[copy] = request

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def peer_is_proven(self, data: st.DataObject) -> None:
        copy = data.draw(st.sampled_from(sorted(self.open)))
        is_mine = self.window.claim(self.open[copy], copy[1])
        assert is_mine is (copy not in self.spent and self.claims.setdefault(*copy) == copy[1])
        if not is_mine:
            self.end(copy)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def peer_fails(self, data: st.DataObject) -> None:
        self.end(data.draw(st.sampled_from(sorted(self.open))))

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def answer_is_given(self, data: st.DataObject) -> None:
        copy = data.draw(st.sampled_from(sorted(self.claims.items())))
        self.window.done(self.open.pop(copy), copy[1], self.now)
        del self.claims[copy[0]]
        self.answered[copy] = self.now
        self.spent.update(other for other in self.open if other[0] == copy[0])

    @rule(seconds=st.sampled_from([0.5, 5.0, LIFETIME_S]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    def end(self, copy: Copy) -> None:
        self.window.forget(self.open.pop(copy), copy[1])
        self.spent.discard(copy)
        if self.claims.get(copy[0]) == copy[1]:
            del self.claims[copy[0]]

    @invariant()
    def every_claim_is_of_an_open_copy_and_the_only_one(self) -> None:
        for what in self.claims:
            copies = [copy for copy in self.open if copy[0] == what]
            assert [copy[1] for copy in copies].count(self.claims[what]) == 1

    def teardown(self) -> None:
        """When all have ended, ten seconds later nothing is left."""
        for copy in list(self.open):
            self.end(copy)
        request = wish(999)
        self.window.admit(request, HOME, self.now + LIFETIME_S)
        self.window.forget(request, HOME)
        assert size(self.window) == 0


TestAnyOrder = Machine.TestCase
TestAnyOrder.settings = settings(deadline=None, max_examples=60, stateful_step_count=30)
