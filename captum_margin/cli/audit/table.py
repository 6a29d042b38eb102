"""Samples from a table: a CSV with a header."""

from __future__ import annotations

import csv
import difflib
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import torch

from captum_margin.cli.audit.data import (
    LABEL_NAMES,
    AuditData,
    as_classes,
    check_finite,
)
from captum_margin.cli.output import CommandError, did_you_mean, one_line

_NAME_COLUMNS = ("", "id", "index", "name", "path", "file")  # pandas' index has no name


def read_csv(path: Path, label_name: str | None) -> AuditData:
    """Reads a table: a header, columns of numbers, perhaps labels and names.

    Columns of text are no features. The first one called id, index, name, path or file,
    or without a name as pandas' index is, names the samples.

    Raises:
        CommandError: If the file or a cell cannot be read, or there are no numbers.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            delimiter = max(",;\t", key=header.count)
            file.seek(0)
            table = _Table(path, csv.reader(file, delimiter=delimiter), label_name)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CommandError(f"cannot read {path}: {one_line(error)}") from None
    values = table.values
    check_finite(
        values,
        lambda row, col: f"line {table.lines[row]}, column {table.features[col]}",
    )
    codes, classes = as_classes(table.labels)
    return AuditData(
        title=path.name,
        names=table.names,
        features=torch.from_numpy(values),
        origin=f"their {values.shape[1]:,} columns of numbers",
        labels=codes,
        classes=classes,
        notes=table.notes,
        record={"columns": table.features, "label_column": table.label_name},
    )


class _Table:
    """The rows of a table, sorted into numbers, labels and names."""

    def __init__(self, path: Path, rows: Any, label_name: str | None) -> None:
        header = next(rows, None)
        first = next((row for row in rows if row), None)
        if header is None or first is None:
            raise CommandError(f"expected a header and rows (got none): {path}")
        self.path, self.header = path, [name.strip() for name in header]
        label = self._label_column(label_name)
        names = [i for i, n in enumerate(self.header) if n.lower() in _NAME_COLUMNS]
        name = next((i for i in names if i != label), None)
        self._check_width(first, rows.line_num)
        numeric = [
            i
            for i, cell in enumerate(first)
            if i != label and i not in names and _is_number(cell)
        ]
        if not numeric:
            raise CommandError(
                f"no column of {path} holds numbers, so nothing is alike"
            )
        self.features = [self.header[i] for i in numeric]
        self.label_name = None if label is None else self.header[label]
        self.names: list[str] = []
        self.lines: list[int] = []
        self.labels: list[str] | None = None if label is None else []
        cells = array("d")
        row: list[str] | None = first
        while row is not None:
            if row:  # not an empty line
                self._check_width(row, rows.line_num)
                self._add_numbers(cells, row, numeric, rows.line_num)
                self.lines.append(rows.line_num)
                self.names.append(
                    f"row {len(self.lines)}" if name is None else row[name]
                )
                if label is not None and self.labels is not None:
                    if not row[label].strip():
                        raise CommandError(
                            f"no label in line {rows.line_num} of {path}; fill it in "
                            "or drop the row"
                        )
                    self.labels.append(row[label].strip())
            row = next(rows, None)
        self.values = np.frombuffer(cells).reshape(len(self.lines), len(numeric))
        unused = {*range(len(self.header))} - {*numeric, label, name}
        self.notes = []
        if unused:
            listed = ", ".join(self.header[i] or "(no name)" for i in sorted(unused))
            self.notes.append(
                f"columns not used, for they hold text or names: {listed}"
            )
        if label is None:
            self.notes.append(
                "no column named label, so no question about labels; name one with "
                "--labels"
            )

    def _label_column(self, label_name: str | None) -> int | None:
        if label_name is None:
            found = [i for i, n in enumerate(self.header) if n.lower() in LABEL_NAMES]
            return found[0] if found else None
        if label_name not in self.header:
            close = difflib.get_close_matches(label_name, self.header, n=3)
            raise CommandError(
                f"{self.path} has no column {label_name!r} (--labels)"
                + did_you_mean(close)
            )
        return self.header.index(label_name)

    def _check_width(self, row: list[str], line: int) -> None:
        if len(row) != len(self.header):
            raise CommandError(
                f"expected {len(self.header)} cells in line {line} of {self.path} "
                f"(got {len(row)})"
            )

    def _add_numbers(
        self, cells: array[float], row: list[str], numeric: list[int], line: int
    ) -> None:
        try:
            cells.extend([float(row[i]) for i in numeric])
        except ValueError:
            wrong = next(i for i in numeric if not _is_number(row[i]))
            raise CommandError(
                f"expected a number in column {self.header[wrong]}, line {line} of "
                f"{self.path} (got {row[wrong]!r}); its first row holds one"
            ) from None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
