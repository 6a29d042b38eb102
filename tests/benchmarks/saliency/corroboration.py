"""MARGIN's own claim of its maps: they agree with Grad-CAM's, and are sparse.

    export CAPTUM_MARGIN_DATA=...
    python -m tests.benchmarks.saliency.bench --cache DIR
    python -m tests.benchmarks.saliency.corroboration --cache DIR

The first command makes the maps, of the pictures of the reports, and more: what of it
is needed here is ``MAPS``. Of each network those pictures count that all methods have.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.machine import machine, versions
from tests.benchmarks.networks.trained import NETWORKS
from tests.benchmarks.records import RESULTS
from tests.benchmarks.saliency.agreement import measures
from tests.benchmarks.saliency.bench import mean_and_error

GRAD_CAM = "LayerGradCam"
METHODS = ("MarginSaliency-paper", "keeping-800", "RISE-800", GRAD_CAM, "random")
MAPS = (
    "python -m tests.benchmarks.saliency.bench --cache DIR/saliency --networks "
    "squeezenet --photographs 8 --methods MarginSaliency-paper keeping-800 RISE-800 "
    "LayerGradCam random"
)


def network(cache: Path, name: str) -> dict[str, Any]:
    """Means over the pictures of a network that have all maps."""
    names = {path.name.split(".")[1] for path in cache.glob(f"{name}.*.npz")}
    whole = [
        picture
        for picture in sorted(names)
        if all((cache / f"{name}.{picture}.{m}.npz").exists() for m in METHODS)
    ]
    found: dict[str, list[dict[str, float]]] = {method: [] for method in METHODS}
    for picture in whole:
        maps = {
            method: np.load(cache / f"{name}.{picture}.{method}.npz")["map"]
            for method in METHODS
        }
        for method, values in maps.items():
            found[method].append(measures(values, maps[GRAD_CAM]))
    return {
        "photographs": whole,
        "methods": {
            method: {key: mean_and_error([row[key] for row in rows]) for key in rows[0]}
            for method, rows in found.items()
            if rows
        },
    }


def main() -> None:
    """Measures the maps and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "saliency_corroboration.json"
    )
    arguments = parser.parse_args()
    networks = {name: network(arguments.cache, name) for name in NETWORKS}
    record = {
        "command": "python -m tests.benchmarks.saliency.corroboration "
        "--cache DIR/saliency",
        "versions": versions(),
        "machine": machine(),
        "settings": {"seed": 0, "maps": MAPS},
        "networks": {k: v for k, v in networks.items() if v["photographs"]},
    }
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    for name, row in record["networks"].items():  # type: ignore[attr-defined]
        print(name, len(row["photographs"]))
        for method, cells in row["methods"].items():
            told = {
                k: f"{c['mean']:.3f}±{c['standard_error']:.3f}"
                for k, c in cells.items()
            }
            print(f"  {method:24} {told}")


if __name__ == "__main__":
    main()
