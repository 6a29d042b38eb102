"""Samples that are almost the same, from neighbours that were found for something else.

Two samples are near duplicates if they are far nearer to each other than samples of
their surroundings are: a distance alone says nothing, for where data are dense, all are
near. And in few dimensions some are near by chance, so less counts as near there.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from captum_margin.neighbors import Neighbors

__all__ = ["DuplicateGroups", "near_duplicates"]

# The distance to this neighbour is what is usual: copies of a sample are mostly fewer.
_RANK = 5
_ROUNDING = 1e-3  # of what is usual in all data; searches in single precision
_BLOCK = 2**16


class DuplicateGroups(NamedTuple):
    """Groups of samples that are almost the same.

    Of :func:`near_duplicates`.

    Args:
        group (Tensor): Of each sample the number of its group, from 0 in the order of
            their first samples; -1 for none. Shape (N,), int64.
        distance (Tensor): Of each sample the distance to the nearest other of its
            group, as part of what is usual around them: 0 for exact copies, infinity
            without a group. Shape (N,), float32.
        threshold (float): The part up to which two samples counted as near.
    """

    group: Tensor
    distance: Tensor
    threshold: float

    def members(self) -> list[Tensor]:
        """The samples of each group, in data order.

        Returns:
            list[Tensor]: Indices, int64, one tensor per group.

        Cost: O(N log N).
        """
        within = (self.group >= 0).nonzero()[:, 0]
        order = within[self.group[within].argsort(stable=True)]
        sizes = self.group[within].bincount().tolist()
        return list(order.split(sizes)) if sizes else []


def near_duplicates(
    neighbors: Neighbors, *, threshold: float = 0.65, by_chance: float = 0.001
) -> DuplicateGroups:
    r"""Groups samples that are far nearer to each other than is usual around them.

    What is usual around a sample is the median, over its neighbours, of the distance to
    *their* fifth neighbour. Two samples are near duplicates if their distance is at
    most ``threshold`` of what is usual around either. In m dimensions, chance alone
    brings :math:`5 t^m / 2` pairs per sample within the part t of the distance to the
    fifth neighbour; m is estimated from how fast distances grow with rank, and t is
    lowered to where that number is ``by_chance``. Groups are the connected components
    of the near pairs.

    Args:
        neighbors (Neighbors): Of :func:`~captum_margin.neighbors.find_neighbors`, k
            neighbours of each of N samples: 10 or more, better 30. Copies beyond k/2 of
            one sample are found only where they are exact.
        threshold (float, optional): Part of the usual distance, within [0, 1]. Default:
            0.65, chosen on photographs of cats and dogs, of which SqueezeNet's features
            then find all copies: smaller, mirrored, cut, darker or saved again.
        by_chance (float, optional): Pairs per sample that chance may bring, positive.
            Default: 0.001.

    Returns:
        DuplicateGroups: The group of each sample, or none.

    Raises:
        TypeError: If ``neighbors`` is something else.
        ValueError: If an option is out of its range.

    Cost: O(N k) time and memory; neighbours are not searched again.

    >>> from captum_margin.neighbors import find_neighbors
    >>> features = torch.randn(100, 16, generator=torch.Generator().manual_seed(0))
    >>> features[70] = features[20] + 0.001
    >>> found = near_duplicates(find_neighbors(features, 10))
    >>> [members.tolist() for members in found.members()]
    [[20, 70]]
    """
    _check(neighbors, threshold, by_chance)
    indices, distances = neighbors.indices.cpu(), neighbors.distances.cpu().double()
    n, k = indices.shape
    rank = min(_RANK, max(1, k // 2))
    # k = 1 tells nothing of what is usual: then only exact copies count.
    if k > 1:
        threshold = min(threshold, _reach(distances, rank, by_chance))
    else:
        threshold = 0.0
    source, target, relative = _near_pairs(indices, distances, rank, threshold)
    pairs = coo_array((torch.ones(len(source)).numpy(), (source, target)), shape=(n, n))
    _, component = connected_components(pairs, directed=False)
    group = _numbered(torch.from_numpy(component).long())
    nearest = torch.full((n,), torch.inf, dtype=torch.float64)
    for ends in (source, target):
        nearest.scatter_reduce_(0, ends, relative, "amin")
    device = neighbors.indices.device
    return DuplicateGroups(group.to(device), nearest.float().to(device), threshold)


def _check(neighbors: Neighbors, threshold: float, by_chance: float) -> None:
    if not isinstance(neighbors, Neighbors):
        raise TypeError(
            "expected neighbours as find_neighbors(features, k) of "
            f"captum_margin.neighbors returns them (got {type(neighbors).__name__})"
        )
    if not 0 <= threshold <= 1:
        raise ValueError(f"expected a threshold within [0, 1] (got {threshold})")
    if not 0 < by_chance < float("inf"):
        raise ValueError(f"expected by_chance > 0 and finite (got {by_chance})")


def _reach(distances: Tensor, rank: int, by_chance: float) -> float:
    """The part of the usual distance within which chance brings so many pairs."""
    k = distances.shape[1]
    inner, outer = distances[:, rank - 1], distances[:, k - 1]
    usable = (inner > 0) & outer.isfinite()
    # Of points spread evenly in m dimensions, this logarithm is 1/rank + ... + 1/(k-1)
    # on average, divided by m.
    growth = (outer[usable] / inner[usable]).log().mean()
    if not growth > 0:  # no such sample, or all at one distance: of many dimensions
        return 1.0
    dimensions = float((1 / torch.arange(rank, k)).sum() / growth)
    return float((2 * by_chance / rank) ** (1 / dimensions))


def _near_pairs(
    indices: Tensor, distances: Tensor, rank: int, threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Both ends of all near pairs, and their distance as part of the usual one."""
    usual = _usual(indices, distances, rank)
    source, target, relative = [], [], []
    for start in range(0, len(indices), _BLOCK):
        rows = slice(start, start + _BLOCK)
        smaller = torch.minimum(usual[rows, None], usual[indices[rows]])
        part = distances[rows] / smaller
        part[distances[rows] == 0] = 0  # where all are copies, too
        near = (part <= threshold) & (indices[rows] >= 0)
        row, column = near.nonzero(as_tuple=True)
        source.append(row + start)
        target.append(indices[rows][row, column])
        relative.append(part[row, column])
    return torch.cat(source), torch.cat(target), torch.cat(relative)


def _usual(indices: Tensor, distances: Tensor, rank: int) -> Tensor:
    """What distance is usual around each sample, (N,)."""
    missing = distances.isinf()
    # The last one there is, where there are fewer.
    reach = distances[:, :rank].masked_fill(missing[:, :rank], -torch.inf).amax(dim=1)
    usual = torch.empty_like(reach)
    for start in range(0, len(indices), _BLOCK):
        rows = slice(start, start + _BLOCK)
        around = reach[indices[rows]].masked_fill(missing[rows], torch.nan)
        usual[rows] = around.nanmedian(dim=1).values
    positive = usual[usual > 0]
    if len(positive):
        usual = usual.clamp(min=_ROUNDING * float(positive.median()))
    return usual


def _numbered(component: Tensor) -> Tensor:
    """Groups of two and more from 0, in the order of their first samples; else -1."""
    group = torch.full_like(component, -1)
    shared = component.bincount()[component] > 1
    names, place = component[shared].unique(return_inverse=True)
    first = torch.full((len(names),), len(component))
    first.scatter_reduce_(0, place, shared.nonzero()[:, 0], "amin")
    order = torch.empty_like(first)
    order[first.argsort()] = torch.arange(len(names))
    group[shared] = order[place]
    return group
