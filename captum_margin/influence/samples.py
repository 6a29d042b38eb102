"""What a question is asked about: features or a graph, labels, scores of a model."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from scipy.sparse import coo_matrix
from torch import Tensor

from captum_margin._numbers import as_numbers, as_real
from captum_margin.signal import Graph, as_undirected
from captum_margin.signal._labels import ClassNames, as_labels
from captum_margin.signal._sparse_rows import SparseRows

__all__ = [
    "ClassNames",
    "Samples",
    "as_features",
    "as_function",
    "as_graph",
    "as_labels",
]


class Samples(NamedTuple):
    """N samples as the ``function`` of a :class:`MarginInfluence` receives them.

    Args:
        features (Tensor, optional): Shape (N, F); None where a graph was given. Of a
            SciPy matrix what stands in for a tensor; ``tocsr()`` is the matrix.
        graph (Graph, optional): As given; None where it is made from the features.
        labels (Tensor, optional): Class numbers within [0, C), shape (N,).
        classes (tuple): Names of the C classes, ``classes[labels[i]]`` that of i.
        scores (Tensor, optional): The model's outputs, (N, ...), where there is one.
    """

    features: Tensor | None = None
    graph: Graph | None = None
    labels: Tensor | None = None
    classes: tuple[Any, ...] = ()
    scores: Tensor | None = None


def as_features(features: Any) -> Tensor:
    """Features (N, F) as a tensor, without a copy where that is possible.

    Sparse ones stay so, in what stands in for a tensor.

    Raises:
        TypeError: If they are not numbers.
        ValueError: If one is missing, or rows are of different lengths.
    """
    if isinstance(features, Tensor):
        if features.layout == torch.strided or features.dim() != 2:
            return as_real(features, "features")
        coo = features.detach().to_sparse_coo().cpu().coalesce()
        values = as_real(coo.values(), "features").numpy()
        matrix = coo_matrix((values, coo.indices().numpy()), tuple(coo.shape))
        return cast(Tensor, SparseRows(matrix))
    if isinstance(features, SparseRows):
        return cast(Tensor, features)
    if hasattr(features, "toarray"):  # SciPy sparse
        return cast(Tensor, SparseRows(features))
    array = as_numbers(features, "features")
    if isinstance(features, np.memmap):
        with warnings.catch_warnings():
            # The file may be read-only: nothing here writes to features.
            warnings.filterwarnings("ignore", "The given NumPy array is not writ")
            return torch.from_numpy(array)
    # Other read-only arrays (pandas) cannot be shared with a tensor.
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def as_function(signal: Tensor, n: int) -> Tensor:
    """A function on n samples, floating and without a gradient.

    Raises:
        ValueError: If its shape does not fit, or its squares overflow or vanish.
    """
    if signal.dim() not in (1, 2) or signal.size(0) != n:
        raise ValueError(
            f"expected a function of shape (N,) or (N, C) with N = {n} "
            f"(got {tuple(signal.shape)}); one row per sample"
        )
    if signal.is_floating_point():
        _check_squares(signal.detach())
        return signal.detach()
    return signal.to(torch.get_default_dtype())


def _check_squares(signal: Tensor) -> None:
    """Raises if what scores are, squares of parts of a function, has no room."""
    if signal.element_size() < 4:
        return
    largest = float(signal.abs().max()) if signal.numel() else 0.0
    range_ = torch.finfo(signal.dtype)
    least, most = range_.tiny**0.5, range_.max**0.5 / max(signal.numel(), 1)
    if largest and largest < torch.inf and not least < largest < most:
        raise ValueError(
            "expected a function of squares that neither overflow nor vanish (got "
            f"{largest:.3g} as its largest value); divide it by {largest:.1g} first"
        )


def as_graph(graph: Any, num_nodes: int | None, bandwidth: float | None) -> Graph:
    """An undirected graph from any of the forms that ``from_graph`` takes.

    Raises:
        TypeError: If it is none of them.
        ValueError: If edges or entries are out of their range.
    """
    if isinstance(graph, Graph):
        return as_undirected(*graph)
    if isinstance(graph, Tensor):
        return as_undirected(graph, None, num_nodes)
    if not hasattr(graph, "tocoo"):
        raise TypeError(
            "expected a Graph, edge_index (2, E) or a SciPy sparse matrix "
            f"(got {type(graph).__name__})"
        )
    coo = graph.tocoo()  # keeps explicit zeros: the distances of duplicates
    if coo.shape[0] != coo.shape[1]:
        raise ValueError(f"expected a square neighbour graph (got {coo.shape})")
    nodes = coo.shape[0]
    distance = torch.from_numpy(coo.data.astype(np.float64))
    if not bool(((distance >= 0) & (distance < torch.inf)).all()):
        raise ValueError("expected finite distances >= 0 in the neighbour graph")
    i, j = torch.from_numpy(np.stack([coo.row, coo.col]).astype(np.int64))
    proper = i != j
    key = torch.minimum(i, j) * nodes + torch.maximum(i, j)
    key, place = torch.unique(key[proper], return_inverse=True)
    # Either direction, or both, may be listed; the nearer one counts.
    distance = distance.new_empty(key.numel()).scatter_reduce_(
        0, place, distance[proper], "amin", include_self=False
    )
    edges = torch.stack([key // max(nodes, 1), key % max(nodes, 1)])
    return as_undirected(edges, gaussian(distance, bandwidth), nodes)


def gaussian(distance: Tensor, bandwidth: float | None) -> Tensor:
    """Weights of edges from their lengths; the bandwidth is in medians of these."""
    lengths = distance[distance > 0]
    if bandwidth is None or lengths.numel() == 0:
        return torch.ones_like(distance)
    sigma = bandwidth * lengths.median()
    weight = torch.exp(-0.5 * (distance / sigma).square())
    return weight.clamp(min=torch.finfo(weight.dtype).tiny)
