"""The figures as text."""

from __future__ import annotations

import math
from collections.abc import Iterable

from .samples import DIRECT, REFERENCE, Group, Line

HEAD = ("", "runs", "failed", "median", "p99", "/ reference", "/ direct", "target", "")


def render(groups: Iterable[Group]) -> str:
    """Return a table of all groups, one line a contender."""
    rows: list[tuple[str, ...]] = [HEAD]
    for group in groups:
        rows.append((f"{group.name} ({group.unit})",))
        rows += [_row(group, line) for line in group.lines]
        rows += [(f"  ({group.note})",)] * bool(group.note)
    widths = [max(len(row[column]) for row in rows if len(row) > column + 1) for column in range(len(HEAD))[:-1]]
    return "\n".join(_text(row, widths) for row in rows)


def _row(group: Group, line: Line) -> tuple[str, ...]:
    samples = line.samples
    verdict = {True: "met", False: "missed", None: ""}[line.met]
    return (
        f"  {line.label}",
        str(samples.runs),
        str(samples.failures),
        _number(samples.median),
        _number(samples.p99) if samples.runs > 1 else "",
        _number(group.ratio(line, REFERENCE), 2),
        _number(group.ratio(line, DIRECT), 2),
        line.target,
        verdict,
    )


def _text(row: tuple[str, ...], widths: list[int]) -> str:
    if len(row) == 1:
        return row[0]
    cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:7], widths[1:7]))]
    return "  ".join([*cells, row[7].ljust(widths[7]), row[8]]).rstrip()


def _number(value: float, digits: int = 1) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"
