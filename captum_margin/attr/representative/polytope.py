"""Greedy choice of boundaries: a polytope that keeps like decisions and few others.

Lam, Chu, Torgonskiy, Pei, Zhang, Wang, "Finding Representative Interpretations on
Convolutional Neural Networks", ICCV 2021: covering as many references as possible, and
no more of those decided otherwise than must be, is a submodular cover problem, solved
greedily.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Polytope", "SignTable"]

_ALL = np.uint64(2**64 - 1)


class Polytope(NamedTuple):
    """What the greedy choice found.

    Args:
        chosen (ndarray): The boundaries chosen, in the order of their choice, (P,).
        covered (ndarray): The references on the right side of all of them, (n,).
        tau (int): References of D on the right side of every boundary there is, which
            no choice can leave out.
    """

    chosen: NDArray[np.int64]
    covered: NDArray[np.int64]
    tau: int


class SignTable:
    """On which side of Q boundaries M references lie: M * Q bits.

    Args:
        sides (ndarray): Whether a reference is on the positive side, bool (M, Q).
        classes (ndarray): The class that each reference is predicted as, (M,).
    """

    def __init__(self, sides: NDArray[np.bool_], classes: NDArray[np.int64]) -> None:
        self.n_references = len(sides)
        self.classes = classes
        self.positive = _pack(sides.T)  # (Q, words)
        self._everything = _pack(np.ones((1, self.n_references), dtype=bool))[0]

    def polytope(self, side: NDArray[np.bool_], predicted: int) -> Polytope:
        """Chooses boundaries around one point.

        D are the references predicted otherwise. While more of D are covered than
        tau, the boundary is added that loses the fewest other references for each of D
        that it loses; among those alike the one that loses most of D, then the first.

        Args:
            side (ndarray): Whether the point is on the positive side, bool (Q,).
            predicted (int): The class it is predicted as.

        Cost: O(P * M * Q / 64) words read, no loop over boundaries.
        """
        # Where the references are not with the point; past the last one no bit is set
        # in `covered`, so that what this has there does not matter.
        lost = self.positive ^ np.where(side, _ALL, np.uint64(0))[:, None]
        other = _pack((self.classes != predicted)[None])[0]
        never_lost = self._everything & ~np.bitwise_or.reduce(lost, axis=0)
        tau = _count(never_lost & other)
        covered = self._everything.copy()
        chosen = []
        while _count(covered & other) > tau:
            lost_other = _count(lost & (covered & other))
            lost_alike = _count(lost & (covered & ~other))
            with np.errstate(divide="ignore", invalid="ignore"):
                price = np.where(lost_other > 0, lost_alike / lost_other, np.inf)
            # The last key counts most; the sort is stable.
            boundary = int(np.lexsort((-lost_other, price))[0])
            chosen.append(boundary)
            covered &= ~lost[boundary]
        return Polytope(
            np.array(chosen, dtype=np.int64),
            self._unpack(covered).nonzero()[0],
            int(tau),
        )

    def _unpack(self, words: NDArray[np.uint64]) -> NDArray[np.bool_]:
        bits = np.unpackbits(words.view(np.uint8), count=self.n_references)
        return bits.astype(bool)


def _pack(rows: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Rows of bits as rows of words, zeros past the end."""
    bytes_ = np.packbits(rows, axis=1)
    padding = -bytes_.shape[1] % 8
    words = np.ascontiguousarray(np.pad(bytes_, ((0, 0), (0, padding))))
    return words.view(np.uint64)


def _count(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Bits that are set, along the last axis."""
    counts: NDArray[np.int64] = np.bitwise_count(words).sum(axis=-1, dtype=np.int64)
    return counts
