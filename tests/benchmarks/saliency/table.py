"""Tables of MarginSaliency: beside its peers, and in the paper's form."""

from __future__ import annotations

from tests.benchmarks.cells import (
    DIFFERENCE,
    EMPTY,
    INS_DEL,
    Row,
    markdown,
    metric,
    number,
)
from tests.benchmarks.records import load

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
