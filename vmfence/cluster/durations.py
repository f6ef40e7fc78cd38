"""Times and booleans as they stand in a CIB.  Pure.

Source: Pacemaker Explained, "Values" (boolean, duration, timeout); ISO 8601 durations as Pacemaker reads them.
"""

from __future__ import annotations

import re

from vmfence.errors import VmfenceError

_UNITS = (
    (1.0, ("", "s", "sec", "second", "seconds")),
    (1e-3, ("ms", "msec")),
    (1e-6, ("us", "usec")),
    (60.0, ("m", "min", "minute", "minutes")),
    (3600.0, ("h", "hr", "hour", "hours")),
)
_UNITS_S = {word: seconds for seconds, words in _UNITS for word in words}
_PLAIN = re.compile(r"(\d{1,15})\s*([a-z]*)", re.ASCII)
_NUMBER = r"(?:(\d{1,15})%s)?"
_ISO = re.compile(
    "P" + "".join(_NUMBER % unit for unit in "YMWD") + "(?:T" + "".join(_NUMBER % unit for unit in "HMS") + ")?",
    re.ASCII,
)
_ISO_S = (31557600.0, 2629800.0, 604800.0, 86400.0, 3600.0, 60.0, 1.0)  # years and months: on average
_TRUE, _FALSE = ("true", "on", "yes", "y", "1"), ("false", "off", "no", "n", "0")


def parse_duration(text: str) -> float:
    """Return the seconds in *text*: ``90``, ``60s``, ``2min``, ``500ms``, ``PT1M``.  Raises VmfenceError."""
    plain = _PLAIN.fullmatch(text.strip().lower())
    if plain and plain[2] in _UNITS_S:
        return float(plain[1]) * _UNITS_S[plain[2]]
    iso = _ISO.fullmatch(text.strip())
    if iso and any(iso.groups()):
        return sum(float(part) * unit for part, unit in zip(iso.groups(), _ISO_S) if part)
    raise VmfenceError(f"{text!r} is no duration", "", 'write it as seconds ("90") or with a unit ("90s", "2min")')


def parse_boolean(text: str) -> bool:
    """Return what *text* means to Pacemaker, in any case.  Raises VmfenceError for what it would not understand."""
    if text.lower() in _TRUE + _FALSE:
        return text.lower() in _TRUE
    raise VmfenceError(f"{text!r} is neither true nor false", "", "write true or false")
