"""Maps against known masks: tetrominoes in noise, one linear problem and one XOR.

Resumable: networks and maps are kept in ``--cache``, and what is there is not made
again. A method that fails is reported and left out, and the exit status is 1.
``--report`` makes the JSON beside this folder of what is there.

    python -m tests.benchmarks.localisation.masks --cache DIR
    python -m tests.benchmarks.localisation.masks --cache DIR --report

``shapes.py`` says what the pictures are. Training and evaluation pictures are drawn
from two seeds; how strong the shapes are was chosen by the accuracy alone (90% to 99%),
and where they stand after a first look at maps. The first pictures of the evaluation
split that the network gets right are explained, for their class.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captum_margin.metrics import localization
from tests.benchmarks.localisation.rows import (
    OURS,
    SHOWN,
    kept_map,
    rows_for,
    summarised,
    updated,
)
from tests.benchmarks.localisation.shapes import (
    PROBLEMS,
    Problem,
    made,
    mask,
    probabilities,
    trained,
)
from tests.benchmarks.machine import machine, versions
from tests.benchmarks.records import RESULTS
from tests.benchmarks.saliency.methods import Photograph, superpixels
from tests.benchmarks.saliency.rows import ROWS

N_PICTURES = 40


def run(
    problem: Problem, names: Sequence[str], n_pictures: int, cache: Path
) -> tuple[dict[str, Any], int]:
    """The record of a problem, and how many methods failed."""
    net = trained(problem, cache)
    shapes = made(problem, "evaluation")
    found = probabilities(net, shapes.images)
    right = found.argmax(dim=1) == shapes.classes
    chosen = right.nonzero()[:n_pictures, 0].tolist()
    photos = [
        Photograph(net, image, int(shapes.classes[i]), superpixels(image), seed=0)
        for i in chosen
        for image in [shapes.images[i : i + 1]]
    ]
    measures: dict[str, dict[str, Tensor]] = {}
    costs: dict[str, dict[str, float]] = {}
    n_failed = 0
    for name in rows_for(None, names):
        try:
            made_here = [kept_map(photo, name, cache, problem) for photo in photos]
        except Exception:  # the failures of others' code are results too
            traceback.print_exc()
            print(f"failed: {problem} {name}", flush=True)
            n_failed += 1
            continue
        maps = torch.stack([one["map"] for one in made_here])[:, None].double()
        inside = mask().expand(len(maps), -1, -1)
        scores = localization(maps, inside)
        above = localization(maps - maps.mean(dim=(2, 3), keepdim=True), inside)
        measures[name] = {
            "energy": scores.energy,
            "energy_above_mean": above.energy,
            "iou": scores.iou,
            "pointing": scores.pointing,
        }
        costs[name] = {
            key: sum(one[key] for one in made_here) / len(made_here)
            for key in ("n_forward", "seconds")
        } | {"n_empty": int(scores.is_empty.sum())}
        means = {key: round(float(v.mean()), 3) for key, v in measures[name].items()}
        print(problem, name, means, costs[name], flush=True)
    rows = summarised(measures)
    for name, row in rows.items():
        row |= costs[name]
    record = {
        "accuracy": float(right.float().mean()),
        "pictures": chosen,
        "area": float(mask().float().mean()),
        "rows": _best_first(rows),
    }
    return record, n_failed


def _best_first(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    key = "energy"
    return dict(sorted(rows.items(), key=lambda row: -row[1]["metrics"][key]["mean"]))


def main() -> int:
    """Parses the command line; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--problems", nargs="*", default=PROBLEMS, choices=PROBLEMS)
    parser.add_argument("--methods", nargs="*", default=SHOWN, choices=[*ROWS])
    parser.add_argument("--pictures", type=int, default=N_PICTURES)
    parser.add_argument("--report", action="store_true", help="writes the JSON too")
    parser.add_argument(
        "--update", action="store_true", help="puts these rows into the JSON"
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "known_masks.json")
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    problems: dict[str, Any] = {}
    n_failed = 0
    for problem in arguments.problems:
        problems[problem], failed = run(
            problem, arguments.methods, arguments.pictures, arguments.cache
        )
        n_failed += failed
    if arguments.update:
        old = json.loads(arguments.out.read_text())
        for problem, found in problems.items():
            known = old["problems"][problem]
            if found["pictures"] != known["pictures"]:
                raise ValueError(
                    f"expected the pictures of {problem} in {arguments.out} (got "
                    "others); give the options of its command, or use --report"
                )
            known["rows"] = _best_first(updated(known["rows"], found["rows"]))
        old["settings"].setdefault("later", []).append(
            {
                "command": f"{old['settings']['command']}, then with --update "
                f"--methods {' '.join(arguments.methods)}",
                "differences": "to rows of another run have the error of two "
                "independent means",
                "versions": versions(),
                "machine": machine(),
            }
        )
        arguments.out.write_text(json.dumps(old, indent=1))
    elif arguments.report:
        command = "python -m tests.benchmarks.localisation.masks --cache DIR --report"
        if arguments.pictures != N_PICTURES:
            command += f" --pictures {arguments.pictures}"
        if [*arguments.methods] != [*SHOWN]:
            command += f" --methods {' '.join(arguments.methods)}"
        settings = {
            "command": command,
            "seed": 0,
            "energy": "share of the positive part of the map in the mask",
            "energy_above_mean": "the same of what is above the map's own mean",
            "iou": "of the mask and as many of the highest pixels",
            "pointing": "whether the highest pixel is in the mask",
            "ours_minus_it": f"{OURS} minus the row, picture by picture",
            "it_minus_control": "the row minus the best of the rows without a model",
            "seconds": "wall clock on a shared machine under changing load: not "
            "comparable",
            "versions": versions(),
            "machine": machine(),
        }
        record = {"settings": settings, "problems": problems}
        arguments.out.write_text(json.dumps(record, indent=1))
    return int(n_failed > 0)


if __name__ == "__main__":
    sys.exit(main())
