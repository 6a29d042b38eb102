"""Samples from a table: a CSV."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

import numpy as np
import torch

from captum_margin.cli.audit.data import (
    LABEL_NAMES,
    AuditData,
    as_classes,
    check_finite,
)
from captum_margin.cli.audit.delimited import Table, read_table
from captum_margin.cli.output import CommandError, did_you_mean

# pandas' index has no name, or this one when it was read and written again.
_NAME_COLUMNS = ("", "id", "index", "name", "path", "file", "unnamed: 0")
# Labels that say there is none, as pandas writes and reads them; "none" may be a class,
# and so may sodium.
_NO_LABEL = frozenset(
    {"", "#N/A", "#NA", "-NaN", "-nan", "<NA>", "N/A", "NA", "NULL", "NaN", "NaT"}
    | {"None", "n/a", "nan", "null"}
)
_NUMBERED = re.compile(r"column (\d+)")


def read_csv(path: Path, label_name: str | None) -> AuditData:
    """Reads a table: columns of numbers, perhaps labels and names.

    Columns of text are no features. The first one called id, index, name, path or file,
    or a first one without a name, as pandas' index is, names the samples.

    Raises:
        CommandError: If the file or a cell cannot be read, or there are no numbers.
    """

    def keep(header: list[str]) -> set[int]:
        return {*_names(header), *_label(header, label_name)}

    number = _NUMBERED.fullmatch(label_name or "")
    table = read_table(path, keep, numbered=int(number[1]) - 1 if number else None)
    label = next(iter(_label(table.header, label_name)), None)
    if label is None and label_name is not None:
        close = difflib.get_close_matches(label_name, table.header, n=3)
        raise CommandError(
            f"{path} has no column {label_name!r} (--labels)" + did_you_mean(close)
        )
    _check_one_label(table, label_name)
    names = [i for i in _names(table.header) if i != label]
    used = [i for i in range(len(table.header)) if i not in (label, *names)]
    read = {i: table.numbers(i) for i in used}
    columns = {i: values for i, values in read.items() if values is not None}
    numeric = [*columns]
    if not numeric:
        raise CommandError(
            f"no column of {path} holds numbers, so nothing is alike"
            + _first_text(table, used)
        )
    values = np.column_stack([*columns.values()])
    features = [table.name(i) for i in numeric]
    check_finite(
        values, lambda row, col: f"line {table.lines[row]}, column {features[col]}"
    )
    codes, classes = as_classes(None if label is None else _labels(table, label))
    notes = [*table.notes, *_unused_notes(table, {*used} - {*numeric}, names[1:])]
    if label is None:
        notes.append(
            "no column named label, so no question about labels; name one with --labels"
        )
    return AuditData(
        title=path.name,
        names=_row_names(table, names),
        features=torch.from_numpy(values),
        origin=f"their {values.shape[1]:,} columns of numbers",
        labels=codes,
        classes=classes,
        notes=notes,
        record={
            "columns": features,
            "label_column": None if label is None else table.name(label),
        },
    )


def _names(header: list[str]) -> list[int]:
    """Columns that name samples; one without a name only if it is the first."""
    return [
        i
        for i, name in enumerate(header)
        if name.lower() in _NAME_COLUMNS and (name or i == 0)
    ]


def _label(header: list[str], label_name: str | None) -> list[int]:
    """The columns that may hold the labels; without a header by its number."""
    if label_name is None:
        return [i for i, x in enumerate(header) if x.lower() in LABEL_NAMES]
    return [i for i, x in enumerate(header) if x == label_name]


def _check_one_label(table: Table, label_name: str | None) -> None:
    """Raises if several columns may hold the labels, for one would be a feature."""
    found = [table.header[i] for i in _label(table.header, label_name)]
    if len(found) > 1:
        hint = "name one with --labels" if len({*found}) > 1 else "rename the others"
        raise CommandError(
            f"expected one column of labels in {table.path} (got "
            f"{', '.join(found)}); {hint}"
        )


def _first_text(table: Table, used: list[int]) -> str:
    """What a table without numbers holds instead."""
    for i in used:
        for text in table.columns[i].texts.values():
            divided = ""
            if len(table.header) == 1:
                divided = "; columns are divided by a tab, a semicolon or a comma"
            return f" (got {text[:20]!r} in column {table.name(i)}){divided}"
    return ""


def _labels(table: Table, label: int) -> list[str]:
    labels = table.kept[label]
    for line, text in zip(table.lines, labels, strict=True):
        if text in _NO_LABEL:
            got = f" (got {text}, which says so)" if text else ""
            hint = ", or write it otherwise if it is a class" if text else ""
            raise CommandError(
                f"no label in line {line} of {table.path}{got}; fill it in or drop the "
                f"row{hint}"
            )
    return labels


def _row_names(table: Table, names: list[int]) -> list[str]:
    given = table.kept[names[0]] if names else [""] * len(table.lines)
    return [name or f"row {i}" for i, name in enumerate(given, start=1)]


def _unused_notes(table: Table, text: set[int], names: list[int]) -> list[str]:
    """Which columns are no features, and why."""
    empty = {i for i in text if not table.columns[i].texts}
    unnamed = {i for i in empty if not table.header[i]}  # of a comma at the end
    notes = []
    if text - empty or names:
        listed = ", ".join(_told(table, i) for i in sorted({*(text - empty), *names}))
        notes.append(f"columns not used, for they hold text or names: {listed}")
    if empty - unnamed:
        listed = ", ".join(table.name(i) for i in sorted(empty - unnamed))
        notes.append(f"columns not used, for they are empty: {listed}")
    return notes


def _told(table: Table, column: int) -> str:
    """A column's name, and how many of its cells are numbers all the same."""
    given = table.columns[column]
    n_numbers = len(given.numbers) - len(given.others)
    if not n_numbers:
        return table.name(column)
    return (
        f"{table.name(column)} ({n_numbers:,} of {len(given.numbers):,} cells are "
        f"numbers, not {next(iter(given.texts.values()))[:20]!r})"
    )
