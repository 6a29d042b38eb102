"""Votes of all samples: what a kernel ridge regression says of each from the others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from captum_margin.signal._kernel import BLOCK_NUMBERS, distance_blocks
from captum_margin.signal._sparse_rows import SparseRows

# The regression learns from so many samples at most, and its functions are sums of
# bumps around so many of these. On 10,000 images with people's mistakes 2,048 landmarks
# take twice the time of 1,024 and find a little more (average precision .602 and .594).
MOST_LEARNERS = 20_000
MOST_LANDMARKS = 2048
# Of very many samples the predictions are what costs.
VERY_MANY, FEW_LANDMARKS = 100_000, 512
# Penalties that are tried, in units of the largest eigenvalue of the scatter matrix.
_PENALTIES = [4.0**p for p in range(-8, 2)]
# Samples whose distances among each other tell the width of the bumps.
_PROBES = 256


def learners(n: int) -> Tensor:
    """Those of n samples that the regression learns from, always the same, shuffled."""
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(n, generator=generator)[:MOST_LEARNERS]


class KernelRidge:
    r"""Ridge regression with a Gaussian kernel, by the method of Nyström.

    The functions are sums of :math:`\exp(-|x - z_m|^2 / 2 \sigma^2)` over landmarks
    :math:`z_m`, the first of the learners; :math:`\sigma` is the median distance of two
    samples. With as many landmarks as learners it is the exact kernel regression
    (Williams and Seeger, NeurIPS 2000).

    Args:
        points (Tensor): Of the learners, floating (L, F) or sparse, in random order.
        n_samples (int): Of all samples that will be predicted.

    Cost: O(L M F + L M² + M³) time for M landmarks; O(L M) memory.
    """

    def __init__(self, points: Any, n_samples: int) -> None:
        most = MOST_LANDMARKS if n_samples <= VERY_MANY else FEW_LANDMARKS
        self.landmarks = points[: min(most, len(points))]
        self.gamma = 0.5 / _square_width(points[:_PROBES])
        self._map = _inverse_root(self._values(self.landmarks))  # (M, R)
        features = torch.cat([self._values(block) @ self._map for block in _of(points)])
        self.centre = features.mean(dim=0)
        features -= self.centre
        scatter = (features.T @ features).double()
        values, axes = torch.linalg.eigh(scatter)
        self._axes = axes.to(features)
        self.features = features @ self._axes  # (L, R), along the principal axes
        # Identical points have no axes but those of rounding, and get the mean of the
        # others; the inverse of a part of the least number would be infinite.
        digits = torch.finfo(features.dtype)
        rounding = (16 * digits.eps) ** 2 * len(points) * self.centre.square().sum()
        largest = values[-1].clamp(min=digits.tiny**0.5)
        penalties = largest * values.new_tensor(_PENALTIES)
        inverse = 1 / (values.clamp(min=0)[:, None] + penalties)
        inverse[values <= rounding] = 0
        self.inverse = inverse.to(features)  # (R, penalties)
        self.leverage = self.features.square() @ self.inverse + 1 / len(points)

    def fit(self, f: Tensor) -> Fit:
        """The regression of f (L, C), with the penalty of the least left-out error."""
        mean = f.mean(dim=0)
        cross = self.features.T @ (f - mean)
        best: tuple[float, int, Tensor, Tensor] | None = None
        for at in range(self.inverse.size(1)):
            slope = self.inverse[:, at, None] * cross
            own = self.leverage[:, at, None]
            # Exact without a second regression: the sample's own part is taken out.
            rest = (1 - own).clamp(min=torch.finfo(f.dtype).eps)
            left_out = (self.features @ slope + mean - own * f) / rest
            error = float((f - left_out).square().sum())
            if best is None or error < best[0]:
                best = error, at, slope, left_out
        assert best is not None  # there are penalties
        _, at, slope, left_out = best
        return Fit(self, at, slope, mean, f - left_out, left_out)

    def of_landmarks(self, slope: Tensor) -> tuple[Tensor, Tensor]:
        """From a slope along the axes (R, C) to the bumps' (M, C), and a shift (C,)."""
        turned = self._axes @ slope
        return self._map @ turned, self.centre @ turned

    def _values(self, points: Any) -> Tensor:
        """Of the kernel, between some points and the landmarks, (n, M)."""
        _, square = next(distance_blocks(points, self.landmarks, len(points)))
        return square.to(points.dtype).mul_(-self.gamma).exp_()


class Fit:
    """One regression of a :class:`KernelRidge`.

    Args:
        regression (KernelRidge): Whose landmarks it has.
        penalty (int): Which of its penalties.
        axes_slope (Tensor): Along its principal axes, (R, C).
        mean (Tensor): What it says in the mean, (C,).
        surprise (Tensor): f less ``left_out``, (L, C).
        left_out (Tensor): What the regression on all other learners predicts for each
            learner, (L, C).

    Attributes:
        slope (Tensor): Of each landmark, (M, C).
        intercept (Tensor): Shape (C,).
    """

    def __init__(
        self,
        regression: KernelRidge,
        penalty: int,
        axes_slope: Tensor,
        mean: Tensor,
        surprise: Tensor,
        left_out: Tensor,
    ) -> None:
        self.regression = regression
        self.left_out = left_out
        self._penalty, self._axes_slope, self._mean = penalty, axes_slope, mean
        self._surprise = surprise
        self.slope, shift = regression.of_landmarks(axes_slope)
        self.intercept = mean - shift

    def without(self, row: int) -> Fit:
        """The regression of the same penalty on all learners but one, exactly."""
        regression, surprise = self.regression, self._surprise[row]
        pull = regression.features[row] * regression.inverse[:, self._penalty]
        return Fit(
            regression,
            self._penalty,
            self._axes_slope - pull[:, None] * surprise,
            self._mean - surprise / len(regression.features),
            self._surprise,
            self.left_out,
        )

    def predict(self, points: Any) -> Tensor:
        """For points that are no learners, (n, C)."""
        parts = [
            self.regression._values(block) @ self.slope + self.intercept
            for block in _of(points)
        ]
        return torch.cat(parts)


class AllVotes:
    """What the regression on the others predicts for each of N samples.

    Learners are left out one at a time; the other samples were not learnt from.

    Args:
        points (Tensor): Floating (N, F), or sparse.
    """

    def __init__(self, points: Any) -> None:
        if len(points) > MOST_LEARNERS and not isinstance(points, SparseRows):
            points = points.float()  # none of them knows more digits than that
        order = learners(len(points)).to(points.device)
        self._learners = order
        self._rest = torch.ones(len(points), dtype=torch.bool, device=order.device)
        self._rest[order] = False
        self._points = points
        self._regression = KernelRidge(points[order], len(points))

    def __call__(self, f: Tensor, others: Any = None) -> Tensor:
        """Votes of the shape of f (N, C); with ``others`` (M, F), theirs below."""
        fit = self.fit(f)
        votes = torch.empty(f.shape, dtype=fit.left_out.dtype, device=f.device)
        votes[self._learners] = fit.left_out
        if bool(self._rest.any()):
            votes[self._rest] = fit.predict(self._points[self._rest])
        if others is None:
            return votes
        both: Tensor = torch.cat([votes, fit.predict(others)])
        return both

    def fit(self, f: Tensor) -> Fit:
        """The regression of f (N, C), which the learners' part of it makes."""
        return self._regression.fit(f.to(self._regression.features)[self._learners])

    def without(self, fit: Fit, i: int) -> Fit:
        """What :meth:`fit` gave, but not learnt from sample i."""
        row = (self._learners == i).nonzero()
        return fit.without(int(row)) if len(row) else fit


def _of(points: Any) -> Iterator[Any]:
    """Some points at a time, whose kernel values fit into a block."""
    rows = max(1, BLOCK_NUMBERS // MOST_LANDMARKS)
    for start in range(0, len(points), rows):
        yield points[start : start + rows]


def _square_width(points: Any) -> float:
    """The squared median distance of two of the points; 1 if all are the same."""
    _, square = next(distance_blocks(points, points, len(points)))
    pairs = square[torch.ones_like(square, dtype=torch.bool).triu(diagonal=1)]
    apart = pairs[pairs > 0]
    return float(apart.median()) if apart.numel() else 1.0


def _inverse_root(kernel: Tensor) -> Tensor:
    """R with K R Rᵀ = 1 where K has a range that rounding leaves; (M, rank)."""
    values, vectors = torch.linalg.eigh(kernel.double())
    least = 1e-10 if kernel.dtype == torch.float64 else 1e-6
    kept = values > least * values[-1]
    root: Tensor = vectors[:, kept] / values[kept].sqrt()
    return root.to(kernel)
