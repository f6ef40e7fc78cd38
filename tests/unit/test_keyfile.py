"""Key files: what is read, and what is refused."""

from __future__ import annotations

import errno
import os
import re
import shlex
from pathlib import Path

import pytest

from vmfence import keyfile
from vmfence.errors import KeyExposed, KeyFileError

KEY = bytes(range(32))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "fence.key"
    file.write_bytes(KEY)
    file.chmod(0o600)
    return file


def refused(path: object) -> KeyFileError:
    with pytest.raises(KeyFileError) as caught:
        keyfile.read(str(path))
    error = caught.value
    assert error.what and error.why and error.remedy
    return error


def test_reads_the_whole_key_untrimmed(path: Path) -> None:
    path.write_bytes(KEY + b"\n")
    assert keyfile.read(str(path)) == KEY + b"\n"


@pytest.mark.parametrize("size", [16, 17, 4095, 4096, 4097, 100_000])
def test_at_most_4096_bytes_count(path: Path, size: int) -> None:
    path.write_bytes(b"k" * size)
    assert keyfile.read(str(path)) == b"k" * min(size, 4096)


@pytest.mark.parametrize("size", [1, 15])
def test_a_short_key_is_refused_and_not_shown(path: Path, size: int) -> None:
    path.write_bytes(b"s3cretKey" * 2)
    os.truncate(path, size)
    error = refused(path)
    assert f"{size} bytes" in str(error)
    assert "s3c" not in str(error)


def test_an_empty_key_is_refused(path: Path) -> None:
    path.write_bytes(b"")
    assert "empty" in str(refused(path))


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601, 0o777, 0o644])
def test_a_key_open_to_everybody_is_refused(path: Path, mode: int) -> None:
    path.chmod(mode)
    error = refused(path)
    assert f"{mode:04o}" in error.why
    assert error.remedy == f"chmod 0600 {path}"
    assert isinstance(error, KeyExposed) and error.closing == ("chmod", "0600", str(path))


@pytest.mark.parametrize("name", ["key", "my key", "it's", "$(reboot)", "schlüssel", "a;b"])
def test_a_remedy_is_one_word_for_the_path_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(KEY)
    path.chmod(0o644)
    assert shlex.split(refused(path).remedy) == ["chmod", "0600", str(path)]


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o660])
def test_owner_and_group_may_use_it(path: Path, mode: int) -> None:
    path.chmod(mode)
    assert keyfile.read(str(path)) == KEY


def test_a_link_to_a_key_is_fine(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(path)
    assert keyfile.read(str(link)) == KEY


def test_a_missing_key_names_the_two_ways_to_get_one(tmp_path: Path) -> None:
    error = refused(tmp_path / "none")
    assert "No such file" in error.why
    assert re.search("copy it from the host.*vmfence host keygen", error.remedy)


def test_a_directory_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    assert "not a regular file" in refused(tmp_path).why


def test_a_fifo_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    assert "not a regular file" in refused(tmp_path / "fifo").why


@pytest.mark.parametrize("path", ["/dev/null", "/dev/zero"])
def test_a_device_is_refused(path: str) -> None:
    assert "not a regular file" in refused(path).why


def test_a_zero_byte_in_the_name_is_an_error_of_ours() -> None:
    refused("a\0b")


def test_a_full_disk_leaves_nothing_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KeyFileError, match="cannot make the key"):
        keyfile.create(str(path.with_name("new.key")))
    assert os.listdir(path.parent) == [path.name]


def test_every_key_that_is_replaced_is_kept_however_quickly(path: Path) -> None:
    made = [KEY, *(keyfile.create(str(path), replace=True) for _ in range(4))]
    assert keyfile.read(str(path)) == made[-1]
    kept = {other.read_bytes() for other in path.parent.iterdir() if other != path}
    assert kept == set(made[:-1])


def test_a_key_that_is_there_is_kept_with_the_advice_to_force(path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"there is a key at .* already.*--force"):
        keyfile.create(str(path))
    assert os.listdir(path.parent) == [path.name]
    assert path.read_bytes() == KEY


@pytest.mark.parametrize("replace", [False, True])
def test_nothing_but_a_file_is_ever_replaced(path: Path, tmp_path: Path, replace: bool) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeyFileError, match="is no regular file"):
        keyfile.create(str(path), replace=replace)
    assert path.is_symlink() and not (tmp_path / "elsewhere").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root gives a file to a group that it is not in")
def test_a_group_that_may_read_it_is_told(path: Path) -> None:
    path.write_bytes(os.urandom(64))
    path.chmod(0o640)
    os.chown(path, -1, 0)
    assert not keyfile.judge(str(path))
    os.chown(path, -1, 65534)
    assert [str(found) for found in keyfile.judge(str(path))] == [
        f"the key's group may read it. gid 65534, mode 0640. see who is in it: getent group 65534; "
        f"if they must not fence: chmod 0600 {path}."
    ]


def test_no_descriptor_is_left_open(path: Path, tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    keyfile.read(str(path))
    refused(tmp_path)
    assert os.listdir("/proc/self/fd") == before
