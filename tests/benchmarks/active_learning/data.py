"""Graphs of the active learning benchmark."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors
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
# Parts of GraphPart by its paper; of other graphs as many as there are classes.
PARTS = {"Cora": 7, "CiteSeer": 14}
# Nearest neighbours of a graph that is made of samples.
NEIGHBORS = 5
# Edges of the mixed graph, and the shares within a class and to the next one.
MIXED, OWN, NEXT = 6250, 0.2, 0.35


def load(name: str, root: Path, cache: Path) -> Data:
    """A graph with rows of features that sum to one, and its standard masks.

    Those of "USPS" and "mixed", which have no standard ones, are random.
    Its attribute ``folder`` is where results on it are kept.

    Args:
        name: "Cora", "CiteSeer", "USPS" (see :func:`usps`) or "mixed" (:func:`mixed`).
        root: Folder that holds ``planetoid/`` and the digits; it is only read.
        cache: Folder that takes a copy, since PyTorch Geometric writes beside it.
    """
    if name in PLANETOID:
        data = _planetoid(name, root, cache)
    else:
        data = usps(root) if name == "USPS" else mixed(0)
    data.folder = str(cache / name)
    data.parts = PARTS.get(name, int(data.y.max()) + 1)
    return normalized(data)


def normalized(data: Data) -> Data:
    """Rows of attributes that sum to one, those as given beside."""
    data.given = data.x
    return NormalizeFeatures()(data)


def as_given(data: Data) -> Data:
    """The same graph with attributes as given, not normalised; of words 0 or 1."""
    given = data.clone()
    given.x = data.get("given", (data.x > 0).to(data.x.dtype))
    return given


def usps(root: Path) -> Data:
    """The training digits of USPS, their pixels, and their nearest neighbours."""
    found = np.load(root / "usps_train.npz")
    images = (found["images"].reshape(len(found["labels"]), -1) + 1) / 2
    return knn_graph(images, found["labels"], seed=0)


def knn_graph(x: Any, labels: Any, seed: int, by: Any = None) -> Data:
    """Each node and its nearest ones by Euclidean distance, in both directions.

    Args:
        x: Attributes (N, F), non-negative.
        labels: Classes (N,).
        seed: Of the split.
        by: What is compared, (N, ...). Default: None, ``x``.
    """
    points = x if by is None else by
    near = NearestNeighbors(n_neighbors=NEIGHBORS).fit(points)
    target = torch.from_numpy(near.kneighbors(return_distance=False))
    source = torch.arange(len(target))[:, None].expand_as(target)
    edges = torch.stack([source.flatten(), target.flatten()])
    return split(
        Data(
            x=torch.as_tensor(np.asarray(x), dtype=torch.float),
            edge_index=to_undirected(edges, num_nodes=len(target)),
            y=torch.as_tensor(np.asarray(labels), dtype=torch.long),
        ),
        seed,
    )


def split(data: Data, seed: int) -> Data:
    """The same graph with 500 nodes for validation and 1,000 for the test, random."""
    rng = torch.Generator().manual_seed(seed)
    order = torch.randperm(data.num_nodes, generator=rng)
    data = data.clone()
    for mask, nodes in (("val_mask", order[:500]), ("test_mask", order[500:1500])):
        data[mask] = torch.zeros(data.num_nodes, dtype=torch.bool)
        data[mask][nodes] = True
    return data


def mixed(seed: int) -> Data:
    """Five classes of 500 nodes; four edges of five join nodes of different classes.

    An edge of :data:`MIXED` leads from a node to one of its own class with the chance
    :data:`OWN`, to the next class (of a ring) with :data:`NEXT`, else to any other
    class; degrees are uneven. A node has words of its class, a quarter, and any others.
    """
    rng = torch.Generator().manual_seed(seed)
    label = torch.arange(5).repeat_interleave(500)
    popularity = torch.randn(2500, generator=rng).mul(0.7).exp()
    source = popularity.multinomial(MIXED, replacement=True, generator=rng)
    steps = torch.tensor([OWN, NEXT, *[(1 - OWN - NEXT) / 3] * 3])
    step = steps.multinomial(MIXED, replacement=True, generator=rng)
    to = (label[source] + step) % 5
    target = torch.empty_like(source)
    for c in range(5):
        weight = popularity * (label == c)
        reached = int((to == c).sum())
        target[to == c] = weight.multinomial(reached, True, generator=rng)
    edges = torch.stack([source, target])[:, source != target]

    themes = torch.randint(WORDS, (5, TOPIC), generator=rng)
    shape = 2500, NODE_WORDS
    place = torch.randint(TOPIC, shape, generator=rng)
    word = themes[label].gather(1, place)
    anywhere = torch.randint(WORDS, shape, generator=rng)
    word = torch.where(torch.rand(shape, generator=rng) < 0.25, word, anywhere)
    x = torch.zeros(2500, WORDS).scatter_(1, word, 1.0)
    edges = to_undirected(edges, num_nodes=2500)
    return split(Data(x=x, edge_index=edges, y=label), seed)


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


def blocks(seed: int, reaches: Tensor = REACH) -> Data:
    """Seven classes of five communities each, with uneven sizes, degrees and words.

    A stand-in for a citation graph: a stochastic block model with degree correction,
    whose nodes hold words of their community and class.
    """
    rng = torch.Generator().manual_seed(seed)
    count = len(CLASSES) * COMMUNITIES
    sizes = CLASSES.repeat_interleave(COMMUNITIES) * torch.rand(count, generator=rng)
    community = sizes.multinomial(SIZE, replacement=True, generator=rng)
    label = community // COMMUNITIES
    popularity = torch.randn(SIZE, generator=rng).exp()

    source = popularity.multinomial(EDGES, replacement=True, generator=rng)
    reach = reaches.multinomial(EDGES, replacement=True, generator=rng)
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
