"""Rows of features as the tasks read them: from memory, or from a file of their own."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from captum_margin.neighbors.rows import Metric, Rows
from captum_margin.scale.executor import Shared, share


class FeatureSource(NamedTuple):
    """What a task needs to read features (N, F); it goes to other processes."""

    source: Shared
    metric: Metric

    def rows(self) -> Rows:
        """The features, as the searches read them."""
        return Rows(self.source.get(), self.metric)


def open_features(features: Any) -> Any:
    """The features, or the path of the ``.npy`` file that holds them."""
    if isinstance(features, (str, os.PathLike)):
        return Path(features)
    name = str(getattr(features, "filename", None))
    if isinstance(features, np.memmap) and name.endswith(".npy"):
        mapped = np.load(name, mmap_mode="r")
        whole = mapped.offset == features.offset and mapped.shape == features.shape
        if whole and mapped.dtype == features.dtype:
            return Path(name)  # workers open the file themselves
    return features


def data_of(source: Any) -> Any:
    """The features of :func:`open_features` as an array."""
    return np.load(source, mmap_mode="r") if isinstance(source, Path) else source


@contextmanager
def feature_source(
    source: Any, metric: Metric, folder: Path, executor: Any
) -> Iterator[FeatureSource]:
    """Features that every worker of an executor can read."""
    if isinstance(source, np.ndarray):
        with share(source, folder, executor) as shared:
            yield FeatureSource(shared, metric)
    else:
        yield FeatureSource(Shared(source), metric)


def fingerprint(features: Any, rows: int = 4096) -> str:
    """Shape and a checksum of some evenly spread rows: are the data the same?

    Args:
        features (array or path): Shape (N, F), or the path of a ``.npy`` file.
        rows (int, optional): How many rows are looked at. Default: 4096.

    Returns:
        str: Equal for equal data.

    Cost: reading that many rows.

    >>> fingerprint(np.zeros((3, 2)))[:11]
    '3x2 float64'
    """
    data = data_of(open_features(features))
    some = np.linspace(0, data.shape[0] - 1, min(rows, data.shape[0])).astype(int)
    part = data[np.unique(some)]
    part = part.toarray() if hasattr(part, "toarray") else np.asarray(part)
    check = zlib.crc32(np.ascontiguousarray(part).data)
    return f"{data.shape[0]}x{data.shape[1]} {part.dtype} {check:08x}"
