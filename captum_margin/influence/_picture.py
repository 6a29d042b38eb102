"""Pictures of a result: a contact sheet of samples, or a histogram of scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from captum_margin._notebook import NotebookFigure

if TYPE_CHECKING:
    from captum_margin.influence.result import InfluenceResult

__all__ = ["contact_sheet", "histogram", "image_of"]


def contact_sheet(
    result: InfluenceResult, images: Any, n: int, n_neighbors: int
) -> NotebookFigure:
    """One row for each of the top samples: itself, then its nearest neighbours."""
    samples = result.top(n).tolist()
    columns = n_neighbors + 1
    figure = NotebookFigure(
        figsize=(1.2 * columns + 0.4, 1.5 * len(samples)), layout="constrained"
    )
    grid = figure.subplots(len(samples), columns, squeeze=False)
    for row, i in zip(grid, samples, strict=True):
        around = result.neighbors(i).indices[:n_neighbors].tolist()
        for axis in row:
            axis.set_axis_off()
        for axis, j in zip(row, [i, *around], strict=False):
            axis.imshow(image_of(images[j]), cmap="gray")
            if result.labels is None:
                axis.set_title(str(j), fontsize=8)
                continue
            same = bool(result.labels[j] == result.labels[i])
            name = result.classes[int(result.labels[j])]
            axis.set_title(
                f"{j}: {name}" if j == i else str(name),
                fontsize=8,
                fontweight="bold" if j == i else "normal",
                color="black" if same else "tab:red",
            )
    figure.suptitle(f"{result.name}: top samples and their nearest neighbours")
    return figure


def histogram(result: InfluenceResult) -> NotebookFigure:
    """How many samples have which score."""
    figure = NotebookFigure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    axes.hist(result.scores.cpu().numpy(), bins=50)
    axes.set_yscale("log")  # what is looked for is rare
    axes.set(xlabel=f"{result.name} score", ylabel="samples")
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
    if image.dtype.kind == "f" and (image.min() < 0 or image.max() > 1):
        # Normalised by unknown constants: the range is stretched so that all shows.
        spread = image.max() - image.min()
        image = (image - image.min()) / (spread if spread > 0 else 1)
    return image
