"""Average Drop and Average Increase: does the highlighted part alone suffice?

Two forms. The soft mask: the map, scaled to [0, 1], fades the image; Chattopadhyay et
al., "Grad-CAM++: Generalized Gradient-based Visual Explanations for Deep
Convolutional Networks", WACV 2018, section 4.1. The hard mask: a given share of the
top pixels is kept, 20% in Lam et al., "Finding Representative Interpretations on
Convolutional Neural Networks", ICCV 2021, section 6.2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from captum_margin._model.captum import TargetType
from captum_margin._version import versions
from captum_margin.metrics._images import (
    TargetScorer,
    check_images,
    resolve_baseline,
    spatial_map,
)
from captum_margin.metrics._ranked_masks import (
    TIE_RULE,
    RankedPath,
    at_least_float32,
    rank_pixels,
)

__all__ = ["AverageDrop", "average_drop"]

SCALING = (
    "attributions summed over channels, min-max scaled to [0, 1] per example; a "
    "constant map is all ones if positive, all zeros if not"
)


@dataclass(frozen=True, eq=False)
class AverageDrop:
    """Drops and increases of :func:`average_drop`.

    Read ``average_drop`` beside ``mask_mean``: a map of ones keeps the whole image
    and has no drop, so a dense map is favoured over a sparse one.

    Attributes:
        drop (Tensor): Share of the image's score that is lost, max(0, Y - O) / Y,
            (B,); zero where Y is zero. Lower is better.
        increase (Tensor): Whether the score rose, O > Y, bool, (B,).
        average_drop (float): Mean of ``drop``, in [0, 1] for probabilities.
        average_increase (float): Mean of ``increase``, in [0, 1].
        full_scores (Tensor): Scores Y of the images, (B,).
        kept_scores (Tensor): Scores O of what is kept of them, (B,).
        mask_mean (Tensor): Share of the image that is kept: mean of the soft mask,
            or share of the pixels, (B,).
        n_forward (int): Images scored per example.
        settings (dict): All that the numbers depend on; plain values, fit for JSON.
    """

    drop: Tensor
    increase: Tensor
    average_drop: float
    average_increase: float
    full_scores: Tensor
    kept_scores: Tensor
    mask_mean: Tensor
    n_forward: int
    settings: dict[str, Any]


@torch.no_grad()
def average_drop(
    forward_func: Callable[..., Tensor],
    inputs: Tensor | tuple[Tensor, ...],
    attributions: Tensor | tuple[Tensor, ...],
    target: TargetType = None,
    additional_forward_args: object = None,
    *,
    keep: float | None = None,
    baseline: float | Tensor = 0.0,
    softmax: bool = True,
) -> AverageDrop:
    r"""Compares the scores of images and of what their maps keep of them.

    With Y the target's score of the image and O that of the kept part, the average
    drop is the mean of :math:`\max(0, Y - O) / Y`, the average increase the mean of
    :math:`1[O > Y]` (Chattopadhyay et al., WACV 2018, section 4.1). The kept part is

    - ``keep=None``: ``image * mask + baseline * (1 - mask)``, where the mask is the
      map summed over its channels and scaled, per example, from its smallest and
      largest value to 0 and 1. A constant map has no such scale: it is a mask of
      ones if positive, of zeros if not.
    - ``keep=0.2``: 20% of the pixels, those of the highest value, on the baseline (Lam
      et al., ICCV 2021, section 6.2).
      Pixels of equal value have no order: where the count falls inside a group of
      them, O is interpolated linearly, in the number of pixels, between the scores
      at the group's two ends.

    Args:
        forward_func (Callable): The model, as in
            :class:`captum.attr.FeatureAblation`; put it in evaluation mode first.
        inputs (Tensor): Images of shape (B, C, H, W).
        attributions (Tensor): Maps of shape (B, C, H, W) or (B, 1, H, W), high where
            the image speaks for the target.
        target (int, tuple, Tensor or list, optional): As in
            :class:`captum.attr.FeatureAblation`. Default: None
        additional_forward_args (Any, optional): As in
            :class:`captum.attr.FeatureAblation`; see
            :class:`captum_margin.Shared`. Default: None
        keep (float, optional): Share of the pixels to keep, in (0, 1]: the nearest
            whole number of them, at least one. None is the soft mask. Default: None
        baseline (float or Tensor, optional): What takes the place of the rest; a tensor
            broadcasts over the inputs in four axes. On inputs normalised by a data
            set's mean, 0 is that mean colour, not black. Default: 0.0
        softmax (bool, optional): Whether outputs (B, C > 1) are logits, to be turned
            into probabilities; see :class:`captum_margin.attr.MarginSaliency` for
            what are none. Default: True

    Returns:
        AverageDrop: Drops, increases, their means, both scores, mask means, number
        of images scored, settings. Scores are float32 at least.

    Raises:
        ValueError: If a shape does not fit, there is no such class, a value is NaN or
            infinite, or an image's own score is negative, so that a share of it means
            nothing.
        TypeError: If the inputs are not floating point, or attributions or a baseline
            are of the wrong type.
        AssertionError: If a target is missing, or not one an image, as in Captum.

    Cost: two images scored per example with the soft mask; two with ``keep``, three
    where the count falls inside a group of ties. Memory for one forward pass of B
    images.

    Example:
        >>> import torch
        >>> from captum_margin.metrics import average_drop
        >>> image = torch.tensor([[[[4.0, 0.0], [3.0, 1.0]]]])
        >>> model = lambda x: x.sum(dim=(1, 2, 3))
        >>> result = average_drop(model, image, attributions=image, keep=0.5)
        >>> result.full_scores.item(), result.kept_scores.item()
        (8.0, 7.0)
        >>> result.average_drop, result.average_increase, result.mask_mean.item()
        (0.125, 0.0, 0.5)
    """
    images = check_images(inputs, forward_func)
    values = spatial_map(attributions, images)
    if keep is not None and not 0 < keep <= 1:
        raise ValueError(
            f"expected keep in (0, 1] (got {keep}); pass 0.2 to keep 20% of the "
            "pixels, or None for the soft mask"
        )
    rest, words = resolve_baseline(baseline, images)
    score = TargetScorer(forward_func, target, additional_forward_args, softmax)
    settings: dict[str, Any] = {"metric": "average drop and increase"}
    if keep is None:
        full = at_least_float32(score(images, 1))
        mask = _unit_scaled(values).to(images.dtype)[:, None]  # (B, 1, H, W)
        kept = score(images * mask + rest * (1 - mask), 1).to(full.dtype)
        mask_mean = mask.to(full.dtype).mean(dim=(1, 2, 3))
        n_forward = 2
        settings |= {"form": "soft mask", "mask": SCALING}
    else:
        path = RankedPath(
            images, rank_pixels(values), score, rest, perturbations_per_eval=1
        )
        full = path.full
        n_pixels = path.ranking.n_pixels
        count = max(1, int(keep * n_pixels + 0.5))
        counts = torch.tensor([count], device=images.device)
        kept = path.interpolated(counts)[0][:, 0]
        mask_mean = torch.full_like(full, count / n_pixels)
        n_forward = path.n_forward
        settings |= {
            "form": "top pixels kept",
            "keep": keep,
            "ranking": "attributions summed over channels, highest first",
            "ties": TIE_RULE,
        }
    if full.min() < 0:
        raise ValueError(
            "expected images whose own scores are not negative (got "
            f"{full.min().item():.6g}), as the drop is a share of them; use "
            "softmax=True, or a forward_func that returns probabilities"
        )
    score.watch.warn()
    lost = (full - kept).clamp(min=0)
    drop = torch.where(full > 0, lost / full, 0.0)
    increase = kept > full
    return AverageDrop(
        drop=drop,
        increase=increase,
        average_drop=drop.mean().item(),
        average_increase=increase.to(drop.dtype).mean().item(),
        full_scores=full,
        kept_scores=kept,
        mask_mean=mask_mean,
        n_forward=n_forward,
        settings=settings
        | {
            "baseline": words,
            "softmax": softmax,
            "dtype": str(images.dtype),
            "image_size": list(images.shape[1:]),
            "versions": versions("captum", "torch"),
        },
    )


def _unit_scaled(values: Tensor) -> Tensor:
    """Scales maps (B, H, W) to [0, 1] each; see ``SCALING`` for constant maps."""
    low, high = values.amin(dim=(1, 2), keepdim=True), values.amax((1, 2), keepdim=True)
    constant = (low > 0).to(values.dtype)
    # A constant map divides by zero here, and takes the other branch.
    return torch.where(high > low, (values - low) / (high - low), constant)
