"""Single regions as nodes: a node takes its region away and keeps the rest."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["SingleRegions"]


class SingleRegions:
    """The regions of one example in one or several partitions, as nodes.

    A node's mask keeps everything but its region.

    Args:
        partitions (tuple[Tensor, ...]): One tensor an input, (S, *input.shape[1:]) or
            broadcastable to that: the region of every element in S partitions, int64,
            regions 0 to R - 1 through all inputs and partitions.
        n_regions (int): R.
        dtype (torch.dtype): Floating dtype of masks and maps.

    Attributes:
        sizes (Tensor): Elements in each region, (R,).
    """

    def __init__(
        self, partitions: tuple[Tensor, ...], n_regions: int, dtype: torch.dtype
    ) -> None:
        self.partitions = partitions
        flat = torch.cat([partition.reshape(-1) for partition in partitions])
        self.sizes = flat.bincount(minlength=n_regions).to(dtype)
        # The partition that holds a region, the same for all inputs.
        self.scale = torch.zeros(n_regions, dtype=torch.int64, device=flat.device)
        for partition in partitions:
            scales = torch.arange(len(partition), device=flat.device)
            scales = scales.view(-1, *[1] * (partition.dim() - 1))
            self.scale[partition] = scales.expand_as(partition)

    def __len__(self) -> int:
        """R."""
        return len(self.sizes)

    def masks(self, nodes: Tensor) -> tuple[Tensor, ...]:
        """Ones outside the region of each node, (n, ...) an input."""
        return tuple(
            (
                partition[self.scale[nodes]]
                != nodes.view(-1, *[1] * (partition.dim() - 1))
            ).to(self.sizes.dtype)
            for partition in self.partitions
        )

    def paint(self, values: Tensor) -> tuple[Tensor, ...]:
        """Mean of the values (R,) over the regions of an element, weighted 1/size."""
        weights = 1 / self.sizes
        painted = []
        for partition in self.partitions:
            total = (weights * values)[partition].sum(dim=0)
            painted.append(total / weights[partition].sum(dim=0))
        return tuple(painted)
