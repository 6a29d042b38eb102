"""What votes know of the labels, and which labels they contradict for good reason."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import binomtest, mannwhitneyu
from torch import Tensor

__all__ = ["Knowledge", "contradicted", "knowledge"]

# Chance that votes which know nothing of a class pass for knowing it.
_LEVEL = 0.001
# Samples of other classes that those of a class are held against.
_OTHERS = 20_000


class Knowledge(NamedTuple):
    """How well votes name the given labels, each sample's made without its own.

    Of :attr:`InfluenceResult.knowledge`.

    Args:
        accuracy (float): Share of samples whose label has the most votes.
        low (float): Of the 95% interval of the accuracy (Wilson).
        high (float): Likewise.
        chance (float): The share of the largest class: who always names it is right so
            often.
        known (Tensor): Of each class, (C,) bool: whether its samples get more votes for
            it than others do (Mann-Whitney U test, level 0.001). No label of a class
            that is not known is called wrong.
        n_wrong (int): Labels that are probably wrong: as many as the confident joint
            says (Northcutt, Jiang, Chuang, JAIR 2021, section 3.1), and all that more
            than one voice is against: whose score is above 1.

    >>> known = Knowledge(0.9, 0.86, 0.93, 0.5, torch.tensor([True, True]), n_wrong=4)
    >>> str(known)[:40]
    'the votes name 90.0% (86.0% to 93.0%) of'
    """

    accuracy: float
    low: float
    high: float
    chance: float
    known: Tensor
    n_wrong: int

    def __str__(self) -> str:
        """Such as "the votes name 87.1% (86.0 to 88.2%) of the labels; ..."."""
        return (
            f"the votes name {self.accuracy:.1%} ({self.low:.1%} to {self.high:.1%}) "
            f"of the labels; always the commonest class: {self.chance:.1%}"
        )


def knowledge(
    labels: Tensor, first: Tensor, votes: Tensor, scores: Tensor
) -> Knowledge:
    """What votes know of the labels.

    Args:
        labels (Tensor): Class numbers (N,).
        first (Tensor): Votes (N, C) in which no sample's own label has a part. Those of
            later rounds have: others are trusted more where it agrees with them.
        votes (Tensor): Votes (N, C) that wrong labels are counted by.
        scores (Tensor): Energy of what these do not explain, (N,).
    """
    n, classes = first.shape
    sizes = labels.bincount(minlength=classes)
    own = first.gather(1, labels[:, None])[:, 0]
    others = first.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
    right = int((own > others).sum())
    interval = binomtest(right, n).proportion_ci(method="wilson")
    known = _known(labels.cpu().numpy(), first.double().cpu().numpy())
    return Knowledge(
        accuracy=right / n,
        low=float(interval.low),
        high=float(interval.high),
        chance=float(sizes.max()) / n,
        known=torch.from_numpy(known).to(labels.device),
        n_wrong=max(_n_wrong(labels, votes, sizes), int((scores > 1).sum())),
    )


def contradicted(
    labels: Tensor, votes: Tensor, scores: Tensor, known: Knowledge
) -> Tensor:
    """Which labels are called wrong, (N,) bool: the most suspect, so many as there are.

    Only where another class has the most votes, and both classes are known.
    """
    winner = votes.argmax(dim=1)
    own = votes.gather(1, labels[:, None])[:, 0]
    # Sums in another order differ by rounding; that is no majority.
    outvoted = own < votes.amax(dim=1) * (1 - 1e-6)
    open_to = outvoted & known.known[labels] & known.known[winner]
    ranked = scores.where(open_to, -torch.inf).argsort(descending=True, stable=True)
    flags = torch.zeros_like(open_to)
    flags[ranked[: known.n_wrong]] = True
    return flags & open_to


def _known(labels: np.ndarray, votes: np.ndarray) -> np.ndarray:
    """Of each class whether its samples get more votes for it than others do."""
    n, classes = votes.shape
    known = np.zeros(classes, dtype=bool)
    for c in range(classes):
        member = labels == c
        if 0 < member.sum() < n:
            other = votes[~member, c]
            other = other[:: -(-len(other) // _OTHERS)]
            mine = votes[member, c]
            mine = mine[:: -(-len(mine) // _OTHERS)]
            if np.ptp(mine) == np.ptp(other) == 0 and mine[0] == other[0]:
                continue
            test = mannwhitneyu(mine, other, alternative="greater", method="asymptotic")
            known[c] = test.pvalue < _LEVEL
    return known


def _n_wrong(labels: Tensor, votes: Tensor, sizes: Tensor) -> int:
    """The number outside the diagonal of the confident joint, in samples."""
    total = votes.sum(dim=1, keepdim=True)
    p = votes / total.where(total > 0, 1)
    classes = p.size(1)
    own = torch.zeros(classes, dtype=p.dtype, device=p.device)
    own.index_add_(0, labels, p.gather(1, labels[:, None])[:, 0])
    # Confident of class c is who has as much probability of it as its samples have in
    # the mean.
    threshold = own / sizes.clamp(min=1).to(p)
    above = p.where((p >= threshold) & (p > 0), -1)
    best, guess = above.max(dim=1)
    confident = best > 0
    cells = labels[confident] * classes + guess[confident]
    joint = cells.bincount(minlength=classes**2).view(classes, classes).double()
    joint *= (sizes / joint.sum(dim=1).clamp(min=1))[:, None]
    return round(float(joint.sum() - joint.trace()))
