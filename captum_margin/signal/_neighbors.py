"""Exact nearest neighbours with defined ties, for any number of features and for one.

Both searches return directed edges ``i``, ``j`` from each point to its k nearest other
points, equal distances by the lower index, and the squared distances, (N·k,) each.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Numbers held at once by a block of distances: 64 MiB in float64.
_BLOCK_NUMBERS = 2**23
# With more candidates than so many times k per point, precision must be higher.
_CROWDED = 4


def nearest(
    points: Tensor, k: int, chunk_size: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Directed edges from each of N points to its k nearest, with squared distances."""
    n = points.size(0)
    if k == 0:
        empty = torch.empty(0, dtype=torch.long, device=points.device)
        return empty, empty, points.new_empty(0)
    # Of equal points only the first k + 1 can be anyone's neighbours.
    _, group = torch.unique(points, dim=0, return_inverse=True)
    by_group = group.argsort(stable=True)
    columns = by_group[_rank_in_run(group[by_group]) <= k].sort().values
    column_of = torch.full_like(group, -1)
    column_of[columns] = torch.arange(columns.numel(), device=points.device)

    rows = chunk_size or max(1, _BLOCK_NUMBERS // columns.numel())
    screen = _Screen(points, columns, _first_dtype(points))
    parts = []
    for start in range(0, n, rows):
        own = column_of[start : start + rows]
        i, j = screen.candidates(start, own, k)
        if i.numel() > _CROWDED * k * own.numel() and screen.dtype != points.dtype:
            screen = _Screen(points, columns, points.dtype)  # from here on
            i, j = screen.candidates(start, own, k)
        j = columns[j]
        square = _square_distances(points, i + start, j)
        order = square.argsort(stable=True)
        order = order[i[order].argsort(stable=True)]  # by row, distance, index
        order = order[_rank_in_run(i[order]) < k]
        parts.append((i[order] + start, j[order], square[order]))
    i, j, square = (torch.cat(part) for part in zip(*parts, strict=True))
    return i, j, square


class _Screen:
    """Which of the points in ``columns`` may be among the k nearest, without a miss."""

    def __init__(self, points: Tensor, columns: Tensor, dtype: torch.dtype) -> None:
        """Centred points no longer than 1: small numbers, small rounding errors."""
        centred = points - points.mean(dim=0)
        longest = centred.square().sum(dim=1).max().sqrt()
        self.points = (centred / longest.where(longest > 0, 1)).to(dtype)
        norms = self.points.square().sum(dim=1)
        # Twice the rounding error of |a|² + |b|² - 2ab: nothing nearer is left out.
        unit = 4 * (points.size(1) + 8) * torch.finfo(dtype).eps
        self.slack = unit * (norms.sqrt() + 1).square()
        self.dtype = dtype
        every = len(columns) == len(points)
        self.others = self.points if every else self.points[columns]
        self.norms = norms[columns]

    def candidates(self, start: int, own: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Rows, counted from ``start``, and columns; ``own`` is that of each row."""
        rows = slice(start, start + own.numel())
        screen = torch.addmm(  # (rows, columns)
            self.norms[None], self.points[rows], self.others.T, alpha=-2
        )
        itself = (own >= 0).nonzero().squeeze(1)
        screen[itself, own[itself]] = torch.inf
        reach = screen.topk(k, largest=False, sorted=False).values.amax(dim=1)
        reach = reach + self.slack[rows]
        i, j = (screen <= reach[:, None]).nonzero(as_tuple=True)
        return i, j


def _first_dtype(points: Tensor) -> torch.dtype:
    """Single precision, which is fast, unless its products were made faster still."""
    single = torch.get_float32_matmul_precision() == "highest"
    return torch.float32 if single else points.dtype


def _square_distances(points: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Squared distances of listed pairs, a bounded number of them at a time."""
    size = max(1, _BLOCK_NUMBERS // points.size(1))
    pairs = zip(i.split(size), j.split(size), strict=True)
    return torch.cat([(points[a] - points[b]).square().sum(dim=1) for a, b in pairs])


def _rank_in_run(values: Tensor) -> Tensor:
    """Places 0, 1, .. of the elements within each run of equal values, shape (N,)."""
    _, run, count = torch.unique_consecutive(
        values, return_inverse=True, return_counts=True
    )
    first: Tensor = (count.cumsum(0) - count)[run]
    return torch.arange(values.numel(), device=values.device) - first


def nearest_1d(points: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same for N numbers on a line, k < N, by sorting."""
    n = points.numel()
    order = points.argsort(stable=True)  # by value, equal values by index
    _, run, count = torch.unique_consecutive(
        points[order], return_inverse=True, return_counts=True
    )
    rank = torch.arange(n, device=points.device) - (count.cumsum(0) - count)[run]
    # Of a run of equal values only its first k + 1 members can be anyone's neighbours.
    kept = rank <= k
    up, run_kept, rank_kept = order[kept], run[kept], rank[kept]
    size = count.clamp(max=k + 1)
    first_up = size.cumsum(0) - size
    first_down = up.numel() - first_up - size
    # The same members by falling value: the run below comes next, lowest index first.
    down = torch.empty_like(up)
    down[first_down[run_kept] + rank_kept] = up

    step = torch.arange(k + 1, device=points.device)
    position = torch.cat(  # (N, 3k + 3) places in `up` followed by `down`
        [
            first_up[run, None] + step.where(step < size[run, None], up.numel() * 2),
            (first_up + size)[run, None] + step,
            (first_down + size)[run, None] + step,
        ],
        dim=1,
    )
    valid = position < up.numel()
    position = position.clamp(max=up.numel() - 1)
    own_and_up, below = position.split([2 * (k + 1), k + 1], dim=1)
    neighbour = torch.cat([up[own_and_up], down[below]], dim=1)
    valid &= neighbour != order[:, None]
    neighbour, by_index = neighbour.sort(dim=1)
    valid = valid.gather(1, by_index)
    square = (points[order, None] - points[neighbour]).square()
    square = square.masked_fill(~valid, torch.inf)
    square, closest = square.sort(dim=1, stable=True)
    j = neighbour.gather(1, closest)[:, :k].flatten()
    i = order.repeat_interleave(k)
    return i, j, square[:, :k].flatten()
