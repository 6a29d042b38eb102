"""Tables of very many samples: searches for neighbours, audits, graphs on disk."""

from __future__ import annotations

from .table_cells import EMPTY, Row, load, markdown, number

SEARCHES = {
    "exact": "exact",
    "sklearn": "scikit-learn, exact",
    "faiss": "**faiss, list by list** (default beyond 50,000)",
    "faiss_equal": "the same at pynndescent's recall",
    "pynndescent": "pynndescent",
}
STEPS = ("neighbours", "edges", "scores")


def neighbors() -> str:
    """CPU seconds and recall of each search, by the number of rows."""
    results = load("neighbors")["results"]
    sizes = sorted(results, key=int)
    rows: list[Row] = []
    for name, label in SEARCHES.items():
        row: list[str] = [label]
        for n in sizes:
            found = results[n].get(name)
            if found is None:
                row.append(EMPTY.text)
                continue
            seconds, first = found["seconds"], found["first"]
            compiled = f" ({first:.0f})" if first > 1.2 * seconds + 1 else ""
            digits = 1 if seconds < 10 else 0
            row.append(f"{seconds:.{digits}f}{compiled}, {found['recall']:.3f}")
        rows.append(row)
    return markdown(["", *(f"{int(n):,} rows" for n in sizes)], rows)


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


def audit() -> str:
    """CPU seconds and memory of ``captum-margin audit`` on features in a file."""
    rows: list[Row] = []
    for data, run in load("audit")["table"].items():
        searches = sum(search["seconds"] for search in run["searches"].values())
        questions = run["questions_cpu_seconds"]
        names = ("suspects", "boundary", "prototypes", "criticisms")
        seconds = [f"{questions[name]:.1f}" for name in names]
        total = (f"{run['cpu_seconds']:.0f}", f"{run['peak_gb']:.1f}")
        rows.append([data, f"{searches:.1f}", *seconds, *total])
    header = ["samples x features", "both searches", "suspects", "boundary"]
    header += ["prototypes", "criticisms", "whole command", "peak, GB"]
    return markdown(header, rows)
