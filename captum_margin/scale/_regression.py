"""Votes of all samples on shards: the kernel ridge regression, predicted by blocks.

Those that the regression learns from are few enough to be held in memory; each of them
is left out in turn. What it says of all others is predicted a block at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from captum_margin.scale._folder import BlockFolder
from captum_margin.scale.executor import Shared
from captum_margin.signal._kernel import BLOCK_NUMBERS
from captum_margin.signal._kernel_ridge import (
    MOST_LEARNERS,
    Fit,
    KernelRidge,
    learners,
)

__all__ = ["LabelSignal", "Learners", "RowVotes"]


class LabelSignal(NamedTuple):
    """One-hot labels times a factor, f (N, C), which is never made whole.

    Args:
        labels (Shared): Classes y of the rows, (N,).
        trust (Shared): Factors t of the rows, (N,) float32.
        classes (int): C.
    """

    labels: Shared
    trust: Shared
    classes: int

    def rows(self, rows: slice | np.ndarray, plain: bool = False) -> Tensor:
        """Some rows of f, (n, C) float32; ``plain``: without the factor."""
        y = torch.from_numpy(self.labels.get()[rows].astype(np.int64))
        f = torch.zeros(len(y), self.classes)
        value = torch.ones(len(y))
        if not plain:
            value = torch.from_numpy(np.array(self.trust.get()[rows]))
        return f.scatter_(1, y[:, None], value[:, None])


class Learners:
    """The rows that the regression learns from, those of the class in memory.

    Args:
        points (BlockFolder): Of all rows.
        order (ndarray, optional): The sample of each row; None if they are the same.
    """

    def __init__(self, points: BlockFolder, order: np.ndarray | None) -> None:
        n = points.num_rows
        self.rows = learners(n).numpy()  # as shuffled: landmarks are the first
        if order is not None:
            place = np.empty(n, np.int64)
            place[order] = np.arange(n)
            self.rows = place[self.rows]
        found = torch.from_numpy(_taken(points, self.rows))
        # As in memory: few samples in double precision.
        found = found.double() if n <= MOST_LEARNERS else found
        self._regression = KernelRidge(found, n)
        self._rising = np.argsort(self.rows)

    def fit(self, signal: LabelSignal) -> tuple[Fit, np.ndarray, np.ndarray]:
        """The regression; the rows it has learnt from, rising; what it says of them."""
        f = signal.rows(self.rows).to(self._regression.features)
        fit = self._regression.fit(f)
        left_out = fit.left_out[torch.from_numpy(self._rising)].float().numpy()
        light = fit._replace(left_out=fit.left_out[:0])
        return light, self.rows[self._rising], left_out


class RowVotes(NamedTuple):
    """What a task needs for the votes of all samples.

    Args:
        points (BlockFolder): Of all rows.
        fit (Fit): The regression.
        learners (Shared): Rows that it has learnt from, rising, (L,).
        left_out (Shared): Its votes on these, (L, C).
    """

    points: BlockFolder
    fit: Fit
    learners: Shared
    left_out: Shared

    def of_block(self, b: int) -> Iterator[tuple[slice, Tensor]]:
        """Some rows of a block at a time, and their votes (n, C) in [0, 1], float32."""
        block, first = self.points.read(b, "points"), self.points.rows(b).start
        known, left_out = self.learners.get(), self.left_out.get()
        size = max(1, BLOCK_NUMBERS // max(self.fit.slope.shape))
        for start in range(0, len(block), size):
            x = torch.from_numpy(block[start : start + size]).to(self.fit.slope)
            rows = slice(first + start, first + start + len(x))
            votes = self.fit.predict(x).float()
            low, high = np.searchsorted(known, [rows.start, rows.stop])
            at = torch.from_numpy(known[low:high] - rows.start)
            votes[at] = torch.from_numpy(np.array(left_out[low:high]))
            yield rows, votes.clamp_(0, 1)


def _taken(points: BlockFolder, rows: np.ndarray) -> np.ndarray:
    """Some rows of all blocks, in the order asked for."""
    owner = np.searchsorted(points.starts, rows, side="right") - 1
    found: np.ndarray | None = None
    for b in range(points.num_blocks):
        mine = np.flatnonzero(owner == b)
        block = points.read(b, "points")
        if found is None:
            found = np.empty((len(rows), block.shape[1]), block.dtype)
        found[mine] = block[rows[mine] - points.rows(b).start]
    assert found is not None  # there are blocks
    return found
