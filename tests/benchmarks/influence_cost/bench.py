"""What the dataset questions cost beyond the features: time and memory.

    export CAPTUM_MARGIN_DATA=...
    python -m tests.benchmarks.influence_cost.bench

Every line runs in a process of its own with one thread: its CPU seconds, which other
work on the machine hardly changes and which the bars are for, seconds on the clock, the
CPU seconds in units of a bare exact search of 25 neighbours on the same data (products
in blocks, in float32, and the smallest of each row: no ties, no edges), and the peak of
memory beyond the loaded data. Without ``--again`` rows on record are kept.

USPS: 7,291 training images of 256 pixels. MNIST: 60,000 of 784. k-NN Shapley values of
the same 10,000 neighbour lists (k = 10): cleanlab's N by N table against O(N k), see
``short_shapley``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import captum_margin
from captum_margin.influence import (
    AdversarialStatistics,
    DecisionBoundary,
    LabelNoise,
    Prototypes,
)
from tests.benchmarks.machine import machine
from tests.benchmarks.records import RESULTS

RESULT = RESULTS / "influence_cost.json"
BARS = {"usps": (10, None), "mnist": (180, 2.0)}  # seconds, GB
Runs = dict[str, Callable[[Tensor, Tensor], object]]


def bare(x: Tensor, y: Tensor, k: int = 25) -> None:
    """The least an exact search can do."""
    norms = x.square().sum(dim=1)
    rows = 2**23 // len(x)
    for start in range(0, len(x), rows):
        square = torch.addmm(norms[None], x[start : start + rows], x.T, alpha=-2)
        square.topk(k + 1, largest=False)


def kde(x: Tensor, y: Tensor) -> Tensor:
    """Of all samples as references of their own classes."""
    options: dict[str, Any] = {"references": x, "reference_classes": y, "predicted": y}
    options["statistic"] = "kde"
    return AdversarialStatistics.from_features(x, **options).self_influence()


RUNS: dict[str, Runs] = {
    "usps": {
        "bare neighbour search": bare,
        "LabelNoise": lambda x, y: LabelNoise.from_features(x, y).self_influence(),
        "LabelNoise, paper=True": lambda x, y: LabelNoise.from_features(
            x, y, paper=True
        ).self_influence(),
        "DecisionBoundary": lambda x, y: DecisionBoundary.from_features(
            x, y
        ).self_influence(),
        "Prototypes, scores": lambda x, y: Prototypes.from_features(
            x, y
        ).self_influence(),
        "Prototypes, scores, global": lambda x, y: Prototypes.from_features(
            x
        ).self_influence(),
        "Prototypes, criticisms(410)": lambda x, y: Prototypes.from_features(
            x, y
        ).criticisms(410),
        "Prototypes, select(410)": lambda x, y: Prototypes.from_features(x, y).select(
            410
        ),
        "Prototypes, select(410), global": lambda x, y: Prototypes.from_features(
            x
        ).select(410),
        "AdversarialStatistics, mmd": lambda x, y: AdversarialStatistics.from_features(
            x
        ).self_influence(),
        "AdversarialStatistics, kde": kde,
    },
    "mnist": {
        "bare neighbour search": bare,
        "LabelNoise": lambda x, y: LabelNoise.from_features(x, y).self_influence(),
        "Prototypes, scores, features": lambda x, y: Prototypes.from_features(
            x, y, estimate="features"
        ).self_influence(),
    },
}


def images(name: str) -> tuple[Tensor, Tensor]:
    """Pixels in [0, 1] or [-1, 1] (USPS) and labels."""
    path = Path(os.environ["CAPTUM_MARGIN_DATA"]) / f"{name}_train.npz"
    with np.load(path) as data:
        x = torch.from_numpy(data["images"].reshape(len(data["labels"]), -1))
        y = torch.from_numpy(data["labels"]).long()
    return (x / 255 if x.dtype == torch.uint8 else x).float(), y


def memory() -> float:
    """Resident now, in GB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e9


def measured(call: Callable[[], object]) -> dict[str, float]:
    """Seconds and growth of the peak of this process."""
    before = memory()
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {
        "cpu_seconds": round(cpu, 2),
        "seconds": round(wall, 2),
        "peak_gb": round(max(peak - before, 0.0), 3),
    }


def one(name: str, method: str) -> dict[str, Any]:
    """One measurement, in this process."""
    torch.set_num_threads(1)
    if name == "shapley":
        near, labels = neighbor_lists()
        values = SHAPLEY[method]
        row: dict[str, Any] = measured(lambda: values(near, labels))
        if method != "cleanlab":
            expected = SHAPLEY["cleanlab"](near[:500] % 500, labels[:500])
            ours = values(near[:500] % 500, labels[:500])
            row["difference"] = float(np.abs(expected - ours).max())
        return row
    x, y = images(name)
    torch.ones(64, 64) @ torch.ones(64, 64)  # libraries are loaded
    return measured(lambda: RUNS[name][method](x, y))


# --- k-NN Shapley values --------------------------------------------------------------


def neighbor_lists() -> tuple[np.ndarray, np.ndarray]:
    """Lists (10,000, 10) as a search would give them; their values do not matter."""
    rng = np.random.default_rng(0)
    near = (np.arange(10_000)[:, None] + np.cumsum(rng.integers(1, 9, (1, 10)))) % 10000
    return near, rng.integers(0, 10, 10_000)


def cleanlab_shapley(near: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """cleanlab's own function."""
    import scipy.sparse
    from cleanlab.data_valuation import data_shapley_knn

    n, k = near.shape
    places = (np.ones(n * k), near.ravel(), np.arange(0, n * k + 1, k))
    graph = scipy.sparse.csr_matrix(places, shape=(n, n))
    return np.asarray(data_shapley_knn(labels, knn_graph=graph, k=k))


def short_shapley(near: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The same values: the recursion telescopes to (match - match of the last) / k."""
    n, k = near.shape
    match = (labels[near] == labels[:, None]).astype(float)
    value = (match - match[:, -1:]) / k
    total = np.bincount(near.ravel(), value.ravel(), minlength=n)
    return np.asarray((total / n + 1) / 2)


SHAPLEY: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "cleanlab": cleanlab_shapley,
    "O(N k)": short_shapley,
}


def main() -> None:
    """Runs the benchmark and writes its record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", nargs=2, metavar=("DATA", "METHOD"), help="only this")
    parser.add_argument("--again", action="store_true", help="measure every row anew")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    if args.one:
        print(json.dumps({**one(*args.one), "machine": machine()}))
        return
    table: dict[str, dict[str, Any]] = {}
    if args.out.exists() and not args.again:
        table = json.loads(args.out.read_text())["table"]
    plan: dict[str, list[str]] = {name: list(runs) for name, runs in RUNS.items()}
    for name, methods in {**plan, "shapley": list(SHAPLEY)}.items():
        table.setdefault(name, {})
        for method in methods:
            if method in table[name]:
                continue
            command = [sys.executable, "-m", "tests.benchmarks.influence_cost.bench"]
            done = subprocess.run(
                [*command, "--one", name, method],
                check=True,
                capture_output=True,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            row = json.loads(done.stdout.splitlines()[-1])
            if name in BARS:
                least = table[name].get("bare neighbour search", row)["cpu_seconds"]
                row["times_bare_search"] = round(row["cpu_seconds"] / least, 2)
                seconds, gigabytes = BARS[name]
                row["within_bar"] = row["cpu_seconds"] < seconds and (
                    gigabytes is None or row["peak_gb"] < gigabytes
                )
            table[name][method] = row
            print(f"{name:8} {method:38} {row}", flush=True)
            write(table, args.out)


def write(table: dict[str, dict[str, Any]], path: Path) -> None:
    """The record so far."""
    record = {
        "command": "python -m tests.benchmarks.influence_cost.bench",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "captum_margin": captum_margin.__version__,
        },
        "settings": {"seed": 0, "bars_cpu_seconds_gb": BARS, "load": "shared"},
        "table": table,
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
