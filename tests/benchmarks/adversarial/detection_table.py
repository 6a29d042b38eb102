"""Tables of detectors of attacked images: AttackDetector beside its peers."""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.benchmarks.cells import Row, markdown, number
from tests.benchmarks.records import load

PEERS = {
    "softmax": "largest softmax",
    "knn": "k-NN distance",
    "mahalanobis": "Mahalanobis distance",
    "vim": "ViM",
    "lid": "LID",
    "kde": "kernel density (Feinman et al.)",
    "mmd, low": "MMD, low is suspicious",
    "mahalanobis, layers": "Mahalanobis distance, 4 layers",
    "deep knn, layers": "deep k-NN, 4 layers",
    "lid, layers, learnt": "LID, 4 layers, shown FGSM",
    "multilid, layers, learnt": "MultiLID, 4 layers, shown FGSM",
}
OURS = {
    "AdversarialStatistics": "`AdversarialStatistics`",
    "AdversarialStatistics, graph_features": "the same, `graph_features`",
    "AttackDetector, one layer": "**AttackDetector**, last layer",
    "AttackDetector": "**AttackDetector**, 4 layers",
    "AttackDetector, no filter": "the same without the filter",
    "AttackDetector, learnt": "the same, shown FGSM",
}
ROWS = {**PEERS, **OURS}
ATTACKS = {
    "FGSM small": "FGSM, small ↑",
    "FGSM middle": "middle ↑",
    "FGSM large": "large ↑",
    "PGD": "PGD ↑",
    "Carlini-Wagner": "Carlini\N{EN DASH}Wagner ↑",
    "DeepFool": "DeepFool ↑",
}
KNOWING = {
    "latents of another class": "knows the layers ↑",
    "attack on AttackDetector": "knows AttackDetector ↑",
}
ODD = ("rotated", "noisy", "near the boundary")


def networks() -> Any:
    """By network: what was measured."""
    return load("attack_detection")["networks"]


def _attacks(network: str) -> str:
    rows: list[Row] = []
    for name, label in ROWS.items():
        row = networks()[network]["rows"][name]
        cells = [number(row["auroc"][a]) for a in (*ATTACKS, *KNOWING)]
        mean = number(row["mean"], error=row["standard_error"])
        rows.append([label, mean, *cells])
    head = ["", "mean of six ↑", *ATTACKS.values(), *KNOWING.values()]
    return markdown(head, rows)


def _odd(network: str) -> str:
    rows: list[Row] = []
    for name, label in ROWS.items():
        row = networks()[network]["rows"][name]
        cells = [number(row["odd"][key]) for key in ODD]
        against = [number(row["attacked_against_odd"][key]) for key in ODD]
        rows.append([label, number(row["mean_false_alarms"]), *cells, *against])
    head = ["", "false alarms at 95% found ↓", *(f"{key}" for key in ODD)]
    return markdown([*head, *(f"attacked against {key} ↑" for key in ODD)], rows)


TABLES = {
    "attack-detection-mnist": partial(_attacks, "MNIST"),
    "attack-detection-cifar": partial(_attacks, "CIFAR-10"),
    "attack-detection-odd-mnist": partial(_odd, "MNIST"),
    "attack-detection-odd-cifar": partial(_odd, "CIFAR-10"),
}
