"""HSIC and Sobol: how much the score depends on each cell of a grid.

Written anew from the papers (Novello et al. 2022, Making Sense of Dependence; Fel et
al. 2021, Look at the Variance). Cells are 8 x 8, enlarged without smoothing, and the
map is enlarged by cubic interpolation, as in their authors' package.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.benchmarks.saliency.methods import Photograph

GRID = 8


def hsic(photo: Photograph, n_masks: int = 500) -> Tensor:
    """Dependence of the score on whether a cell stays."""
    generator = torch.Generator().manual_seed(photo.seed)
    masks = binary_hypercube(n_masks, GRID**2, generator)
    return _enlarged(hsic_indices(masks, _scores(photo, masks)), photo)


def sobol(photo: Photograph, n_designs: int = 32) -> Tensor:
    """Total-order indices of the cells' shares: ``n_designs`` (cells + 2) passes."""
    masks = sobol_designs(n_designs, GRID**2, photo.seed)
    return _enlarged(total_order(_scores(photo, masks), n_designs), photo)


def binary_hypercube(n: int, d: int, generator: torch.Generator) -> Tensor:
    """A Latin hypercube rounded to 0 and 1, (n, d): half of each column is 1."""
    ranks = torch.rand(n, d, generator=generator).argsort(dim=0)
    return (ranks < n // 2).float()


def hsic_indices(masks: Tensor, scores: Tensor) -> Tensor:
    """tr(K H L H) / (n - 1)^2 of each column of masks of 0 and 1, (d,).

    K is 1 where two masks agree on the cell and 0 elsewhere, L a Gaussian of the
    difference of scores, as wide as their median. With the centred L' = H L H, whose
    rows sum to 0, and m a column of the masks, the trace is m' L' m + (1 - m)' L' (1 -
    m) = 2 m' L' m.
    """
    n = len(scores)
    scores, masks = scores.double(), masks.double()
    width = scores.median().clamp_min(1e-12)
    similar = (-(scores[:, None] - scores).square() / (2 * width**2)).exp()
    centred = similar - similar.mean(dim=0)
    centred = centred - centred.mean(dim=1, keepdim=True)
    return 2 * (masks * (centred @ masks)).sum(dim=0) / (n - 1) ** 2


def sobol_designs(n: int, d: int, seed: int) -> Tensor:
    """A, B, and for each column A with this column of B, (n (d + 2), d)."""
    points = torch.quasirandom.SobolEngine(2 * d, scramble=True, seed=seed).draw(n)
    a, b = points[:, :d], points[:, d:]
    changed = a.repeat(d, 1, 1)
    for column in range(d):
        changed[column, :, column] = b[:, column]
    return torch.cat([a, b, changed.flatten(0, 1)])


def total_order(scores: Tensor, n: int) -> Tensor:
    """Jansen's estimate: mean (f(A) - f(C_i))^2 / (2 Var f), (d,).

    Args:
        scores: f of the rows of :func:`sobol_designs`.
        n: Rows of A.
    """
    scores = scores.double()
    of_a, of_changed = scores[:n], scores[2 * n :].unflatten(0, (-1, n))
    variance = of_a.var().clamp_min(1e-24)
    return (of_a - of_changed).square().mean(dim=1) / (2 * variance)


def _scores(photo: Photograph, masks: Tensor) -> Tensor:
    size = tuple(photo.image.shape[2:])
    return photo.scores(
        masks, lambda rows: F.interpolate(rows.view(-1, 1, GRID, GRID), size)[:, 0]
    )


def _enlarged(of_cells: Tensor, photo: Photograph) -> Tensor:
    size = tuple(photo.image.shape[2:])
    grid = of_cells.view(1, 1, GRID, GRID).to(photo.image)
    return F.interpolate(grid, size, mode="bicubic", align_corners=False)[0, 0]
