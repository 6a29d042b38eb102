"""Time and memory of the out-of-core audit against N, and what equals what.

    python -m tests.benchmarks.scale.bench run 1000000 --cache DIR
    python -m tests.benchmarks.scale.bench filter --cache DIR
    python -m tests.benchmarks.scale.bench equality --cache DIR
    python -m tests.benchmarks.scale.bench report --cache DIR

"run": N x 64 features like embeddings with 10% wrong labels (data), audited by
scale.label_noise with k = 15, in one thread; a run that was killed goes on, and the
CPU times of its parts add up. Recall of the neighbours (500 rows), of the wrong labels
when as many samples are checked as are wrong; the same by label disagreement, and by
the disagreement of the samples' order at random (the base rate).

"filter": one hop against a product of the same matrix in memory (torch CSR), and
against reading the files, by turns, medians: neighbours within 50,000 rows of a node,
as rows in cell order have, or anywhere.

"equality": the same run in memory, serial, by processes, by Dask, killed and resumed.

"report" writes the record, with a cost curve through the runs and its value at 10^9;
parts that the cache lacks stay as they are on record.
"""

from __future__ import annotations

import argparse
import json
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import captum_margin
from captum_margin import scale
from captum_margin.scale._folder import write_text
from tests.benchmarks.machine import machine
from tests.benchmarks.records import RESULTS
from tests.benchmarks.scale import embeddings
from tests.benchmarks.scale.equality import equality
from tests.benchmarks.scale.filter import filter_times

RESULT = RESULTS / "scale.json"
K = 15


class Watch:
    """CPU and wall seconds of parts, and the most memory of the process."""

    def __init__(self, file: Path) -> None:
        """Goes on with what the file says."""
        self.file = file
        self.parts: dict[str, Any] = (
            json.loads(file.read_text()) if file.exists() else {}
        )

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measures a part; the sums so far are on disk every second."""
        old = self.parts.get(name, {"cpu": 0.0, "wall": 0.0, "own_gib": 0.0})
        wall, cpu = time.time(), time.process_time()
        stop, most = threading.Event(), [old["own_gib"]]

        def note() -> None:
            most[0] = max(most[0], own_memory())
            self.parts[name] = {
                "cpu": round(old["cpu"] + time.process_time() - cpu, 2),
                "wall": round(old["wall"] + time.time() - wall, 2),
                "own_gib": round(most[0], 3),
            }
            write_text(self.file, json.dumps(self.parts, indent=1))

        def watch() -> None:
            while not stop.wait(1):
                note()

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            note()


def own_memory() -> float:
    """GiB of the process that are not pages of files."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 2**20
    return 0.0


def run(n: int, cache: Path) -> None:
    """One audit, from features to suspects."""
    data, path = cache / "data" / str(n), cache / "runs" / str(n)
    embeddings.make(data, n)
    path.mkdir(parents=True, exist_ok=True)
    watch = Watch(cache / f"run-{n}.json")
    features, labels = data / "features.npy", np.load(data / "labels.npy")
    wrong = np.load(data / "wrong.npy")
    with watch.part("neighbours"):
        rows = scale.build_shards(
            features, path / "rows", K, metric="cosine", show_progress=True
        )
    with watch.part("edges"):
        edges = scale.undirected(rows, path / "edges")
    with watch.part("scores"):
        found = scale.label_noise(features, labels, path, k=K)
    with watch.part("ranking"):
        order = found.ranking().numpy()
    with watch.part("disagreement"):
        plain = scale.label_disagreement(edges, torch.from_numpy(labels))
    by_plain = torch.argsort(plain, descending=True, stable=True).numpy()
    with watch.part("filter"):
        scale.high_pass(found.edges, plain)
    many = int(wrong.sum())
    watch.parts["result"] = {
        "samples": n,
        "edges": edges.num_edges,
        **json.loads((path / "rows/plan.json").read_text()),
        "neighbour_recall": round(scale.recall_of(path / "rows"), 4),
        "wrong_found": round(float(wrong[order[:many]].mean()), 4),
        "wrong_found_by_disagreement": round(float(wrong[by_plain[:many]].mean()), 4),
        "wrong_share": round(float(wrong.mean()), 4),
        "disk_gib": round(disk(path), 3),
    }
    write_text(watch.file, json.dumps(watch.parts, indent=1))
    print(watch.file.read_text())


def disk(path: Path) -> float:
    """GiB of the files in a folder."""
    return (
        sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 2**30
    )


def curve(runs: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Exponents of N for the CPU seconds of each part, from the runs of 10^5 on."""
    sizes = [n for n in sorted(runs) if n >= 10**5]
    fits = {}
    for part in ("neighbours", "edges", "scores", "disagreement", "filter"):
        seconds = [runs[n][part]["cpu"] for n in sizes]
        power, log = np.polyfit(np.log(sizes), np.log(seconds), 1)
        fits[part] = {
            "cpu_seconds": f"{np.exp(log):.3g} * N^{power:.3f}",
            "at_1e9_hours": round(float(np.exp(log) * 1e9**power) / 3600, 2),
        }
    # The lists and their members grow like sqrt(N): more than the runs show.
    last = sizes[-1]
    hours = runs[last]["neighbours"]["cpu"] * (1e9 / last) ** 1.5 / 3600
    fits["neighbours"][f"at_1e9_hours_by_N^1.5_from_{last:.0e}"] = round(hours, 1)
    gib = [runs[n]["result"]["disk_gib"] / n for n in sizes]
    own = [max(p.get("own_gib", 0) for p in runs[n].values()) for n in sizes]
    slope, start = np.polyfit(sizes, own, 1)
    return {
        "sizes": sizes,
        "parts": fits,
        "disk_bytes_per_sample": round(gib[-1] * 2**30, 1),
        "disk_tib_at_1e9": round(gib[-1] * 1e9 / 2**10, 3),
        "own_memory_gib": f"{start:.2f} + {slope * 1e6:.3f} per million samples",
        "own_memory_gib_at_1e9": round(float(start + slope * 1e9), 1),
    }


def report(cache: Path, out: Path) -> None:
    """Puts the parts together."""
    old = json.loads(out.read_text()) if out.exists() else {}
    runs = {int(n): parts for n, parts in old.get("runs", {}).items()}
    for file in cache.glob("run-*.json"):
        parts = json.loads(file.read_text())
        if "result" in parts:
            runs[int(file.stem.split("-")[1])] = parts
    record = {
        **old,
        "command": "python -m tests.benchmarks.scale.bench "
        "{run N | filter | equality | report} --cache DIR",
        "versions": {
            "python": platform.python_version(),
            "captum_margin": captum_margin.__version__,
            **{name: version(name) for name in ("torch", "numpy", "scipy")},
        },
        "machine": machine(),
        "settings": {
            "seed": 0,
            "threads": torch.get_num_threads(),
            "features": 64,
            "k": K,
            "metric": "cosine",
            "recall": 0.95,
            "data": " ".join((embeddings.__doc__ or "").split()),
        },
        "runs": {str(n): runs[n] for n in sorted(runs)},
        "curve": curve(runs),
    }
    for name in ("filter", "equality"):
        file = cache / f"{name}.json"
        if file.exists():
            record[name] = json.loads(file.read_text())
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record["curve"], indent=1), f"\nwritten to {out}")


def main() -> None:
    """Runs one part."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=["run", "filter", "equality", "report"])
    parser.add_argument("n", type=int, nargs="?", default=10**5)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.cache.mkdir(parents=True, exist_ok=True)
    if args.part == "run":
        run(args.n, args.cache)
    elif args.part == "filter":
        filter_times(args.cache)
    elif args.part == "equality":
        equality(args.cache)
    else:
        report(args.cache, args.out)


if __name__ == "__main__":
    main()
