"""One door to all searches: choose, search, check what was found."""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal

import torch
from torch import Tensor

from captum_margin.neighbors.cell_search import CellIndex, CellSearch
from captum_margin.neighbors.exact import ExactSearch
from captum_margin.neighbors.faiss_search import FaissSearch
from captum_margin.neighbors.pynndescent_search import PyNNDescentSearch
from captum_margin.neighbors.recall import nearest_to, recall_at_k
from captum_margin.neighbors.result import Neighbors, NeighborSearch
from captum_margin.neighbors.rows import Metric, Rows, check_search

__all__ = ["Backend", "find_neighbors", "is_exact", "neighbors_among"]

Backend = Literal["auto", "exact", "cells", "faiss", "pynndescent"] | NeighborSearch

# Rows up to which all pairs are compared; chosen with bench_neighbors.
EXACT_UP_TO = 20_000
# Queries up to which reading all rows costs less than putting them into cells.
_FEW_QUERIES = 5_000
_QUERIES = 1024


def find_neighbors(
    X: Any,
    k: int,
    *,
    metric: Metric = "euclidean",
    backend: Backend = "auto",
    recall: float = 0.95,
    seed: int = 0,
    show_progress: bool = False,
) -> Neighbors:
    """Finds the k nearest other rows of each row of X, and checks that it did.

    Args:
        X (Tensor, ndarray, memmap or SciPy sparse matrix): Finite features (N, F).
            They are read in blocks: of a memory map only a float32 copy is in memory.
        k (int): Neighbours, at least 1.
        metric (str, optional): ``"euclidean"``, or ``"cosine"``: Euclidean between unit
            rows, where rows of zeros stay zero. Default: ``"euclidean"``.
        backend (str or callable, optional): ``"exact"``: all pairs. ``"cells"``: cells
            of nearby points (:class:`CellSearch`). ``"faiss"``, ``"pynndescent"``:
            these, where installed. ``"auto"``: exact up to 20,000 rows and for sparse
            ones, beyond that cells. Or a :class:`NeighborSearch` of your own.
            Default: ``"auto"``.
        recall (float, optional): Share of the true neighbours to be found, within
            (0, 1]. Default: 0.95.
        seed (int, optional): The same seed, the same result. Default: 0.
        show_progress (bool, optional): A bar, with ``"cells"``. Default: False.

    Returns:
        Neighbors: Indices, distances, what searched, and the recall on 1,000 rows.

    Warns:
        UserWarning: If the recall is below what was asked for by more than two standard
            errors, after one more attempt where the backend can try harder.

    Raises:
        TypeError: If X does not hold real numbers or ``k`` is no integer.
        ValueError: If X is not (N, F), not finite, or an option is out of its range; if
            a backend is not installed.

    Cost: that of the backend, and O(1000 · N · F) for the check.

    >>> find_neighbors(torch.tensor([[0.0], [1.0], [3.0]]), k=1).indices.tolist()
    [[1], [0], [1]]
    """
    if not 0 < recall <= 1:
        raise ValueError(f"expected recall in (0, 1] (got {recall})")
    rows = Rows(X, metric)
    check_search(rows, k)
    search = _search(rows, backend, metric, recall, seed, show_progress)
    name = getattr(search, "name", type(search).__name__)
    indices, distances = _checked(search, X, k, len(rows))
    if isinstance(search, ExactSearch):
        return Neighbors(indices, distances, name, None)
    measured = recall_at_k(X, indices, metric=metric, seed=seed + 2)
    if isinstance(search, CellSearch | FaissSearch) and _missed(measured, recall):
        # As much again of what is missing.
        search.recall = min(1.0, 2 * recall - measured.value)
        indices, distances = search(X, k)
        measured = recall_at_k(X, indices, metric=metric, seed=seed + 2)
    if _missed(measured, recall):
        warnings.warn(
            f"neighbours by {name} have a recall of {measured.value:.3f} "
            f"(± {measured.standard_error:.3f}), not {recall}; use backend='exact' or "
            "another one",
            stacklevel=2,
        )
    return Neighbors(indices, distances, name, measured)


def neighbors_among(
    X: Any,
    queries: Any,
    k: int,
    *,
    metric: Metric = "euclidean",
    backend: Backend = "auto",
    recall: float = 0.95,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Finds the k nearest rows of X of each query; queries are no rows of X.

    Args:
        X (Tensor, ndarray, memmap or SciPy sparse matrix): Features (N, F).
        queries: The same of shape (Q, F).
        k (int): Neighbours, at least 1; at most N are found.
        metric (str, optional): As in :func:`find_neighbors`.
            Default: ``"euclidean"``.
        backend (str or callable, optional): ``"cells"``, or ``"auto"`` for more than
            5,000 queries among more than 20,000 rows: as in :func:`find_neighbors`.
            Everything else: exact, equal distances by index. Default: ``"auto"``.
        recall (float, optional): As in :func:`find_neighbors`. Default: 0.95.
        seed (int, optional): As in :func:`find_neighbors`. Default: 0.

    Returns:
        Indices (Q, min(k, N)) int64, nearest first, and distances in float32.

    Raises:
        TypeError: As :func:`find_neighbors`.
        ValueError: As :func:`find_neighbors`, or if the widths differ.

    Cost: O(Q · N · F), or that of the cells and O(Q · M · F) with M compared rows.

    >>> x = torch.tensor([[0.0], [2.0]])
    >>> neighbors_among(x, torch.tensor([[1.5]]), k=1)[0].tolist()
    [[1]]
    """
    rows, others = Rows(X, metric), Rows(queries, metric)
    check_search(rows, k)
    if rows.width != others.width:
        raise ValueError(
            f"expected queries of shape (Q, {rows.width}) (got {len(others)}, "
            f"{others.width})"
        )
    k = min(k, len(rows))
    many = len(others) > _FEW_QUERIES and not is_exact(len(rows), rows.sparse)
    if len(rows) > k and (backend == "cells" or (backend == "auto" and many)):
        index = CellIndex(rows, seed)
        count = index.choose_count(rows, k, recall, seed, others)
        parts = [
            index.neighbors(others[block].to(rows.device), k, count)
            for block in others.blocks()
        ]
    else:
        parts = [
            nearest_to(rows, others[block].to(rows.device), k)
            for block in others.blocks(_QUERIES)
        ]
    near, distance = zip(*parts, strict=True)
    return torch.cat(near), torch.cat(distance)


def is_exact(n: int, sparse: bool = False, backend: Backend = "auto") -> bool:
    """Whether :func:`find_neighbors` compares all pairs of n rows."""
    return backend == "exact" or (backend == "auto" and (sparse or n <= EXACT_UP_TO))


def _search(
    rows: Rows,
    backend: Backend,
    metric: Metric,
    recall: float,
    seed: int,
    show_progress: bool,
) -> NeighborSearch:
    if callable(backend):
        return backend
    if is_exact(len(rows), rows.sparse, backend):
        return ExactSearch(metric)
    if backend in ("auto", "cells"):
        return CellSearch(metric, recall=recall, seed=seed, show_progress=show_progress)
    if backend == "faiss":
        return FaissSearch(metric, recall=recall, seed=seed)
    if backend == "pynndescent":
        return PyNNDescentSearch(metric, seed=seed)
    raise ValueError(
        "expected backend 'auto', 'exact', 'cells', 'faiss', 'pynndescent' or a "
        f"callable (got {backend!r})"
    )


def _missed(measured: Any, recall: float) -> bool:
    value, error = measured
    return not math.isfinite(value) or value + 2 * error < recall


def _checked(search: NeighborSearch, X: Any, k: int, n: int) -> tuple[Tensor, Tensor]:
    """What a search found, if it is of the agreed form."""
    indices, distances = search(X, k)
    for part, name in ((indices, "indices"), (distances, "distances")):
        if not isinstance(part, Tensor) or tuple(part.shape) != (n, k):
            shape = tuple(getattr(part, "shape", ()))
            raise ValueError(
                f"expected {name} of shape (N, k) = ({n}, {k}) as a tensor from the "
                f"backend (got {type(part).__name__} {shape})"
            )
    indices = indices.long()
    if indices.numel() and not -1 <= int(indices.min()) <= int(indices.max()) < n:
        raise ValueError(f"expected indices within [-1, {n}) from the backend")
    own = torch.arange(n, device=indices.device)[:, None]
    if bool((indices == own).any()):
        raise ValueError("expected no row among its own neighbours from the backend")
    return indices, distances
