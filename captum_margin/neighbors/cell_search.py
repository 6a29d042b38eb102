"""Approximate neighbours by many small cells of nearby points, in torch alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_margin.neighbors.cells import assign, train
from captum_margin.neighbors.join import join, listed_cells, probes
from captum_margin.neighbors.recall import nearest_to, sample_rows
from captum_margin.neighbors.rows import Metric, Rows, check_search, pair_distances

__all__ = ["CellIndex", "CellSearch"]

# Points of a cell on average, and at most; chosen with bench_neighbors' data.
CELL_SIZE = 96
_LARGEST = 8 * CELL_SIZE
# Points of the sample per cell that places the cells.
_SAMPLE_PER_CELL = 12
# Cells near to a cell, among which the nearest of its members are looked for.
_LISTED = 256
# Rows on which the number of cells is chosen, and what is added for so few rows.
_PILOTS = 500
_MARGIN = 0.005
# Points whose neighbours are looked for at once.
_QUERIES = 2**15


class CellSearch:
    """Nearest neighbours among the members of the cells nearest to each point.

    k-means puts the points into cells of about 96. Each point is compared with the
    members of as many of the nearest cells as the recall asks for on 500 rows, whose
    exact neighbours are found first.

    Args:
        metric (str, optional): ``"euclidean"`` or ``"cosine"``.
            Default: ``"euclidean"``.
        recall (float, optional): Share of the true neighbours to be found.
            Default: 0.95.
        seed (int, optional): Of the samples. Default: 0.
        show_progress (bool, optional): A bar over the points. Default: False.

    Cost: O(N · sqrt(N) · F) time for the cells, O(N · M · F) for the neighbours with M
    compared points, some hundreds to thousands; memory for a float32 copy of the points
    and the result.

    >>> x = torch.arange(200.0)[:, None]
    >>> indices, distances = CellSearch()(x, 2)
    >>> indices[100].sort().values.tolist()
    [99, 101]
    """

    name = "cells"

    def __init__(
        self,
        metric: Metric = "euclidean",
        *,
        recall: float = 0.95,
        seed: int = 0,
        show_progress: bool = False,
    ) -> None:
        """See the class."""
        self.metric = metric
        self.recall = recall
        self.seed = seed
        self.show_progress = show_progress

    def __call__(self, X: Any, k: int) -> tuple[Tensor, Tensor]:
        """Indices (N, k), -1 where there are no more, and distances (N, k)."""
        rows = Rows(X, self.metric)
        found = check_search(rows, k)
        indices = torch.full((len(rows), k), -1, device=rows.device)
        distances = torch.full((len(rows), k), torch.inf, device=rows.device)
        if found:
            index = CellIndex(rows, self.seed)
            count = index.choose_count(rows, found, self.recall, self.seed)
            places = range(0, len(rows), _QUERIES)
            for start in tqdm(places, "neighbours", disable=not self.show_progress):
                place = torch.arange(start, min(start + _QUERIES, len(rows)))
                near, distance = index.neighbors_of_members(place, found, count)
                own = index.order[start : start + _QUERIES]
                indices[own, :found], distances[own, :found] = near, distance
        return indices, distances


class CellIndex:
    """The points sorted by cell, and the search among them.

    Args:
        rows (Rows): N points.
        seed (int, optional): Of the samples. Default: 0.

    Attributes:
        cells (Cells): As they were trained, C of them.
        centre (Tensor): What was taken from all points, (F,).
        parts (Tensor): Cells that were too large are cut: the first part of each cell,
            and P, (C + 1,).
        means (Tensor): Of the parts, (P, F).
        start (Tensor): Where the members of each part start, and N, (P + 1,).
        order (Tensor): The rows, part by part, (N,).
        points (Tensor): The points in this order, (N, F) float32.
        listed (Tensor): The parts nearest to each part, (P, L).
    """

    def __init__(self, rows: Rows, seed: int = 0) -> None:
        """See the class."""
        number = max(1, len(rows) // CELL_SIZE)
        drawn = sample_rows(len(rows), _SAMPLE_PER_CELL * number, seed)
        sample = rows.take(drawn)
        self.centre = sample.mean(dim=0)  # small numbers, small rounding errors
        self.cells = train(sample - self.centre, number, seed)
        del sample
        cell = torch.cat([self.assign(rows[block]) for block in rows.blocks()])
        self.order = cell.argsort(stable=True)
        self.points = torch.empty(len(rows), rows.width, device=rows.device)
        place = _inverse(self.order)
        for block in rows.blocks():
            self.points[place[block]] = rows[block] - self.centre
        self._cut(cell.bincount(minlength=len(self.cells.centres)), seed)
        self.listed = listed_cells(self.means, _LISTED)

    def assign(self, points: Tensor) -> Tensor:
        """The cell of each of some points, (B,)."""
        return assign(points - self.centre, self.cells)

    def choose_count(
        self, rows: Rows, k: int, recall: float, seed: int, queries: Rows | None = None
    ) -> int:
        """How many parts to look into to find this share of the neighbours.

        Seen on some of the rows, or of the queries: in which of the parts nearest to
        them their exact neighbours are.
        """
        pilots = sample_rows(len(queries or rows), _PILOTS, seed + 1).to(rows.device)
        points = (queries or rows).take(pilots).to(rows.device)
        place = _inverse(self.order)
        if queries is None:
            true, distance = nearest_to(rows, points, k, skip=pilots)
            part = self._part(place[pilots])
        else:
            true, distance = nearest_to(rows, points, k)
            part = self._part_of_others(points)
        by_part = part.argsort(stable=True)
        near = probes(
            points[by_part] - self.centre,
            part[by_part],
            self.means,
            self.listed,
            self.listed.size(1),
        )
        there = self._part(place[true[by_part]])  # (pilots, k)
        rank = torch.full_like(there, near.size(1))
        for at in range(near.size(1) - 1, -1, -1):
            rank[near[:, at, None] == there] = at
        # Which of many duplicates are listed makes no difference.
        rank[distance[by_part] == 0] = 0
        found = rank.flatten().bincount(minlength=near.size(1) + 1).cumsum(0)
        wanted = min(recall + _MARGIN, 1.0) * rank.numel()
        return min(int((found < wanted).sum()) + 1, near.size(1))

    def neighbors_of_members(
        self, place: Tensor, k: int, count: int
    ) -> tuple[Tensor, Tensor]:
        """Rows (Q, k) and distances of the nearest others of the points at ``place``.

        Args:
            place (Tensor): Places in ``order``, ascending, (Q,).
            k (int): At most N - 1.
            count (int): Parts to look into.
        """
        place = place.to(self.order.device)
        queries, part = self.points[place], self._part(place)
        return self._nearest(queries, part, k, count, place)

    def neighbors(self, queries: Tensor, k: int, count: int) -> tuple[Tensor, Tensor]:
        """Rows (Q, k) and distances of the nearest points of any queries (Q, F)."""
        part = self._part_of_others(queries)
        by_part = part.argsort(stable=True)
        near, distance = self._nearest(
            queries[by_part] - self.centre, part[by_part], k, count, None
        )
        back = _inverse(by_part)
        return near[back], distance[back]

    def _part_of_others(self, queries: Tensor) -> Tensor:
        """The part that each query starts in, one of those of its cell, (Q,)."""
        cell = self.assign(queries)
        pieces = self.parts[cell + 1] - self.parts[cell]
        nth = torch.arange(len(cell), device=cell.device) % pieces
        part: Tensor = self.parts[cell] + nth
        return part

    def _part(self, place: Tensor) -> Tensor:
        """The part that holds each place."""
        return torch.searchsorted(self.start, place, right=True) - 1

    def _nearest(
        self, queries: Tensor, part: Tensor, k: int, count: int, skip: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        count = min(count, self.listed.size(1))
        while True:
            probed = probes(queries, part, self.means, self.listed, count)
            at = join(queries, probed, self.points, self.start, k, skip)
            few = bool((at < 0).any())
            if not few or count == self.listed.size(1):
                break
            count = min(2 * count, self.listed.size(1))
        distance = pair_distances(queries, self.points, at.clamp(min=0))
        distance = distance.masked_fill(at < 0, torch.inf)
        distance, order = distance.sort(dim=1)
        at = at.gather(1, order)
        return torch.where(at < 0, at, self.order[at]), distance

    def _cut(self, sizes: Tensor, seed: int) -> None:
        """Cuts cells beyond the largest size, of duplicates say, across a direction."""
        generator = torch.Generator().manual_seed(seed)
        direction = torch.randn(self.points.size(1), generator=generator)
        direction = direction.to(self.points)
        pieces = ((sizes + _LARGEST - 1) // _LARGEST).clamp(min=1)
        start = sizes.cumsum(0) - sizes
        for c in (pieces > 1).nonzero().squeeze(1).tolist():
            own = slice(int(start[c]), int(start[c] + sizes[c]))
            along = (self.points[own] @ direction).argsort(stable=True)
            self.points[own] = self.points[own][along]
            self.order[own] = self.order[own][along]
        # Parts of a cell are equal to within one member.
        cell = torch.arange(len(sizes), device=sizes.device).repeat_interleave(pieces)
        self.parts = torch.cat([pieces[:1] * 0, pieces.cumsum(0)])
        nth = torch.arange(len(cell), device=sizes.device) - self.parts[cell]
        first = start[cell] + nth * sizes[cell] // pieces[cell]
        self.start = torch.cat([first, sizes.sum()[None]])
        members = self.start.diff()
        part = torch.arange(len(cell), device=sizes.device).repeat_interleave(members)
        means = self.points.new_zeros(len(cell), self.points.size(1))
        means.index_add_(0, part, self.points)
        self.means = means / members.clamp(min=1)[:, None]


def _inverse(order: Tensor) -> Tensor:
    """Where each row is in an order, (N,)."""
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    return place
