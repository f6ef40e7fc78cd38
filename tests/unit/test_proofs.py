"""The record of rehearsals survives everything but a broken file, and that one is left as it is and told."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from vmfence.cluster import proofs
from vmfence.cluster.proofs import Proof
from vmfence.errors import NotPermitted, VmfenceError

PROVEN = Proof(
    node="n2",
    at="2026-11-23T11:56:10Z",
    is_proven=True,
    method="off",
    guest="lab-n2",
    device="fence",
    agent="fence_vmfence",
    delegate="n1",
    down_s=0.67,
    fence_s=2.97,
    back_s=7.2,
)
FAILED = replace(PROVEN, is_proven=False, reason="not seen", at="2026-11-24T00:00:00Z", back_s=None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "proofs.json"


def add(path: Path, *added: Proof) -> None:
    for proof in added:
        with proofs.keep(str(path)) as record:
            record.add(proof)


def test_without_a_file_nothing_is_proven(path: Path) -> None:
    assert proofs.load(str(path)) == {}


def test_the_last_rehearsal_of_each_node_counts(path: Path) -> None:
    other = replace(PROVEN, node="n3")
    add(path, PROVEN, other, FAILED)
    assert proofs.load(str(path)) == {"n2": FAILED, "n3": other}
    assert proofs.read(str(path)) == (PROVEN, other, FAILED)


def test_it_is_for_its_owner_alone_and_leaves_nothing_beside_it(path: Path) -> None:
    add(path, PROVEN)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert os.listdir(path.parent) == [path.name]


def test_it_is_bounded_and_keeps_the_newest(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proofs, "KEPT_MAX", 3)
    add(path, *(replace(PROVEN, node=f"n{number}", reason="x" * 10_000) for number in range(5)))
    assert list(proofs.load(str(path))) == ["n2", "n3", "n4"]
    assert path.stat().st_size < 3 * 2 * proofs.TEXT_MAX


def test_any_text_is_kept(path: Path) -> None:
    odd = replace(FAILED, node='n"2\n', reason="\udcff é \x1b[31m")
    add(path, odd)
    assert proofs.read(str(path)) == (odd,)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "nothing",
        "[]",
        "null",
        "[" * 100_000,
        '{"version": 1}',
        '{"version": 2, "proofs": []}',
        '{"version": 1, "proofs": 7}',
        '{"version": 1, "proofs": [{}]}',
        json.dumps({"version": 1, "proofs": [{**PROVEN.__dict__, "node": 7}]}),
        json.dumps({"version": 1, "proofs": [{**PROVEN.__dict__, "is_proven": "yes"}]}),
        json.dumps({"version": 1, "proofs": [{**PROVEN.__dict__, "back_s": float("nan")}]}),
        json.dumps({"version": 1, "proofs": [{**PROVEN.__dict__, "down_s": 10**400}]}),
        json.dumps({"version": 1, "proofs": [PROVEN.__dict__]})[:-9],
        b"\xff\xfe",
    ],
)
def test_a_broken_record_is_told_and_left_as_it_is(path: Path, content: str | bytes) -> None:
    raw = content if isinstance(content, bytes) else content.encode()
    path.parent.mkdir()
    path.write_bytes(raw)
    with pytest.raises(VmfenceError, match=r"proofs\.json is no record of rehearsals") as caught:
        proofs.load(str(path))
    assert "mv " in caught.value.remedy
    with pytest.raises(VmfenceError, match="no record"), proofs.keep(str(path)):
        pytest.fail("nothing may be fenced")
    assert path.read_bytes() == raw


def test_a_huge_file_is_no_record(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    os.truncate(path, 1 << 40)
    with pytest.raises(VmfenceError, match="no record"):
        proofs.read(str(path))


def test_what_cannot_be_kept_is_told_before_anything_is_fenced(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "proofs.json", tmp_path / "folder", Path("/proc/self/proofs.json")):
        with pytest.raises(VmfenceError), proofs.keep(str(path)):
            pytest.fail("nothing may be fenced")


def test_a_folder_that_may_not_be_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "makedirs", refuse)
    with pytest.raises(NotPermitted) as caught, proofs.keep(str(path)):
        pytest.fail("nothing may be fenced")
    assert caught.value.exit_code == 3


def test_two_rehearsals_at_a_time_are_one_too_many(path: Path) -> None:
    with proofs.keep(str(path)) as record:
        with pytest.raises(VmfenceError, match="another rehearsal is under way"), proofs.keep(str(path)):
            pytest.fail("nothing may be fenced")
        record.add(PROVEN)
    add(path, FAILED)
    assert len(proofs.read(str(path))) == 2


def test_what_a_killed_run_left_is_no_obstacle(path: Path) -> None:
    path.parent.mkdir()
    (path.parent / f".{path.name}.new").write_text("half of")
    add(path, PROVEN)
    assert proofs.load(str(path)) == {"n2": PROVEN}


def test_a_disk_that_is_full_leaves_the_old_record(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(path, PROVEN)

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    with proofs.keep(str(path)) as record:
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(VmfenceError, match="cannot write .* No space left"):
            record.add(FAILED)
    monkeypatch.undo()
    assert proofs.read(str(path)) == (PROVEN,)
    assert os.listdir(path.parent) == [path.name]


def test_what_is_known_at_the_end_takes_the_place_of_what_was_known_before(path: Path) -> None:
    add(path, FAILED)
    with proofs.keep(str(path)) as record:
        record.add(replace(FAILED, reason="interrupted"))
        assert proofs.load(str(path))["n2"].reason == "interrupted"
        record.replace(PROVEN)
    assert proofs.read(str(path)) == (FAILED, PROVEN)
