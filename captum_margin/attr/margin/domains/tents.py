"""Unions of overlapping tents: random soft parts of an image, small and large.

A regular grid of tents (bilinear bumps, one cell wide at half height) covers the image
and sums to one everywhere. A union keeps each tent with a probability of its own, and
the grid is shifted from union to union, so that no edge falls twice on the same place.
With one probability for all unions these are the masks of Petsiuk, Das, Saenko,
"RISE: Randomized Input Sampling for Explanation", BMVC 2018, section 3.2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_margin.attr.margin.domains.grids import ShiftedGrids

__all__ = ["CELLS", "TentUnions", "coarse_shape", "enlarge"]

#: Cells along the shorter side of the image.
CELLS = 7
#: Unions take these in turn: small and large ones then have neighbours of their size.
KEEP_PROBABILITIES = (0.2, 0.4, 0.6, 0.8)
_PATCHES_A_CELL = 8


def coarse_shape(size: tuple[int, int]) -> tuple[int, int]:
    """Patches along H and W on which evidence is computed: about square, 1/8 cell."""
    patches = CELLS * _PATCHES_A_CELL
    return tuple(min(side, round(side / min(size) * patches)) for side in size)  # type: ignore[return-value]


def enlarge(coarse: Tensor, size: tuple[int, int]) -> Tensor:
    """Fields on patches (n, h, w) to fields on pixels (n, H, W)."""
    return F.interpolate(coarse[:, None], size=size, mode="bilinear")[:, 0]


class TentUnions:
    """N random unions of tents on an image.

    Args:
        n_unions (int): N.
        size (tuple[int, int]): H and W, pixels.
        generator (torch.Generator): Draws the unions.
        device (torch.device): Where the masks are needed.
        dtype (torch.dtype): Their floating dtype.

    Attributes:
        presence (Tensor): How much of each patch each union keeps, (N, h * w).
        sizes (Tensor): Share of the image that each union keeps, (N,).
        kinds (Tensor): Which of the probabilities each union was drawn with, (N,).
    """

    def __init__(
        self,
        n_unions: int,
        size: tuple[int, int],
        generator: torch.Generator,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.size = size
        cell = min(size) / CELLS
        self.grids = ShiftedGrids(n_unions, size, cell, generator, device, dtype)
        kinds = torch.arange(n_unions) % len(KEEP_PROBABILITIES)
        keep = torch.tensor(KEEP_PROBABILITIES)[kinds, None, None]
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
        """How much of each pixel some unions keep, (n, 1, H, W)."""
        return (self.grids.sample(self.kept[nodes], nodes, self.size)[:, None],)
