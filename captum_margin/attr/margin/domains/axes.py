"""Space of any dimension: series, images and volumes, axis by axis."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "CELLS",
    "PATCHES_A_CELL",
    "along_axes",
    "cell_sides",
    "coarse_shape",
    "enlarge",
]

#: Cells along each axis, by dimension. Along the shorter side of an image, whose cells
#: are square; along every side of a volume, whose axes have units of their own (time,
#: slices). All have some 50 cells: as many evaluations are enough for them.
CELLS = {1: 24, 2: 7, 3: 4}
#: Patches along a cell: about as many values in all in each dimension.
PATCHES_A_CELL = {1: 8, 2: 8, 3: 4}
_INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}


def cell_sides(size: tuple[int, ...], n_cells: float = 1.0) -> tuple[float, ...]:
    """Sides of a cell, or of so many, along each axis, pixels."""
    in_all = CELLS[len(size)]
    if len(size) == 2:
        return (n_cells * min(size) / in_all,) * 2
    return tuple(n_cells * max(1.0, side / in_all) for side in size)


def coarse_shape(size: tuple[int, ...]) -> tuple[int, ...]:
    """Patches along each axis on which evidence is computed."""
    patches = PATCHES_A_CELL[len(size)]
    if len(size) == 2:  # about square
        patches *= CELLS[2]
        return tuple(min(side, round(side / min(size) * patches)) for side in size)
    return tuple(min(side, patches * CELLS[len(size)]) for side in size)


def enlarge(coarse: Tensor, size: tuple[int, ...]) -> Tensor:
    """Fields on patches (n, *coarse) to fields on pixels (n, *size)."""
    mode = _INTERPOLATION[len(size)]
    return F.interpolate(coarse[:, None], size=size, mode=mode)[:, 0]


def along_axes(values: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Multiplies each axis of values by a matrix of its own.

    Args:
        values (Tensor): Shape (n, p_1, ..., p_d).
        matrices (sequence of Tensor): For each axis (s, p), or (n, s, p).

    Returns:
        Tensor: Shape (n, s_1, ..., s_d).
    """
    for axis, matrix in enumerate(matrices):
        before, after = values.shape[1 : 1 + axis], values.shape[2 + axis :]
        if not after:
            values = values.flatten(1, -2) if before else values[:, None]
            values = values @ matrix.transpose(-1, -2)
        elif not before:
            values = matrix @ values.flatten(2)
        else:
            matrix = matrix if matrix.dim() == 2 else matrix[:, None]
            values = matrix @ values.flatten(1, axis).flatten(3)
        values = values.reshape(len(values), *before, matrix.shape[-2], *after)
    return values
