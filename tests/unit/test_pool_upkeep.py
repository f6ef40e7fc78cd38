"""What a host of a pool keeps up: the list of nodes, its guests, the record on the disk, which fencing is old."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

import pytest

from unit.fake_corosync import WAIT_S, until
from unit.fakes import ALPHA, BETA, FakeBackend
from vmfence.errors import Unreachable
from vmfence.host.backends.base import HypervisorStatus
from vmfence.host.pool import record, tasks, upkeep
from vmfence.host.pool.directory import Directory
from vmfence.host.pool.hands import Hands
from vmfence.host.pool.messages import Entry, Listing
from vmfence.host.pool.tasks import Tasks
from vmfence.host.pool.upkeep import NodeList, Upkeep
from vmfence.host.service import Rules, Service
from vmfence.policy import Policy

THREE = {1: "h1", 2: "h2", 3: "h3"}
TWO = {1: "h1", 2: "h2"}


# The list of nodes


def test_a_host_is_forgotten_when_it_was_missing_from_the_list_twice() -> None:
    nodes = NodeList()
    assert nodes.take(THREE, {2: "", 4: ""}) == {**THREE, 4: ""}  # 4 is remembered from before
    assert not nodes.is_settled
    assert nodes.take(THREE, {**THREE, 4: ""}) == THREE
    assert nodes.is_settled
    assert nodes.take(TWO, THREE) == THREE
    assert nodes.take(TWO, THREE) == TWO


def test_a_reading_that_failed_or_differs_begins_anew() -> None:
    nodes = NodeList()
    for read in (THREE, THREE):
        nodes.take(read, THREE)
    assert nodes.take(TWO, THREE) == THREE
    assert nodes.take(None, THREE) is None
    assert nodes.take(TWO, THREE) == THREE
    assert nodes.take(THREE, THREE) == THREE
    assert nodes.take(TWO, THREE) == THREE
    assert nodes.take(TWO, THREE) == TWO


def test_what_is_new_counts_at_once() -> None:
    nodes = NodeList()
    for read in (TWO, TWO):
        nodes.take(read, TWO)
    assert nodes.take(THREE, TWO) == THREE
    assert nodes.take({**THREE, 2: "renamed"}, THREE) == {**THREE, 2: "renamed"}


# All of it, in an event loop


class Told:
    """Who is told; keeps it."""

    def __init__(self) -> None:
        self.guests: list[list[Entry]] = []
        self.fences: list[dict[int, float]] = []
        self.sights: list[bool] = []
        self.failure: Exception | None = None

    def guests_read(self, guests: Iterable[Entry]) -> None:
        failure, self.failure = self.failure, None
        if failure:
            raise failure
        self.guests.append(list(guests))

    def sight_changed(self, is_blind: bool) -> None:
        self.sights.append(is_blind)

    def fences_noted(self, newest: Mapping[int, float]) -> None:
        self.fences.append(dict(newest))


class Fencer(Hands):
    """Pacemaker's history, as it is read: each time the next of *histories*."""

    def __init__(self) -> None:
        self.histories: list[dict[str, float] | None] = []
        self.asked = 0

    async def newest_fencings(self) -> dict[str, float] | None:
        await asyncio.sleep(0)
        self.asked += 1
        return self.histories.pop(0) if self.histories else None


class Silent(FakeBackend):
    """A backend one of whose hypervisors does not answer."""

    def describe(self) -> tuple[HypervisorStatus, ...]:
        return (HypervisorStatus("test:///a", False, "gone", 0, 0, 0.0),)


class House:
    """One host, all it needs, and what it keeps up."""

    def __init__(self, folder: Path, backend: FakeBackend | None = None) -> None:
        self.folder, self.backend = folder, backend or FakeBackend(ALPHA)
        self.directory = Directory()
        self.directory.me = 1
        self.told, self.fencer = Told(), Fencer()
        self.read: list[dict[int, str] | None] = []
        self.upkeep = Upkeep(
            Service(self.backend, Rules(Policy(None))),
            str(folder),
            self.directory,
            self.fencer,
            self.told,
            self.read_nodes,
        )
        self.directory.set_configured(THREE)
        self.directory.set_members(frozenset({1, 2, 3}), 1.0, 1.0)

    async def read_nodes(self) -> dict[int, str] | None:
        return self.read.pop(0) if self.read else None

    def listed(self, node: int, *guests: Entry) -> None:
        self.directory.greeted(node)
        self.directory.listed(node, Listing(guests, (), True, True), 2.0)

    def written(self) -> Any:
        path = self.folder / record.FILE_NAME
        return json.loads(path.read_text())["hosts"] if path.exists() else None


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_PAUSE_S", "_SAVE_EVERY_S", "_NODES_AGAIN_S", "_FENCES_AGAIN_S"):
        monkeypatch.setattr(upkeep, name, 0.001)
    monkeypatch.setattr(tasks, "AGAIN_S", 0.001)


def run(house: Callable[[], House], work: Callable[[House], Awaitable[None]]) -> None:
    async def main() -> None:
        made = house()
        made.upkeep.open()
        try:
            await asyncio.wait_for(work(made), WAIT_S)
        finally:
            made.upkeep.close()

    asyncio.run(main())


def test_guests_are_read_at_once_and_when_wanted(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        await until(lambda: house.told.guests)
        assert house.told.guests == [[Entry("alpha", ALPHA.uuid, 1)]]
        house.upkeep.read_guests()
        await until(lambda: len(house.told.guests) == 2)
        house.upkeep.follow(house.backend)  # as after a reload
        await until(lambda: len(house.told.guests) == 3)

    run(lambda: House(tmp_path), work)


def test_guests_that_cannot_be_read_are_told_of_and_read_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "_AGAIN_S", 0.001)

    def house() -> House:
        made = House(tmp_path)
        made.backend.script("guests", Unreachable("libvirt hangs"))
        return made

    async def work(house: House) -> None:
        await until(lambda: house.upkeep.trouble)
        assert "libvirt hangs" in house.upkeep.trouble
        assert house.told.sights[0] is True
        await until(lambda: house.told.guests)
        assert house.upkeep.trouble == ""
        await until(lambda: house.told.sights[-1] is False)

    run(house, work)


def test_a_defect_does_not_end_the_reading_for_good(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def house() -> House:
        made = House(tmp_path)
        made.told.failure = RuntimeError("a defect")
        return made

    async def work(house: House) -> None:
        await until(lambda: "is begun anew" in caplog.text)
        assert "a defect" in caplog.text
        house.upkeep.read_guests()
        await until(lambda: house.told.guests)

    run(house, work)


def test_what_a_silent_hypervisor_has_is_not_gone(tmp_path: Path) -> None:
    beta = Entry("Beta", BETA.uuid, 1)

    def house() -> House:
        made = House(tmp_path, Silent(ALPHA))
        made.listed(1, beta)
        return made

    async def work(house: House) -> None:
        await until(lambda: house.told.guests)
        assert {entry.uuid for entry in house.told.guests[0]} == {ALPHA.uuid, BETA.uuid}
        await until(lambda: house.told.sights)
        assert house.told.sights[0] is True

    run(house, work)


def test_the_record_is_written_when_something_changed(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        assert house.written() is None
        house.listed(2, Entry("alpha", ALPHA.uuid, 1))
        await until(lambda: (house.written() or {}).get("2", {}).get("guests"))

    run(lambda: House(tmp_path), work)


def test_the_record_is_written_at_once_when_that_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "_SAVE_EVERY_S", 1e6)

    async def work(house: House) -> None:
        house.listed(2)
        house.upkeep.save()
        await until(lambda: "2" in (house.written() or {}))

    run(lambda: House(tmp_path), work)


def test_the_last_of_it_is_written_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "_SAVE_EVERY_S", 1e6)
    found = []

    async def work(house: House) -> None:
        house.listed(2)
        found.append(house)

    run(lambda: House(tmp_path), work)
    assert found[0].written()["2"]["left_at"] is None


def test_what_could_not_be_written_is_told_and_tried_again(tmp_path: Path) -> None:
    """Nothing changes meanwhile."""
    obstacle = tmp_path / f"{record.FILE_NAME}.new"
    obstacle.mkdir()

    async def work(house: House) -> None:
        house.listed(2)
        await until(lambda: house.upkeep.trouble)
        assert "is not remembered across a restart" in house.upkeep.trouble
        obstacle.rmdir()
        await until(lambda: "2" in (house.written() or {}))
        await until(lambda: not house.upkeep.trouble)

    run(lambda: House(tmp_path), work)


def test_a_record_that_cannot_be_written_does_not_keep_it_from_ending(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "_SAVE_EVERY_S", 1e6)
    (tmp_path / f"{record.FILE_NAME}.new").mkdir()

    async def work(house: House) -> None:
        house.listed(2)

    run(lambda: House(tmp_path), work)
    assert "is not remembered" in caplog.text


def test_a_host_that_is_away_is_kept_until_the_list_is_certain(tmp_path: Path) -> None:
    """With its guests: they may run on there."""

    def house() -> House:
        made = House(tmp_path)
        made.listed(3, Entry("alpha", ALPHA.uuid, 1))
        made.directory.set_members(frozenset({1, 2}), 3.0, 3.0)
        made.read = [None, TWO, THREE, TWO, None]
        return made

    async def work(house: House) -> None:
        house.upkeep.take_nodes(TWO)
        await until(lambda: not house.read)
        assert house.directory.configured == THREE
        assert [away.node for away in house.directory.away("alpha")] == [3]
        house.read = [TWO, TWO]
        await until(lambda: not house.read)
        await until(lambda: house.directory.configured == TWO)
        assert house.directory.away("alpha") == ()

    run(house, work)


def test_when_a_host_was_fenced_last_is_noted_as_soon_as_pacemaker_tells(tmp_path: Path) -> None:
    def house() -> House:
        made = House(tmp_path)
        made.fencer.histories = [None, None, {"h2": 5.0, "h9": 6.0}]
        return made

    async def work(house: House) -> None:
        house.upkeep.note_fences((2, 3))
        await until(lambda: house.told.fences)
        assert house.told.fences == [{2: 5.0, 3: 0.0}]
        assert house.fencer.asked == 3

    run(house, work)


def test_what_was_read_before_a_host_came_again_says_nothing_of_its_new_life(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        class Meanwhile(dict[str, float]):
            """An answer that comes when host 2 has just been fenced and come back."""

            def __init__(self) -> None:
                super().__init__(h2=5.0)
                house.upkeep.note_fences((2,))

        house.fencer.newest_fencings = answer  # type: ignore[method-assign]
        answers.append(Meanwhile)
        answers.append(lambda: {"h2": 9.0})
        house.upkeep.note_fences((2, 3))
        await until(lambda: len(house.told.fences) == 2)
        assert house.told.fences == [{3: 0.0}, {2: 9.0}]

    answers: list[Callable[[], dict[str, float]]] = []

    async def answer() -> dict[str, float]:
        return answers.pop(0)()

    run(lambda: House(tmp_path), work)


def test_what_is_kept_up_is_begun_anew_and_what_runs_once_is_not(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        found, made = list[str](), Tasks()

        async def fail(name: str) -> None:
            found.append(name)
            raise RuntimeError(name)

        made.run(fail("once"))
        made.keep(lambda: fail("kept"))
        await until(lambda: found.count("kept") == 3)
        assert found.count("once") == 1
        made.close()

    asyncio.run(asyncio.wait_for(work(), WAIT_S))
    assert caplog.text.count("a part of the pool failed\n") == 1


def test_of_a_guest_all_is_told_that_matters_elsewhere() -> None:
    found = upkeep.entry_of(replace(BETA, moved=True))
    assert (found.name, found.uuid, found.is_off, found.is_active) == ("Beta", BETA.uuid, False, False)
