"""The nearest points of queries among the cells near to each: torch alone, exact there.

Queries are gone through cell by cell: all that look into a cell are compared with its
members by one matrix product, and only what is nearer than the best so far is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["join", "listed_cells", "probes"]

# Numbers held at once by a block of distances: 64 MiB.
_BLOCK_NUMBERS = 2**24


def listed_cells(centres: Tensor, count: int) -> Tensor:
    """The cells nearest to each cell, itself first, (C, min(count, C)).

    Cost: O(C² F) time.
    """
    rows = max(1, _BLOCK_NUMBERS // len(centres))
    norms = centres.square().sum(dim=1)
    parts = []
    for start in range(0, len(centres), rows):
        some = centres[start : start + rows]
        square = torch.addmm(norms, some, centres.T, alpha=-2)
        square.diagonal(start).fill_(-torch.inf)
        near = square.topk(min(count, len(centres)), dim=1, largest=False)
        parts.append(near.indices)
    return torch.cat(parts)


def probes(
    queries: Tensor, cell: Tensor, centres: Tensor, listed: Tensor, count: int
) -> Tensor:
    """The cells to look into for each query, its own first, then the nearest.

    Args:
        queries (Tensor): Shape (Q, F), sorted by cell.
        cell (Tensor): The cell of each, (Q,).
        centres (Tensor): Of all cells, (C, F).
        listed (Tensor): Cells among which the nearest are looked for, (C, L), of each
            cell, itself first.
        count (int): P, at most L.

    Returns:
        Tensor: Shape (Q, P), int64.
    """
    norms = centres.square().sum(dim=1)
    cells, counts = cell.unique_consecutive(return_counts=True)
    parts = []
    for c, some in zip(cells.tolist(), queries.split(counts.tolist()), strict=True):
        near = listed[c]
        square = torch.addmm(norms[near], some, centres[near].T, alpha=-2)
        square[:, 0] = -torch.inf
        parts.append(near[square.topk(count, dim=1, largest=False).indices])
    return torch.cat(parts)


def join(
    queries: Tensor,
    probed: Tensor,
    points: Tensor,
    start: Tensor,
    k: int,
    skip: Tensor | None = None,
) -> Tensor:
    """Places of the k nearest points of each query in the cells that it looks into.

    Args:
        queries (Tensor): Shape (Q, F).
        probed (Tensor): Cells of each query, the first of which likely holds the most
            of its neighbours, (Q, P).
        points (Tensor): All points, cell by cell, (N, F).
        start (Tensor): Where the members of each cell start, and N, (C + 1,).
        k (int): Neighbours per query.
        skip (Tensor, optional): Place of each query among the points, (Q,), if it is
            one of them. Default: None.

    Returns:
        Tensor: Shape (Q, k), in no order; -1 where the cells have too few members.

    Cost: O(Q · (members of P cells) · F) time, O(Q · (P + k)) memory beside a block of
    bounded size.
    """
    best = queries.new_full((len(queries), k), torch.inf)
    nearest = torch.full_like(best, -1, dtype=torch.long)
    bound = start.tolist()
    # After the first cells most members of the others are too far at a glance.
    for part in (probed[:, :1], probed[:, 1:]):
        cells, order = part.flatten().sort(stable=True)
        cells, counts = cells.unique_consecutive(return_counts=True)
        order = order.div(max(1, part.size(1)), rounding_mode="floor")
        groups = order.split(counts.tolist())
        for c, group in zip(cells.tolist(), groups, strict=True):
            low, high = bound[c], bound[c + 1]
            if low == high:
                continue
            members = points[low:high]
            norms = members.square().sum(dim=1)
            for rows in group.split(max(1, _BLOCK_NUMBERS // (high - low))):
                square = torch.addmm(norms, queries[rows], members.T, alpha=-2)
                if skip is not None:
                    own = skip[rows] - low
                    inside = ((own >= 0) & (own < high - low)).nonzero().squeeze(1)
                    square[inside, own[inside]] = torch.inf
                _keep_nearer(best, nearest, rows, square, low)
    return nearest


def _keep_nearer(
    best: Tensor, nearest: Tensor, rows: Tensor, square: Tensor, low: int
) -> None:
    """Puts members that are nearer than the worst of the best in its place."""
    improved = (square.amin(dim=1) < best[rows].amax(dim=1)).nonzero().squeeze(1)
    if len(improved) == 0:
        return
    rows, k = rows[improved], best.size(1)
    value = torch.cat([best[rows], square[improved]], dim=1)
    value, place = value.topk(k, dim=1, largest=False, sorted=False)
    kept = nearest[rows].gather(1, place.clamp(max=k - 1))
    kept = torch.where(place < k, kept, place + (low - k))
    nearest[rows] = torch.where(value < torch.inf, kept, -1)
    best[rows] = value
