"""How much the options that the paper leaves open matter: one at a time, on SqueezeNet.

The number of clusters, the weights of the three losses and the sigma of the consistency
loss, in the default form and in the paper's, cut short to 60 steps of 2 noises. Every
other option is the form's own; its own value of the swept one is among the values. The
pictures are the first of the reports; nothing was chosen by what came out.

Resumable, as ``bench.py``: records are kept in ``--cache``.

    export CAPTUM_MARGIN_DATA=...
    python -m tests.benchmarks.coalition.sweeps --cache DIR
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Literal

import torch

from tests.benchmarks.coalition.bench import (
    METRICS,
    SHORT,
    coalition,
    coalitions,
    record_of,
)
from tests.benchmarks.machine import machine, quick_dtype, versions
from tests.benchmarks.networks.trained import counted_network, picture, pictures
from tests.benchmarks.records import RESULTS
from tests.benchmarks.saliency.bench import MAIN, mean_and_error
from tests.benchmarks.saliency.methods import Photograph, superpixels

Form = Literal["default", "paper"]
BASE: dict[Form, dict[str, Any]] = {"default": {"deletion": False}, "paper": SHORT}
#: By form and option, the values; the middle one is the form's own.
VALUES: dict[Form, dict[str, tuple[float, float, float]]] = {
    "default": {
        "n_coalitions": (8, 16, 32),
        "extent_weight": (0.3, 1.0, 3.0),
        "confidence_weight": (2.0, 6.0, 18.0),
        "coalition_weight": (0.01, 0.1, 1.0),
    },
    "paper": {
        "n_clusters": (16, 32, 48),
        "extent_weight": (0.1, 1.0, 10.0),
        "confidence_weight": (10.0, 100.0, 1000.0),
        "coalition_weight": (0.1, 1.0, 10.0),
    },
}
#: Sigma makes a difference where L_c is the evenness.
SIGMAS = (0.5, 1.0, 2.0)
#: The other reading of the three weights, in the order in which the losses are named.
SWAPPED = {"extent_weight": 100.0, "confidence_weight": 1.0}
OF_CLUSTERING = ("n_clusters", "n_coalitions")
N_PICTURES = 6


def rows() -> list[tuple[Form, str, str, dict[str, Any]]]:
    """Form, option, value and all options of each row; the form's own only once."""
    found: list[tuple[Form, str, str, dict[str, Any]]] = []
    for form, swept in VALUES.items():
        found.append((form, "", "", BASE[form]))
        for name, values in swept.items():
            for value in (values[0], values[2]):
                found.append((form, name, f"{value:g}", {**BASE[form], name: value}))
    for sigma in SIGMAS:
        even = {**SHORT, "consistency": "evenness", "consistency_sigma": sigma}
        found.append(("paper", "evenness", f"{sigma:g}", even))
    found.append(("paper", "swapped", "", {**SHORT, **SWAPPED}))
    return found


def run(cache: Path, n_pictures: int) -> dict[str, Any]:
    """The records of all rows, made where they are missing, and their means."""
    model = counted_network("squeezenet")
    cache.mkdir(parents=True, exist_ok=True)
    kept: dict[str, list[dict[str, float]]] = {}
    names = pictures("squeezenet", "report", n_pictures)
    for stem in names:
        image = picture("squeezenet", stem).image
        with torch.no_grad():
            target = int(model(image).argmax())
        photo = Photograph(model, image, target, superpixels(image), seed=0)
        for form, name, value, options in rows():
            path = cache / f"{stem}.{form}.{name}.{value}.json"
            if not path.exists():
                path.write_text(json.dumps(one(photo, options)))
            key = f"{form}, {name} {value}".rstrip(", ")
            kept.setdefault(key, []).append(json.loads(path.read_text()))
        print(stem, flush=True)
    found = {}
    for form, name, value, options in rows():
        records = kept[f"{form}, {name} {value}".rstrip(", ")]
        base = kept[form]
        found[f"{form}, {name} {value}".rstrip(", ")] = {
            "form": form,
            "option": name,
            "value": value,
            "options": options,
            "metrics": {
                key: mean_and_error([record[key] for record in records])
                for key in (*METRICS, "n_coalitions")
            },
            "less_the_forms_own": mean_and_error(
                [r[MAIN] - b[MAIN] for r, b in zip(records, base, strict=True)]
            ),
        }
    return {"photographs": names, "rows": found}


def one(photo: Photograph, options: dict[str, Any]) -> dict[str, float]:
    """Scores of the map of one row, and how many coalitions there were."""
    of_clustering = {
        name: int(options[name]) for name in OF_CLUSTERING if name in options
    }
    record = record_of(photo, coalition(photo, {**options, **of_clustering}).float())
    paper = options.get("paper", False)
    regions = coalitions(photo, paper=paper, n_steps=100, **of_clustering)
    return {**record, "n_coalitions": int(regions.unique().numel())}


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--photographs", type=int, default=N_PICTURES)
    parser.add_argument("--out", type=Path, default=RESULTS / "coalition_sweeps.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = run(arguments.cache, arguments.photographs)
    settings = {
        "command": "python -m tests.benchmarks.coalition.sweeps --cache DIR",
        "seed": 0,
        "model": f"squeezenet1_0, ImageNet weights, {quick_dtype()} forward passes",
        "forms": {form: str(options) for form, options in BASE.items()},
        "versions": versions(),
        "machine": machine(),
    }
    if arguments.photographs != N_PICTURES:
        settings["command"] += f" --photographs {arguments.photographs}"
    arguments.out.write_text(json.dumps({"settings": settings, **found}, indent=1))


if __name__ == "__main__":
    main()
