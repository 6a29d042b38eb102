"""What the image metrics take in: images, their maps, baselines, and the record."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_margin._model.captum import (
    Examples,
    SoftmaxWatch,
    TargetType,
    check_layout,
    format_inputs,
    scores_of,
    select_rows,
    target_outputs,
)
from captum_margin._whole_numbers import is_whole

__all__ = [
    "Scorer",
    "TargetScorer",
    "blurred",
    "check_count",
    "check_dense",
    "check_images",
    "gaussian_blur",
    "mean_colour",
    "resolve_baseline",
    "spatial_map",
]

# (images of n_copies * B rows, n_copies) -> scores (n_copies * B,)
Scorer = Callable[[Tensor, int], Tensor]


class TargetScorer:
    """The function from images to the target's scores.

    Args:
        forward_func (Callable): The model.
        target (int, tuple, Tensor or list, optional): As in Captum, for B examples.
        additional_forward_args (Any, optional): As in Captum.
        softmax (bool): Whether two-dimensional outputs are logits.
    """

    def __init__(
        self,
        forward_func: Callable[..., Tensor],
        target: TargetType,
        additional_forward_args: object,
        softmax: bool,
    ) -> None:
        self.forward_func = forward_func
        self.target = target
        self.args = additional_forward_args
        self.softmax = softmax
        self.watch = SoftmaxWatch()
        self.images: Tensor | None = None
        self.output_shape: tuple[int, ...] | None = None

    def __call__(self, images: Tensor, n_copies: int) -> Tensor:
        """Scores of ``n_copies`` of the batch, one after another."""
        n_examples = len(images) // n_copies
        rows = torch.arange(n_examples).repeat(n_copies)
        target, args = select_rows(self.target, self.args, rows, n_examples)
        of = None
        if self.images is not None:
            of = Examples((self.images,), self.args, rows, self.output_shape)
        output = target_outputs(self.forward_func, (images,), args, of=of)
        if self.images is None:  # the first call shows the images themselves
            self.images, self.output_shape = images, tuple(output.shape)
        return scores_of(
            output, target, len(images), softmax=self.softmax, watch=self.watch
        )


def check_images(
    inputs: Tensor | tuple[Tensor, ...],
    forward_func: Callable[..., object] | None = None,
) -> Tensor:
    """Returns the one batch of images (B, C, H, W) in ``inputs``, or raises.

    The model may show that what looks like (B, H, W, C) is not.
    """
    formatted = format_inputs(inputs)
    if len(formatted) != 1 or formatted[0].dim() != 4 or formatted[0].numel() == 0:
        raise ValueError(
            "expected inputs to be one batch of images of shape (B, C, H, W) "
            f"(got shapes {[tuple(tensor.shape) for tensor in formatted]}); "
            "score other inputs by their own metric"
        )
    check_layout(formatted[0], forward_func)
    if not formatted[0].is_floating_point():
        raise TypeError(
            f"expected floating-point inputs (got {formatted[0].dtype}); "
            "convert them as the model needs them, for example with inputs.float()"
        )
    return formatted[0].detach()


def spatial_map(attributions: Tensor | tuple[Tensor, ...], images: Tensor) -> Tensor:
    """Sums a map over its channels: one value per location, float64, (B, H, W).

    A sum in float64 of equal channels is exact enough to merge no two values that
    differ in the map, so that a broadcast map keeps its ranking and its ties.
    """
    if isinstance(attributions, tuple) and len(attributions) == 1:
        attributions = attributions[0]
    if not isinstance(attributions, Tensor):
        raise TypeError(
            "expected attributions to be one tensor "
            f"(got {type(attributions).__name__}); pass the map of the images"
        )
    size, channels, height, width = images.shape
    if tuple(attributions.shape) not in {
        (size, channels, height, width),
        (size, 1, height, width),
    }:
        raise ValueError(
            f"expected attributions of shape {(size, channels, height, width)} or "
            f"{(size, 1, height, width)} (got {tuple(attributions.shape)}); resize a "
            "layer's map with captum.attr.LayerAttribution.interpolate"
        )
    check_dense(attributions, "attributions")
    if not torch.isfinite(attributions).all():
        raise ValueError(
            "expected finite attributions (got NaN or infinity); a pixel without a "
            "value has no rank"
        )
    return attributions.detach().to(images.device, torch.float64).sum(dim=1)


def check_dense(values: Tensor, name: str) -> None:
    """Raises where values lie in a sparse layout."""
    if values.layout != torch.strided:
        raise ValueError(f"expected dense {name} (got {values.layout}); .to_dense()")


def mean_colour(images: Tensor) -> Tensor:
    """Returns the mean over locations of every image and channel, (B, C, 1, 1)."""
    return images.mean(dim=(2, 3), keepdim=True)


def gaussian_blur(images: Tensor, sigma: float = 5.0, kernel_size: int = 11) -> Tensor:
    r"""Blurs images with a Gaussian: what is left when the detail is taken away.

    The default, sigma 5 px on an 11 x 11 kernel, is that of Petsiuk et al., RISE
    (BMVC 2018), for images of 224 x 224; here the edge pixels are repeated outwards
    instead of zeros, so that a constant image stays what it is.

    Args:
        images (Tensor): Images of shape (B, C, H, W).
        sigma (float, optional): Standard deviation in pixels, above zero. Default: 5.0
        kernel_size (int, optional): Side of the square kernel, odd. Default: 11

    Returns:
        Tensor: The blurred images, in the shape and dtype of ``images``.

    Raises:
        TypeError: If the images are not floating point.
        ValueError: If they are not (B, C, H, W), ``sigma`` is not positive or
            ``kernel_size`` not odd.

    Cost: O(B * C * H * W * kernel_size) time, one copy of the images.

    Example:
        >>> import torch
        >>> from captum_margin.metrics import gaussian_blur
        >>> gaussian_blur(torch.ones(1, 3, 8, 8), sigma=2.0).shape
        torch.Size([1, 3, 8, 8])
    """
    if not sigma > 0 or kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(
            "expected sigma > 0 and an odd kernel_size >= 1 "
            f"(got {sigma} and {kernel_size}); the default is 5.0 and 11"
        )
    return blurred(check_images(images), sigma, kernel_size)


def blurred(images: Tensor, sigma: float = 5.0, kernel_size: int = 11) -> Tensor:
    """As :func:`gaussian_blur`, of images that were checked."""
    half = kernel_size // 2
    offsets = torch.arange(-half, half + 1, device=images.device)
    kernel = torch.exp(-offsets.double().square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).to(images.dtype)
    size, channels, height, width = images.shape
    planes = images.reshape(size * channels, 1, height, width)
    planes = F.pad(planes, (half, half, half, half), mode="replicate")
    planes = F.conv2d(planes, kernel.view(1, 1, 1, kernel_size))
    planes = F.conv2d(planes, kernel.view(1, 1, kernel_size, 1))
    return planes.view(size, channels, height, width)


def resolve_baseline(
    baseline: float | Tensor,
    images: Tensor,
    name: str = "baseline",
) -> tuple[Tensor, str]:
    """Returns a baseline that broadcasts over ``images``, and its words."""
    if isinstance(baseline, bool) or not isinstance(baseline, int | float | Tensor):
        raise TypeError(
            f"expected {name} to be a number or a tensor "
            f"(got {type(baseline).__name__}); pass 0.0 or a tensor like the inputs"
        )
    words = (
        f"tensor of shape {tuple(baseline.shape)}"
        if isinstance(baseline, Tensor) and baseline.dim() > 0
        else f"constant {float(baseline)}"
    )
    value = torch.as_tensor(baseline).detach().to(images.device, images.dtype)
    fits = value.dim() == 0 or (
        value.dim() == 4
        and all(a in (1, b) for a, b in zip(value.shape, images.shape, strict=True))
    )
    if not fits or not torch.isfinite(value).all():
        raise ValueError(
            f"expected {name} to be finite and of a shape that broadcasts over "
            f"{tuple(images.shape)} in four axes (got {words}); pass a number or a "
            "tensor like the inputs"
        )
    return value, words


def check_count(value: int, name: str) -> None:
    """Raises unless ``value`` is a whole number of at least one."""
    if not is_whole(value) or value < 1:
        raise ValueError(f"expected {name} to be an int >= 1 (got {value!r})")
