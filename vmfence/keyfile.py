"""Shared key files: read one, or refuse it.

Light module (loaded by the fence agent: os and stat only).  Fails closed: a key that is missing, unreadable,
short or open to everybody is an error, never a reason to go on without (fence_xvm 4.12.1 went on, spec defect
D3). It never shows what is in the file.
"""

from __future__ import annotations

import os
import stat

from vmfence.errors import KeyFileError

KEY_BYTES_MAX = 4096  # every fence_virt peer ignores what follows
KEY_BYTES_MIN = 16
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
        raise KeyFileError(f"the key {path} is not secret", why, f"chmod 0600 {path}")


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
    remedy = f"run as root, or see who owns it: ls -l {path}" if isinstance(error, PermissionError) else _COPY_IT
    return KeyFileError(f"cannot read the key {path}", why, remedy)
