"""Tables of the image methods: MarginSaliency, representative and coalition maps."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from .table_cells import EMPTY, MINUS, Cell, Row, load, markdown, number, percent

DIFFERENCE = "insertion_minus_deletion"
INS_DEL = f"insertion {MINUS} deletion ↑"
SALIENCY = {
    "MarginSaliency": "**MarginSaliency**",
    "MarginSaliency-400": "**MarginSaliency**",
    "MarginSaliency-200": "**MarginSaliency**",
    "RISE-800": "RISE",
    "Occlusion-400": "Captum Occlusion",
    "LayerGradCam": "Captum LayerGradCam",
    "FeatureAblation": "Captum FeatureAblation, superpixels",
    "Lime-400": "Captum Lime",
    "KernelShap-400": "Captum KernelShap",
    "ScoreCAM": "pytorch-grad-cam ScoreCAM",
    "MarginSaliency-paper": "MarginSaliency, `paper=True`",
    "centre": "blob in the centre",
    "random": "random",
}
COALITION = {
    "CoalitionPerturbation": "**CoalitionPerturbation**",
    "without coalitions": "the same without coalitions",
    "LayerGradCam": "Captum LayerGradCam",
    "ScoreCAM": "pytorch-grad-cam ScoreCAM",
    "Occlusion-400": "Captum Occlusion",
    "IntegratedGradients-50": "Captum IntegratedGradients",
    "MarginSaliency-400": "MarginSaliency",
    "centre": "blob in the centre",
}
BLACK_BOXES = ("ScoreCAM", "Occlusion-400", "MarginSaliency-400", "centre", "random")
PARTS = {
    "without L_conf": "without L_conf",
    "margin loss": "the paper's margin for L_conf",
    "without L_c": "without L_c",
    "without moving coalitions": "without moving coalitions",
    "without coalitions": "without either",
    "15 steps": "15 steps",
    "30 steps": "30 steps",
    "SLIC coalitions": "SLIC superpixels for coalitions",
    "coalitions of 0 steps": "coalitions of an untrained clustering",
    "30 steps, 4 noises of 0.2": "30 steps of 4 noises",
    "paper": "`paper=True`, up to 500 steps of 16 noises",
}
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


def metric(
    row: Mapping[str, Any], key: str, digits: int = 3, error: bool = False
) -> Cell:
    """A mean over photographs."""
    found = row["metrics"][key]
    spread = found["standard_error"] if error else None
    return number(found["mean"], digits, spread)


def saliency() -> str:
    """Every method of the record, in its order: best insertion - deletion first."""
    rows: list[Row] = []
    for name, row in load("saliency")["methods"].items():
        paired = row["paired"][DIFFERENCE]
        own = name == "MarginSaliency"
        rows.append(
            [
                SALIENCY[name],
                f"{row['metrics']['n_forward']['mean']:.0f}",
                metric(row, DIFFERENCE, error=True),
                metric(row, "insertion"),
                metric(row, "deletion"),
                metric(row, "drop_keep20", 2, error=True),
                EMPTY if own else number(paired["mean"], 3, paired["standard_error"]),
            ]
        )
    header = ["method", "forward passes", INS_DEL, "insertion ↑"]
    header += ["deletion ↓", "drop, 20% kept ↓", "MarginSaliency (800) minus it"]
    return markdown(header, rows)


def saliency_forms() -> str:
    """The paper's form beside the default and the strongest peers."""
    methods = load("saliency")["methods"]
    names = ("MarginSaliency-paper", "MarginSaliency", "RISE-800", "LayerGradCam")
    rows: list[Row] = []
    for name in names:
        row = methods[name]
        rows.append(
            [
                SALIENCY[name],
                f"{row['metrics']['n_forward']['mean']:.0f}",
                metric(row, DIFFERENCE, error=True),
                metric(row, "insertion"),
                metric(row, "deletion"),
                metric(row, "drop_keep20", 2),
            ]
        )
    header = ["method", "forward passes", INS_DEL, "insertion ↑"]
    return markdown([*header, "deletion ↓", "drop, 20% kept ↓"], rows)


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


def coalition() -> str:
    """The measures of the paper beside independent ones."""
    methods = load("coalition")["methods"]
    rows: list[Row] = []
    for name, label in COALITION.items():
        row = methods[name]
        passes = f"{row['metrics']['n_forward']['mean']:.0f}"
        mask = f"{row['metrics']['mask_mean_soft']['mean']:.2f}"
        rows.append(
            [
                label,
                passes if name in BLACK_BOXES else f"{passes}, with backward",
                metric(row, "drop_soft", error=True),
                metric(row, "increase_soft", 2),
                metric(row, "top1_soft", 2),
                mask,
                metric(row, DIFFERENCE, error=True),
                metric(row, "drop_keep20", 2),
            ]
        )
    header = ["method", "passes", "average drop ↓", "increase ↑", "class kept ↑"]
    header += ["mean of the map", INS_DEL, "drop, 20% kept ↓"]
    return markdown(header, rows)


def coalition_parts() -> str:
    """What each part of the loss and of the search earns, on the same photographs."""
    methods = load("coalition")["methods"]
    rows: list[Row] = []
    for name, label in PARTS.items():
        row = methods[name]
        loss = row["ours_minus_it"][DIFFERENCE]
        rows.append(
            [
                label,
                str(row["photographs"]),
                f"{row['metrics']['n_forward']['mean']:.0f}",
                number(-loss["mean"], 2, loss["standard_error"]),
                number(row["metrics"]["drop_soft"]["mean"], 2),
                percent(row["metrics"]["increase_soft"]["mean"]),
                number(row["metrics"]["mask_mean_soft"]["mean"], 2),
            ]
        )
    header = [
        "form",
        "photographs",
        "passes",
        f"insertion {MINUS} deletion, less the default's",
    ]
    return markdown([*header, "average drop", "increase", "mean of the map"], rows)
