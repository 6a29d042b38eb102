"""What each part of ``select_nodes(weighted=True)`` earns: forms with one part changed.

It covers all nodes by the cosine, where positive, of centred features after two steps
of propagation, and weighs a node by the norm of these features, which the default does
not: "coverage, ..." changes one of these. "norm" and "high-pass" are forms of the
paper's function, the norm of a graph auto-encoder's embedding, one per seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch_geometric.data import Data

from captum_margin.influence import select_nodes
from captum_margin.signal import HighPass, select_diverse
from tests.benchmarks.active_learning.data import pool
from tests.benchmarks.active_learning.paper import (
    Score,
    embedding,
    energy,
    energy_symmetric,
    norm,
)
from tests.benchmarks.active_learning.peers import Selector
from tests.benchmarks.active_learning.training import graph_of

Points = Callable[[Data], Tensor]
Similarity = Callable[[Data, Tensor], Tensor]


def ours(**options: Any) -> Selector:
    """``select_nodes`` with these options; no chance in it on graphs of this size."""

    def select(data: Data, budget: int, seeds: Sequence[int]) -> list[Tensor]:
        return [select_nodes(data, budget, **options)] * len(seeds)

    return select


def ours_per_class(data: Data, budget: int, seeds: Sequence[int]) -> list[Tensor]:
    """``select_nodes`` for the paper's protocol."""
    picks = select_nodes(data, budget, candidates=data.train_mask, per_class=True)
    return [picks] * len(seeds)


def ours_embedded(data: Data, budget: int, seeds: Sequence[int]) -> list[Tensor]:
    """``select_nodes`` on the auto-encoder's embeddings, those of each seed."""
    embedded = [embedding(data, seed) for seed in seeds]
    return [select_nodes(data, budget, embeddings=z, weighted=True) for z in embedded]


def scored(score: Score, hops: int = 0) -> Selector:
    """Highest scores, none within so many hops of an earlier pick."""

    def select(data: Data, budget: int, seeds: Sequence[int]) -> list[Tensor]:
        candidates, picks = pool(data), []
        outside = torch.ones(data.num_nodes, dtype=torch.bool)
        outside[candidates] = False
        for seed in seeds:
            # Nodes outside the pool come last, so that they skip no candidate.
            values = score(data, seed).masked_fill(outside, -torch.inf)
            order = select_diverse(values, data.edge_index, len(values), hops=hops)
            picks.append(order[~outside[order]][:budget])
        return picks

    return select


def above(data: Data, seed: int) -> Tensor:
    """What the norm exceeds the mean of the neighbours' by, (N,)."""
    filtered: Tensor = HighPass()(norm(data, seed), data.edge_index)
    return filtered.clamp(min=0)


def covering(points: Points, similarity: Similarity) -> Selector:
    """Greedy coverage of all nodes, weighted by the norms of the points."""

    def select(data: Data, budget: int, seeds: Sequence[int]) -> list[Tensor]:
        candidates, z = pool(data), points(data)
        values = similarity(data, z)[candidates]  # (M, N)
        picks = _greedy(values, z.norm(dim=1), budget)
        return [candidates[picks]] * len(seeds)

    return select


def covering_by(weight: Score) -> Selector:
    """The same with other weights, of each seed."""

    def select(data: Data, budget: int, seeds: Sequence[int]) -> list[Tensor]:
        candidates = pool(data)
        values = cosine(data, centred(data))[candidates]
        weights = [weight(data, seed) for seed in seeds]
        return [candidates[_greedy(values, w, budget)] for w in weights]

    return select


def _greedy(values: Tensor, weight: Tensor, budget: int) -> Tensor:
    """Rows that add most to the weighted sum of the columns' maxima (M, N)."""
    covered = torch.zeros(values.size(1))
    picks: list[int] = []
    for _ in range(budget):
        gain = (values - covered).relu_() @ weight
        gain[picks] = -1
        picks.append(int(gain.argmax()))
        covered = torch.maximum(covered, values[picks[-1]])
    return torch.tensor(picks)


def _propagated(data: Data, unit: bool = True, loops: bool = True) -> Tensor:
    """Features after two means over neighbours, and the node itself with ``loops``."""
    x = normalize(data.x) if unit else data.x
    nodes = torch.arange(len(x)).expand(2, -1)
    edges = torch.cat([data.edge_index, nodes], 1) if loops else data.edge_index
    filtered: Tensor = HighPass(hops=2)(x, edges)
    return x - filtered


def centred(data: Data, unit: bool = True, loops: bool = True) -> Tensor:
    """Propagated features less their mean, (N, F); those of the weighted form."""
    z = _propagated(data, unit, loops)
    return z - z.mean(0)


def symmetric(data: Data) -> Tensor:
    """Features propagated with the shift of graph convolutions, centred."""
    shift = graph_of(data).shift
    z = torch.from_numpy(shift @ (shift @ normalize(data.x).numpy()))
    return z - z.mean(0)


def cosine(data: Data, z: Tensor) -> Tensor:
    """Cosines, negative ones as zero, (N, N); those of the weighted form."""
    unit = normalize(z)
    return (unit @ unit.T).relu()


def one_plus_cosine(data: Data, z: Tensor) -> Tensor:
    """Opposite points add least."""
    unit = normalize(z)
    return 1 + unit @ unit.T


def closeness(data: Data, z: Tensor) -> Tensor:
    """Largest distance less the distance."""
    distance = torch.cdist(z, z)
    return distance.max() - distance


def pool_only(data: Data, z: Tensor) -> Tensor:
    """The weighted form's for nodes of the pool; others need not be covered."""
    inside = torch.zeros(len(z))
    inside[pool(data)] = 1
    return cosine(data, z) * inside


def two_hops(data: Data, z: Tensor) -> Tensor:
    """1 for nodes within two edges of each other."""
    shift = graph_of(data).shift
    twice = torch.from_numpy((shift @ shift).toarray())
    return (twice > 0).float()


def near_and_alike(data: Data, z: Tensor) -> Tensor:
    """The weighted form's for nodes within two edges, 0 for others."""
    return two_hops(data, z) * cosine(data, z)


VARIANTS: dict[str, Selector] = {
    "coverage, weighted": ours(weighted=True),
    "coverage, weighted by the auto-encoder's norm": covering_by(norm),
    "coverage, weighted by its high-pass energy": covering_by(energy),
    "coverage, features as they are": ours(reach=0, weighted=True),
    "coverage, one step": ours(reach=1, weighted=True),
    "coverage, three steps": ours(reach=3, weighted=True),
    "coverage, five steps": ours(reach=5, weighted=True),
    "coverage, auto-encoder's embeddings": ours_embedded,
    "coverage, not centred": covering(_propagated, cosine),
    "coverage, rows not of unit norm": covering(partial(centred, unit=False), cosine),
    "coverage, no loops": covering(partial(centred, loops=False), cosine),
    "coverage, symmetric shift": covering(symmetric, cosine),
    "coverage, one plus cosine": covering(centred, one_plus_cosine),
    "coverage, distances": covering(centred, closeness),
    "coverage, pool only": covering(centred, pool_only),
    "coverage, two hops": covering(centred, two_hops),
    "coverage, two hops and alike": covering(centred, near_and_alike),
    "norm": scored(norm),
    "norm, skipping two hops": scored(norm, hops=2),
    "high-pass, squared": scored(energy),
    "high-pass, squared, symmetric": scored(energy_symmetric),
    "high-pass, above": scored(above),
    "high-pass, above, skipping two hops": scored(above, hops=2),
}
