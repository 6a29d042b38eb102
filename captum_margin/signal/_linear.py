"""Linear votes: what a ridge regression says of each sample from all the others."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from captum_margin.signal._kernel import BLOCK_NUMBERS
from captum_margin.signal._sparse_rows import centred_product, square_norms

# Penalties that are tried, in units of the largest eigenvalue of the scatter matrix.
_PENALTIES = [4.0**p for p in range(-7, 3)]
# More features than this are projected at random: inner products keep an error of
# about 1 / sqrt(1024), and the eigenvalues cost no more than a second.
_MOST_FEATURES = 1024


class LinearVotes:
    r"""Leave-one-out predictions by ridge regression: a shift over all samples.

    The vote at i is what a regression with intercept on all samples but i predicts for
    it, linear in f. No regression is repeated: with the prediction p and the leverage h
    at i of the regression on all, the vote is (p - h f) / (1 - h). The penalty is the
    one of ``_PENALTIES`` with the smallest leave-one-out error of f.

    Args:
        points (Tensor): Floating, (N, F); sparse ones are made dense in blocks.

    Cost: O(N F² + F³) time once, O(N F C) per call; O(N (F + C)) memory; F is at most
    1,024.
    """

    def __init__(self, points: Tensor) -> None:
        """The principal axes of the points."""
        self.points = _narrow(points)
        self.centre = self.points.mean(dim=0)
        width = self.points.size(1)
        scatter = points.new_zeros(width, width)
        for _, centred in self._blocks():
            scatter.addmm_(centred.T, centred)
        values, self.axes = torch.linalg.eigh(scatter)
        # Identical points have no axes, and get the mean of the others.
        eps = torch.finfo(points.dtype).eps
        least = eps * float(square_norms(self.points).sum()) or 1.0
        penalties = values[-1].clamp(min=least) * values.new_tensor(_PENALTIES)
        self.inverse = 1 / (values.clamp(min=0)[:, None] + penalties)  # (F, penalties)
        leverage = [
            (centred @ self.axes).square() @ self.inverse
            for _, centred in self._blocks()
        ]
        self.leverage = torch.cat(leverage) + 1 / len(points)  # (N, penalties)

    def __call__(self, f: Tensor, others: Tensor | None = None) -> Tensor:
        """Votes of the shape of ``f``, (N, C), of the dtype of the points.

        With ``others`` (M, F), points that f is not known at, followed by what the
        regression on all N predicts for these, (N + M, C).
        """
        mean = f.mean(dim=0)
        cross = f.new_zeros(self.points.size(1), f.size(1))
        for block, centred in self._blocks():
            cross.addmm_(centred.T, f[block] - mean)
        cross = self.axes.T @ cross
        slopes = [self.axes @ (scale[:, None] * cross) for scale in self.inverse.T]
        error = f.new_zeros(len(slopes))
        for block, centred in self._blocks():
            for at, slope in enumerate(slopes):
                votes = self._votes(centred @ slope + mean, f[block], block, at)
                error[at] += (f[block] - votes).square().sum()
        best = int(error.argmin())
        parts = [
            self._votes(centred @ slopes[best] + mean, f[block], block, best)
            for block, centred in self._blocks()
        ]
        if others is not None:
            parts.append(
                centred_product(_narrow(others), self.centre, slopes[best]) + mean
            )
        return torch.cat(parts)

    def _votes(
        self, predicted: Tensor, f: Tensor, block: slice, penalty: int
    ) -> Tensor:
        """Without the sample's own part in the prediction."""
        own = self.leverage[block, penalty, None]
        rest = (1 - own).clamp(min=torch.finfo(f.dtype).eps)
        votes: Tensor = (predicted - own * f) / rest
        return votes

    def _blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Some points at a time, centred."""
        rows = max(1, BLOCK_NUMBERS // self.points.size(1))
        for start in range(0, self.points.size(0), rows):
            block = slice(start, start + rows)
            yield block, self.points[block].to_dense() - self.centre


def _narrow(points: Tensor) -> Tensor:
    """The points, or where they are wide a random projection that is always the same.

    It is drawn on the CPU, some rows at a time.
    """
    width = points.size(1)
    if width <= _MOST_FEATURES:
        return points
    generator = torch.Generator().manual_seed(0)
    narrow = points.new_zeros(points.size(0), _MOST_FEATURES)
    for start in range(0, width, _MOST_FEATURES):
        columns = points[:, start : start + _MOST_FEATURES]
        size = (columns.size(1), _MOST_FEATURES)
        draw = torch.randn(size, generator=generator, dtype=torch.float64)
        narrow += columns @ draw.to(points.device, points.dtype)
    scaled: Tensor = narrow / _MOST_FEATURES**0.5
    return scaled
