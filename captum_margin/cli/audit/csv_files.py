"""The tables that ``audit`` writes."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from captum_margin.cli.audit.data import AuditData
from captum_margin.cli.output import spreadsheet_cell


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a table, numbers to six digits, no text that would be a formula."""
    with path.open(
        "w", newline="", encoding="utf-8", errors="backslashreplace"
    ) as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for row in rows:
            writer.writerow(
                [
                    f"{x:.6g}" if isinstance(x, float) else spreadsheet_cell(x)
                    for x in row
                ]
            )


def write_ranking(
    path: Path, data: AuditData, order: Sequence[int], columns: Mapping[str, Any]
) -> None:
    """Writes samples in an order, with rank, name, and split if there are splits.

    Args:
        path (Path): The file.
        data (AuditData): The samples.
        order (Sequence[int]): Their indices.
        columns (Mapping[str, Any]): By name what gives the value of a sample by its
            index: a list of all, or a dict.
    """
    columns = {"name": data.names, **_split_column(data), **columns}
    write_csv(
        path,
        ("rank", *columns),
        (
            (rank, *(column[i] for column in columns.values()))
            for rank, i in enumerate(order, start=1)
        ),
    )


def _split_column(data: AuditData) -> dict[str, list[str]]:
    return {"split": data.splits} if data.splits else {}
