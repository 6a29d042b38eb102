"""One door to all searches: choose, search, check what was found."""

from __future__ import annotations

import math
import warnings
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor

from captum_margin._numbers import check_span
from captum_margin.neighbors.exact import ExactSearch
from captum_margin.neighbors.faiss_search import FaissSearch
from captum_margin.neighbors.pynndescent_search import PyNNDescentSearch
from captum_margin.neighbors.recall import nearest_to, recall_at_k
from captum_margin.neighbors.result import Neighbors, NeighborSearch
from captum_margin.neighbors.rows import Metric, Rows, check_search

__all__ = ["Backend", "find_neighbors", "is_exact", "neighbors_among"]

Backend = Literal["auto", "exact", "faiss", "pynndescent"] | NeighborSearch

# Rows up to which all pairs are compared; chosen with bench_neighbors.
EXACT_UP_TO = 50_000
# Queries up to which reading all rows costs less than putting them into lists.
_FEW_QUERIES = 5_000
_QUERIES = 1024
# Products of numbers that the exact search takes a minute for; of bench_neighbors.
_PAIRS_A_MINUTE = 1e12

_BACKENDS = ("auto", "exact", "faiss", "pynndescent")
_UNKNOWN = (
    "expected backend 'auto', 'exact', 'faiss', 'pynndescent' or a callable (got {!r})"
)


_LONGEST = 2.0**100  # distances are returned in single precision


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
        backend (str or callable, optional): ``"exact"``: all pairs. ``"faiss"``,
            ``"pynndescent"``: these, where installed. ``"auto"``: exact up to 50,000
            rows and for sparse ones, beyond that faiss if it is installed, else
            pynndescent, else exact. Or a :class:`NeighborSearch` of your own.
            Default: ``"auto"``.
        recall (float, optional): Share of the true neighbours to be found, within
            (0, 1]. Default: 0.95.
        seed (int, optional): The same seed, the same result. Default: 0.
        show_progress (bool, optional): A bar, with ``"faiss"``. Default: False.

    Returns:
        Neighbors: Indices, distances, what searched, and the recall on 1,000 rows.

    Warns:
        UserWarning: If all pairs of very many rows are compared for want of a library;
            if the recall is below what was asked for by more than two standard
            errors, after one more attempt where the backend can try harder.

    Raises:
        TypeError: If X does not hold real numbers or ``k`` is no integer.
        ValueError: If X is not (N, F), not finite, or an option is out of its range; if
            a backend is not installed.

    Cost: that of the backend, and O(1000 · N · F) for the check.

    >>> find_neighbors(torch.tensor([[0.0], [1.0], [3.0]]), k=1).indices.tolist()
    [[1], [0], [1]]
    """
    _check_recall(recall)
    rows = Rows(X, metric)
    check_search(rows, k)
    exact = is_exact(len(rows), rows.sparse, backend)
    check_span(rows.data, metric, single=not exact, most=_LONGEST)
    search = _search(rows, backend, metric, recall, seed, show_progress)
    name = getattr(search, "name", type(search).__name__)
    indices, distances = _checked(search, X, k, len(rows))
    if isinstance(search, ExactSearch):
        return Neighbors(indices, distances, name, None)
    measured = recall_at_k(X, indices, metric=metric, seed=seed + 2)
    if isinstance(search, FaissSearch) and _missed(measured, recall):
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
        queries (Tensor, ndarray, memmap or SciPy sparse matrix): Of shape (Q, F).
        k (int): Neighbours, at least 1; at most N are found.
        metric (str, optional): As in :func:`find_neighbors`.
            Default: ``"euclidean"``.
        backend (str or callable, optional): ``"faiss"``, or ``"auto"`` for more than
            5,000 queries among more than 50,000 rows where faiss is installed: as in
            :func:`find_neighbors`. Everything else: exact, equal distances by index.
            Default: ``"auto"``.
        recall (float, optional): As in :func:`find_neighbors`. Default: 0.95.
        seed (int, optional): As in :func:`find_neighbors`. Default: 0.

    Returns:
        Indices (Q, min(k, N)) int64, nearest first, and distances in float32.

    Raises:
        TypeError: As :func:`find_neighbors`.
        ValueError: As :func:`find_neighbors`, or if the widths differ.

    Cost: O(Q · N · F), or that of the lists and O(Q · M · F) with M compared rows.

    >>> x = torch.tensor([[0.0], [2.0]])
    >>> neighbors_among(x, torch.tensor([[1.5]]), k=1)[0].tolist()
    [[1]]
    """
    _check_recall(recall)
    if not callable(backend) and backend not in _BACKENDS:
        raise ValueError(_UNKNOWN.format(backend))
    rows, others = Rows(X, metric), Rows(queries, metric)
    check_search(rows, k)
    if rows.width != others.width:
        raise ValueError(
            f"expected queries of shape (Q, {rows.width}) (got {len(others)}, "
            f"{others.width})"
        )
    check_span(rows.data, metric, single=True)
    k = min(k, len(rows))
    many = len(others) > _FEW_QUERIES and not is_exact(len(rows), rows.sparse)
    if backend == "faiss" or (backend == "auto" and many and find_spec("faiss")):
        return FaissSearch(metric, recall=recall, seed=seed).among(X, queries, k)
    parts = [
        nearest_to(rows, others[block].to(rows.device), k)
        for block in others.blocks(_QUERIES)
    ]
    near, distance = zip(*parts, strict=True)
    return torch.cat(near), torch.cat(distance)


def is_exact(n: int, sparse: bool = False, backend: Backend = "auto") -> bool:
    """Whether :func:`find_neighbors` compares all pairs of n rows.

    Args:
        n (int): N.
        sparse (bool, optional): Whether they are sparse. Default: False.
        backend (str or callable, optional): As there. Default: ``"auto"``.

    Returns:
        bool: Whether that is the choice; it is done in any case, with a warning, where
        no library is installed.

    Cost: none.

    >>> is_exact(1000), is_exact(10**9), is_exact(10**9, sparse=True)
    (True, False, True)
    """
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
    if backend == "auto":
        backend = _choice(rows)
    if backend == "faiss":
        return FaissSearch(
            metric, recall=recall, seed=seed, show_progress=show_progress
        )
    if backend == "pynndescent":
        return PyNNDescentSearch(metric, seed=seed)
    if backend == "exact":
        return ExactSearch(metric)
    raise ValueError(_UNKNOWN.format(backend))


def _choice(rows: Rows) -> Backend:
    """What suits so many rows, of what is installed."""
    if is_exact(len(rows), rows.sparse):
        return "exact"
    if find_spec("faiss"):
        return "faiss"
    if find_spec("pynndescent"):
        return "pynndescent"
    pairs = len(rows) ** 2 * rows.width
    warnings.warn(
        f"all pairs of {len(rows):,} rows are compared, about "
        f"{pairs / _PAIRS_A_MINUTE:,.0f} minutes on one core: neither faiss nor "
        "pynndescent is installed; pip install captum-margin[scale]",
        stacklevel=4,
    )
    return "exact"


def _check_recall(recall: float) -> None:
    if not 0 < recall <= 1:
        raise ValueError(f"expected recall in (0, 1] (got {recall})")


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
