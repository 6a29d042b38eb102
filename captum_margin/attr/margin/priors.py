"""Maps to begin with: another method's, a person's, or Grad-CAM's one pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_margin._model.captum import TargetType
from captum_margin._model.grad_cam import GRAD_CAM_PASSES, grad_cam
from captum_margin.attr.margin.domains.axes import coarse_shape

__all__ = [
    "check_place_of_prior",
    "check_prior",
    "n_passes_of_prior",
    "prior_on_patches",
]


def check_prior(prior: object) -> None:
    """Refuses what is no prior.

    Raises:
        TypeError: If it is neither a tensor nor a string.
        ValueError: If it is another string.
    """
    if isinstance(prior, str):
        if prior != "gradcam":
            raise ValueError(
                f"expected prior as a map or 'gradcam' (got {prior!r}); maps of other "
                "methods are passed as tensors"
            )
    elif prior is not None and not isinstance(prior, Tensor):
        raise TypeError(
            "expected prior as a tensor or 'gradcam' (got "
            f"{type(prior).__name__}); convert it with torch.as_tensor"
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


def n_passes_of_prior(prior: Tensor | str | None) -> int:
    """Forward passes of each example that making the prior takes."""
    return GRAD_CAM_PASSES if isinstance(prior, str) else 0


def prior_on_patches(
    prior: Tensor | str,
    forward_func: Callable[..., Tensor],
    images: Tensor,
    target: TargetType,
    additional_forward_args: object,
) -> Tensor:
    """The prior of each image on its patches, (B, h * w), float64, on the CPU.

    Each is scaled to a mean of 0 and a largest absolute value of 1.

    Raises:
        ValueError: If it is of another shape, holds NaN or infinity, or is constant.
    """
    if isinstance(prior, Tensor):
        maps, name = _expand(prior, images), "prior"
    else:
        maps = grad_cam(forward_func, (images,), target, additional_forward_args)
        name = "Grad-CAM"
    maps = maps.to("cpu", torch.float64)
    if not maps.isfinite().all():
        raise ValueError(f"expected finite values of {name} (got NaN or infinity)")
    size = (images.shape[2], images.shape[3])
    # First to values around 1: what is given may be of any magnitude.
    largest = maps.abs().amax(dim=(1, 2, 3), keepdim=True)
    maps = (maps / largest.where(largest > 0, 1)).mean(dim=1, keepdim=True)
    # Antialiasing: a thin box is faint on patches larger than it, but there.
    patches = F.interpolate(
        maps, size=coarse_shape(size), mode="bilinear", antialias=True
    ).flatten(1)
    centred = patches - patches.mean(dim=1, keepdim=True)
    largest = centred.abs().amax(dim=1, keepdim=True)
    constant = (largest[:, 0] <= _ROUNDING).nonzero().flatten().tolist()
    if constant:
        raise ValueError(
            f"expected a {name} that varies over the image (got a constant one for "
            f"example {constant[0]}, which says nothing); leave prior out there"
        )
    return centred / largest


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
