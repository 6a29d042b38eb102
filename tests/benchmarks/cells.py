"""Markdown tables of measurements: numbers in, the best of each column in bold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

MINUS = "\N{MINUS SIGN}"
DIFFERENCE = "insertion_minus_deletion"
INS_DEL = f"insertion {MINUS} deletion ↑"
Best = Literal["max", "min", "row max"]


class Cell(NamedTuple):
    """What a cell says, and the number by which it may be the best."""

    text: str
    value: float | None = None


Row = Sequence[str | Cell]
EMPTY = Cell("")


def number(value: float, digits: int = 3, error: float | None = None) -> Cell:
    """A rounded number, with its standard error or deviation where there is one."""
    text = f"{value:.{digits}f}"
    if error is not None:
        text += f" ± {error:.{digits}f}"
    return Cell(text.replace("-", MINUS), value)


def metric(
    row: Mapping[str, Any], key: str, digits: int = 3, error: bool = False
) -> Cell:
    """A mean over photographs."""
    found = row["metrics"][key]
    spread = found["standard_error"] if error else None
    return number(found["mean"], digits, spread)


def percent(value: float, digits: int = 0) -> Cell:
    """A share in percent."""
    return Cell(f"{value:.{digits}%}", value)


def markdown(
    header: Sequence[str], rows: Sequence[Row], best: Best | None = None
) -> str:
    """A table in Markdown.

    Bold are the best of every column whose head has an arrow, high for ↑ and low for ↓,
    judged by the numbers before rounding. ``best`` is for tables whose heads have
    none: of all columns, or the highest of each row. Strings are never bold by rule.
    """
    cells = [
        [Cell(cell) if isinstance(cell, str) else cell for cell in r] for r in rows
    ]
    width = len(header)
    if any(len(row) != width for row in cells):
        raise ValueError(f"expected rows of {width} cells (got {[*map(len, cells)]})")
    bold: set[tuple[int, int]] = set()
    if best == "row max":
        for i, row in enumerate(cells):
            bold |= {(i, j) for j in _best(row, high=True)}
    else:
        for j, head in enumerate(header):
            high = "↑" in head or best == "max"
            if high or "↓" in head or best == "min":
                column = [row[j] for row in cells]
                bold |= {(i, j) for i in _best(column, high)}
    lines = [_line(header), "|" + "---|" * width]
    for i, row in enumerate(cells):
        lines.append(
            _line(
                [
                    f"**{c.text}**" if (i, j) in bold else c.text
                    for j, c in enumerate(row)
                ]
            )
        )
    return "\n".join(lines)


def _best(cells: Sequence[Cell], high: bool) -> list[int]:
    values = [cell.value for cell in cells if cell.value is not None]
    if not values:
        return []
    limit = max(values) if high else min(values)
    return [i for i, cell in enumerate(cells) if cell.value == limit]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
