"""What a host of a pool does for its member: looks, acts, and asks Pacemaker or a command who was fenced."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from unit.fakes import ALPHA, BETA, FakeBackend
from vmfence.errors import ToolMissing, Unreachable, VmfenceError
from vmfence.host.pool import fenced, hands
from vmfence.host.pool.effects import Act, Departed
from vmfence.host.pool.fenced import NEVER, ask_fenced, newest_fencings, was_fenced_since
from vmfence.host.pool.hands import Hands
from vmfence.host.pool.messages import Entry
from vmfence.host.pool.procedure import Outcome
from vmfence.host.service import Rules, Service
from vmfence.policy import Policy
from vmfence.protocol.reply import Code, State
from vmfence.protocol.request import Action

WAIT_S = 10.0
NAMES = {3: "h3", 4: "h4", 5: "h5"}
HISTORY = """<pacemaker-result api-version="2.25" request="stonith_admin"><fence_history>
<fence_event action="reboot" target="h3" client="c" origin="h1" status="success" completed="2026-11-22 14:53:00Z"/>
<fence_event action="reboot" target="h3" client="c" origin="h1" status="success" completed="2026-11-22 13:53:00Z"/>
<fence_event action="reboot" target="h4" client="c" origin="h1" status="failed" completed="2026-11-22 14:53:00Z"/>
<fence_event action="on" target="h5" client="c" origin="h1" status="success" completed="2026-11-22 14:53:00Z"/>
<fence_event action="off" target="h6" client="c" origin="h1" status="success" completed="nonsense"/>
</fence_history></pacemaker-result>"""
AT = 1795359180.0  # 2026-11-22 14:53:00 UTC
HOUR = 3600.0


def call(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def pacemaker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stonith_admin that says what is in the file said, and notes what it was asked."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    script(
        tmp_path / "stonith_admin", f'echo "$@" >> {tmp_path}/asked\ncat {tmp_path}/said\nexit $(cat {tmp_path}/exit)'
    )
    (tmp_path / "said").write_text(HISTORY)
    (tmp_path / "exit").write_text("0")
    return tmp_path


def service(*guests: Any) -> Service:
    return Service(FakeBackend(*guests), Rules(Policy(None)))


# The history


def test_the_history_of_the_fencer() -> None:
    now = AT + 60
    assert was_fenced_since(HISTORY, "h3", AT - 10, now)
    assert was_fenced_since(HISTORY, "h3", AT + 0.9, now)  # its times are whole seconds
    assert not was_fenced_since(HISTORY, "h3", AT + 1, now)
    for other in ("h4", "h5", "h6", "h7", ""):
        assert not was_fenced_since(HISTORY, other, 0.0, now)
    with pytest.raises(VmfenceError):
        was_fenced_since("rubbish", "h3", 0.0, now)


def test_a_fencing_that_was_known_while_the_host_was_here_does_not_count() -> None:
    """By a clock of the fencer that is ahead it ended after the host left."""
    left_at, now = AT - 30, AT + 60
    assert was_fenced_since(HISTORY, "h3", left_at, now, NEVER)
    assert was_fenced_since(HISTORY, "h3", left_at, now, AT - HOUR)
    assert not was_fenced_since(HISTORY, "h3", left_at, now, AT)
    assert newest_fencings(HISTORY) == {"h3": AT}


def test_a_fencing_of_the_future_is_of_a_clock_that_is_wrong() -> None:
    """It may be one of before the host left."""
    one = HISTORY.replace('completed="2026-11-22 13:53:00Z"', 'completed=""')
    assert was_fenced_since(one, "h3", AT - 10, AT - 4)
    with pytest.raises(VmfenceError, match="h3 was fenced 3600 s from now"):
        was_fenced_since(one, "h3", AT - HOUR - 100, AT - HOUR)
    assert not was_fenced_since(one, "h7", AT - HOUR - 100, AT - HOUR)
    assert was_fenced_since(HISTORY, "h3", AT - HOUR - 100, AT - HOUR)


def test_pacemaker_is_asked_for_all_hosts_at_once(pacemaker: Path) -> None:
    async def work() -> None:
        made = Hands(service())
        assert await made.find_fenced([Departed(3, AT - 10), Departed(4, AT - 10), Departed(5, 0.0)], NAMES) == {3}
        assert await made.find_fenced([Departed(3, AT - 10, AT)], NAMES) == frozenset()
        assert await made.find_fenced([Departed(3, AT - 10)], {}) == frozenset()
        assert await made.newest_fencings() == {"h3": AT}

    call(work())
    # The newest is read anew: what was noted of a host that was here must not be older than that.
    assert (pacemaker / "asked").read_text().splitlines() == ["--history=* --verbose --output-as=xml"] * 2


@pytest.mark.parametrize("status", ["102", "107", "1", "124"])
def test_a_pacemaker_that_does_not_tell_has_fenced_nobody(pacemaker: Path, status: str) -> None:
    (pacemaker / "exit").write_text(status)

    async def work() -> None:
        made = Hands(service())
        assert await made.find_fenced([Departed(3, AT - 10)], NAMES) == frozenset()
        assert await made.newest_fencings() is None

    call(work())
    with pytest.raises(VmfenceError):
        ask_fenced(3, "h3", AT - 10)


def test_without_pacemaker_nobody_was_fenced(pacemaker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (pacemaker / "stonith_admin").unlink()
    monkeypatch.setattr("vmfence.proc.system_path", lambda: str(pacemaker))
    with pytest.raises(ToolMissing):
        ask_fenced(3, "h3", AT - 10)
    assert call(Hands(service()).find_fenced([Departed(3, AT - 10)], NAMES)) == frozenset()


# The command


def find(command: str, *hosts: Departed, names: dict[int, str] = NAMES) -> frozenset[int]:
    async def work() -> frozenset[int]:
        return await Hands(service(), command).find_fenced(hosts, names)

    found: frozenset[int] = call(work())
    return found


def test_a_command_tells_who_was_fenced(tmp_path: Path) -> None:
    command = script(tmp_path / "was-fenced", f'echo "$@" >> {tmp_path}/asked\n[ "$1" = h3 ]')
    assert find(command, Departed(3, 5.5), Departed(4, 6.0)) == {3}
    assert sorted((tmp_path / "asked").read_text().splitlines()) == ["h3 3 5", "h4 4 6"]
    assert ask_fenced(3, "h3", 5.5, command)
    assert not ask_fenced(4, "h4", 5.5, command)


def test_a_command_is_not_asked_for_a_host_without_a_name(tmp_path: Path) -> None:
    """It may say yes to an empty one."""
    command = script(tmp_path / "was-fenced", f"echo >> {tmp_path}/asked")
    assert find(command, Departed(3, 5.5), Departed(9, 5.5), names={3: ""}) == frozenset()
    assert not ask_fenced(3, "", 5.5, command)
    assert not ask_fenced(3, "", 5.5)
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize("text", [None, "exit 1", "kill -9 $$"])
def test_no_answer_is_not_fenced(tmp_path: Path, text: str | None) -> None:
    command = str(tmp_path / "was-fenced") if text is None else script(tmp_path / "was-fenced", text)
    assert find(command, Departed(3, 5.5)) == frozenset()


def test_a_command_is_asked_once_by_those_who_ask_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = script(tmp_path / "was-fenced", f"echo >> {tmp_path}/asked")
    host = Departed(3, 5.5)

    async def work() -> None:
        made = Hands(service(), command)
        assert await asyncio.gather(*(made.find_fenced([host], NAMES) for _ in range(5))) == [{3}] * 5
        assert await made.find_fenced([host], NAMES) == {3}
        assert (tmp_path / "asked").read_text() == "\n"
        assert await made.find_fenced([Departed(3, 6.5)], NAMES) == {3}  # it was back, and has left again
        assert (tmp_path / "asked").read_text() == "\n\n"
        monkeypatch.setattr(hands, "FRESH_S", 0.0)
        other = Departed(3, 7.5)
        assert await made.find_fenced([other], NAMES) == {3}
        await asyncio.sleep(0.0)
        assert await made.find_fenced([other], NAMES) == {3}
        assert (tmp_path / "asked").read_text() == "\n\n\n\n"

    call(work())


def test_hosts_are_asked_for_at_once_and_what_hangs_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them waits for all others to be asked; one never answers, and the end is not held up by it either."""
    together, gate = threading.Barrier(8), threading.Event()

    def ask(command: str, node: int, name: str, left_at: float) -> bool:
        together.wait(WAIT_S)
        return node != 8 or not gate.wait(WAIT_S)

    monkeypatch.setattr(fenced, "ask_command", ask)
    monkeypatch.setattr(hands, "FENCED_S", 1.0)
    hosts = [Departed(node, 1.0) for node in range(1, 9)]
    assert find("command", *hosts, names=dict.fromkeys(range(9), "h")) == frozenset(range(1, 8))
    assert [thread.daemon for thread in threading.enumerate() if thread.name.startswith("who tells")] == [True]
    gate.set()


# Looks and orders


def test_a_look_tells_what_is_here_or_why_that_cannot_be_told() -> None:
    made = service(ALPHA)
    assert call(Hands(made).look("alpha", False)) == ((Entry("alpha", ALPHA.uuid, 1),), "")
    assert call(Hands(made).look("nobody", False)) == ((), "")
    assert isinstance(made.backend, FakeBackend)
    made.backend.always("find", Unreachable("libvirt hangs"))
    guests, trouble = call(Hands(made).look("alpha", False))
    assert (guests, "libvirt hangs" in trouble) == ((), True)


def act(made: Service, action: Action, uuid: str, gone: bool = False) -> Outcome:
    effect = Act(2, 5, action, uuid, time.monotonic() + WAIT_S)
    outcome: Outcome = call(Hands(made).act(effect, lambda: gone))
    return outcome


@pytest.mark.parametrize("state", [State.RUNNING, State.PAUSED])
def test_an_order_tells_what_the_guest_was_directly_before_its_end(state: State) -> None:
    """One that was paused may have been about to leave, or to come: the end at this host is not the whole of it."""
    made = service(ALPHA, BETA)
    assert isinstance(made.backend, FakeBackend)
    made.backend.set_state(ALPHA, state)
    assert act(made, Action.OFF, ALPHA.uuid) == Outcome(Code.SUCCESS, "", int(state))
    assert made.backend.state_of(ALPHA) is State.SHUT_OFF
    assert act(made, Action.OFF, BETA.uuid).ended == 0
    assert act(made, Action.OFF, "nobody") == Outcome(Code.FAILURE, "no guest nobody.", 0)


def test_an_order_of_a_host_that_has_left_is_not_carried_out() -> None:
    made = service(ALPHA)
    assert act(made, Action.OFF, ALPHA.uuid, gone=True).code == Code.FAILURE
    assert isinstance(made.backend, FakeBackend)
    assert made.backend.power_calls() == []
