"""Features that stay sparse, for the functions that need no dense copy of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "SparseRows",
    "as_sparse",
    "centred_product",
    "minus_products",
    "square_norms",
]


_USUAL = 40  # binary exponents that squares have room for


class SparseRows:
    """Features (N, F) in a SciPy matrix, with what is asked of a tensor of features.

    It stands in for a :class:`~torch.Tensor` where no more than this is done with one.

    Args:
        matrix (SciPy sparse matrix or array): Shape (N, F), of real numbers. Floating
            ones keep their dtype, others get the default one.

    Raises:
        TypeError: If it does not hold real numbers.
    """

    device = torch.device("cpu")

    def __init__(self, matrix: Any) -> None:
        """See the class."""
        if matrix.dtype.kind not in "biuf":
            raise TypeError(f"expected numbers as features (got {matrix.dtype})")
        csr = matrix.tocsr()
        if csr.dtype not in (np.float32, np.float64):
            default = torch.get_default_dtype() == torch.float32
            csr = csr.astype(np.float32 if default else np.float64)
        self.matrix = csr
        self.shape = tuple(csr.shape)
        self.dtype = torch.float32 if csr.dtype == np.float32 else torch.float64

    def tocsr(self) -> Any:
        """The matrix, as the neighbour searches take it."""
        return self.matrix

    def to_dense(self) -> Tensor:
        """All of them, of a few rows as a rule."""
        return torch.from_numpy(self.matrix.toarray())

    def square_norms(self) -> Tensor:
        """Of each row, (N,)."""
        squares = self.matrix.multiply(self.matrix).sum(axis=1)
        return torch.from_numpy(np.asarray(squares).reshape(-1))

    def scaled(self, factor: Tensor) -> SparseRows:
        """Each row times its factor (N,)."""
        return SparseRows(self.matrix.multiply(factor.numpy()[:, None]))

    def bounded(self) -> SparseRows:
        """Each row times a power of two by which its squares are within range."""
        largest = abs(self.matrix).max(axis=1).toarray().reshape(-1, 1)
        exponent = np.where(largest > 0, np.frexp(largest)[1], 0)
        if not (abs(exponent) > _USUAL).any():
            return self
        half = exponent / 2  # twice: the inverse of the smallest is beyond the largest
        rows = self.matrix.multiply(np.exp2(-np.floor(half)))
        return SparseRows(rows.multiply(np.exp2(-np.ceil(half))))

    def mean(self, dim: int) -> Tensor:
        """Of all rows, (F,)."""
        assert dim == 0
        mean = np.asarray(self.matrix.mean(axis=0)).reshape(-1)
        return torch.from_numpy(mean).to(self.dtype)

    def to(self, *target: Any) -> SparseRows:
        """In another floating dtype; on the CPU anyway."""
        if torch.float64 in target:
            return self.double()
        return self

    def double(self) -> SparseRows:
        """In double precision."""
        return SparseRows(self.matrix.astype(np.float64))

    def new_zeros(self, *size: int, dtype: torch.dtype | None = None) -> Tensor:
        """Zeros, of the dtype of the features unless one is given."""
        return torch.zeros(*size, dtype=dtype or self.dtype)

    def dim(self) -> int:
        """2."""
        return len(self.shape)

    def size(self, dim: int) -> int:
        """N or F."""
        return int(self.shape[dim])

    def is_floating_point(self) -> bool:
        """Yes."""
        return True

    def element_size(self) -> int:
        """Bytes of a number."""
        return int(self.matrix.dtype.itemsize)

    def __len__(self) -> int:
        """N."""
        return self.size(0)

    def __getitem__(self, rows: Any) -> SparseRows:
        """Some rows; a slice, a tensor of indices or a mask."""
        if isinstance(rows, Tensor):
            rows = rows.numpy()
        return SparseRows(self.matrix[rows])

    def __matmul__(self, other: Tensor) -> Tensor:
        """The product with a dense matrix (F, D), dense, (N, D)."""
        return torch.from_numpy(self.matrix @ other.numpy())


def as_sparse(x: Any) -> SparseRows | None:
    """The features if they are sparse."""
    return x if isinstance(x, SparseRows) else None


def square_norms(x: Any) -> Tensor:
    """Of each row, sparse or not, (N,)."""
    if isinstance(x, SparseRows):
        return x.square_norms()
    squares: Tensor = x.square().sum(dim=1)
    return squares


def minus_products(added: Tensor, x: Any, y: Any) -> Tensor:
    """``added`` - 2 x yᵀ of rows x and y, both sparse or neither; dense, (N, M)."""
    if not isinstance(x, SparseRows):
        return torch.addmm(added, x, y.T, alpha=-2)
    if len(x) < len(y):  # the smaller matrix is the one to be laid out anew
        return minus_products(added.T, y, x).T
    product = (x.tocsr() @ y.tocsr().T.tocsr()).toarray()
    return torch.from_numpy(product).mul_(-2) + added


def centred_product(x: Any, centre: Tensor, w: Tensor) -> Tensor:
    """(x - centre) w for rows x, sparse or not, and w (F, D); dense, (N, D)."""
    if isinstance(x, SparseRows):  # what is centred is dense
        return x @ w - centre @ w
    product: Tensor = (x - centre) @ w
    return product
