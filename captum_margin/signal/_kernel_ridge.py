"""Votes of all samples: what a kernel ridge regression says of each from the others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from captum_margin.signal._kernel import BLOCK_NUMBERS, distance_blocks
from captum_margin.signal._sparse_rows import SparseRows, square_norms

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
        kernel = kernel_values(self.landmarks, self.landmarks, self.gamma)
        self._map = _inverse_root(kernel)  # (M, R)
        parts = [
            kernel_values(block, self.landmarks, self.gamma) @ self._map
            for block in _of(points)
        ]
        features = torch.cat(parts)
        self.centre = features.mean(dim=0)
        features -= self.centre
        scatter = (features.T @ features).double()
        values, axes = torch.linalg.eigh(scatter)
        self._axes = axes.to(features)
        self.features = features @ self._axes  # (L, R), along the principal axes
        # Kernel features have length one. Identical points have no axes but rounding:
        # they get the mean of the others.
        rounding = torch.finfo(features.dtype).eps * len(points)
        if not float(values[-1]) > rounding:
            self.features.zero_()
        largest = values[-1].clamp(min=rounding)
        penalties = largest * values.new_tensor(_PENALTIES)
        inverse = 1 / (values.clamp(min=0)[:, None] + penalties)
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
        return self._with(at, slope, mean, left_out)

    def without(self, fit: Fit, row: int, value: Tensor) -> Fit:
        """A regression of the same penalty on all learners but one, exactly.

        Args:
            fit (Fit): On all of them.
            row (int): Which learner is left out.
            value (Tensor): Of f there, (C,).
        """
        surprise = value - fit.left_out[row]
        pull = self.features[row] * self.inverse[:, fit.penalty]
        slope = fit.axes_slope - pull[:, None] * surprise
        mean = fit.mean - surprise / len(self.features)
        return self._with(fit.penalty, slope, mean, fit.left_out)

    def _with(self, penalty: int, slope: Tensor, mean: Tensor, left_out: Tensor) -> Fit:
        """From a slope along the principal axes to one of the bumps."""
        turned = self._axes @ slope
        return Fit(
            landmarks=self.landmarks,
            gamma=self.gamma,
            slope=self._map @ turned,
            intercept=mean - self.centre @ turned,
            penalty=penalty,
            axes_slope=slope,
            mean=mean,
            left_out=left_out,
        )


class Fit(NamedTuple):
    """One regression of a :class:`KernelRidge`.

    Args:
        landmarks (Tensor): Shape (M, F).
        gamma (float): Of the kernel exp(-gamma |x - z|²).
        slope (Tensor): Of each landmark, (M, C).
        intercept (Tensor): Shape (C,).
        penalty (int): Which of the penalties.
        axes_slope (Tensor): The slope along the principal axes, (R, C).
        mean (Tensor): What the regression says in the mean, (C,).
        left_out (Tensor): What the regression on all other learners predicts for each
            learner, (L, C).
    """

    landmarks: Any
    gamma: float
    slope: Tensor
    intercept: Tensor
    penalty: int
    axes_slope: Tensor
    mean: Tensor
    left_out: Tensor

    def predict(self, points: Any) -> Tensor:
        """For points that are no learners, (n, C)."""
        parts = [
            kernel_values(block, self.landmarks, self.gamma) @ self.slope
            for block in _of(points)
        ]
        return torch.cat(parts) + self.intercept


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
        self._points = points
        self._regression = KernelRidge(points[order], len(points))

    def __call__(self, f: Tensor, others: Any = None) -> Tensor:
        """Votes of the shape of f (N, C); with ``others`` (M, F), theirs below."""
        fit = self.fit(f)
        f = f.to(fit.left_out)
        if len(self._learners) < len(f):  # no copy of the points that are no learners
            votes = fit.predict(self._points)
        else:
            votes = torch.empty_like(f)
        votes[self._learners] = fit.left_out
        if others is None:
            return votes
        return torch.cat([votes, fit.predict(others.to(self._points.dtype))])

    def fit(self, f: Tensor) -> Fit:
        """The regression of f (N, C), which the learners' part of it makes."""
        return self._regression.fit(f.to(self._regression.features)[self._learners])

    def without(self, fit: Fit, f: Tensor, i: int) -> Fit:
        """What :meth:`fit` gave of f, but not learnt from sample i."""
        row = (self._learners == i).nonzero()
        if not len(row):
            return fit
        return self._regression.without(fit, int(row), f[i].to(fit.left_out))


def kernel_values(points: Any, landmarks: Any, gamma: float) -> Tensor:
    """exp(-gamma |x - z|²) of points (n, F) and landmarks (M, F); (n, M)."""
    _, square = next(distance_blocks(points, landmarks, len(points)))
    return square.to(points.dtype).mul_(-gamma).exp_()


def _of(points: Any) -> Iterator[Any]:
    """Some points at a time, whose kernel values fit into a block."""
    rows = max(1, BLOCK_NUMBERS // MOST_LANDMARKS)
    for start in range(0, len(points), rows):
        yield points[start : start + rows]


def _square_width(points: Any) -> float:
    """The squared median distance of two of the points; 1 if all are the same.

    Points that only rounding tells apart are the same: else the bumps around many
    duplicates would be as narrow as that.
    """
    _, square = next(distance_blocks(points, points, len(points)))
    eps, norm = 8 * torch.finfo(points.dtype).eps, float(square_norms(points).max())
    # Of the points, and of their distances, which sparse ones do not centre.
    is_sparse = isinstance(points, SparseRows)
    rounding = eps**2 * norm + eps * (norm if is_sparse else float(square.max()))
    pairs = square[torch.ones_like(square, dtype=torch.bool).triu(diagonal=1)]
    apart = pairs[pairs > rounding]
    return float(apart.median()) if apart.numel() else 1.0


def _inverse_root(kernel: Tensor) -> Tensor:
    """R with K R Rᵀ = 1 where K has a range that rounding leaves; (M, rank)."""
    values, vectors = torch.linalg.eigh(kernel.double())
    least = 1e-10 if kernel.dtype == torch.float64 else 1e-6
    kept = values > least * values[-1]
    root: Tensor = (vectors[:, kept] / values[kept].sqrt()).to(kernel)
    return root
