"""How long one high-pass filter takes beside a bare sparse product.

    python -m tests.benchmarks.high_pass.bench                    1 M nodes, 20 M edges
    python -m tests.benchmarks.high_pass.bench --nodes 10000 --edges 200000
    python -m tests.benchmarks.high_pass.bench --device cuda

The methods take turns within each repeat, so that a busy machine slows all of them;
medians over the repeats and their ratios to scipy.sparse and to PyTorch Geometric's
SimpleConv are written as JSON, in wall time and in CPU time, which other processes
disturb less. "prepare" is what a method does once per graph, "apply" what it does per
signal; the cached layers have met the graph in the first round. Everything is float32.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy
import scipy.sparse
import torch
import torch_geometric
from torch_geometric import EdgeIndex
from torch_geometric.nn import SimpleConv

import captum_margin
from captum_margin.signal import HighPass, to_csr
from tests.benchmarks.machine import machine
from tests.benchmarks.records import RESULTS

RESULT = RESULTS / "high_pass.json"
SCIPY, SIMPLE = "scipy CSR @ x", "SimpleConv, edge_index by target"


def random_edges(
    nodes: int, edges: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """A random undirected graph by target, and the same edges shuffled."""
    half = torch.randint(nodes, (2, edges // 2), generator=generator)
    key = torch.cat([half[1] * nodes + half[0], half[0] * nodes + half[1]])
    key = key.sort().values
    by_target = torch.stack([key % nodes, key // nodes])
    order = torch.randperm(by_target.size(1), generator=generator)
    return by_target, by_target[:, order]


def timed(call: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Wall and CPU seconds of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    """Runs the benchmark and writes its record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=1_000_000)
    parser.add_argument("--edges", type=int, default=20_000_000)
    parser.add_argument("--channels", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    generator = torch.Generator().manual_seed(args.seed)

    n = args.nodes
    by_target, shuffled = random_edges(n, args.edges, generator)
    weight = torch.rand(by_target.size(1), generator=generator) + 0.5
    columns, rows = by_target.int().numpy()  # 32 bits: scipy's fastest
    mixed = shuffled.int().numpy()
    ones = np.ones(len(rows), dtype=np.float32)
    matrix = scipy.sparse.csr_array((ones, (rows, columns)), shape=(n, n))
    assert matrix.indices.dtype == np.int32
    by_target, shuffled, weight = (
        tensor.to(device) for tensor in (by_target, shuffled, weight)
    )
    csr, weighted = to_csr(by_target, None, n), to_csr(by_target, weight, n)
    index = EdgeIndex(by_target, sparse_size=(n, n), sort_order="col")
    index.get_csc()
    layer, operator, simple = HighPass(), HighPass("adjacency"), SimpleConv()
    kept, kept_weighted = HighPass(cached=True), HighPass(cached=True)

    prepare = {
        "scipy CSR from shuffled edges": lambda: scipy.sparse.csr_array(
            (ones, (mixed[1], mixed[0])),
            shape=(n, n),
        ),
        "to_csr from edges by target": lambda: to_csr(by_target, None, n),
        "to_csr from shuffled edges": lambda: to_csr(shuffled, None, n),
    }
    record = {
        "command": "python " + shlex.join(["-m", __spec__.name, *sys.argv[1:]]),
        "nodes": n,
        "edges": by_target.size(1),
        "seed": args.seed,
        "repeats": args.repeats,
        "machine": machine(args.device),
        "versions": {
            "python": platform.python_version(),
            "captum_margin": captum_margin.__version__,
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "torch": torch.__version__,
            "torch_geometric": torch_geometric.__version__,
        },
        "prepare_seconds": {
            name: statistics.median(timed(call, device)[0] for _ in range(3))
            for name, call in prepare.items()
        },
        "apply": {},
    }
    for channels in args.channels:
        x = torch.rand(n, channels, generator=generator).to(device)
        signal = x[:, 0].contiguous() if channels == 1 else x
        array = signal.cpu().numpy()
        methods = {
            SCIPY: lambda array=array: matrix @ array,
            "scipy x - (CSR @ x) / degree": lambda array=array: (
                array.T - (matrix @ array).T / matrix.sum(axis=1)
            ),
            "torch CSR @ x": lambda s=signal: csr @ s,
            SIMPLE: lambda x=x: simple(x, by_target),
            "SimpleConv, shuffled edge_index": lambda x=x: simple(x, shuffled),
            "SimpleConv, CSR": lambda x=x: simple(x, csr),
            "HighPass, CSR": lambda s=signal: layer(s, csr),
            "HighPass, weighted CSR": lambda s=signal: layer(s, weighted),
            "HighPass(cached=True), edge_index": lambda s=signal: kept(s, by_target),
            "HighPass(cached=True), weighted edge_index": (
                lambda s=signal: kept_weighted(s, by_target, weight)
            ),
            "HighPass('adjacency'), weighted CSR": lambda s=signal: operator(
                s, weighted
            ),
            "HighPass, EdgeIndex": lambda s=signal: layer(s, index),
            "HighPass, edge_index by target": lambda s=signal: layer(s, by_target),
            "HighPass, shuffled edge_index": lambda s=signal: layer(s, shuffled),
            "HighPass(hops=5), shuffled edge_index": lambda s=signal: HighPass(hops=5)(
                s, shuffled
            ),
        }
        seconds: dict[str, list[float]] = {name: [] for name in methods}
        busy: dict[str, list[float]] = {name: [] for name in methods}
        with torch.no_grad():
            for repeat in range(args.repeats + 1):
                for name, call in methods.items():
                    wall, cpu = timed(call, device)
                    if repeat:  # the first round warms up
                        seconds[name].append(wall)
                        busy[name].append(cpu)
        median = {name: statistics.median(took) for name, took in seconds.items()}
        cpus = {name: statistics.median(took) for name, took in busy.items()}
        record["apply"][f"{channels} channels"] = {
            name: {
                "median_seconds": round(median[name], 5),
                "quartiles": [
                    round(q, 5) for q in statistics.quantiles(took, n=4)[::2]
                ],
                "of_scipy": round(median[name] / median[SCIPY], 3),
                "of_simple_conv": round(median[name] / median[SIMPLE], 3),
                "median_cpu_seconds": round(cpus[name], 5),
                "cpu_of_scipy": round(cpus[name] / cpus[SCIPY], 3),
                "cpu_of_simple_conv": round(cpus[name] / cpus[SIMPLE], 3),
            }
            for name, took in seconds.items()
        }
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps(record, indent=2) + "\n")
    for group, results in record["apply"].items():
        print(group)
        for name, result in results.items():
            print(
                f"  {name:40s} {result['median_seconds']:8.4f} s"
                f"  {result['of_scipy']:7.2f} x scipy"
                f"  {result['of_simple_conv']:7.2f} x SimpleConv"
                f"  (CPU {result['cpu_of_scipy']:.2f}, "
                f"{result['cpu_of_simple_conv']:.2f})"
            )
    print({name: round(took, 3) for name, took in record["prepare_seconds"].items()})


if __name__ == "__main__":
    main()
