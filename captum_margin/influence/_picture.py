"""Pictures of a result: a contact sheet of samples, or a histogram of scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from captum_margin._notebook import NotebookFigure

__all__ = ["Shown", "contact_sheet", "histogram", "image_of"]


class Shown(NamedTuple):
    """One sample of a row.

    Args:
        image: Anything :func:`image_of` takes.
        title: What stands above it.
        first: Whether it is what the row is about.
        same: Whether it has the label of the row's first.
    """

    image: Any
    title: str
    first: bool
    same: bool


def contact_sheet(rows: Sequence[Sequence[Shown]], heading: str) -> NotebookFigure:
    """One row for each sample: itself, then what is nearest to it."""
    columns = max(map(len, rows))
    figure = NotebookFigure(
        figsize=(1.2 * columns + 0.4, 1.5 * len(rows)), layout="constrained"
    )
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes, row in zip(grid, rows, strict=True):
        for axis in axes:
            axis.set_axis_off()
        for axis, shown in zip(axes, row, strict=False):
            axis.imshow(image_of(shown.image), cmap="gray")
            axis.set_title(
                shown.title,
                fontsize=8,
                fontweight="bold" if shown.first else "normal",
                color="black" if shown.same else "tab:red",
            )
    figure.suptitle(heading)
    return figure


def histogram(scores: Tensor, name: str) -> NotebookFigure:
    """How many samples have which score."""
    figure = NotebookFigure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    axes.hist(scores.cpu().numpy(), bins=50)
    axes.set_yscale("log")  # what is looked for is rare
    axes.set(xlabel=f"{name} score", ylabel="samples")
    return figure


def image_of(item: Any) -> NDArray[Any]:
    """An image, or the first part of an item, as matplotlib shows it.

    Raises:
        ValueError: If it is no image.
    """
    if isinstance(item, (tuple, list)):
        item = item[0]
    if isinstance(item, Tensor):
        item = item.detach().cpu().numpy()
        if item.ndim == 3:
            item = np.moveaxis(item, 0, 2)
    image: NDArray[Any] = np.asarray(item)
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if image.ndim != 2 and not (image.ndim == 3 and image.shape[2] == 3):
        raise ValueError(
            f"expected images of 1 or 3 channels (got shape {image.shape})"
        )
    if image.dtype.kind in "iu" and image.dtype.itemsize > 1 and image.size:
        return _of_integers(image)
    finite = image[np.isfinite(image)]
    if image.dtype.kind == "f" and finite.size < image.size:
        image = np.where(np.isfinite(image), image, finite.min() if finite.size else 0)
    if image.dtype.kind == "f" and (image.min() < 0 or image.max() > 1):
        # Normalised by unknown constants: the range is stretched so that all shows.
        spread = image.max() - image.min()
        image = (image - image.min()) / (spread if spread > 0 else 1)
    return image


def _of_integers(image: NDArray[Any]) -> NDArray[Any]:
    """From 0, black, to white: that of 8 bits or of 16, or the greatest if larger."""
    if image.dtype == np.uint16:
        sixteen: NDArray[Any] = image / np.float64(65535)
        return sixteen
    low, high = min(0, int(image.min())), int(image.max())
    white = next((w for w in (255, 65535) if high <= w), high)
    shown: NDArray[Any] = (image - np.float64(low)) / (white - low)
    return shown
