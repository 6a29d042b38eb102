"""Nearest neighbours of many points, behind one small protocol.

A search is anything called as ``search(X, k)`` that returns indices (N, k) and
distances (N, k). :func:`find_neighbors` chooses one, and checks on a sample of the rows
what it found (:func:`recall_at_k`); :func:`neighbors_among` is for other points:

- :class:`ExactSearch`: all pairs, deterministic, ties by index;
- :class:`FaissSearch`: lists of near points, by k-means of faiss;
- :class:`PyNNDescentSearch`: a graph that gets better, for many metrics.
"""

from captum_margin.neighbors.exact import ExactSearch
from captum_margin.neighbors.faiss_search import FaissSearch
from captum_margin.neighbors.find import (
    Backend,
    find_neighbors,
    is_exact,
    neighbors_among,
)
from captum_margin.neighbors.pynndescent_search import PyNNDescentSearch
from captum_margin.neighbors.recall import recall_at_k
from captum_margin.neighbors.result import Neighbors, NeighborSearch, Recall

__all__ = [
    "Backend",
    "ExactSearch",
    "FaissSearch",
    "NeighborSearch",
    "Neighbors",
    "PyNNDescentSearch",
    "Recall",
    "find_neighbors",
    "is_exact",
    "neighbors_among",
    "recall_at_k",
]
