"""Graphs of PyTorch Geometric in whatever form they keep their edges."""

from __future__ import annotations

import copy
import warnings
from typing import Any

from torch_geometric.utils import to_edge_index

__all__ = ["warn_of_few_candidates", "with_edge_index"]


def with_edge_index(data: Any) -> Any:
    """The graph with ``edge_index``, which is read from ``adj_t`` if there is none.

    ``adj_t`` (of ``torch_geometric.transforms.ToSparseTensor``) is the transposed
    adjacency, as a sparse tensor of torch or a ``SparseTensor``; its values are edge
    weights unless they are all 1.

    Raises:
        TypeError: If the graph has several types of nodes.
    """
    if hasattr(data, "to_homogeneous"):
        raise TypeError(
            "expected a torch_geometric.data.Data with one type of nodes (got "
            f"{type(data).__name__}); convert it by .to_homogeneous()"
        )
    adjacency = getattr(data, "adj_t", None)
    if getattr(data, "edge_index", None) is not None or adjacency is None:
        return data
    edges, values = to_edge_index(adjacency)
    data = copy.copy(data)
    data.edge_index = edges.flip(0)
    if data.num_nodes is None:
        data.num_nodes = adjacency.size(0)
    if values is not None and values.dim() == 1 and bool((values != 1).any()):
        data.edge_weight = values
    return data


def warn_of_few_candidates(budget: int, n_candidates: int) -> None:
    """Says so where more nodes are asked for than there are."""
    if budget > n_candidates:
        warnings.warn(
            f"{budget} nodes are asked for, of which only {n_candidates} can be "
            "picked: all of these are returned",
            stacklevel=3,
        )
