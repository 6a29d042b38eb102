"""Unions of regions: a random half of the superpixels, or of the user's features."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["RegionUnions"]


class RegionUnions:
    """Up to N unions of the regions of one example.

    A region is present in half of the unions. Where the regions are so few that all
    their unions are no more than N, all are taken and none is drawn.

    Args:
        partition (tuple[Tensor, ...]): The region of every element, one tensor an
            input without the batch axis (or broadcastable to that), int64, regions
            0 to U - 1 through all inputs.
        n_units (int): U.
        n_unions (int): N.
        generator (torch.Generator): Draws the unions.
        dtype (torch.dtype): Floating dtype of the masks.

    Attributes:
        presence (Tensor): Whether a region is in a union, (N, U).
        sizes (Tensor): Number of regions in each union, (N,); whole numbers, so that
            ties are ties on every device and in every dtype.
        kinds (Tensor): Zeros, (N,): all are drawn alike.
        exhaustive (bool): Whether these are all unions.
    """

    def __init__(
        self,
        partition: tuple[Tensor, ...],
        n_units: int,
        n_unions: int,
        generator: torch.Generator,
        dtype: torch.dtype,
    ) -> None:
        self.partition = partition
        self.exhaustive = 2**n_units <= n_unions
        if self.exhaustive:
            codes = torch.arange(2**n_units)[:, None]
            kept = codes.bitwise_right_shift(torch.arange(n_units)) % 2 == 1
        else:
            # Drawn on the CPU, whatever the device: one seed, one answer.
            kept = torch.rand(n_unions, n_units, generator=generator) < 0.5
        self.presence = kept.to(partition[0].device, dtype)
        self.sizes = self.presence.sum(dim=1)
        self.kinds = torch.zeros_like(self.sizes, dtype=torch.int64)

    def __len__(self) -> int:
        """N."""
        return len(self.presence)

    def masks(self, nodes: Tensor) -> tuple[Tensor, ...]:
        """What some unions keep, one tensor (n, ...) an input."""
        kept = self.presence[nodes]
        return tuple(kept[:, units] for units in self.partition)

    def paint(self, values: Tensor) -> tuple[Tensor, ...]:
        """The maps in which every element has the value of its region, (U,)."""
        return tuple(values[units] for units in self.partition)
