"""How many of the true neighbours a search has found, checked on some rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from captum_margin._numbers import middle
from captum_margin._whole_numbers import whole_number
from captum_margin.neighbors.result import Recall
from captum_margin.neighbors.rows import Metric, Rows, pair_distances

__all__ = ["nearest_to", "recall_at_k", "sample_rows"]

# Beyond k, kept while blocks are gone through: rounding may swap as many.
_SPARE = 8


def recall_at_k(
    X: Any,
    indices: Tensor,
    *,
    metric: Metric = "euclidean",
    n_samples: int = 1000,
    seed: int = 0,
) -> Recall:
    """Share of the k nearest neighbours that were found, on a sample of the rows.

    A listed point counts if it is no farther than the k-th nearest: which of several
    equally near ones is listed makes no difference. The row itself, -1 and repetitions
    do not count. Where there are fewer than k other points, they are all.

    Args:
        X (Tensor, ndarray, memmap or SciPy sparse matrix): Features (N, F).
        indices (Tensor): Neighbours of each row, (N, k), -1 for none.
        metric (str, optional): ``"euclidean"`` or ``"cosine"``.
            Default: ``"euclidean"``.
        n_samples (int, optional): Rows that are checked. Default: 1000.
        seed (int, optional): Of their choice. Default: 0.

    Returns:
        Recall: The mean over the rows and its standard error.

    Raises:
        TypeError: As :class:`~captum_margin.neighbors.rows.Rows`.
        ValueError: As there, or if ``indices`` is not (N, k).

    Cost: O(n_samples · N · F) time, reading all of X once.

    >>> x = torch.tensor([[0.0], [1.0], [3.0]])
    >>> recall_at_k(x, torch.tensor([[1], [0], [0]])).value
    0.6666666865348816
    """
    rows = Rows(X, metric)
    if indices.is_floating_point() or indices.dim() != 2 or len(indices) != len(rows):
        raise ValueError(
            f"expected integer indices of shape (N, k) with N = {len(rows)} "
            f"(got {indices.dtype} {tuple(indices.shape)})"
        )
    checked = sample_rows(len(rows), n_samples, seed).to(rows.device)
    k = min(indices.size(1), len(rows) - 1)
    if k < 1:
        return Recall(1.0, 0.0)
    _, reach = nearest_to(rows, rows.take(checked), k, skip=checked)
    share = _found_share(rows, checked, indices.to(rows.device)[checked], reach[:, -1])
    error = 0.0
    if len(share) < len(rows):
        error = float(share.std(correction=0)) / len(share) ** 0.5
    return Recall(float(share.mean()), error)


def sample_rows(n: int, size: int, seed: int) -> Tensor:
    """Different rows drawn at random, in ascending order, (min(size, n),)."""
    generator = torch.Generator().manual_seed(whole_number(seed, "seed"))
    return torch.randperm(n, generator=generator)[:size].sort().values


def _found_share(rows: Rows, queries: Tensor, found: Tensor, reach: Tensor) -> Tensor:
    """Of each query's neighbours: the share that ``found`` lists, (Q,).

    ``found`` are rows (Q, k), ``reach`` the distances of the k-th nearest, (Q,).
    """
    k = min(found.size(1), len(rows) - 1)
    proper = (found >= 0) & (found != queries[:, None])
    value, order = found.sort(dim=1)
    repeated = torch.zeros_like(proper)
    repeated[:, 1:] = value[:, 1:] == value[:, :-1]
    proper &= ~torch.zeros_like(proper).scatter_(1, order, repeated)
    wanted, place = found.clamp(min=0).unique(return_inverse=True)
    distance = pair_distances(rows.take(queries), rows.take(wanted), place)
    hits = (proper & (distance <= reach[:, None])).sum(dim=1)
    return hits.clamp(max=k) / k


def nearest_to(
    rows: Rows, queries: Tensor, k: int, skip: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Exact neighbours of a few points among all rows, which are read once.

    Args:
        rows (Rows): N points.
        queries (Tensor): Shape (Q, F), float32, prepared as the rows are.
        k (int): At most N, or N - 1 with ``skip``.
        skip (Tensor, optional): The row that each query is, (Q,). Default: None.

    Returns:
        Indices (Q, k), nearest first, equal distances by index, and distances (Q, k).

    Cost: O(Q · N · F) time; a block of rows and Q blocks of distances at once.
    """
    width = k + _SPARE
    centre = middle(queries)
    centred = queries - centre
    least = queries.new_full((len(queries), 0), torch.inf)
    nearest = torch.empty_like(least, dtype=torch.long)
    step = max(1024, 2**25 // max(len(queries), rows.width))
    for block in rows.blocks(step):
        points = rows[block] - centre
        square = torch.addmm(points.square().sum(dim=1), centred, points.T, alpha=-2)
        if skip is not None:
            inside = ((skip >= block.start) & (skip < block.stop)).nonzero().squeeze(1)
            square[inside, skip[inside] - block.start] = torch.inf
        near = square.topk(min(width, len(points)), dim=1, largest=False)
        least = torch.cat([least, near.values], dim=1)
        nearest = torch.cat([nearest, near.indices + block.start], dim=1)
        if least.size(1) > width:
            least, place = least.topk(width, dim=1, largest=False)
            nearest = nearest.gather(1, place)
    nearest = nearest.sort(dim=1).values
    wanted, place = nearest.unique(return_inverse=True)
    distance = pair_distances(queries, rows.take(wanted), place)
    if skip is not None:
        distance = distance.masked_fill(nearest == skip[:, None], torch.inf)
    distance, order = distance.sort(dim=1, stable=True)
    return nearest.gather(1, order)[:, :k], distance[:, :k]
