"""Insertion and deletion curves, and the areas under them.

The score of the target while the most important pixels are inserted into a baseline,
and while they are removed from the image: Petsiuk, Das, Saenko, "RISE: Randomized
Input Sampling for Explanation of Black-box Models", BMVC 2018, section 3.4.
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
    blurred,
    check_count,
    check_images,
    mean_colour,
    resolve_baseline,
    spatial_map,
)
from captum_margin.metrics._ranked_masks import (
    TIE_RULE,
    RankedPath,
    rank_pixels,
    step_counts,
)

__all__ = ["InsertionDeletion", "insertion_deletion"]


@dataclass(frozen=True, eq=False)
class InsertionDeletion:
    """Curves and areas of :func:`insertion_deletion`.

    Attributes:
        fractions (Tensor): Share of the pixels inserted or removed, 0 to 1,
            (n_steps + 1,).
        insertion (Tensor): Scores while inserting, (B, n_steps + 1); the last is the
            image's own score.
        deletion (Tensor): Scores while removing, (B, n_steps + 1); the first is the
            image's own score.
        insertion_auc (Tensor): Mean height of the insertion curve, (B,). Higher is
            better.
        deletion_auc (Tensor): Mean height of the deletion curve, (B,). Lower is
            better.
        n_forward (int): Images scored per example, both curves together.
        settings (dict): All that the numbers depend on; plain values, fit for JSON.
    """

    fractions: Tensor
    insertion: Tensor
    deletion: Tensor
    insertion_auc: Tensor
    deletion_auc: Tensor
    n_forward: int
    settings: dict[str, Any]


@torch.no_grad()
def insertion_deletion(
    forward_func: Callable[..., Tensor],
    inputs: Tensor | tuple[Tensor, ...],
    attributions: Tensor | tuple[Tensor, ...],
    target: TargetType = None,
    additional_forward_args: object = None,
    *,
    insertion_baseline: float | Tensor | None = None,
    deletion_baseline: float | Tensor | None = None,
    n_steps: int = 28,
    softmax: bool = True,
    perturbations_per_eval: int = 32,
    show_progress: bool = False,
) -> InsertionDeletion:
    r"""Scores images while their most important pixels are inserted or removed.

    Petsiuk, Das and Saenko, "RISE", BMVC 2018, section 3.4: a good map has a high
    insertion and a low deletion curve.

    All channels of a location go together; a map with channels is summed over them,
    as :func:`captum.attr.visualization.visualize_image_attr` does. With P pixels,
    step k inserts (or removes) the :math:`n_k = \mathrm{round}(k P / n_{steps})`
    pixels of the highest value. The area is the trapezoid rule over the fractions
    :math:`n_k / P`, hence a mean score: in [0, 1] for probabilities, and comparable
    for all image sizes and numbers of steps.

    Pixels of equal value have no order: where :math:`n_k` falls inside a group of
    them, the score is interpolated linearly, in the number of pixels, between the
    group's two ends. A constant map so gives the straight line from the image's
    score to the baseline's, and a map of superpixels or a sparse one is never scored
    by the order in which its pixels happen to be stored.

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
        insertion_baseline (float or Tensor, optional): What pixels are inserted into;
            a tensor broadcasts over the inputs in four axes. None is the image under
            :func:`gaussian_blur` (sigma 5, 11 x 11, as RISE). Default: None
        deletion_baseline (float or Tensor, optional): What pixels are replaced by.
            None is the mean colour of each image, channel by channel. Default: None
        n_steps (int, optional): Steps of each curve. Default: 28 (RISE's at 224 x 224)
        softmax (bool, optional): Whether outputs (B, C > 1) are logits, to be turned
            into probabilities; see :class:`captum_margin.attr.MarginSaliency` for
            what are none. Default: True
        perturbations_per_eval (int, optional): Images of each example in one forward
            pass; the results do not depend on it. Default: 32
        show_progress (bool, optional): Whether to show a progress bar. Default: False

    Returns:
        InsertionDeletion: Fractions, curves, areas, number of images scored,
        settings. Scores are float32 at least, on the device of the inputs.

    Raises:
        ValueError: If a shape does not fit, there is no such class, or a value is NaN
            or infinite.
        TypeError: If the inputs are not floating point, or attributions or a baseline
            are of the wrong type.
        AssertionError: If a target is missing, or not one an image, as in Captum.

    Cost: at most 2 n_steps + 1 images scored per example if no two pixels tie, at
    most 4 n_steps + 1 with ties, fewer if groups span several steps; equal images
    are scored once. O(P log P) per example besides, and memory for one forward pass
    of ``perturbations_per_eval * B`` images.

    Example:
        >>> import torch
        >>> from captum_margin.metrics import insertion_deletion
        >>> image = torch.zeros(1, 1, 2, 2)
        >>> image[0, 0, 0, 0] = 4.0  # the one pixel that counts
        >>> model = lambda x: x.sum(dim=(1, 2, 3))
        >>> curves = insertion_deletion(
        ...     model, image, attributions=image, n_steps=4,
        ...     insertion_baseline=0.0, deletion_baseline=0.0,
        ... )
        >>> curves.insertion.tolist(), curves.deletion.tolist()
        ([[0.0, 4.0, 4.0, 4.0, 4.0]], [[4.0, 0.0, 0.0, 0.0, 0.0]])
        >>> curves.insertion_auc.item(), curves.deletion_auc.item()
        (3.5, 0.5)
    """
    images = check_images(inputs, forward_func)
    values = spatial_map(attributions, images)
    check_count(n_steps, "n_steps")
    check_count(perturbations_per_eval, "perturbations_per_eval")
    if insertion_baseline is None:
        start = blurred(images)
        start_words = "Gaussian blur, sigma 5 px, kernel 11x11, edges repeated"
    else:
        start, start_words = resolve_baseline(
            insertion_baseline, images, "insertion_baseline"
        )
    if deletion_baseline is None:
        end, end_words = mean_colour(images), "mean colour of each image and channel"
    else:
        end, end_words = resolve_baseline(
            deletion_baseline, images, "deletion_baseline"
        )

    score = TargetScorer(forward_func, target, additional_forward_args, softmax)
    ranking = rank_pixels(values)
    path = RankedPath(
        images,
        ranking,
        score,
        insertion_baseline=start,
        deletion_baseline=end,
        perturbations_per_eval=perturbations_per_eval,
        progress="insertion and deletion" if show_progress else None,
    )
    counts = step_counts(ranking.n_pixels, n_steps, images.device)
    insertion, deletion = path.interpolated(counts, sides=(False, True))
    score.watch.warn()
    fractions = counts.to(insertion.dtype) / ranking.n_pixels
    return InsertionDeletion(
        fractions=fractions,
        insertion=insertion,
        deletion=deletion,
        insertion_auc=torch.trapezoid(insertion, fractions, dim=1),
        deletion_auc=torch.trapezoid(deletion, fractions, dim=1),
        n_forward=path.n_forward,
        settings={
            "metric": "insertion and deletion",
            "n_steps": n_steps,
            "image_size": list(images.shape[1:]),
            "insertion_baseline": start_words,
            "deletion_baseline": end_words,
            "ranking": "attributions summed over channels, highest first",
            "ties": TIE_RULE,
            "softmax": softmax,
            "area": "trapezoid rule over the fraction of pixels",
            "dtype": str(images.dtype),
            "versions": versions("captum", "torch"),
        },
    )
