"""What ``select_nodes`` and its peers cost on 10,000 to 1,000,000 nodes.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.active_learning.cost_by_size

Random graphs of mean degree 10 with 32 attributes; 40 nodes are chosen, one selection.
Each line runs in a process of its own and on one thread: CPU seconds, and the growth of
the peak of memory beyond that of the graph. A peer that has not ended after
:data:`LIMIT` CPU seconds, or whose matrix of all pairs alone would be larger than
:data:`MEMORY`, has only this said of it; on more nodes it is not tried.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from captum_margin.influence import select_nodes
from tests.benchmarks.active_learning.bench import versions
from tests.benchmarks.active_learning.peers import PEERS
from tests.benchmarks.machine import machine
from tests.benchmarks.records import RESULTS

SIZES = (10_000, 100_000, 1_000_000)
DEGREE, FEATURES, CLASSES, BUDGET, SEED = 10, 32, 10, 40, 0
LIMIT, MEMORY = 60, 4 * 2**30  # seconds, bytes
RESULT = RESULTS / "active_learning_size.json"
# Those that hold a number for each pair of nodes, and bytes of it.
PAIRS = {"k-medoids": 4, "FeatProp": 4, "GRAIN ball-D": 8}


def random_graph(nodes: int) -> Data:
    """Edges between any nodes; attributes around the centre of a class."""
    g = torch.Generator().manual_seed(SEED)
    y = torch.randint(CLASSES, (nodes,), generator=g)
    edges = torch.randint(nodes, (2, nodes * DEGREE // 2), generator=g)
    edges = edges[:, edges[0] != edges[1]]
    centres = torch.rand(CLASSES, FEATURES, generator=g)
    x = (centres[y] + 0.3 * torch.randn(nodes, FEATURES, generator=g)).relu()
    none = torch.zeros(nodes, dtype=torch.bool)
    both = torch.cat([edges, edges.flip(0)], 1)
    return Data(x=x, edge_index=both, y=y, val_mask=none, test_mask=none.clone())


def ours(data: Data) -> Tensor:
    """The default."""
    return select_nodes(data, BUDGET)


def peer(name: str, data: Data) -> Tensor:
    """One selection."""
    return PEERS[name](data, BUDGET, [SEED])[0]


METHODS: dict[str, Callable[[Data], Tensor]] = {
    "select_nodes": ours,
    **{
        name: partial(peer, name)
        for name in (
            "random",
            "degree",
            "PageRank",
            "GRAIN ball-D",
            "k-medoids",
            "FeatProp",
            "GraphPart",
        )
    },
}


def measure(method: str, nodes: int) -> dict[str, Any]:
    """Seconds and memory; the process is ended at the limit of its CPU seconds."""
    torch.set_num_threads(1)
    data = random_graph(nodes)
    spent = int(time.process_time()) + 1
    if method != "select_nodes":
        resource.setrlimit(resource.RLIMIT_CPU, (spent + LIMIT, spent + LIMIT + 5))
    before, start = _peak(), time.process_time()
    picks = METHODS[method](data)
    seconds = time.process_time() - start
    assert len(picks.unique()) == BUDGET
    return {"seconds": round(seconds, 2), "peak_mib": round(_peak() - before)}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _send(connection: Any, method: str, nodes: int) -> None:
    connection.send(measure(method, nodes))


def line(method: str, nodes: int) -> dict[str, Any]:
    """A measurement in a process of its own, or why there is none."""
    if PAIRS.get(method, 0) * nodes**2 > MEMORY:
        return {"not_run": f"{PAIRS[method] * nodes**2 / 2**30:.0f} GiB of pairs"}
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, method, nodes))
    process.start()
    sender.close()
    try:
        found: dict[str, Any] = receiver.recv()
    except EOFError:  # ended by the system
        found = {"not_run": f"more than {LIMIT} s"}
    process.join()
    return found


def main() -> None:
    """Runs all lines and writes them."""
    torch.set_num_threads(1)
    lines: dict[str, dict[str, Any]] = {name: {} for name in METHODS}
    for nodes in SIZES:
        for name in METHODS:
            stopped = any("not_run" in cell for cell in lines[name].values())
            if stopped:
                continue
            lines[name][str(nodes)] = line(name, nodes)
            print(name, nodes, lines[name][str(nodes)], flush=True)
    record = {
        "command": f"OMP_NUM_THREADS=1 python -m {__spec__.name}",
        "versions": versions("kmedoids", "networkx"),
        "machine": machine(),
        "settings": {
            "mean_degree": DEGREE,
            "features": FEATURES,
            "budget": BUDGET,
            "seed": SEED,
            "limit_s": LIMIT,
        },
        "lines": lines,
    }
    RESULT.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
