"""Small graphs with known answers, in both directions, and a dense view of any."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch_geometric import EdgeIndex


def both_directions(edges: list[tuple[int, int]]) -> Tensor:
    """``edge_index`` (2, 2E) of undirected edges, in no particular order."""
    forward = torch.tensor(edges, dtype=torch.long).reshape(-1, 2)
    return torch.cat([forward, forward.flip(1)]).T.contiguous()


def ring(n: int) -> Tensor:
    """A cycle of n nodes."""
    return both_directions([(i, (i + 1) % n) for i in range(n)])


def path(n: int) -> Tensor:
    """A line of n nodes."""
    return both_directions([(i, i + 1) for i in range(n - 1)])


def star(leaves: int) -> Tensor:
    """Node 0 joined to each of the leaves 1 .. n."""
    return both_directions([(0, i) for i in range(1, leaves + 1)])


def random_graph(
    n: int, generator: torch.Generator, density: float = 0.4
) -> tuple[Tensor, Tensor]:
    """An undirected weighted graph in shuffled order; float64 weights in (0.1, 1.1)."""
    i, j = torch.triu_indices(n, n, offset=1)
    kept = torch.rand(i.numel(), generator=generator) < density
    i, j = i[kept], j[kept]
    weight = torch.rand(i.numel(), generator=generator, dtype=torch.float64) + 0.1
    order = torch.randperm(2 * i.numel(), generator=generator)
    edge_index = torch.stack([torch.cat([i, j]), torch.cat([j, i])])[:, order]
    return edge_index, torch.cat([weight, weight])[order]


def dense(edge_index: Tensor, edge_weight: Tensor | None, n: int) -> np.ndarray:
    """W (n, n) in float64, row = target; parallel edges add up."""
    weights = np.zeros((n, n))
    values = np.ones(edge_index.size(1)) if edge_weight is None else edge_weight.numpy()
    for (source, target), value in zip(edge_index.T.tolist(), values, strict=True):
        weights[target, source] += value
    return weights


def sample_signal(
    seed: int = 0,
    n: int = 12,
    channels: int = 3,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor, Tensor]:
    """A signal (n, channels) on a random weighted graph: x, edge_index, edge_weight."""
    generator = torch.Generator().manual_seed(seed)
    edge_index, edge_weight = random_graph(n, generator)
    x = torch.randn(n, channels, generator=generator, dtype=torch.float64)
    return x.to(dtype), edge_index, edge_weight.to(dtype)


def strided(tensor: Tensor) -> Tensor:
    """The same numbers, as those of a list of pairs transposed: not contiguous."""
    return torch.stack([tensor, torch.full_like(tensor, 7)], dim=-1)[..., 0]


def layouts(
    edge_index: Tensor, edge_weight: Tensor, n: int
) -> dict[str, tuple[Tensor, Tensor | None]]:
    """The same graph in every form the layer takes: (edges, weights) by name."""
    order = edge_index[1].argsort(stable=True)
    by_target = edge_index[:, order]
    weight = edge_weight[order]
    adj = torch.sparse_coo_tensor(edge_index.flip(0), edge_weight, (n, n)).coalesce()
    index = EdgeIndex(by_target, sparse_size=(n, n), sort_order="col")
    row_order = edge_index[0].argsort(stable=True)
    by_row = EdgeIndex(edge_index[:, row_order], sparse_size=(n, n), sort_order="row")
    return {
        "edge_index, shuffled": (edge_index, edge_weight),
        "edge_index, by target": (by_target, weight),
        "edge_index, int32": (by_target.int(), weight),
        "pairs.T": (strided(by_target), strided(weight)),
        "pairs.T, int32": (strided(by_target.int()), weight),
        "coo": (adj, None),
        "csr": (adj.to_sparse_csr(), None),
        "csc": (adj.to_sparse_csc(), None),
        "EdgeIndex, unsorted": (
            EdgeIndex(edge_index, sparse_size=(n, n)),
            edge_weight,
        ),
        "EdgeIndex, by target": (index, weight),
        "EdgeIndex, by source": (by_row, edge_weight[row_order]),
    }
