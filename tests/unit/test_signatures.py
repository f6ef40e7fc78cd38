"""The memory of accepted signatures: on a real disk, reopened, damaged, full."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmfence.errors import VmfenceError
from vmfence.host import signatures
from vmfence.host.signatures import FILE_NAME, REST_KEPT_COUNT, REST_KEPT_S, SignatureMemory
from vmfence.protocol.auth import Key

KEY, OTHER = Key(b"k" * 32).fingerprint(), Key(b"o" * 32).fingerprint()
NOW = 1_700_000_000.0
DAY = 86400


def signature(number: int) -> bytes:
    return number.to_bytes(16, "big") + bytes(48)


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[SignatureMemory]:
    memory = SignatureMemory(str(folder))
    try:
        yield memory
    finally:
        memory.close()


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[SignatureMemory]:
    with opened(tmp_path) as made:
        yield made


def accept(memory: SignatureMemory, number: int, *, power: bool = False, at: float = NOW, key: str = KEY) -> bool:
    return memory.accept(signature(number), key, power, at)


@pytest.mark.parametrize("power", [False, True])
def test_accepted_once(memory: SignatureMemory, power: bool) -> None:
    assert [accept(memory, 1, power=power), accept(memory, 1, power=power)] == [True, False]
    assert accept(memory, 2, power=power)


@pytest.mark.parametrize("again", [{"power": True}, {"at": NOW + DAY}, {"key": OTHER}])
def test_nothing_else_makes_a_signature_new(memory: SignatureMemory, again: dict[str, object]) -> None:
    accept(memory, 1)
    assert not accept(memory, 1, **again)  # type: ignore[arg-type]


@pytest.mark.parametrize("power", [False, True])
def test_it_survives_a_restart(tmp_path: Path, power: bool) -> None:
    with opened(tmp_path) as first:
        accept(first, 1, power=power)
    with opened(tmp_path) as second:
        assert not accept(second, 1, power=power)


def test_a_power_action_is_on_the_disk_when_accept_returns(tmp_path: Path, memory: SignatureMemory) -> None:
    """As after a crash: nobody has closed the file."""
    accept(memory, 1, power=True)
    with opened(tmp_path) as second:
        assert not accept(second, 1, power=True)


def test_for_a_power_action_sqlite_waits_for_the_disk(memory: SignatureMemory) -> None:
    seen: list[str] = []
    memory._database.set_trace_callback(seen.append)
    accept(memory, 1, power=True)
    modes = [statement.split("=")[1].strip() for statement in seen if "synchronous" in statement]
    insert = next(n for n, statement in enumerate(seen) if statement.startswith("INSERT"))
    assert modes == ["FULL", "NORMAL"] and seen[insert - 1].endswith("FULL")
    seen.clear()
    accept(memory, 2)
    assert not any("synchronous" in statement for statement in seen)


def test_two_processes_never_accept_the_same(tmp_path: Path, memory: SignatureMemory) -> None:
    with opened(tmp_path) as second:
        accepted = [accept(which, number) for number in range(20) for which in (memory, second)]
    assert accepted == [True, False] * 20


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "state"
    with opened(folder):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}


# Forgetting


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signatures, "REST_KEPT_S", 100)
    monkeypatch.setattr(signatures, "REST_KEPT_COUNT", 5)


def kept(memory: SignatureMemory) -> set[int]:
    return {int.from_bytes(digest, "big") for (digest,) in memory._database.execute("SELECT digest FROM accepted")}


def test_the_promised_limits() -> None:
    assert (REST_KEPT_S, REST_KEPT_COUNT) == (30 * DAY, 1_000_000)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("oldest_age_s", "count", "left"),
    [
        (1000, 5, 5),  # old but few
        (1000, 6, 5),
        (1000, 20, 5),  # old and many
        (100, 20, 20),  # many but young
        (101, 20, 19),
        (110, 20, 10),
    ],
)
def test_of_the_rest_the_old_beyond_a_number_go(
    memory: SignatureMemory, oldest_age_s: int, count: int, left: int
) -> None:
    for number in range(count):
        accept(memory, number, at=NOW - number)
    memory.expire({KEY}, NOW - (count - 1) + oldest_age_s)
    assert kept(memory) == set(range(left))


@pytest.mark.usefixtures("few")
def test_of_one_second_so_many_go_that_the_number_stays(memory: SignatureMemory) -> None:
    for number in range(20):
        accept(memory, number, at=NOW)
    memory.expire({KEY}, NOW + 10_000)
    assert len(kept(memory)) == 5


@pytest.mark.usefixtures("few")
def test_forgetting_in_batches_forgets_all(memory: SignatureMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signatures, "_BATCH", 3)
    for number in range(20):
        accept(memory, number, at=NOW - number)
    memory.expire({KEY}, NOW + 10_000)
    assert kept(memory) == set(range(5))


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("keys", "age_s", "left"),
    [
        ({KEY, OTHER}, 1e6, {1, 2}),
        ({KEY}, 1e6, {1}),
        ({KEY}, 100, {1, 2}),
        (set(), 101, set()),
    ],
)
def test_power_actions_stay_as_long_as_their_key(
    memory: SignatureMemory, keys: set[str], age_s: float, left: set[int]
) -> None:
    accept(memory, 1, power=True)
    accept(memory, 2, power=True, key=OTHER)
    memory.expire(keys, NOW + age_s)
    assert kept(memory) == left


@pytest.mark.usefixtures("few")
def test_power_actions_do_not_count_as_the_rest(memory: SignatureMemory) -> None:
    for number in range(50):
        accept(memory, number, power=True, at=NOW - number)
    memory.expire({KEY}, NOW + 1e6)
    assert len(kept(memory)) == 50


# Faults


@pytest.mark.parametrize(
    "content", [b"this is no database, but long enough to be looked at" * 40, b"SQLite format 3\0"]
)
def test_a_damaged_file_is_put_aside(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    with opened(tmp_path) as memory:
        assert [accept(memory, 1), accept(memory, 1)] == [True, False]
    (aside,) = tmp_path.glob(f"{FILE_NAME}.damaged-*")
    assert aside.read_bytes() == content
    assert "damaged" in caplog.text and str(aside) in caplog.text


def test_the_journal_goes_with_the_damaged_file(tmp_path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        (tmp_path / f"{FILE_NAME}{suffix}").write_bytes(b"rubbish" * 1000)
    with opened(tmp_path) as memory:
        assert accept(memory, 1)
    assert len(list(tmp_path.glob("*.damaged-*"))) >= 1


def test_an_empty_file_is_a_new_one(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).touch()
    with opened(tmp_path) as memory:
        assert accept(memory, 1)
    assert not list(tmp_path.glob("*.damaged-*"))


@pytest.mark.parametrize("folder", ["/proc/self", "/proc/none/state", "/dev/null", "/dev/null/state"])
def test_a_folder_that_cannot_be_written(folder: str) -> None:
    """Refused even to root; the daemon then does not start."""
    with pytest.raises(VmfenceError, match="cannot keep accepted signatures") as caught:
        SignatureMemory(folder)
    assert caught.value.why and "state_dir" in caught.value.remedy


@contextlib.contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Let no file of this process grow beyond what the journal in *folder* has: real errors of real writes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(folder / f"{FILE_NAME}-wal"), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_does_not_stop_fencing_nor_let_recordings_in(
    tmp_path: Path, memory: SignatureMemory, caplog: pytest.LogCaptureFixture
) -> None:
    accept(memory, 1, power=True)
    with full_disk(tmp_path):
        assert [accept(memory, n, power=True) for n in (1, 2, 3, 2, 3)] == [False, True, True, False, False]
        assert [record.levelno for record in caplog.records] == [logging.ERROR]
        assert "disk" in memory.trouble
        memory.expire({KEY}, NOW)
    assert [accept(memory, n, power=True) for n in (1, 2, 4, 4)] == [False, False, True, False]
    assert caplog.records[-1].getMessage() == "accepted signatures are kept on disk again"
    assert memory.trouble == ""


def test_while_another_process_holds_the_file(tmp_path: Path, memory: SignatureMemory) -> None:
    """What is on the disk can still be read, the rest is remembered meanwhile."""
    memory._database.execute("PRAGMA busy_timeout = 1")
    accept(memory, 1)
    with contextlib.closing(sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert [accept(memory, n, power=True) for n in (1, 2, 2)] == [False, True, False]
    assert [accept(memory, n, power=True) for n in (1, 2, 3)] == [False, False, True]


def test_what_is_kept_without_a_disk_is_bounded(
    tmp_path: Path, memory: SignatureMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signatures, "_VOLATILE_MAX", 10)
    accept(memory, 0)
    with full_disk(tmp_path):
        for number in range(1, 100):
            assert accept(memory, number)
        assert len(memory._volatile) == 10
        assert [accept(memory, number) for number in range(90, 100)] == [False] * 10


def test_a_file_of_an_older_kind_is_no_reason_to_crash(tmp_path: Path) -> None:
    """Another table of the same name: every signature then fails on the disk and is kept in memory."""
    with contextlib.closing(sqlite3.connect(tmp_path / FILE_NAME)) as database:
        database.execute("CREATE TABLE accepted (digest BLOB PRIMARY KEY, at INTEGER, is_power INTEGER)")
    with opened(tmp_path) as memory:
        assert [accept(memory, 1), accept(memory, 1)] == [True, False]
        memory.expire({KEY}, NOW)
