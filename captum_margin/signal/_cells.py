"""The cells of prototypes, and moves of prototypes that lower the loss of the cells.

The formulas are at the top of ``captum_margin.signal.prototypes``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from captum_margin.signal._kernel import check_block_size, distance_blocks, sum_dtype
from captum_margin.signal.select import rank

_TEMPERATURE = 0.05  # tau; chosen on a held-out part of the USPS training set
_CANDIDATES = 12  # neighbours that a prototype tries in one sweep
_HALVINGS = 4


class Cells(NamedTuple):
    """The two nearest prototypes of each sample, of its own class and of the others.

    Args:
        own (Tensor): Distances, (N, 2).
        own_index (Tensor): Positions among the prototypes, (N, 2).
        other (Tensor): As ``own``; the distance of one that does not exist is ``far``.
        other_index (Tensor): As ``own_index``.
    """

    own: Tensor
    own_index: Tensor
    other: Tensor
    other_index: Tensor


class Samples(NamedTuple):
    """What stays the same while prototypes move.

    Args:
        x (Tensor): Features (N, F).
        group (Tensor): Classes 0 .. C-1, (N,).
        labelled (bool): Whether the loss is the one with labels.
        far (float): A distance beyond all others, for prototypes that do not exist.
        block_size (int, optional): Rows held at once.
    """

    x: Tensor
    group: Tensor
    labelled: bool
    far: float
    block_size: int | None


def _loss(samples: Samples, own: Tensor, other: Tensor) -> Tensor:
    """Loss of each sample from its distances a (own class) and b (another class)."""
    if not samples.labelled:
        return own.square()
    margin = (own - other) / (own + other).clamp(min=torch.finfo(own.dtype).tiny)
    return torch.sigmoid(margin / _TEMPERATURE)


def nearest_prototypes(samples: Samples, prototypes: Tensor) -> Cells:
    """The nearest prototypes of all samples, by blocks of samples."""
    x, group = samples.x, samples.group
    n = prototypes.numel()
    position = group.new_full((x.size(0),), -1)
    position[prototypes] = torch.arange(n, device=x.device)
    parts = []
    rows = check_block_size(samples.block_size, n)
    for start, square in distance_blocks(x, x[prototypes], rows):  # (rows, n)
        distance = square.sqrt_()
        block = slice(start, start + distance.size(0))
        if samples.labelled:
            itself = (position[block] >= 0).nonzero().squeeze(1)
            distance[itself, position[block][itself]] = samples.far
        same = group[block, None] == group[prototypes]
        parts.append(
            (
                *_two_nearest(distance.masked_fill(~same, samples.far), samples.far),
                *_two_nearest(distance.masked_fill(same, samples.far), samples.far),
            )
        )
    return Cells(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _two_nearest(distance: Tensor, far: float) -> tuple[Tensor, Tensor]:
    """Distances and positions of the two smallest of each row, the smallest first."""
    if distance.size(1) == 1:
        distance = torch.nn.functional.pad(distance, (0, 1), value=far)
    value, index = distance.topk(2, dim=1, largest=False, sorted=True)
    return value, index


def sweep(
    samples: Samples,
    prototypes: Tensor,
    cells: Cells,
    edge_index: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, Cells] | None:
    """Prototypes and cells of a lower loss after one round of moves; None if none."""
    node, slot = _candidates(samples, prototypes, cells, edge_index, generator)
    gain = _gains(samples, cells, node, slot)
    best = gain.new_zeros(prototypes.numel()).scatter_reduce(0, slot, gain, "amax")
    # Moves gain together what they gain alone only if they are far apart: on failure
    # half of them are tried, in the end the best alone.
    winners = ((gain == best[slot]) & (gain > 0)).nonzero().squeeze(1)
    winners = winners[rank(gain[winners])]
    before = _total(samples, cells)
    for attempt in range(_HALVINGS):
        if winners.numel() == 0:
            return None
        moved = prototypes.clone()
        moved[slot[winners]] = node[winners]
        after = nearest_prototypes(samples, moved)
        if _total(samples, after) < before:
            return moved, after
        last = attempt == _HALVINGS - 2
        keep = 1 if last else -(-winners.numel() // 2)
        shuffled = torch.randperm(winners.numel(), generator=generator)
        winners = winners[:1] if last else winners[shuffled[:keep].to(winners.device)]
    return None


def _candidates(
    samples: Samples,
    prototypes: Tensor,
    cells: Cells,
    edge_index: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Some neighbours of each prototype within its cell: nodes and positions."""
    n, group = prototypes.numel(), samples.group
    position = group.new_full((group.numel(),), -1)
    position[prototypes] = torch.arange(n, device=group.device)
    node, target = edge_index
    slot = position[target]
    kept = (slot >= 0) & (position[node] < 0) & (group[node] == group[target])
    kept &= cells.own_index[node, 0] == slot
    node, slot = node[kept], slot[kept]
    order = torch.randperm(node.numel(), generator=generator).to(node.device)
    order = order[slot[order].argsort(stable=True)]
    node, slot = node[order], slot[order]
    count = slot.bincount(minlength=n)
    nth = torch.arange(slot.numel(), device=slot.device)
    nth -= (count.cumsum(0) - count)[slot]
    return node[nth < _CANDIDATES], slot[nth < _CANDIDATES]


def _gains(samples: Samples, cells: Cells, node: Tensor, slot: Tensor) -> Tensor:
    """How much the loss falls if the prototype at ``slot`` moves to ``node``, each."""
    x, group = samples.x, samples.group
    before = _loss(samples, cells.own[:, 0], cells.other[:, 0])
    gain = torch.empty(node.numel(), dtype=x.dtype, device=x.device)
    rows = check_block_size(samples.block_size, 4 * x.size(0))
    for start, square in distance_blocks(x[node], x, rows):  # (rows, N)
        distance = square.sqrt_()
        block = slice(start, start + distance.size(0))
        if samples.labelled:
            itself = torch.arange(distance.size(0), device=x.device)
            distance[itself, node[block]] = samples.far
        left = slot[block, None]
        # Without the prototype the second nearest counts, then the new one competes.
        own = torch.where(
            cells.own_index[:, 0] == left, cells.own[:, 1], cells.own[:, 0]
        )
        own = torch.minimum(own, distance)
        other = cells.other[:, 0]
        if samples.labelled:
            same = group[node[block], None] == group
            own = torch.where(same, own, cells.own[:, 0])
            nearest = cells.other_index[:, 0] == left
            rest = torch.where(nearest, cells.other[:, 1], cells.other[:, 0])
            other = torch.where(same, other, torch.minimum(rest, distance))
        gain[block] = (before - _loss(samples, own, other)).sum(dim=1)
    return gain


def _total(samples: Samples, cells: Cells) -> float:
    """The loss of all samples."""
    loss = _loss(samples, cells.own[:, 0], cells.other[:, 0])
    return float(loss.to(sum_dtype(loss)).sum())
