"""The table of graphs on disk."""

from __future__ import annotations

from tests.benchmarks.cells import Row, markdown, number
from tests.benchmarks.records import load

STEPS = ("neighbours", "edges", "scores")


def scale() -> str:
    """CPU seconds, memory and the planted labels that are found, from disk."""
    rows: list[Row] = []
    for n, run in sorted(load("scale")["runs"].items(), key=lambda item: int(item[0])):
        seconds = [f"{run[step]['cpu']:.1f}" for step in STEPS]
        memory = max(run[step]["own_gib"] for step in STEPS)
        result = run["result"]
        found = (result["neighbour_recall"], result["wrong_found"])
        rows.append(
            [
                f"{int(n):,}",
                *seconds,
                f"{memory:.1f}",
                *(number(value).text for value in found),
                f"{result['disk_gib']:.2f}",
            ]
        )
    header = ["rows", "neighbours", "edges", "scores", "memory, GiB", "recall"]
    return markdown([*header, "wrong labels found", "disk, GiB"], rows)
