"""The paper's protocol: so many of each class's standard training nodes, by a score.

f is the norm of a graph auto-encoder's embedding, one auto-encoder per seed. "Chen et
al. 2017", the paper's baseline, draws nodes at random with a probability that follows
a score; which one the paper does not say. Read here in three ways:

- "resampling, features": Chen, Tian, Feng, Vetro & Kovačević (2017), the norm of the
  node's features less the mean of its neighbours', their optimal distribution for a
  high-pass filter;
- "resampling, energy": in proportion to the squared high-pass part of f, so that the
  filter is the same and only the choice is left to chance;
- "resampling, FastGCN": Chen, Ma & Xiao (2018), the squared norm of the node's column
  of the normalised adjacency.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch_geometric.data import Data

from captum_margin.influence.graph_autoencoder import embed_nodes
from captum_margin.signal import HighPass
from tests.benchmarks.active_learning.peers import Selector
from tests.benchmarks.active_learning.training import graph_of

Score = Callable[[Data, int], Tensor]


def embedding(data: Data, seed: int) -> Tensor:
    """Embedding of the nodes, (N, D); kept on disk, since all methods share it."""
    kept = Path(data.folder) / f"embedding {seed}.pt" if "folder" in data else None
    if kept and kept.exists():
        made: Tensor = torch.load(kept)
        return made
    made = embed_nodes(data, seed=seed)
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        torch.save(made, kept)
    return made


def norm(data: Data, seed: int) -> Tensor:
    """The function f, (N,)."""
    length: Tensor = embedding(data, seed).norm(dim=1)
    return length


def energy(data: Data, seed: int) -> Tensor:
    """Squared high-pass part of f by the mean of the neighbours, (N,)."""
    filtered: Tensor = HighPass()(norm(data, seed), data.edge_index)
    return filtered.square()


def energy_symmetric(data: Data, seed: int) -> Tensor:
    """The same by the symmetric shift of the paper's code."""
    layer = HighPass(shift="symmetric")
    filtered: Tensor = layer(norm(data, seed), data.edge_index)
    return filtered.square()


def feature_contrast(data: Data, seed: int) -> Tensor:
    """Norm of the features less the mean of the neighbours', (N,)."""
    contrast: Tensor = HighPass()(data.x, data.edge_index).norm(dim=1)
    return contrast


def column_energy(data: Data, seed: int) -> Tensor:
    """Squared norm of the columns of the normalised adjacency with self-loops, (N,)."""
    shift = graph_of(data).shift
    squares: Tensor = torch.tensor(shift.power(2).sum(0)).view(-1)
    return squares


def equal(data: Data, seed: int) -> Tensor:
    """The same for all, (N,)."""
    return torch.ones(data.num_nodes)


def highest(score: Score) -> Selector:
    """The nodes of each class with the highest scores."""

    def select(data: Data, budget: int, seeds: Sequence[int]) -> list[Tensor]:
        picks = []
        for seed in seeds:
            values = score(data, seed)
            picks.append([n[values[n].topk(budget).indices] for n in _classes(data)])
        return [torch.cat(nodes) for nodes in picks]

    return select


def drawn(score: Score) -> Selector:
    """Nodes of each class drawn without replacement, in proportion to the scores."""

    def select(data: Data, budget: int, seeds: Sequence[int]) -> list[Tensor]:
        picks = []
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            # A node without energy is drawn when there is no other left.
            values = score(data, seed) + 1e-12
            picks.append(
                [
                    nodes[values[nodes].multinomial(budget, generator=generator)]
                    for nodes in _classes(data)
                ]
            )
        return [torch.cat(nodes) for nodes in picks]

    return select


PAPER: dict[str, Selector] = {
    "random per class": drawn(equal),
    "plain norm": highest(norm),
    "squared high-pass": highest(energy),
    "squared high-pass, symmetric": highest(energy_symmetric),
    "resampling, features": drawn(feature_contrast),
    "resampling, energy": drawn(energy),
    "resampling, FastGCN": drawn(column_energy),
}


def _classes(data: Data) -> list[Tensor]:
    """Standard training nodes of each class."""
    nodes = data.train_mask.nonzero().flatten()
    return [nodes[data.y[nodes] == c] for c in range(int(data.y.max()) + 1)]
