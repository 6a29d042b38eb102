"""GraphPart and GraphPartFar (Ma, Ma, Zhang & Mei, TMLR 2023), written anew.

The graph is parted by greedy modularity (Clauset, Newman & Moore 2004). If the parts
are uneven, the smallest smaller than a third of the mean, they are joined two by two
until ``parts`` are left, those first whose means m of attributes lie nearest:
``n_i n_j / (n_i + n_j) |m_i - m_j|``. The paper reads ``parts`` off the costs of these
steps; its 7 for Cora and 14 for CiteSeer are taken, of other graphs the number of
classes. Each part has the same share of the budget, the largest first: it goes to the
nodes nearest to the centres of k-means on propagated attributes. GraphPartFar subtracts
from a node's distance to a centre that to the nearest pick of earlier parts.
"""

from __future__ import annotations

from collections.abc import Sequence

import networkx as nx
import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import pairwise_distances
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import to_networkx

from tests.benchmarks.active_learning.data import as_given, pool
from tests.benchmarks.active_learning.training import graph_of

EVEN = 1 / 3  # of the mean size; a smaller part has the parts joined


def graphpart(
    data: Data, budget: int, seeds: Sequence[int], far: bool = False
) -> list[Tensor]:
    """Nodes of the pool, per seed of k-means; ``far`` for GraphPartFar."""
    data = as_given(data)
    part = parts(data, min(int(data.get("parts", data.y.max() + 1)), budget))
    graph = graph_of(data)
    z = (graph.shift @ (graph.shift @ graph.features)).toarray()
    free = np.zeros(len(z), bool)
    free[pool(data).numpy()] = True
    return [torch.tensor(_picks(z, part, free, budget, seed, far)) for seed in seeds]


def modular(data: Data) -> np.ndarray:
    """The community of each node by greedy modularity, (N,), the largest first.

    Kept with the graph: on ten thousand nodes it takes minutes.
    """
    if "modular" not in data:
        graph = to_networkx(data, to_undirected=True)
        found = nx.community.greedy_modularity_communities(graph)
        data.modular = torch.empty(data.num_nodes, dtype=torch.long)
        for number, nodes in enumerate(found):
            data.modular[list(nodes)] = number
    return np.asarray(data.modular)


def parts(data: Data, count: int) -> np.ndarray:
    """The part of each node, (N,), numbered from the largest to the smallest."""
    part = modular(data)
    sizes = np.bincount(part)
    if sizes.min() < EVEN * sizes.mean():
        x = data.x.numpy()
        means = np.stack([x[part == p].mean(0) for p in range(len(sizes))])
        part = _joined(means, sizes.astype(float), count)[part]
        sizes = np.bincount(part)
    order = np.argsort(-sizes, kind="stable")
    numbered: np.ndarray = np.argsort(order)[part]
    return numbered


def _joined(means: np.ndarray, sizes: np.ndarray, count: int) -> np.ndarray:
    """The group of each community after they were joined until ``count`` are left."""
    group = np.arange(len(sizes))
    left = np.ones(len(sizes), bool)

    def costs(i: int) -> np.ndarray:
        share = sizes[i] * sizes / (sizes[i] + sizes)
        cost = share * np.linalg.norm(means - means[i], axis=1)
        cost[~left] = np.inf
        cost[i] = np.inf
        return cost

    table = np.stack([costs(i) for i in range(len(sizes))])
    while left.sum() > count:
        i, j = np.unravel_index(table.argmin(), table.shape)
        means[i] = (sizes[i] * means[i] + sizes[j] * means[j]) / (sizes[i] + sizes[j])
        sizes[i] += sizes[j]
        group[group == j] = i
        left[j] = False
        table[j] = table[:, j] = np.inf
        table[i] = table[:, i] = costs(i)
    joined: np.ndarray = np.unique(group, return_inverse=True)[1]
    return joined


def _picks(
    z: np.ndarray, part: np.ndarray, free: np.ndarray, budget: int, seed: int, far: bool
) -> list[int]:
    room = np.bincount(part[free], minlength=part.max() + 1)
    shares = np.zeros_like(room)
    while shares.sum() < min(budget, room.sum()):
        open_parts = np.flatnonzero(shares < room)
        shares[open_parts[: budget - shares.sum()]] += 1
    free, picks = free.copy(), []
    for p in np.flatnonzero(shares):
        nodes = np.flatnonzero(part == p)
        means = KMeans(int(shares[p]), n_init=1, random_state=seed).fit(z[nodes])
        distance = pairwise_distances(z[nodes], means.cluster_centers_)
        if far and picks:
            distance -= pairwise_distances(z[nodes], z[picks]).min(1, keepdims=True)
        for column in distance.T:
            nearest = np.where(free[nodes], column, np.inf).argmin()
            picks.append(int(nodes[nearest]))
            free[picks[-1]] = False
    return picks
