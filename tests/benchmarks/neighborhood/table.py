"""The table of what the number of neighbours changes."""

from __future__ import annotations

from tests.benchmarks.cells import Row, markdown, number
from tests.benchmarks.forms import FORMS
from tests.benchmarks.records import load

# By the record's name: what is measured, what brings it to percent, digits shown.
MEASURES = {
    "prototypes, with labels": ("I: error of 110 prototypes, with labels, % ↓", 1, 1),
    "prototypes, without labels": ("without labels, % ↓", 1, 1),
    "criticisms, with labels": ("I: error of 110 criticisms, with labels, % ↑", 1, 1),
    "criticisms, without labels": ("without labels, % ↑", 1, 1),
    "label noise, enron-paper": ("III: flips in the first 30%, Enron, % ↑", 100, 1),
    "label noise, cats-dogs": ("cats and dogs, % ↑", 100, 1),
    "decision boundary, MNIST 0/6, conv": (
        "IV: mistakes in the first 1%, MNIST, feature maps, % ↑",
        100,
        0,
    ),
    "decision boundary, MNIST 0/6, hidden": ("last hidden layer, % ↑", 100, 0),
    "decision boundary, cats and dogs": ("cats and dogs, % ↑", 100, 0),
}
KINDS = {**FORMS, "default": "our default"}


def neighborhood() -> str:
    """Each measure with 10 / 20 / 30 / 40 neighbours, by form."""
    tables = load("neighborhood")["tables"]
    rows: list[Row] = []
    for name, (title, scale, digits) in MEASURES.items():
        cells = [
            " / ".join(
                number(scale * found["mean"], digits).text
                for found in tables[name][kind].values()
            )
            for kind in KINDS
        ]
        rows.append([title, *cells])
    return markdown(["k = 10 / 20 / 30 / 40", *KINDS.values()], rows)
