"""Points as the searches read them: blocks of float32 rows of any kind of array."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from captum_margin._numbers import as_numbers, as_real, bounded_rows
from captum_margin._whole_numbers import is_whole

__all__ = ["Metric", "Rows", "check_search", "pair_distances"]

Metric = Literal["euclidean", "cosine"]

_DOUBLE_BYTES = 8  # torch has no longer numbers

# Rows read at once: 32 MiB of 128 features.
BLOCK_ROWS = 2**16
# Numbers of a block of differences: 1 MiB, which stays in the cache (5 times faster).
_BLOCK_NUMBERS = 2**18


class Rows:
    """N points, read in blocks, never copied whole.

    Blocks are float32 tensors. Under ``"cosine"`` their rows have unit length (a row of
    zeros has no direction and stays where it is, as far from every direction), so that
    the Euclidean distance is what counts from here on.

    Args:
        data (Tensor, ndarray, memmap or SciPy sparse matrix): Shape (N, F), of numbers.
        metric (str, optional): ``"euclidean"`` or ``"cosine"``.
            Default: ``"euclidean"``.

    Raises:
        TypeError: If ``data`` is none of these or does not hold real numbers.
        ValueError: If it is not (N, F) with N, F >= 1 or the metric is unknown; when a
            block is read, if it holds NaN or infinity.
    """

    def __init__(self, data: Any, metric: Metric = "euclidean") -> None:
        """See the class."""
        if metric not in ("euclidean", "cosine"):
            raise ValueError(
                f"expected metric 'euclidean' or 'cosine' (got {metric!r}); another "
                "metric needs a backend of your own"
            )
        self.sparse = hasattr(data, "tocsr")
        if self.sparse:
            data = data.tocsr()
        elif isinstance(data, Tensor):
            data = as_real(data, "features")
        elif not _is_plain(data):
            data = as_numbers(data, "features")
        if isinstance(data, Tensor):
            real = not data.is_complex()
        else:
            real = data.dtype.kind in "biuf"
        if not real:
            raise TypeError(f"expected real numbers as features (got {data.dtype})")
        if len(data.shape) != 2 or 0 in data.shape:
            raise ValueError(
                "expected features of shape (N, F) with N, F >= 1 "
                f"(got {tuple(data.shape)}); flatten each sample to one row"
            )
        self.data = data
        self.metric = metric
        self.device = data.device if isinstance(data, Tensor) else torch.device("cpu")

    def __len__(self) -> int:
        """N."""
        return int(self.data.shape[0])

    @property
    def width(self) -> int:
        """F."""
        return int(self.data.shape[1])

    def __getitem__(self, rows: slice) -> Tensor:
        """Some consecutive points, (rows, F)."""
        return self._points(self.data[rows])

    def take(self, rows: Tensor) -> Tensor:
        """Listed points, (len(rows), F)."""
        if isinstance(self.data, Tensor):
            return self._points(self.data[rows.to(self.device)])
        return self._points(self.data[rows.cpu().numpy()])

    def double(self) -> Tensor:
        """All points, (N, F), in float64 where the device has it: to compare exactly.

        Raises:
            ValueError: As when a block is read.
        """
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        return self._points(self.data[:], dtype)

    def blocks(self, size: int = BLOCK_ROWS) -> list[slice]:
        """Slices that go through all rows."""
        starts = range(0, len(self), size)
        return [slice(start, min(start + size, len(self))) for start in starts]

    def _points(self, part: Any, dtype: torch.dtype = torch.float32) -> Tensor:
        if self.sparse:
            part = part.toarray()
        if not isinstance(part, Tensor):
            if part.dtype.kind == "u" and part.dtype.itemsize > 1:
                part = part.astype(np.int64)  # of little use to torch
            # A copy: float32 rows of a file are no tensor's to share.
            part = torch.from_numpy(np.array(part))
        if self.metric == "cosine":
            part = bounded_rows(part)
        points: Tensor = part.to(dtype)
        square = points.square().sum(dim=1)
        if not bool(square.sum().isfinite()):
            raise ValueError(
                "expected finite features (got NaN, infinity or numbers whose squares "
                "overflow); clean or rescale them first"
            )
        if self.metric == "cosine":
            points = points / square.where(square > 0, 1).sqrt()[:, None]
        return points


def _is_plain(data: Any) -> bool:
    """Whether blocks of an array can be read as it is, without a copy of the whole."""
    kinds = type(data) in (np.ndarray, np.memmap) and data.dtype.kind in "biuf"
    return kinds and data.dtype.isnative and data.dtype.itemsize <= _DOUBLE_BYTES


def check_search(rows: Rows, k: int) -> int:
    """The neighbours that there are: k, or N - 1 if that is less.

    Raises:
        TypeError: If ``k`` is no integer.
        ValueError: If ``k`` is below 1.
    """
    if not is_whole(k):
        raise TypeError(f"expected an integer k (got {k!r})")
    if k < 1:
        raise ValueError(f"expected k >= 1 neighbours (got {k})")
    return min(k, len(rows) - 1)


def pair_distances(points: Tensor, others: Tensor, index: Tensor) -> Tensor:
    """Distances from each of (Q, F) points to (Q, k) listed ones of (M, F) others.

    By differences: no cancellation, duplicates are at exactly 0.
    """
    rows = max(1, _BLOCK_NUMBERS // max(1, index.size(1) * points.size(1)))
    parts = [
        (others[at] - x[:, None]).square().sum(dim=2)
        for x, at in zip(points.split(rows), index.split(rows), strict=True)
    ]
    return torch.cat(parts).sqrt()
