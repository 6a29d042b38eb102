"""Tables of CoalitionPerturbation: beside its peers, and without each of its parts."""

from __future__ import annotations

from typing import Any

from tests.benchmarks.cells import (
    DIFFERENCE,
    INS_DEL,
    MINUS,
    Row,
    markdown,
    metric,
    number,
    percent,
)
from tests.benchmarks.coalition.bench import result
from tests.benchmarks.networks.trained import NETWORKS, TITLES
from tests.benchmarks.records import load

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
    "without evidence": "without the evidence: 1 - p alone",
    "evidence alone": "the evidence alone",
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


def coalition() -> str:
    """The measures of the paper beside independent ones, a block a network."""
    networks = [name for name in NETWORKS if result(name).exists()]
    blocks = [_block(load(result(name).stem)["methods"]) for name in networks]
    lines = blocks[0].splitlines()[:2]
    for name, block in zip(networks, blocks, strict=True):
        if len(blocks) > 1:
            lines.append(f"| *{TITLES[name]}* |" + " |" * lines[0].count(" | "))
        lines += block.splitlines()[2:]
    return "\n".join(lines)


def _block(methods: dict[str, Any]) -> str:
    """One network's table; the best of each column is the best there."""
    rows: list[Row] = []
    for name, label in COALITION.items():
        if name not in methods:
            continue
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
    methods = load("coalition_parts")["methods"]
    rows: list[Row] = []
    for name, label in PARTS.items():
        if name not in methods:
            continue
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
