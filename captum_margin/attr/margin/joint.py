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
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from captum_margin.attr.margin.domains.axes import along_axes
from captum_margin.signal import HighPass, knn_graph_1d

__all__ = ["JointEvidence"]

# Of N unions, one is compared with the N / 10 nearest to its size.
_NEIGHBOR_SHARE = 10
# Fields along an axis with less of the kernel than this share of the first are noise.
_SMALLEST_SHARE = 0.01
# Noise against signal, that are weighed: the energy of a union's fields is one.
_NOISES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
# How many times as noisy as the first kind of unions the second is, that is weighed.
_RATIOS = (1.0, 3.0, 10.0, 30.0)
# A smaller share of the scores' energy is none.
_ROUNDING = 1e-12
# Nor is a smaller eigenvalue of the priors' correlations.
_SAME = 1e-9


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
        self._fitted: _Regression | None = None  # of all these sums

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

    def _fit(self) -> _Regression | None:
        """The regression on all unions so far; None where scores are all alike."""
        if self._fitted is None and self._filtered[:, 0, 0].any():
            self._fitted = _regression(self._n_unions, self._filtered, self.priors)
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


class _Regression(NamedTuple):
    """Ridge regression of scores on fields, with as much noise as they seem to have.

    Args:
        coefficients (Tensor): (D,).
        modes (Tensor): Combinations of the fields whose errors are independent, for
            each of R ratios of noise D of them, in rows, (R * D, D).
        variances (Tensor): Of the map along each, (R * D,).
        ratio (float): How many times as noisy the second kind of unions is.
    """

    coefficients: Tensor
    modes: Tensor
    variances: Tensor
    ratio: float


def _regression(
    n_unions: Sequence[int], products: Tensor, priors: Tensor | None
) -> _Regression:
    """The regression that fits scores by features.

    Args:
        n_unions (Sequence[int]): N of each of two kinds.
        products (Tensor): Sums over the unions of each kind of products of the score,
            first, and the features with each other, (2, 1 + D, 1 + D).
        priors (Tensor, optional): Coefficients to begin with, but for a factor each,
            (K, D).
    """
    of_all = products.sum(dim=0)
    energy = of_all[0, 0]
    square = of_all[1:, 1:].trace() / sum(n_unions)  # the energy of a union's fields
    ratios = torch.tensor(_RATIOS if n_unions[1] else _RATIOS[:1]).to(products)
    fits = [
        _ridge(n_unions, products, energy, square, priors, ratio) for ratio in ratios
    ]
    likelihoods = torch.stack([fit.likelihoods for fit in fits])  # (R, L)
    likely = torch.softmax(likelihoods.flatten(), dim=0).view_as(likelihoods)
    return _Regression(
        sum(
            fit.vectors @ (weights @ fit.coefficients)
            for fit, weights in zip(fits, likely, strict=True)
        ),
        torch.cat([fit.vectors.T for fit in fits]),
        torch.cat(
            [weights @ fit.variances for fit, weights in zip(fits, likely, strict=True)]
        ),
        float(likely.sum(dim=1) @ ratios),
    )


class _Ridge(NamedTuple):
    """Regressions with L values of noise, all along the same vectors.

    Args:
        vectors (Tensor): In columns, (D, D).
        coefficients (Tensor): Along them, (L, D).
        variances (Tensor): Of these, (L, D).
        likelihoods (Tensor): Logarithms, but for a constant, (L,).
    """

    vectors: Tensor
    coefficients: Tensor
    variances: Tensor
    likelihoods: Tensor


def _slopes(alike: Tensor, each: Tensor) -> Tensor:
    """Least squares without slopes below 0, (K,).

    Args:
        alike (Tensor): Products of K signals and the one to be explained, (K,).
        each (Tensor): Of the K with each other, (K, K).
    """
    from scipy.optimize import nnls

    scale = each.diagonal().clamp(min=0).sqrt()
    scale = scale.where(scale > 0, 1)
    values, vectors = torch.linalg.eigh(each / scale / scale[:, None])
    kept = values > _SAME  # of signals that are the same, one is enough
    roots, vectors = values[kept].sqrt(), vectors[:, kept]
    aim = (vectors / roots).T @ (alike / scale)
    found, _ = nnls((vectors * roots).T.numpy(), aim.numpy())
    return torch.from_numpy(found).to(each) / scale


def _ridge(
    n_unions: Sequence[int],
    products: Tensor,
    energy: Tensor,
    square: Tensor,
    priors: Tensor | None,
    ratio: Tensor,
) -> _Ridge:
    """The regressions where the second kind has so many times the noise of the first.

    Args:
        n_unions (Sequence[int]): As in :func:`_regression`.
        products (Tensor): As there.
        energy (Tensor): The unit of the scores' squares, above 0.
        square (Tensor): That of the features' squares.
        priors (Tensor, optional): As there.
        ratio (Tensor): Of the noise, a number.
    """
    n = sum(n_unions)
    weighted = products[0] + products[1] / ratio
    crossed, gram = weighted[1:, 0], weighted[1:, 1:]
    values, vectors = torch.linalg.eigh(gram / square)
    noises = torch.tensor(_NOISES).to(values)[:, None]
    noisy = values.clamp(min=0) + noises  # (L, D)

    def products_of(whole: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """Of signals under the inverse of the scores' covariance, (L, m, n).

        Args:
            whole: Their products, (m, n).
            left: Of m signals, the products with the fields, along the vectors, (m, D).
            right: Of n others.
        """
        explained = torch.einsum("md,nd,ld->lmn", left, right, 1 / noisy) / square
        return (whole - explained) / noises[:, :, None]

    scores = (vectors.T @ crossed)[None]
    left = products_of(weighted[:1, :1], scores, scores)[:, 0, 0] / energy
    drift = torch.zeros_like(noisy)  # of the priors, the slopes times them
    if priors is not None:
        if_true = priors @ gram  # what crossed would be, (K, D)
        expected = if_true @ vectors
        alike = products_of((priors @ crossed)[:, None], expected, scores)[:, :, 0]
        each = products_of(if_true @ priors.T, expected, expected)
        slopes = torch.stack([_slopes(a, e) for a, e in zip(alike, each, strict=True)])
        explained = torch.einsum("lk,lkj,lj->l", slopes, each, slopes)
        left = left - (2 * (slopes * alike).sum(dim=1) - explained) / energy
        drift = slopes @ (priors @ vectors)
        scores = scores - slopes @ expected
    left = left.clamp(min=_ROUNDING)  # a perfect prior leaves nothing
    # The logarithm of the likelihood, with the most likely tau, but for a constant.
    spread = noisy.log().sum(dim=1) + (n - len(crossed)) * noises[:, 0].log()
    spread = spread + n_unions[1] * ratio.log()
    tau = left * energy / n
    return _Ridge(
        vectors,
        drift + scores / noisy / square,
        tau[:, None] * noises / noisy / square,
        -(n * left.log() + spread) / 2,
    )
