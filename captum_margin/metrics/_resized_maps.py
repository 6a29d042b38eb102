"""Maps of any resolution at the size of the images they explain."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_margin.metrics._images import check_dense

__all__ = ["MODES", "InterpolateMode", "resized_map"]

InterpolateMode = Literal["nearest", "bilinear"]
MODES = ("nearest", "bilinear")


def resized_map(
    attributions: Tensor | tuple[Tensor, ...],
    n_examples: int,
    size: tuple[int, int],
    mode: InterpolateMode,
) -> Tensor:
    """Sums maps (B, K, h, w) over K and brings them to ``size``, float64, (B, H, W).

    Raises:
        TypeError: If the maps are not one tensor.
        ValueError: If they are no finite (B, K, h, w), or there is no such mode.
    """
    if isinstance(attributions, tuple) and len(attributions) == 1:
        attributions = attributions[0]
    if not isinstance(attributions, Tensor):
        raise TypeError(
            "expected attributions to be one tensor "
            f"(got {type(attributions).__name__}); pass the maps of the images"
        )
    if mode not in MODES:
        raise ValueError(
            f"expected interpolate_mode to be one of {MODES} (got {mode!r})"
        )
    shape = tuple(attributions.shape)
    if len(shape) != 4 or shape[0] != n_examples or attributions.numel() == 0:
        raise ValueError(
            f"expected attributions of shape ({n_examples}, K, h, w), one map an "
            f"example (got {shape}); add missing axes, as in maps[:, None]"
        )
    if shape[1:3] == size != shape[2:]:
        raise ValueError(
            f"expected attributions of shape ({n_examples}, K, h, w) (got {shape}, "
            "channels last); pass maps.permute(0, 3, 1, 2)"
        )
    check_dense(attributions, "attributions")
    if not torch.isfinite(attributions).all():
        raise ValueError(
            "expected finite attributions (got NaN or infinity); find out what made "
            "them, or replace them with torch.nan_to_num"
        )
    values = attributions.detach().double().sum(dim=1, keepdim=True)
    if shape[2:] != size:
        # Larger maps are averaged down, so that no pixel of theirs is passed over.
        values = F.interpolate(values, size, mode=mode, antialias=mode == "bilinear")
        # Weights that add up to one but for rounding must not part equal neighbours.
        values = values.float().double()
    return values[:, 0]
