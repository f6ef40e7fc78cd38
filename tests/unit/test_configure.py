"""A configuration under change: values into the tree, the difference, the file replaced whole or not at all."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from vmfence.config.grammar import Assign, Section, dump, parse
from vmfence.errors import ConfigError, NotPermitted, VmfenceError
from vmfence.host import configure
from vmfence.host.configure import section_of, value_of, with_value

TEXT = """# mine
fence_virtd { Listener = "multicast"; backend = "libvirt"; state_dir = "/s"; }
listeners { multicast { port = "1"; port = "2"; } tcp { port = "3"; } }
groups { group = "a" { ip = "10.0.0.1"; ip = "10.0.0.2"; uuid = "x"; } }
listeners { multicast { port = "4"; } }
"""
TREE = parse(TEXT.encode(), "t")
OLD, NEW = b'fence_virtd { listener = "tcp"; }\n', b'fence_virtd { listener = "vsock"; }\n'


def test_values_are_found_as_fence_virtd_finds_them() -> None:
    assert value_of(TREE, "fence_virtd", "listener") == "multicast"
    assert value_of(TREE, "listeners/multicast", "port") == "4"
    assert value_of(TREE, "listeners/tcp", "port") is None
    assert value_of(TREE, "nothing/at/all", "port") is None
    assert section_of(TREE, "listeners/tcp") is None
    assert section_of(TREE, "groups") is not None


@pytest.mark.parametrize(
    ("place", "key"),
    [
        ("fence_virtd", "listener"),
        ("fence_virtd", "new"),
        ("listeners/multicast", "port"),
        ("listeners/vsock", "port"),
        ("a/b", "c"),
    ],
)
def test_a_value_that_was_set_is_the_one_found(place: str, key: str) -> None:
    changed = with_value(TREE, place, key, "v")
    assert value_of(changed, place, key) == "v"
    assert value_of(parse(configure.text_of(changed), "t"), place, key) == "v"


def test_everything_else_stays() -> None:
    changed = with_value(with_value(TREE, "listeners/vsock", "port", "5"), "fence_virtd", "listener", "vsock")
    before, after = dump(TREE).splitlines(), dump(changed).splitlines()
    gone = [line for line in before if line not in after]
    assert gone == ['\tListener = "multicast";']
    assert "groups" in dump(changed)


def test_a_key_given_twice_is_given_once_afterwards() -> None:
    tree = parse(b'a { x = "1"; y = "2"; X = "3"; z = "4"; }', "t")
    assert dump(with_value(tree, "a", "x", "5")).split() == [
        "a",
        "{",
        "y",
        "=",
        '"2";',
        "x",
        "=",
        '"5";',
        "z",
        "=",
        '"4";',
        "}",
    ]
    assert dump(with_value(tree, "a", "x", None)) == 'a {\n\ty = "2";\n\tz = "4";\n}\n'


@pytest.mark.parametrize("place", ["fence_virtd", "listeners/serial", "new/new"])
def test_removing_what_is_not_there_changes_nothing(place: str) -> None:
    assert with_value(TREE, place, "nothing", None) == TREE


def test_bytes_that_are_no_utf8_stay() -> None:
    text = b'a { x = "\xff"; }'
    assert b'x = "\xff";' in configure.text_of(with_value(parse(text, "t"), "a", "y", "1"))


def test_layout_and_comments_make_no_difference() -> None:
    assert configure.is_same(b'a{x="1";}#c\n', b'a {\n\tx = "1";\n}\n', "t")
    assert not configure.is_same(b'a{x="1";}', b'a { x = "2"; }', "t")
    assert not configure.is_same(None, b'a { x = "2"; }', "t")
    assert not configure.is_same(b"a {", b"a { }", "t")


def test_the_difference_is_a_unified_one() -> None:
    found = configure.difference(b"a\nb\n", b"a\nc\n", "/x")
    assert found == "--- /x\n+++ /x (new)\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n"
    assert configure.difference(None, b"a\n", "/x").endswith("+a\n")


def test_the_difference_holds_no_control_characters() -> None:
    found = configure.difference(b"# \x1b[2J\xff\r\n", b"a\n", "/x")
    assert "-# \\x1b[2J\\ufffd\\r\n" in found or "-# \\x1b[2J\ufffd\\r\n" in found
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", found)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "vmfence.conf"
    file.write_bytes(OLD)
    file.chmod(0o644)
    return file


def replaced(path: Path, before: bytes | None = OLD, after: bytes = NEW) -> str | None:
    return configure.replace_file(str(path), before, after)


def names(path: Path) -> set[str]:
    return set(os.listdir(path.parent))


def test_the_old_file_stays_under_a_dated_name(path: Path) -> None:
    copy = replaced(path)
    assert copy is not None
    assert re.fullmatch(r"vmfence\.conf\.[0-9]{8}-[0-9]{6}", Path(copy).name)
    assert (path.read_bytes(), Path(copy).read_bytes()) == (NEW, OLD)
    assert path.stat().st_mode & 0o7777 == 0o600
    assert names(path) == {path.name, Path(copy).name}


def test_two_in_one_second_keep_two(path: Path) -> None:
    copies = {replaced(path), replaced(path, NEW, OLD), replaced(path)}
    assert len(copies) == 3
    assert len(names(path)) == 4


def test_a_new_file_has_no_copy(tmp_path: Path) -> None:
    assert replaced(tmp_path / "new.conf", None) is None
    assert (tmp_path / "new.conf").stat().st_mode & 0o7777 == 0o600


def test_a_link_is_followed(path: Path) -> None:
    link = path.parent / "link.conf"
    link.symlink_to(path)
    assert replaced(link)
    assert link.is_symlink()
    assert path.read_bytes() == NEW


def test_a_change_by_somebody_else_is_not_lost(path: Path) -> None:
    with pytest.raises(VmfenceError, match="changed meanwhile"):
        replaced(path, b"another")
    with pytest.raises(VmfenceError, match="changed meanwhile"):
        replaced(path, None)
    assert path.read_bytes() == OLD
    assert names(path) == {path.name}


FAULTS: list[tuple[str, BaseException, type[BaseException]]] = [
    *[(name, OSError(errno.EIO, "I/O error"), VmfenceError) for name in ("open", "fsync", "link", "replace")],
    *[(name, OSError(errno.ENOSPC, "No space left on device"), VmfenceError) for name in ("open", "fsync", "link")],
    *[(name, PermissionError(errno.EPERM, "Operation not permitted"), NotPermitted) for name in ("link", "replace")],
    ("replace", OSError(errno.EROFS, "Read-only file system"), NotPermitted),
    *[(name, KeyboardInterrupt(), KeyboardInterrupt) for name in ("fsync", "link", "replace")],
]


@pytest.mark.parametrize(
    ("name", "fault", "expected"), FAULTS, ids=lambda value: getattr(value, "__name__", repr(value))
)
def test_every_failing_step_leaves_the_old_file(
    name: str, fault: BaseException, expected: type[BaseException], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise fault

    with monkeypatch.context() as patched:
        patched.setattr(os, name, fail)
        with pytest.raises(expected) as caught:
            replaced(path)
    assert path.read_bytes() == OLD
    assert names(path) == {path.name}
    if isinstance(fault, OSError):
        assert fault.strerror in str(caught.value)


def test_ctrl_c_just_after_the_change_takes_no_copy_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dated copy is all that is left of the old file then."""
    rename = os.replace

    def interrupted(*names: str) -> None:
        rename(*names)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            replaced(path)
    (copy,) = names(path) - {path.name}
    assert (path.read_bytes(), (path.parent / copy).read_bytes()) == (NEW, OLD)


def test_the_folder_is_on_the_disk_after_the_new_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the old file is back after a power failure."""
    rename, sync, done = os.replace, os.fsync, []

    def renamed(*names: str) -> None:
        rename(*names)
        done.append("renamed")

    def synced(descriptor: int) -> None:
        sync(descriptor)
        done.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    monkeypatch.setattr(os, "replace", renamed)
    monkeypatch.setattr(os, "fsync", synced)
    replaced(path)
    at = done.index("renamed")
    assert done[at + 1 :] == [str(path.parent)] and len(done[:at]) >= 1


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: gives a file away")
def test_the_new_file_belongs_to_the_owner_of_the_old_one(path: Path) -> None:
    os.chown(path, 65534, 65533)
    replaced(path)
    assert (path.stat().st_uid, path.stat().st_gid) == (65534, 65533)


def test_no_descriptor_is_left_open(path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    replaced(path)
    configure.read_file(str(path))
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("kind", ["folder", "fifo", "device", "too large", "zero byte"])
def test_what_is_no_configuration_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "too large":
        path.write_bytes(b"#" * ((1 << 20) + 1))
    name = {"folder": str(tmp_path), "device": "/dev/zero", "zero byte": "a\0b"}.get(kind, str(path))
    with pytest.raises(ConfigError):
        configure.read_file(name)


def test_a_missing_folder_is_told_before_anything_is_asked(tmp_path: Path) -> None:
    with pytest.raises(VmfenceError, match="there is no folder .*mkdir -p"):
        configure.check_writable(str(tmp_path / "a" / "b"))


def test_an_empty_tree_has_no_text() -> None:
    assert configure.text_of(()) == b""
    assert dump((Section("a", None, (Assign("b", "c"),)),)) == 'a {\n\tb = "c";\n}\n'
