"""Unions around a map: the regions it points at, in many variants and of every size.

A smooth random field is added to the map, and a union is where the sum is highest.
Comparing unions of like size says which variations of the map keep more of the score.
Other unions delete these regions: they are where the field less the map is highest.
What is enough for a network is not what it cannot do without, where a class shows in
several places: the preservation and the deletion game of Fong and Vedaldi,
"Interpretable Explanations of Black Boxes by Meaningful Perturbation", ICCV 2017.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from captum_margin.attr.margin.domains.axes import cell_sides, coarse_shape, enlarge
from captum_margin.attr.margin.domains.grids import ShiftedGrids

__all__ = ["FocusedUnions"]

# Chosen between values tried on tuning photographs (bumps of 1, 1.25, 1.5 and 2 cells).
_CELLS_A_BUMP = 1.25  # width of the field's bumps
_SOFTNESS = 0.2  # standard deviations of the field from inside to outside
# Smallest and largest share of the image that unions keep, and what they leave of it
# where they delete: with more than half of an image gone little of a score is left.
_SIZES = (0.05, 0.9)
_SIZES_OF_DELETION = (0.5, 0.97)
_GOLDEN = (5**0.5 - 1) / 2
_ROWS = 32  # unions whose patches are sorted at a time, to save memory


class FocusedUnions:
    """N unions around the map of an image, a series or a volume.

    Args:
        focus (Tensor): The map on P patches, (P,), of values about 1, so that squares
            neither vanish nor overflow. A constant one says nothing: the unions are
            then of the field alone.
        n_unions (int): N.
        size (tuple[int, ...]): Pixels along each axis of space.
        generator (torch.Generator): Draws the fields.
        strengths (tuple[float, float]): Smallest and largest weight of the map against
            the field, in standard deviations of each; unions of all sizes have weights
            spread between them.
        deleting (float, optional): Share of the unions that delete what the map
            points at; the last ones, none or at least two. Default: 0.0

    Attributes:
        presence (Tensor): How much of each patch each union keeps, (N, P).
        sizes (Tensor): Patches that each union keeps, whole numbers, (N,).
        kinds (Tensor): Whether a union deletes, 0 or 1, int64, (N,).
    """

    def __init__(
        self,
        focus: Tensor,
        n_unions: int,
        size: tuple[int, ...],
        generator: torch.Generator,
        strengths: tuple[float, float],
        deleting: float = 0.0,
    ) -> None:
        self.size = size
        # Six digits first: the last bit of a share must not choose the side of a half.
        n_deleting = round(round(deleting * n_unions, 6))
        if n_deleting == 1:  # it could not be compared with any
            n_deleting = 0
        n_keeping = n_unions - n_deleting
        device, dtype = focus.device, focus.dtype
        cell = cell_sides(size, _CELLS_A_BUMP)
        grids = ShiftedGrids(n_unions, size, cell, generator, device, dtype)
        drawn = torch.randn(n_unions, *grids.shape, generator=generator)
        everything = torch.arange(n_unions, device=device)
        field = grids.sample(drawn.to(device, dtype), everything, coarse_shape(size))
        height = field.flatten(1)  # (N, P), changed in place: the largest there is
        height /= height.std(dim=1, keepdim=True)
        if focus.max() > focus.min():
            strength = torch.cat(
                [_spread(n_keeping, *strengths), -_spread(n_deleting, *strengths)]
            )
            strength = strength.to(height)[:, None]
            height += strength * (focus - focus.mean()) / focus.std()
        shares = torch.cat(
            [
                _even(n_keeping, *_SIZES, like=height),
                _even(n_deleting, *_SIZES_OF_DELETION, like=height),
            ]
        )
        self.kinds = (everything >= n_keeping).long()
        # Whole numbers: sizes at equal distances are equal in any precision.
        self.sizes = (shares * focus.numel()).round()
        outside = (focus.numel() - self.sizes).long()[:, None]
        border = torch.cat(
            [
                _sorted(rows).gather(1, place)
                for rows, place in zip(
                    height.split(_ROWS), outside.split(_ROWS), strict=True
                )
            ]
        )
        height -= border
        height /= _SOFTNESS
        self.presence = height.sigmoid_()

    def __len__(self) -> int:
        """N."""
        return len(self.presence)

    def masks(self, nodes: Tensor) -> tuple[Tensor, ...]:
        """How much of each pixel some unions keep, (n, 1, *size)."""
        coarse = self.presence[nodes].view(-1, *coarse_shape(self.size))
        return (enlarge(coarse, self.size)[:, None],)


def _sorted(rows: Tensor) -> Tensor:
    """Each row in order."""
    if rows.device.type != "cpu":
        return rows.sort(dim=1).values
    # Without the places of the values, which torch's sort finds too: a tenth of the
    # time.
    return torch.from_numpy(np.sort(rows.numpy(), axis=1))


def _even(n: int, smallest: float, largest: float, *, like: Tensor) -> Tensor:
    """N values at equal distances, in order."""
    steps = (torch.arange(n, device=like.device) + 0.5).to(like) / max(1, n)
    return smallest + (largest - smallest) * steps


def _spread(n: int, smallest: float, largest: float) -> Tensor:
    """N values that fill a range evenly, and so do those of any stretch of them."""
    turns = torch.arange(n, dtype=torch.float64) * _GOLDEN
    return smallest + (largest - smallest) * (turns % 1)
