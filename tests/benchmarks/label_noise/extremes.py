"""LabelNoise where the right answer is known: hubs, and features that say nothing.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.label_noise.extremes

"hubs": well separated Gaussian clusters, 5% of the labels wrong; nearest-neighbour
graphs of many samples, or in many dimensions, have hubs, which the symmetric shift by
itself takes for wrong. Precision among as many as are wrong; an oracle has 1.

"nothing": features without a word on the labels, 100 draws of each size: the mean share
that is called wrong, which should be none.

"million": 1,000,000 x 128 features like embeddings, 10% wrong: time of one thread and
the peak of memory, in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from captum_margin._version import versions
from captum_margin.influence import LabelNoise
from captum_margin.influence.result import InfluenceResult
from tests.benchmarks.machine import machine
from tests.benchmarks.records import RESULTS
from tests.benchmarks.scale.embeddings import make

HUBS = {
    "300,000 x 64, 50 classes": (300_000, 64, 50, {}),
    "300,000 x 64, 50 classes, neighbours alone": (
        300_000,
        64,
        50,
        {"regression": False},
    ),
    "20,000 x 256, 10 classes": (20_000, 256, 10, {}),
    "20,000 x 256, 10 classes, neighbours alone": (
        20_000,
        256,
        10,
        {"regression": False},
    ),
}
SIZES, DRAWS, CLASSES = (20, 60, 200, 1000), 100, (2, 5)


def clusters(n: int, width: int, classes: int, seed: int = 0) -> tuple[Any, ...]:
    """Features (n, width), labels with 5% wrong, which are."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((classes, width))
    centres *= 6 / np.linalg.norm(centres, axis=1, keepdims=True)
    true = rng.integers(0, classes, n)
    x = centres[true] + 0.35 * rng.standard_normal((n, width))
    wrong = np.zeros(n, dtype=bool)
    wrong[rng.choice(n, n // 20, replace=False)] = True
    step = rng.integers(1, classes, n) * wrong
    return x.astype(np.float32), (true + step) % classes, wrong


def hubs(n: int, width: int, classes: int, options: dict[str, Any]) -> dict[str, float]:
    """What is found of the wrong labels."""
    x, labels, wrong = clusters(n, width, classes)
    start = time.process_time()
    result = LabelNoise.from_features(x, labels, **options).result()
    return {
        **found(result, wrong),
        "lowest_wrong": float(result.scores.numpy()[wrong].min()),
        "highest_clean": float(result.scores.numpy()[~wrong].max()),
        "cpu_seconds": round(time.process_time() - start, 1),
    }


def found(result: InfluenceResult, wrong: np.ndarray) -> dict[str, float]:
    """Precision of the ranking, and of what is called wrong."""
    top = result.ranking()[: int(wrong.sum())].numpy()
    assert result.labels is not None
    flags = (result.predicted() != result.labels).numpy()
    return {
        "precision_at_wrong": float(wrong[top].mean()),
        "flagged_of_wrong": float(flags.sum() / wrong.sum()),
        "flagged_precision": float(wrong[flags].mean()),
    }


def nothing(n: int, classes: int, kind: str) -> float:
    """The mean share called wrong."""
    shares = []
    for seed in range(DRAWS):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, classes, n)
        x = {
            "noise": lambda rng=rng: rng.standard_normal((n, 16)),
            "constant": lambda: np.ones((n, 4)),
            "one positive column": lambda rng=rng: 0.1 + rng.random((n, 1)),
        }[kind]()
        result = LabelNoise.from_features(x, labels).result()
        assert result.labels is not None
        shares.append(float((result.predicted() != result.labels).float().mean()))
    return float(np.mean(shares))


def million(folder: str) -> dict[str, float]:
    """One million samples; in a process of its own."""
    torch.set_num_threads(1)
    files = [Path(folder) / f"{name}.npy" for name in ("features", "labels", "wrong")]
    x = np.load(files[0], mmap_mode="r")
    labels, wrong = np.load(files[1]), np.load(files[2])
    start = time.process_time()
    result = LabelNoise.from_features(x, labels).result()
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        **found(result, wrong),
        "cpu_seconds": round(seconds, 1),
        "peak_gib": round(peak, 2),
    }


def main() -> None:
    """Runs all and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "label_noise_extremes.json"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)  # that nothing is known is the point
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), 10**6, 128)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            large = pool.apply(million, (folder,))
    print("million", large, flush=True)
    separated = {}
    for name, (n, width, classes, options) in HUBS.items():
        separated[name] = hubs(n, width, classes, options)
        print(name, separated[name], flush=True)
    kinds = ("noise", "constant", "one positive column")
    said = {
        f"{kind}, N = {n}, {classes} classes": nothing(n, classes, kind)
        for kind in kinds
        for n in SIZES
        for classes in CLASSES
    }
    print(said)
    record = {
        "command": "OMP_NUM_THREADS=1 python -m tests.benchmarks.label_noise.extremes",
        "versions": versions("torch", "numpy", "scipy", "faiss-cpu"),
        "machine": machine(),
        "settings": {"seed": 0, "draws": DRAWS, "wrong": "5%; of the million 10%"},
        "hubs": separated,
        "nothing": said,
        "million": large,
    }
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
