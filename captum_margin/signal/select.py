"""Step 5, the selection: from one score per node to a ranking or a choice."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["rank", "top"]


def rank(scores: Tensor, descending: bool = True) -> Tensor:
    """Node indices in the order of their scores; equal scores by the lower index.

    Args:
        scores (Tensor): Shape (N,), no NaN.
        descending (bool, optional): Highest first. Default: True.

    Returns:
        Tensor: A permutation of 0 .. N-1, shape (N,), int64.

    Raises:
        ValueError: If ``scores`` has another shape or holds NaN.

    Cost: O(N log N).

    >>> rank(torch.tensor([0.5, 2.0, 0.5])).tolist()
    [1, 0, 2]
    """
    if scores.dim() != 1:
        raise ValueError(
            f"expected scores of shape (N,) (got {tuple(scores.shape)}); reduce the "
            "channels to one score per node first, for example with influence()"
        )
    if bool(torch.isnan(scores).any()):
        raise ValueError("expected scores without NaN (got NaN)")
    return scores.sort(descending=descending, stable=True).indices


def top(scores: Tensor, n: int) -> Tensor:
    """The n nodes of the highest scores, best first; all nodes if there are fewer.

    Args:
        scores (Tensor): Shape (N,), no NaN.
        n (int): How many, at least 0.

    Returns:
        Tensor: Node indices of shape (min(n, N),), int64; ties as in :func:`rank`.

    Raises:
        ValueError: As :func:`rank`, or if ``n`` is negative.

    >>> top(torch.tensor([0.5, 2.0, 0.5]), 2).tolist()
    [1, 0]
    """
    if n < 0:
        raise ValueError(f"expected n >= 0 nodes (got {n})")
    return rank(scores)[:n]
