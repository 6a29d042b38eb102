"""Tables of text as people and spreadsheets write them: columns of numbers or text."""

from __future__ import annotations

import codecs
import csv
import re
import sys
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captum_margin.cli.output import CommandError, one_line

MISSING = frozenset(
    {"", "na", "n/a", "#n/a", "nan", "-nan", "nat", "<na>", "null", "none"}
)
"""What a cell holds that says there is nothing, in small or capital letters."""

_DELIMITERS = "\t;,"
_END = "end of the file\x1a"  # a line that no file holds
_FIRST_ROWS = 20  # by which the delimiter is found
_FEW = 3  # texts that may stand in a column of numbers by mistake
# Such as 1,5 and 1.234,5; and such as 1,234,567 and 1,234.5. 1,234 may be either.
_DECIMAL = re.compile(r"[+-]?(\d*|\d{1,3}(\.\d{3})+),\d+([eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d+)?")
_POINT_OF_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}\.\d{3}")
_BOOLS = {"true": 1.0, "false": 0.0}


class NoRows(CommandError):
    """A table without content."""


@dataclass
class Column:
    """The cells of a column, below the header.

    Attributes:
        numbers (array): One a row; NaN where ``others`` has the cell.
        others (dict[int, str]): By row the cells that are no numbers.
        pointed (bool): Whether a number has a point that divides no thousands.
        grouped (int, optional): The first row where it may, as in 1.234.
    """

    numbers: array[float] = field(default_factory=lambda: array("d"))
    others: dict[int, str] = field(default_factory=dict)
    pointed: bool = False
    grouped: int | None = None

    def add(self, cell: str, points: bool) -> None:
        """Adds a cell; ``points`` says whether those of numbers are looked at."""
        number = as_number(cell)
        if number is None:
            self.others[len(self.numbers)] = cell.strip()
            number = np.nan
        elif points and "." in cell:
            if not _POINT_OF_THOUSANDS.fullmatch(cell.strip()):
                self.pointed = True
            elif self.grouped is None:
                self.grouped = len(self.numbers)
        self.numbers.append(number)

    @property
    def texts(self) -> dict[int, str]:
        """By row the cells that hold something else than a number."""
        return {i: x for i, x in self.others.items() if x.lower() not in MISSING}


@dataclass
class Table:
    """A table as it was read.

    Attributes:
        path (Path): The file.
        header (list[str]): Names of the columns.
        columns (list[Column]): Their cells.
        kept (dict[int, list[str]]): The cells of some columns as they were written.
        lines (list[int]): Of each row, in the file.
        notes (list[str]): What was left out or may be meant otherwise, a line each.
        has_header (bool): Whether the first line is one.
    """

    path: Path
    header: list[str]
    columns: list[Column]
    kept: dict[int, list[str]]
    lines: list[int]
    notes: list[str]
    has_header: bool = True

    def numbers(self, column: int) -> NDArray[np.float64] | None:
        """A column as numbers, NaN where there is none; None of one of text.

        A column of true and false is one of 1 and 0.

        Raises:
            CommandError: If it holds numbers and a mistake, or commas that may divide
                fractions as well as thousands.
        """
        given = self.columns[column]
        texts = given.texts
        values = np.array(given.numbers)
        n_numbers = len(values) - len(given.others)
        if not texts:
            self._check_points(column)
            return values if n_numbers else None
        if not n_numbers and all(text.lower() in _BOOLS for text in texts.values()):
            for row, text in texts.items():
                values[row] = _BOOLS[text.lower()]
            return values
        if all(map(_has_commas, texts.values())):
            decimal = self._commas_are_decimal(column, texts)
            for row, text in texts.items():
                whole = text.replace("." if decimal else ",", "")
                values[row] = float(whole.replace(",", "."))
            return values
        if n_numbers >= len(texts) and len({*texts.values()}) <= _FEW:
            row, text = next(iter(texts.items()))
            raise CommandError(
                f"expected a number in column {self.name(column)}, line "
                f"{self.lines[row]} of {self.path} (got {text[:40]!r}); {n_numbers:,} "
                "of its cells hold one: mend the others, or drop the column"
            )
        return None

    def name(self, column: int) -> str:
        """What a column is called."""
        return self.header[column] or f"column {column + 1}"

    def _commas_are_decimal(self, column: int, texts: dict[int, str]) -> bool:
        given = self.columns[column]
        place = next(iter(texts))
        where = self._where(column, place, texts[place])
        decimal, thousands = self._certain
        if decimal == thousands:
            how = "both ways" if decimal else "either way"
            raise CommandError(
                f"expected commas of one meaning in {where}: those of the table can be "
                f"read {how}, 1,234 as 1.234 or as 1234; write numbers with a point"
            )
        if decimal and (given.pointed or given.grouped is not None):
            raise CommandError(
                f"expected decimal commas or points in {where}, which has both; write "
                "numbers with a point"
            )
        return decimal

    def _check_points(self, column: int) -> None:
        """Raises where points may divide thousands, beside commas of fractions."""
        given = self.columns[column]
        if given.grouped is None or given.pointed or self._certain != (True, False):
            return
        number = f"{given.numbers[given.grouped]:.3f}"
        raise CommandError(
            f"expected points of one meaning in "
            f"{self._where(column, given.grouped, number)}: beside decimal commas they "
            "may divide thousands; write numbers with a point, and thousands with none"
        )

    def _where(self, column: int, row: int, cell: str) -> str:
        return (
            f"column {self.name(column)}, line {self.lines[row]} of {self.path} (got "
            f"{cell!r})"
        )

    @cached_property
    def _certain(self) -> tuple[bool, bool]:
        """Whether there are commas that divide fractions for certain, and thousands."""
        decimal = thousands = False
        for column in self.columns:
            texts = column.texts.values()
            if all(map(_has_commas, texts)):
                decimal |= any(not _THOUSANDS.fullmatch(text) for text in texts)
                thousands |= any(not _DECIMAL.fullmatch(text) for text in texts)
        return decimal, thousands


def _has_commas(text: str) -> bool:
    """Whether a cell is a number with commas."""
    return bool(_DECIMAL.fullmatch(text) or _THOUSANDS.fullmatch(text))


def read_table(
    path: Path,
    keep: Callable[[list[str]], set[int]],
    *,
    numbered: int | None = None,
    header: bool | None = None,
) -> Table:
    """Reads a table of text.

    The delimiter is a tab, semicolon or comma. Comments (lines that begin with # and
    are no rows), empty lines, empty columns and a delimiter at the end of lines are
    left out. A first line of numbers above numbers is a sample and no header, unless
    they count.

    Args:
        path (Path): The file, in UTF-8, or UTF-16 with its mark.
        keep (Callable): From the header to the columns that are kept as text.
        numbered (int, optional): A further one if there is no header. Default: None.
        header (bool, optional): Whether there is one. Default: None, it is found out.

    Raises:
        CommandError: If it cannot be read, or rows are of several lengths.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4)
        sixteen = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        encoding = "utf-16" if sixteen else "utf-8-sig"
        with path.open(newline="", encoding=encoding) as file, _cells_of_any_length():
            return _read(path, file, keep, numbered, header)
    except UnicodeDecodeError:
        raise CommandError(
            f"cannot read {path}: expected text in UTF-8 (got other bytes); save it as "
            "CSV UTF-8"
        ) from None
    except (OSError, csv.Error) as error:
        raise CommandError(f"cannot read {path}: {one_line(error)}") from None


@contextmanager
def _cells_of_any_length() -> Iterator[None]:
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _read(
    path: Path,
    file: Any,
    keep: Callable[[list[str]], set[int]],
    numbered: int | None,
    has_header: bool | None,
) -> Table:
    delimiter, width, start = _form(file)
    file.seek(0)
    rows = csv.reader(chain(file, [_END]), delimiter=delimiter)
    for _ in range(start):
        next(rows)
    first: list[str] | None = None
    n_comments = n_empty = 0
    end = rows.line_num
    columns: list[Column] = []
    kept: dict[int, list[str]] = {}
    lines: list[int] = []
    for row in rows:
        begin, end = end + 1, rows.line_num
        if row == [_END]:
            break
        if row and row[-1].endswith(_END):  # the lines below are in its last cell
            raise CommandError(
                f"expected an end of the quotes in line {begin} of {path} (got the end "
                "of the file)"
            )
        if not any(map(str.strip, row)):
            n_empty += bool(row)
            continue
        if row[0].lstrip().startswith("#") and len(row) != width:
            n_comments += 1
            continue
        if first is None:
            first = [name.strip() for name in row]
            first[0] = first[0].removeprefix("#").strip()
            width = len(first)
            columns = [Column() for _ in first]
            named = keep(first)
            kept = {i: [] for i in {*named, numbered} if i is not None and i < width}
            first_line = rows.line_num
            continue
        row = _fitted(row, first)
        if len(row) != width:
            raise CommandError(
                f"expected {width} cells in line {rows.line_num} of {path} (got "
                f"{len(row)})"
            )
        lines.append(rows.line_num)
        for i, (column, cell) in enumerate(zip(columns, row, strict=True)):
            if i in kept:
                kept[i].append(cell.strip())
            else:
                column.add(cell, delimiter != ",")
    if first is None or not lines:
        raise NoRows(f"expected a header and rows (got none): {path}")
    notes = []
    if n_comments:
        notes.append(f"{n_comments:,} comments, which begin with #, left out")
    if n_empty:
        notes.append(f"{n_empty:,} rows without content left out")
    table = Table(path, first, columns, kept, lines, notes)
    if has_header is None:
        has_header = any(first[i] for i in named) or not _is_sample(table)
    if not has_header:
        for i in {*kept} - {numbered}:  # an empty cell, and no name of a pandas index
            for cell in kept.pop(i):
                columns[i].add(cell, delimiter != ",")
        _take_first(table, first_line, delimiter != ",")
    return table


def _form(file: Any) -> tuple[str, int, int]:
    """The delimiter, the number of cells of a row, and lines before the first."""
    start = file.readline()
    named = re.fullmatch(r"sep=(.)\s*", start)  # as spreadsheets write it
    if named:
        return named[1], _width(file, named[1], 1)[0], 1
    for delimiter in _DELIMITERS:
        width, same = _width(file, delimiter, 0)
        if same:
            return delimiter, width, 0
    file.seek(0)
    rows = [x for x in islice(file, _FIRST_ROWS) if not x.startswith("#")]
    line = rows[0] if rows else start
    delimiter = max(",;\t", key=line.count)
    return delimiter, _width(file, delimiter, 0)[0], 0


def _width(file: Any, delimiter: str, start: int) -> tuple[int, bool]:
    """Cells of the first row that is no comment, and whether the next have as many."""
    file.seek(0)
    found = islice(csv.reader(file, delimiter=delimiter), start, _FIRST_ROWS)
    widths = [len(x) for x in found if x and not x[0].lstrip().startswith("#")]
    if not widths:
        return 0, False
    near = all(abs(width - widths[0]) <= 1 < width for width in widths)
    return widths[0], near  # with a delimiter at the end of some


def _fitted(row: list[str], first: list[str]) -> list[str]:
    """A row with the empty cells at its end that its header has, and no others."""
    width = len(first)
    if len(row) > width and not any(map(str.strip, row[width:])):
        return row[:width]
    if len(row) < width and not any(first[len(row) :]):
        return row + [""] * (width - len(row))
    return row


def _is_sample(table: Table) -> bool:
    """Whether the first line holds numbers as the others do, and no names."""
    first = table.header
    above = []
    for name, column in zip(first, table.columns, strict=True):
        texts = column.texts
        is_text = len(column.others) == len(column.numbers) and not texts
        if is_text or not all(map(_has_commas, texts.values())):
            continue  # under which any name stands
        number = as_number(name.replace(",", "."))
        if number is not None:
            above.append(number)
        elif name.lower() not in MISSING:
            return False
    if not above or (not first[0] and above == [*range(len(above))]):
        return False  # as pandas counts columns
    steps = {b - a for a, b in pairwise(above)}
    if len(steps) == 1 and min(steps) > 0:  # a count, of columns or years
        names = ", ".join(first)[:60]
        table.notes.append(f"the first line is read as names of the columns: {names}")
        return False
    return True


def _take_first(table: Table, line: int, points: bool) -> None:
    """Makes the first line a row."""
    first = table.header
    for i, cell in enumerate(first):
        if i in table.kept:
            table.kept[i].insert(0, cell)
            continue
        before, column = table.columns[i], Column()
        column.add(cell, points)
        column.numbers.extend(before.numbers)
        column.others |= {row + 1: x for row, x in before.others.items()}
        column.pointed |= before.pointed
        if column.grouped is None and before.grouped is not None:
            column.grouped = before.grouped + 1
        table.columns[i] = column
    table.lines.insert(0, line)
    table.header = [f"column {i + 1}" for i in range(len(first))]
    table.has_header = False
    table.notes.append(
        "no header, for the first line holds numbers as the others do: it is read as a "
        f"sample, and the columns are called column 1 to column {len(first)}"
    )


def as_number(cell: str) -> float | None:
    """The number in a cell, or None; one that is missing is none."""
    try:
        number = float(cell)
    except ValueError:
        return None
    return None if number != number or "_" in cell else number
