"""Tables of RepresentativeInterpretation: unseen images, by task."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from tests.benchmarks.cells import EMPTY, Cell, Row, markdown, number, percent
from tests.benchmarks.networks.trained import TITLES
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
PROTOCOL = {
    "RI, |Q| = 50": "**`bank(paper=True)`**, 50 boundaries",
    "RI, |Q| = 10": "10 boundaries",
    "RI, |Q| = 200": "200 boundaries",
    "Grad-CAM": "Grad-CAM",
    "Grad-CAM++": "Grad-CAM++",
    "Score-CAM": "Score-CAM",
    "ACE": "ACE",
    "RI, nearest centre alone": "`bank(paper=True)`, by nearest centre alone",
    "Grad-CAM, assigned as ours": "Grad-CAM, at the centre that ours takes",
    "default bank, evidence for": "default bank, `relu_attributions=True`",
    "default bank, signed": "default bank",
}
PROTOCOL_NETWORKS = {
    "cats_dogs_deep": "SqueezeNet",
    "cats_dogs_efficientnet": "EfficientNet-Lite0",
}
ON_NETWORKS = {
    "default": "**signed (default)**",
    "evidence for": "**evidence for** (`relu_attributions=True`)",
    "paper": "`paper=True`",
    "Grad-CAM": "Grad-CAM",
    "Grad-CAM evidence for": "Grad-CAM, `relu_attributions=True`",
    "random": "random",
}
SETTINGS = {
    "without": "no reference of the class",
    "with": "references of the class",
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


def representative_protocol() -> str:
    """The paper's Table 1 on two networks, with paired differences to its bank."""
    tasks = load("representative_protocol")["tasks"]
    networks = [tasks[task] for task in PROTOCOL_NETWORKS]
    rows: list[Row] = []
    for method, label in PROTOCOL.items():
        cells: list[Cell] = []
        runs = []
        for task in networks:
            found, paired = (task[k].get(method) for k in ("methods", "ours_minus"))
            cells += [
                _of_images(found, "average_drop"),
                _of_images(found, "average_increase"),
                Cell(_of_images(paired, "average_drop").text),
            ]
            if found is not None:
                runs.append(f"{found['runs']} of {found['images']}")
        rows.append([label, *cells, ", ".join(runs)])
    heads = [
        f"{network}, {words}"
        for network in PROTOCOL_NETWORKS.values()
        for words in ("drop ↓", "increase ↑", "first row's drop minus this")
    ]
    return markdown(["method", *heads, "runs of images"], rows)


def _of_images(found: Mapping[str, Any] | None, key: str) -> Cell:
    if found is None:
        return EMPTY
    return number(found[key]["mean"], 1, found[key]["standard_error"])


def representative_similar() -> str:
    """What another network says of the references that two rules call similar."""
    rules = load("representative_similar")["rules"]
    rows: list[Row] = []
    for rule, found in rules.items():
        same, cosine = found["same_name"], found["cosine"]
        rows.append(
            [
                rule,
                number(100 * same["mean"], 1, 100 * same["standard_error"]),
                number(cosine["mean"], 3, cosine["standard_error"]),
            ]
        )
    head = [
        "four references",
        "of the same name, % ↑",
        "cosine of features ↑",
    ]
    return markdown(head, rows)


def representative_networks() -> str:
    """Insertion minus deletion on trained networks, and what the polytopes cover."""
    networks = load("representative_networks")["networks"]
    names = [name for name in TITLES if name in networks]
    rows: list[Row] = []
    for setting, words in SETTINGS.items():
        if not all(setting in networks[name] for name in names):
            continue  # not measured on all of them yet
        found = [networks[name][setting] for name in names]
        rows.append([f"*{words}*", *("" for _ in names)])
        for key, label in ON_NETWORKS.items():
            cells = (one["rows"][key]["insertion_minus_deletion"] for one in found)
            rows.append(
                [label, *(number(c["mean"], 3, c["standard_error"]) for c in cells)]
            )
        rows.append(
            [
                "signed minus Grad-CAM, evidence for minus Grad-CAM's, paired",
                *(_paired(one["rows"]) for one in found),
            ]
        )
        rows.append(
            [
                "agreement of two draws: signed / `paper=True`",
                *(_agreement(one["rows"]) for one in found),
            ]
        )
        rows.append(
            [
                "covered references / pictures that cover none / purity of the others",
                *(_coverage(one) for one in found),
            ]
        )
    return markdown(["", *(TITLES[name] for name in names)], rows)


def _paired(rows: Mapping[str, Any]) -> str:
    found = (rows[key]["paired"] for key in ("default", "evidence for"))
    return ", ".join(number(d["mean"], 3, d["standard_error"]).text for d in found)


def _agreement(rows: Mapping[str, Any]) -> str:
    return " / ".join(
        number(rows[key]["agreement"], 2).text for key in ("default", "paper")
    )


def _coverage(found: Mapping[str, Any]) -> str:
    none, purity = found["share_that_cover_none"], found["purity_of_those_that_cover"]
    pure = percent(purity) if none < 1 else Cell("none")
    return f"{found['covered']:.1f} / {none:.0%} / {pure.text}"


def _by_task(tasks: Mapping[str, Any], key: str) -> list[Row]:
    rows: list[Row] = []
    for name, label in REPRESENTATIVE.items():
        cells = (tasks[task]["methods"][name][key] for task in TASKS)
        spread = "standard_deviation"
        rows.append([label, *(number(c["mean"], 1, c[spread]) for c in cells)])
    return rows
