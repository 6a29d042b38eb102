"""What the number of neighbours changes: MARGIN's case studies I, III and IV.

    export CAPTUM_MARGIN_DATA=...
    python -m tests.benchmarks.neighborhood.bench --cache DIR

The paper says that its results are not very sensitive to k (section "Domain Design and
Graph Construction") and takes 20 to 40. Measured with 10, 20, 30 and 40 neighbours, in
each published form of the filter and in our default: the test error of a nearest-
neighbour classifier with 110 prototypes, or 110 criticisms, of USPS; the share of 10%
flipped labels among the first 30% checked; and the share of mistakes among the 1%
nearest to the decision boundary. Data and measures are those of the benchmarks of these
case studies. Features of photographs are kept in DIR.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import captum_margin
from captum_margin.influence import DecisionBoundary, LabelNoise, Prototypes
from captum_margin.neighbors import find_neighbors
from tests.benchmarks.decision_boundary import bench as boundary
from tests.benchmarks.forms import FORMS
from tests.benchmarks.label_noise.bench import quality, summary
from tests.benchmarks.label_noise.data import flipped, load
from tests.benchmarks.machine import machine
from tests.benchmarks.prototypes.bench import GAMMA, Judge
from tests.benchmarks.records import RESULTS

RESULT = RESULTS / "neighborhood.json"
NEIGHBORS = (10, 20, 30, 40)
KINDS = {**{form: {"paper": form} for form in FORMS}, "default": {}}
CHOSEN = 110  # prototypes, or criticisms
CHECKED = 0.3
TRAINED_ON = 100
Table = dict[str, dict[int, Any]]  # by kind, then by number of neighbours


def table_of(measure, repetitions: int) -> Table:
    """Mean and standard error of ``measure(kind, k, seed)``."""
    return {
        kind: {
            k: _of_one([measure(kind, k, seed) for seed in range(repetitions)])
            for k in NEIGHBORS
        }
        for kind in KINDS
    }


def _of_one(values: list[float]) -> dict[str, float]:
    found = summary([[value] for value in values])
    return {name: numbers[0] for name, numbers in found.items()}


def prototypes(repetitions: int) -> dict[str, Table]:
    """Case study I: errors in percent, with labels and without."""
    judge = Judge()
    near = find_neighbors(judge.x, max(NEIGHBORS), backend="exact")
    tables: dict[str, Table] = {}
    for case, labels in (("with labels", judge.y), ("without labels", None)):
        chosen: Table = {kind: {} for kind in KINDS}
        critical: Table = {kind: {} for kind in KINDS}
        for kind, form in KINDS.items():
            for k in NEIGHBORS:
                errors = []
                # Only the default's choice of prototypes has a seed.
                for seed in range(1 if form else repetitions):
                    asked = Prototypes.from_features(
                        judge.x,
                        labels,
                        k=k,
                        backend=near,
                        seed=seed,
                        **({"gamma": GAMMA} if form else {}),
                        **form,
                    )
                    errors.append(judge(asked.select(CHOSEN)))
                chosen[kind][k] = {"mean": round(float(np.mean(errors)), 4)}
                critical[kind][k] = {"mean": round(judge(asked.criticisms(CHOSEN)), 4)}
        tables[f"prototypes, {case}"] = chosen
        tables[f"criticisms, {case}"] = critical
    return tables


def label_noise(root: Path, cache: Path, repetitions: int) -> dict[str, Table]:
    """Case study III: share of the flips that is found."""
    tables = {}
    for name in ("enron-paper", "cats-dogs"):
        x, y = load(name, root, cache)

        def found(kind: str, k: int, seed: int, x=x, y=y) -> float:
            labels, wrong = flipped(y, "10% symmetric", seed)
            asked = LabelNoise.from_features(x, labels, k=k, **KINDS[kind])
            return quality(asked.self_influence().numpy(), wrong, [CHECKED])[0]

        tables[f"label noise, {name}"] = table_of(found, repetitions)
    return tables


def decision_boundary(root: Path, cache: Path, repetitions: int) -> dict[str, Table]:
    """Case study IV: share of mistakes among the 1% ranked highest."""
    x, y = load("cats-dogs", root, cache)
    nets = [
        boundary.latents_of_digits(root, (0, 6), TRAINED_ON, seed)
        for seed in range(repetitions)
    ]
    fits = [boundary.latents_of_photographs(x, y, seed) for seed in range(repetitions)]
    data: dict[str, list[Any]] = {"decision boundary, cats and dogs": fits}
    for layer in ("conv", "hidden"):
        data[f"decision boundary, MNIST 0/6, {layer}"] = [
            (latents[layer], labels, scores) for _, _, labels, scores, latents in nets
        ]
    tables = {}
    for name, runs in data.items():

        def found(kind: str, k: int, seed: int, runs=runs) -> float:
            latents, labels, scores = runs[seed]
            decided = scores.argmax(dim=1)
            asked = DecisionBoundary.from_features(latents, decided, k=k, **KINDS[kind])
            first = asked.result().top(round(0.01 * len(labels)))
            return (decided != labels)[first].double().mean().item()

        tables[name] = table_of(found, repetitions)
    return tables


def main() -> None:
    """Runs the benchmark and writes its record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True, help="see above")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    root = Path(os.environ["CAPTUM_MARGIN_DATA"])
    args.cache.mkdir(parents=True, exist_ok=True)
    start = time.time()
    tables = {}
    for part in (
        decision_boundary(root, args.cache, args.repetitions),
        label_noise(root, args.cache, args.repetitions),
        prototypes(args.repetitions),
    ):
        for name, table in part.items():
            print(f"\n{name}: k = {NEIGHBORS}")
            for kind, row in table.items():
                cells = (f"{found['mean']:.3f}" for found in row.values())
                print(f"  {kind:10}", *cells, flush=True)
        tables |= part
    packages = ("torch", "torchvision", "numpy", "scikit-learn")
    record = {
        "command": "python -m tests.benchmarks.neighborhood.bench --cache DIR",
        "versions": {
            "python": platform.python_version(),
            "captum_margin": captum_margin.__version__,
            **{package: version(package) for package in packages},
        },
        "machine": machine(),
        "settings": {
            "seeds": "0, 1, ... for each repetition",
            "repetitions": args.repetitions,
            "neighbors": NEIGHBORS,
            "prototypes": CHOSEN,
            "checked": CHECKED,
            "trained_on": TRAINED_ON,
        },
        "seconds": round(time.time() - start),
        "tables": tables,
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"\nwritten to {args.out} after {record['seconds']} s")


if __name__ == "__main__":
    main()
