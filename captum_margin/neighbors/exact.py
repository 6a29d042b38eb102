"""Exact neighbours by blocks: of features, dense or sparse, on any device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from captum_margin.neighbors.rows import Metric, Rows, check_search
from captum_margin.signal._neighbors import nearest
from captum_margin.signal._sparse_rows import SparseRows

__all__ = ["ExactSearch"]

# Products of sparse rows held at once: 64 MiB in float64.
_BLOCK_NUMBERS = 2**23


class ExactSearch:
    """All pairs of points, as :func:`~captum_margin.signal.knn_graph` compares them.

    Deterministic, equal distances by the lower index. Sparse rows are compared by
    sparse products in double precision: duplicates are at 0 up to its rounding.

    Args:
        metric (str, optional): ``"euclidean"`` or ``"cosine"``.
            Default: ``"euclidean"``.

    Raises:
        TypeError: As :func:`~captum_margin.neighbors.find_neighbors`.
        ValueError: As :func:`~captum_margin.neighbors.find_neighbors`.

    Cost: O(N² F) time; memory for a float64 copy of the points.

    >>> indices, distances = ExactSearch()(torch.tensor([[0.0], [1.0], [3.0]]), 2)
    >>> indices.tolist(), distances[2].tolist()
    ([[1, 2], [0, 2], [1, 0]], [2.0, 3.0])
    """

    name = "exact"

    def __init__(self, metric: Metric = "euclidean") -> None:
        """See the class."""
        self.metric = metric

    def __call__(self, X: Any, k: int) -> tuple[Tensor, Tensor]:
        """The ``k`` nearest others of each row of ``X``, as :class:`NeighborSearch`."""
        rows = Rows(X, self.metric)
        found = check_search(rows, k)
        n = len(rows)
        indices = torch.full((n, k), -1, device=rows.device)
        distances = torch.full((n, k), torch.inf, device=rows.device)
        if found == 0:
            return indices, distances
        if rows.sparse:
            j, square = _nearest_sparse(rows, found)
        else:
            _, j, square = nearest(rows.double(), found, None)
        indices[:, :found] = j.view(n, found)
        distances[:, :found] = square.view(n, found).sqrt()
        return indices, distances


def _nearest_sparse(rows: Rows, k: int) -> tuple[Tensor, Tensor]:
    """Neighbours (N, k) and squared distances of sparse rows."""
    x = rows.data.astype(np.float64)
    if rows.metric == "cosine":
        x = SparseRows(x).bounded().tocsr()
    norms = np.asarray(x.multiply(x).sum(axis=1)).ravel()
    if not np.isfinite(norms).all():
        raise ValueError("expected finite features (got NaN or infinity)")
    if rows.metric == "cosine":
        # A row of zeros stays where it is.
        scale = 1 / np.sqrt(np.where(norms > 0, norms, 1))
        x, norms = x.multiply(scale[:, None]).tocsr(), (norms > 0).astype(np.float64)
    columns = x.T.tocsr()
    near, squares = [], []
    step = max(1, _BLOCK_NUMBERS // len(rows))
    for start in range(0, len(rows), step):
        block = slice(start, min(start + step, len(rows)))
        square = torch.from_numpy((x[block] @ columns).toarray()).mul_(-2)
        square += (
            torch.from_numpy(norms)[None] + torch.from_numpy(norms[block])[:, None]
        )
        # Distances closer than rounding are ties, which go by index.
        square[square.abs() < 1e-12 * norms.max()] = 0
        square.diagonal(start).fill_(torch.inf)
        value, order = square.clamp_(min=0).sort(dim=1, stable=True)
        near.append(order[:, :k].clone())
        squares.append(value[:, :k].clone())
    return torch.cat(near), torch.cat(squares)
