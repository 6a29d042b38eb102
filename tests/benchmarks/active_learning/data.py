"""Graphs of the active learning benchmark."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.datasets import Planetoid
from torch_geometric.transforms import NormalizeFeatures
from torch_geometric.utils import to_undirected

PLANETOID = ("Cora", "CiteSeer")
# Nodes, communities of one class, edges, words in all, of a topic and of a node.
SIZE, COMMUNITIES, EDGES, WORDS, TOPIC, NODE_WORDS = 2700, 5, 5400, 1400, 60, 20
# Shares of the classes; an edge stays in its community, its class, or goes anywhere.
CLASSES = torch.tensor([0.30, 0.16, 0.15, 0.13, 0.11, 0.08, 0.07])
REACH = torch.tensor([0.55, 0.25, 0.20])
# A word is one of the community's, of the class's, or any.
ORIGIN = torch.tensor([0.15, 0.20, 0.65])


def load(name: str, root: Path, cache: Path) -> Data:
    """A graph with rows of features that sum to one, and its standard masks.

    Its attribute ``folder`` is where results on it are kept.

    Args:
        name: "Cora", "CiteSeer", or "blocks": drawn by :func:`blocks`.
        root: Folder that holds ``planetoid/``; it is only read.
        cache: Folder that takes a copy, since PyTorch Geometric writes beside it.
    """
    data = _planetoid(name, root, cache) if name in PLANETOID else blocks(0)
    data.folder = str(cache / name)
    return NormalizeFeatures()(data)


def _planetoid(name: str, root: Path, cache: Path) -> Data:
    for file in (root / "planetoid" / name / "raw").iterdir():
        copy = cache / "planetoid" / name / "raw" / file.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if not copy.exists():
            shutil.copyfile(file, copy)
    return Planetoid(cache / "planetoid", name)[0]


def pool(data: Data) -> Tensor:
    """Nodes outside the validation and test sets: those that may be labelled."""
    free: Tensor = ~data.val_mask & ~data.test_mask
    return free.nonzero().flatten()


def blocks(seed: int) -> Data:
    """Seven classes of five communities each, with uneven sizes, degrees and words.

    A stand-in for a citation graph on which nothing was chosen: a stochastic block
    model with degree correction, whose nodes hold words of their community and class.
    """
    rng = torch.Generator().manual_seed(seed)
    count = len(CLASSES) * COMMUNITIES
    sizes = CLASSES.repeat_interleave(COMMUNITIES) * torch.rand(count, generator=rng)
    community = sizes.multinomial(SIZE, replacement=True, generator=rng)
    label = community // COMMUNITIES
    popularity = torch.randn(SIZE, generator=rng).exp()

    source = popularity.multinomial(EDGES, replacement=True, generator=rng)
    reach = REACH.multinomial(EDGES, replacement=True, generator=rng)
    target = popularity.multinomial(EDGES, replacement=True, generator=rng)
    for kind, group in ((0, community), (1, label)):
        for member in range(int(group.max()) + 1):
            near = (reach == kind) & (group[source] == member)
            weight = popularity * (group == member)
            if near.any():
                target[near] = weight.multinomial(
                    int(near.sum()), replacement=True, generator=rng
                )
    edges = torch.stack([source, target])[:, source != target]

    shape = SIZE, NODE_WORDS
    topics = torch.randint(WORDS, (count, TOPIC), generator=rng)
    themes = torch.randint(WORDS, (len(CLASSES), TOPIC), generator=rng)
    place = torch.randint(TOPIC, shape, generator=rng)
    rare = (torch.rand(shape, generator=rng) ** 2 * WORDS).long()
    origin = ORIGIN.expand(SIZE, 3).multinomial(NODE_WORDS, True, generator=rng)
    own = topics[community].gather(1, place)
    word = torch.where(origin == 1, themes[label].gather(1, place), rare)
    word = torch.where(origin == 0, own, word)
    x = torch.zeros(SIZE, WORDS).scatter_(1, word, 1.0)

    data = Data(x=x, edge_index=to_undirected(edges, num_nodes=SIZE), y=label)
    order = torch.randperm(SIZE, generator=rng)
    for mask, nodes in (("val_mask", order[:500]), ("test_mask", order[500:1500])):
        data[mask] = torch.zeros(SIZE, dtype=torch.bool)
        data[mask][nodes] = True
    data.train_mask = torch.zeros(SIZE, dtype=torch.bool)
    free = order[1500:]
    for c in range(len(CLASSES)):
        data.train_mask[free[label[free] == c][:20]] = True
    return data
