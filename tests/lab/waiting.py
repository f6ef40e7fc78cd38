"""Wait for conditions instead of sleeping for fixed times."""

from __future__ import annotations

import time
from typing import Callable, TypeVar

T = TypeVar("T")


class LabError(AssertionError):
    """The laboratory, not the program under test, could not do what it was asked."""


def wait_until(predicate: Callable[[], T], timeout: float = 10, what: str = "", interval: float = 0.01) -> T:
    """Return the first true value of *predicate*, asked every *interval* seconds.

    Raises LabError, naming *what*, when *timeout* seconds passed without one.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise LabError(f"not within {timeout:g} s: {what or predicate}")
        time.sleep(interval)
