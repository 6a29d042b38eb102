"""What references say of samples in one layer: two functions, filtered on the graph."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["LayerStatistics", "Usual", "log_gap"]

# Distances held at once: 16 MiB in float32.
_BLOCK_NUMBERS = 2**22


@dataclass(frozen=True)
class LayerStatistics:
    """References of one layer and what the functions are there.

    Attributes:
        features: Whitened latents (M, F).
        classes: Their classes, (M,).
        center: Taken off latents before they are whitened, (F,).
        whitening: Of latents within a class, (F, F).
        values: The two functions at the references, (M, 2), each among the others.
        k: Neighbours.
    """

    features: Tensor
    classes: Tensor
    center: Tensor
    whitening: Tensor
    values: Tensor
    k: int

    @classmethod
    def fit(cls, latents: Tensor, classes: Tensor, k: int) -> LayerStatistics:
        """Of latents (M, F) and classes (M,), at least k + 1 of each class."""
        center = latents.mean(0)
        whitening = _whitening(latents, classes)
        x = (latents - center) @ whitening
        empty = cls(x, classes, center, whitening, x.new_zeros(len(x), 2), k)
        values, _ = empty._functions(x, classes, alone=True)
        return cls(x, classes, center, whitening, values, k)

    def of_references(self) -> Tensor:
        """The statistics of the references themselves, each among the others."""
        return self._filtered(self.features, self.classes, alone=True)

    def of(self, latents: Tensor, predicted: Tensor) -> Tensor:
        """The statistics of new samples, (N, 3)."""
        return self._filtered((latents - self.center) @ self.whitening, predicted)

    def _filtered(self, x: Tensor, predicted: Tensor, alone: bool = False) -> Tensor:
        """The functions less what they are at the k nearest; their unfiltered ratio."""
        values, near = self._functions(x, predicted, alone)
        ratio = values[:, :1] - values[:, 1:]
        return torch.cat([values - self.values[near].mean(dim=1), ratio], dim=1)

    def _functions(
        self, x: Tensor, predicted: Tensor, alone: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Log distance to the predicted class, and to the others; the k nearest."""
        values, nearest = [], []
        size = max(1, _BLOCK_NUMBERS // len(self.features))
        for start in range(0, max(len(x), 1), size):
            rows = slice(start, start + size)
            distance = torch.cdist(x[rows], self.features)
            if alone:  # no reference is its own neighbour
                own = torch.arange(len(distance), device=x.device)
                distance[own, own + start] = torch.inf
            same = self.classes == predicted[rows, None]
            own_near = distance.masked_fill(~same, torch.inf).topk(
                self.k, largest=False
            )
            other = distance.masked_fill(same, torch.inf).topk(self.k, largest=False)
            pair = torch.stack([own_near.values.mean(1), other.values.mean(1)], dim=1)
            # Copies of a reference are at distance 0.
            values.append(pair.clamp(min=1e-6).log())
            nearest.append(own_near.indices)
        return torch.cat(values), torch.cat(nearest)


def _whitening(latents: Tensor, classes: Tensor) -> Tensor:
    """Makes differences within a class alike in all directions, (F, F).

    Directions that hardly vary count no more than a tenth of the mean variance lets
    them: where latents are constant, noise would decide else.
    """
    _, index = classes.unique(return_inverse=True)
    count = index.bincount().to(latents.dtype)
    means = latents.new_zeros(len(count), latents.size(1)).index_add_(0, index, latents)
    rest = latents - (means / count[:, None])[index]
    covariance = rest.T @ rest / len(rest)
    value, vector = torch.linalg.eigh(covariance.double())
    floor = 0.1 * value.mean().clamp(min=1e-12)
    scale = (value.clamp(min=0) + floor).rsqrt()
    whitening: Tensor = (vector * scale).to(latents.dtype)
    return whitening


def log_gap(scores: Tensor) -> Tensor:
    """How far the largest score is above the second, logarithm, (N,)."""
    flat = scores.flatten(1) if scores.dim() > 1 else scores[:, None]
    if flat.size(1) == 1:  # the other class has score 0
        gap = flat[:, 0].abs()
    else:
        largest = flat.topk(2).values
        gap = largest[:, 0] - largest[:, 1]
    return gap.clamp(min=1e-6).log()


@dataclass(frozen=True)
class Usual:
    """What statistics of several layers are over the references, in float64.

    Attributes:
        mean: (L, 3), the columns of :class:`LayerStatistics`.
        precision: Inverse covariance of the filtered functions, (2 L, 2 L).
        ratio_std: Of the ratio of each layer, (L,).
        sum_std: Of the sum of the standardised ratios, ().
        gap: Mean and standard deviation of :func:`log_gap`, (2,).
    """

    mean: Tensor
    precision: Tensor
    ratio_std: Tensor
    sum_std: Tensor
    gap: Tensor

    @classmethod
    def of(cls, layers: Tensor, gap: Tensor) -> Usual:
        """Of statistics (M, L, 3) and gaps (M,) of the references."""
        s, g = layers.double(), gap.double()
        mean = s.mean(0)
        rest = (s - mean)[:, :, :2].flatten(1)
        # Without an inverse where statistics never vary: they tell nothing.
        precision = torch.linalg.pinv(rest.T @ rest / len(s), hermitian=True)
        ratio_std = _std(s[:, :, 2])
        total = ((s - mean)[:, :, 2] / ratio_std).sum(1)
        spread = torch.stack([g.mean(), _std(g)])
        return cls(mean, precision, ratio_std, _std(total), spread)

    def score(self, layers: Tensor, gap: Tensor) -> Tensor:
        """How unusual statistics (N, L, 3) and gaps (N,) are, (N,)."""
        rest = layers.double() - self.mean
        filtered = rest[:, :, :2].flatten(1)
        energy = ((filtered @ self.precision) * filtered).sum(1) / filtered.size(1)
        ratio = (rest[:, :, 2] / self.ratio_std).sum(1) / self.sum_std
        closeness = (self.gap[0] - gap.double()) / self.gap[1]
        return (energy / 2 + ratio + closeness).to(layers.dtype)


def _std(values: Tensor) -> Tensor:
    """Standard deviation of each column; that of what never varies is 1."""
    std = values.std(0, correction=0)
    return std.where(std > 1e-9, 1.0)
