"""The table of the sanity checks: how much of a map outlives what was learnt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.benchmarks.cells import EMPTY, Cell, Row, markdown, number
from tests.benchmarks.records import load

_NAMES = {
    "MarginSaliency-200": "**MarginSaliency**, 200 passes",
    "RepresentativeInterpretation": "**RepresentativeInterpretation**",
    "CoalitionPerturbation": "**CoalitionPerturbation**",
    "LayerGradCam": "Captum LayerGradCam",
    "IntegratedGradients": "Captum IntegratedGradients",
    "Occlusion": "Captum Occlusion",
}
_COLUMNS = {  # of each part of the record: state of the network to head of the column
    "labels": {
        "permuted": "permuted labels, should be 0",
        "other net": "another good net",
    },
    "parameters": {
        "all": "random weights, should be 0",
        "other image": "another photograph",
        "other seed": "another seed, should be 1",
    },
}


def sanity() -> str:
    """Signed and absolute rank correlations of the maps of two networks."""
    record = load("sanity")
    heads = [head for states in _COLUMNS.values() for head in states.values()]
    rows: list[Row] = []
    for key, name in _NAMES.items():
        cells: list[str | Cell] = [name]
        for part, states in _COLUMNS.items():
            found = record[part]["methods"][key]
            cells += [_both(found[s]) if s in found else EMPTY for s in states]
        rows.append(cells)
    return markdown(["", *heads], rows)


def _both(found: Mapping[str, Any]) -> str:
    """Signed and absolute, and where maps without any content were counted as 0."""
    signed, absolute = (  # without a minus before zero
        number(round(found[k]["mean"], 2) or 0.0, 2).text
        for k in ("signed", "absolute")
    )
    empty = found["constant_maps"]
    return f"{signed} / {absolute}" + (f" ({empty} empty)" if empty else "")
