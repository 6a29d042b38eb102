"""All metrics of a map in one call."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from captum_margin._model.captum import TargetType
from captum_margin.metrics._average_drop import AverageDrop, average_drop
from captum_margin.metrics._insertion_deletion import (
    InsertionDeletion,
    insertion_deletion,
)
from captum_margin.metrics._smallest_region import SmallestRegion, smallest_region

__all__ = ["Evaluation", "evaluate"]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What :func:`evaluate` measured.

    Attributes:
        insertion_deletion (InsertionDeletion): Curves and areas.
        average_drop (AverageDrop, optional): Drops and increases, of the soft mask;
            None where an image's own score is negative, so that a share of it means
            nothing.
        smallest_region (SmallestRegion): Regions that keep the decision.
    """

    insertion_deletion: InsertionDeletion
    average_drop: AverageDrop | None
    smallest_region: SmallestRegion

    @property
    def numbers(self) -> dict[str, Tensor]:
        """One number an example, (B,), by name.

        ``insertion_auc`` (higher is better), ``deletion_auc``, ``drop``,
        ``smallest_region`` (lower is better), ``increase`` (1 or 0), and ``mask_mean``,
        the share of the image that ``drop`` and ``increase`` kept: read these beside
        it. NaN where there is none.
        """
        insertion = self.insertion_deletion.insertion_auc
        nothing = torch.full_like(insertion, torch.nan)
        drop = self.average_drop
        return {
            "insertion_auc": insertion,
            "deletion_auc": self.insertion_deletion.deletion_auc,
            "drop": nothing if drop is None else drop.drop,
            "increase": nothing if drop is None else drop.increase.to(insertion.dtype),
            "mask_mean": nothing if drop is None else drop.mask_mean,
            "smallest_region": self.smallest_region.fraction,
        }

    @property
    def n_forward(self) -> int:
        """Images scored per example."""
        drop = self.average_drop
        return (
            self.insertion_deletion.n_forward
            + self.smallest_region.n_forward
            + (0 if drop is None else drop.n_forward)
        )

    def __repr__(self) -> str:
        """The means of the numbers in one line."""
        means = ", ".join(
            f"{name}={float(values.double().mean()):.3f}"
            for name, values in self.numbers.items()
        )
        return f"Evaluation({means})"

    def curves_of(self, index: int) -> InsertionDeletion:
        """The curves of one example, as ``visualize_comparison`` draws them.

        Args:
            index (int): Which example, below B.

        Returns:
            InsertionDeletion: With B = 1.

        Raises:
            IndexError: If there is no such example.
        """
        row = torch.arange(len(self.insertion_deletion.insertion))[index][None]
        names = ("insertion", "deletion", "insertion_auc", "deletion_auc")
        curves = self.insertion_deletion
        return replace(
            curves,
            **{
                name: getattr(curves, name)[row.to(curves.insertion.device)]
                for name in names
            },
        )


def evaluate(
    forward_func: Callable[..., Tensor],
    inputs: Tensor | tuple[Tensor, ...],
    attributions: Tensor | tuple[Tensor, ...],
    target: TargetType = None,
    additional_forward_args: object = None,
    *,
    baseline: float | Tensor | None = None,
    softmax: bool = True,
    perturbations_per_eval: int = 32,
    show_progress: bool = False,
) -> Evaluation:
    """Measures maps with all metrics of this package.

    That is :func:`insertion_deletion`, :func:`average_drop` with the soft mask, and
    :func:`smallest_region`, each with its own defaults.

    Args:
        forward_func (Callable): The model, as in
            :class:`captum.attr.FeatureAblation`; put it in evaluation mode first.
        inputs (Tensor): Images of shape (B, C, H, W).
        attributions (Tensor): Maps of shape (B, C, H, W) or (B, 1, H, W).
        target (int, tuple, Tensor or list, optional): As in
            :class:`captum.attr.FeatureAblation`. Default: None
        additional_forward_args (Any, optional): As there; what of it goes along with
            the examples is said at :class:`captum_margin.Shared`. Default: None
        baseline (float or Tensor, optional): What takes the place of pixels, in all
            metrics. Default: None, each metric's own
        softmax (bool, optional): Whether outputs (B, C > 1) are logits. Default: True
        perturbations_per_eval (int, optional): Images of each example in one forward
            pass. Default: 32
        show_progress (bool, optional): Whether to show progress bars. Default: False

    Returns:
        Evaluation: The result of each metric, and their numbers by name.

    Raises:
        ValueError: If a shape does not fit, there is no such class, or a value is NaN
            or infinite.
        TypeError: If the inputs are not floating point, or attributions or a baseline
            are of the wrong type.
        AssertionError: If a target is missing, or not one an image, as in Captum.

    Cost: at most 163 images scored per example without ties, 319 with; memory for one
    forward pass of ``perturbations_per_eval * B`` images.

    Example:
        >>> import torch
        >>> from captum_margin.metrics import evaluate
        >>> image = torch.tensor([[[[4.0, 0.0], [3.0, 1.0]]]])
        >>> model = lambda x: x.sum(dim=(1, 2, 3))
        >>> found = evaluate(model, image, attributions=image, baseline=0.0)
        >>> found.numbers["insertion_auc"].item(), found.numbers["drop"].item()
        (5.75, 0.1875)
    """
    given = (forward_func, inputs, attributions, target, additional_forward_args)
    curves = insertion_deletion(
        *given,
        insertion_baseline=baseline,
        deletion_baseline=baseline,
        softmax=softmax,
        perturbations_per_eval=perturbations_per_eval,
        show_progress=show_progress,
    )
    drop = None
    if curves.insertion[:, -1].min() >= 0:  # the images' own scores
        with warnings.catch_warnings():
            # The curves have told it already.
            warnings.filterwarnings("ignore", "the model's outputs", UserWarning)
            drop = average_drop(
                *given, baseline=0.0 if baseline is None else baseline, softmax=softmax
            )
    region = smallest_region(
        *given,
        baseline=baseline,
        perturbations_per_eval=perturbations_per_eval,
        show_progress=show_progress,
    )
    return Evaluation(curves, drop, region)
