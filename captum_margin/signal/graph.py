"""Step 2, the graph: from features or given edges to an undirected weighted graph.

Nodes are rows of a feature matrix; an edge joins two nodes when either is among the
k nearest neighbours of the other. Every function returns the layout of PyTorch
Geometric: ``edge_index`` (2, E), row 0 the sources, row 1 the targets, both directions
of an edge present, no self loops, no parallel edges, sorted by target and then by
source, and ``edge_weight`` (E,), which is symmetric.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from captum_margin._numbers import bounded_rows, check_span
from captum_margin._whole_numbers import is_whole
from captum_margin.signal._neighbors import nearest, nearest_1d
from captum_margin.signal._sparse import csr_from_edge_index

__all__ = [
    "Graph",
    "as_undirected",
    "check_graph",
    "graph_from_neighbors",
    "knn_graph",
    "knn_graph_1d",
    "to_csr",
]


class Graph(NamedTuple):
    """An undirected graph as the other steps take it: :func:`as_undirected`.

    Args:
        edge_index (Tensor): Shape (2, E), both directions of every edge.
        edge_weight (Tensor or None): Shape (E,), non-negative; None for ones.
        num_nodes (int): N, which counts isolated nodes too.
    """

    edge_index: Tensor
    edge_weight: Tensor | None
    num_nodes: int


def knn_graph(
    x: Tensor,
    k: int,
    *,
    metric: Literal["euclidean", "cosine"] = "euclidean",
    weight: Literal["none", "gaussian"] = "none",
    bandwidth: float | None = None,
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Exact k-nearest-neighbour graph, made undirected by union.

    A node is never its own neighbour, also among duplicates. Equal distances are
    broken by the lower index, so the result does not depend on ``chunk_size`` or on
    the device. With k >= N the graph is complete; with N = 1 it has no edges.

    Args:
        x (Tensor): Features of shape (N, F), N >= 1, F >= 1; floating, integer or bool.
        k (int): Neighbours per node, at least 1, before the union.
        metric (str, optional): ``"euclidean"``, or ``"cosine"``: 1 - cos, which orders
            pairs as the Euclidean distance of the unit vectors does.
            Default: ``"euclidean"``.
        weight (str, optional): ``"none"``: ones. ``"gaussian"``:
            :math:`\exp(-d^2 / 2 \sigma^2)` of the Euclidean distance d (of the unit
            vectors under ``"cosine"``). A weight that would underflow is the smallest
            normal number instead, so that no node loses its edges. Default: ``"none"``.
        bandwidth (float, optional): :math:`\sigma`. Default: None, the median length of
            the edges that are longer than zero (1 if there are none).
        chunk_size (int, optional): Rows of distances held at once. Default: None, about
            64 MiB of them.

    Returns:
        ``edge_index`` (2, E) with N·k <= E <= 2·N·k for k < N, and ``edge_weight``
        (E,) in (0, 1], of the dtype of ``x``, or the default dtype if ``x`` is not
        floating. No gradient reaches ``x``.

    Raises:
        TypeError: If ``x`` is no real tensor or ``k`` no integer.
        ValueError: If ``x`` has another shape, holds NaN or infinity, or has a zero row
            under ``"cosine"``; if an option is unknown or out of its range.

    Cost: O(N² F) time; O(chunk_size · N + N · k + N · F) memory, never N by N. The
    neighbours are screened with a matrix product, in float32 where that suffices, and
    decided by differences in float64, so cancellation cannot swap two of them.

    >>> edge_index, edge_weight = knn_graph(torch.tensor([[0.0], [1.0], [3.0]]), k=1)
    >>> edge_index.tolist()
    [[1, 0, 2, 1], [0, 1, 1, 2]]
    """
    _check_options(k, weight, bandwidth)
    if metric not in ("euclidean", "cosine"):
        raise ValueError(f"expected metric 'euclidean' or 'cosine' (got {metric!r})")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"expected chunk_size >= 1 (got {chunk_size})")
    points = _as_points(x, metric)  # (N, F)
    if x.dim() != 2 or 0 in x.shape:
        raise ValueError(
            f"expected features of shape (N, F) with N, F >= 1 (got {tuple(x.shape)}); "
            "flatten each sample to one row, give one number per sample as x[:, None]"
        )
    check_span(x, metric)
    if metric == "cosine":
        points = _directions(points)
    most = points.size(0) - 1
    node, neighbor, square = nearest(points, min(k, most), chunk_size)
    return _union(node, neighbor, square, x, weight, bandwidth)


def graph_from_neighbors(
    indices: Tensor,
    distances: Tensor,
    *,
    weight: Literal["none", "gaussian"] = "none",
    bandwidth: float | None = None,
) -> tuple[Tensor, Tensor]:
    """The graph of neighbours that were found elsewhere, made undirected by union.

    Args:
        indices (Tensor): Shape (N, k), neighbours of each node; -1 for none.
        distances (Tensor): Their distances, (N, k), at least 0, finite but at -1.
        weight (str, optional): As in :func:`knn_graph`. Default: ``"none"``.
        bandwidth (float, optional): As in :func:`knn_graph`. Default: None.

    Returns:
        As :func:`knn_graph`, weights in the dtype of the distances; where i and j list
        each other the shorter distance counts.

    Raises:
        TypeError: As :func:`check_graph`.
        ValueError: As :func:`check_graph`, or if the shapes differ.

    Cost: O(N k log(N k)) time, O(N k) memory.

    >>> rows = torch.tensor([[1], [0], [1]]), torch.tensor([[1.0], [1.0], [2.0]])
    >>> graph_from_neighbors(*rows)[0].tolist()
    [[1, 0, 2, 1], [0, 1, 1, 2]]
    """
    _check_options(1, weight, bandwidth)
    if indices.dim() != 2 or indices.shape != distances.shape:
        raise ValueError(
            "expected indices and distances of one shape (N, k) "
            f"(got {tuple(indices.shape)} and {tuple(distances.shape)})"
        )
    own = torch.arange(len(indices), device=indices.device)[:, None]
    is_neighbor = (indices != -1) & (indices != own)
    node, slot = is_neighbor.nonzero(as_tuple=True)
    neighbor, length = indices[node, slot], distances[node, slot]
    length = length if length.is_mps else length.double()  # squares need room
    square = length.square().copysign(length)  # to be refused if it is negative
    check_graph(torch.stack([node, neighbor]), square, len(indices))
    return _union(node, neighbor.long(), square, distances, weight, bandwidth)


def knn_graph_1d(
    values: Tensor,
    k: int,
    *,
    weight: Literal["none", "gaussian"] = "none",
    bandwidth: float | None = None,
) -> tuple[Tensor, Tensor]:
    """k-nearest-neighbour graph of numbers on a line, by sorting.

    The same graph as ``knn_graph(values[:, None], k)``, ties included, without any
    pairwise distances. (Two different distances that float64 rounds to one number are
    the exception: they count as a tie there and may not here.)

    Args:
        values (Tensor): Shape (N,), N >= 1.
        k (int): As in :func:`knn_graph`.
        weight (str, optional): As in :func:`knn_graph`. Default: ``"none"``.
        bandwidth (float, optional): As in :func:`knn_graph`. Default: None.

    Returns:
        ``edge_index`` (2, E) and ``edge_weight`` (E,), as :func:`knn_graph`.

    Raises:
        TypeError: As :func:`knn_graph`.
        ValueError: As :func:`knn_graph`.

    Cost: O(N log N + N k log k) time, O(N k) memory.

    >>> knn_graph_1d(torch.tensor([0.0, 3.0, 1.0]), k=1)[0].tolist()
    [[2, 2, 0, 1], [0, 1, 2, 2]]
    """
    _check_options(k, weight, bandwidth)
    points = _as_points(values)
    if values.dim() != 1 or values.numel() == 0:
        raise ValueError(
            f"expected values of shape (N,) with N >= 1 (got {tuple(values.shape)}); "
            "use knn_graph for several features"
        )
    most = points.numel() - 1
    node, neighbor, square = nearest_1d(points, min(k, most))
    return _union(node, neighbor, square, values, weight, bandwidth)


def as_undirected(
    edge_index: Tensor, edge_weight: Tensor | None = None, num_nodes: int | None = None
) -> Graph:
    """A given graph, brought to the form the other steps expect.

    Adds missing directions, removes self loops, merges parallel edges. Of several
    weights of an edge the largest is kept: an unweighted graph stays unweighted.

    Args:
        edge_index (Tensor): Shape (2, E), integer, in any order.
        edge_weight (Tensor, optional): Shape (E,), finite, non-negative. Default: None.
        num_nodes (int, optional): N. Default: None, the largest index + 1; pass it when
            the last nodes may be isolated.

    Returns:
        Graph: Sorted by target; ``edge_weight`` is None where none was given.

    Raises:
        TypeError: As :func:`check_graph`.
        ValueError: As :func:`check_graph`.

    Cost: O(E log E) time, O(E) memory.

    >>> as_undirected(torch.tensor([[0, 0, 2], [1, 1, 2]])).edge_index.tolist()
    [[1, 0], [0, 1]]
    """
    if num_nodes is None:
        num_nodes = int(edge_index.max()) + 1 if edge_index.numel() else 0
    check_graph(edge_index, edge_weight, num_nodes)
    source, target = edge_index.long()
    proper = source != target
    source, target = source[proper], target[proper]
    value = None if edge_weight is None else edge_weight[proper]
    edge_index, value = _merge(source, target, value, num_nodes, "amax")
    return Graph(edge_index, value, num_nodes)


def to_csr(edge_index: Tensor, edge_weight: Tensor | None, num_nodes: int) -> Tensor:
    """The graph as a sparse matrix, which the filter can use again and again.

    ``HighPass()(x, to_csr(*graph))`` equals ``HighPass()(x, graph.edge_index,
    graph.edge_weight)`` without a preparation at every call.

    Args:
        edge_index (Tensor): Shape (2, E), or an ``EdgeIndex``; fastest if sorted by
            target.
        edge_weight (Tensor or None): Shape (E,), None for ones.
        num_nodes (int): N.

    Returns:
        Tensor: ``adj_t``, a sparse CSR tensor of shape (N, N) whose rows are targets,
        with 32-bit indices where they suffice; its dtype is that of the weights, or
        the default dtype.

    Raises:
        TypeError: As :func:`check_graph`.
        ValueError: As :func:`check_graph`, except that weights may be negative.

    Cost: O(E), or O(E log E) if not sorted by target; O(E) memory.

    >>> to_csr(torch.tensor([[1, 0], [0, 1]]), None, 2).to_dense().tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    check_graph(edge_index, edge_weight, num_nodes, signed=True)
    dtype = torch.get_default_dtype() if edge_weight is None else edge_weight.dtype
    csr = csr_from_edge_index(edge_index, edge_weight, num_nodes, dtype)
    assert csr is not None  # None stands for "not sorted", and it may sort here
    return csr


def check_graph(
    edge_index: Tensor,
    edge_weight: Tensor | None,
    num_nodes: int,
    *,
    signed: bool = False,
) -> None:
    """Raises a clear error unless edges and weights describe a graph on N nodes.

    Args:
        edge_index (Tensor): To be an integer tensor of shape (2, E) within [0, N).
        edge_weight (Tensor or None): To be real, finite and non-negative, (E,).
        num_nodes (int): N.
        signed (bool, optional): Allow negative weights. Default: False.

    Raises:
        TypeError: If ``edge_index`` is not an integer tensor.
        ValueError: If a shape, an index or a weight is wrong; the message says which.

    Cost: one pass over the edges, no copy.

    >>> check_graph(torch.tensor([[0, 1], [1, 0]]), None, 2)
    """
    _check_edges(edge_index, num_nodes)
    if edge_weight is None:
        return
    if edge_weight.shape != edge_index.shape[1:]:
        raise ValueError(
            f"expected edge_weight of shape (E,) = ({edge_index.size(1)},) "
            f"(got {tuple(edge_weight.shape)})"
        )
    check_weights(edge_weight, signed=signed)


def _check_edges(edge_index: Tensor, num_nodes: int) -> None:
    """The part of :func:`check_graph` for the edges."""
    if not isinstance(edge_index, Tensor) or edge_index.dtype not in (
        torch.int64,
        torch.int32,
    ):
        kind = getattr(edge_index, "dtype", type(edge_index).__name__)
        raise TypeError(f"expected edge_index of dtype torch.int64 (got {kind})")
    if edge_index.dim() != 2 or edge_index.size(0) != 2:
        raise ValueError(
            f"expected edge_index of shape (2, E) (got {tuple(edge_index.shape)}); "
            "transpose it if it lists one edge per row"
        )
    if edge_index.numel() == 0:
        return
    low, high = int(edge_index.min()), int(edge_index.max())
    if low < 0 or high >= num_nodes:
        raise ValueError(
            f"expected node indices within [0, {num_nodes}) (got {low} to {high}); "
            "check that the signal and the graph have the same nodes"
        )


def check_weights(edge_weight: Tensor, *, signed: bool = False) -> bool:
    """The part of :func:`check_graph` for the weights; returns if all are equal."""
    if edge_weight.numel() == 0:
        return True
    # Extremes need no mask of E and let NaN through to the comparison.
    low, high = (float(extreme) for extreme in edge_weight.detach().aminmax())
    if not (low > -torch.inf and high < torch.inf):
        raise ValueError("expected finite edge weights (got NaN or infinity)")
    if low < 0 and not signed:
        raise ValueError(
            f"expected non-negative edge weights (got {low:g}); a similarity must not "
            "be negative: clamp or shift it first"
        )
    dtype = edge_weight.dtype
    if dtype in (torch.float32, torch.float64):  # sums of others are in single
        largest = max(abs(low), abs(high))
        if largest > torch.finfo(dtype).max / edge_weight.numel():
            raise ValueError(
                f"expected edge weights of finite sums (got weights of up to "
                f"{largest:.3g}); divide them by {largest:.1g} first"
            )
    return low == high


def _check_options(k: int, weight: str, bandwidth: float | None) -> None:
    if not is_whole(k):
        raise TypeError(f"expected an integer k (got {k!r})")
    if k < 1:
        raise ValueError(f"expected k >= 1 neighbours (got {k})")
    if weight not in ("none", "gaussian"):
        raise ValueError(f"expected weight 'none' or 'gaussian' (got {weight!r})")
    if bandwidth is not None and not 0 < bandwidth < torch.inf:
        raise ValueError(f"expected a finite bandwidth > 0 (got {bandwidth})")


def _as_points(x: Tensor, metric: str = "euclidean") -> Tensor:
    """The features in the precision in which distances are compared."""
    if not isinstance(x, Tensor) or x.is_complex():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"expected a tensor of real features (got {kind})")
    # The mps device has no float64; the screening slack follows the precision.
    points = x.detach().to(torch.float32 if x.is_mps else torch.float64)
    if metric == "cosine" and points.dim() == 2:
        points = bounded_rows(points)
    if not bool(points.square().sum().isfinite()):
        raise ValueError(
            "expected finite features (got NaN, infinity or numbers whose squares "
            "overflow); clean or rescale them first"
        )
    return points


def _directions(points: Tensor) -> Tensor:
    """Rows of unit length, whose Euclidean distances order pairs as 1 - cos does."""
    norms = points.norm(dim=1)
    if not bool(norms.all()):
        zero = (norms == 0).nonzero()
        raise ValueError(
            f"expected non-zero rows for metric='cosine' (got {len(zero)}, the "
            f"first at row {int(zero[0])}); drop them or use 'euclidean'"
        )
    directions: Tensor = points / norms[:, None]
    return directions


def _union(
    node: Tensor,
    neighbor: Tensor,
    square: Tensor,
    x: Tensor,
    weight: str,
    bandwidth: float | None,
) -> tuple[Tensor, Tensor]:
    """Undirected edges and their weights from directed edges and squared distances.

    Where both ends list each other the shorter distance counts; the weights are of the
    dtype of ``x``.
    """
    edge_index, merged = _merge(node, neighbor, square, x.size(0), "amin")
    assert merged is not None  # distances went in
    dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
    if weight == "none":
        return edge_index, torch.ones_like(merged, dtype=dtype)
    if bandwidth is None:
        lengths = merged[merged > 0].sqrt()
        bandwidth = float(lengths.median()) if lengths.numel() else 1.0
    kernel = torch.exp(-0.5 * (merged.sqrt() / bandwidth).square())
    return edge_index, kernel.to(dtype).clamp_(min=torch.finfo(dtype).tiny)


def _merge(
    source: Tensor, target: Tensor, value: Tensor | None, num_nodes: int, reduce: str
) -> tuple[Tensor, Tensor | None]:
    """Both directions of every edge once, by target and source; values are reduced."""
    n = max(num_nodes, 1)
    key = torch.cat([target * n + source, source * n + target])
    key, place = torch.unique(key, return_inverse=True)
    edge_index = torch.stack([key % n, key // n])
    if value is None:
        return edge_index, None
    merged = value.new_empty(key.numel()).scatter_reduce_(
        0, place, torch.cat([value, value]), reduce, include_self=False
    )
    return edge_index, merged
