"""The picture of an interpretation: like images and what they have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from captum_margin.attr._references import References, to_device

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from captum_margin.attr.interpretation import Interpretation

__all__ = ["plot_interpretation"]


def plot_interpretation(
    interpretation: Interpretation,
    references: References,
    image: Tensor,
    k: int,
    mean: list[float] | None,
    std: list[float] | None,
) -> Figure:
    """Two rows: the image and its nearest covered references; their heat maps."""
    from captum_margin._notebook import NotebookFigure

    if image.dim() != 4 or image.shape[1] not in (1, 3):
        raise ValueError(
            "expected images (1, 1, H, W) or (1, 3, H, W) to draw (got "
            f"{tuple(image.shape)})"
        )
    similar = interpretation.similar(k)
    if interpretation._reference is not None:  # it is its own nearest
        similar = interpretation.similar(k + 1)
        others = similar.indices != interpretation._reference
        similar = type(similar)(*(values[others][:k] for values in similar))
    images = [image]
    if len(similar.indices):
        taken = references.take(similar.indices.tolist())[0]
        images.append(*to_device((taken,), image.device))
    shown = torch.cat(images)
    maps = interpretation.attribute(shown, relu_attributions=True)
    if maps.dim() != 4:
        raise ValueError(
            f"expected a layer with an extent in space, (B, K, h, w) (got maps of "
            f"{tuple(maps.shape)}): there is no heat map to draw"
        )
    size = (shown.shape[2], shown.shape[3])
    maps = F.interpolate(maps.float(), size=size, mode="bilinear")[:, 0].cpu()
    maps = maps / maps.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)

    figure = NotebookFigure(figsize=(1.9 * len(shown), 4.2), layout="constrained")
    axes = figure.subplots(2, len(shown), squeeze=False)
    titles = [f"explained: class {interpretation.predicted}"] + [
        f"reference {index}\ndistance {distance:.3g}"
        for index, distance in zip(*(v.tolist() for v in similar), strict=True)
    ]
    for column, (pixels, heat, title) in enumerate(
        zip(_pixels(shown, mean, std), maps.numpy(), titles, strict=True)
    ):
        grey = "gray" if pixels.ndim == 2 else None
        axes[0, column].imshow(pixels, cmap=grey)
        axes[0, column].set_title(title, fontsize=8)
        axes[1, column].imshow(pixels, cmap=grey)
        axes[1, column].imshow(heat, cmap="jet", alpha=0.5, vmin=0, vmax=1)
    for axis in axes.flat:
        axis.set_axis_off()
    n_boundaries = len(interpretation.boundaries.bias)
    figure.suptitle(
        f"{len(interpretation.covered)} references covered, "
        f"{interpretation.purity:.0%} predicted alike, "
        f"{n_boundaries} {'boundary' if n_boundaries == 1 else 'boundaries'}",
        fontsize=9,
    )
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
