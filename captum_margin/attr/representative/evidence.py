r"""How far a polytope stands for its class, and what its map rests on besides.

A polytope that holds no reference predicted alike says where references lie, and
nothing of what speaks for the class: its boundaries are between other classes. With n
references predicted alike it stands for the class to
:math:`\lambda = \min(1, n / 40)`, and the channel weights of its map are

.. math:: (1 - \lambda) a_k + \lambda \, \mathrm{mean}_h \, \alpha_{hk},

where :math:`a_k` is the mean over positions of the gradient of the class's own score at
the explained image: Grad-CAM's weight.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "OwnEvidence",
    "is_of_few",
    "representativeness",
    "warn_of_few",
    "warn_of_own_boundary",
]

# References predicted alike from which a polytope stands for its class alone. Set by a
# trial on tuning photographs, 20 crops of each of ten ImageNet classes: with it maps
# were as faithful as Grad-CAM's and agreed between draws of the boundaries.
_WHOLE = 40
# Below this it is not called representative.
_FEW = 5


class OwnEvidence(NamedTuple):
    """Channel weights beside those of the boundaries.

    Args:
        alpha (Tensor): Of each example's own score, (B, K).
        representativeness (Tensor): The share of the boundaries in each map, from 0
            to 1, (B,).
    """

    alpha: Tensor
    representativeness: Tensor


def representativeness(n_alike: Tensor, own_boundary: Tensor) -> Tensor:
    """How far polytopes stand for their classes, from 0 to 1, float64 (B,).

    Args:
        n_alike (Tensor): Covered references that are predicted alike, (B,).
        own_boundary (Tensor): Whether it has no sampled boundary, bool (B,): then
            nothing is shared, however much is covered.
    """
    share = (n_alike.to(torch.float64) / _WHOLE).clamp(max=1)
    return share.masked_fill(own_boundary, 0)


def is_of_few(representativeness: Tensor) -> Tensor:
    """Whether polytopes cover too few references to be representative, bool (B,)."""
    return representativeness < _FEW / _WHOLE


def warn_of_few(n_examples: int, stacklevel: int, without_images: bool = False) -> None:
    """Says that some interpretations are not representative."""
    if n_examples == 0:
        return
    if without_images:
        maps = "under their boundaries alone, for a loaded state holds no images"
    else:
        maps = "all but Grad-CAM's (unless paper=True)"
    warnings.warn(
        f"fewer than {_FEW} references that are predicted alike are covered by "
        f"{n_examples} of the interpretations, too few to be representative; of these "
        f"the maps are {maps}; give references that the model predicts as these "
        "classes, 20 of each",
        stacklevel=stacklevel + 1,
    )


def warn_of_own_boundary(n_examples: int, stacklevel: int) -> None:
    """Says that some inputs have no polytope."""
    if n_examples == 0:
        return
    warnings.warn(
        f"no sampled boundary separates {n_examples} of the inputs from the references "
        "predicted otherwise: they have only their own boundary, which no other image "
        "shares, and their maps are Grad-CAM's (unless paper=True); give references "
        "of several predicted classes, or more n_boundaries",
        stacklevel=stacklevel + 1,
    )
