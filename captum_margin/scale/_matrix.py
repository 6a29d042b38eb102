"""Rows of the weight matrix of a graph, their products and sums."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from captum_margin.signal._sparse import _no_beta_warning, row_sums

__all__ = ["CSRRows"]


class CSRRows(NamedTuple):
    """Some rows of the weight matrix.

    Args:
        pointer (Tensor): Where each of n rows starts, and the end; (n + 1,).
        indices (Tensor): Rows of the whole store, (E_b,), int32 or int64.
        weights (Tensor, optional): Shape (E_b,), float32; None for ones.
    """

    pointer: Tensor
    indices: Tensor
    weights: Tensor | None

    def matrix(self, columns: int, dtype: torch.dtype) -> Tensor:
        """The same as a sparse CSR tensor, (n, columns)."""
        pointer, indices, weights = self
        if weights is None:
            weights = torch.ones(len(indices), dtype=dtype)
        index = torch.promote_types(pointer.dtype, indices.dtype)  # one for both
        with _no_beta_warning():
            return torch.sparse_csr_tensor(
                pointer.to(index),
                indices.to(index),
                weights.to(dtype),
                size=(len(pointer) - 1, columns),
                check_invariants=False,  # they were checked when they were written
            )

    def times(self, x: Tensor) -> Tensor:
        """Their product with x, (N, C); (n, C)."""
        matrix = self.matrix(len(x), x.dtype)
        if x.size(1) == 1 and torch.backends.mkl.is_available():
            # A matrix-vector product takes 3/4 of the time of one column.
            return torch.mv(matrix, x[:, 0])[:, None]
        found: Tensor = torch.sparse.mm(matrix, x)
        return found

    def sums(self, dtype: torch.dtype) -> Tensor:
        """Of the weights of each row, (n,)."""
        count = self.pointer.diff()
        if self.weights is None:
            return count.to(dtype)
        n = len(count)
        if n and len(self.indices) and bool((count == count[0]).all()):
            return self.weights.view(n, -1).sum(dim=1, dtype=dtype)  # at half the time
        return row_sums(self.matrix(1, dtype), equal=False)


def pointer_of(count: Tensor) -> Tensor:
    """Where rows of these lengths start, and the end; int32 where that suffices."""
    pointer = torch.zeros(len(count) + 1, dtype=torch.long)
    torch.cumsum(count, 0, out=pointer[1:])
    return pointer.to(torch.int32) if int(pointer[-1]) < 2**31 else pointer
