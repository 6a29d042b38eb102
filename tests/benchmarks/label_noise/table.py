"""Tables of LabelNoise: planted mistakes and what finds them."""

from __future__ import annotations

from collections.abc import Mapping
from math import hypot
from typing import Any

from tests.benchmarks.cells import EMPTY, Cell, Row, markdown, number
from tests.benchmarks.forms import FORMS
from tests.benchmarks.records import load

NOISY = {
    "enron, 10% symmetric": "Enron, tf-idf, 10%",
    "enron-paper, 10% symmetric": "Enron, bag of words, 10%",
    "cats-dogs, 10% symmetric": "cats and dogs, 10%",
    "cifar, 10% symmetric": "CIFAR-10, 10% sym",
    "cifar, 40% symmetric": "CIFAR-10, 40% sym",
    "cifar, 30% pairwise": "CIFAR-10, 30% pair",
    "mnist, 10% symmetric": "MNIST, 10% sym",
    "mnist, 40% symmetric": "MNIST, 40% sym",
    "mnist, 30% pairwise": "MNIST, 30% pair",
}
INFLUENCE = "influence functions"
RANKINGS = {
    "LabelNoise": "**LabelNoise**",
    "neighbours only, one pass": "neighbours' vote alone",
    "label disagreement, k = 20": "disagreement of 20 neighbours",
    "5-fold self-confidence": "self-confidence, five-fold",
    "cleanlab, 5-fold": "cleanlab",
    INFLUENCE: INFLUENCE,
}
CHECKED = {
    "LabelNoise": "**LabelNoise**",
    "label disagreement, k = 20": "disagreement of 20 neighbours",
    "5-fold self-confidence": "self-confidence, five-fold logistic regression",
    "k-NN Shapley, k = 10": "k-NN Shapley, exact",
    INFLUENCE: INFLUENCE,
    "cleanlab Shapley, k = 10": "k-NN Shapley, cleanlab's",
    "paper, algorithm": "LabelNoise, `paper=True`",
    "TracIn": "TracIn",
}


def label_noise() -> str:
    """Average precision of every data set and kind of noise."""
    record = load("label_noise")
    column = record["settings"]["columns"].index("AP")
    rows: list[Row] = []
    for name, label in NOISY.items():
        methods = record["results"][name]["methods"]
        rows.append([label, *(number(methods[m]["mean"][column]) for m in RANKINGS)])
    return markdown(["data, flips", *RANKINGS.values()], rows, best="row max")


def label_noise_checked() -> str:
    """Share of Enron's flips among the first e-mails checked."""
    record = load("label_noise")
    methods = record["results"]["enron, 10% symmetric"]["methods"]
    rows: list[Row] = [
        [label, *_recall(record, methods[name])] for name, label in CHECKED.items()
    ]
    return markdown(["method", "first 10% ↑", "15% ↑", "30% ↑"], rows)


def label_noise_forms() -> str:
    """The data of the paper: its forms, the default, peers, and what influence lacks.

    The error of a lead is that of two independent means, which is the larger one: the
    record has no pairs.
    """
    record = load("label_noise")
    data = ("enron-paper, 10% symmetric", "cats-dogs, 10% symmetric")
    labels = {
        **{f"paper, {form}": title for form, title in FORMS.items()},
        "LabelNoise": RANKINGS["LabelNoise"],
        "label disagreement, k = 20": RANKINGS["label disagreement, k = 20"],
        "5-fold self-confidence": RANKINGS["5-fold self-confidence"],
        INFLUENCE: INFLUENCE,
        "random": "random",
    }
    rows: list[Row] = []
    for name, label in labels.items():
        cells: list[Cell] = []
        for table in data:
            methods = record["results"][table]["methods"]
            row, theirs = methods[name], methods[INFLUENCE]
            lead = EMPTY if name == INFLUENCE else lead_at(record, row, theirs, "0.3")
            cells += [*_recall(record, row), lead]
        rows.append([label, *cells])
    lead = "lead at 30% ↑"
    header = ["method", "Enron, first 10% ↑", "15% ↑", "30% ↑", lead]
    return markdown([*header, "cats and dogs, 10% ↑", "15% ↑", "30% ↑", lead], rows)


def lead_at(
    record: Mapping[str, Any], row: Mapping[str, Any], peer: Mapping[str, Any], at: str
) -> Cell:
    """What a row finds more than a peer at a share checked, in percentage points."""
    column = record["settings"]["columns"].index(f"recall at {at}")
    errors = row["standard_error"][column], peer["standard_error"][column]
    lead = row["mean"][column] - peer["mean"][column]
    return number(100 * lead, 1, 100 * hypot(*errors))


def _recall(record: Mapping[str, Any], row: Mapping[str, Any]) -> list[Cell]:
    columns = record["settings"]["columns"]
    shares = ("0.1", "0.15", "0.3")
    return [number(row["mean"][columns.index(f"recall at {s}")]) for s in shares]
