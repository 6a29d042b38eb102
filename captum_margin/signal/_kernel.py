"""The Gaussian kernel, in blocks: what the functions built on kernel means share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from scipy.sparse import csr_array
from torch import Tensor

from captum_margin._numbers import check_span, middle
from captum_margin.signal._sparse_rows import (
    SparseRows,
    as_sparse,
    minus_products,
    square_norms,
)

# Kernel values held at once by a block: 64 MiB in float64.
BLOCK_NUMBERS = 2**23
_SMALL = 2.0**-40


def as_features(x: Tensor, name: str = "features") -> Tensor:
    """Checked features (N, F), detached, in at least single precision; or sparse."""
    is_sparse = as_sparse(x) is not None
    if not is_sparse and x.is_complex():
        raise TypeError(f"expected real {name} (got {x.dtype})")
    if x.dim() != 2 or 0 in x.shape:
        raise ValueError(
            f"expected {name} of shape (N, F) with N, F >= 1 (got {tuple(x.shape)}); "
            "flatten each sample to one row"
        )
    check_span(x, name=name)
    if not is_sparse:
        dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        x = x.detach().to(torch.promote_types(dtype, torch.float32))
        largest = float(x.abs().amax())
        if largest and not _SMALL < largest < 1 / _SMALL and not x.is_mps:
            x = x.double()  # squares would leave the range of single precision
    if not bool(square_norms(x).sum().isfinite()):
        raise ValueError(
            f"expected finite {name} (got NaN, infinity or numbers whose squares "
            "overflow); clean or rescale them first"
        )
    return x


def result_dtype(x: Tensor) -> torch.dtype:
    """The dtype of a function of ``x``: its own, or the default if not floating."""
    return x.dtype if x.is_floating_point() else torch.get_default_dtype()


def sum_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which N kernel values are added up (mps has no float64)."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def check_gamma(gamma: float | None, x: Tensor) -> float:
    """A given gamma, or one over the mean squared distance of two samples of x."""
    if gamma is not None:
        if not 0 < gamma < torch.inf:
            raise ValueError(f"expected a finite gamma > 0 (got {gamma})")
        return float(gamma)
    # The mean of |a - b|² over all pairs is exactly twice the total variance.
    rows = as_sparse(x)
    if rows is None:
        spread = 2 * float(x.to(sum_dtype(x)).var(dim=0, correction=0).sum())
    else:
        rows = rows.double()
        square = rows.mean(dim=0).square().sum()
        spread = 2 * float(rows.square_norms().mean() - square)
    return 1 / spread if spread > 0 else 1.0


def check_block_size(block_size: int | None, columns: int) -> int:
    """Rows of a block: as given, or so many that it holds ``BLOCK_NUMBERS``."""
    if block_size is None:
        return max(1, BLOCK_NUMBERS // columns)
    if block_size < 1:
        raise ValueError(f"expected block_size >= 1 (got {block_size})")
    return block_size


def distance_blocks(x: Tensor, y: Tensor, rows: int) -> Iterator[tuple[int, Tensor]]:
    """First row and squared distances |x - y|², (rows, M), of each block of x."""
    if as_sparse(x) is not None or as_sparse(y) is not None:
        yield from _sparse_blocks(x, y, rows)
        return
    centre = middle(y)
    x, y = x - centre, y - centre
    x_norms, y_norms = x.square().sum(dim=1), y.square().sum(dim=1)
    for start in range(0, x.size(0), rows):
        block = x[start : start + rows]
        square = torch.addmm(y_norms[None], block, y.T, alpha=-2)  # (rows, M)
        square += x_norms[start : start + rows, None]
        yield start, square.clamp_(min=0)


def _sparse_blocks(x: Any, y: Any, rows: int) -> Iterator[tuple[int, Tensor]]:
    """The same of sparse features, in double precision; not centred, which is dense."""
    x, y = (
        v.double() if isinstance(v, SparseRows) else SparseRows(csr_array(v.double()))
        for v in (x, y)
    )
    x_norms, y_norms = square_norms(x), square_norms(y)
    for start in range(0, len(x), rows):
        block = slice(start, start + rows)
        square = minus_products(y_norms[None], x[block], y)
        square += x_norms[block, None]
        yield start, square.clamp_(min=0)


def kernel_blocks(
    x: Tensor, y: Tensor, gamma: float, rows: int
) -> Iterator[tuple[int, Tensor]]:
    """First row and k(x, y) = exp(-gamma |x - y|²) of each block of rows of x."""
    for start, square in distance_blocks(x, y, rows):
        yield start, square.mul_(-gamma).exp_()
