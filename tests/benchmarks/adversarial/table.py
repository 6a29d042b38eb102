"""Tables of AdversarialStatistics: how well attacked images are told."""

from __future__ import annotations

from collections.abc import Mapping

from tests.benchmarks.cells import EMPTY, Row, markdown, number, percent
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
    "kde: paper, algorithm": "the paper's filter (Algorithm 1)",
}
LOW = "low: "  # of what is recorded with high as suspicious
WHOLE = "mmd: the paper's f, high is suspicious"
STATISTICS = {
    "kde: f": "kernel density (KDE)",
    "kde: paper, algorithm": "KDE, `paper=True`, Algorithm 1",
    "kde: paper, arxiv": 'KDE, `paper="arxiv"`',
    "kde: paper, journal": 'KDE, `paper="journal"`',
    "kde: filtered, class": "**KDE, default with references**",
    "kde: filtered, neighbours by maps": "**KDE, `graph_features`**",
    WHOLE: "MMD of the paper",
    "mmd: paper, algorithm": "MMD of the paper, `paper=True`, Algorithm 1",
    "mmd: paper, arxiv": 'MMD of the paper, `paper="arxiv"`',
    "mmd: paper, journal": 'MMD of the paper, `paper="journal"`',
    "mmd: the paper's f, low is suspicious": "MMD of the paper, low is suspicious",
    f"{LOW}mmd: paper, algorithm": "the same, `paper=True`, low is suspicious",
    f"{LOW}mmd: paper, journal": 'the same, `paper="journal"`, low is suspicious',
    "mmd: f, high is suspicious": "MMD of case study I",
    "mmd: f": "MMD of case study I, low is suspicious",
    "mmd: filtered, 64 hops": '**MMD of I, `sided="below"`, 64 hops**',
}
# What is said of the overlap, in this order.
OVERLAPPING = {
    "kde: f": "kernel density (KDE)",
    "kde: paper, algorithm": "KDE, `paper=True`",
    WHOLE: "MMD of the paper",
    "mmd: paper, algorithm": "MMD of the paper, `paper=True`",
}


def adversarial() -> str:
    """AUROC of the kernel density, without and with the graph."""
    return _aurocs(KDE)


def adversarial_forms() -> str:
    """AUROC of both statistics, in all forms."""
    return _aurocs(STATISTICS)


def adversarial_neighbors() -> str:
    """AUROC of the published forms by the number of neighbours, two attacks."""
    tables = load("adversarial")["tables"]
    shown, counts = ("FGSM 0.3", "Carlini-Wagner L2"), (10, 20, 30, 40)
    rows: list[Row] = []
    for function, label in (("kde", "KDE"), ("mmd", "MMD of the paper")):
        for form in ("algorithm", "arxiv", "journal"):
            cells = [
                number(tables[attack]["statistics"][name]["auroc"])
                for attack in shown
                for k in counts
                for name in [
                    f"{function}: paper, {form}" + (f", k = {k}" if k != 30 else "")
                ]
            ]
            rows.append([f'{label}, `paper="{form}"`', *cells])
    heads = [
        f"{_name(attack)}, k = {k}" if k == counts[0] else f"{k}"
        for attack in shown
        for k in counts
    ]
    return markdown(["statistic", *heads], rows)


def adversarial_overlap() -> str:
    """Whether images whose scores overlap were criticisms before the attack."""
    tables = load("adversarial")["tables"]
    rows: list[Row] = []
    for attack in ATTACKS:
        for name, label in OVERLAPPING.items():
            found = tables[attack]["overlap"][name]
            cells = [
                number(found[key]["auroc"], 2, found[key]["standard_error"])
                if found[key]["auroc"] is not None
                else EMPTY
                for key in (
                    "missed, by pixels",
                    "missed, by hidden",
                    "alarms, by pixels",
                    "alarms, by hidden",
                )
            ]
            rows.append([_name(attack), label, percent(found["missed_share"]), *cells])
    heads = ["missed: by pixels", "by latents", "alarms: by pixels", "by latents"]
    return markdown(["attack", "score", "missed", *heads], rows)


def _name(attack: str) -> str:
    head = ATTACKS[attack].removesuffix(" ↑")
    return f"FGSM {head}" if head[0] == "0" else head


def _aurocs(names: Mapping[str, str]) -> str:
    tables = load("adversarial")["tables"]
    rows: list[Row] = []
    for name, label in names.items():
        known = name.removeprefix(LOW)
        areas = [tables[attack]["statistics"][known]["auroc"] for attack in ATTACKS]
        if known != name:
            areas = [1 - area for area in areas]
        rows.append([label, *map(number, areas)])
    return markdown(["statistic", *ATTACKS.values()], rows)
