"""The cells of prototypes, and moves of prototypes that lower the loss of the cells.

The formulas are at the top of ``captum_margin.signal.prototypes``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from captum_margin.signal._kernel import check_block_size, sum_dtype
from captum_margin.signal._sparse_rows import minus_products
from captum_margin.signal.select import rank

_TEMPERATURE = 0.05  # tau; chosen on a held-out part of the USPS training set
_MOVES = 1600  # that a sweep judges, shared by the prototypes,
_CANDIDATES = 4  # but so many for each at least
_HALVINGS = 4


class Cells(NamedTuple):
    """The two nearest prototypes of each sample, of its own class and of the others.

    Args:
        own (Tensor): Squared distances, (N, 2).
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
        x (Tensor): Features (N, F), around their mean unless they are sparse.
        norms (Tensor): Squared lengths of the rows of x, (N,).
        group (Tensor): Classes 0 .. C-1, (N,).
        labelled (bool): Whether the loss is the one with labels.
        far (float): A squared distance beyond all others, for prototypes that do not
            exist.
        block_size (int, optional): Rows held at once.
    """

    x: Tensor
    norms: Tensor
    group: Tensor
    labelled: bool
    far: float
    block_size: int | None


def _loss(samples: Samples, own: Tensor, other: Tensor) -> Tensor:
    """Loss of samples from the a² (own class) and b² (another class) of each."""
    if not samples.labelled:
        return own
    own, other = own.sqrt(), other.sqrt()
    margin = (own - other) / (own + other).clamp(min=torch.finfo(own.dtype).tiny)
    return torch.sigmoid(margin / _TEMPERATURE)


def nearest_prototypes(samples: Samples, prototypes: Tensor) -> Cells:
    """The nearest prototypes of all samples, by blocks of samples."""
    x, group, far = samples.x, samples.group, samples.far
    n = prototypes.numel()
    position = _positions(prototypes, x.size(0))
    centres, centre_norms = x[prototypes], samples.norms[prototypes]
    parts = []
    rows = check_block_size(samples.block_size, 8 * n)
    for start in range(0, x.size(0), rows):
        block = slice(start, start + rows)
        square = minus_products(centre_norms[None], x[block], centres)  # (rows, n)
        square.add_(samples.norms[block, None]).clamp_(min=0)
        if not samples.labelled:
            own = _two_nearest(square, far)
            parts.append((*own, torch.full_like(own[0], far), own[1]))
            continue
        itself = (position[block] >= 0).nonzero().squeeze(1)
        square[itself, position[block][itself]] = far
        same = group[block, None] == group[prototypes]
        own = _two_nearest(square.masked_fill(~same, far), far)
        parts.append((*own, *_two_nearest(square.masked_fill_(same, far), far)))
    return Cells(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _positions(prototypes: Tensor, n_samples: int) -> Tensor:
    """Where each sample is among the prototypes, -1 if it is none of them, (N,)."""
    position = prototypes.new_full((n_samples,), -1)
    position[prototypes] = torch.arange(prototypes.numel(), device=prototypes.device)
    return position


def _two_nearest(square: Tensor, far: float) -> tuple[Tensor, Tensor]:
    """Distances and positions of the two smallest of each row, the smallest first."""
    if square.size(1) == 1:
        square = torch.nn.functional.pad(square, (0, 1), value=far)
    value, index = square.topk(2, dim=1, largest=False, sorted=True)
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
    gain = _gains(samples, cells, prototypes, node, slot)
    best = gain.new_zeros(prototypes.numel()).scatter_reduce(0, slot, gain, "amax")
    # Moves gain together what they gain alone only if they are far apart: on failure
    # half of them are tried, in the end the best alone.
    movers = ((gain == best[slot]) & (gain > 0)).nonzero().squeeze(1)
    movers = movers[rank(gain[movers])]
    before = _total(samples, cells)
    for attempt in range(_HALVINGS):
        if movers.numel() == 0:
            return None
        moved = prototypes.clone()
        moved[slot[movers]] = node[movers]
        after = nearest_prototypes(samples, moved)
        if _total(samples, after) < before:
            return moved, after
        last = attempt == _HALVINGS - 2
        keep = 1 if last else -(-movers.numel() // 2)
        shuffled = torch.randperm(movers.numel(), generator=generator)
        movers = movers[:1] if last else movers[shuffled[:keep].to(movers.device)]
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
    position = _positions(prototypes, group.numel())
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
    kept = nth < max(_CANDIDATES, _MOVES // n)
    return node[kept], slot[kept]


def _gains(
    samples: Samples, cells: Cells, prototypes: Tensor, node: Tensor, slot: Tensor
) -> Tensor:
    """How much the loss falls if the prototype at ``slot`` moves to ``node``, each."""
    x, norms, group = samples.x, samples.norms, samples.group
    gain = torch.zeros_like(norms[node])
    rows = check_block_size(samples.block_size, 8 * x.size(0))
    for c in group[prototypes].unique().tolist():
        # A move changes a² of its own class and b² of all others: d for short.
        same = group == c
        nearest = torch.where(same[:, None], cells.own, cells.other)
        index = torch.where(same, cells.own_index[:, 0], cells.other_index[:, 0])
        limit = nearest[:, 0] - norms
        for moves in (group[node] == c).nonzero().squeeze(1).split(rows):
            to = node[moves]
            square = minus_products(norms[to, None], x[to], x)  # - norms
            # It touches the samples of the cell that is left and those it attracts.
            move, i = ((square < limit) | (index == slot[moves, None])).nonzero(
                as_tuple=True
            )
            d = (square[move, i] + norms[i]).clamp_(min=0)
            if samples.labelled:
                d[i == to[move]] = samples.far
            left = index[i] == slot[moves][move]
            d = torch.minimum(d, torch.where(left, nearest[i, 1], nearest[i, 0]))
            a, b = cells.own[i, 0], cells.other[i, 0]
            after = _loss(
                samples, torch.where(same[i], d, a), torch.where(same[i], b, d)
            )
            gain.index_add_(0, moves[move], _loss(samples, a, b) - after)
    return gain


def _total(samples: Samples, cells: Cells) -> float:
    """The loss of all samples."""
    loss = _loss(samples, cells.own[:, 0], cells.other[:, 0])
    return float(loss.to(sum_dtype(loss)).sum())
