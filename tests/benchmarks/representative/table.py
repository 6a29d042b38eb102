"""Tables of RepresentativeInterpretation: unseen images, by task."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from tests.benchmarks.cells import Row, markdown, number
from tests.benchmarks.records import load

TASKS = {
    "cats_dogs_conv": "dogs and cats, conv",
    "cats_dogs_deep": "dogs and cats, deep",
    "cifar10": "CIFAR-10",
    "mnist": "MNIST",
}
REPRESENTATIVE = {
    "representative Q=50, reused bank": (
        "**bank**, evidence for (`relu_attributions=True`)"
    ),
    "representative linear Q=50, reused bank": "**bank**, signed (default)",
    "representative paper Q=50, reused bank": "**bank**, `paper=True`",
    "Grad-CAM, reused weights": "Grad-CAM, weights reused",
    "Grad-CAM++, reused weights": "Grad-CAM++, weights reused",
    "Score-CAM, reused weights": "Score-CAM, weights reused",
    "Grad-CAM, reused map": "Grad-CAM, map reused",
    "Grad-CAM++, reused map": "Grad-CAM++, map reused",
    "Score-CAM, reused map": "Score-CAM, map reused",
    "Grad-CAM, per image": "Grad-CAM for every image",
    "centre": "blob in the centre",
}


def representative() -> str:
    """Average drop on unseen images, and what a bank covers."""
    tasks = load("representative")["tasks"]
    rows = _by_task(tasks, "average_drop")
    covered = ["covered: unseen images / references of the class / others, of each"]
    for task in TASKS:
        banks = tasks[task]["interpretations"]["Q=50"]
        coverage = fmean(one["coverage"] for one in banks)
        of_class = fmean(one["bank"]["share_of_class_covered"] for one in banks)
        wrong = fmean(one["bank"]["wrong_references_covered"] for one in banks)
        covered.append(f"{coverage:.0%} / {of_class:.0%} / {wrong:.1f}")
    return markdown(["method", *TASKS.values()], [*rows, covered], best="min")


def representative_increase() -> str:
    """Share of unseen images whose score rises when 20% of the pixels are kept."""
    tasks = load("representative")["tasks"]
    rows = _by_task(tasks, "average_increase")
    return markdown(["method", *TASKS.values()], rows, best="max")


def _by_task(tasks: Mapping[str, Any], key: str) -> list[Row]:
    rows: list[Row] = []
    for name, label in REPRESENTATIVE.items():
        cells = (tasks[task]["methods"][name][key] for task in TASKS)
        spread = "standard_deviation"
        rows.append([label, *(number(c["mean"], 1, c[spread]) for c in cells)])
    return rows
