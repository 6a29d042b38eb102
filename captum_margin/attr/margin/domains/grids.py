"""Smooth random fields on an image: values on a coarse grid, shifted, interpolated."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["ShiftedGrids"]


class ShiftedGrids:
    """N grids of one cell size, each shifted by a random part of a cell.

    Between the grid points the values are interpolated bilinearly. That is a product
    of three small matrices, so a field costs next to nothing at any resolution.

    Args:
        n_grids (int): N.
        size (tuple[int, int]): H and W, pixels.
        cell (float): Distance of the grid points, pixels.
        generator (torch.Generator): Draws the shifts.
        device (torch.device): Where the fields are needed.
        dtype (torch.dtype): Their floating dtype.

    Attributes:
        shape (tuple[int, int]): Grid points along H and W.
    """

    def __init__(
        self,
        n_grids: int,
        size: tuple[int, int],
        cell: float,
        generator: torch.Generator,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.size = size
        self.cell = cell
        self.shape = (math.ceil(size[0] / cell) + 1, math.ceil(size[1] / cell) + 1)
        # Drawn on the CPU in float32, whatever the device: one seed, one answer.
        self.shifts = torch.rand(n_grids, 2, generator=generator).to(device, dtype)

    def sample(self, values: Tensor, grids: Tensor, samples: tuple[int, int]) -> Tensor:
        """The fields of some grids at the centres of ``samples`` equal patches.

        Args:
            values (Tensor): Values at the points of those grids, (n, *shape).
            grids (Tensor): Which grids, (n,).
            samples (tuple[int, int]): Patches along H and W; H and W give the pixels.

        Returns:
            Tensor: Shape (n, *samples).
        """
        rows, columns = (self._weights(grids, axis, samples[axis]) for axis in (0, 1))
        return rows @ values @ columns.transpose(1, 2)

    def _weights(self, grids: Tensor, axis: int, samples: int) -> Tensor:
        """Weight of each grid point at each sample of an axis, (n, samples, points)."""
        shifts = self.shifts[grids, axis]
        places = (torch.arange(samples, device=shifts.device) + 0.5).to(shifts)
        places = places * (self.size[axis] / samples / self.cell)
        # Outside the outermost points their values go on.
        places = (places - 0.5 + shifts[:, None]).clamp(0, self.shape[axis] - 1)
        points = torch.arange(self.shape[axis], device=shifts.device).to(shifts)
        return (1 - (places[:, :, None] - points).abs()).clamp(min=0)
