"""The picture of an interpretation: like images, and what they have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_heat_maps"]


def plot_heat_maps(
    images: Tensor,
    maps: Tensor,
    titles: Sequence[str],
    heading: str,
    mean: list[float] | None,
    std: list[float] | None,
) -> Figure:
    """Two rows: images above, their heat maps over them below.

    Args:
        images (Tensor): (B, 1 or 3, H, W), as the model takes them.
        maps (Tensor): (B, 1, h, w), none below 0.
        titles (sequence of str): One for each image.
        heading (str): Of the whole picture.
        mean (list of float or None): Means the images were normalised with.
        std (list of float or None): Standard deviations of that normalisation.

    Raises:
        ValueError: If images or maps cannot be drawn.
    """
    from captum_margin._notebook import NotebookFigure

    if images.dim() != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            "expected images (1, 1, H, W) or (1, 3, H, W) to draw (got "
            f"{tuple(images.shape)})"
        )
    if maps.dim() != 4:
        raise ValueError(
            f"expected a layer with an extent in space, (B, K, h, w) (got maps of "
            f"{tuple(maps.shape)}): there is no heat map to draw"
        )
    size = (images.shape[2], images.shape[3])
    maps = F.interpolate(maps.float(), size=size, mode="bilinear")[:, 0].cpu()
    maps = maps / maps.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)

    figure = NotebookFigure(figsize=(1.9 * len(images), 4.2), layout="constrained")
    axes = figure.subplots(2, len(images), squeeze=False)
    for column, (pixels, heat, title) in enumerate(
        zip(_pixels(images, mean, std), maps.numpy(), titles, strict=True)
    ):
        grey = "gray" if pixels.ndim == 2 else None
        axes[0, column].imshow(pixels, cmap=grey)
        axes[0, column].set_title(title, fontsize=8)
        axes[1, column].imshow(pixels, cmap=grey)
        axes[1, column].imshow(heat, cmap="jet", alpha=0.5, vmin=0, vmax=1)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.suptitle(heading, fontsize=9)
    return figure


def _pixels(
    images: Tensor, mean: list[float] | None, std: list[float] | None
) -> list[NDArray[np.float32]]:
    """Images as matplotlib draws them, values in [0, 1]."""
    if (mean is None) != (std is None):
        raise ValueError("expected both mean and std, or neither (got one of them)")
    images = images.detach().float().cpu()
    if mean is not None and std is not None:
        scale = torch.tensor(std).view(1, -1, 1, 1)
        images = images * scale + torch.tensor(mean).view(1, -1, 1, 1)
    else:
        low = images.amin(dim=(1, 2, 3), keepdim=True)
        high = images.amax(dim=(1, 2, 3), keepdim=True)
        images = (images - low) / (high - low).clamp(min=1e-12)
    arrays = images.clamp(0, 1).permute(0, 2, 3, 1).numpy()
    return [array[:, :, 0] if array.shape[2] == 1 else array for array in arrays]
