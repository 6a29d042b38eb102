"""Greedy search for the order of regions, in the manner of SMDL and VPS.

Chen et al., Less is More (ICLR 2024), and Interpreting Object-level Foundation Models
via Visual Precision Search (CVPR 2025), written anew: a set of regions is worth the
score of the picture that shows it alone (insertion) less the score of the picture
without it (deletion). Regions join the set by their gain. As in the authors' fast form
each round works on both ends: the best goes to the front, the worst to the back, and
is not tried again.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tests.benchmarks.saliency.methods import Photograph


def region_search(photo: Photograph) -> Tensor:
    """The coarsest superpixels, first found highest; about R^2 / 2 passes."""
    names, regions = photo.segments[0].unique(return_inverse=True)

    def worth(kept: Tensor) -> Tensor:
        both = torch.cat([kept, 1 - kept])
        shown, taken = photo.scores(both, lambda rows: rows[:, regions]).chunk(2)
        return shown - taken

    order = greedy_order(worth, len(names))
    heights = torch.empty(len(names))
    heights[order] = torch.arange(len(names), 0, -1).float()
    return heights[regions]


def greedy_order(worth: Callable[[Tensor], Tensor], n: int) -> Tensor:
    """Numbers of n regions, the most valuable first.

    Args:
        worth: Of sets (k, n) of 0 and 1, (k,).
        n: How many regions.
    """
    front: list[int] = []
    back: list[int] = []
    pending = list(range(n))
    while pending:
        sets = torch.zeros(len(pending), n)
        sets[:, front] = 1
        sets[range(len(pending)), pending] = 1
        ranked = worth(sets).argsort(descending=True, stable=True).tolist()
        front.append(pending[ranked[0]])
        if len(ranked) > 1:
            back.append(pending[ranked[-1]])
        pending = [pending[i] for i in sorted(ranked[1:-1])]
    return torch.tensor(front + back[::-1])
