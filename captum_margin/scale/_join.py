"""The nearest rows of a block of rows, within the cells near to each."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from captum_margin.scale._folder import BlockFolder
from captum_margin.scale._nearby import probes

Array = np.ndarray

# A row is compared with at most so many rows of a cell: cells of duplicates are larger.
MOST_ROWS = 1024
_PAIR_NUMBERS = 2**22  # features of pairs of rows, held at once


class Layout(NamedTuple):
    """Where the rows of the cells are.

    Args:
        centres (ndarray): Of the cells, (M, F).
        listed (ndarray): Cells nearest to each, (M, L).
        cells (ndarray): First row of each cell, and N; (M + 1,).
        parts (ndarray): First row of each part of a cell, and N; (T + 1,). A cell
            of more than ``MOST_ROWS`` rows has several.
        first (ndarray): First part of each cell, and T; (M + 1,).
    """

    centres: Array
    listed: Array
    cells: Array
    parts: Array
    first: Array


def layout_of(centres: Array, listed: Array, cells: Array) -> Layout:
    """The layout, with large cells cut into equal parts."""
    sizes = np.diff(cells)
    pieces = np.maximum(1, -(-sizes // MOST_ROWS))
    first = np.append(0, np.cumsum(pieces))
    whole = np.repeat(np.arange(len(sizes)), pieces)
    nth = np.arange(len(whole)) - first[whole]
    parts = cells[whole] + nth * sizes[whole] // pieces[whole]
    return Layout(centres, listed, cells, np.append(parts, cells[-1]), first)


def join_block(
    points: BlockFolder, layout: Layout, count: int, k: int, b: int
) -> tuple[Array, Array]:
    """The k nearest of the rows in the cells near each row of a block.

    Args:
        points (BlockFolder): Features ``points`` (n, F) by block; a cell is in one.
        layout (Layout): Of the cells.
        count (int): Cells that a row is compared with.
        k (int): Neighbours per row.
        b (int): The block.

    Returns:
        Rows of the neighbours (n, k), -1 where all cells listed have too few, and
        distances (n, k), float32, rising, ties by row.
    """
    own = torch.from_numpy(np.array(points.read(b, "points")))
    first, n = points.rows(b).start, len(own)
    best = torch.full((n, k), torch.inf)
    ids = torch.full((n, k), -1)
    near = _near(own, layout, count, first)
    others, bounds = _Points(points), layout.parts.tolist()

    def compare(rows: Tensor, parts: Tensor, selves: bool) -> None:
        for part, mine in _by_part(rows, parts):
            low, high = bounds[part], bounds[part + 1]
            if low == high:
                continue
            points, norms = others(low, high)
            half = torch.addmm(norms, own[mine], points.T, alpha=-1)
            if selves:
                itself = first + mine - low
                inside = ((itself >= 0) & (itself < high - low)).nonzero().squeeze(1)
                half[inside, itself[inside]] = torch.inf
            _update(best, ids, mine, half, low)

    every = torch.arange(n)
    # The own cell first: after that most rows of most cells are too far at a glance.
    compare(every, _own_parts(layout, first, n), selves=True)
    compare(*_other_parts(every, near[:, 1:], layout), selves=False)
    few = (ids < 0).any(dim=1).nonzero().squeeze(1)
    if len(few):  # rows far from all others: all cells listed for their own
        best[few], ids[few] = torch.inf, -1
        listed = torch.from_numpy(layout.listed).long()[near[few, 0]]
        compare(*_other_parts(few, listed, layout), selves=True)
    return _exact(points, own.numpy(), ids.numpy())


def _near(own: Tensor, layout: Layout, count: int, first: int) -> Tensor:
    """The cells near each row of a block, its own in front, (n, count)."""
    centres = torch.from_numpy(layout.centres)
    cell = int(np.searchsorted(layout.cells, first, side="right")) - 1
    found = []
    start, end = first, first + len(own)
    while start < end:
        stop = int(layout.cells[cell + 1])
        if stop > start:
            listed = torch.from_numpy(layout.listed[cell]).long()
            rows = own[start - first : stop - first]
            near = probes(rows, listed, centres, count)
            # Its own takes the place of the farthest if it is not among the nearest.
            at = (near == cell).int().argmax(dim=1, keepdim=True)
            among = near.gather(1, at) == cell
            at = at.where(among, torch.tensor(near.size(1) - 1))
            near.scatter_(1, at, near[:, :1].clone())
            near[:, 0] = cell
            found.append(near)
            start = stop
        cell += 1
    return torch.cat(found)


def _own_parts(layout: Layout, first: int, n: int) -> Tensor:
    """The part of a cell that each row of a block is in, (n,)."""
    starts = torch.from_numpy(layout.parts)
    return torch.searchsorted(starts, torch.arange(first, first + n), right=True) - 1


def _other_parts(rows: Tensor, cells: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Pairs of a row and a part of each of its cells (n, p)."""
    rows = rows.repeat_interleave(cells.size(1))
    cells = cells.flatten()
    parts = torch.from_numpy(layout.first)
    return rows, parts[cells] + rows % (parts[cells + 1] - parts[cells])


def _by_part(rows: Tensor, parts: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Each part with the rows that are compared with it."""
    parts, order = parts.sort(stable=True)
    which, counts = parts.unique_consecutive(return_counts=True)
    groups = rows[order].split(counts.tolist())
    yield from zip(which.tolist(), groups, strict=True)


class _Points:
    """Points of all rows and half their squares; the file of a block is opened once."""

    def __init__(self, folder: BlockFolder) -> None:
        self.folder = folder
        self.starts = folder.starts.tolist()
        self.opened: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, low: int, high: int) -> tuple[Tensor, Tensor]:
        """Those of the rows of a part of a cell, which lie in one block."""
        b = bisect_right(self.starts, low) - 1
        if b not in self.opened:
            points = torch.from_numpy(self.folder.read(b, "points"))
            norms = torch.einsum("ij,ij->i", points, points) / 2
            self.opened[b] = points, norms
        points, norms = self.opened[b]
        rows = slice(low - self.starts[b], high - self.starts[b])
        return points[rows], norms[rows]


def _update(best: Tensor, ids: Tensor, rows: Tensor, half: Tensor, low: int) -> None:
    """Puts what is nearer than the best so far among them."""
    old = best[rows]
    nearer = (half.amin(dim=1) < old.amax(dim=1)).nonzero().squeeze(1)
    if len(nearer) == 0:
        return
    rows, k = rows[nearer], best.size(1)
    both = torch.cat([old[nearer], half[nearer]], dim=1)
    found, place = both.topk(k, largest=False, sorted=False)
    kept = ids[rows].gather(1, place.clamp(max=k - 1))
    ids[rows] = torch.where(place < k, kept, place + (low - k))
    best[rows] = found


def _exact(points: BlockFolder, own: Array, ids: Array) -> tuple[Array, Array]:
    """Distances by differences, in which nothing cancels; rows by them and by id."""
    n, k = ids.shape
    square = np.full(n * k, np.inf)
    flat = ids.ravel()
    order = np.argsort(flat, kind="stable")
    ends = np.searchsorted(flat[order], points.starts)
    size = max(1, _PAIR_NUMBERS // own.shape[1])
    for b in np.flatnonzero(np.diff(ends)):
        block = points.read(int(b), "points")
        for begin in range(ends[b], ends[b + 1], size):
            pairs = order[begin : min(begin + size, ends[b + 1])]
            apart = block[flat[pairs] - points.starts[b]] - own[pairs // k]
            square[pairs] = np.einsum("ij,ij->i", apart, apart)
    square = square.reshape(n, k)
    by_id = np.argsort(ids, axis=1, kind="stable")
    square, ids = (np.take_along_axis(a, by_id, axis=1) for a in (square, ids))
    rising = np.argsort(square, axis=1, kind="stable")
    square, ids = (np.take_along_axis(a, rising, axis=1) for a in (square, ids))
    return ids, np.sqrt(square).astype(np.float32)
