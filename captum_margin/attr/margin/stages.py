"""What explaining one example leaves behind."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from captum_margin.attr.margin.masking import Domain

__all__ = ["ExampleMaps", "Stage"]


class Stage(NamedTuple):
    """One round of questions to the model.

    Args:
        domain (Domain): The N nodes; ``domain.masks(nodes)`` shows what they keep.
        scores (Tensor): The model's score of each masked copy, (N,).
        influence (Tensor): Energy of the filtered signal at each node, (N,).
    """

    domain: Domain
    scores: Tensor
    influence: Tensor


class ExampleMaps(NamedTuple):
    """The map of one example and how it came about.

    Args:
        maps (tuple[Tensor, ...]): One map an input, broadcastable to its shape without
            the batch axis.
        scores (Tensor): The model's score of every masked copy, (N,).
        stages (tuple[Stage, ...]): The rounds, in order. None where they are large and
            nobody asked for them.
    """

    maps: tuple[Tensor, ...]
    scores: Tensor
    stages: tuple[Stage, ...]
