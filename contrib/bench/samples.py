"""Samples of one quantity, and how a group of contenders is judged against its targets."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Callable

# What measures a contender once, or a batch of times; None is a run that failed.
Once = Callable[[], "list[float | None]"]

OURS, REFERENCE, DIRECT = "ours", "reference", "direct"


@dataclass
class Samples:
    """What was measured for one contender: *values* of the runs that succeeded, and how many did not."""

    values: list[float] = field(default_factory=list)
    failures: int = 0

    def add(self, value: float | None) -> None:
        """Add a run; None is one that failed."""
        if value is None:
            self.failures += 1
        else:
            self.values.append(value)

    def extend(self, values: Iterable[float | None]) -> None:
        """Add several runs."""
        for value in values:
            self.add(value)

    @property
    def runs(self) -> int:
        """The number of runs, failed ones included."""
        return len(self.values) + self.failures

    @property
    def median(self) -> float:
        """The median; not a number without a successful run."""
        return statistics.median(self.values) if self.values else math.nan

    @property
    def p99(self) -> float:
        """The smallest value that 99 % of the runs do not exceed (with fewer than 100 runs the largest)."""
        return sorted(self.values)[math.ceil(0.99 * len(self.values)) - 1] if self.values else math.nan


@dataclass
class Line:
    """One contender in a group.  *role* says what it is compared as; *met* is None where nothing is demanded."""

    label: str
    role: str
    samples: Samples = field(default_factory=Samples)
    target: str = ""
    met: bool | None = None


@dataclass
class Group:
    """Contenders measured together, in turn; the first line of a role is the one others are compared with."""

    name: str
    unit: str
    lines: list[Line]
    note: str = ""

    def line(self, role: str) -> Line | None:
        """Return the first line of *role*."""
        return next((line for line in self.lines if line.role == role), None)

    def ratio(self, line: Line, role: str) -> float:
        """Return the median of *line* in terms of that of *role*; not a number where there is none."""
        other = self.line(role)
        if other is None or other is line or not other.samples.values:
            return math.nan
        return line.samples.median / other.samples.median if other.samples.median else math.nan

    def demand(self, line: Line, target: str, is_met: Callable[[Line], bool]) -> None:
        """Give *line* a target and judge it.  A line without a single success has missed."""
        line.target = target
        line.met = bool(line.samples.values) and is_met(line)

    def as_json(self) -> dict[str, Any]:
        """Return everything, rounded, as JSON takes it."""
        return {
            "name": self.name,
            "unit": self.unit,
            "note": self.note,
            "contenders": [self._line_as_json(line) for line in self.lines],
        }

    def _line_as_json(self, line: Line) -> dict[str, Any]:
        samples = line.samples
        return {
            "contender": line.label,
            "role": line.role,
            "runs": samples.runs,
            "failures": samples.failures,
            "median": _rounded(samples.median),
            "p99": _rounded(samples.p99),
            "to_reference": _rounded(self.ratio(line, REFERENCE)),
            "to_direct": _rounded(self.ratio(line, DIRECT)),
            "target": line.target or None,
            "met": line.met,
            "values": [_rounded(value) for value in samples.values],
        }


def in_turn(rounds: int, contenders: Sequence[tuple[Line, Once]]) -> None:
    """Run every contender once a round, the next round beginning with the next one: A B C, B C A, ..."""
    for number in range(rounds):
        first = number % len(contenders)
        for line, run in (*contenders[first:], *contenders[:first]):
            line.samples.extend(run())


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)
