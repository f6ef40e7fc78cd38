"""The fuzzing entries still work: each takes its seeds and a few hostile inputs.  Fuzzing itself: see targets.py."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.seeds import seeds
from fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_seeds(name: str) -> None:
    inputs = [data for target, data in seeds() if target == name]
    assert inputs
    for data in (*inputs, b"", b"\0", b"\xff" * 300):
        TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
@settings(deadline=None, max_examples=30)
@given(data=st.binary(max_size=500))
def test_random_bytes(name: str, data: bytes) -> None:
    TARGETS[name](data)
