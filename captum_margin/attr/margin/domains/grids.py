"""Smooth random fields in space: values on a coarse grid, shifted, interpolated."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from captum_margin.attr.margin.domains.axes import along_axes

__all__ = ["ShiftedGrids"]


class ShiftedGrids:
    """N grids of one cell size, each shifted by a random part of a cell.

    Between the grid points the values are interpolated linearly along each axis. That
    is a product of small matrices, so a field costs next to nothing at any resolution.

    Args:
        n_grids (int): N.
        size (tuple[int, ...]): Pixels along each axis of space: L; H and W; D, H and W.
        cell (tuple[float, ...]): Distance of the grid points along each, pixels.
        generator (torch.Generator): Draws the shifts.
        device (torch.device): Where the fields are needed.
        dtype (torch.dtype): Their floating dtype.

    Attributes:
        shape (tuple[int, ...]): Grid points along each axis.
    """

    def __init__(
        self,
        n_grids: int,
        size: tuple[int, ...],
        cell: tuple[float, ...],
        generator: torch.Generator,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.size = size
        self.cell = cell
        self.shape = tuple(
            math.ceil(side / of_cell) + 1
            for side, of_cell in zip(size, cell, strict=True)
        )
        # Drawn on the CPU in float32, whatever the device: one seed, one answer.
        shifts = torch.rand(n_grids, len(size), generator=generator)
        self.shifts = shifts.to(device, dtype)

    def sample(self, values: Tensor, grids: Tensor, samples: tuple[int, ...]) -> Tensor:
        """The fields of some grids at the centres of ``samples`` equal patches.

        Args:
            values (Tensor): Values at the points of those grids, (n, *shape).
            grids (Tensor): Which grids, (n,).
            samples (tuple[int, ...]): Patches along each axis; the size itself gives
                the pixels.

        Returns:
            Tensor: Shape (n, *samples).
        """
        weights = [self._weights(grids, axis, n) for axis, n in enumerate(samples)]
        return along_axes(values, weights)

    def _weights(self, grids: Tensor, axis: int, samples: int) -> Tensor:
        """Weight of each grid point at each sample of an axis, (n, samples, points)."""
        shifts = self.shifts[grids, axis]
        places = (torch.arange(samples, device=shifts.device) + 0.5).to(shifts)
        places = places * (self.size[axis] / samples / self.cell[axis])
        # Outside the outermost points their values go on.
        places = (places - 0.5 + shifts[:, None]).clamp(0, self.shape[axis] - 1)
        points = torch.arange(self.shape[axis], device=shifts.device).to(shifts)
        return (1 - (places[:, :, None] - points).abs()).clamp(min=0)
