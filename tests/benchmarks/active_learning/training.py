"""Many graph convolutional networks trained at once, on one thread.

The networks are those of Kipf & Welling (2017) as PyTorch Geometric's example trains
them: graph convolutions with self-loops, ReLU, dropout of one half before each layer,
Glorot's initial weights, zero biases, Adam, weight decay on the first layer only, a
fixed number of epochs and no validation labels.

Networks of a batch are blocks of one block-diagonal matrix per layer, so that a layer
is one sparse product for all. Only the nodes that reach a labelled one within the
layers are in the blocks: no other node has a part in the loss.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.nn.conv.gcn_conv import gcn_norm


class Graph(NamedTuple):
    """What the networks see of a graph, N nodes of C classes."""

    features: sp.csr_matrix  # (N, F)
    shift: sp.csr_matrix  # (N, N), symmetrically normalised, with self-loops
    labels: Tensor  # (N,)
    classes: int


class Block(NamedTuple):
    """The part of a graph that one network's labelled nodes see."""

    features: sp.csr_matrix  # (nodes of the outermost set, F)
    shifts: list[sp.csr_matrix]  # first layer first: from each set to the next


def graph_of(data: Data) -> Graph:
    """Sparse matrices of ``data``, in the precision of its features."""
    assert data.x is not None and data.edge_index is not None
    n = int(data.num_nodes or 0)
    edges, weight = gcn_norm(data.edge_index, None, n, dtype=data.x.dtype)
    source, target = edges.numpy()
    shift = sp.csr_matrix((weight.numpy(), (target, source)), shape=(n, n))
    features = sp.csr_matrix(data.x.numpy())
    return Graph(features, shift, data.y, int(data.y.max()) + 1)


def block_of(graph: Graph, labelled: np.ndarray, layers: int) -> Block:
    """The rows that ``layers`` graph convolutions need for the labelled nodes."""
    nodes = labelled
    shifts: list[sp.csr_matrix] = []
    for _ in range(layers):
        rows = graph.shift[nodes]
        reached = np.unique(rows.indices)
        shifts.insert(0, rows[:, reached])
        nodes = reached
    return Block(graph.features[nodes], shifts)


def diagonal(matrices: Sequence[sp.csr_matrix]) -> tuple[sp.csr_matrix, int]:
    """Blocks of one shape, padded by empty rows and columns, and their height."""
    height = max(m.shape[0] for m in matrices)
    width = max(m.shape[1] for m in matrices)
    starts = np.cumsum([0] + [m.nnz for m in matrices])
    rows = [
        np.r_[m.indptr[:-1], np.full(height - m.shape[0], m.nnz)] + start
        for m, start in zip(matrices, starts, strict=False)
    ]
    columns = [m.indices + i * width for i, m in enumerate(matrices)]
    entries = np.concatenate([m.data for m in matrices])
    pointers = np.concatenate([*rows, starts[-1:]])
    shape = (height * len(matrices), width * len(matrices))
    return sp.csr_matrix((entries, np.concatenate(columns), pointers), shape), height


class Product(torch.autograd.Function):
    """Sparse constant (R, S) times dense (S, C), differentiable in the dense factor."""

    @staticmethod
    def forward(ctx: Any, matrix: sp.csr_matrix, dense: Tensor) -> Tensor:
        """The product."""
        ctx.matrix = matrix
        return torch.from_numpy(matrix @ dense.numpy())

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[None, Tensor]:
        """The transposed product."""
        return None, torch.from_numpy(ctx.matrix.T @ grad[0].contiguous().numpy())


def initial_weights(sizes: Sequence[int], seed: int) -> list[Tensor]:
    """Glorot's uniform weights for layers of these widths, by the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    weights = []
    for inputs, outputs in itertools.pairwise(sizes):
        bound = (6 / (inputs + outputs)) ** 0.5
        uniform = torch.rand(inputs, outputs, generator=generator)
        weights.append((2 * uniform - 1) * bound)
    return weights


class Batch:
    """Networks that are trained together, one per selection and seed."""

    def __init__(
        self,
        graph: Graph,
        selections: Sequence[Tensor],
        seeds: Sequence[int],
        layers: int,
        hidden: int,
    ) -> None:
        """Builds the blocks and draws the initial weights."""
        self.graph, self.models = graph, len(seeds)
        picks = [s.numpy() for s in selections]
        blocks = [block_of(graph, p, layers) for p in picks]
        self.blocks = blocks
        self.features, _ = diagonal([b.features for b in blocks])
        self.kept_features = self.features.data.copy()
        self.shifts, self.heights = [], []
        for layer in range(layers):
            shift, height = diagonal([b.shifts[layer] for b in blocks])
            self.shifts.append(shift)
            self.heights.append(height)
        shape = self.models, self.heights[-1]
        self.labels = torch.zeros(shape, dtype=torch.long)
        self.shares = torch.zeros(shape, dtype=torch.from_numpy(graph.shift.data).dtype)
        for i, pick in enumerate(selections):
            self.labels[i, : len(pick)] = graph.labels[pick]
            self.shares[i, : len(pick)] = 1 / len(pick)
        sizes = [graph.features.shape[1], *[hidden] * (layers - 1), graph.classes]
        drawn = [initial_weights(sizes, seed) for seed in seeds]
        dtype = self.shares.dtype
        self.weights = [
            torch.stack(w).to(dtype).requires_grad_() for w in zip(*drawn, strict=True)
        ]
        self.biases = [
            torch.zeros(self.models, 1, w.shape[-1], dtype=dtype, requires_grad=True)
            for w in self.weights
        ]
        self.hidden = hidden
        self.generators = [np.random.default_rng(seed) for seed in seeds]

    def drop(self) -> list[Tensor]:
        """Drops half of the features in place; masks for the hidden layers, 0 or 2.

        Each network draws from its own generator, and only for its own nodes: what is
        dropped does not depend on the other networks of the batch.
        """
        shapes = [(self.models, height, self.hidden) for height in self.heights[:-1]]
        masks = [np.zeros(shape, np.uint8) for shape in shapes]
        features = []
        for i, (block, generator) in enumerate(
            zip(self.blocks, self.generators, strict=True)
        ):
            rows = [shift.shape[0] for shift in block.shifts[:-1]]
            ends = np.cumsum([block.features.nnz, *(r * self.hidden for r in rows)])
            coins = np.frombuffer(generator.bytes(ends[-1] // 8 + 1), np.uint8)
            parts = np.split(np.unpackbits(coins)[: ends[-1]], ends[:-1])
            features.append(parts[0])
            for mask, part, row in zip(masks, parts[1:], rows, strict=True):
                mask[i, :row] = part.reshape(row, self.hidden)
        coins = np.concatenate(features)
        np.multiply(self.kept_features, coins, out=self.features.data)
        self.features.data *= 2
        return [2 * torch.from_numpy(m).to(self.shares.dtype) for m in masks]

    def forward(self, masks: Sequence[Tensor]) -> Tensor:
        """Logits of the labelled nodes, (models, most labels, C), zeros as padding."""
        out: Tensor = Product.apply(self.features, self.weights[0].flatten(0, 1))
        for layer, (shift, bias) in enumerate(
            zip(self.shifts, self.biases, strict=True)
        ):
            if layer:
                out = out.relu()
                if masks:
                    out = out * masks[layer - 1]
                out = (out @ self.weights[layer]).flatten(0, 1)
            out = Product.apply(shift, out).unflatten(0, (self.models, -1)) + bias
        return out

    def train(self, epochs: int, lr: float, decay: float, dropout: bool) -> None:
        """Adam on the mean cross-entropy of each network's labelled nodes."""
        first = [self.weights[0], self.biases[0]]
        rest = [*self.weights[1:], *self.biases[1:]]
        groups: list[dict[str, Any]] = [
            {"params": first, "weight_decay": decay},
            {"params": rest},
        ]
        optimizer = torch.optim.Adam(groups, lr=lr, fused=True)
        for _ in range(epochs):
            optimizer.zero_grad()
            logits = self.forward(self.drop() if dropout else [])
            # The sum over networks gives each its own gradient.
            losses = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), self.labels.flatten(), reduction="none"
            )
            (losses * self.shares.flatten()).sum().backward()
            optimizer.step()

    @torch.no_grad()
    def logits(self) -> Tensor:
        """Logits of all nodes, (models, N, C), without dropout."""
        graph = self.graph
        out = _wide(graph.features, self.weights[0])
        for layer, bias in enumerate(self.biases):
            if layer:
                out = out.relu() @ self.weights[layer]
            out = _wide(graph.shift, out) + bias
        return out


def _wide(matrix: sp.csr_matrix, dense: Tensor) -> Tensor:
    """One sparse matrix (R, S) times each of the dense (models, S, C)."""
    models, _, columns = dense.shape
    side_by_side = dense.transpose(0, 1).reshape(-1, models * columns).numpy()
    product = torch.from_numpy(matrix @ side_by_side)
    return product.view(-1, models, columns).transpose(0, 1)


def trained_logits(
    data: Data,
    selections: Sequence[Tensor],
    seeds: Sequence[int],
    *,
    layers: int = 2,
    hidden: int = 16,
    epochs: int = 200,
    lr: float = 0.01,
    weight_decay: float = 5e-4,
    dropout: bool = True,
    batch: int = 20,
) -> Iterator[Tensor]:
    """Logits of all nodes by networks trained on the i-th selection with the i-th seed.

    Args:
        data: A graph with ``x`` (N, F), ``edge_index`` and ``y`` (N,).
        selections: Nodes whose labels a network is given, one tensor each.
        seeds: Of the initial weights and the dropout, as many.
        layers: Graph convolutions.
        hidden: Width of the hidden layers.
        epochs: Steps of Adam.
        lr: Learning rate.
        weight_decay: Of the first layer.
        dropout: Whether one half is dropped before each layer.
        batch: Networks trained together; changes time and memory only.

    Yields:
        (networks of the batch, N, C), in order.
    """
    graph = graph_of(data)
    for start in range(0, len(seeds), batch):
        part = slice(start, start + batch)
        networks = Batch(graph, selections[part], seeds[part], layers, hidden)
        networks.train(epochs, lr, weight_decay, dropout)
        yield networks.logits()


def accuracies(
    data: Data, selections: Sequence[Tensor], seeds: Sequence[int], **options: Any
) -> Tensor:
    """Accuracy on ``data.test_mask`` of each network of :func:`trained_logits`, (M,).

    One selection under twenty training seeds: ``accuracies(data, [nodes] * 20,
    range(20))``.
    """
    labels = data.y[data.test_mask]
    hits = [
        (logits[:, data.test_mask].argmax(-1) == labels).double().mean(-1)
        for logits in trained_logits(data, selections, seeds, **options)
    ]
    return torch.cat(hits)
