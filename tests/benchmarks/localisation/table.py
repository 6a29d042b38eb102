"""Tables of localisation: grids of pictures, and shapes in noise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tests.benchmarks.cells import EMPTY, Cell, Row, markdown, number
from tests.benchmarks.localisation.rows import CONTROLS, beats_controls
from tests.benchmarks.networks.trained import TITLES
from tests.benchmarks.records import load
from tests.benchmarks.saliency.rows import ROWS

NOT_BETTER = "†"
_PROBLEMS = {"linear": "linear", "xor": "XOR"}


def grid_pointing() -> str:
    """GridPG on each network: of the map as it is, and of what is above its mean."""
    networks = load("grid_pointing")["networks"]
    rows: list[Row] = []
    for name in _best_first((n["rows"] for n in networks.values()), "score"):
        cells: list[str | Cell] = [ROWS[name].title, _passes(networks.values(), name)]
        for network in networks.values():
            for key in ("score", "above_mean"):
                cells.append(_cell(network["rows"], name, key))
        rows.append(cells)
    header = ["method", "forward passes"]
    for network in networks:
        header += [f"{TITLES[network]} ↑", "above the map's mean ↑"]
    return markdown(header, rows)


def known_masks() -> str:
    """Energy, overlap and pointing on both problems."""
    problems = load("known_masks")["problems"]
    rows: list[Row] = []
    for name in _best_first((p["rows"] for p in problems.values()), "energy"):
        cells: list[str | Cell] = [ROWS[name].title, _passes(problems.values(), name)]
        for problem in problems.values():
            for key in ("energy", "iou", "pointing"):
                cells.append(_cell(problem["rows"], name, key, digits=2))
        rows.append(cells)
    header = ["method", "forward passes"]
    for problem in problems:
        title = _PROBLEMS[problem]
        header += [f"{title}: energy inside ↑", "overlap ↑", "highest pixel inside ↑"]
    return markdown(header, rows)


def _best_first(parts: Iterable[Mapping[str, Any]], key: str) -> list[str]:
    """Names by their mean over the parts that have them."""
    means: dict[str, list[float]] = {}
    for rows in parts:
        for name, row in rows.items():
            means.setdefault(name, []).append(row["metrics"][key]["mean"])
    return sorted(means, key=lambda name: -sum(means[name]) / len(means[name]))


def _passes(parts: Iterable[Mapping[str, Any]], name: str) -> str:
    found = [p["rows"][name]["n_forward"] for p in parts if name in p["rows"]]
    return f"{sum(found) / len(found):.0f}"


def _cell(rows: Mapping[str, Any], name: str, key: str, digits: int = 3) -> Cell:
    """A mean; marked where it is not clearly above the rows without a model."""
    if name not in rows:
        return EMPTY
    row = rows[name]
    mean = row["metrics"][key]
    cell = number(mean["mean"], digits, mean["standard_error"])
    if name in CONTROLS or beats_controls(row, key):
        return cell
    return Cell(f"{cell.text} {NOT_BETTER}", cell.value)
