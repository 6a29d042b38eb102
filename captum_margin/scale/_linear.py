"""Linear votes on shards: the ridge regression of ``LinearVotes``, streamed.

The regression needs the sums of x x' and, for each class, of x; the leave-one-out
errors of all penalties are a second pass. Blocks are added up in their order, so no
executor changes the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from captum_margin.scale._folder import BlockFolder
from captum_margin.scale._rounds import Run
from captum_margin.scale.executor import Shared
from captum_margin.signal._kernel import BLOCK_NUMBERS
from captum_margin.signal._linear import _PENALTIES, _narrow


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

    def rows(self, rows: slice, plain: bool = False) -> Tensor:
        """Some rows of f, (n, C) float32; ``plain``: without the factor."""
        y = torch.from_numpy(self.labels.get()[rows].astype(np.int64))
        f = torch.zeros(len(y), self.classes)
        value = torch.ones(len(y))
        if not plain:
            value = torch.from_numpy(np.array(self.trust.get()[rows]))
        return f.scatter_(1, y[:, None], value[:, None])


class Axes(NamedTuple):
    """What of the regression does not depend on f.

    Args:
        mean (Tensor): Of the points, (F,).
        axes (Tensor): Principal axes of the points, (F, F).
        inverse (Tensor): Of the eigenvalues plus each penalty, (F, P).
        rows (int): N.
    """

    mean: Tensor
    axes: Tensor
    inverse: Tensor
    rows: int


class Regression(NamedTuple):
    """The regression of one f, with one penalty.

    Args:
        axes (Axes): Of the points.
        slope (Tensor): Shape (F, C), in the axes.
        mean (Tensor): Of f, (C,).
        penalty (int): Which one.
    """

    axes: Axes
    slope: Tensor
    mean: Tensor
    penalty: int

    def votes(self, turned: Tensor, f: Tensor) -> Tensor:
        """What all rows but each one itself say of it, (n, C) in [0, 1], float32."""
        found = _votes(turned, f.double(), self, [self.penalty])
        return found[0].clamp(0, 1).to(f)


def axes_of(points: BlockFolder, run: Run) -> Axes:
    """The principal axes, in one pass over the points."""
    total, scatter = _summed(run("moments", partial(_moments, points)))
    mean = total / points.num_rows
    scatter = scatter - points.num_rows * torch.outer(mean, mean)
    values, axes = torch.linalg.eigh(scatter)
    least = torch.finfo(torch.float64).eps * float(scatter.trace()) or 1.0
    penalties = values[-1].clamp(min=least) * values.new_tensor(_PENALTIES)
    inverse = 1 / (values.clamp(min=0)[:, None] + penalties)
    return Axes(mean, axes, inverse, points.num_rows)


def regress(
    points: BlockFolder, axes: Axes, signal: LabelSignal, run: Run, number: int = 1
) -> Regression:
    """The regression of the least leave-one-out error, in two passes.

    ``number`` tells the steps of one f from those of another.
    """
    cross, total = _summed(run(f"cross-{number}", partial(_cross, points, signal)))
    cross = axes.axes.T @ (cross - torch.outer(axes.mean, total))  # (F, C)
    fit = Regression(axes, cross, total / axes.rows, -1)
    parts = run(f"errors-{number}", partial(_errors, points, signal, fit))
    error = torch.stack(parts).sum(dim=0)
    return fit._replace(penalty=int(error.argmin()))


def turned_rows(
    points: BlockFolder, axes: Axes, b: int, classes: int = 1
) -> Iterator[tuple[slice, Tensor]]:
    """Some rows of a block at a time, and their points in the axes, float64."""
    for rows, x in _chunks(points, b, len(_PENALTIES) * classes):
        yield rows, (x - axes.mean) @ axes.axes


def _chunks(
    points: BlockFolder, b: int, columns: int = 1
) -> Iterator[tuple[slice, Tensor]]:
    block, first = points.read(b, "points"), points.rows(b).start
    size = max(1, BLOCK_NUMBERS // max(block.shape[1], columns))
    for start in range(0, len(block), size):
        x = torch.from_numpy(block[start : start + size]).double()
        yield slice(first + start, first + start + len(x)), _narrow(x)


def _summed(parts: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Sums over the parts, in their order."""
    parts = iter(parts)
    first, second = next(parts)
    for more_first, more_second in parts:
        first, second = first + more_first, second + more_second
    return first, second


def _moments(points: BlockFolder, b: int) -> tuple[Tensor, Tensor]:
    parts = [(x.sum(dim=0), x.T @ x) for _, x in _chunks(points, b)]
    return _summed(parts)


def _cross(points: BlockFolder, signal: LabelSignal, b: int) -> tuple[Tensor, Tensor]:
    parts = []
    for rows, x in _chunks(points, b, signal.classes):
        f = signal.rows(rows).double()
        parts.append((x.T @ f, f.sum(dim=0)))
    return _summed(parts)


def _errors(
    points: BlockFolder, signal: LabelSignal, fit: Regression, b: int
) -> Tensor:
    """Squared leave-one-out errors of each penalty, (P,)."""
    error = torch.zeros(len(_PENALTIES), dtype=torch.float64)
    for rows, turned in turned_rows(points, fit.axes, b, signal.classes):
        f = signal.rows(rows).double()
        votes = _votes(turned, f, fit, range(len(_PENALTIES)))
        error += (votes - f).square().sum(dim=(1, 2))
    return error


def _votes(turned: Tensor, f: Tensor, fit: Regression, penalties: Any) -> Tensor:
    """Votes with some penalties, (len(penalties), n, C)."""
    scale = fit.axes.inverse[:, list(penalties)]  # (F, P)
    slopes = scale.T[:, :, None] * fit.slope  # (P, F, C)
    predicted = (turned @ slopes.permute(1, 0, 2).flatten(1)).view(
        len(turned), len(slopes), -1
    )
    own = (turned.square() @ scale + 1 / fit.axes.rows)[:, :, None]  # (n, P, 1)
    rest = (1 - own).clamp(min=torch.finfo(f.dtype).eps)
    return ((predicted + fit.mean - own * f[:, None]) / rest).transpose(0, 1)
