"""Tables of LabelNoise on the mistakes that people make."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.benchmarks.cells import MINUS, Cell, Row, markdown, number
from tests.benchmarks.records import load

INPUTS = {
    "squeezenet": "SqueezeNet",
    "efficientnet": "EfficientNet-Lite0",
    "probabilities": "probabilities",
    "squeezenet + probabilities": "SqueezeNet, probabilities",
    "efficientnet + probabilities": "EfficientNet-Lite0, probabilities",
}
OURS = "LabelNoise"
# A column is a method by its names: of features, of probabilities.
COLUMNS: dict[str, tuple[str, ...]] = {
    "**LabelNoise**": (OURS,),
    "self-confidence": ("self-confidence", "5-fold self-confidence"),
    "normalised margin": ("normalised margin", "5-fold normalised margin"),
    "cleanlab": ("cleanlab", "cleanlab, 5-fold"),
    "Datalab": ("Datalab", "Datalab, features"),
    "AUM": ("AUM",),
    "disagreement of 20 neighbours": ("label disagreement, k = 20",),
    "mean rank": ("mean rank of both self-confidences",),
}
FLAGGING = ("**LabelNoise**", "normalised margin", "cleanlab", "Datalab")
DIGITS = {
    "pixels": "pixels",
    "probabilities": "probabilities",
    "pixels + probabilities": "pixels, probabilities",
}
NONE = Cell("\N{EN DASH}")


def label_noise_human() -> str:
    """Average precision of the report half, and the lead over the best peer."""
    rows: list[Row] = []
    for label, table in _report():
        methods = table["methods"]
        cells = [_cell(methods, names, "AP") for names in COLUMNS.values()]
        rows.append([label, *cells, _lead(methods)])
    header = ["given, labels (wrong)", *COLUMNS, f"ours {MINUS} best peer"]
    return markdown(header, rows, best="row max")


def label_noise_human_flags() -> str:
    """Flagged for each wrong one, and the precision of the flags; the report half."""
    rows: list[Row] = []
    for label, table in _report():
        cells = []
        for column in FLAGGING:
            row = _first(table["methods"], COLUMNS[column])
            if row is None or "flagged" not in row:
                cells.append(NONE)
                continue
            flagged, right = row["flagged_of_wrong"], row["flagged_precision"]
            cells.append(Cell(f"{flagged:.2f}, {right:.0%}"))
        rows.append([label, *cells])
    return markdown(["given, labels (wrong)", *FLAGGING], rows)


def label_noise_verified() -> str:
    """Ranks of the verified mistakes among MNIST's test digits."""
    tables = load("label_noise_human")["results"]["mnist"]
    rows: list[Row] = []
    for inputs, given in DIGITS.items():
        if inputs not in tables:
            continue
        methods = tables[inputs]["methods"]
        for column, names in COLUMNS.items():
            row = _first(methods, names)
            if row is not None:
                found = [number(row[f"first_{n}"], 0) for n in (100, 200, 500)]
                ap = [number(row[key]) for key in ("AP", "AP_verified")]
                rows.append([given, column, *found, *ap, str(row.get("flagged", ""))])
    header = ["given", "method", "first 100 ↑", "first 200 ↑", "first 500 ↑"]
    return markdown([*header, "AP ↑", "AP of the 100 ↑", "flagged"], rows)


def _report() -> list[tuple[str, Any]]:
    """The tables of the report half with their labels."""
    tables = load("label_noise_human")["results"]["report"]
    return [
        (f"{given}, {level} ({table['wrong'] / table['samples']:.0%})", table)
        for inputs, given in INPUTS.items()
        for level, table in tables.get(inputs, {}).items()
    ]


def _first(methods: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((methods[name] for name in names if name in methods), None)


def _cell(methods: Mapping[str, Any], names: tuple[str, ...], key: str) -> Cell:
    row = _first(methods, names)
    return NONE if row is None else number(row[key])


def _lead(methods: Mapping[str, Any]) -> Cell:
    """Over the peer of the highest average precision, shown in a column or not."""
    if OURS not in methods:
        return NONE
    best = max((n for n in methods if n != OURS), key=lambda n: methods[n]["AP"])
    row = methods[best]
    lead = number(row["labelnoise_minus_this"], 3, row["standard_error"])
    return Cell(f"{lead.text} ({best})")  # without a value: never the row's highest
