"""The table of ``captum-margin audit`` on features in a file."""

from __future__ import annotations

from tests.benchmarks.cells import Row, markdown
from tests.benchmarks.records import load


def audit() -> str:
    """CPU seconds and memory of ``captum-margin audit`` on features in a file."""
    rows: list[Row] = []
    table = load("audit")["table"]
    for data in sorted(table, key=_rows):
        run = table[data]
        searches = sum(search["seconds"] for search in run["searches"].values())
        questions = run["questions_cpu_seconds"]
        names = ("suspects", "boundary", "prototypes", "criticisms")
        seconds = [f"{questions[name]:.1f}" for name in names]
        total = (f"{run['cpu_seconds']:.0f}", f"{run['peak_gb']:.1f}")
        rows.append([data, f"{searches:.1f}", *seconds, *total])
    header = ["samples x features", "search", "suspects", "boundary"]
    header += ["prototypes", "criticisms", "whole command", "peak, GB"]
    return markdown(header, rows)


def _rows(data: str) -> int:
    return int(data.split(" x ")[0].replace(",", ""))
