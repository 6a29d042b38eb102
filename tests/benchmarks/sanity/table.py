"""The table of the sanity checks: how much of a map outlives what was learnt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.benchmarks.cells import EMPTY, Cell, Row, markdown, number
from tests.benchmarks.networks.trained import TITLES
from tests.benchmarks.records import load

_NAMES = {
    "MarginSaliency-200": "**MarginSaliency**, 200 passes",
    "RepresentativeInterpretation": "**RepresentativeInterpretation**",
    "CoalitionPerturbation": "**CoalitionPerturbation**",
    "LayerGradCam": "Captum LayerGradCam",
    "IntegratedGradients": "Captum IntegratedGradients",
    "Occlusion": "Captum Occlusion",
}
_LABELS = {  # state of the network to head of the column
    "permuted": "permuted labels, should be 0",
    "other net": "another good net",
}
_PARAMETERS = {
    "all": "random weights, should be 0",
    "other image": "another photograph",
    "other seed": "another seed, should be 1",
}


def sanity() -> str:
    """Signed and absolute rank correlations of the maps of two networks."""
    record = load("sanity")
    # What the columns show: of which part of the record, which state, and the head.
    columns = [(record["labels"], state, head) for state, head in _LABELS.items()]
    for network, title in TITLES.items():
        if network in record["parameters"]:
            part = record["parameters"][network]
            columns += [(part, s, f"{title}: {h}") for s, h in _PARAMETERS.items()]
    rows: list[Row] = []
    for key, name in _NAMES.items():
        cells: list[str | Cell] = [name]
        for part, state, _ in columns:
            found = part["methods"][key]
            cells.append(_both(found[state]) if state in found else EMPTY)
        rows.append(cells)
    return markdown(["", *(head for _, _, head in columns)], rows)


def _both(found: Mapping[str, Any]) -> str:
    """Signed and absolute, and where maps without any content were counted as 0."""
    signed, absolute = (  # without a minus before zero
        number(round(found[k]["mean"], 2) or 0.0, 2).text
        for k in ("signed", "absolute")
    )
    empty = found["constant_maps"]
    return f"{signed} / {absolute}" + (f" ({empty} empty)" if empty else "")
