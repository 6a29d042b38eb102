"""Cells: k-means of many small clusters, and the cell of each point.

The cells are grouped in their turn, so that a point is compared with the centres in a
few groups and not with all. Every function takes points block by block.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Cells", "assign", "train"]

# Of k-means; chosen with bench_neighbors' data.
_ROUNDS = 4
_SEEDINGS = 4
# Groups of cells that a point looks into.
_PROBES = 8
# Up to so many cells every point is compared with all.
_FEW = 256
# Numbers of a block of distances: 512 KiB, which stays in the cache.
_BLOCK_NUMBERS = 2**17


class Cells(NamedTuple):
    """C cells in G groups.

    Args:
        centres (Tensor): Shape (C, F), those of a group together.
        groups (Tensor): Centres of the groups, (G, F).
        pointer (Tensor): Group g has the cells ``pointer[g]`` to ``pointer[g + 1]``,
            (G + 1,).
    """

    centres: Tensor
    groups: Tensor
    pointer: Tensor


def train(sample: Tensor, num_cells: int, seed: int = 0) -> Cells:
    """Places cells by k-means on a sample of the points.

    Args:
        sample (Tensor): Points drawn at random, (S, F), float32; some ten per cell.
        num_cells (int): C; no more than there are points in the sample.
        seed (int, optional): Of the choice of first centres. Default: 0.

    Returns:
        Cells: Neighbouring numbers are near each other as a rule.

    Cost: O(S · sqrt(C) · F) time, O(S + C · F) memory.
    """
    generator = torch.Generator().manual_seed(seed)
    num_cells = min(num_cells, len(sample))
    cells = grouped(_seeds(sample, num_cells, generator), generator)
    for _ in range(_ROUNDS):
        cell, _ = _assign(sample, cells)
        cells = grouped(_means(sample, cell, cells.centres), generator)
    return cells


def assign(points: Tensor, cells: Cells) -> Tensor:
    """The nearest cell of each point, or nearly always that, (B,) int64.

    Args:
        points (Tensor): A block of them, (B, F); memory is O(B · F).
        cells (Cells): As :func:`train` returns them.
    """
    return _assign(points, cells)[0]


def _assign(points: Tensor, cells: Cells) -> tuple[Tensor, Tensor]:
    """The nearest cell of each point and the squared distance less that of 0, (B,)."""
    if len(cells.centres) <= _FEW:
        return _nearest(points, cells.centres)
    norms = cells.centres.square().sum(dim=1)
    group_norms = cells.groups.square().sum(dim=1)
    probes = min(_PROBES, len(cells.groups))
    probed = torch.cat(
        [
            torch.addmm(group_norms, x, cells.groups.T, alpha=-2)
            .topk(probes, largest=False, sorted=False)
            .indices
            for x in points.split(_BLOCK_NUMBERS // len(cells.groups))
        ]
    ).flatten()
    order = probed.argsort(stable=True)
    counts = probed.bincount(minlength=len(cells.groups)).tolist()
    least = points.new_empty(len(probed))
    nearest = torch.empty_like(probed)
    pointer = cells.pointer.tolist()
    for g, places in enumerate(order.split(counts)):
        own = slice(pointer[g], pointer[g + 1])
        centres = cells.centres[own].T
        for some in places.split(max(1, _BLOCK_NUMBERS // max(1, centres.size(1)))):
            square = torch.addmm(norms[own], points[some // probes], centres, alpha=-2)
            least[some], at = square.min(dim=1)
            nearest[some] = at + pointer[g]
    least, best = least.view(-1, probes).min(dim=1)
    return nearest.view(-1, probes).gather(1, best[:, None]).squeeze(1), least


def _seeds(sample: Tensor, num_cells: int, generator: torch.Generator) -> Tensor:
    """First centres: a few points at random, then more where these are far, (C, F).

    k-means++ in ``_SEEDINGS`` rounds instead of one for each centre.
    """
    norms = sample.square().sum(dim=1)
    square = torch.ones_like(norms)
    picks = torch.empty(0, dtype=torch.long, device=sample.device)
    for round_ in range(_SEEDINGS):
        size = num_cells * (round_ + 1) // _SEEDINGS - len(picks)
        if size:
            # The largest of u^(1/w): a draw without repetition by weights w.
            draw = torch.rand(len(sample), generator=generator).to(sample.device)
            key = draw.log() / square
            picks = torch.cat([picks, key.topk(size).indices])
        if len(picks) and round_ < _SEEDINGS - 1:
            cells = grouped(sample[picks], generator)
            square = (_assign(sample, cells)[1] + norms).clamp(min=0)
            square[picks] = 0
    return sample[picks]


def grouped(centres: Tensor, generator: torch.Generator) -> Cells:
    """The same cells, sorted by group."""
    number = max(1, round(len(centres) ** 0.5))
    start = torch.randperm(len(centres), generator=generator)[:number]
    groups = centres[start.to(centres.device)]
    for _ in range(_ROUNDS):
        groups = _means(centres, _nearest(centres, groups)[0], groups)
    group, _ = _nearest(centres, groups)
    pointer = torch.zeros(number + 1, dtype=torch.long, device=centres.device)
    pointer[1:] = group.bincount(minlength=number).cumsum(0)
    return Cells(centres[group.argsort(stable=True)], groups, pointer)


def _nearest(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest of all centres and the squared distance less that of 0, (B,)."""
    norms = centres.square().sum(dim=1)
    blocks = points.split(max(1, _BLOCK_NUMBERS // len(centres)))
    parts = [torch.addmm(norms, x, centres.T, alpha=-2).min(dim=1) for x in blocks]
    least, nearest = (torch.cat(part) for part in zip(*parts, strict=True))
    return nearest, least


def _means(points: Tensor, cell: Tensor, centres: Tensor) -> Tensor:
    """Means of the points of each cell; an empty one moves into one of the largest."""
    count = cell.bincount(minlength=len(centres))
    means = torch.zeros_like(centres).index_add_(0, cell, points)
    means /= count.clamp(min=1)[:, None]
    empty = (count == 0).nonzero().squeeze(1)
    if len(empty):
        crowded = count.argsort(descending=True, stable=True)[: len(empty)]
        # One of its points: k-means then shares the members between the two.
        first = torch.full_like(count, len(points))
        order = torch.arange(len(points), device=points.device)
        first = first.scatter_reduce(0, cell, order, "amin")
        own = first[crowded]
        means[empty[: len(own)]] = points[own.clamp(max=len(points) - 1)]
    return means
