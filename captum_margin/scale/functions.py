"""The explanation functions of the package on shards: one pass over the files each."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captum_margin.scale._features import data_of, open_features
from captum_margin.scale.executor import Shared, map_blocks, share
from captum_margin.scale.shards import Shards
from captum_margin.signal.function import _check_labels

__all__ = ["label_disagreement", "label_votes", "row_norms"]


def label_disagreement(
    shards: Shards, labels: Tensor, *, executor: Any = None
) -> Tensor:
    """As :func:`captum_margin.signal.label_disagreement`, of a graph on disk.

    Args:
        shards (Shards): A finished store.
        labels (Tensor): Integer or bool labels (N,), in the order of the samples.
        executor (optional): As in :func:`~captum_margin.scale.map_blocks`.
            Default: None.

    Returns:
        Tensor: Share of the neighbours with another label, (N,), in [0, 1].

    Raises:
        TypeError: If the labels are not integers.
        ValueError: If they are not (N,), or a block is missing.

    Cost: one pass over the neighbours; O(N) memory.

    >>> import tempfile, numpy as np
    >>> from captum_margin.scale import RowShards
    >>> rows = RowShards.from_arrays(tempfile.mkdtemp(), np.array([[1], [0], [1]]))
    >>> label_disagreement(rows, torch.tensor([0, 0, 1])).tolist()
    [0.0, 0.0, 1.0]
    """
    y = row_labels(shards, labels)
    with share(y, shards.path, executor) as shared:
        task = partial(_disagreement_block, shards, shared)
        parts = list(map_blocks(task, range(shards.num_blocks), executor))
    return shards.to_samples(torch.cat(parts))


def label_votes(
    shards: Shards,
    labels: Tensor,
    num_classes: int | None = None,
    *,
    executor: Any = None,
) -> Tensor:
    """The weights of the neighbours of each class, W times the one-hot labels.

    Divided by its row sums it is what the random walk makes of one-hot labels; no
    one-hot matrix is made.

    Args:
        shards (Shards): A finished store.
        labels (Tensor): Integer labels (N,) in [0, C), in the order of the samples.
        num_classes (int, optional): C. Default: None, the largest label + 1.
        executor (optional): As in :func:`~captum_margin.scale.map_blocks`.
            Default: None.

    Returns:
        Tensor: Shape (N, C), float32.

    Raises:
        TypeError: If the labels are not integers.
        ValueError: If they are not (N,) or not in [0, C), or a block is missing.

    Cost: one pass over the files, whatever C is; O(N · C) memory.

    >>> import tempfile, numpy as np
    >>> from captum_margin.scale import RowShards
    >>> rows = RowShards.from_arrays(tempfile.mkdtemp(), np.array([[1], [0], [1]]))
    >>> label_votes(rows, torch.tensor([0, 0, 1])).tolist()
    [[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]
    """
    y = row_labels(shards, labels)
    classes = int(y.max()) + 1 if num_classes is None else num_classes
    if y.min() < 0 or y.max() >= classes:
        raise ValueError(
            f"expected labels within [0, {classes}) (got {y.min()} to {y.max()})"
        )
    with share(y, shards.path, executor) as shared:
        task = partial(_votes_block, shards, shared, classes)
        parts = list(map_blocks(task, range(shards.num_blocks), executor))
    return shards.to_samples(torch.cat(parts))


def row_norms(features: Any, *, rows: int = 2**16) -> Tensor:
    """Lengths of the rows of features that may be on disk.

    Args:
        features (array or path): Shape (N, F), or the path of a ``.npy`` file.
        rows (int, optional): Read at once. Default: 65,536.

    Returns:
        Tensor: Shape (N,), float32.

    Raises:
        ValueError: If they are not (N, F) or there are none.

    Cost: one pass over the features; memory for ``rows`` of them.

    >>> row_norms(torch.tensor([[3.0, 4.0], [0.0, 1.0]])).tolist()
    [5.0, 1.0]
    """
    data = data_of(open_features(features))
    if len(data.shape) != 2 or len(data) == 0:
        raise ValueError(
            f"expected features of shape (N, F), N >= 1 (got {tuple(data.shape)})"
        )
    parts = [
        np.linalg.norm(np.asarray(data[start : start + rows], np.float64), axis=1)
        for start in range(0, data.shape[0], rows)
    ]
    return torch.from_numpy(np.concatenate(parts)).float()


def row_labels(shards: Shards, labels: Tensor) -> np.ndarray:
    """Checked labels in the order of the rows; small ones stay in the cache."""
    _check_labels(labels)
    if len(labels) != shards.num_nodes:
        raise ValueError(
            f"expected labels of shape (N,) = ({shards.num_nodes},) (got "
            f"{tuple(labels.shape)})"
        )
    y = shards.to_rows(labels).numpy()
    low, high = int(y.min()), int(y.max())
    if low >= 0 and high < 2**8:
        return y.astype(np.uint8)
    return y.astype(np.int32) if -(2**31) <= low and high < 2**31 else y


def class_votes(
    shards: Shards, b: int, y: np.ndarray, classes: int, factor: Tensor | None = None
) -> Tensor:
    """Sums of the weights, times ``factor`` (N,), by class of the neighbour; (n, C)."""
    pointer, indices, weights = shards.sparse_rows(b)
    n = len(pointer) - 1
    place = indices.numpy()
    slot = np.repeat(np.arange(n) * classes, np.diff(pointer.numpy()))
    slot += y[place]
    if factor is not None:
        own = factor[indices]
        weights = own if weights is None else weights * own
    sums = torch.zeros(n * classes)
    if weights is None:
        weights = torch.ones(1).expand(len(slot))
    sums.index_add_(0, torch.from_numpy(slot), weights.to(sums.dtype))
    return sums.view(n, classes)


def _votes_block(shards: Shards, shared: Shared, classes: int, b: int) -> Tensor:
    return class_votes(shards, b, shared.get(), classes)


def _disagreement_block(shards: Shards, shared: Shared, b: int) -> Tensor:
    y, rows = shared.get(), shards.rows(b)
    pointer, indices, _ = shards.sparse_rows(b)
    count = pointer.diff()
    target = torch.arange(len(count)).repeat_interleave(count.long())
    own = torch.from_numpy(y[rows])[target]
    other = torch.from_numpy(y[indices.numpy()]) != own
    disagreeing = torch.bincount(target[other], minlength=len(count))
    return disagreeing / count.clamp(min=1)
