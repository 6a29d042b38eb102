"""Regions of an input: superpixels, the user's partition, and maps painted from them.

A partition is an integer tensor that says, for every element of an input, which
region it belongs to: Captum's ``feature_mask``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from captum_margin._whole_numbers import whole_number

__all__ = [
    "MIN_IMAGE_SIDE",
    "element_partition",
    "has_space",
    "is_image",
    "slic_segments",
]

#: Below this side (pixels) an image has too few pixels for superpixels.
MIN_IMAGE_SIDE = 16
#: Below this length a series, and below its square of places a volume, has so few
#: elements that each can be a feature.
_MIN_LENGTH = 16


def is_image(tensor: Tensor) -> bool:
    """Whether a batch holds images (B, C, H, W) large enough for superpixels."""
    return (
        tensor.dim() == 4
        and tensor.is_floating_point()
        and min(tensor.shape[2:]) >= MIN_IMAGE_SIDE
    )


def has_space(tensor: Tensor) -> bool:
    """Whether a batch holds images, series (B, C, L) or volumes (B, C, D, H, W).

    They must be large enough for smooth random parts. A series has more steps than
    channels: what has not may be (B, L, C).
    """
    if not tensor.is_floating_point():
        return False
    if tensor.dim() == 3:
        return tensor.shape[2] >= _MIN_LENGTH and tensor.shape[2] > tensor.shape[1]
    if tensor.dim() == 5:
        return tensor[0, 0].numel() >= _MIN_LENGTH**2
    return is_image(tensor)


def slic_segments(
    image: Tensor,
    n_segments: int | Sequence[int] = (50, 100, 150, 200, 250, 300),
    *,
    compactness: float = 10.0,
) -> Tensor:
    """Superpixels of one image at several scales, by scikit-image's SLIC.

    The image is first scaled to [0, 1], so any normalisation will do.

    Args:
        image (Tensor): Image of shape (C, H, W), grey or colour, C of any size.
        n_segments (int or sequence of int, optional): Number of superpixels asked for,
            one partition each; SLIC returns about that many. Default:
            (50, 100, 150, 200, 250, 300), the scales of Anirudh et al. 2021
        compactness (float, optional): How much nearness in space weighs against
            nearness in colour. Default: 10.0

    Returns:
        Tensor: Region of every pixel at every scale, int64, (S, H, W), on the image's
        device; the regions of a scale are 0, 1, ...

    Raises:
        ValueError: If ``image`` has not three axes or ``n_segments`` is below 1.

    Cost: one SLIC a scale, under a tenth of a second each for 224 x 224 on a CPU core.

    Example::

        >>> import torch
        >>> from captum_margin.attr import slic_segments
        >>> image = torch.zeros(3, 32, 32)
        >>> image[:, :, 16:] = 1.0
        >>> slic_segments(image, n_segments=4).shape
        torch.Size([1, 32, 32])
    """
    from skimage.segmentation import slic

    given = n_segments if isinstance(n_segments, Sequence) else [n_segments]
    scales = [whole_number(scale, "n_segments") for scale in given]
    if image.dim() != 3:
        raise ValueError(
            f"expected an image of shape (C, H, W) (got {tuple(image.shape)}); "
            "segment the images of a batch one by one"
        )
    if not scales or min(scales) < 1:
        raise ValueError(f"expected n_segments of at least 1 (got {n_segments})")
    pixels = image.detach().to("cpu", torch.float32).permute(1, 2, 0)
    low, high = pixels.min(), pixels.max()
    # A constant image has no edges: SLIC then returns its regular grid.
    pixels = (pixels - low) / (high - low if high > low else 1.0)
    partitions = [
        torch.from_numpy(
            slic(
                pixels.numpy(),
                n_segments=scale,
                compactness=compactness,
                start_label=0,
                channel_axis=-1,
            )
        )
        for scale in scales
    ]
    return torch.stack(partitions).to(image.device, torch.int64)


def element_partition(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Every element of every input a region of its own: Captum's default.

    Raises:
        TypeError: If an input is images of whole numbers; of their single pixels no
            budget would say anything.
    """
    for tensor in inputs:
        if tensor.dim() in (4, 5) and has_space(tensor.to(torch.float32)):
            raise TypeError(
                f"expected floating-point images (got {tensor.dtype}); convert them as "
                "the model needs them, for example with image.float() / 255, or pass a "
                "feature_mask"
            )
    partitions, start = [], 0
    for tensor in inputs:
        size = tensor[0].numel()
        ids = torch.arange(start, start + size, device=tensor.device)
        partitions.append(ids.view(1, *tensor.shape[1:]))
        start += size
    return tuple(partitions)
