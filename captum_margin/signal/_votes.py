"""What the others say of a sample's label: several votes, and one made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from captum_margin.signal.graph import Graph
from captum_margin.signal.high_pass import HighPass

__all__ = ["ROUNDS", "Combined", "Voter", "combined", "neighbor_voter", "trust_in"]

# Times that votes are taken where labels are trusted as far as the last ones agree.
ROUNDS = 3

# Takes f (N, C), which is 0 where nobody is trusted; gives votes (N, C) or, with new
# samples behind, (N + M, C).
Voter = Callable[[Tensor], Tensor]


def neighbor_voter(layer: HighPass, graph: Graph, n_labelled: int) -> Voter:
    """The neighbours' votes, A f, which nowhere add up to more than one.

    Under the symmetric shift a sample far from all others gets votes of a small sum,
    which says how little its neighbours know; and a hub, which is near to more samples
    than they are, would get votes of a sum beyond one, the same as certainty and more.
    There the votes are divided by their sum.

    Args:
        layer (HighPass): f - A f, where isolated samples keep theirs: nobody votes on
            them.
        graph (Graph): Of N samples, with M new ones behind who have no vote.
        n_labelled (int): N.
    """
    edges = graph.edge_index, graph.edge_weight

    def pass_on(f: Tensor) -> Tensor:
        passed: Tensor = f - layer(f, *edges)
        return passed

    weight = graph.edge_weight
    dtype = torch.get_default_dtype() if weight is None else weight.dtype
    everybody = torch.ones(graph.num_nodes, 1, dtype=dtype)
    total = pass_on(everybody.to(graph.edge_index.device)).clamp(min=1)

    def vote(f: Tensor) -> Tensor:
        new = graph.num_nodes - n_labelled
        behind = f.new_zeros(new, f.size(1))
        return pass_on(torch.cat([f, behind])) / total

    return vote


class Combined(NamedTuple):
    """Several votes and their mean.

    Args:
        mean (Tensor): Of all voters in the last round, (N, C), or (N + M, C) with new
            samples behind.
        first (Tensor): Likewise of the first round, in which all labels are trusted.
        each (Tensor): Votes of each voter in the last round, (V, N, C).
        shares (Tensor): Of each voter in the mean, (V, N), found in the first round:
            the same for all samples but those that a voter has no vote on.
    """

    mean: Tensor
    first: Tensor
    each: Tensor
    shares: Tensor


def combined(f: Tensor, voters: Sequence[Voter], rounds: int) -> Combined:
    """The mean of all votes, when contradicted labels are trusted less.

    Args:
        f (Tensor): Labels as one-hot rows, (N, C).
        voters (sequence of Voter): At least one.
        rounds (int): 1: all labels are trusted. More: each round trusts labels as far
            as the votes of the round before agree with them.

    Returns:
        Combined: Votes are 0 where nobody votes. Where one voter has no vote at all,
        the others have its weight.
    """
    trust = torch.ones_like(f[:, :1])
    first = shares = None
    for _ in range(rounds):
        votes = torch.stack([voter(trust * f).to(f) for voter in voters])
        if shares is None:
            speaks = votes.sum(dim=2) > 0  # (V, N)
            all_speak = speaks.all(dim=0)[: len(f)]
            weights = _weights(f[all_speak], votes[:, : len(f)][:, all_speak])
            shares = weights[:, None] * speaks
            shares = shares / shares.sum(dim=0).clamp(min=torch.finfo(f.dtype).tiny)
        mean = (shares[..., None] * votes).sum(dim=0)
        first = mean if first is None else first
        trust = trust_in(f, mean[: len(f)])
    assert first is not None and shares is not None
    return Combined(mean, first, votes, shares)


def trust_in(f: Tensor, votes: Tensor) -> Tensor:
    """Votes for the given class by the mean of these and of the most, in [0, 1].

    A label that half as many vote for as for another class is trusted by 2/3.
    """
    own = (votes * f).sum(dim=1, keepdim=True).clamp(min=0)
    both = own + votes.amax(dim=1, keepdim=True)
    return torch.where(both > 0, 2 * own / both.where(both > 0, 1), 1)


def _weights(f: Tensor, votes: Tensor) -> Tensor:
    """Of each voter, (V,): half of it equal, half what brings the mean nearest to f.

    The nearest mean alone would silence a voter that is only a little worse than
    another; but they err apart, and their mean is better than either.
    """
    count = len(votes)
    equal = f.new_full((count,), 1 / count)
    if count == 1:
        return equal
    apart = (votes - f).flatten(1).double()
    gram = (apart @ apart.T).cpu().numpy()
    scale = np.trace(gram)
    if not scale > 0:
        return equal
    # The least of w' G w over w >= 0 that add up to one: up to scale that of |R w|² +
    # (sum of w - 1)², with G = R' R.
    values, vectors = np.linalg.eigh(gram / scale)
    root = (vectors * np.sqrt(values.clip(min=0))).T
    system = np.vstack([root, np.ones(count)])
    nearest, _ = nnls(system, np.append(np.zeros(count), 1.0))
    if not nearest.sum() > 0:
        return equal
    return (equal + torch.from_numpy(nearest / nearest.sum()).to(f)) / 2
