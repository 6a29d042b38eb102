"""Tables of MarginSaliency on each network: beside its peers, and in other forms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
)
from tests.benchmarks.networks.trained import TITLES
from tests.benchmarks.records import load
from tests.benchmarks.saliency.rows import MAIN_ROW, ROWS

_COLUMNS = {  # of each network: what is measured, its head, digits, with an error
    DIFFERENCE: (INS_DEL, 3, True),
    "insertion": ("insertion ↑", 3, False),
    "deletion": ("deletion ↓", 3, False),
    "drop_keep20": ("drop, 20% kept ↓", 2, True),
    "paired": (f"MarginSaliency (800) {MINUS} it", 3, True),
}

_CLAIMED = {  # what is measured, its head and digits
    "spearman_with_grad_cam": ("rank correlation with Grad-CAM", 2),
    "gini": ("Gini index", 2),
    "half_share": ("share of the pixels with half of the map", 3),
}


def saliency() -> str:
    """Every method on every network, best insertion - deletion first."""
    return _table(_best_first("saliency"), (DIFFERENCE, "drop_keep20"))


def saliency_many() -> str:
    """The strongest methods on as many pictures as there was time for."""
    record = "saliency_many"
    return _table(_best_first(record), (DIFFERENCE, "paired", "drop_keep20"), record)


def saliency_many_parts() -> str:
    """Of the same their insertion and deletion apart."""
    record = "saliency_many"
    return _table(_best_first(record), ("insertion", "deletion"), record)


def saliency_parts() -> str:
    """Insertion and deletion apart, and the paired differences to our default."""
    return _table(_best_first("saliency"), ("insertion", "deletion", "paired"))


def saliency_forms() -> str:
    """The paper's form beside the default and the strongest peers."""
    names = ("MarginSaliency-paper", MAIN_ROW, "RISE-800", "LayerGradCam")
    return _table(names, (DIFFERENCE, "deletion", "drop_keep20"))


def saliency_corroboration() -> str:
    """What the paper claims: agreement with Grad-CAM, and sparsity."""
    rows: list[Row] = []
    for network, found in load("saliency_corroboration")["networks"].items():
        for name, cells in found["methods"].items():
            of = [
                number(cells[key]["mean"], digits, cells[key]["standard_error"])
                for key, (_, digits) in _CLAIMED.items()
            ]
            title = f"{TITLES[network]}: {ROWS[name].title}"  # type: ignore[index]
            rows.append([title, *of])
    heads = [head for head, _ in _CLAIMED.values()]
    return markdown(["method", *heads], rows)


def saliency_region_forms() -> str:
    """Neighbours, shift and weights of the paper's form."""
    rows: list[Row] = []
    for name, cells in load("saliency_region_forms")["forms"].items():
        of = [
            number(cells[key]["mean"], digits, cells[key]["standard_error"])
            for key, (_, digits) in {DIFFERENCE: (INS_DEL, 3), **_CLAIMED}.items()
        ]
        rows.append([name, *of])
    heads = [head for head, _ in _CLAIMED.values()]
    return markdown(["form", INS_DEL.removesuffix(" ↑"), *heads], rows)


def _networks(record: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = load(record)["networks"]
    return {name: found[name]["methods"] for name in TITLES if name in found}


def _best_first(record: str) -> list[str]:
    """Methods by how far behind MarginSaliency they are where both were run."""
    networks = _networks(record).values()
    names = [name for name in ROWS if any(name in rows for rows in networks)]

    def behind(name: str) -> float:
        found = [r[name]["paired"][DIFFERENCE]["mean"] for r in networks if name in r]
        return float(sum(found) / len(found))

    return sorted(names, key=behind)


def _table(names: Sequence[str], keys: Sequence[str], record: str = "saliency") -> str:
    networks = _networks(record)
    header = ["method", "forward passes"]
    for key in keys:
        header += [f"{TITLES[network]}: {_COLUMNS[key][0]}" for network in networks]  # type: ignore[index]
    rows: list[Row] = []
    for name in names:
        cells: list[str | Cell] = [ROWS[name].title, _passes(name, record)]
        for key in keys:
            cells += [_cell(rows, name, key) for rows in networks.values()]
        rows.append(cells)
    return markdown(header, rows)


def _passes(name: str, record: str) -> str:
    """Once where all networks agree, else of each in turn."""
    found = [
        f"{rows[name]['metrics']['n_forward']['mean']:.0f}"
        for rows in _networks(record).values()
        if name in rows
    ]
    return found[0] if len(set(found)) == 1 else " / ".join(found)


def _cell(rows: Mapping[str, Any], name: str, key: str) -> Cell:
    if name not in rows or (name, key) == (MAIN_ROW, "paired"):
        return EMPTY
    _, digits, error = _COLUMNS[key]
    if key == "paired":
        paired = rows[name]["paired"][DIFFERENCE]
        return number(paired["mean"], digits, paired["standard_error"])
    return metric(rows[name], key, digits, error)
