"""The table of searches for nearest neighbours."""

from __future__ import annotations

from tests.benchmarks.cells import EMPTY, Row, markdown
from tests.benchmarks.records import load

SEARCHES = {
    "exact": "exact",
    "sklearn": "scikit-learn, exact",
    "faiss": "**faiss, list by list** (default beyond 50,000)",
    "faiss_equal": "the same at pynndescent's recall",
    "pynndescent": "pynndescent",
}


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
