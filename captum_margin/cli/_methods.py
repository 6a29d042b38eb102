"""The attribution methods that ``--method`` can name."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Explanation:
    """A map and what it cost.

    Attributes:
        attribution (Tensor): Map of the image's shape.
        n_forward (int): Forward passes of one image through the model.
        settings (dict): The options used; plain values, fit for JSON.
    """

    attribution: Tensor
    n_forward: int
    settings: dict[str, Any]


def _margin(
    model: nn.Module, image: Tensor, target: int, n_evaluations: int, seed: int
) -> Explanation:
    from captum_margin.attr import MarginSaliency

    attribution, details = MarginSaliency(model).attribute(
        image,
        target=target,
        n_evaluations=n_evaluations,
        seed=seed,
        show_progress=sys.stderr.isatty(),
        return_details=True,
    )
    return Explanation(attribution, details.n_forward, details.settings)


METHODS: dict[str, Callable[[nn.Module, Tensor, int, int, int], Explanation]] = {
    "margin": _margin,
}
"""By name: a function of model, image (1, C, H, W), target, n_evaluations and seed."""

TITLES = {"margin": "MARGIN saliency"}
"""The name of each method in pictures."""
