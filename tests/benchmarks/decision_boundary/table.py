"""The table of DecisionBoundary: mistakes among the first samples."""

from __future__ import annotations

from tests.benchmarks.cells import EMPTY, Cell, Row, markdown, percent
from tests.benchmarks.records import load

BOUNDARY = {
    "cats and dogs": "cats and dogs ↑",
    "MNIST 0/6, trained on 20": "MNIST 0/6, net of 20 images ↑",
    "MNIST 0/6, trained on 100": "of 100 ↑",
    "MNIST 0/6, trained on 2000": "of 2,000 ↑",
}
BOUNDARY_ROWS = (
    ("conv, paper", "`paper=True`, feature maps"),
    ("conv, default", "**DecisionBoundary**, feature maps"),
    ("hidden, paper", "`paper=True`, last hidden layer"),
    ("hidden, default", "**DecisionBoundary**, last hidden layer"),
    ("entropy", "entropy, or margin"),
    ("random", "random"),
)


def decision_boundary() -> str:
    """Mistakes among the 1% ranked highest."""
    tables = load("decision_boundary")["tables"]
    rows: list[Row] = []
    for key, label in BOUNDARY_ROWS:
        cells: list[Cell] = []
        for data in BOUNDARY:
            methods = tables[data]["methods"]
            layer = "features" if data == "cats and dogs" else "hidden"
            name = key.replace("hidden", layer)
            found = methods.get(name) or methods.get(f"DecisionBoundary, {name}")
            # The record's first column: misclassified among the first 1%.
            cells.append(percent(found["mean"][0]) if found else EMPTY)
        rows.append([label, *cells])
    return markdown(["ranking", *BOUNDARY.values()], rows)
