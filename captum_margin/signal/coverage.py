"""Step 5, the selection: nodes that together are alike to all nodes.

The highest scores of a function crowd into one region of the graph. A choice that is
to stand for the whole graph is made together: each pick is worth what it adds to the
picks before it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from captum_margin._whole_numbers import is_whole, whole_number

__all__ = ["select_covering", "unit_rows"]

# Similarities kept at once: 256 MiB of them in float32; more are computed when asked.
_KEPT = 2**26
# Candidates whose gain is refreshed at once.
_BATCH = 256


def unit_rows(x: Tensor) -> Tensor:
    """Rows of norm one; rows of zeros stay zeros.

    Args:
        x (Tensor): Shape (N, F), floating.

    Returns:
        Tensor: Of the shape and dtype of ``x``.

    Cost: O(N · F).

    >>> unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).norm(dim=1).tolist()
    [1.0, 0.0]
    """
    norms = x.norm(dim=1, keepdim=True)
    unit: Tensor = x / norms.where(norms > 0, 1)
    return unit


def select_covering(
    points: Tensor,
    n: int,
    *,
    weight: Tensor | None = None,
    candidates: Tensor | None = None,
    chosen: Tensor | None = None,
    groups: Tensor | None = None,
    max_targets: int = 4096,
    seed: int = 0,
) -> Tensor:
    r"""Picks n nodes greedily so that every node has one of its kind among the picks.

    The coverage of all N nodes by the picks S is

    .. math::
        F(S) = \sum_j w_j \max_{i \in S} \, s_{ij} , \qquad
        s_{ij} = \max(0, \cos(\mathbf{x}_i, \mathbf{x}_j))

    (facility location), and each step picks the candidate that adds most to it. F is
    submodular: greedy picks reach at least 63% of the best possible F (Nemhauser,
    Wolsey and Fisher 1978), and the first picks do not depend on how many follow.
    A row of zeros is like no other. Take the mean of all rows away first where they
    share a direction.

    Args:
        points (Tensor): Shape (N, F), N >= 1, floating, finite.
        n (int): How many, at least 0; with ``groups``, of each group.
        weight (Tensor, optional): w, what it is worth to cover a node: shape (N,),
            finite, non-negative. Default: None, ones.
        candidates (Tensor, optional): Indices that may be picked, without repetition.
            Default: None, all nodes.
        chosen (Tensor, optional): Indices picked before, which cover already and are
            not picked again. Default: None.
        groups (Tensor, optional): Integers (N,), of which those of the candidates
            count: a group that has its n leaves the pool. Default: None, one group.
        max_targets (int, optional): In a graph of more nodes the sum runs over so many
            of them, drawn without replacement. Default: 4096.
        seed (int, optional): Of this draw. Default: 0.

    Returns:
        Tensor: Indices in the order of picking, int64, n of them (of each group), or
        all candidates if there are fewer. Equal gains go to the candidate that comes
        first in ``candidates``.

    Raises:
        ValueError: If ``points`` are not floating, (N, F) and finite, or a number or an
            index is out of its range.

    Cost: with T = min(N, ``max_targets``) and M candidates, two passes over T · M · F
    and a small part of that per pick, as gains only fall and few are refreshed;
    O(N · F) memory and at most 2²⁶ similarities.

    >>> x = torch.tensor([[0.0, 1.0], [0.1, 1.0], [0.2, 1.0], [1.0, 0.0], [1.0, 0.1]])
    >>> select_covering(x, 2).tolist()
    [2, 3]
    """
    if points.dim() != 2 or 0 in points.shape or not points.is_floating_point():
        raise ValueError(
            f"expected floating points of shape (N, F) with N, F >= 1 (got "
            f"{tuple(points.shape)}, {points.dtype})"
        )
    if not bool(points.isfinite().all()):
        raise ValueError("expected finite points (got NaN or infinity)")
    if weight is not None and (
        weight.shape != points.shape[:1]
        or not bool(((weight >= 0) & (weight < torch.inf)).all())
    ):
        raise ValueError(
            f"expected finite weights >= 0 of shape (N,) = ({len(points)},) (got "
            f"shape {tuple(weight.shape)}, or a value out of range)"
        )
    if not is_whole(n) or n < 0 or max_targets < 1:
        raise ValueError(
            f"expected n >= 0 and max_targets >= 1 (got {n} and {max_targets})"
        )
    device, nodes = points.device, points.size(0)
    everyone = torch.arange(nodes, device=device)
    pool = everyone if candidates is None else candidates.to(device)
    before = everyone[:0] if chosen is None else chosen.to(device)
    for name, index in (("candidates", pool), ("chosen", before)):
        if index.numel() and not (0 <= int(index.min()) <= int(index.max()) < nodes):
            raise ValueError(
                f"expected {name} within [0, {nodes}) (got {int(index.min())} to "
                f"{int(index.max())})"
            )
    pool = pool[~torch.isin(pool, before)]
    group = torch.zeros_like(pool) if groups is None else groups.to(device)[pool]
    group = group.unique(return_inverse=True)[1]
    quota = torch.full_like(group.bincount(), min(n, nodes))

    # Half precision cannot add up thousands of similarities.
    dtype = torch.promote_types(points.dtype, torch.float32)
    units = unit_rows(points.detach().to(dtype))
    drawn = everyone
    if nodes > max_targets:
        generator = torch.Generator().manual_seed(
            whole_number(seed, "seed")
        )  # on the CPU for any device
        drawn = torch.randperm(nodes, generator=generator)[:max_targets].to(device)
    worth = units.new_ones(nodes) if weight is None else weight.detach().to(units)
    search = _Search(units[drawn], units[pool], worth[drawn])
    search.cover(units[before])
    picks: list[int] = []
    while bool(search.open.any()):
        # With n = 0 nothing is open after this.
        search.open &= quota[group] > 0
        if not bool(search.open.any()):
            break
        best = search.best()
        picks.append(best)
        search.open[best] = False
        quota[group[best]] -= 1
        search.cover(units[pool[best]][None])
    return pool[torch.tensor(picks, dtype=torch.long, device=device)]


class _Search:
    """Greedy facility location: gains of M candidates over T targets, kept lazily.

    A gain can only fall as more is covered, so an old one bounds the new one from
    above: only candidates with the highest bounds are looked at again.
    """

    def __init__(self, targets: Tensor, candidates: Tensor, worth: Tensor) -> None:
        self.targets, self.candidates, self.worth = targets, candidates, worth
        small = len(targets) * len(candidates) <= _KEPT
        self.kept = candidates @ targets.T if small else None  # (M, T)
        self.covered = targets.new_zeros(len(targets))
        self.bound = targets.new_full((len(candidates),), torch.inf)
        self.open = torch.ones_like(self.bound, dtype=torch.bool)
        # Of likenesses up to 1, each with an error of its own.
        self.rounding = 4 * torch.finfo(worth.dtype).eps * float(worth.sum())

    def cover(self, units: Tensor) -> None:
        """Adds picks, (P, F)."""
        for unit in units:
            self.covered = torch.maximum(self.covered, self.targets @ unit)

    def best(self) -> int:
        """The open candidate of the highest gain, the first among equals.

        Gains are equal that differ by what rounding makes of a sum in another order.
        """
        bound = self.bound.masked_fill(~self.open, -torch.inf)
        stale = self.open.clone()
        while True:
            # The highest bounds first; among equal ones all must be looked at.
            head = bound.masked_fill(~stale, -torch.inf).topk(min(_BATCH, len(bound)))
            fresh = head.indices[stale[head.indices]]
            bound[fresh] = self._gain(fresh)
            stale[fresh] = False
            highest = bound.masked_fill(stale, -torch.inf).max()
            equal = bound >= highest - self.rounding
            if not bool((stale & equal).any()):
                break
        self.bound = torch.where(self.open, bound, self.bound)
        return int((equal & self.open).nonzero()[0])

    def _gain(self, rows: Tensor) -> Tensor:
        """What each of some candidates would add, (rows,)."""
        alike = (
            self.candidates[rows] @ self.targets.T
            if self.kept is None
            else self.kept[rows]
        )
        return (alike - self.covered).clamp_(min=0) @ self.worth
