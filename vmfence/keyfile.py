"""Shared key files: read one or refuse it, judge one, make one.

Light module (loaded by the fence agent: os, stat, time and hashlib only).  Fails closed: a key that is missing,
unreadable, short or open to everybody is an error, never a reason to go on without (fence_xvm 4.12.1 went on, spec
defect D3).  It never shows what is in the file.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time

from vmfence.errors import KeyExposed, KeyFileError, KeyNotPermitted

KEY_BYTES_MAX = 4096  # every fence_virt peer ignores what follows
KEY_BYTES_MIN = 16
KEY_BYTES_GOOD = 32
# Keys of guides and roles that are long enough to pass for one; shorter ones ("redhat", "123456") are refused anyway.
_KNOWN_WEAK = (b"1234567890123456", b"0123456789abcdef", b"fence_xvm_shared_key", b"passwordpassword")
_COPY_IT = "copy it from the host, or make one on the host with: vmfence host keygen"
# Not blocking: a fifo in place of the key must not hang a fence.
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


def read(path: str) -> bytes:
    """Return the key in the file *path*: its first 4096 bytes.

    All is judged on the opened file, so nobody can put another in its place meanwhile.  Raises KeyFileError
    unless it is a regular file of at least 16 bytes, without any permission for others.
    """
    try:
        descriptor = os.open(path, _FLAGS)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    try:
        _judge(path, os.fstat(descriptor))
        return _content(path, descriptor)
    except OSError as error:
        raise _unreadable(path, error) from error
    finally:
        os.close(descriptor)


def _judge(path: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise KeyFileError(f"the key {path} cannot be used", "it is not a regular file", _COPY_IT)
    if status.st_mode & stat.S_IRWXO:
        why = f"everybody on this machine may use it (mode {stat.S_IMODE(status.st_mode):04o})"
        raise _open(path, f"the key {path} is not secret", why, "0600")


def _content(path: str, descriptor: int) -> bytes:
    key = b""
    while len(key) < KEY_BYTES_MAX:
        piece = os.read(descriptor, KEY_BYTES_MAX - len(key))
        if not piece:
            break
        key += piece
    if len(key) < KEY_BYTES_MIN:
        size = f"it holds {len(key)} bytes, at least {KEY_BYTES_MIN} are needed" if key else "the file is empty"
        raise KeyFileError(f"the key {path} cannot be used", size, _COPY_IT)
    return key


def _unreadable(path: str, error: Exception) -> KeyFileError:
    why = (error.strerror if isinstance(error, OSError) else "") or str(error)
    if isinstance(error, PermissionError):
        return KeyNotPermitted(f"cannot read the key {path}", why, f"run as root, or see who owns it: ls -l {path}")
    return KeyFileError(f"cannot read the key {path}", why, _COPY_IT)


def fingerprint(key: bytes) -> str:
    """Return the SHA-256 of *key* as 64 hexadecimal digits: safe to show, equal on both ends."""
    return hashlib.sha256(key).hexdigest()


def is_known_weak(key: bytes) -> bool:
    """Whether *key* is one that guides print, or hardly more than one letter."""
    return key.strip().lower() in _KNOWN_WEAK or len(set(key)) < 8


def judge(path: str) -> list[KeyFileError]:
    """Return what weakens the key in *path*, which read() accepts.  Raises KeyFileError when it does not."""
    key = read(path)
    status = os.stat(path)
    new_key = "make a new one: vmfence host keygen --force, then copy it to every guest"
    found = []
    if len(key) < KEY_BYTES_GOOD:
        found.append(KeyFileError("the key is short", f"{len(key)} bytes, {KEY_BYTES_GOOD} or more are good", new_key))
    if is_known_weak(key):
        found.append(KeyFileError("the key is a known weak one", "", new_key))
    elif all(32 <= byte < 127 or byte in b"\r\n\t" for byte in key):
        found.append(KeyFileError("the key is text", "somebody typed or printed it, so it can be guessed", new_key))
    if status.st_size > KEY_BYTES_MAX:
        found.append(KeyFileError("the key is long", f"of {status.st_size} bytes only {KEY_BYTES_MAX} count"))
    return [*found, *_exposures(path, status)]


def _exposures(path: str, status: os.stat_result) -> list[KeyFileError]:
    """Return who besides root may use the key, as far as it is used all the same: the one rule for all checks.

    The group root is root, so mode 0640 takes nothing away there.  Another group may be meant to fence, as haclient
    is, or not: who is in it decides, so no command without a person does.
    """
    found: list[KeyFileError] = []
    mode = f"mode {stat.S_IMODE(status.st_mode):04o}"
    if status.st_mode & stat.S_IRGRP and status.st_gid:
        remedy = f"see who is in it: getent group {status.st_gid}; if they must not fence: chmod 0600 {_quoted(path)}"
        found.append(KeyExposed("the key's group may read it", f"gid {status.st_gid}, {mode}", remedy))
    if status.st_mode & (stat.S_IWGRP | stat.S_IXGRP):
        found.append(_open(path, "the key's group may change it", f"gid {status.st_gid}, {mode}", "0640"))
    if status.st_uid not in (0, os.geteuid()):
        remedy = f"chown root {_quoted(path)}"
        found.append(KeyExposed("the key belongs to another user", f"uid {status.st_uid}", remedy))
    return found


def _open(path: str, what: str, why: str, mode: str) -> KeyExposed:
    return KeyExposed(what, why, f"chmod {mode} {_quoted(path)}", ("chmod", mode, path))


def _quoted(path: str) -> str:
    """Return *path* as one word of a shell, as shlex.quote() does, which would load too much here."""
    is_plain = all(letter.isascii() and (letter.isalnum() or letter in "/._-+@%:=,") for letter in path)
    return path if path and is_plain else "'" + path.replace("'", "'\"'\"'") + "'"


def create(path: str, size_bytes: int = KEY_BYTES_MAX, replace: bool = False) -> bytes:
    """Make a random key at *path* (mode 0600) and return it; a new folder gets mode 0700.

    The file appears whole or not at all, and is on the disk on return.  One that is there is kept: KeyFileError, or
    with *replace* a copy named after the date.  Raises KeyFileError when anything cannot be written.
    """
    _refuse_foreign(path)
    folder = os.path.dirname(os.path.abspath(path))
    temporary = os.path.join(folder, f".{os.path.basename(path)}.{os.urandom(4).hex()}.new")
    key = os.urandom(size_bytes)
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        try:
            _write(temporary, key)
            _put_in_place(temporary, path, replace)
        finally:
            _remove(temporary)
        _sync_folder(folder)
    except PermissionError as error:
        raise KeyNotPermitted(f"cannot make the key {path}", error.strerror or str(error), "run as root") from error
    except OSError as error:
        raise KeyFileError(f"cannot make the key {path}", error.strerror or str(error)) from error
    return key


def _refuse_foreign(path: str) -> None:
    """Raise KeyFileError when something is at *path* that is no file: a folder, a device, a link to elsewhere."""
    try:
        is_file = stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return
    if not is_file:
        raise KeyFileError(f"{path} is no regular file", "", "name the file that is to hold the key")


def _write(path: str, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _put_in_place(temporary: str, path: str, replace: bool) -> None:
    """Give the file *temporary* the name *path*; link(), unlike rename(), never replaces."""
    if replace:
        if os.path.lexists(path):
            keep_copy(path)
        os.replace(temporary, path)
        return
    try:
        os.link(temporary, path)
    except FileExistsError as error:
        remedy = "keep it, or replace it with --force; every guest then needs the new one"
        raise KeyFileError(f"there is a key at {path} already", "", remedy) from error


def keep_copy(path: str) -> str:
    """Give the file at *path* a second, dated name, which stays when another file takes the first; return that name.

    Several in one second get a number.  Raises OSError.
    """
    dated = f"{path}.{time.strftime('%Y%m%d-%H%M%S')}"
    copy, number = dated, 1
    while True:
        try:
            os.link(path, copy, follow_symlinks=False)
        except FileExistsError:
            number += 1
            copy = f"{dated}-{number}"
            continue
        return copy


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
