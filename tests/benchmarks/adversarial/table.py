"""Tables of AdversarialStatistics: how well attacked images are told."""

from __future__ import annotations

from collections.abc import Mapping

from tests.benchmarks.cells import Row, markdown, number
from tests.benchmarks.records import load

ATTACKS = {
    "FGSM 0.1": "FGSM 0.1 ↑",
    "FGSM 0.15": "0.15 ↑",
    "FGSM 0.3": "0.3 ↑",
    "Carlini-Wagner L2": "Carlini\N{EN DASH}Wagner ↑",
}
KDE = {
    "kde: f": "kernel density (Feinman et al.)",
    "kde: filtered, class": (
        "**less that of training images of the class** (default with references)"
    ),
    "kde: filtered, neighbours by maps": (
        "**less that of 30 alike in the convolutions** (`graph_features`)"
    ),
    "kde: paper": "the paper's filter",
}
STATISTICS = {
    "kde: f": "kernel density (KDE)",
    "kde: paper": "KDE, `paper=True`",
    "kde: filtered, class": "**KDE, default with references**",
    "kde: filtered, neighbours by maps": "**KDE, `graph_features`**",
    "mmd: f": "MMD, low is suspicious",
    "mmd: paper": "MMD, `paper=True`, low is suspicious",
    "mmd: filtered, 64 hops": '**MMD, `sided="below"`, 64 hops**',
}


def adversarial() -> str:
    """AUROC of the kernel density, without and with the graph."""
    return _aurocs(KDE)


def adversarial_forms() -> str:
    """AUROC of both statistics, in all forms."""
    return _aurocs(STATISTICS)


def _aurocs(names: Mapping[str, str]) -> str:
    tables = load("adversarial")["tables"]
    rows: list[Row] = []
    for name, label in names.items():
        found = [tables[attack]["statistics"][name] for attack in ATTACKS]
        rows.append([label, *(number(row["auroc"]) for row in found)])
    return markdown(["statistic", *ATTACKS.values()], rows)
