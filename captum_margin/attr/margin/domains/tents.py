"""Unions of overlapping tents: random soft parts of an image, small and large.

A regular grid of tents (linear bumps along each axis, one cell wide at half height)
covers the image, the series or the volume and sums to one everywhere. A union keeps
each tent with a probability of its own, and the grid is shifted from union to union, so
that no edge falls twice on the same place. With one probability for all unions these
are the masks of Petsiuk, Das, Saenko, "RISE: Randomized Input Sampling for Explanation
of Black-box Models", BMVC 2018, section 3.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from captum_margin.attr.margin.domains.axes import cell_sides, coarse_shape
from captum_margin.attr.margin.domains.grids import ShiftedGrids

__all__ = ["TentUnions"]

#: Unions take these in turn: small and large ones then have neighbours of their size.
KEEP_PROBABILITIES = (0.2, 0.4, 0.6, 0.8)


class TentUnions:
    """N random unions of tents on an image.

    Args:
        n_unions (int): N.
        size (tuple[int, ...]): Pixels along each axis of space.
        generator (torch.Generator): Draws the unions.
        device (torch.device): Where the masks are needed.
        dtype (torch.dtype): Their floating dtype.

    Attributes:
        presence (Tensor): How much of each patch each union keeps, (N, P).
        sizes (Tensor): Share of the image that each union keeps, (N,).
        kinds (Tensor): Which of the probabilities each union was drawn with, (N,).
    """

    def __init__(
        self,
        n_unions: int,
        size: tuple[int, ...],
        generator: torch.Generator,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.size = size
        self.grids = ShiftedGrids(
            n_unions, size, cell_sides(size), generator, device, dtype
        )
        kinds = torch.arange(n_unions) % len(KEEP_PROBABILITIES)
        keep = torch.tensor(KEEP_PROBABILITIES)[kinds].view(-1, *[1] * len(size))
        drawn = torch.rand(n_unions, *self.grids.shape, generator=generator)
        self.kept = (drawn < keep).to(device, dtype)
        everything = torch.arange(n_unions, device=device)
        coarse = self.grids.sample(self.kept, everything, coarse_shape(size))
        self.presence = coarse.flatten(1)
        self.sizes = self.presence.mean(dim=1)
        self.kinds = kinds.to(device)

    def __len__(self) -> int:
        """N."""
        return len(self.kept)

    def masks(self, nodes: Tensor) -> tuple[Tensor, ...]:
        """How much of each pixel some unions keep, (n, 1, *size)."""
        return (self.grids.sample(self.kept[nodes], nodes, self.size)[:, None],)
