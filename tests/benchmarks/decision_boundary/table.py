"""The table of DecisionBoundary: mistakes among the first samples."""

from __future__ import annotations

from tests.benchmarks.cells import EMPTY, Cell, Row, markdown, percent
from tests.benchmarks.forms import FORMS
from tests.benchmarks.records import load

BOUNDARY = {
    "cats and dogs": "cats and dogs ↑",
    "MNIST 0/6, trained on 20": "MNIST 0/6, net of 20 images ↑",
    "MNIST 0/6, trained on 100": "of 100 ↑",
    "MNIST 0/6, trained on 2000": "of 2,000 ↑",
}
LAYERS = {"conv": "feature maps", "hidden": "last hidden layer"}
RANKINGS = {
    **FORMS,
    "default": "**DecisionBoundary**",
}


def decision_boundary() -> str:
    """Mistakes among the 1% ranked highest by the decisions."""
    return _mistakes("", {"entropy": "entropy, or margin", "random": "random"})


def decision_boundary_labels() -> str:
    """The same by the labels given in place of the decisions."""
    return _mistakes(", given labels", {})


def _mistakes(source: str, others: dict[str, str]) -> str:
    tables = load("decision_boundary")["tables"]
    labels = {
        f"{layer}, {form}{source}": f"{title}, {where}"
        for layer, where in LAYERS.items()
        for form, title in RANKINGS.items()
    }
    rows: list[Row] = []
    for key, label in {**labels, **others}.items():
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
