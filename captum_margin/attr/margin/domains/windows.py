"""Unions of all but a window: what an image loses with one square part of it.

The windows overlap on a regular grid, so that nothing is drawn at random: few unions
say where to look, as in Zeiler, Fergus, "Visualizing and Understanding Convolutional
Networks", ECCV 2014, section 4.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from captum_margin.attr.margin.domains.tents import CELLS, coarse_shape, enlarge

__all__ = ["WindowUnions"]

_CELLS_A_WINDOW = 2.0  # the side of a window; more where the grid is wider than that


class WindowUnions:
    r"""At most N unions of an image, each without one window.

    Each is the neighbour of one node, the whole image x. What that graph's high-pass
    filter leaves is the score a union has lost, s - s(x), and the part of each patch
    it has lost, so that the patches' cross-energies over their energies are

    .. math:: \varphi_u = \sum_{i \not\ni u} (s(x) - s_i) \Big/ |\{i : i \not\ni u\}|.

    Args:
        n_unions (int): N.
        size (tuple[int, int]): H and W, pixels.
        device (torch.device): Where the masks are needed.
        dtype (torch.dtype): Their floating dtype.

    Attributes:
        presence (Tensor): Whether a union keeps a patch, (N, h * w); each patch is in
            one window at least.
    """

    def __init__(
        self,
        n_unions: int,
        size: tuple[int, int],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.size = size
        n_rows = min(n_unions, max(1, int((n_unions * size[0] / size[1]) ** 0.5)))
        counts = (n_rows, n_unions // n_rows)
        rows, columns = (
            _in_windows(count, side / min(size) * CELLS, patches)
            for count, side, patches in zip(
                counts, size, coarse_shape(size), strict=True
            )
        )
        inside = rows[:, None, :, None] & columns[None, :, None, :]
        self.presence = (~inside).flatten(2).flatten(0, 1).to(device, dtype)

    def __len__(self) -> int:
        """Number of unions."""
        return len(self.presence)

    def masks(self, nodes: Tensor) -> tuple[Tensor, ...]:
        """How much of each pixel some unions keep, (n, 1, H, W)."""
        coarse = self.presence[nodes].view(-1, *coarse_shape(self.size))
        return (enlarge(coarse, self.size)[:, None],)

    def evidence(self, lost: Tensor) -> Tensor:
        """Evidence of every patch, (h * w,).

        Args:
            lost (Tensor): The score of the whole image minus that of each union, (N,).
        """
        windows = 1 - self.presence
        return lost @ windows / windows.sum(dim=0)


def _in_windows(n_windows: int, length: float, n_patches: int) -> Tensor:
    """Which patches of an axis, ``length`` cells long, lie in which windows."""
    # In float64 on the CPU, whatever the masks are: one answer.
    patches = (torch.arange(n_patches, dtype=torch.float64) + 0.5) / n_patches
    centres = (torch.arange(n_windows, dtype=torch.float64) + 0.5) / n_windows
    side = max(_CELLS_A_WINDOW / length, 1 / n_windows)
    return (patches - centres[:, None]).abs() <= side / 2 + 1e-9
