"""What ``select_nodes`` costs on 100,000 nodes, with and without a hub.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.active_learning.cost

A block model of 20 classes, 128 features and ten edges a node; 140 nodes are chosen.
Each line runs in a process of its own. Times are CPU seconds on one thread, and in
units of one product of the features with the adjacency matrix; memory is the growth of
the peak beyond that of the graph.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import time
from typing import Any

import torch
from torch_geometric.data import Data

from captum_margin.influence import select_nodes
from captum_margin.signal import as_undirected, to_csr
from tests.benchmarks.machine import machine, versions
from tests.benchmarks.records import RESULTS

NODES, CLASSES, FEATURES, DEGREE, BUDGET, SEED = 100_000, 20, 128, 10, 140, 0
HUBS = {"no hub": 0, "a hub of 50,000 neighbours": 50_000}


def block_model(hub: int) -> Data:
    """Four edges of five within a class, the rest anywhere."""
    g = torch.Generator().manual_seed(SEED)
    y = torch.randint(CLASSES, (NODES,), generator=g)
    size = y.bincount()
    count = NODES * DEGREE // 2
    source = torch.randint(NODES, (count,), generator=g)
    place = (torch.rand(count, generator=g) * size[y[source]]).long()
    inside = y.argsort()[(size.cumsum(0) - size)[y[source]] + place]
    anywhere = torch.randint(NODES, (count,), generator=g)
    target = torch.where(torch.rand(count, generator=g) < 0.8, inside, anywhere)
    edges = torch.stack([source, target])
    if hub:
        reached = torch.randperm(NODES, generator=g)[:hub]
        edges = torch.cat([edges, torch.stack([torch.zeros_like(reached), reached])], 1)
    centres = 0.5 * torch.randn(CLASSES, FEATURES, generator=g)
    noise = torch.randn(NODES, FEATURES, generator=g)
    return Data(x=centres[y] + noise, edge_index=edges, y=y)


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def product_seconds(data: Data) -> float:
    """One hop of all features, the best of five."""
    matrix = to_csr(*as_undirected(data.edge_index, None, NODES))
    seconds = []
    for _ in range(5):
        start = time.process_time()
        matrix @ data.x
        seconds.append(time.process_time() - start)
    return min(seconds)


def measure(name: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    data = block_model(HUBS[name])
    before, start = peak(), time.process_time()
    picks = select_nodes(data, BUDGET)
    seconds = time.process_time() - start
    grown = peak() - before
    first = data.y[picks[:CLASSES]].unique().numel()
    return {
        "seconds": round(seconds, 1),
        "products": round(seconds / product_seconds(data)),
        "peak_mib": round(grown),
        "classes_of_the_first_20": first,
    }


def main() -> None:
    lines = {}
    context = multiprocessing.get_context("spawn")
    for name in HUBS:
        with context.Pool(1) as pool:
            lines[name] = pool.apply(measure, (name,))
        print(name, lines[name], flush=True)
    record = {
        "command": f"OMP_NUM_THREADS=1 python -m {__spec__.name}",
        "versions": versions(),
        "machine": {**machine(), "threads": 1},
        "settings": {
            "nodes": NODES,
            "edges_a_node": DEGREE,
            "features": FEATURES,
            "budget": BUDGET,
            "seed": SEED,
        },
        "lines": lines,
    }
    path = RESULTS / "active_learning_cost.json"
    path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
