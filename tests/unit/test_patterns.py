"""Patterns as Pacemaker reads them: POSIX extended regular expressions."""

from __future__ import annotations

import pytest

from vmfence.cluster.patterns import fits


@pytest.mark.parametrize(
    ("pattern", "text", "is_found"),
    [
        ("^node[[:digit:]]+$", "node12", True),
        ("^node[[:digit:]]+$", "noded", False),
        ("(a+)+$", "a" * 60 + "b", False),
        ("a{2}", "aa", True),
        ("(", "(", False),
        ("a{255}{255}{255}", "a", False),
        ("a" * 1_001, "a" * 1_001, False),
    ],
)
def test_a_pattern_is_read_as_the_c_library_does(pattern: str, text: str, is_found: bool) -> None:
    assert fits(pattern, text) is is_found


def test_case_counts_unless_told_otherwise() -> None:
    assert not fits("^N", "node1")
    assert fits("^N", "node1", ignore_case=True)
