"""Tables of CoalitionPerturbation: beside its peers, and without each of its parts."""

from __future__ import annotations

from typing import Any

from tests.benchmarks.cells import (
    DIFFERENCE,
    EMPTY,
    INS_DEL,
    MINUS,
    Cell,
    Row,
    markdown,
    metric,
    number,
    percent,
)
from tests.benchmarks.networks.trained import NETWORKS, TITLES
from tests.benchmarks.records import load
from tests.benchmarks.saliency.rows import ROWS

COALITION = ("CoalitionPerturbation", "coalition-keeping", "LayerGradCam", "centre")
DEFAULT_FORM = "the default, `deletion=False`"
PARTS = {
    "without deletion": DEFAULT_FORM,
    "without evidence": "without the evidence: 1 - p alone",
    "evidence alone": "the evidence alone",
    "without L_r": "without L_r, the mask loss",
    "without L_conf": "without L_conf",
    "margin loss": "the margin to other classes for L_conf",
    "without L_c": "without L_c",
    "evenness 10": "evenness for L_c, at a weight of 10",
    "without moving coalitions": "without moving coalitions",
    "without coalitions": "without either",
    "15 steps": "15 steps",
    "30 steps": "30 steps",
    "SLIC coalitions": "SLIC superpixels for coalitions",
    "coalitions of 0 steps": "coalitions of an untrained clustering",
    "short paper": "**`paper=True`, cut short** (60 steps of 2 noises)",
    "short paper, evenness": "the same, evenness for L_c",
    "short paper without L_r": "the same without L_r",
    "short paper without L_conf": "the same without L_conf",
    "short paper without L_c": "the same without L_c",
    "paper": "`paper=True`, up to 500 steps of 16 noises",
}
PARTITIONS = {
    "default": "**coalitions**, 16 at most",
    "paper": "**coalitions**, `paper=True`, 16 at least",
    "untrained": "coalitions of the untrained network",
    "colours": "coalitions of colours",
    "SLIC": "SLIC superpixels",
    "random": "nearest of random points",
}
REGIONS = {"linear": "a shape", "xor": "two shapes", "photographs": "four photographs"}
OPTIONS = {
    "n_clusters": "clusters at first",
    "n_coalitions": "coalitions at most",
    "extent_weight": "λ, of L_r",
    "confidence_weight": "µ, of L_conf",
    "coalition_weight": "\N{GREEK SMALL LETTER NU}, of L_c",
    "evenness": "evenness for L_c, σ",
    "swapped": "λ = 100, µ = 1",
}


def coalition() -> str:
    """The measures of the paper beside independent ones, a block a network."""
    networks = load("coalition")["networks"]
    blocks = {name: _block(networks[name]["methods"]) for name in NETWORKS}
    lines = blocks[NETWORKS[0]].splitlines()[:2]
    for name, block in blocks.items():
        lines.append(f"| *{TITLES[name]}* |" + " |" * lines[0].count(" | "))
        lines += block.splitlines()[2:]
    return "\n".join(lines)


def _block(methods: dict[str, Any]) -> str:
    """One network's table; the best of each column is the best there."""
    rows: list[Row] = []
    for name in COALITION:
        row, method = methods[name], ROWS[name]
        passes = f"{row['metrics']['n_forward']['mean']:.0f}"
        ahead = row["paired"][DIFFERENCE]
        # Means of other pictures are no means to compare with.
        same = row["photographs"] == methods[COALITION[0]]["photographs"]
        shown: list[str | Cell] = [
            metric(row, "drop_soft", error=True),
            metric(row, "increase_soft", 2),
            metric(row, "top1_soft", 2),
            f"{row['metrics']['mask_mean_soft']['mean']:.2f}",
            metric(row, DIFFERENCE, error=True),
            number(ahead["mean"], 3, ahead["standard_error"])
            if name != COALITION[0]
            else EMPTY,
            metric(row, "drop_keep20", 2),
        ]
        if not same:
            shown = [cell if i == 5 else EMPTY for i, cell in enumerate(shown)]
        rows.append(
            [
                method.title.removesuffix(", white box").removesuffix(", no model"),
                str(row["photographs"]),
                f"{passes}, with backward" if method.box == "white box" else passes,
                *shown,
            ]
        )
    header = ["method", "pictures", "passes", "average drop ↓", "increase ↑"]
    header += ["class kept ↑", "mean of the map", INS_DEL]
    header += [f"CoalitionPerturbation {MINUS} it", "drop, 20% kept ↓"]
    return markdown(header, rows)


def coalition_parts() -> str:
    """What each part of the loss and of the search earns, on the same photographs."""
    rows = _parts(load("coalition_parts")["methods"])
    rows.append([f"*{TITLES['efficientnet']}*", *[""] * 6])
    rows += _parts(load("coalition_residual")["methods"])
    header = [
        "form",
        "photographs",
        "passes",
        f"insertion {MINUS} deletion, less the default's",
    ]
    return markdown([*header, "average drop", "increase", "mean of the map"], rows)


def _parts(methods: dict[str, Any]) -> list[Row]:
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
                number(-loss["mean"], 2, loss["standard_error"])
                if label != DEFAULT_FORM
                else EMPTY,
                number(row["metrics"]["drop_soft"]["mean"], 2),
                percent(row["metrics"]["increase_soft"]["mean"]),
                number(row["metrics"]["mask_mean_soft"]["mean"], 2),
            ]
        )
    return rows


def coalition_regions() -> str:
    """How well coalitions agree with known regions, beside other parts."""
    pictures = load("coalition_regions")["pictures"]
    rows: list[Row] = []
    for name, label in PARTITIONS.items():
        row: list[str | Cell] = [label]
        for kind in REGIONS:
            found = pictures[kind]["parts"][name]
            row += [
                number(found["adjusted_rand"]["mean"], 2),
                number(found["best_part"]["mean"], 2),
                number(found["best_union"]["mean"], 2),
                f"{found['n_parts']['mean']:.0f}",
            ]
        rows.append(row)
    header = ["parts"]
    for label in REGIONS.values():
        header += [f"{label}: adjusted Rand ↑", "best part ↑", "best union ↑", "parts"]
    return markdown(header, rows)


def coalition_sweeps() -> str:
    """Each option of the default form and of the paper's at two more values."""
    rows: list[Row] = []
    for row in load("coalition_sweeps")["rows"].values():
        form = "`paper=True`, short" if row["form"] == "paper" else "default"
        label = OPTIONS.get(row["option"], "")
        value = f"{label}: {row['value']}" if row["value"] else label or "as it is"
        less = row["less_the_forms_own"]
        rows.append(
            [
                form,
                value,
                f"{row['metrics']['n_coalitions']['mean']:.1f}",
                number(less["mean"], 2, less["standard_error"]) if label else EMPTY,
                number(row["metrics"]["drop_soft"]["mean"], 2),
                number(row["metrics"]["mask_mean_soft"]["mean"], 2),
            ]
        )
    header = ["form", "option", "coalitions"]
    header += [f"insertion {MINUS} deletion, less the form's own"]
    return markdown([*header, "average drop", "mean of the map"], rows)
