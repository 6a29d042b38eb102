"""What a neighbour search is and what it returns."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from torch import Tensor

__all__ = ["NeighborSearch", "Neighbors", "Recall"]


class Recall(NamedTuple):
    """A share of true neighbours, measured on a sample: :func:`recall_at_k`.

    Args:
        value (float): Within [0, 1].
        standard_error (float): Of the sample; 0 where every row was checked.
    """

    value: float
    standard_error: float


class Neighbors(NamedTuple):
    """The nearest other points of each point: :func:`find_neighbors`.

    Args:
        indices (Tensor): Shape (N, k), int64, the nearest first; -1 where there are no
            more. No row lists itself or another row twice.
        distances (Tensor): Euclidean, of unit rows under ``"cosine"``, (N, k) float32;
            infinity where there are no more.
        backend (str): What searched.
        recall (Recall, optional): As measured; None where the search is exact.
    """

    indices: Tensor
    distances: Tensor
    backend: str
    recall: Recall | None


class NeighborSearch(Protocol):
    """Anything that finds neighbours: ``search(X, k) -> (indices, distances)``.

    As in :class:`Neighbors`; ``X`` is what was given to
    :func:`~captum_margin.neighbors.find_neighbors`.
    """

    def __call__(self, X: Any, k: int) -> tuple[Tensor, Tensor]:
        """Finds the nearest others of each row.

        Args:
            X (Any): N points.
            k (int): Neighbours, at least 1.

        Returns:
            tuple[Tensor, Tensor]: Indices (N, k), -1 where there are no more, and
            distances (N, k).
        """
        ...
