"""The history survives restarts, torn lines and its own growth."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import socket
import stat
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from vmfence.errors import NotPermitted, VmfenceError
from vmfence.host import history
from vmfence.host.history import Event, History


def event(number: int, detail: str = "") -> Event:
    return Event(1000.0 + number, "off", f"guest-{number}", "", "10.88.0.11", "multicast", "ok", 12, detail)


def kept(folder: Path) -> list[str]:
    return [found.guest for found in history.read(str(folder))]


def test_events_survive_a_restart_in_order(tmp_path: Path) -> None:
    for number in range(3):
        writer = History(str(tmp_path))
        writer.add(event(number))
        writer.close()
    assert list(history.read(str(tmp_path))) == [event(0), event(1), event(2)]
    assert stat.S_IMODE((tmp_path / history.FILE_NAME).stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["elsewhere", None])
def test_what_was_moved_or_removed_is_begun_anew(tmp_path: Path, name: str | None) -> None:
    writer = History(str(tmp_path))
    writer.add(event(0))
    path = tmp_path / history.FILE_NAME
    path.rename(tmp_path / name) if name else path.unlink()
    writer.add(event(1))
    writer.add(event(2))
    assert kept(tmp_path) == ["guest-1", "guest-2"]
    writer.close()


def test_a_folder_that_is_gone_is_an_error_until_it_is_back(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    writer = History(str(folder))
    folder.rename(tmp_path / "gone")
    with pytest.raises(FileNotFoundError):
        writer.add(event(0))
    folder.mkdir()
    writer.add(event(1))
    writer.close()
    assert kept(folder) == ["guest-1"]


def test_a_record_is_on_the_disk_before_it_counts_as_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(history.os, "fdatasync", lambda file: synced.append(os.fstat(file).st_size))
    writer = History(str(tmp_path))
    for number in range(2):
        writer.add(event(number))
        assert synced[number:] == [(tmp_path / history.FILE_NAME).stat().st_size]
    writer.close()


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_torn_last_line_costs_itself_alone(tmp_path: Path, cut: int) -> None:
    writer = History(str(tmp_path))
    writer.add(event(0))
    writer.add(event(1))
    writer.close()
    path = tmp_path / history.FILE_NAME
    os.truncate(path, path.stat().st_size - cut)
    writer = History(str(tmp_path))
    writer.add(event(2))
    writer.close()
    expected = ["guest-0", "guest-1", "guest-2"] if cut == 1 else ["guest-0", "guest-2"]
    assert kept(tmp_path) == expected


def test_foreign_lines_are_passed_over(tmp_path: Path) -> None:
    writer = History(str(tmp_path))
    writer.add(event(0))
    with open(tmp_path / history.FILE_NAME, "ab") as file:
        file.write(b'\n\xff\xfe\n[]\n{"at": 1}\nnull\n' + b"[" * 100_000 + b"\n")
        for at in ('"x"', "1e300", "NaN", "null"):
            file.write(re.sub(rb'"at": [^,]*', b'"at": ' + at.encode(), json.dumps(asdict(event(9))).encode()) + b"\n")
    writer.add(event(1))
    writer.close()
    assert kept(tmp_path) == ["guest-0", "guest-1"]


def test_it_is_bounded_and_keeps_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "FILE_BYTES_MAX", 2000)
    writer = History(str(tmp_path))
    for number in range(100):
        writer.add(event(number))
    writer.close()
    found = kept(tmp_path)
    assert found[-1] == "guest-99"
    assert found == [f"guest-{number}" for number in range(100 - len(found), 100)]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 3 * 2000


def test_a_detail_of_any_length_and_content_stays_one_record(tmp_path: Path) -> None:
    writer = History(str(tmp_path))
    writer.add(event(0, "line\nbreak \udcff é " + "x" * 100_000))
    writer.add(event(1))
    writer.close()
    first, second = history.read(str(tmp_path))
    assert first.detail.startswith("line\nbreak \udcff é xxx")
    assert second == event(1)


def test_nothing_yet_is_nothing(tmp_path: Path) -> None:
    assert list(history.read(str(tmp_path))) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(VmfenceError, match="cannot write"):
        History(str(tmp_path / "missing"))


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(NotPermitted) as caught:
        list(history.read(str(tmp_path)))
    assert caught.value.exit_code == 3


def test_follow_shows_what_comes_over_a_change_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "FILE_BYTES_MAX", 300)
    monkeypatch.setattr(history, "_FOLLOW_S", 0.001)
    writer = History(str(tmp_path))
    writer.add(event(0))
    coming = iter(((1,), (2, 3), (4, 5)))  # a file holds two
    shown: list[str] = []

    def is_over() -> bool:
        for number in next(coming, ()):
            writer.add(event(number))
        return len(shown) == 6

    for found in history.follow(str(tmp_path), is_over):
        shown.append(found.guest)
    writer.close()
    assert shown == [f"guest-{number}" for number in range(6)]


def followed(folder: Path, steps: Iterator[object]) -> list[Event]:
    """Return what follow() shows, which looks once after each of *steps*."""
    over = object()
    return list(history.follow(str(folder), lambda: next(steps, over) is over))


def test_follow_shows_nothing_twice_that_looks_between_two_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it finds them when the writer has renamed the old one and not made the new one yet, or could not."""
    monkeypatch.setattr(history, "_FOLLOW_S", 0.0)

    def steps() -> Iterator[None]:
        writer = History(str(tmp_path))
        writer.add(event(0))
        yield
        os.replace(tmp_path / history.FILE_NAME, tmp_path / f"{history.FILE_NAME}.1")
        yield
        yield
        writer.close()
        writer = History(str(tmp_path))
        writer.add(event(1))
        yield
        writer.add(event(2))
        yield
        writer.close()

    assert followed(tmp_path, steps()) == [event(0), event(1), event(2)]


def test_follow_takes_no_half_of_a_record_that_the_disk_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "_FOLLOW_S", 0.0)
    path = tmp_path / history.FILE_NAME

    def steps() -> Iterator[None]:
        writer = History(str(tmp_path))
        writer.add(event(0))
        size = path.stat().st_size
        with open(path, "ab") as file:
            file.write(json.dumps(asdict(event(7))).encode()[:40])
        yield
        yield
        os.truncate(path, size)
        writer.add(event(1))
        yield
        writer.close()

    assert followed(tmp_path, steps()) == [event(0), event(1)]


def test_follow_goes_on_with_a_file_that_was_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "_FOLLOW_S", 0.0)

    def steps() -> Iterator[None]:
        writer = History(str(tmp_path))
        writer.add(event(0))
        yield
        os.truncate(tmp_path / history.FILE_NAME, 0)
        yield
        writer.add(event(1))
        yield
        writer.close()

    assert followed(tmp_path, steps()) == [event(0), event(1)]


def test_a_last_record_without_its_end_is_shown_by_read(tmp_path: Path) -> None:
    writer = History(str(tmp_path))
    writer.add(event(0))
    writer.close()
    os.truncate(tmp_path / history.FILE_NAME, (tmp_path / history.FILE_NAME).stat().st_size - 1)
    assert kept(tmp_path) == ["guest-0"]


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    writer = History(str(tmp_path))
    writer.add(event(0))
    writer.close()
    before = os.listdir("/proc/self/fd")
    kept(tmp_path)
    next(history.follow(str(tmp_path)))
    assert os.listdir("/proc/self/fd") == before


def test_a_file_that_cannot_be_begun_costs_one_record_and_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the old one closed too early, what comes next goes to whoever has its number: here a socket."""

    def refuse() -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(history, "FILE_BYTES_MAX", 10)
    writer = History(str(tmp_path))
    writer.add(event(0))
    with monkeypatch.context() as patch:
        patch.setattr(writer, "_open", refuse)
        for number in (1, 2):
            with pytest.raises(OSError, match="Too many open files"):
                writer.add(event(number))
    one, other = socket.socketpair()
    with one, other:
        writer.add(event(3))
        for end in (one, other):
            with pytest.raises(BlockingIOError):
                end.recv(1, socket.MSG_DONTWAIT)
    writer.close()
    assert kept(tmp_path) == ["guest-0", "guest-3"]


def test_a_disk_that_takes_half_a_record_costs_that_record_alone(tmp_path: Path) -> None:
    """A limit on the file's size gives the same short write as a disk that is nearly full."""
    writer = History(str(tmp_path))
    writer.add(event(0))
    size = (tmp_path / history.FILE_NAME).stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, limits[1]))
    try:
        with pytest.raises(OSError, match="No space left"):
            writer.add(event(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / history.FILE_NAME).stat().st_size == size
    writer.add(event(2))
    writer.close()
    assert kept(tmp_path) == ["guest-0", "guest-2"]
