"""Scores of any unit, brought to about 1 for what is computed of them."""

from __future__ import annotations

import math

from torch import Tensor

__all__ = ["power_of_two"]


def power_of_two(values: Tensor) -> float:
    """What to divide values by so that the largest is about 1; 1 where all are 0.

    A power of two, which rounds nothing: in the maps' dtype, sums, squares and shares
    of scores of any unit must neither vanish nor overflow.
    """
    largest = float(values.abs().max())
    return 2.0 ** (math.frexp(largest)[1] - 1) if largest > 0 else 1.0
