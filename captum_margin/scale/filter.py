"""The high-pass filter on shards: one pass over the files for each hop."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from captum_margin._whole_numbers import is_whole
from captum_margin.scale._matrix import CSRRows
from captum_margin.scale.executor import Shared, map_blocks, share
from captum_margin.scale.shards import Shards
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

    Cost: O(p · E · C) time, p passes over the files; Gaussian weights are made of the
    distances in each pass, and ``"symmetric"`` needs another one for their sums; those
    of stored weights are stored too. O(N · C) memory and the pages of the files, which
    the system may drop again.

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
    if not is_whole(hops) or hops < 1:
        raise ValueError(f"expected an integer hops >= 1 (got {hops!r})")
    if isolated not in ("keep", "zero"):
        raise ValueError(f"expected isolated 'keep' or 'zero' (got {isolated!r})")
    dtype = torch.promote_types(signal.dtype, torch.float32)
    x = shards.to_rows(signal.detach().to(dtype)).view(len(signal), -1)  # (N, C)
    degree = x.new_empty(0)
    if shift == "symmetric" or isolated == "zero":
        degree = degrees(shards, dtype, executor=executor)
    low = x
    for _ in range(hops):
        if shift == "symmetric":
            low = scale_of(degree)[:, None] * low  # of the columns
        low = _hop(shards, low, shift, executor)
    out = torch.sub(x, low, out=low)
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
    return torch.nn.functional.threshold(degree, 0.0, torch.inf).rsqrt_()


def _hop(shards: Shards, x: Tensor, shift: Shift, executor: Any) -> Tensor:
    """A x, (N, C); under ``"symmetric"`` x is scaled already, so only rows are here."""
    out = torch.empty_like(x)
    with share(x.numpy(), shards.path, executor) as shared:
        task = partial(_hop_block, shards, shared, shift)
        blocks = range(shards.num_blocks)
        for b, found in zip(blocks, map_blocks(task, blocks, executor), strict=True):
            out[shards.rows(b)] = found
    return out


def _hop_block(shards: Shards, shared: Shared, shift: Shift, b: int) -> Tensor:
    """A x of a block of rows, (n, C)."""
    x, rows = torch.from_numpy(shared.get()), shards.sparse_rows(b)
    shards.will_need(b + 1)
    low = rows.times(x)
    if shift == "adjacency":
        return low
    degree = _degree_block(shards, x.dtype, b, rows)[:, None]
    if shift == "random_walk":
        return low.div_(torch.nn.functional.threshold(degree, 0.0, 1.0))  # 1 where 0
    if shift == "symmetric":
        return low.mul_(scale_of(degree))
    own = x[shards.rows(b)]
    return low.add_(own - degree * own)


def _degree_block(
    shards: Shards, dtype: torch.dtype, b: int, rows: CSRRows | None = None
) -> Tensor:
    """Sums of the rows of a block, (n,): those in the store, if there are any."""
    kept = shards.degrees(b)
    if kept is not None:
        return kept.to(dtype)
    return (shards.sparse_rows(b) if rows is None else rows).sums(dtype)
