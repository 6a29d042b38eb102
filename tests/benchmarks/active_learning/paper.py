"""The paper's protocol: so many of each class's standard training nodes, by a score.

f is the norm of a graph auto-encoder's embedding, one auto-encoder per seed. The
paper's own method is its Algorithm 1, with the symmetric shift as in
``select_nodes(paper=True)``; its two listings are ``paper="arxiv"`` and ``"journal"``.
The random-walk shift is an extra.

The paper's baseline (Chen et al. 2017) draws nodes at random, with a probability that
follows a score (section "Case Study VI"):

- "resampling, features": the magnitude of a node's features after high-pass filtering,
  the norm of its features less the mean of its neighbours';
- without the filter, as the arXiv edition adds: "resampling, norm of features" of the
  features, "resampling, norm of f" of the function that MARGIN filters;
- "resampling, energy" is an extra: in proportion to the squared high-pass part of f, so
  that only the choice is left to chance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch_geometric.data import Data

from captum_margin.influence import ActiveLearning
from captum_margin.influence._published import Paper
from captum_margin.influence.graph_autoencoder import embed_nodes
from captum_margin.signal import HighPass
from tests.benchmarks.active_learning.peers import Selector

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


def published(form: Paper) -> Score:
    """The influence of f in a form of the paper, (N,)."""

    def score(data: Data, seed: int) -> Tensor:
        f = norm(data, seed)
        return ActiveLearning(data, function=f, paper=form).self_influence()

    return score


def energy_symmetric(data: Data, seed: int) -> Tensor:
    """The squared high-pass part by the symmetric shift, Algorithm 1, (N,)."""
    layer = HighPass(shift="symmetric")
    filtered: Tensor = layer(norm(data, seed), data.edge_index)
    return filtered.square()


def feature_contrast(data: Data, seed: int) -> Tensor:
    """Norm of the features less the mean of the neighbours', (N,)."""
    contrast: Tensor = HighPass()(data.x, data.edge_index).norm(dim=1)
    return contrast


def feature_norm(data: Data, seed: int) -> Tensor:
    """Norm of the features, (N,)."""
    length: Tensor = data.x.norm(dim=1)
    return length


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
    "arXiv listing": highest(published("arxiv")),
    "journal listing": highest(published("journal")),
    "resampling, features": drawn(feature_contrast),
    "resampling, norm of features": drawn(feature_norm),
    "resampling, norm of f": drawn(norm),
    "resampling, energy": drawn(energy),
}


def _classes(data: Data) -> list[Tensor]:
    """Standard training nodes of each class."""
    nodes = data.train_mask.nonzero().flatten()
    return [nodes[data.y[nodes] == c] for c in range(int(data.y.max()) + 1)]
