"""Neighbour search: time, recall and peak memory against N, beside other libraries.

    python -m tests.benchmarks.neighbors.bench --folder /tmp/features
    python -m tests.benchmarks.neighbors.bench --folder /tmp/features --sizes 10000

Features as of scale_data, 128 of them, k = 15, wanted recall 0.95. Every run has a
process of its own and one thread; seconds are those of the CPU. "first" is with what a
library does once in a process (pynndescent compiles itself), "seconds" is without.
Recall is measured on the same 1,000 rows; "faiss_equal" asks for what pynndescent found
there, rounded up to 0.001. "steps" go from neighbours to a ranking, "label_noise" from
a memory map to one. Runs that the result file holds already are not repeated (--anew).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
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

from tests.benchmarks.machine import machine
from tests.benchmarks.records import RESULTS

RESULT = RESULTS / "neighbors.json"
K, WIDTH, RECALL, SEED = 15, 128, 0.95, 0
SIZES = (10_000, 100_000, 1_000_000)
LIMITS = {"exact": 100_000, "faiss_equal": 100_000, "sklearn": 10_000}
STEPS = ("steps", "label_noise")
METHODS = ("faiss", "pynndescent", "faiss_equal", "exact", "sklearn", *STEPS)
PACKAGES = ("torch", "numpy", "faiss-cpu", "pynndescent", "scikit-learn")


def searches(
    method: str, recall: float
) -> Callable[[Any, int], tuple[torch.Tensor, torch.Tensor]]:
    from captum_margin import neighbors

    if method == "sklearn":
        return _sklearn
    if method == "exact":
        return neighbors.ExactSearch()
    if method == "pynndescent":
        return neighbors.PyNNDescentSearch(seed=SEED)
    return neighbors.FaissSearch(recall=recall, seed=SEED)


def _sklearn(x: Any, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    from sklearn.neighbors import NearestNeighbors

    distance, index = NearestNeighbors(n_neighbors=k, n_jobs=1).fit(x).kneighbors()
    return torch.from_numpy(index), torch.from_numpy(distance)


def run(method: str, folder: Path, wanted: float) -> dict[str, float]:
    """One search, in a process of its own."""
    from captum_margin.neighbors import recall_at_k

    torch.set_num_threads(1)
    x = np.load(folder / "features.npy", mmap_mode="r")
    search = searches(method, wanted)
    first = time.process_time()
    search(np.array(x[:2000]), K)  # compiles what must be compiled
    start = time.process_time()
    indices, distances = search(x, K)
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    recall = recall_at_k(x, indices, seed=7)
    if method == "faiss":
        np.save(folder / "indices.npy", indices.to(torch.int32).numpy())
        np.save(folder / "distances.npy", distances.numpy())
    return {
        "seconds": seconds,
        "first": seconds + start - first,
        "recall": recall.value,
        "recall_standard_error": recall.standard_error,
        "peak_gib": peak,
    }


def steps(folder: Path) -> dict[str, float]:
    """From neighbours to a ranking."""
    from captum_margin.signal import (
        HighPass,
        graph_from_neighbors,
        influence,
        label_disagreement,
        rank,
    )

    torch.set_num_threads(1)
    indices = torch.from_numpy(np.load(folder / "indices.npy")).long()
    distances = torch.from_numpy(np.load(folder / "distances.npy"))
    labels = torch.from_numpy(np.load(folder / "labels.npy"))
    marks = [time.process_time()]
    edges, weight = graph_from_neighbors(indices, distances, weight="gaussian")
    marks.append(time.process_time())
    signal = label_disagreement(labels, edges)
    marks.append(time.process_time())
    filtered = HighPass()(signal, edges, weight)
    marks.append(time.process_time())
    rank(influence(filtered))
    marks.append(time.process_time())
    names = ("graph", "label disagreement", "filter", "ranking")
    taken = dict(zip(names, np.diff(marks).tolist(), strict=True))
    return {
        **taken,
        "all": marks[-1] - marks[0],
        "edges": edges.size(1),
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def label_noise(folder: Path) -> dict[str, float]:
    """LabelNoise from a memory map, graph and all; how many planted flips are found."""
    from captum_margin.influence import LabelNoise

    torch.set_num_threads(1)
    x = np.load(folder / "features.npy", mmap_mode="r")
    labels, wrong = np.load(folder / "labels.npy"), np.load(folder / "wrong.npy")
    start = time.process_time()
    noise = LabelNoise.from_features(x, labels, k=K)
    top = noise.result().top(int(wrong.sum()))
    return {
        "seconds": time.process_time() - start,
        "found": float(wrong[top.numpy()].mean()),
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--anew", action="store_true")
    parser.add_argument("--one", help="internal: one run, printed as JSON")
    parser.add_argument("--recall", type=float, default=RECALL, help="internal")
    args = parser.parse_args()
    if args.one:
        other = {"steps": steps, "label_noise": label_noise}.get(args.one)
        wanted = args.recall
        found = other(args.folder) if other else run(args.one, args.folder, wanted)
        print(json.dumps(found))
        return
    from tests.benchmarks.scale.embeddings import make

    results: dict[str, Any] = {}
    if RESULT.exists() and not args.anew:
        results = json.loads(RESULT.read_text())["results"]
    for n in args.sizes:
        folder = args.folder / str(n)
        make(folder, n, WIDTH, SEED)
        at = results.setdefault(str(n), {})
        for method in args.methods:
            if method in at or n > LIMITS.get(method, n):
                continue
            command = [sys.executable, "-m", "tests.benchmarks.neighbors.bench"]
            command += ["--folder", str(folder), "--one", method]
            if method == "faiss_equal":
                wanted = math.ceil(1000 * at["pynndescent"]["recall"]) / 1000
                command += ["--recall", str(wanted)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(f"{n:>9,} {method}: {done.stderr.strip().splitlines()[-1]}")
                continue
            at[method] = json.loads(done.stdout.splitlines()[-1])
            values = {key: f"{value:.4g}" for key, value in at[method].items()}
            print(f"{n:>9,} {method:<12} {values}", flush=True)
            RESULT.write_text(json.dumps(_record(results), indent=2) + "\n")


def _record(results: dict[str, Any]) -> dict[str, Any]:
    return {
        "command": "python -m tests.benchmarks.neighbors.bench --folder DIR",
        "settings": {"k": K, "features": WIDTH, "recall": RECALL, "seed": SEED},
        "machine": {**machine(), "threads": 1},
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        },
        "results": results,
    }


if __name__ == "__main__":
    main()
