"""The values of single settings: text to a checked value.

Each function takes the text of one value, which is not empty, and returns what it means or raises BadValue.
Nothing here knows which key it reads, and nothing asks the system: whether a file or an interface exists is
seen at start.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Iterable
from typing import Callable, NamedTuple

from vmfence.config.grammar import shown
from vmfence.policy import Source
from vmfence.protocol.auth import Hash

_TRUE = ("yes", "1", "true", "on")
_FALSE = ("no", "0", "false", "off")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NUMBER = re.compile("[+-]?[0-9]{1,9}")
_PORT = re.compile("0[xX][0-9a-fA-F]{1,8}|[0-9]{1,9}")
_HOST = re.compile("[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?")
_INTERFACE_BYTES_MAX = 15


class BadValue(ValueError):
    """*reason*: why a text is no value of this kind; *remedy*: what to write instead, may be empty."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        self.reason, self.remedy = reason, remedy
        super().__init__(reason)


class Endpoint(NamedTuple):
    """An address, and the family it belongs to (``ipv4``, ``ipv6``; None for a host name)."""

    address: str
    family: str | None


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a remedy that names the *known* word closest to *word*, or all of them if none is close."""
    known = tuple(known)
    close = difflib.get_close_matches(word.lower()[:100], known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known here: {', '.join(known)}"


def text(value: str) -> str:
    """Any text on one line, also in other encodings than UTF-8."""
    if _CONTROL.search(value):
        raise BadValue("holds a line break or another control character", "is its closing quote missing?")
    return value


def label(value: str) -> str:
    """A text that is only shown; made fit for that."""
    return shown(text(value))


def choice(*words: str) -> Callable[[str], str]:
    """Return a converter that accepts these lower-case *words* in any case."""

    def convert(value: str) -> str:
        if value.lower() not in words:
            raise BadValue(f"must be {' or '.join(words)}", nearest(value, words))
        return value.lower()

    return convert


def choices(value: str, words: tuple[str, ...]) -> tuple[str, ...]:
    """Several of *words*, separated by blanks or commas, in the order written, each once."""
    chosen = tuple(re.split(r"[ \t,]+", value.strip(" \t,").lower()))
    for word in chosen:
        choice(*words)(word)
    if len(set(chosen)) < len(chosen):
        raise BadValue("names one of them twice")
    return chosen


def boolean(value: str) -> bool:
    """``yes`` or ``no``, and other usual spellings; of numbers, 0 alone is no, as for fence_virtd."""
    if _NUMBER.fullmatch(value):
        return int(value) != 0
    if value.lower() not in _TRUE + _FALSE:
        raise BadValue("must be yes or no", nearest(value, _TRUE + _FALSE))
    return value.lower() in _TRUE


def number(value: str) -> int:
    """A decimal number up to 999999999; one below 0 counts as 0."""
    if not _NUMBER.fullmatch(value):
        raise BadValue("must be a decimal number")
    return max(0, int(value))


def port(value: str) -> int:
    """A port from 1 to 65535, decimal (also with leading zeros) or hexadecimal with 0x."""
    value = value.strip(" \t").removeprefix("+")
    if not _PORT.fullmatch(value):
        raise BadValue("must be a decimal number, or a hexadecimal one that begins with 0x")
    found = int(value, 16 if value[1:2] in ("x", "X") else 10)
    if not 1 <= found <= 65535:
        raise BadValue("must be from 1 to 65535")
    return found


def absolute_path(value: str) -> str:
    """A path that begins with a slash."""
    if not text(value).startswith("/"):
        raise BadValue("must be an absolute path", "begin it with /")
    return value


def hash_name(value: str) -> Hash:
    """A hash type of the wire."""
    return Hash.named(choice(*(str(kind) for kind in Hash))(value))


def interface(value: str) -> str:
    """A name that the kernel accepts for a network interface (dev_valid_name in Linux net/core/dev.c)."""
    if len(value.encode("utf-8", "surrogateescape")) > _INTERFACE_BYTES_MAX:
        raise BadValue(f"an interface name has at most {_INTERFACE_BYTES_MAX} bytes")
    if value in (".", "..") or not value.isprintable() or set(value) & set("/: "):
        raise BadValue("an interface name holds no slash, colon or blank")
    return value


def uri(value: str) -> str:
    """A libvirt URI, or an alias that libvirt's own configuration resolves."""
    if " " in text(value):
        raise BadValue("holds a blank", "for several hypervisors use uri, uri1, uri2")
    return value


def source(value: str) -> Source:
    """A source of a group: address, network or CID."""
    try:
        found = Source.parse(value)
    except ValueError as error:
        remedy = "write an IPv4 or IPv6 address, a network such as 10.0.0.0/8, or a vsock CID"
        raise BadValue(str(error), remedy) from error
    address = None if "/" in value else found.network
    if address is not None and address.version == 6 and address.is_link_local and found.zone is None:
        raise BadValue("is link-local and means nothing without its interface", f"write {shown(value)}%br0")
    return found


def multicast_address(value: str) -> Endpoint:
    """A literal multicast address, in its normal form."""
    if "%" in value:
        address, _, zone = value.partition("%")
        remedy = f'write address = "{shown(address)}"; interface = "{shown(zone)}";'
        raise BadValue("a multicast address is written without zone", remedy)
    found = _literal(value)
    if found is None or not found.is_multicast:
        raise BadValue("must be a literal multicast address", "as 225.0.0.12 or ff05::3:1")
    return Endpoint(str(found), f"ipv{found.version}")


def tcp_address(value: str) -> Endpoint:
    """A literal address of a host, in its normal form, or a host name."""
    found = _literal(value)
    if found is None:
        return Endpoint(_host_name(value), None)
    if found.is_multicast:
        raise BadValue("nobody can connect to a multicast address", "use an address of this host")
    return Endpoint(str(found), f"ipv{found.version}")


def _literal(value: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(value)
    except ValueError:
        return None


def _host_name(value: str) -> str:
    if not _HOST.fullmatch(value) or re.fullmatch("[0-9.]+", value):
        raise BadValue("is neither an IPv4 or IPv6 address nor a host name")
    return value
