"""The high-pass filter on shards: one pass over the files for each hop."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from captum_margin.scale.executor import Shared, map_blocks, share
from captum_margin.scale.shards import Shards, SparseRows
from captum_margin.signal._sparse import _no_beta_warning, row_sums
from captum_margin.signal.high_pass import Shift

__all__ = ["degrees", "high_pass"]


def high_pass(
    shards: Shards,
    signal: Tensor,
    shift: Shift = "random_walk",
    hops: int = 1,
    *,
    isolated: Literal["keep", "zero"] = "keep",
    executor: Any = None,
) -> Tensor:
    """The filter of :class:`~captum_margin.signal.HighPass`, x - A^p x, from disk.

    It equals that layer on the same graph to rounding: :class:`EdgeShards` are the
    undirected graph that the package filters on, :class:`RowShards` the directed one,
    each row of which is compared with its own k neighbours only.

    Args:
        shards (Shards): A finished store; the graph.
        signal (Tensor): Shape (N,) or (N, C), floating, in the order of the samples;
            it is kept in memory. float32, unless it is float64.
        shift (str, optional): As in :class:`~captum_margin.signal.HighPass`.
            Default: ``"random_walk"``.
        hops (int, optional): p. Default: 1.
        isolated (str, optional): As in :class:`~captum_margin.signal.HighPass`.
            Default: ``"keep"``.
        executor (optional): As in :func:`~captum_margin.scale.map_blocks`.
            Default: None.

    Returns:
        Tensor: As ``signal``.

    Raises:
        TypeError: If ``signal`` is not floating.
        ValueError: If shapes do not fit, ``signal`` is not finite, an option is
            unknown, or a block is missing.

    Cost: O(p · E · C) time, p passes over the files, and another one over the weights
    for the degrees of ``"symmetric"`` and ``"laplacian"``; O(N · C) memory and
    the pages of the files, which the system may drop again.

    >>> import tempfile, numpy as np
    >>> from captum_margin.scale import RowShards
    >>> rows = RowShards.from_arrays(tempfile.mkdtemp(), np.array([[1], [0], [1]]))
    >>> high_pass(rows, torch.tensor([0.0, 1.0, 4.0])).tolist()
    [-1.0, 1.0, 3.0]
    """
    if not isinstance(signal, Tensor) or not signal.is_floating_point():
        kind = getattr(signal, "dtype", type(signal).__name__)
        raise TypeError(f"expected a floating signal (got {kind}); call .float()")
    if signal.dim() not in (1, 2) or len(signal) != shards.num_nodes:
        raise ValueError(
            f"expected a signal of shape (N,) or (N, C) with N = {shards.num_nodes} "
            f"(got {tuple(signal.shape)})"
        )
    if not bool(torch.stack(signal.aminmax()).isfinite().all()):
        raise ValueError("expected a finite signal (got NaN or infinity)")
    if shift not in get_args(Shift):
        raise ValueError(f"expected shift in {get_args(Shift)} (got {shift!r})")
    if isinstance(hops, bool) or not isinstance(hops, int) or hops < 1:
        raise ValueError(f"expected an integer hops >= 1 (got {hops!r})")
    if isolated not in ("keep", "zero"):
        raise ValueError(f"expected isolated 'keep' or 'zero' (got {isolated!r})")
    dtype = torch.promote_types(signal.dtype, torch.float32)
    x = shards.to_rows(signal.detach().to(dtype)).view(len(signal), -1)  # (N, C)
    low, left, degree = x, hops, x.new_zeros(len(x))
    if shift == "random_walk":  # the only one whose degrees may come with the product
        low, degree = _product(shards, x, executor, with_degrees=True)
        low /= degree.where(degree != 0, 1)[:, None]
        left -= 1
    elif shift != "adjacency" or isolated == "zero":
        degree = degrees(shards, dtype, executor=executor)
    for _ in range(left):
        low = _apply_shift(shards, low, degree[:, None], shift, executor)
    out = x - low
    if isolated == "zero":
        out[degree == 0] = 0
    return shards.to_samples(out).to(signal.dtype).view(signal.shape)


def degrees(
    shards: Shards, dtype: torch.dtype = torch.float32, *, executor: Any = None
) -> Tensor:
    """The sum of the weights of each row, (N,), in the order of the rows.

    Args:
        shards (Shards): A finished store.
        dtype (torch.dtype, optional): Of the sums. Default: ``torch.float32``.
        executor (optional): As in :func:`~captum_margin.scale.map_blocks`.
            Default: None.
    """
    task = partial(_degree_block, shards, dtype)
    return torch.cat(list(map_blocks(task, range(shards.num_blocks), executor)))


def scale_of(degree: Tensor) -> Tensor:
    """D^-1/2, and 0 where there is no neighbour."""
    return degree.clamp(min=0).rsqrt().masked_fill(degree == 0, 0.0)


def _apply_shift(
    shards: Shards, low: Tensor, degree: Tensor, shift: str, executor: Any
) -> Tensor:
    """One hop, A x."""
    if shift == "symmetric":
        scale = scale_of(degree)
        return scale * _product(shards, scale * low, executor)[0]
    found, _ = _product(shards, low, executor)
    if shift == "random_walk":
        return found / degree.where(degree != 0, 1)
    return low - degree * low + found if shift == "laplacian" else found


def _product(
    shards: Shards, x: Tensor, executor: Any, with_degrees: bool = False
) -> tuple[Tensor, Tensor]:
    """W x, (N, C), and the degrees (N,), zeros unless they are asked for."""
    out, degree = torch.empty_like(x), x.new_zeros(len(x))
    with share(x.numpy(), shards.path, executor) as shared:
        task = partial(_product_block, shards, shared, with_degrees)
        blocks = range(shards.num_blocks)
        for b, found in zip(blocks, map_blocks(task, blocks, executor), strict=True):
            out[shards.rows(b)], degree[shards.rows(b)] = found
    return out, degree


def sparse_matrix(n: int, rows: SparseRows, dtype: torch.dtype) -> Tensor:
    """A block of rows of the weight matrix as a sparse CSR tensor of n columns."""
    pointer, indices, weights = rows
    if weights is None:
        weights = torch.ones(len(indices), dtype=dtype)
    index = torch.promote_types(pointer.dtype, indices.dtype)  # one for both
    with _no_beta_warning():
        return torch.sparse_csr_tensor(
            pointer.to(index),
            indices.to(index),
            weights.to(dtype),
            size=(len(pointer) - 1, n),
            check_invariants=False,  # they were checked when they were written
        )


def _product_block(
    shards: Shards, shared: Shared, with_degrees: bool, b: int
) -> tuple[Tensor, Tensor]:
    """W x of a block of rows, (n, C), and their degrees if they are asked for."""
    x, rows = torch.from_numpy(shared.get()), shards.sparse_rows(b)
    shards.will_need(b + 1)
    matrix = sparse_matrix(len(x), rows, x.dtype)
    if x.size(1) == 1 and torch.backends.mkl.is_available():
        # A matrix-vector product takes 3/4 of the time of one column.
        found = torch.mv(matrix, x[:, 0])[:, None]
    else:
        found = torch.sparse.mm(matrix, x)
    degree = _row_sums(rows, x.dtype) if with_degrees else x.new_zeros(len(found))
    return found, degree


def _degree_block(shards: Shards, dtype: torch.dtype, b: int) -> Tensor:
    """Sums of the rows of a block, (n,)."""
    return _row_sums(shards.sparse_rows(b), dtype)


def _row_sums(rows: SparseRows, dtype: torch.dtype) -> Tensor:
    """Sums of the weights of each row, (n,)."""
    pointer, indices, weights = rows
    count = pointer.diff()
    if weights is None:
        return count.to(dtype)
    n = len(count)
    if n and len(indices) and bool((count == count[0]).all()):
        return weights.view(n, -1).sum(dim=1, dtype=dtype)  # at half the time
    return row_sums(sparse_matrix(1, rows, dtype), equal=False)
