"""Kinds of option values: how a text becomes a value, and what is said when it does not.

Light module (loaded for every fence action: standard library only).  The first part of each message is what
fence_xvm 4.12.1 says, so whoever searches logs for it finds it.  *content* is the type in our metadata.
"""

from __future__ import annotations

import socket

from vmfence.client import line_settings
from vmfence.errors import UsageError
from vmfence.protocol.auth import Hash
from vmfence.protocol.request import DOMAIN_BYTES_MAX, Action

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_TRUE = frozenset({"1", "yes", "on", "true"})
_FALSE = frozenset({"", "0", "no", "off", "false"})
_SHOWN_MAX = 100
DAY_S = 86400


def safe(text: str) -> str:
    """Return *text* fit for one line of a terminal or log: no control characters, not endless."""
    return repr(text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX] + "...")[1:-1]


def nearest(word: str, words: list[str]) -> str:
    """Return the one of *words* most like *word* as the reason of an error, or nothing."""
    import difflib  # slow to load, and wanted only when something is wrong

    found = difflib.get_close_matches(word, words, 1)
    return f"the nearest is {found[0]}" if found else ""


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def _whole(text: str) -> int:
    digits, base = (text[2:], 16) if text[:2].lower() == "0x" else (text, 10)
    octal = base == 10 and len(digits) > 1 and digits[0] == "0"
    if octal or not (digits.isascii() and digits.isalnum()):
        raise ValueError(text)
    return int(digits, base)


def _is_address(family: int, text: str) -> bool:
    try:
        socket.inet_pton(family, text)
    except (OSError, ValueError):
        return False
    return True


class Text:
    """Any text.  *needs_value* is False for kinds whose name alone means something: bare()."""

    content = "string"
    needs_value = True

    def read(self, text: str) -> Any:
        """Return the value that *text* (not empty) stands for.  Raises UsageError."""
        return text

    def bare(self, old: Any) -> Any:
        """Return the value of the name alone, given the *old* value."""
        raise NotImplementedError


class Flag(Text):
    """Yes or no.  The name alone is yes, an empty value no."""

    content = "boolean"
    needs_value = False

    def read(self, text: str) -> Any:
        word = text.lower()
        if word in _TRUE or word in _FALSE:
            return word in _TRUE
        if _is_number(text):
            return int(text) != 0
        raise UsageError(f"'{safe(text)}' is neither yes nor no", "", "write 1 or 0")

    def bare(self, old: Any) -> Any:
        return True


class Level(Flag):
    """A number that the name alone raises by one; anything below 0 counts as 1."""

    def read(self, text: str) -> Any:
        if _is_number(text):
            return int(text)
        return 1 if text[:1] == "-" and _is_number(text[1:]) else int(super().read(text))

    def bare(self, old: Any) -> Any:
        return old + 1


class Whole(Text):
    """A whole number from *low* to *high*, decimal or 0x...; no leading 0: C would read octal."""

    content = "integer"

    def __init__(self, what: str, low: int, high: int) -> None:
        self._what, self._low, self._high = what, low, high

    def read(self, text: str) -> Any:
        try:
            number = _whole(text)
        except ValueError:
            number = self._low - 1
        if self._low <= number <= self._high:
            return number
        remedy = f"it must be a whole number from {self._low} to {self._high}"
        raise UsageError(f"{self._what}: '{safe(text)}'", "", remedy)


class Cid(Whole):
    """The number of a vsock peer; the name alone is the host, 2."""

    needs_value = False

    def bare(self, old: Any) -> Any:
        return 2


class Seconds(Whole):
    """Whole seconds, at most a day; a final "s" is allowed."""

    content = "second"

    def read(self, text: str) -> Any:
        try:
            return super().read(text[:-1] if text[-1:] in "sS" else text)
        except UsageError as error:
            raise UsageError(f"{self._what}: '{safe(text)}'", "", error.remedy) from None


class Tenths(Whole):
    """Tenths of a second; the value is in seconds."""

    def read(self, text: str) -> Any:
        return super().read(text) / 10


class Choice(Text):
    """One of *words* (any case), each with its value."""

    content = "select"

    def __init__(self, message: str, words: dict[str, Any]) -> None:
        self._message, self.words = message, words

    def read(self, text: str) -> Any:
        try:
            return self.words[text.lower()]
        except KeyError:
            known = list(self.words)
            why, remedy = nearest(text.lower(), known), "it must be one of " + ", ".join(known)
            raise UsageError(self._message.format(safe(text)), why, remedy) from None


class Address(Text):
    """A literal IPv4 or IPv6 address, the latter with or without a zone: a fence must not wait for a name service."""

    def read(self, text: str) -> Any:
        address, percent, zone = text.partition("%")
        families = (socket.AF_INET6,) if percent else (socket.AF_INET, socket.AF_INET6)
        if bool(zone) == bool(percent) and any(_is_address(family, address) for family in families):
            return text
        raise UsageError(f"'{safe(text)}' is no IP address", "", "give a literal IPv4 or IPv6 address, not a name")


class LineParameters(Text):
    """Speed and form of a serial line."""

    def read(self, text: str) -> Any:
        line_settings.parse(text)
        return text


class Guest(Text):
    """The name or UUID of a guest: 1 to 63 bytes."""

    def read(self, text: str) -> Any:
        size = len(text.encode("utf-8", "surrogateescape"))
        if size > DOMAIN_BYTES_MAX:
            what = f"Invalid domain name: '{safe(text)}' (File name too long)"
            raise UsageError(what, f"{size} bytes, the wire takes {DOMAIN_BYTES_MAX}", "use the guest's UUID")
        return text


def actions() -> dict[str, Any]:
    """Return all actions by name, in the order of fence_xvm's metadata."""
    order = (
        Action.NULL,
        Action.ON,
        Action.OFF,
        Action.REBOOT,
        Action.METADATA,
        Action.STATUS,
        Action.MONITOR,
    )
    named = {str(action): action for action in order}
    return {**named, "list": Action.LIST, "list-status": Action.LIST, "validate-all": Action.VALIDATE_ALL}


def hashes() -> dict[str, Any]:
    """Return all hashes by name, weakest first."""
    return {str(kind): kind for kind in Hash}
