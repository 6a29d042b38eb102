r"""One map for the unions of all rounds: the one that explains their scores best.

:mod:`~captum_margin.attr.margin.cross_energy` takes the parts one by one. That is exact
where presences are independent and unions are many. Here a map :math:`\varphi` explains
all filtered scores at once, those of every round,

.. math:: s_h = Z_h \varphi + \varepsilon, \qquad
    \varphi = B c, \quad c \sim \mathcal{N}(0, \tau I), \quad
    \varepsilon \sim \mathcal{N}(0, \tau \lambda I),

with :math:`z_h = (I - A) z` and the graph A of unions of like size and kind. B are
smooth fields, the eigenvectors of a Gaussian kernel. The mean of :math:`\varphi` given
the scores is a ridge regression, :math:`\varphi = R s_h`, of the cross-energies
:math:`B^\top Z_h^\top s_h`; where noise is all there is, it is them, smoothed. How
noisy the scores are they tell themselves: R is the mean over values of
:math:`\lambda`, weighted by the likelihood of the scores. So is the variance of
:math:`\varphi` at a patch with fields b, :math:`\tau \lambda\, b^\top (B^\top
Z_h^\top Z_h B + \lambda I)^{-1} b`, with the most likely :math:`\tau`.

One map for unions that keep and unions that delete says too much where parts speak for
a class only together: without either of them the other tells nothing, and which of them
is taken away no longer matters. Unions of the second kind therefore have a noise
:math:`\rho \lambda`, and :math:`\rho \ge 1` is weighed by the same likelihood: what
deletes is believed as much as what keeps, or less.

Priors M, maps from elsewhere in columns, are what :math:`\varphi` is thought to be
before there are scores, as far as smooth fields show them: :math:`\varphi = M a + R
(s_h - Z_h M a)`. What the unions can tell of it, :math:`R Z_h M a`, they tell; the rest
is believed, and a says how much of each prior. It is the one, with nothing below 0,
under which the scores are most likely, the slopes of :math:`s_h` on :math:`Z_h M` by
generalised least squares (in geostatistics, kriging with an external drift), for each
:math:`\lambda`: the better priors explain the scores, the more of what they leave is
taken for noise. A prior that the scores contradict is dropped.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from captum_margin.attr.margin.domains.axes import along_axes
from captum_margin.attr.margin.regression import Regression, regression
from captum_margin.signal import HighPass, knn_graph_1d

__all__ = ["JointEvidence"]

# Of N unions, one is compared with the N / 10 nearest to its size.
_NEIGHBOR_SHARE = 10
# Fields along an axis with less of the kernel than this share of the first are noise.
_SMALLEST_SHARE = 0.01


class JointEvidence:
    """Gathers rounds of unions of one image, and gives the map that explains them.

    What is kept are sums, and what is solved is small: in float64 on the CPU, whatever
    the masks are. Memory: O(D^2) for D fields, 40 to 500, however many the unions.

    Args:
        shape (tuple[int, ...]): Patches along each axis of space, P in all.
        cell (tuple[float, ...]): Patches in a cell along each.
        kernel (float): Standard deviation of the kernel, in cells: how far evidence
            goes together.
        priors (Tensor, optional): K maps on the patches, (K, P), none constant; neither
            their scales nor their means matter.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        cell: tuple[float, ...],
        kernel: float,
        priors: Tensor | None = None,
    ) -> None:
        self.shape = shape
        self.patches_a_cell = math.prod(cell)
        self.axes = tuple(
            _axis_fields(n, kernel * length)
            for n, length in zip(shape, cell, strict=True)
        )
        self.priors = None  # their coefficients, (K, D)
        if priors is not None:
            maps = priors.to("cpu", torch.float64)
            self.priors = torch.stack([self._coefficients(one) for one in maps])
        self._high_pass = HighPass("random_walk")
        n_fields = math.prod(axis.shape[1] for axis in self.axes)
        # Of each kind: unions, and sums over them of products of the score and the
        # fields, filtered, with each other.
        self._n_unions = [0, 0]
        self._filtered = torch.zeros(2, 1 + n_fields, 1 + n_fields, dtype=torch.float64)
        # Those of the size with score and fields, unfiltered, and with itself.
        self._by_size = torch.zeros(1 + n_fields, dtype=torch.float64)
        self._sizes = torch.zeros((), dtype=torch.float64)
        self._fitted: Regression | None = None  # of all these sums

    def add(
        self, scores: Tensor, presence: Tensor, sizes: Tensor, kinds: Tensor
    ) -> Tensor:
        """Takes in a round.

        Args:
            scores (Tensor): Scores of the unions, (N,).
            presence (Tensor): How much of each patch each union keeps, (N, P).
            sizes (Tensor): Patches that each union keeps, (N,).
            kinds (Tensor): Only unions of one kind are compared: 0, or 1 for those that
                may be noisier; int64, (N,).

        Returns:
            Tensor: The filtered scores, (N,), float64, on the CPU.

        Cost: O(N * (P + D^2)) time for D fields.
        """
        scores, sizes = scores.to("cpu", torch.float64), sizes.to("cpu", torch.float64)
        axes = [axis.T.to(presence) for axis in self.axes]
        features = along_axes(presence.view(-1, *self.shape), axes).flatten(1)
        features = features.to("cpu", torch.float64)
        kinds = kinds.cpu()
        n_neighbors = max(1, len(sizes) // _NEIGHBOR_SHARE)
        found = torch.empty_like(scores)
        for kind in kinds.unique().tolist():
            alike = kinds == kind
            if alike.sum() == 1:  # with nothing to be compared with
                found[alike] = 0.0
                continue
            found[alike] = self._add(
                kind, scores[alike], features[alike], sizes[alike], n_neighbors
            )
        self._fitted = None
        return found

    def _add(
        self,
        kind: int,
        scores: Tensor,
        features: Tensor,
        sizes: Tensor,
        n_neighbors: int,
    ) -> Tensor:
        """Takes in unions of one kind; their filtered scores."""
        scores = scores - scores.mean()
        if scores.max() == scores.min():  # but for rounding
            scores = torch.zeros_like(scores)
        raw = torch.cat([scores[:, None], features], dim=1)
        edge_index, edge_weight = knn_graph_1d(sizes, n_neighbors)
        filtered: Tensor = self._high_pass(raw, edge_index, edge_weight)
        sizes = sizes - sizes.mean()
        self._n_unions[kind] += len(sizes)
        self._filtered[kind] += filtered.T @ filtered
        self._by_size += sizes @ raw
        self._sizes += sizes @ sizes
        return filtered[:, 0]

    def evidence(self) -> Tensor:
        """The map on the patches, (P,), float64, on the CPU.

        Its unit is that of the score: how much it rises when a cell around the patch is
        shown. Zeros where the scores are all alike.

        Cost: O((D + P) * D^2) time for D fields.
        """
        fit = self._fit()
        if fit is None:
            return self._filtered.new_zeros(math.prod(self.shape))
        # What all patches have in common is filtered away; how much the unions gain by
        # their size, beyond what the map says, puts it back.
        rest = self._by_size[0] - self._by_size[1:] @ fit.coefficients
        common = rest / self._sizes
        return (self._field(fit.coefficients) + common) * self.patches_a_cell

    def standard_error(self) -> float:
        """That of the evidence, root mean square over the patches.

        0 where the scores are all alike.
        """
        fit = self._fit()
        if fit is None:
            return 0.0
        variances = fit.variances @ self._fields(fit.modes).square()  # (P,)
        return float(variances.mean().sqrt()) * self.patches_a_cell

    def noise_ratio(self) -> float:
        """How many times as noisy unions of the second kind seem, from 1 to 30.

        1 where there are none, or scores are all alike.
        """
        fit = self._fit()
        return 1.0 if fit is None else fit.ratio

    def _fit(self) -> Regression | None:
        """The regression on all unions so far; None where scores are all alike."""
        if self._fitted is None and self._filtered[:, 0, 0].any():
            self._fitted = regression(self._n_unions, self._filtered, self.priors)
        return self._fitted

    def _field(self, coefficients: Tensor) -> Tensor:
        """The map of coefficients (D,), (P,)."""
        return self._fields(coefficients[None])[0]

    def _fields(self, coefficients: Tensor) -> Tensor:
        """The maps of coefficients (n, D), (n, P)."""
        axes = [axis.to(coefficients) for axis in self.axes]
        grids = coefficients.view(-1, *(axis.shape[1] for axis in axes))
        return along_axes(grids, axes).flatten(1)

    def _coefficients(self, field: Tensor) -> Tensor:
        """Those of a map (P,), brought to mean 0 and spread 1, (D,)."""
        # The fields of an axis are at right angles to each other.
        axes = [axis.to(field) for axis in self.axes]
        inverses = [(axis / axis.square().sum(0)).T for axis in axes]
        field = (field - field.mean()).view(1, *self.shape)
        coefficients = along_axes(field, inverses).flatten()
        return coefficients / self._field(coefficients).std()


@lru_cache(maxsize=16)
def _axis_fields(n_patches: int, deviation: float) -> Tensor:
    """Fields along an axis whose products sum to a Gaussian kernel, (n_patches, d)."""
    places = torch.arange(n_patches, dtype=torch.float64)
    kernel = torch.exp(-((places[:, None] - places) / deviation).square() / 2)
    values, vectors = torch.linalg.eigh(kernel)
    kept = values > _SMALLEST_SHARE * values.max()
    fields: Tensor = vectors[:, kept] * values[kept].sqrt()
    return fields
