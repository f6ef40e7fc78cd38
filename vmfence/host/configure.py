"""A configuration file under change: new values into its tree, the difference as text, the file replaced.

What is not asked about (groups, keys of ours, other listeners' sections) stays as it is; comments are lost, as by
fence_virtd's wizard, but stay in the dated copy.  The tree is pure; the two ends, reading and writing, fail closed:
at every moment the file is the old one or the new one, whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from typing import NoReturn

from vmfence.config.grammar import FILE_BYTES_MAX, Assign, Section, Tree, dump, parse
from vmfence.errors import ConfigError, NotPermitted, VmfenceError
from vmfence.keyfile import keep_copy
from vmfence.policy import Group, Source

_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY  # a fifo must not hang it
_NEW_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


def section_of(tree: Tree, place: str) -> Tree | None:
    """Return the entries of the section *place* (``listeners/tcp``), None without one; of several the last counts."""
    for name in place.split("/"):
        section = next((e for e in reversed(tree) if isinstance(e, Section) and e.name.lower() == name), None)
        if section is None:
            return None
        tree = section.entries
    return tree


def value_of(tree: Tree, place: str, key: str) -> str | None:
    """Return the value of *key* in the section *place*; of several the last counts, as with fence_virtd 4.12.1."""
    entries = section_of(tree, place) or ()
    return next((e.value for e in reversed(entries) if isinstance(e, Assign) and e.key.lower() == key), None)


def with_value(tree: Tree, place: str, key: str, value: str | None) -> Tree:
    """Return *tree* with *key* in the section *place* set to *value*, or without it when that is None."""
    return _in_section(tree, place.split("/"), key, value)


def _in_section(tree: Tree, place: list[str], key: str, value: str | None) -> Tree:
    if not place:
        return _in_entries(tree, key, value)
    names = [entry.name.lower() if isinstance(entry, Section) else None for entry in tree]
    if place[0] not in names:
        added = Section(place[0], None, _in_section((), place[1:], key, value))
        return tree if value is None else (*tree, added)
    at = len(names) - 1 - names[::-1].index(place[0])
    old = tree[at]
    assert isinstance(old, Section)
    new = dataclasses.replace(old, entries=_in_section(old.entries, place[1:], key, value))
    return (*tree[:at], new, *tree[at + 1 :])


def _in_entries(entries: Tree, key: str, value: str | None) -> Tree:
    """Set or remove *key*; a key that was given twice is given once afterwards, where the one was that counted."""
    same = [entry for entry in entries if isinstance(entry, Assign) and entry.key.lower() == key]
    if value is None:
        return tuple(entry for entry in entries if entry not in same)
    new = Assign(key, value)
    if not same:
        return (*entries, new)
    return tuple(new if entry is same[-1] else entry for entry in entries if entry is same[-1] or entry not in same)


def rules_for(guests: Iterable[str], by_network: bool) -> tuple[Group, ...]:
    """Return the rules by which any of *guests* (names or UUIDs) may fence any other, as whoever has the key may.

    Guests behind channels are known by what they are, so they need a group without addresses; *by_network*: where
    requests come from addresses too, which another group lets in.
    """
    targets = tuple(guests)
    rules = (Group("channels", (), targets),)
    everywhere = (Source.parse("0.0.0.0/0"), Source.parse("::/0"))
    return (*rules, Group("network", everywhere, targets)) if by_network else rules


def with_rules(tree: Tree, rules: Iterable[Group]) -> Tree:
    """Return *tree* with the groups *rules* at its end."""
    groups = tuple(Section("group", None, _group_entries(rule)) for rule in rules)
    return (*tree, Section("groups", None, groups)) if groups else tree


def _group_entries(rule: Group) -> Tree:
    sources = (Assign("ip", source.text) for source in rule.sources)
    return (Assign("name", rule.label), *sources, *(Assign("uuid", target) for target in rule.targets))


def text_of(tree: Tree) -> bytes:
    """Return the file's content for *tree*."""
    return dump(tree).encode("utf-8", "surrogateescape")


def is_same(before: bytes | None, after: bytes, path: str) -> bool:
    """Tell whether both say the same, in whatever layout and with whatever comments."""
    try:
        return before is not None and dump(parse(before, path)) == dump(parse(after, path))
    except ConfigError:
        return False


def difference(before: bytes | None, after: bytes, path: str) -> str:
    """Return the unified difference, fit to be shown: without control characters."""
    old, new = (text.decode("utf-8", "replace").split("\n") for text in (before or b"", after))
    lines = difflib.unified_diff(_without_end(old), _without_end(new), path, f"{path} (new)", lineterm="")
    return "".join(f"{_shown(line)}\n" for line in lines)


def _without_end(lines: list[str]) -> list[str]:
    return lines[:-1] if lines and not lines[-1] else lines


def _shown(line: str) -> str:
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in line)


def read_file(path: str) -> bytes | None:
    """Return the content of the configuration at *path*, None when there is no such file.

    Raises NotPermitted, or ConfigError for what is no regular file, too large, or cannot be read.
    """
    try:
        descriptor = os.open(path, _FLAGS)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        _unreadable(path, error)
    try:
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ConfigError(path, 0, "this is not a regular file", "name a configuration file")
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        _unreadable(path, error)
    if len(content) > FILE_BYTES_MAX:
        raise ConfigError(path, 0, "the file is too large: more than 1 MiB", "name a configuration file")
    return content


def _unreadable(path: str, error: Exception) -> NoReturn:
    if isinstance(error, PermissionError):
        raise NotPermitted(f"{path} may not be read", "", "run this as root") from error
    reason = error.strerror if isinstance(error, OSError) else str(error)
    raise ConfigError(path, 0, f"the configuration file cannot be read: {reason}") from error


def check_writable(path: str) -> None:
    """Raise NotPermitted or VmfenceError when the folder of *path* is missing or closed: before anything is asked."""
    folder = os.path.dirname(os.path.realpath(path))
    if not os.path.isdir(folder):
        raise VmfenceError(f"cannot write {path}", f"there is no folder {folder}", f"make it: mkdir -p {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise NotPermitted(f"{path} may not be written", f"the folder {folder} is closed to this user", "run as root")


def replace_file(path: str, before: bytes | None, after: bytes) -> str | None:
    """Put *after* in place of the file at *path*, which must still hold *before*; return the path of the old one.

    The new file has mode 0600 and the owner of the old one, which stays under a dated name (None: there was none).
    A link is followed.  On return all is on the disk.  Raises NotPermitted, VmfenceError; then the old file is there.
    """
    place = os.path.realpath(path)
    temporary = os.path.join(os.path.dirname(place), f".{os.path.basename(place)}.{os.urandom(4).hex()}.new")
    try:
        with _removed_on_failure(temporary):
            _write_new(temporary, after, place)
            if read_file(place) != before:
                raise VmfenceError(f"{path} was changed meanwhile", "by somebody else", "start again")
            return _swap(temporary, place)
    except OSError as error:
        kind = NotPermitted if isinstance(error, PermissionError) or error.errno == errno.EROFS else VmfenceError
        raise kind(f"cannot write {path}", error.strerror or str(error), "mend that and start again") from error


@contextlib.contextmanager
def _removed_on_failure(path: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise


def _write_new(path: str, content: bytes, model: str) -> None:
    descriptor = os.open(path, _NEW_FLAGS, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        if os.geteuid() == 0 and os.path.exists(model):
            owner = os.stat(model)
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        os.fsync(descriptor)


def _swap(temporary: str, place: str) -> str | None:
    """Keep the file at *place* under a dated name and rename *temporary* to it; undo the one if the other fails."""
    copy = keep_copy(place) if os.path.exists(place) else None
    try:
        os.replace(temporary, place)
    except BaseException:
        if copy is not None:
            _remove_second_name(copy, place)
        raise
    folder = os.open(os.path.dirname(place), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return copy


def _remove_second_name(copy: str, place: str) -> None:
    """Remove *copy* while it is but another name of the file at *place*.

    After the rename it is all that is left of the old file, and Ctrl-C may come when that is done already.
    """
    with contextlib.suppress(OSError):
        if os.path.samefile(copy, place):
            os.unlink(copy)
