"""Nodes to label on four graphs and many random splits, and a second round.

    export CAPTUM_MARGIN_DATA=...
    python -m tests.benchmarks.active_learning.splits --cache DIR [--graphs USPS mixed]
    python -m tests.benchmarks.active_learning.splits --cache DIR --report

Each training has a split of its own: 500 nodes for validation, which are not used,
1,000 for the test, the rest is the pool. The i-th split, selection and training have
the i-th seed; networks are those of :mod:`bench`. Cora and CiteSeer with all nodes
outside these sets in the pool; the nearest-neighbour graph of USPS; "mixed", in which
four edges of five join nodes of different classes. None of these took part in the
choice of the default, see :mod:`choice`.

"rounds": 20 random nodes have a label already, and more are picked until the budget is
reached. "told" is ``select_nodes(labelled=...)``; "entropy" takes the nodes of which
the network trained on the 20 is least sure; for the other rows those with a label have
only left the pool.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from captum_margin.influence import select_nodes
from tests.benchmarks.active_learning.bench import versions
from tests.benchmarks.active_learning.data import load, pool, split
from tests.benchmarks.active_learning.graphpart import modular
from tests.benchmarks.active_learning.peers import NESTED, PEERS, Selector
from tests.benchmarks.active_learning.training import trained_logits
from tests.benchmarks.machine import machine
from tests.benchmarks.records import RESULTS

MODULE = "tests.benchmarks.active_learning.splits"
RESULT = RESULTS / "active_learning_splits.json"
BUDGETS = {
    "Cora": (20, 40, 80, 140),
    "CiteSeer": (20, 40, 80, 120),
    "USPS": (20, 40, 80),
    "mixed": (20, 40, 80, 140),
}
SPLITS = 10
FIRST, ROUNDS = 20, (40, 80)
DEFAULT = "select_nodes"


def ours(data: Data, budget: int, seeds: Sequence[int]) -> list[Tensor]:
    """The default."""
    return [select_nodes(data, budget)] * len(seeds)


METHODS: dict[str, Selector] = {
    DEFAULT: ours,
    **{
        name: PEERS[name]
        for name in (
            "random",
            "FeatProp",
            "GRAIN ball-D",
            "GraphPart",
            "GraphPartFar",
            "k-medoids",
        )
    },
}
Later = Callable[[Data, int, Tensor, int], Tensor]


def told(data: Data, more: int, first: Tensor, seed: int) -> Tensor:
    """The default, which knows what is labelled."""
    del seed
    return select_nodes(data, more, labelled=first)


def entropy(data: Data, more: int, first: Tensor, seed: int) -> Tensor:
    """The least sure nodes of the pool."""
    nodes = pool(data)
    log = next(trained_logits(data, [first], [seed]))[0, nodes].log_softmax(-1)
    unsure = -(log.exp() * log).sum(-1)
    return nodes[unsure.argsort(descending=True, stable=True)[:more]]


def untold(name: str) -> Later:
    """A method that only does not pick what is labelled."""

    def select(data: Data, more: int, first: Tensor, seed: int) -> Tensor:
        del first
        return METHODS[name](data, more, [seed])[0]

    return select


LATER: dict[str, Later] = {
    "select_nodes, told": told,
    "select_nodes, not told": untold(DEFAULT),
    "entropy": entropy,
    **{
        name: untold(name)
        for name in ("random", "FeatProp", "GraphPart", "GraphPartFar", "k-medoids")
    },
}


def selections(splits: Sequence[Data], method: str, budget: int) -> list[Tensor]:
    """A choice on each split, by the number of the split as the seed."""
    return [METHODS[method](s, budget, [i])[0] for i, s in enumerate(splits)]


def later(splits: Sequence[Data], method: str, budget: int) -> list[Tensor]:
    """20 random nodes and those of a second round, on each split."""
    chosen = []
    for i, data in enumerate(splits):
        (first,) = PEERS["random"](data, FIRST, [i])
        rest = data.clone()
        rest.val_mask = data.val_mask.clone()
        rest.val_mask[first] = True
        more = LATER[method](rest, budget - FIRST, first, i)
        chosen.append(torch.cat([first, more]))
    return chosen


def hits(splits: Sequence[Data], chosen: Sequence[Tensor]) -> list[float]:
    """Accuracy on the test nodes of each split."""
    batches = trained_logits(splits[0], chosen, range(len(splits)))
    found = [logits for batch in batches for logits in batch.argmax(-1)]
    return [
        float((labels == data.y)[data.test_mask].double().mean())
        for labels, data in zip(found, splits, strict=True)
    ]


def measure(name: str, folder: Path, root: Path, methods: Sequence[str]) -> None:
    """The missing cells of a graph."""
    data = load(name, root, folder)
    if any(method.startswith("GraphPart") for method in methods):
        modular(data)  # once for all splits
    splits = [split(data, seed) for seed in range(SPLITS)]
    for method in methods:
        whole: list[Tensor] = []
        for budget in BUDGETS[name]:
            kept = folder / name / "splits" / f"{method}, {budget}.json"
            if method not in METHODS or kept.exists():
                continue
            if method in {DEFAULT, *NESTED}:
                whole = whole or selections(splits, method, max(BUDGETS[name]))
                chosen = [nodes[:budget] for nodes in whole]
            else:
                chosen = selections(splits, method, budget)
            _keep(kept, hits(splits, chosen))
        for budget in ROUNDS:
            kept = folder / name / "rounds" / f"{method}, {budget}.json"
            if method in LATER and not kept.exists():
                _keep(kept, hits(splits, later(splits, method, budget)))


def _keep(path: Path, accuracy: list[float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(accuracy))
    print(f"{path}: {100 * np.mean(accuracy):.1f}", flush=True)


def rows(folder: Path, methods: Sequence[str], sizes: Sequence[int]) -> dict[str, Any]:
    """Method, budget, statistics in per cent; differences are paired by split."""
    found: dict[str, Any] = {}
    for method in methods:
        for n in sizes:
            kept = folder / f"{method}, {n}.json"
            if not kept.exists():
                continue
            values = 100 * np.array(json.loads(kept.read_text()))
            own = json.loads((folder / f"{methods[0]}, {n}.json").read_text())
            pairs = 100 * np.array(own) - values
            found.setdefault(method, {})[str(n)] = {
                "mean": round(values.mean(), 2),
                "sd": round(values.std(ddof=1), 2),
                "default_minus_this": round(pairs.mean(), 2),
                "standard_error": round(pairs.std(ddof=1) / len(pairs) ** 0.5, 2),
            }
    return found


def main() -> None:
    """Measures what is missing, or writes what is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--graphs", nargs="+", default=[*BUDGETS], choices=BUDGETS)
    parser.add_argument("--methods", nargs="+", default=[*{**METHODS, **LATER}])
    parser.add_argument("--report", action="store_true", help="measure nothing, write")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not args.report:
        for name in args.graphs:
            root = Path(os.environ["CAPTUM_MARGIN_DATA"])
            measure(name, args.cache, root, args.methods)
        return
    record = {
        "command": f"python -m {MODULE} --cache DIR; the same with --report",
        "versions": versions("kmedoids", "networkx"),
        "machine": machine(),
        "seeds": SPLITS,
        "units": "test accuracy in per cent; sd over splits, each its own training",
        "graphs": {
            name: {
                "splits": rows(args.cache / name / "splits", [*METHODS], sizes),
                "rounds": rows(args.cache / name / "rounds", [*LATER], ROUNDS),
            }
            for name, sizes in BUDGETS.items()
        },
    }
    RESULT.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
