"""Step 5, the selection: from one score per node to a ranking or a choice."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_margin._whole_numbers import is_whole
from captum_margin.signal.graph import check_graph

__all__ = ["lowest_share", "rank", "select_diverse", "top"]


def rank(scores: Tensor, descending: bool = True) -> Tensor:
    """Node indices in the order of their scores; equal scores by the lower index.

    Args:
        scores (Tensor): Shape (N,), no NaN.
        descending (bool, optional): Highest first. Default: True.

    Returns:
        Tensor: A permutation of 0 .. N-1, shape (N,), int64.

    Raises:
        ValueError: If ``scores`` has another shape or holds NaN.

    Cost: O(N log N).

    >>> rank(torch.tensor([0.5, 2.0, 0.5])).tolist()
    [1, 0, 2]
    """
    if scores.dim() != 1:
        raise ValueError(
            f"expected scores of shape (N,) (got {tuple(scores.shape)}); reduce the "
            "channels to one score per node first, for example with influence()"
        )
    if bool(torch.isnan(scores).any()):
        raise ValueError("expected scores without NaN (got NaN)")
    return scores.sort(descending=descending, stable=True).indices


def top(scores: Tensor, n: int) -> Tensor:
    """The n nodes of the highest scores, best first; all nodes if there are fewer.

    Args:
        scores (Tensor): Shape (N,), no NaN.
        n (int): How many, at least 0.

    Returns:
        Tensor: Node indices of shape (min(n, N),), int64; ties as in :func:`rank`.

    Raises:
        ValueError: As :func:`rank`, or if ``n`` is negative.

    Cost: O(N log N).

    >>> top(torch.tensor([0.5, 2.0, 0.5]), 2).tolist()
    [1, 0]
    """
    if not is_whole(n) or n < 0:
        raise ValueError(f"expected n >= 0 nodes (got {n})")
    return rank(scores)[:n]


def lowest_share(scores: Tensor, share: float) -> Tensor:
    """The share of all nodes with the lowest scores, lowest first.

    The threshold by which the MARGIN paper's prototypes are of low influence.

    Args:
        scores (Tensor): Shape (N,), no NaN.
        share (float): Of the nodes, within [0, 1].

    Returns:
        Tensor: Node indices of shape (round(share · N),), int64; ties as in
        :func:`rank`, so that the number does not depend on them.

    Raises:
        ValueError: As :func:`rank`, or if ``share`` is out of its range.

    Cost: O(N log N).

    >>> lowest_share(torch.tensor([0.5, 2.0, 0.1, 0.5]), 0.5).tolist()
    [2, 0]
    """
    if not 0 <= share <= 1:
        raise ValueError(f"expected a share within [0, 1] (got {share})")
    return rank(scores, descending=False)[: round(share * scores.numel())]


def select_diverse(
    scores: Tensor, edge_index: Tensor, n: int, *, hops: int = 1
) -> Tensor:
    """The n nodes of the highest scores, none within some hops of an earlier pick.

    The highest scores of a smooth function crowd into one region; skipping what lies
    near a pick spreads them over the graph. Once every node is near a pick, the nodes
    passed over are gone through again in the same way, as often as it takes.

    Args:
        scores (Tensor): Shape (N,), no NaN.
        edge_index (Tensor): Shape (2, E), undirected, as :func:`knn_graph` returns it.
        n (int): How many, at least 0.
        hops (int, optional): Nodes within so many edges of a pick are skipped; 0 is
            :func:`top`. Default: 1.

    Returns:
        Tensor: Node indices of shape (min(n, N),), int64, in the order of picking;
        the picks of a pass by score, ties as in :func:`rank`.

    Raises:
        TypeError: If the edges are not integers.
        ValueError: As :func:`rank`, if the edges do not fit the scores, or if ``n`` or
            ``hops`` is negative.

    Cost: O(hops · E) time for each round, in which all nodes that outrank their
    surroundings are picked at once: a handful of rounds a pass as a rule (at worst N
    of them, on a line of descending scores); O(N + E) memory.

    >>> path = torch.tensor([[1, 0, 2, 1, 3, 2], [0, 1, 1, 2, 2, 3]])
    >>> select_diverse(torch.tensor([4.0, 3.0, 2.0, 1.0]), path, 3).tolist()
    [0, 2, 1]
    """
    if not is_whole(n) or n < 0 or hops < 0:
        raise ValueError(f"expected n >= 0 nodes and hops >= 0 (got {n} and {hops})")
    order = rank(scores)
    check_graph(edge_index, None, scores.numel())
    place = torch.empty_like(order)
    place[order] = torch.arange(order.numel(), device=order.device)
    left = torch.ones_like(order, dtype=torch.bool)
    picks, count = [order[:0]], 0
    while count < min(n, order.numel()):
        chosen = _spread(place, left, edge_index.long(), hops)
        picks.append(order[chosen[order]])
        count += picks[-1].numel()
        left &= ~chosen
    return torch.cat(picks)[:n]


def _spread(place: Tensor, among: Tensor, edge_index: Tensor, hops: int) -> Tensor:
    """What a walk down the ranking picks if it skips what is near a pick; mask (N,).

    A node that comes before all others near it is picked whatever happens elsewhere,
    so all such nodes can be picked at once and the rest gone through again.
    """
    source, target = edge_index
    alive, chosen = among.clone(), torch.zeros_like(among)
    while bool(alive.any()):
        first = place.masked_fill(~alive, place.numel())
        for _ in range(hops):
            first = first.scatter_reduce(0, target, first[source], "amin")
        new = alive & (first == place)
        chosen |= new
        near = new.to(place.dtype)
        for _ in range(hops):
            near = near.scatter_reduce(0, target, near[source], "amax")
        alive &= near == 0
    return chosen
