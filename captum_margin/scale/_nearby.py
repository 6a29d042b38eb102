"""Which rows can be near each other at all: those of the cells near to a row.

A row is compared with the rows of the P cells whose centres are nearest to it. They are
looked for among the cells nearest to its own cell, which are listed once.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from captum_margin.neighbors.cells import Cells

Array = np.ndarray

CELL_ROWS = 128  # on average; smaller cells: fewer distances, more overhead
LISTED = 256  # cells that are listed for each
_GROUPS_SEARCHED = 24
_CHUNK = 2**12


def listed_cells(cells: Cells, count: int = LISTED) -> Array:
    """The cells nearest to each cell, itself among them, (M, min(count, M)) int32."""
    count = min(count, len(cells.centres))
    parts = [_listed(cells, some, count) for some in cells.centres.split(_CHUNK)]
    return torch.cat(parts).to(torch.int32).numpy()


def _listed(cells: Cells, points: Tensor, count: int) -> Tensor:
    sizes = cells.pointer.diff()
    wide = min(_GROUPS_SEARCHED, len(sizes))
    if int(sizes.sort().values[:wide].sum()) < count:
        wide = len(sizes)  # so few cells that all are compared
    near = half_squares(points, cells.groups)
    groups = near.topk(wide, largest=False, sorted=False).indices.flatten()
    found = points.new_full((len(groups), count), torch.inf)
    ids = torch.zeros(found.shape, dtype=torch.long)
    for g in groups.unique().tolist():
        slots = (groups == g).nonzero().squeeze(1)
        low, high = int(cells.pointer[g]), int(cells.pointer[g + 1])
        if high > low:
            half = half_squares(points[slots // wide], cells.centres[low:high])
            best = half.topk(min(count, high - low), largest=False, sorted=False)
            found[slots, : best.values.size(1)] = best.values
            ids[slots, : best.values.size(1)] = best.indices + low
    best = found.view(len(points), -1).topk(count, largest=False)
    return ids.view(len(points), -1).gather(1, best.indices)


def probes(points: Tensor, listed: Tensor, centres: Tensor, count: int) -> Tensor:
    """The cells nearest to each row of one cell, nearest first, (n, count).

    Args:
        points (Tensor): Rows of one cell, (n, F).
        listed (Tensor): The cells nearest to it, (L,), int64.
        centres (Tensor): Of all cells, (M, F).
        count (int): P, at most L.
    """
    half = half_squares(points, centres[listed])
    return listed[half.topk(min(count, len(listed)), largest=False).indices]


def half_squares(rows: Tensor, others: Tensor) -> Tensor:
    """Half the squared distances less what the row alone adds, (n, m)."""
    norms = others.square().sum(dim=1) / 2
    return torch.addmm(norms, rows, others.T, alpha=-1)
