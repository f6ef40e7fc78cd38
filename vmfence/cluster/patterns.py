"""POSIX extended regular expressions, as Pacemaker reads them: by the C library, which never runs away backtracking."""

from __future__ import annotations

import ctypes
import re
from functools import lru_cache

_EXTENDED, _IGNORE_CASE, _NO_SUBMATCHES = 1, 2, 8  # REG_* of <regex.h>, the same numbers in glibc and musl
_REGEX_SIZE = 256  # bytes, several times what regex_t takes
_LENGTH_MAX = 1_000  # characters of a pattern, or of what is matched
_COPIES_MAX = 60  # the C library writes out a{9}{9} as 81 copies, and takes all memory for more
_COUNT = re.compile(r"\{([0-9]*),?([0-9]*)\}")
_BACK_REFERENCE = re.compile(r"\\[1-9]")  # no part of the standard, and slow without bound
_LIBRARY = ctypes.CDLL(None)


def fits(pattern: str, text: str, ignore_case: bool = False) -> bool:
    """Whether *pattern* is found in *text*; never for one that does not compile, or would take too long."""
    if len(text) > _LENGTH_MAX:
        return False
    return _compiled(pattern, ignore_case).is_in(text)


class _Compiled:
    """A pattern as the C library keeps it."""

    def __init__(self, pattern: str, flags: int) -> None:
        self._buffer = ctypes.create_string_buffer(_REGEX_SIZE)
        self._is_good = _is_quick(pattern) and _LIBRARY.regcomp(self._buffer, _encoded(pattern), flags) == 0

    def is_in(self, text: str) -> bool:
        """Whether it is found in *text*."""
        return self._is_good and _LIBRARY.regexec(self._buffer, _encoded(text), ctypes.c_size_t(0), None, 0) == 0

    def __del__(self) -> None:
        if self._is_good:
            _LIBRARY.regfree(self._buffer)


@lru_cache(maxsize=256)
def _compiled(pattern: str, ignore_case: bool) -> _Compiled:
    return _Compiled(pattern, _EXTENDED | _NO_SUBMATCHES | (_IGNORE_CASE if ignore_case else 0))


def _is_quick(pattern: str) -> bool:
    if len(pattern) > _LENGTH_MAX or _BACK_REFERENCE.search(pattern):
        return False
    copies = 1
    for counts in _COUNT.findall(pattern):
        copies *= max([int(count[:9]) for count in counts if count], default=1) or 1
        if copies > _COPIES_MAX:
            return False
    return True


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
