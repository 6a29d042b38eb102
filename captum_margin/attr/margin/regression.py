"""Ridge regression that weighs how noisy the scores are by how likely that makes them.

What is fitted, and why, says :mod:`~captum_margin.attr.margin.joint`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["NOISES", "RATIOS", "Regression", "regression"]

#: Noise against signal, that are weighed: the energy of a union's fields is one.
NOISES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
#: How many times as noisy as the first kind of unions the second is, that is weighed.
RATIOS = (1.0, 3.0, 10.0, 30.0)
# A smaller share of the scores' energy is none.
_ROUNDING = 1e-12
# Nor is a smaller eigenvalue of the priors' correlations.
_SAME = 1e-9


class Regression(NamedTuple):
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


def regression(
    n_unions: Sequence[int], products: Tensor, priors: Tensor | None
) -> Regression:
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
    ratios = torch.tensor(RATIOS if n_unions[1] else RATIOS[:1]).to(products)
    fits = [
        _ridge(n_unions, products, energy, square, priors, ratio) for ratio in ratios
    ]
    likelihoods = torch.stack([fit.likelihoods for fit in fits])  # (R, L)
    likely = torch.softmax(likelihoods.flatten(), dim=0).view_as(likelihoods)
    return Regression(
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
        n_unions (Sequence[int]): As in :func:`regression`.
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
    noises = torch.tensor(NOISES).to(values)[:, None]
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
