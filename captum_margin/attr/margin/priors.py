"""Maps to begin with: other methods', a person's, or Grad-CAM's and the gradient's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_margin._model.captum import TargetType
from captum_margin._model.grad_cam import (
    GRAD_CAM_PASSES,
    SLOPE_PASSES,
    grad_cam,
    slope_in_pixels,
)
from captum_margin.attr.margin.domains.axes import coarse_shape

__all__ = [
    "Prior",
    "check_place_of_prior",
    "check_prior",
    "n_passes_of_prior",
    "priors_on_patches",
]

#: What an option ``prior`` may be.
Prior: TypeAlias = Tensor | tuple[Tensor, ...] | Literal["gradcam"] | None


def check_prior(prior: object) -> None:
    """Refuses what is no prior.

    Raises:
        TypeError: If it is no tensor, tuple of tensors, or string.
        ValueError: If it is another string, or an empty tuple.
    """
    if isinstance(prior, str):
        if prior != "gradcam":
            raise ValueError(
                f"expected prior as a map or 'gradcam' (got {prior!r}); maps of other "
                "methods are passed as tensors"
            )
    if prior is None or isinstance(prior, str):
        return
    if isinstance(prior, tuple) and not prior:
        raise ValueError(
            "expected prior as one map or more (got an empty tuple); pass None for none"
        )
    for one in prior if isinstance(prior, tuple) else (prior,):
        if not isinstance(one, Tensor):
            raise TypeError(
                "expected prior as a tensor, a tuple of tensors or 'gradcam' (got "
                f"{type(one).__name__}); convert maps with torch.as_tensor, and a "
                "list of them with tuple()"
            )


def check_place_of_prior(soft_unions: bool) -> None:
    """Refuses a prior where there is no map to vary.

    Raises:
        ValueError: If what is explained are not images by soft unions.
    """
    if not soft_unions:
        raise ValueError(
            "expected a prior only for images (B, C, H, W) and domain='unions', "
            "without feature_mask and segmentation_func: only there a map is varied"
        )


def n_passes_of_prior(prior: Prior) -> int:
    """Forward passes of each example that making the prior takes."""
    return GRAD_CAM_PASSES + SLOPE_PASSES if isinstance(prior, str) else 0


def priors_on_patches(
    prior: Prior,
    forward_func: Callable[..., Tensor],
    images: Tensor,
    baselines: Tensor,
    target: TargetType,
    additional_forward_args: object,
) -> Tensor | None:
    """The K priors of each image on its patches, (B, K, h * w), float64, on the CPU.

    Each is scaled to a mean of 0 and a largest absolute value of 1. ``"gradcam"`` are
    two: Grad-CAM's map, which is coarse and may say little of a transformer, and the
    gradient in the pixels times what they differ by from the baseline, which is fine
    and noisy.

    Raises:
        ValueError: If one is of another shape, holds NaN or infinity, or is constant.
    """
    if prior is None:
        return None
    if isinstance(prior, str):
        asked = target, additional_forward_args
        cam = grad_cam(forward_func, (images,), *asked)
        coarse, tells = _on_patches(cam, images, "Grad-CAM")
        slope, shown, hidden = (
            tensor.to("cpu", torch.float64)
            for tensor in (
                slope_in_pixels(forward_func, images, *asked),
                images,
                baselines,
            )
        )
        fine = slope * (shown - hidden)
        finite = fine.isfinite().flatten(1).all(dim=1).view(-1, 1, 1, 1)
        fine, tells_too = _on_patches(
            fine.where(finite, 0), images, "gradient", blur=_BLUR
        )
        _check_varies(tells | tells_too, "Grad-CAM")
        # What says nothing is replaced by the other: the same twice is no more than it.
        both = [coarse.where(tells, fine), fine.where(tells_too, coarse)]
        return torch.stack(both, dim=1)
    maps = []
    for one in prior if isinstance(prior, tuple) else (prior,):
        patches, varies = _on_patches(_expand(one, images), images, "prior")
        _check_varies(varies, "prior")
        maps.append(patches)
    return torch.stack(maps, dim=1)


def _on_patches(
    maps: Tensor, images: Tensor, name: str, blur: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Maps (B, C, h, w) as (B, P), and whether each varies, (B, 1).

    ``blur`` is the standard deviation of a Gaussian, as a share of the shorter side.
    """
    from scipy.ndimage import gaussian_filter

    maps = maps.to("cpu", torch.float64)
    if not maps.isfinite().all():
        raise ValueError(f"expected finite values of {name} (got NaN or infinity)")
    size = (images.shape[2], images.shape[3])
    # First to values around 1: what is given may be of any magnitude.
    largest = maps.abs().amax(dim=(1, 2, 3), keepdim=True)
    maps = (maps / largest.where(largest > 0, 1)).mean(dim=1, keepdim=True)
    # Antialiasing: a thin box is faint on patches larger than it, but there.
    shape = coarse_shape(size)
    patches = F.interpolate(maps, size=shape, mode="bilinear", antialias=True)
    sigma = blur * min(shape)
    blurred = gaussian_filter(patches.numpy(), (0, 0, sigma, sigma), mode="nearest")
    patches = torch.from_numpy(blurred).flatten(1)
    centred = patches - patches.mean(dim=1, keepdim=True)
    largest = centred.abs().amax(dim=1, keepdim=True)
    varies = largest > _ROUNDING
    return centred / largest.where(varies, 1), varies


def _check_varies(varies: Tensor, name: str) -> None:
    constant = (~varies[:, 0]).nonzero().flatten().tolist()
    if constant:
        raise ValueError(
            f"expected a {name} that varies over the image (got a constant one for "
            f"example {constant[0]}, which says nothing); leave prior out there"
        )


#: Gradients of single pixels are noise; chosen on tuning pictures, between 1/32 and it.
_BLUR = 1 / 16
#: Of values around 1 in float64, less than this is a constant's.
_ROUNDING = 1e-12


def _expand(prior: Tensor, images: Tensor) -> Tensor:
    """One map an image, (B, 1 or C, h, w)."""
    shape, (n_images, n_channels) = tuple(prior.shape), images.shape[:2]
    fits = (
        prior.dim() == 4
        and prior.numel() > 0
        and n_images % len(prior) == 0
        and prior.shape[1] in (1, n_channels)
    )
    if not fits:
        raise ValueError(
            f"expected prior of shape (B, 1, h, w) or of the inputs' own, B being "
            f"{n_images} or 1 (got {shape} for inputs {tuple(images.shape)}); add axes "
            "with prior[None, None]"
        )
    if prior.is_complex():
        raise ValueError(f"expected prior in real numbers (got {prior.dtype})")
    # Under sensitivity_max the inputs are repeated, but this is not.
    return prior.detach().repeat_interleave(n_images // len(prior), dim=0)
