"""The smallest top region of a map that keeps the model's decision.

"Smallest sufficient region" in the sense of Dabkowski and Gal, "Real Time Image
Saliency for Black Box Classifiers", NeurIPS 2017, with the region taken from the
map's own ranking. It asks no score to be high, only the decision to stand, and so
does not favour dense maps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from captum_margin._model.captum import TargetType, target_outputs
from captum_margin._version import versions
from captum_margin.metrics._images import (
    TargetScorer,
    check_count,
    check_images,
    mean_colour,
    resolve_baseline,
    spatial_map,
)
from captum_margin.metrics._ranked_masks import RankedPath, rank_pixels, step_counts

__all__ = ["SmallestRegion", "smallest_region"]


@dataclass(frozen=True, eq=False)
class SmallestRegion:
    """Regions of :func:`smallest_region`.

    Attributes:
        fraction (Tensor): Share of the pixels in the region, 0 to 1, (B,); NaN where
            the image itself is not decided for the target. Lower is better.
        verified (Tensor): Whether a forward pass of exactly this region gave the
            decision, bool, (B,); False only where ``fraction`` is NaN.
        mask (Tensor): The region, bool, (B, 1, H, W); empty where not verified.
        n_forward (int): Images scored per example.
        settings (dict): All that the numbers depend on; plain values, fit for JSON.
    """

    fraction: Tensor
    verified: Tensor
    mask: Tensor
    n_forward: int
    settings: dict[str, Any]


@torch.no_grad()
def smallest_region(
    forward_func: Callable[..., Tensor],
    inputs: Tensor | tuple[Tensor, ...],
    attributions: Tensor | tuple[Tensor, ...],
    target: TargetType = None,
    additional_forward_args: object = None,
    *,
    baseline: float | Tensor | None = None,
    n_steps: int = 100,
    perturbations_per_eval: int = 32,
    show_progress: bool = False,
) -> SmallestRegion:
    r"""Finds how few of the top pixels, kept on the baseline, keep the decision.

    Tried are the counts :math:`\mathrm{round}(k P / n_{steps})` of the P pixels from
    zero upwards; pixels of equal value come together or not at all, so a count that
    falls inside a group of them is replaced by the group's two ends. The first count
    whose image is decided for the target is the answer, verified by that very forward
    pass. Zero means that the baseline alone is decided so, one that only the whole
    image is.

    The decision: where outputs have several columns (axis 1), the target's output is
    the largest, and strictly so, as a tie decides nothing. Where there is one score
    per example, the score has the sign of the image's own score and at least half of
    its size.

    Args:
        forward_func (Callable): The model, as in
            :class:`captum.attr.FeatureAblation`; put it in evaluation mode first.
        inputs (Tensor): Images of shape (B, C, H, W).
        attributions (Tensor): Maps of shape (B, C, H, W) or (B, 1, H, W), high where
            the image speaks for the target; summed over channels.
        target (int, tuple, Tensor or list, optional): As in
            :class:`captum.attr.FeatureAblation`. None takes the class the model
            decides for where outputs are of shape (B, C > 1). Default: None
        additional_forward_args (Any, optional): As in
            :class:`captum.attr.FeatureAblation`; see
            :class:`captum_margin.Shared`. Default: None
        baseline (float or Tensor, optional): What takes the place of the rest; a
            tensor broadcasts over the inputs in four axes. None is the mean colour of
            each image, channel by channel. Default: None
        n_steps (int, optional): Counts to try; fractions are exact to 1 / n_steps,
            groups of equal pixels aside. Default: 100
        perturbations_per_eval (int, optional): Images of each example in one forward
            pass; the regions do not depend on it, the number of images scored does, as
            the search ends with the pass that settles the last example. Default: 32
        show_progress (bool, optional): Whether to show progress bars. Default: False

    Returns:
        SmallestRegion: Fractions, whether verified, masks, number of images scored,
        settings.

    Raises:
        ValueError: If a shape does not fit, there is no such class, or a value is NaN
            or infinite.
        TypeError: If the inputs are not floating point, or attributions or a baseline
            are of the wrong type.
        AssertionError: If there is not one target an image, as in Captum.

    Cost: at most n_steps + 2 images scored per example without ties, 2 n_steps + 2
    with, and two more for the image itself; memory for one forward pass of
    ``perturbations_per_eval * B`` images.

    Example:
        >>> import torch
        >>> from captum_margin.metrics import smallest_region
        >>> image = torch.tensor([[[[4.0, 0.0], [3.0, 1.0]]]])
        >>> model = lambda x: torch.stack(
        ...     [x.sum(dim=(1, 2, 3)), torch.full((len(x),), 6.0)], dim=1
        ... )
        >>> region = smallest_region(model, image, image, target=0, baseline=0.0)
        >>> region.fraction.item(), region.verified.item()
        (0.5, True)
        >>> region.mask[0, 0].tolist()
        [[True, False], [True, False]]
    """
    images = check_images(inputs, forward_func)
    values = spatial_map(attributions, images)
    check_count(n_steps, "n_steps")
    check_count(perturbations_per_eval, "perturbations_per_eval")
    if baseline is None:
        rest, words = mean_colour(images), "mean colour of each image and channel"
    else:
        rest, words = resolve_baseline(baseline, images)

    output = target_outputs(forward_func, (images,), additional_forward_args)
    several = output.dim() > 1 and output.shape[1] > 1
    if several and output.dim() == 2 and target is None:
        target = output.argmax(dim=1)

    def decide_on(*args: Any) -> Tensor:
        output = forward_func(*args)
        return _margins(output) if several else output

    ranking = rank_pixels(values)
    path = RankedPath(
        images,
        ranking,
        TargetScorer(decide_on, target, additional_forward_args, softmax=False),
        insertion_baseline=rest,
        perturbations_per_eval=perturbations_per_eval,
        progress="smallest region" if show_progress else None,
    )
    full = path.full[:, None]

    def keeps(scores: Tensor) -> Tensor:
        if several:
            return scores > 0
        return (full != 0) & (scores * full.sign() >= full.abs() / 2)

    verified = keeps(full)[:, 0]
    found = torch.full_like(ranking.upper[:, 0], ranking.n_pixels)
    is_open = verified.clone()
    counts = step_counts(ranking.n_pixels, n_steps, images.device)
    candidates = torch.cat([ranking.lower[:, counts], ranking.upper[:, counts]], dim=1)
    candidates = candidates.sort(dim=1).values
    # Without ties every candidate is there twice, so this is one forward pass each.
    width = 2 * perturbations_per_eval
    for start in range(0, candidates.shape[1], width):
        if not is_open.any():
            break
        chunk = candidates[:, start : start + width]
        kept = keeps(path.scores(chunk))
        first = kept.int().argmax(dim=1, keepdim=True)
        hit = is_open & kept.any(dim=1)
        found = torch.where(hit, chunk.gather(1, first)[:, 0], found)
        is_open &= ~hit

    found = torch.where(verified, found, 0)
    fraction = found.to(full.dtype) / ranking.n_pixels
    return SmallestRegion(
        fraction=fraction.masked_fill(~verified, torch.nan),
        verified=verified,
        mask=ranking.ranks < found[:, None, None, None],
        n_forward=path.n_forward + 1,
        settings={
            "metric": "smallest region that keeps the decision",
            "n_steps": n_steps,
            "baseline": words,
            "decision": "target's output strictly the largest along axis 1"
            if several
            else "sign of the image's score and at least half of its size",
            "ranking": "attributions summed over channels, highest first",
            "ties": "pixels of equal value come together or not at all",
            "dtype": str(images.dtype),
            "image_size": list(images.shape[1:]),
            "versions": versions("captum", "torch"),
        },
    )


def _margins(output: Tensor) -> Tensor:
    """Each output minus the largest of the others along axis 1."""
    top = output.topk(2, dim=1).values
    first, second = top[:, :1], top[:, 1:]
    return output - torch.where(output == first, second, first)
