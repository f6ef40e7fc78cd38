"""Times and booleans of a CIB."""

from __future__ import annotations

import pytest

from vmfence.cluster.durations import parse_boolean, parse_duration
from vmfence.errors import VmfenceError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("60s", 60),
        (" 60 s ", 60),
        ("2min", 120),
        ("2m", 120),
        ("1h", 3600),
        ("500ms", 0.5),
        ("1000000us", 1),
        ("90SEC", 90),
        ("PT1M", 60),
        ("PT1M30S", 90),
        ("P1DT1H", 90000),
        ("0", 0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1", "1.5s", "60x", "P", "PT", "1 2", "nonsense", "1s\x00", "9" * 40, "٣"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(VmfenceError, match="is no duration"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["true", "ON", "yes", "Y", "1"])
def test_true(text: str) -> None:
    assert parse_boolean(text)


@pytest.mark.parametrize("text", ["false", "OFF", "no", "N", "0"])
def test_false(text: str) -> None:
    assert not parse_boolean(text)


@pytest.mark.parametrize("text", ["", "maybe", "2", " true"])
def test_neither(text: str) -> None:
    with pytest.raises(VmfenceError, match="neither true nor false"):
        parse_boolean(text)
