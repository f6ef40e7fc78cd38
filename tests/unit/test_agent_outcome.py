"""What answers mean: every code for every action."""

from __future__ import annotations

import pytest

from vmfence.agent import outcome
from vmfence.client.failures import HostNotProven, NoAnswer, NotAccepted
from vmfence.client.stream import Answer
from vmfence.errors import AuthenticationError, PacketError, Unreachable, VmfenceError
from vmfence.protocol.reply import Code, Record
from vmfence.protocol.request import Action

ACTIONS = [Action.OFF, Action.ON, Action.REBOOT, Action.STATUS, Action.MONITOR, Action.LIST]
EXPECTED: dict[tuple[int, int], tuple[int, str]] = {
    (Action.OFF, Code.SUCCESS): (0, ""),
    (Action.ON, Code.SUCCESS): (0, ""),
    (Action.REBOOT, Code.SUCCESS): (0, ""),
    (Action.MONITOR, Code.SUCCESS): (0, ""),
    (Action.STATUS, Code.SUCCESS): (0, "Status: ON\n"),
    (Action.STATUS, Code.OFF): (2, "Status: OFF\n"),
    (Action.LIST, Code.LIST): (0, ""),
    **{(action, Code.DENIED): (3, "") for action in ACTIONS},
}
FIRST_LINE: dict[int, str] = {Code.FAILURE: "Operation failed", Code.DENIED: "Permission denied"}


def judged(action: Action, code: int, records: list[Record] | None = None) -> outcome.Outcome:
    return outcome.judge(action, "alpha", Answer(code, records or [], "10.0.0.1"), "fence_xvm")


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("code", range(256))
def test_every_code_for_every_action(action: Action, code: int) -> None:
    result = judged(action, code)
    exit_code, out = EXPECTED.get((action, code), (1, ""))
    assert (result.exit_code, result.out) == (exit_code, out)
    assert bool(result.err) == (exit_code in (1, 3))
    if result.err:
        known = "Operation failed" if code in (Code.SUCCESS, Code.OFF, Code.LIST) else f"Unknown response ({code})"
        assert result.err[0] == FIRST_LINE.get(code, known)
        assert result.err[1].startswith("error: 10.0.0.1 ")
        assert result.err[1].endswith(".")
    assert "10.0.0.1" in result.log


def test_a_list_is_printed_as_the_reference_prints_it() -> None:
    records = [Record("alpha", "11111111-2222-3333-4444-555555555501", 1), Record("Beta", "b", 5)]
    assert judged(Action.LIST, Code.LIST, records).out == (
        "alpha                            11111111-2222-3333-4444-555555555501 on\n"
        "Beta                             b off\n"
    )


def test_guests_are_counted_in_the_log() -> None:
    logs = [judged(Action.LIST, Code.LIST, [Record("a", "u", 1)] * number).log for number in range(3)]
    assert logs == ["0 guests from 10.0.0.1", "1 guest from 10.0.0.1", "2 guests from 10.0.0.1"]


def test_a_list_as_answer_to_off_is_no_success() -> None:
    result = judged(Action.OFF, Code.LIST, [Record("alpha", "u", 5)])
    assert (result.exit_code, result.out) == (1, "")
    assert "253 (a list of guests) does not belong" in result.err[1]


@pytest.mark.parametrize(
    ("error", "lines"),
    [
        (NoAnswer("no host answered"), ["Timed out waiting for response", "Operation failed"]),
        (HostNotProven("who"), ["Invalid response to challenge", "Operation failed"]),
        (NotAccepted("no", at_challenge=True), ["Invalid response to challenge", "Operation failed"]),
        (NotAccepted("no"), ["Operation failed"]),
        (AuthenticationError("no key"), ["Operation failed"]),
        (Unreachable("x"), ["Operation failed"]),
        (PacketError("the list was cut off"), ["Operation failed"]),
    ],
)
def test_no_answer_is_told_as_the_reference_does_and_then_explained(error: VmfenceError, lines: list[str]) -> None:
    result = outcome.failure(Action.OFF, "alpha", error)
    assert result.exit_code == 1
    assert list(result.err) == [*lines, f"error: {error}"]
    assert result.log == f'off of "alpha": {error}'


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("code", [Code.FAILURE, 200])
def test_only_who_named_a_guest_is_told_to_compare_its_name(action: Action, code: int) -> None:
    names_guest = action not in (Action.MONITOR, Action.LIST)
    remedy = ", and compare the guest's name with: fence_xvm -o list." if names_guest else "log on the host."
    assert judged(action, code).err[1].endswith(remedy)


def test_null_always_fails() -> None:
    assert outcome.null("alpha").exit_code == 1
    assert outcome.null("alpha").err[0] == "Operation failed"
