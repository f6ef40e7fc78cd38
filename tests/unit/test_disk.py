"""A disk that hangs delays nobody for longer than it may."""

from __future__ import annotations

import asyncio
import threading

import pytest

from vmfence.host import disk as module
from vmfence.host.disk import Disk, DiskSlow


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DISK_S", 0.02)
    monkeypatch.setattr(module, "_CLOSE_S", 0.02)
    monkeypatch.setattr(module, "PENDING_MAX", 3)


def test_work_is_done_in_order_and_its_errors_are_told() -> None:
    async def scenario() -> None:
        disk, done = Disk("file"), list[int]()
        await asyncio.gather(*(disk.run(done.append, number) for number in range(3)))
        assert done == [0, 1, 2]
        with pytest.raises(OSError, match="full"):
            await disk.run(fail)
        disk.close(lambda: done.append(9))
        assert done[-1] == 9
        assert not disk.is_busy()

    def fail() -> None:
        raise OSError("full")

    asyncio.run(scenario())


def test_a_disk_that_hangs_is_not_waited_for_and_is_not_given_more_than_it_holds() -> None:
    release = threading.Event()

    async def scenario() -> None:
        disk = Disk("file")
        for _ in range(3):
            with pytest.raises(DiskSlow, match="slow"):
                await disk.run(release.wait)
        with pytest.raises(DiskSlow, match="hangs"):
            await disk.run(release.wait)
        assert disk.is_busy()
        disk.close(lambda: None)
        release.set()

    asyncio.run(scenario())
