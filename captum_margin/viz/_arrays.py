"""From what a user holds, tensors or arrays, to what matplotlib draws: (H, W, C)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]


def displayable_image(
    image: Tensor | Array,
    mean: Sequence[float] | float | None,
    std: Sequence[float] | float | None,
) -> Array:
    """Returns the image as (H, W, 3) with values in [0, 1]."""
    pixels = _channels_last("image", image)
    n_channels = pixels.shape[2]
    if n_channels not in (1, 3):
        raise ValueError(
            "expected an image of 1 or 3 channels, (C, H, W) as a tensor or (H, W, C) "
            f"as an array (got {n_channels} channels in shape {tuple(image.shape)}); "
            "select the channels to show"
        )
    if mean is not None or std is not None:
        undone = pixels * _per_channel("std", std, 1.0, n_channels)
        pixels = undone + _per_channel("mean", mean, 0.0, n_channels)
    elif _is_integer(image):
        pixels = pixels / _white(image, float(pixels.max()))
    elif pixels.min() < 0 or pixels.max() > 1:
        # Normalised by unknown constants: the range is stretched so that all shows.
        spread = pixels.max() - pixels.min()
        pixels = (pixels - pixels.min()) / (spread if spread > 0 else 1.0)
    # Grey becomes colour, because Captum draws one channel in false colours.
    shown: Array = np.broadcast_to(pixels.clip(0, 1), (*pixels.shape[:2], 3))
    return shown


def displayable_map(
    name: str, attribution: Tensor | Array, size: tuple[int, int]
) -> Array:
    """Returns the map summed over channels as (H, W), upsampled to ``size``."""
    label = f"attributions[{name!r}]"
    values: Array = _channels_last(label, attribution).sum(axis=2)
    if values.shape == size:
        return values
    if values.shape[0] > size[0] or values.shape[1] > size[1]:
        raise ValueError(
            f"expected {label} no larger than the image, (H, W) = {size} "
            f"(got {values.shape}); resize the image to the size the map explains"
        )
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(values)[None, None], size, mode="bilinear"
    )
    upsampled: Array = resized[0, 0].numpy()
    return upsampled


def _channels_last(name: str, values: Tensor | Array) -> Array:
    shape = tuple(getattr(values, "shape", ()))
    if isinstance(values, Tensor):
        tensor = values.detach().cpu().double()
        if tensor.dim() == 4 and tensor.shape[0] == 1:
            tensor = tensor[0]
        if tensor.dim() == 2:
            tensor = tensor[None]
        if tensor.dim() != 3 or tensor.numel() == 0:
            raise ValueError(
                f"expected {name} of one image as a tensor of shape (C, H, W) or "
                f"(1, C, H, W) (got {shape}); pass one image of a batch, `x[i]`"
            )
        array: Array = tensor.permute(1, 2, 0).numpy()
    elif isinstance(values, np.ndarray):
        array = np.asarray(values, dtype=np.float64)
        array = array[:, :, None] if array.ndim == 2 else array
        if array.ndim != 3 or array.size == 0:
            raise ValueError(
                f"expected {name} of one image as an array of shape (H, W, C) or "
                f"(H, W) (got {shape}); pass one image of a batch, `x[i]`"
            )
    else:
        raise TypeError(
            f"expected {name} as a torch.Tensor or numpy.ndarray "
            f"(got {type(values).__name__}); convert it first"
        )
    if not np.isfinite(array).all():
        raise ValueError(
            f"expected finite values in {name} (got NaN or infinity); clean them "
            "first, for example with torch.nan_to_num"
        )
    return array


def _is_integer(image: Tensor | Array) -> bool:
    if isinstance(image, Tensor):
        return not image.is_floating_point()
    return not np.issubdtype(image.dtype, np.floating)


def _white(image: Tensor | Array, largest: float) -> float:
    """What is white: by the type, or the first range that holds all."""
    kind = str(image.dtype).removeprefix("torch.")
    by_type = {"bool": 1.0, "uint8": 255.0, "uint16": 65535.0}
    if kind in by_type:
        return by_type[kind]
    return next((w for w in (255.0, 65535.0) if largest <= w), largest)


def _per_channel(
    name: str, value: Sequence[float] | float | None, default: float, n_channels: int
) -> Array:
    constants = np.atleast_1d(np.asarray(default if value is None else value, float))
    if constants.shape not in ((1,), (n_channels,)):
        raise ValueError(
            f"expected {name} of one value or one per channel, ({n_channels},) "
            f"(got {constants.shape}); use the constants the image was normalised with"
        )
    return constants
