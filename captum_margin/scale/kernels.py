"""The functions made of Gaussian kernels, of features that may be on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from captum_margin._numbers import check_span
from captum_margin._whole_numbers import whole_number
from captum_margin.scale._features import (
    FeatureSource,
    data_of,
    feature_source,
    open_features,
)
from captum_margin.scale.executor import Shared, map_blocks, share
from captum_margin.scale.functions import row_labels
from captum_margin.scale.shards import Shards
from captum_margin.signal import kernel_density as exact_density
from captum_margin.signal._kernel import BLOCK_NUMBERS, check_gamma
from captum_margin.signal._sparse import _no_beta_warning
from captum_margin.signal.function import _check_labels

__all__ = ["kernel_density", "leave_neighborhood_out_mmd"]

_ROWS = 2**16  # read at once
_NUMBERS = 2**27  # random features of all samples held at once: 512 MiB


def leave_neighborhood_out_mmd(
    shards: Shards,
    features: Any,
    *,
    labels: Tensor | None = None,
    gamma: float | None = None,
    n_features: int = 2048,
    seed: int = 0,
    executor: Any = None,
) -> Tensor:
    """As :func:`captum_margin.signal.leave_neighborhood_out_mmd`, from disk.

    With random Fourier features, the same ones as ``estimate="features"`` there.

    Args:
        shards (Shards): A finished store; weights do not count, all edges do.
        features (array or path): Shape (N, F), as in :func:`build_shards`.
        labels (Tensor, optional): Integer labels (N,), for the MMD within each class.
            Default: None.
        gamma (float, optional): As there. Default: None, one over the mean squared
            distance of two samples.
        n_features (int, optional): D, even. Default: 2048.
        seed (int, optional): Of the random features. Default: 0.
        executor (optional): As in :func:`~captum_margin.scale.map_blocks`.
            Default: None.

    Returns:
        Tensor: f of shape (N,), float32, in the order of the samples.

    Raises:
        TypeError: If labels are not integers.
        ValueError: If shapes do not fit, features are not finite, an option is out of
            its range, or a block is missing.

    Cost: O(N F D + E D) time; a pass over the edges, and one over the features, for
    each 2^27 / N of the D features; O(N) memory and 512 MiB.

    >>> from captum_margin.scale import RowShards
    >>> near = np.array([[1], [0], [1], [2]])
    >>> shards = RowShards.from_arrays(tempfile.mkdtemp(), near)
    >>> x = np.array([[0.0], [0.1], [0.2], [9.0]])
    >>> leave_neighborhood_out_mmd(shards, x).argmax().item()
    3
    """
    if n_features < 2 or n_features % 2:
        raise ValueError(f"expected an even n_features >= 2 (got {n_features})")
    n = shards.num_nodes
    blocks = range(shards.num_blocks)
    y = np.zeros(n, np.uint8) if labels is None else row_labels(shards, labels)
    if labels is not None:
        y = np.unique(y, return_inverse=True)[1].reshape(-1)
    with _source(features, executor, shards.path) as data:
        width = data.rows().width
        if len(data.rows()) != n:
            raise ValueError(
                f"expected features of shape (N, F) with N = {n} (got "
                f"{len(data.rows())} rows); pass those that the shards are of"
            )
        mean, spread = _moments(data, executor)
        used = _gamma(gamma, spread)
        frequencies = _frequencies(width, n_features, used, seed)
        square, own = (torch.zeros(n, dtype=torch.float64) for _ in range(2))
        step = max(1, _NUMBERS // n // 2)
        for some in frequencies.split(step, dim=1):
            waves = _Waves(mean.float(), some, n_features // 2)
            made = map_blocks(
                partial(_feature_block, shards, data, waves), blocks, executor
            )
            table = np.empty((n, 2 * some.size(1)), np.float32)
            for b, part in zip(blocks, made, strict=True):
                table[shards.rows(b)] = part
            totals = _class_sums(table, y)
            with ExitStack() as stack:
                arrays = (table, y)
                kept = [
                    stack.enter_context(share(a, shards.path, executor)) for a in arrays
                ]
                task = partial(_sums_block, shards, kept[0], kept[1], totals)
                summed = map_blocks(task, blocks, executor)
                for b, (more_square, more_own) in zip(blocks, summed, strict=True):
                    square[shards.rows(b)] += more_square
                    own[shards.rows(b)] += more_own
        with share(y, shards.path, executor) as shared:
            counted = map_blocks(
                partial(_members_block, shards, shared), blocks, executor
            )
            members = torch.cat(list(counted))
    size = torch.from_numpy(np.bincount(y)[y])
    left = size - members  # m
    m = left.clamp(min=1)
    value = (square / m.square() - 2 * own / m + 1).clamp(min=0).sqrt() / (m + 1)
    return shards.to_samples(value.masked_fill(left == 0, 0.0)).float()


def kernel_density(
    features: Any,
    references: Any,
    classes: Tensor | None = None,
    reference_classes: Tensor | None = None,
    *,
    gamma: float | None = None,
    estimate: Literal["exact", "features"] = "exact",
    n_features: int = 2048,
    seed: int = 0,
    executor: Any = None,
) -> Tensor:
    """As :func:`captum_margin.signal.kernel_density`, of features on disk.

    Args:
        features (array or path): Shape (N, F), as in :func:`build_shards`.
        references (array or path): Shape (M, F), of the same kinds.
        classes (Tensor, optional): Integer classes (N,). Default: None.
        reference_classes (Tensor, optional): Integer classes (M,). Default: None.
        gamma (float, optional): As there. Default: None, one over the mean squared
            distance of two references.
        estimate (str, optional): ``"exact"``, in blocks, or ``"features"``: random
            Fourier features, each kernel value with an error of (1 - k²) / sqrt(D).
            Default: ``"exact"``.
        n_features (int, optional): D, even; ``"features"`` only. Default: 2048.
        seed (int, optional): Of the random features. Default: 0.
        executor (optional): As in :func:`~captum_margin.scale.map_blocks`.
            Default: None.

    Returns:
        Tensor: f of shape (N,), float32; 0 where the class has no reference.

    Raises:
        TypeError: If classes are not integers.
        ValueError: If shapes do not fit, features are not finite, an option is out of
            its range, or only one of the two classes is given.

    Cost: ``"exact"``: O(N M F) time; ``"features"``: O((N + M) F D). Memory of some
    blocks, and O(C D).

    >>> references = torch.tensor([[0.0], [0.0], [9.0]])
    >>> kernel_density(torch.tensor([[0.0], [9.0]]), references, gamma=1.0)
    tensor([0.6667, 0.3333])
    """
    if estimate not in ("exact", "features"):
        raise ValueError(f"expected estimate 'exact' or 'features' (got {estimate!r})")
    if n_features < 2 or n_features % 2:
        raise ValueError(f"expected an even n_features >= 2 (got {n_features})")
    if (classes is None) != (reference_classes is None):
        raise ValueError(
            "expected classes and reference_classes together (got one of them)"
        )
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        x, r = (
            stack.enter_context(_source(given, executor, Path(folder)))
            for given in (features, references)
        )
        n, m = len(x.rows()), len(r.rows())
        if x.rows().width != r.rows().width:
            raise ValueError(
                f"expected references with F = {x.rows().width} columns (got "
                f"{r.rows().width}); take both from the same layer"
            )
        own, others = _both_classes(classes, reference_classes, n, m)
        mean, spread = _moments(r, executor)
        used = _gamma(gamma, spread)
        sizes = torch.bincount(others, minlength=int(own.max()) + 1)
        if estimate == "exact":
            rows = max(1, BLOCK_NUMBERS // min(m, _ROWS))
            task = partial(_density_block, x, r, own, others, used)
        else:
            rows = _ROWS
            frequencies = _frequencies(x.rows().width, n_features, used, seed)
            waves = _Waves(mean.float(), frequencies, n_features // 2)
            totals = torch.zeros(len(sizes), n_features, dtype=torch.float64)
            summed = partial(_wave_sums, r, waves, others, len(sizes))
            for part in map_blocks(summed, _slices(m, _ROWS), executor):
                totals += part
            task = partial(_wave_density, x, waves, own, totals.float())
        parts = list(map_blocks(task, _slices(n, rows), executor))
    return (torch.cat(parts) / sizes[own].clamp(min=1)).float()


class _Waves(NamedTuple):
    """Some of the random features: cos and sin of (x - mean) @ frequencies."""

    mean: Tensor
    frequencies: Tensor
    half: int  # of the number of all of them

    def of(self, x: Tensor) -> Tensor:
        """Features of some rows, (n, 2 s)."""
        phase = (x - self.mean) @ self.frequencies
        waves: Tensor = torch.cat([phase.cos(), phase.sin()], dim=1) / self.half**0.5
        return waves


@contextmanager
def _source(features: Any, executor: Any, folder: Path) -> Iterator[FeatureSource]:
    source = open_features(features)
    check_span(data_of(source), single=True)
    with feature_source(source, "euclidean", folder, executor) as data:
        yield data


def _slices(n: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def _gamma(gamma: float | None, spread: float) -> float:
    """As given, or one over the mean squared distance, twice the variance."""
    if gamma is not None:
        return check_gamma(gamma, torch.zeros(1, 1))
    return 1 / (2 * spread) if spread > 0 else 1.0


def _moments(data: FeatureSource, executor: Any) -> tuple[Tensor, float]:
    """Mean (F,) and the sum of the variances, float64, in two passes."""
    n, blocks = len(data.rows()), _slices(len(data.rows()), _ROWS)
    zero = torch.zeros(data.rows().width, dtype=torch.float64)
    parts = map_blocks(partial(_block_moments, data, zero), blocks, executor)
    mean = torch.stack([first for first, _ in parts]).sum(dim=0) / n
    parts = map_blocks(partial(_block_moments, data, mean), blocks, executor)
    return mean, sum(second for _, second in parts) / n


def _block_moments(
    data: FeatureSource, centre: Tensor, rows: slice
) -> tuple[Tensor, float]:
    x = data.rows()[rows].double() - centre
    return x.sum(dim=0), float(x.square().sum())


def _frequencies(width: int, n_features: int, gamma: float, seed: int) -> Tensor:
    """The draw of :func:`captum_margin.signal.leave_neighborhood_out_mmd`."""
    generator = torch.Generator().manual_seed(whole_number(seed, "seed"))
    size = (width, n_features // 2)
    draw = torch.randn(size, generator=generator, dtype=torch.float64)
    scaled: Tensor = draw * (2 * gamma) ** 0.5
    return scaled.float()


def _feature_block(
    shards: Shards, data: FeatureSource, waves: _Waves, b: int
) -> np.ndarray:
    rows, order = shards.rows(b), shards.order
    if order is None:
        x = data.rows()[rows]
    else:
        x = data.rows().take(torch.from_numpy(np.array(order[rows])))
    return waves.of(x).numpy()


def _class_sums(table: np.ndarray, y: np.ndarray) -> Tensor:
    """Sums of the features of each class, (C, 2 s), float64."""
    totals = torch.zeros(int(y.max()) + 1, table.shape[1], dtype=torch.float64)
    for rows in _slices(len(table), _ROWS):
        classes = torch.from_numpy(y[rows].astype(np.int64))
        totals.index_add_(0, classes, torch.from_numpy(table[rows]).double())
    return totals


def _own_class(shards: Shards, y: np.ndarray, b: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of a block, pointer and neighbours of their own class."""
    rows = shards.rows(b)
    pointer, indices, _ = shards.sparse_rows(b)
    target = torch.arange(len(pointer) - 1).repeat_interleave(pointer.diff().long())
    own = torch.from_numpy(y[rows])
    same = torch.from_numpy(y[indices.numpy()]) == own[target]
    return own.long(), target[same], indices[same].long()


def _members_block(shards: Shards, shared: Shared, b: int) -> Tensor:
    """How many samples of its class a row and its neighbours are, (n,)."""
    own, target, _ = _own_class(shards, shared.get(), b)
    return torch.bincount(target, minlength=len(own)) + 1


def _sums_block(
    shards: Shards, shared: Shared, labels: Shared, totals: Tensor, b: int
) -> tuple[Tensor, Tensor]:
    """Squares of the sum of phi over those left, and its product with the own phi."""
    table = torch.from_numpy(shared.get())
    own, target, neighbours = _own_class(shards, labels.get(), b)
    pointer = torch.zeros(len(own) + 1, dtype=torch.long)
    torch.cumsum(torch.bincount(target, minlength=len(own)), 0, out=pointer[1:])
    with _no_beta_warning():
        matrix = torch.sparse_csr_tensor(
            pointer,
            neighbours,
            torch.ones(len(neighbours)),
            size=(len(own), len(table)),
            check_invariants=False,
        )
    feature = table[shards.rows(b)]
    near = torch.sparse.mm(matrix, table) + feature
    left = totals[own] - near.double()
    return left.square().sum(dim=1), (left * feature.double()).sum(dim=1)


def _both_classes(
    classes: Tensor | None, reference_classes: Tensor | None, n: int, m: int
) -> tuple[Tensor, Tensor]:
    """Classes of samples and references, numbered together; one class if None."""
    if classes is None or reference_classes is None:
        return torch.zeros(n, dtype=torch.long), torch.zeros(m, dtype=torch.long)
    for name, given, count in (
        ("classes", classes, n),
        ("reference_classes", reference_classes, m),
    ):
        _check_labels(given)
        if len(given) != count:
            raise ValueError(
                f"expected {name} of shape ({count},) (got {tuple(given.shape)})"
            )
    both = torch.cat([classes.long(), reference_classes.long()])
    codes = both.unique(return_inverse=True)[1]
    own, others = codes[:n], codes[n:]
    return own, others


def _density_block(
    x: FeatureSource,
    r: FeatureSource,
    own: Tensor,
    others: Tensor,
    gamma: float,
    rows: slice,
) -> Tensor:
    """Sums of the kernel to the references of the own class, (n,), float64."""
    block, y = x.rows()[rows], own[rows]
    total = torch.zeros(len(block), dtype=torch.float64)
    references = r.rows()
    for some in references.blocks(_ROWS):
        part = others[some]
        sizes = torch.bincount(part, minlength=int(y.max()) + 1)
        mean = exact_density(block, references[some], y, part, gamma=gamma)
        total += mean.double() * sizes[y]
    return total


def _wave_sums(
    data: FeatureSource, waves: _Waves, classes: Tensor, count: int, rows: slice
) -> Tensor:
    """Sums of the features of each class, (C, D), float64."""
    sums = torch.zeros(count, 2 * waves.half, dtype=torch.float64)
    for some in _slices(rows.stop - rows.start, 2**12):
        part = slice(rows.start + some.start, rows.start + some.stop)
        found = waves.of(data.rows()[part]).double()
        sums.index_add_(0, classes[part], found)
    return sums


def _wave_density(
    data: FeatureSource, waves: _Waves, classes: Tensor, totals: Tensor, rows: slice
) -> Tensor:
    """Products of the features with the sums of the own class, (n,)."""
    parts = []
    for some in _slices(rows.stop - rows.start, 2**12):
        part = slice(rows.start + some.start, rows.start + some.stop)
        found = waves.of(data.rows()[part])
        parts.append((found * totals[classes[part]]).sum(dim=1))
    return torch.cat(parts).clamp(min=0)
