"""The guests of a pool in one list: where each is, what is not known of it, and what the daemon must tell for that."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vmfence.errors import NotPermitted, Unreachable, VmfenceError
from vmfence.host import control, pool_list, pool_report
from vmfence.host.backends.inventory import GuestFacts, Inventory
from vmfence.host.pool_report import PoolReport
from vmfence.protocol.reply import State

UUIDS = {name: f"11111111-2222-3333-4444-55555555550{at}" for at, name in enumerate(("a", "b", "c", "d"))}
TOLD: dict[str, Any] = {
    "node": 1,
    "is_joined": True,
    "is_quorate": True,
    "trouble": "",
    "fenced_command": None,
    "hosts": [
        {"node": 1, "name": "h1", "is_here": True, "program": "vmfence", "guests": 1, "left_at": None},
        {"node": 2, "name": "", "is_here": True, "program": "vmfence", "guests": 1, "left_at": None},
        {"node": 3, "name": "h3", "is_here": False, "program": "", "guests": 1, "left_at": 5.0},
        {"node": 4, "name": "h4", "is_here": False, "program": "", "guests": None, "left_at": None},
    ],
    "listing": [],
}
RUNS, OFF = int(State.RUNNING), int(State.SHUT_OFF)


def heard(*guests: tuple[int, str, int], **changes: Any) -> PoolReport:
    """Return what is made of guests: node, name, state; a name in capitals has left from there."""
    listing = [
        {"node": node, "name": name.lower(), "uuid": UUIDS[name.lower()], "state": state, "moved": name.isupper()}
        for node, name, state in guests
    ]
    return pool_report.of({**TOLD, "listing": listing, **changes})


def rows(report: PoolReport, **local: State) -> dict[str, tuple[str, str]]:
    guests = tuple(GuestFacts(name, UUIDS[name].upper(), state) for name, state in local.items())
    found = pool_list.rows([Inventory("test:///", "", "", guests)], report)
    return {row.guest.name: (row.state, row.places) for row in found}


def test_guests_of_all_hosts() -> None:
    found = rows(heard((1, "a", RUNS), (2, "b", RUNS), (2, "d", OFF)), a=State.RUNNING)
    assert found == {
        "a": ("running", "h1 (this one)"),
        "b": ("running", "host 2"),
        "d": ("shut off", "host 2"),
    }


def test_of_this_host_libvirt_is_believed() -> None:
    assert rows(heard((1, "a", RUNS)), a=State.SHUT_OFF) == {"a": ("shut off", "h1 (this one)")}
    assert rows(heard((1, "a", RUNS))) == {}


def test_a_guest_that_several_hosts_have_is_where_it_runs() -> None:
    assert rows(heard((2, "a", RUNS)), a=State.SHUT_OFF)["a"] == ("running", "host 2")
    assert rows(heard((2, "a", RUNS)), a=State.RUNNING)["a"] == ("running", "h1 (this one), host 2")
    assert rows(heard((2, "a", OFF)), a=State.SHUT_OFF)["a"] == ("shut off", "h1 (this one), host 2")
    assert rows(heard((1, "A", OFF), (2, "a", OFF)), a=State.SHUT_OFF)["a"] == ("shut off", "host 2")


def test_what_a_host_that_is_away_had_may_run_on() -> None:
    assert rows(heard((3, "c", RUNS)))["c"] == ("was running", "h3 (away)")
    assert rows(heard((3, "c", RUNS)), c=State.SHUT_OFF)["c"] == ("was running", "h3 (away)")
    assert rows(heard((3, "c", RUNS)), c=State.RUNNING)["c"] == ("running", "h1 (this one)")
    assert rows(heard((3, "c", OFF)), c=State.SHUT_OFF)["c"] == ("shut off", "h1 (this one)")


def test_what_the_list_cannot_tell_is_told() -> None:
    told = "\n".join(pool_list.doubts(heard(is_quorate=False)))
    assert "h3 is not in the group" in told and "h4 was never in the group" in told and "not quorate" in told


def test_states_that_are_not_known_are_shown_as_numbers() -> None:
    assert rows(heard((2, "b", 99)))["b"] == ("state 99", "host 2")


def test_without_a_pool_nothing_is_said_of_hosts() -> None:
    guest = GuestFacts("a", UUIDS["a"], State.RUNNING)
    [row] = pool_list.rows([Inventory("test:///", "", "", (guest,))], None)
    assert (row.state, row.uri, row.hosts, row.places) == ("running", "test:///", None, "")


def test_why_the_list_is_incomplete() -> None:
    left = pool_list.incomplete(pool_list.not_joined(heard(is_joined=False, trouble="Corosync is gone")))
    assert left.exit_code == 4 and "Corosync is gone" in str(left) and "only the guests of this host" in str(left)
    assert "runs without the pool" in str(pool_list.incomplete(pool_list.not_joined(None)))
    assert pool_list.incomplete(NotPermitted("no")).exit_code == 3


# Asked of a daemon


def served(path: Path, told: object, ask: Callable[[], Any]) -> Any:
    async def run() -> Any:
        socket = control.ControlSocket(str(path), dict, lambda: told)  # type: ignore[arg-type, return-value]
        await socket.open()
        try:
            return await asyncio.get_running_loop().run_in_executor(None, ask)
        finally:
            socket.close()

    return asyncio.run(run())


def test_the_report_travels_whole(tmp_path: Path) -> None:
    path = tmp_path / "control"
    listing = [{"node": 3, "name": "c", "uuid": UUIDS["c"], "state": RUNS, "moved": False}]
    found = served(path, {**TOLD, "listing": listing}, lambda: pool_report.ask(str(path), 5.0))
    assert found == heard((3, "c", RUNS))
    assert served(path, None, lambda: pool_report.ask(str(path), 5.0)) is None


@pytest.mark.parametrize(
    "told",
    [{}, [], 1, {**TOLD, "node": "1"}, {**TOLD, "hosts": [{}]}, {**TOLD, "listing": [1]}, {**TOLD, "listing": None}],
    ids=json.dumps,
)
def test_what_another_version_tells_is_an_error(tmp_path: Path, told: object) -> None:
    path = tmp_path / "control"
    with pytest.raises(VmfenceError, match="another version"):
        served(path, told, lambda: pool_report.ask(str(path), 5.0))


def test_a_daemon_that_does_not_know_the_question(tmp_path: Path) -> None:
    path = tmp_path / "control"

    async def run() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            writer.write(b'{"version": 1, "error": "command is not known"}\n')
            writer.close()

        server = await asyncio.start_unix_server(answer, str(path))
        try:
            await asyncio.get_running_loop().run_in_executor(None, pool_report.ask, str(path), 5.0)
        finally:
            server.close()

    with pytest.raises(VmfenceError, match="another version"):
        asyncio.run(run())
    with pytest.raises(Unreachable):
        pool_report.ask(str(tmp_path / "none"), 5.0)


def test_a_guest_of_a_host_that_is_not_told_is_left_out() -> None:
    assert heard((9, "a", RUNS)).sightings == ()
