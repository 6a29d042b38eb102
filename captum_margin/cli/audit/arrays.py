"""Samples from arrays: an NPZ of features, or of images."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from captum_margin.cli.audit.data import (
    LABEL_NAMES,
    AuditData,
    as_classes,
    check_finite,
)
from captum_margin.cli.audit.npz import NamedArrays, open_npz
from captum_margin.cli.output import CommandError, did_you_mean


def read_npz(path: Path, label_name: str | None) -> AuditData:
    """Reads arrays: ``features`` (N, ...) or ``images``, perhaps labels, names, splits.

    ``images`` are (N, H, W), (N, H, W, C) or (N, C, H, W) with C of 1, 3 or 4. They
    are shown, and their pixels are the features if there is no other array of these.

    Raises:
        CommandError: If the file cannot be read or an array does not fit.
    """
    with open_npz(path) as file:
        arrays = _arrays(file, label_name)
    images = None if arrays.images is None else _as_images(arrays.images)
    used = arrays.features if arrays.features is not None else arrays.images
    assert used is not None  # _arrays
    if used.dtype.kind not in "biuf" or used.ndim < 2 or 0 in used.shape:
        raise CommandError(
            "expected numbers of shape (N, F, ...) as features (got "
            f"{used.dtype} of shape {used.shape}): {path}"
        )
    # Large whole numbers and double precision keep their digits until they are scaled.
    kind = np.result_type(used.dtype, np.float32)
    if kind.itemsize > np.dtype(np.float64).itemsize:
        kind = np.dtype(np.float64)  # torch has no more
    values = used.reshape(len(used), -1).astype(kind, copy=False)
    check_finite(values, lambda row, _: f"sample {row}")
    names = arrays.names
    if names is None:
        names = np.array([f"sample {i}" for i in range(len(values))])
    belong = ("names", names), ("images", images), ("splits", arrays.splits)
    for what, array_ in belong:
        if array_ is None:
            continue
        is_row = array_.ndim == 1 or what == "images"
        if not is_row or len(array_) != len(values):
            got = len(array_) if is_row else f"an array of shape {array_.shape}"
            raise CommandError(
                f"expected {len(values)} {what}, one per sample (got {got})"
            )
    codes, classes = as_classes(arrays.labels, len(values))
    is_pixels = arrays.features is None
    return AuditData(
        title=path.name,
        names=[str(name) for name in names.tolist()],
        features=torch.from_numpy(values),
        origin="their pixels" if is_pixels else f"their {values.shape[1]:,} features",
        labels=codes,
        classes=classes,
        splits=[] if arrays.splits is None else [str(s) for s in arrays.splits],
        picture=None if images is None else _Pictures(images),
        notes=[]
        if codes is not None
        else ["no array named labels, so no question about labels"],
        record={"features": "images" if is_pixels else "features"},
    )


@dataclass
class _Arrays:
    features: NDArray[Any] | None
    images: NDArray[Any] | None
    labels: NDArray[Any] | None
    names: NDArray[Any] | None
    splits: NDArray[Any] | None


def _arrays(file: NamedArrays, label_name: str | None) -> _Arrays:
    found = [name for name in LABEL_NAMES if name in file.names]
    if label_name is not None and label_name not in file.names:
        close = difflib.get_close_matches(label_name, file.names, n=3)
        raise CommandError(
            f"{file.path} has no array {label_name!r} (--labels)" + did_you_mean(close)
        )
    label_name = label_name or (found[0] if found else None)
    wanted = "features", "images", label_name, "names", "splits"
    arrays = _Arrays(*map(file.take, wanted))
    if arrays.features is None and arrays.images is None:
        raise CommandError(
            "expected an array named features or images (got "
            f"{', '.join(file.names) or 'none'}): {file.path}"
        )
    return arrays


def _as_images(images: NDArray[Any]) -> NDArray[Any]:
    """Images with the channels last."""
    depths = (1, 3, 4)
    if images.ndim == 4 and images.shape[3] not in depths and images.shape[1] in depths:
        return np.moveaxis(images, 1, 3)
    if images.ndim == 3 or (images.ndim == 4 and images.shape[3] in depths):
        return images
    raise CommandError(
        "expected images of shape (N, H, W) or (N, H, W, C) with 1, 3 or 4 channels "
        f"(got {images.shape})"
    )


def _finite_range(images: NDArray[Any]) -> tuple[float, float]:
    """The least and greatest number of all images that is one."""
    lows, highs = [], []
    for image in images:
        finite = image[np.isfinite(image)]
        if finite.size:
            lows.append(float(finite.min()))
            highs.append(float(finite.max()))
    return (min(lows), max(highs)) if lows else (0.0, 1.0)


class _Pictures:
    """Arrays as PIL images, black and white the least and greatest value of all."""

    def __init__(self, images: NDArray[Any]) -> None:
        self.images = images
        is_bytes = images.dtype == np.uint8
        low, high = (0.0, 255.0) if is_bytes else _finite_range(images)
        self.low = low
        self.spread = high - self.low or 1.0

    def __call__(self, index: int, side: int) -> Any:
        from PIL import Image

        pixels = (self.images[index].astype(np.float64) - self.low) / self.spread
        # Infinity is black or white; NaN, which is nothing, black.
        pixels = (
            np.nan_to_num(pixels * 255, nan=0).clip(0, 255).round().astype(np.uint8)
        )
        if pixels.ndim == 3 and pixels.shape[2] == 1:
            pixels = pixels[:, :, 0]
        return Image.fromarray(pixels)
