"""The service: success only after the state was read back, guests apart, nothing done for nobody.

The backend is the one in memory (fakes.py), told to fail, lie and hang; it and the real one on libvirt's test driver
pass the same contract tests at the end of this file.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, replace
from typing import Any, Callable, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unit.fakes import ALPHA, BETA, GAMMA, HONEST, LIE, Behaviour, DoneButFailed, FakeBackend, Hold
from vmfence.errors import BackendError, GuestNotFound, Unconfirmed, Unreachable
from vmfence.host import power
from vmfence.host import service as module
from vmfence.host.backends.base import Backend, Guest, Wanted
from vmfence.host.backends.libvirt import LibvirtBackend
from vmfence.host.service import Caller, OriginGone, Reply, Rules, Service, time_allowed_s
from vmfence.policy import Group, Origin, Policy, Source, is_uuid
from vmfence.protocol.reply import Code, State
from vmfence.protocol.request import Action, Request

T = TypeVar("T")
OPEN = Policy(None)
HERE = Origin("tcp", "10.0.0.1")
LONG_S, SHORT_S = 10.0, 0.03
GONE, REFUSED = Unreachable("libvirt is away"), BackendError("libvirt refuses")
POWER = [Action.OFF, Action.ON, Action.REBOOT]
OFF, ON = State.SHUT_OFF, State.RUNNING


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look again after a millisecond, not after a fifth of a second."""
    monkeypatch.setattr(module, "PAUSE_S", 0.001)
    monkeypatch.setattr(power, "PAUSE_S", 0.001)
    monkeypatch.setattr(power, "_POLL_S", 0.001)


def always() -> None:
    """It is still wanted."""


def run(scenario: Coroutine[Any, Any, T]) -> T:
    """Run *scenario* to its end; one that hangs fails."""
    return asyncio.run(asyncio.wait_for(scenario, 10))


@dataclass
class World:
    """A service on a backend in memory, and somebody who asks."""

    backend: FakeBackend
    rules: Rules

    def __post_init__(self) -> None:
        self.service = Service(self.backend, self.rules)

    async def ask(
        self,
        action: int,
        target: str = "alpha",
        *,
        within_s: float = LONG_S,
        is_gone: Callable[[], bool] = lambda: False,
        origin: Origin = HERE,
        key_id: str | None = None,
    ) -> Reply:
        request = Request(action, target.encode(), seqno=1)
        caller = Caller(origin, key_id, is_gone)
        return await self.service.handle(request, caller, time.monotonic() + within_s)

    def answer(self, action: int, target: str = "alpha", **how: Any) -> Reply:
        """Ask alone, and let everything that was begun end."""

        async def scenario() -> Reply:
            try:
                return await self.ask(action, target, **how)
            finally:
                assert await self.service.finish(5) == 0

        return run(scenario())


def world(*guests: Guest, policy: Policy = OPEN, reboot_method: str = "cycle") -> World:
    return World(FakeBackend(*(guests or (ALPHA, BETA, GAMMA))), Rules(policy, reboot_method))


def having(state: State) -> World:
    return world(replace(ALPHA, state=state))


def group(*targets: str, source: str = "10.0.0.1", key: str | None = None) -> Policy:
    return Policy((Group("a", (Source.parse(source),), targets, key),))


# One request, one guest


@pytest.mark.parametrize(
    ("action", "before", "code", "calls", "after"),
    [
        (Action.STATUS, State.RUNNING, Code.SUCCESS, [], ON),
        (Action.STATUS, State.BLOCKED, Code.SUCCESS, [], State.BLOCKED),
        (Action.STATUS, State.PAUSED, Code.SUCCESS, [], State.PAUSED),
        (Action.STATUS, State.CRASHED, Code.SUCCESS, [], State.CRASHED),
        (Action.STATUS, State.SHUTTING_DOWN, Code.SUCCESS, [], State.SHUTTING_DOWN),
        (Action.STATUS, State.NONE, Code.SUCCESS, [], State.NONE),
        (Action.STATUS, State.SHUT_OFF, Code.OFF, [], OFF),
        (Action.OFF, State.RUNNING, Code.SUCCESS, ["power_off"], OFF),
        (Action.OFF, State.PAUSED, Code.SUCCESS, ["power_off"], OFF),
        (Action.OFF, State.CRASHED, Code.SUCCESS, ["power_off"], OFF),
        (Action.OFF, State.SHUTTING_DOWN, Code.SUCCESS, ["power_off"], OFF),
        (Action.OFF, State.SHUT_OFF, Code.SUCCESS, [], OFF),
        (Action.ON, State.SHUT_OFF, Code.SUCCESS, ["power_on"], ON),
        (Action.ON, State.RUNNING, Code.SUCCESS, [], ON),
        (Action.ON, State.BLOCKED, Code.SUCCESS, [], State.BLOCKED),
        (Action.ON, State.PAUSED, Code.FAILURE, [], State.PAUSED),
        (Action.ON, State.CRASHED, Code.FAILURE, [], State.CRASHED),
        (Action.REBOOT, State.RUNNING, Code.SUCCESS, ["power_off", "power_on"], ON),
        (Action.REBOOT, State.PAUSED, Code.SUCCESS, ["power_off", "power_on"], ON),
        (Action.REBOOT, State.SHUT_OFF, Code.SUCCESS, ["power_on"], ON),
        (Action.NULL, State.RUNNING, Code.FAILURE, [], ON),
        (Action.METADATA, State.RUNNING, Code.FAILURE, [], ON),
        (99, State.RUNNING, Code.FAILURE, [], ON),
    ],
)
def test_one_action(action: int, before: State, code: Code, calls: list[str], after: State) -> None:
    asked = having(before)
    assert asked.answer(action).code is code
    assert [name for name, _ in asked.backend.power_calls()] == calls
    assert asked.backend.state_of(ALPHA) is after


@pytest.mark.parametrize("target", ["alpha", ALPHA.uuid, ALPHA.uuid.upper()])
@pytest.mark.parametrize("action", [*POWER, Action.STATUS])
def test_by_name_or_uuid(action: Action, target: str) -> None:
    assert having(ON).answer(action, target).code is Code.SUCCESS


def test_other_guests_are_left_alone() -> None:
    asked = world()
    asked.answer(Action.OFF, "alpha")
    assert [asked.backend.state_of(guest) for guest in (ALPHA, BETA, GAMMA)] == [OFF, OFF, ON]


@pytest.mark.parametrize("state", list(State))
def test_only_shut_off_is_off(state: State) -> None:
    assert replace(ALPHA, state=state).is_off is (state is State.SHUT_OFF)
    assert not replace(ALPHA, state=state, moved=True).is_off


@pytest.mark.parametrize(
    ("code", "word"), [(Code.SUCCESS, "ok"), (Code.OFF, "off"), (Code.DENIED, "denied"), (Code.FAILURE, "failed")]
)
def test_one_word_for_the_log(code: Code, word: str) -> None:
    assert Reply(code).result == word


@pytest.mark.parametrize("action", range(12))
def test_time_allowed(action: int) -> None:
    """Less than the agent waits: 15 s, for power actions 30 s."""
    assert 10 <= time_allowed_s(action) < (30 if action in POWER else 15)


# Read back


@pytest.mark.parametrize(
    ("action", "method", "before", "never"),
    [
        (Action.OFF, "power_off", ON, "power_on"),
        (Action.ON, "power_on", OFF, "power_off"),
        (Action.REBOOT, "power_off", ON, "power_on"),
    ],
)
def test_a_backend_that_lies(action: Action, method: str, before: State, never: str) -> None:
    asked = having(before)
    asked.backend.always(method, LIE)
    reply = asked.answer(action, within_s=SHORT_S)
    assert reply.code is Code.FAILURE and "alpha" in reply.detail
    assert (never, "alpha") not in asked.backend.calls


@pytest.mark.parametrize("action", POWER)
@pytest.mark.parametrize("state", [State.PAUSED, State.CRASHED, State.NONE, State.SHUTTING_DOWN])
def test_a_state_in_between_is_no_success(action: Action, state: State) -> None:
    """libvirt says that it was done; what is read back is neither off nor on."""
    asked = having(OFF if action is Action.ON else ON)
    for method in ("power_off", "power_on"):
        asked.backend.always(method, LIE)
    find, looks = asked.backend.find, itertools.count()

    async def find_in_between(target: str, deadline: float) -> Guest:
        seen = await find(target, deadline)
        return seen if next(looks) < 2 else replace(seen, state=state)

    asked.backend.find = find_in_between  # type: ignore[method-assign]
    assert asked.answer(action, within_s=SHORT_S).code is Code.FAILURE


def test_off_is_waited_for() -> None:
    """libvirt may return before the process is gone."""
    asked = having(ON)
    asked.backend.script("power_off", LIE)

    async def scenario() -> Reply:
        waiting = asyncio.create_task(asked.ask(Action.OFF))
        while asked.backend.calls.count(("find", ALPHA.uuid)) < 4:
            await asyncio.sleep(0)
        assert not waiting.done()
        asked.backend.set_state(ALPHA, OFF)
        return await waiting

    assert run(scenario()).code is Code.SUCCESS


@pytest.mark.parametrize(("action", "method", "before"), [(Action.OFF, "power_off", ON), (Action.ON, "power_on", OFF)])
def test_a_refusal(action: Action, method: str, before: State) -> None:
    asked = having(before)
    asked.backend.always(method, REFUSED)
    reply = asked.answer(action)
    assert (reply.code, asked.backend.power_calls()) == (Code.FAILURE, [(method, "alpha")])
    assert "refuses" in reply.detail


@pytest.mark.parametrize(("action", "method", "before"), [(Action.OFF, "power_off", ON), (Action.ON, "power_on", OFF)])
def test_a_refusal_of_what_has_happened_meanwhile(action: Action, method: str, before: State) -> None:
    """The guest ended, or was started, between our look and our call."""
    asked = having(before)
    asked.backend.script(method, DoneButFailed(REFUSED))
    assert asked.answer(action).code is Code.SUCCESS


@pytest.mark.parametrize("action", [Action.OFF, Action.REBOOT])
def test_a_guest_that_vanishes_is_not_off(action: Action) -> None:
    """Undefined, or gone to another host: nobody knows."""
    asked = having(ON)
    asked.backend.script("find", HONEST, HONEST, GuestNotFound("no guest alpha"))
    reply = asked.answer(action)
    assert reply.code is Code.FAILURE
    assert ("power_on", "alpha") not in asked.backend.calls


BEHAVIOURS = st.lists(
    st.sampled_from([HONEST, HONEST, LIE, GONE, REFUSED, DoneButFailed(REFUSED), DoneButFailed(GONE)]), max_size=5
)


@settings(deadline=None, max_examples=80)
@given(
    st.sampled_from(POWER),
    st.sampled_from([State.RUNNING, State.SHUT_OFF, State.PAUSED]),
    st.fixed_dictionaries(dict.fromkeys(("find", "power_off", "power_on"), BEHAVIOURS)),
)
def test_whatever_happens_success_is_true(action: Action, before: State, scripts: dict[str, list[Behaviour]]) -> None:
    asked = having(before)
    for method, behaviours in scripts.items():
        asked.backend.script(method, *behaviours)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PAUSE_S", 0.001)
        patch.setattr(power, "PAUSE_S", 0.001)
        patch.setattr(power, "_POLL_S", 0.001)
        patch.setattr(power, "START_AFTER_OFF_S", 0.02)
        code = asked.answer(action, within_s=0.02).code
    state = asked.backend.state_of(ALPHA)
    assert code in (Code.SUCCESS, Code.FAILURE)
    if code is Code.SUCCESS:
        was_off = before is OFF or ("alpha", OFF) in asked.backend.history
        assert {Action.OFF: state is OFF, Action.ON: state is ON, Action.REBOOT: was_off}[action]


# Unreachable


@pytest.mark.parametrize("action", POWER)
@pytest.mark.parametrize(
    "scripts",
    [
        {"find": [GONE, GONE, HONEST]},  # before it is known which guest is meant
        {"find": [HONEST, GONE, GONE]},
        {"power_off": [GONE]},
        {"power_off": [DoneButFailed(GONE)]},
        {"find": [HONEST, HONEST, GONE, GONE]},  # while the state is read back
    ],
)
def test_away_and_back(action: Action, scripts: dict[str, list[Behaviour]]) -> None:
    """libvirt is restarted in the middle."""
    if action is Action.ON:
        scripts = {"find": [GONE, GONE, HONEST]}
    asked = having(OFF if action is Action.ON else ON)
    for method, behaviours in scripts.items():
        asked.backend.script(method, *behaviours)
    assert asked.answer(action).code is Code.SUCCESS
    assert asked.backend.state_of(ALPHA) is (OFF if action is Action.OFF else ON)


@pytest.mark.parametrize("action", [*POWER, Action.STATUS, Action.LIST, Action.MONITOR])
def test_away_for_good(action: Action) -> None:
    asked = having(ON)
    for method in ("find", "guests", "ping"):
        asked.backend.always(method, GONE)
    reply = asked.answer(action, within_s=SHORT_S)
    assert (reply.code, reply.records, asked.backend.power_calls()) == (Code.FAILURE, None, [])
    assert "away" in reply.detail


def test_nobody_waits_for_a_hypervisor_on_behalf_of_a_client_that_left() -> None:
    asked = having(ON)
    asked.backend.always("find", GONE)
    assert asked.answer(Action.OFF, is_gone=lambda: True).code is Code.FAILURE
    assert len(asked.backend.calls) == 1


def test_patience_before_the_beginning_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", SHORT_S)
    asked = having(ON)
    asked.backend.always("find", GONE)
    began = time.monotonic()
    assert asked.answer(Action.OFF, within_s=60).code is Code.FAILURE
    assert time.monotonic() - began < 5


# Moved away


@pytest.mark.parametrize("action", [*POWER, Action.STATUS])
@pytest.mark.parametrize("reboot_method", ["cycle", "reset"])
def test_a_guest_that_was_migrated_away_is_not_off_and_not_started(action: Action, reboot_method: str) -> None:
    asked = world(replace(ALPHA, state=OFF, moved=True), reboot_method=reboot_method)
    asked.backend.always("reset", REFUSED)
    reply = asked.answer(action)
    assert reply.code is Code.FAILURE
    assert not [call for call in asked.backend.power_calls() if call[0] == "power_off"]
    assert asked.backend.history == []


# Reboot


def test_a_failed_start_after_a_confirmed_off_is_success_and_an_error(caplog: pytest.LogCaptureFixture) -> None:
    asked = having(ON)
    asked.backend.always("power_on", REFUSED)
    reply = asked.answer(Action.REBOOT)
    assert reply.code is Code.SUCCESS and "start failed" in reply.detail
    assert asked.backend.state_of(ALPHA) is OFF
    (record,) = caplog.records
    assert record.levelname == "ERROR" and "alpha" in record.getMessage() and "refuses" in record.getMessage()


def test_a_slow_start_does_not_cost_the_client_its_answer() -> None:
    """The client waits for the off; a second before its time is over it is told, and the start goes on."""

    async def scenario() -> None:
        asked, hold = having(ON), Hold()
        asked.backend.script("power_on", hold)
        reply = await asked.ask(Action.REBOOT, within_s=1.02)
        assert (reply.code, asked.backend.state_of(ALPHA)) == (Code.SUCCESS, OFF)
        assert "under way" in reply.detail
        hold.release.set()
        assert await asked.service.finish(5) == 0
        assert asked.backend.state_of(ALPHA) is ON

    run(scenario())


def test_a_start_that_fails_after_the_answer_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        asked, hold = having(ON), Hold(REFUSED)
        late: list[tuple[str, str]] = []
        asked.service.on_late_failure = lambda guest, why: late.append((guest.name, why))
        asked.backend.script("power_on", hold)
        assert (await asked.ask(Action.REBOOT, within_s=1.02)).code is Code.SUCCESS
        assert late == []
        hold.release.set()
        assert await asked.service.finish(5) == 0
        assert [name for name, _ in late] == ["alpha"] and "refuses" in late[0][1]

    run(scenario())
    assert "could not be started again" in caplog.text


def test_the_start_after_an_off_has_its_own_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(power, "START_AFTER_OFF_S", SHORT_S)
    asked = having(ON)
    asked.backend.always("power_on", LIE)
    reply = asked.answer(Action.REBOOT, within_s=5)
    assert reply.code is Code.SUCCESS and "start failed" in reply.detail
    assert "could not be started" in caplog.text


def test_without_a_confirmed_off_there_is_no_start() -> None:
    asked = having(ON)
    asked.backend.always("power_off", REFUSED)
    assert asked.answer(Action.REBOOT).code is Code.FAILURE
    assert asked.backend.power_calls() == [("power_off", "alpha")]


@pytest.mark.parametrize(
    ("before", "calls"),
    [(State.RUNNING, ["reset"]), (State.PAUSED, ["reset"]), (State.SHUT_OFF, ["power_on"])],
)
def test_reboot_by_reset(before: State, calls: list[str]) -> None:
    asked = world(replace(ALPHA, state=before), reboot_method="reset")
    assert asked.answer(Action.REBOOT).code is Code.SUCCESS
    assert [name for name, _ in asked.backend.power_calls()] == calls
    assert asked.backend.state_of(ALPHA) is ON


@pytest.mark.parametrize("error", [REFUSED, Unconfirmed("no event"), GONE])
def test_a_reset_that_fails(error: Exception) -> None:
    asked = world(ALPHA, reboot_method="reset")
    asked.backend.always("reset", error)
    assert asked.answer(Action.REBOOT, within_s=SHORT_S).code is Code.FAILURE
    assert asked.backend.power_calls() == [("reset", "alpha")]


def test_a_reset_after_which_the_guest_does_not_run() -> None:
    asked = world(replace(ALPHA, state=State.PAUSED), reboot_method="reset")
    asked.backend.always("reset", LIE)
    assert asked.answer(Action.REBOOT, within_s=SHORT_S).code is Code.FAILURE


@pytest.mark.parametrize("action", [Action.OFF, Action.ON, Action.STATUS])
def test_the_reboot_method_is_for_reboots_alone(action: Action) -> None:
    asked = world(reboot_method="reset")
    asked.answer(action, "alpha")
    assert ("reset", "alpha") not in asked.backend.calls


# Who may


@pytest.mark.parametrize("action", [*POWER, Action.STATUS])
def test_an_unknown_guest_is_a_failure_never_off(action: Action) -> None:
    reply = world().answer(action, "nobody")
    assert reply.code is Code.FAILURE and "nobody" in reply.detail


@pytest.mark.parametrize("action", [*POWER, Action.STATUS])
@pytest.mark.parametrize(
    ("policy", "target", "code"),
    [
        (group("alpha"), "alpha", Code.SUCCESS),
        (group(ALPHA.uuid.upper()), "alpha", Code.SUCCESS),
        (group("alpha"), ALPHA.uuid, Code.SUCCESS),
        (group("Beta"), "alpha", Code.DENIED),
        (group("alpha", source="10.0.0.9"), "alpha", Code.DENIED),
        (group("alpha", key="k1"), "alpha", Code.DENIED),
        (Policy(()), "alpha", Code.DENIED),
        (group("nobody"), "nobody", Code.FAILURE),
        (group("alpha"), "nobody", Code.DENIED),
        (group("nobody", source="10.0.0.9"), "nobody", Code.DENIED),
    ],
)
def test_access(action: Action, policy: Policy, target: str, code: Code) -> None:
    asked = world(ALPHA, BETA, policy=policy)
    assert asked.answer(action, target).code is code
    assert bool(asked.backend.power_calls()) is (code is Code.SUCCESS and action in (Action.OFF, Action.REBOOT))


def test_the_key_decides_too() -> None:
    asked = world(policy=group("alpha", key="k1"))
    assert [asked.answer(Action.STATUS, key_id=key).code for key in ("k1", "k2", None)] == [
        Code.SUCCESS,
        Code.DENIED,
        Code.DENIED,
    ]


def test_rules_are_exchanged_on_reload() -> None:
    asked = world(policy=group("alpha"))
    asked.service.rules = Rules(group("Beta"), "cycle")
    assert [asked.answer(Action.STATUS, name).code for name in ("alpha", "Beta")] == [Code.DENIED, Code.OFF]


@pytest.mark.parametrize(
    ("target", "behaviour", "known"),
    [("alpha", HONEST, True), ("nobody", HONEST, False), ("alpha", GONE, False), ("alpha", REFUSED, True)],
)
def test_what_is_known_here(target: str, behaviour: Behaviour, known: bool) -> None:
    """Who cannot tell is silent: another host may know it, and the first answer is the one that counts."""
    asked = world()
    asked.backend.always("find", behaviour)
    assert run(asked.service.knows(target, time.monotonic() + 0.05)) is known


def test_a_hypervisor_that_comes_back_knows_its_guests() -> None:
    asked = world()
    asked.backend.script("find", GONE, GONE)
    assert run(asked.service.knows("alpha", time.monotonic() + LONG_S))


# Lists and monitor


@pytest.mark.parametrize(
    ("policy", "names"),
    [
        (OPEN, ["alpha", "Beta", "gamma", "Zeta"]),
        (group("Zeta", ALPHA.uuid), ["alpha", "Zeta"]),
        (group("alpha", source="10.0.0.9"), []),
        (Policy(()), []),
    ],
)
def test_a_list_is_sorted_and_shows_what_may_be_acted_on(policy: Policy, names: list[str]) -> None:
    zeta = Guest("Zeta", ALPHA.uuid[:-1] + "9", State.PAUSED)
    reply = world(zeta, GAMMA, BETA, ALPHA, policy=policy).answer(Action.LIST, "")
    assert (reply.code, [record.name for record in reply.records or ()]) == (Code.LIST, names)
    assert reply.detail == f"{len(names)} guests"


def test_one_guest_is_one_guest_in_the_log() -> None:
    assert world(policy=group("alpha")).answer(Action.LIST, "").detail == "1 guest"


def test_a_list_tells_uuid_and_state() -> None:
    reply = world().answer(Action.LIST)
    assert [(r.name, r.uuid, r.state) for r in reply.records or ()] == [
        ("alpha", ALPHA.uuid, 1),
        ("Beta", BETA.uuid, 5),
        ("gamma", GAMMA.uuid, 1),
    ]


@pytest.mark.parametrize(("behaviour", "code"), [(HONEST, Code.SUCCESS), (GONE, Code.FAILURE), (REFUSED, Code.FAILURE)])
def test_monitor_asks_the_hypervisor(behaviour: Behaviour, code: Code) -> None:
    asked = world(policy=Policy(()))
    asked.backend.always("ping", behaviour)
    assert asked.answer(Action.MONITOR, "").code is code
    assert asked.backend.calls == [("ping", "")]


# Several at once


def test_one_guest_in_order_others_at_once() -> None:
    async def scenario() -> None:
        asked, hold = world(), Hold()
        asked.backend.script("power_off", hold)
        first = asyncio.create_task(asked.ask(Action.OFF, "alpha"))
        await hold.begun.wait()
        second = asyncio.create_task(asked.ask(Action.ON, ALPHA.uuid))
        assert (await asked.ask(Action.OFF, "gamma")).code is Code.SUCCESS
        assert (await asked.ask(Action.STATUS, "alpha")).code is Code.SUCCESS
        assert asked.backend.power_calls() == [("power_off", "alpha"), ("power_off", "gamma")]
        assert not first.done() and not second.done()
        hold.release.set()
        assert [reply.code for reply in await asyncio.gather(first, second)] == [Code.SUCCESS, Code.SUCCESS]
        assert asked.backend.power_calls()[2:] == [("power_on", "alpha")]
        assert asked.backend.state_of(ALPHA) is ON

    run(scenario())


def test_many_on_one_guest_never_overlap() -> None:
    async def scenario() -> None:
        asked = world()
        inside: list[str] = []
        honest = asked.backend.power_off

        async def watched(guest: Guest, deadline: float, still_wanted: Wanted) -> None:
            inside.append(guest.name)
            assert inside.count(guest.name) == 1
            await asyncio.sleep(0)
            await honest(guest, deadline, still_wanted)
            inside.remove(guest.name)

        asked.backend.power_off = watched  # type: ignore[method-assign]
        wishes = [asked.ask(action, name) for action in POWER * 5 for name in ("alpha", "Beta", GAMMA.uuid)]
        assert {reply.code for reply in await asyncio.gather(*wishes)} == {Code.SUCCESS}

    run(scenario())


@pytest.mark.parametrize("action", POWER)
def test_a_client_that_left_is_not_served(action: Action) -> None:
    asked = having(OFF if action is Action.ON else ON)
    with pytest.raises(OriginGone):
        asked.answer(action, is_gone=lambda: True)
    assert asked.backend.power_calls() == []


def test_a_client_that_left_while_it_waited_for_its_turn() -> None:
    async def scenario() -> None:
        asked, hold, left = world(), Hold(), asyncio.Event()
        asked.backend.script("power_off", hold)
        first = asyncio.create_task(asked.ask(Action.OFF))
        await hold.begun.wait()
        second = asyncio.create_task(asked.ask(Action.REBOOT, is_gone=left.is_set))
        await asyncio.sleep(0)
        left.set()
        hold.release.set()
        assert (await first).code is Code.SUCCESS
        with pytest.raises(OriginGone):
            await second
        assert asked.backend.power_calls() == [("power_off", "alpha")]

    run(scenario())


def test_once_begun_it_is_finished_even_for_nobody() -> None:
    """A reboot whose client leaves after the off still starts the guest."""

    async def scenario() -> None:
        asked, hold, left = world(), Hold(), asyncio.Event()
        asked.backend.script("power_off", hold)
        waiting = asyncio.create_task(asked.ask(Action.REBOOT, is_gone=left.is_set))
        await hold.begun.wait()
        left.set()
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        hold.release.set()
        assert await asked.service.finish(5) == 0
        assert asked.backend.history == [("alpha", OFF), ("alpha", ON)]

    run(scenario())


def test_too_late_is_not_begun() -> None:
    """Its time passed behind another action: never a late, stale fence."""

    async def scenario() -> None:
        asked, hold = world(), Hold()
        asked.backend.script("power_off", hold)
        first = asyncio.create_task(asked.ask(Action.OFF))
        await hold.begun.wait()
        late = await asked.ask(Action.REBOOT, within_s=SHORT_S)
        assert late.code is Code.FAILURE
        hold.release.set()
        assert (await first).code is Code.SUCCESS
        assert await asked.service.finish(5) == 0
        assert asked.backend.power_calls() == [("power_off", "alpha")]

    run(scenario())


def test_the_lock_is_kept_when_the_waiter_has_given_up() -> None:
    async def scenario() -> None:
        asked, hold = world(), Hold()
        asked.backend.script("power_off", hold)
        reply = await asked.ask(Action.OFF, within_s=SHORT_S)
        assert reply.code is Code.FAILURE and "may still take effect" in reply.detail
        second = asyncio.create_task(asked.ask(Action.ON, within_s=LONG_S))
        for _ in range(20):
            await asyncio.sleep(0)
        assert await asked.service.finish(0) == 2
        assert asked.backend.power_calls() == [("power_off", "alpha")] and not second.done()
        hold.release.set()
        assert (await second).code is Code.SUCCESS
        assert asked.backend.history == [("alpha", OFF), ("alpha", ON)]

    run(scenario())


def test_a_defect_of_ours_fails_one_request_aloud(caplog: pytest.LogCaptureFixture) -> None:
    asked = world()
    asked.backend.script("power_off", ZeroDivisionError("a defect"))
    reply = asked.answer(Action.OFF)
    assert reply.code is Code.FAILURE and "internal error" in reply.detail
    assert "Traceback" in caplog.text
    assert asked.answer(Action.OFF).code is Code.SUCCESS


# The contract of every backend, of the one in memory and of libvirt's test driver (one guest, "test", running)


TEST = Guest("test", "6695eb01-f6a4-8304-79aa-97f2502e193f", State.RUNNING)


@contextlib.contextmanager
def closing(backend: Backend) -> Iterator[Backend]:
    try:
        yield backend
    finally:
        backend.close()


def both() -> list[Any]:
    return [
        pytest.param(lambda: FakeBackend(TEST), id="memory"),
        pytest.param(lambda: LibvirtBackend(("test:///default",)), id="libvirt"),
    ]


@pytest.mark.parametrize("make", both())
def test_contract(make: Callable[[], Backend]) -> None:
    async def scenario(backend: Backend) -> None:
        end = time.monotonic() + LONG_S
        await backend.ping(end)
        (guest,) = await backend.guests(end)
        assert (guest.name, is_uuid(guest.uuid), guest.state) == ("test", True, ON)
        for target in ("test", guest.uuid, guest.uuid.upper()):
            assert (await backend.find(target, end)).uuid == guest.uuid
        for target in ("nobody", "Test", "tes", "", guest.uuid[:-4] + "0000", guest.uuid.replace("-", "")):
            with pytest.raises(GuestNotFound):
                await backend.find(target, end)
        await backend.power_off(guest, end, always)
        assert (await backend.find("test", end)).is_off
        await backend.power_on(guest, end, always)
        assert (await backend.find("test", end)).is_running
        with pytest.raises(BackendError):
            await backend.power_on(replace(guest, state=OFF, moved=True), end, always)

    with closing(make()) as backend:
        run(scenario(backend))
