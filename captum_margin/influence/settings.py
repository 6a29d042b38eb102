"""How the questions make their graph and filter on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple, TypedDict, TypeVar, cast

import torch
from torch import Tensor

from captum_margin._keywords import refuse_unknown
from captum_margin._numbers import bounded_rows, check_span
from captum_margin.neighbors import (
    Backend,
    Neighbors,
    Recall,
    find_neighbors,
    is_exact,
)
from captum_margin.signal import Graph, graph_from_neighbors, knn_graph
from captum_margin.signal._sparse_rows import as_sparse
from captum_margin.signal.high_pass import Shift
from captum_margin.signal.protocol import Sided

__all__ = [
    "FoundGraph",
    "Settings",
    "SettingsOptions",
    "as_points",
    "neighbor_graph",
    "replaced",
]

Kind = TypeVar("Kind", bound="Settings")


@dataclass(frozen=True)
class Settings:
    r"""The options of graph and filter that every question takes by keyword.

    Args:
        k (int): Neighbours per sample, before edges are made undirected.
        metric (str): ``"euclidean"``, or ``"cosine"``: Euclidean between unit rows,
            where rows of zeros stay zero.
        bandwidth (float, optional): Width :math:`\sigma` of the Gaussian weights of
            edges :math:`\exp(-d^2 / 2 \sigma^2)`, in units of the median length of the
            edges that are longer than zero. None: all edges count the same.
        shift (str): As in :class:`~captum_margin.signal.HighPass`.
        hops (int): As in :class:`~captum_margin.signal.HighPass`.
        isolated (str): As in :class:`~captum_margin.signal.HighPass`; ``"zero"``
            scores a sample without neighbours 0.
        sided (str): As in :func:`~captum_margin.signal.influence`.
        backend (str, callable or Neighbors): What looks for the neighbours, as in
            :func:`~captum_margin.neighbors.find_neighbors`. ``"auto"``: all pairs are
            compared up to 50,000 samples; beyond, the neighbours are approximate. Or
            what that function returned for the same features and metric, and ``k``
            neighbours or more: the first ``k`` are taken, so that one search, of any
            recall, serves several questions.
    """

    k: int = 20
    metric: Literal["euclidean", "cosine"] = "euclidean"
    bandwidth: float | None = None
    shift: Shift = "random_walk"
    hops: int = 1
    isolated: Literal["keep", "zero"] = "zero"
    sided: Sided = "both"
    backend: Backend | Neighbors = "auto"


class SettingsOptions(TypedDict, total=False):
    """:class:`Settings` as keywords; texts and defaults are there."""

    k: int
    metric: Literal["euclidean", "cosine"]
    bandwidth: float | None
    shift: Shift
    hops: int
    isolated: Literal["keep", "zero"]
    sided: Sided
    backend: Backend | Neighbors


class FoundGraph(NamedTuple):
    """A graph, and what found its neighbours.

    Args:
        graph (Graph): Weights in the dtype of the features.
        backend (str): What searched.
        recall (Recall, optional): As measured; None where the search was exact.
    """

    graph: Graph
    backend: str
    recall: Recall | None


def replaced(settings: Kind, options: Mapping[str, Any], name: str) -> Kind:
    """Settings with some of them replaced.

    Raises:
        TypeError: If an option is unknown.
        ValueError: If the bandwidth is out of its range.
    """
    refuse_unknown(name, options, (option.name for option in fields(settings)))
    settings = replace(settings, **options)
    if settings.bandwidth is not None and not 0 < settings.bandwidth < torch.inf:
        raise ValueError(f"expected a finite bandwidth > 0 (got {settings.bandwidth})")
    return settings


def neighbor_graph(features: Tensor, settings: Settings) -> FoundGraph:
    """The weighted graph of the features.

    Raises:
        TypeError: As :func:`~captum_margin.neighbors.find_neighbors`.
        ValueError: As :func:`~captum_margin.neighbors.find_neighbors`, or if neighbours
            that were found before do not fit.
    """
    bandwidth, given = settings.bandwidth, settings.backend
    kind: Literal["none", "gaussian"] = "none" if bandwidth is None else "gaussian"
    backend, recall = "exact", None
    check_span(features, settings.metric)
    if (
        not isinstance(given, Neighbors)
        and as_sparse(features) is None
        and is_exact(len(features), backend=given)
    ):
        points = as_points(features, settings)
        edge_index, weight = knn_graph(points, settings.k, weight=kind)
    else:
        found = _found(features, settings)
        backend, recall = found.backend, found.recall
        edge_index, weight = graph_from_neighbors(
            found.indices, found.distances, weight=kind
        )
    if bandwidth is not None:
        # From a width of one median edge to that of several, or of a part of one.
        weight = weight.pow(bandwidth**-2)
    dtype = (
        features.dtype if features.is_floating_point() else torch.get_default_dtype()
    )
    # Of the dtype that is kept: a long edge stays an edge.
    weight = weight.to(dtype).clamp(min=torch.finfo(dtype).tiny)
    return FoundGraph(Graph(edge_index, weight, len(features)), backend, recall)


def _found(features: Tensor, settings: Settings) -> Neighbors:
    """The k nearest neighbours, of those that were found before or of a search."""
    given, k = settings.backend, settings.k
    if not isinstance(given, Neighbors):
        return find_neighbors(features, k, metric=settings.metric, backend=given)
    shape = tuple(given.indices.shape)
    if len(shape) != 2 or shape[0] != len(features) or shape[1] < k:
        raise ValueError(
            f"expected neighbours of shape (N, k) = ({len(features)}, {k}) or wider as "
            f"backend (got {shape}); find them for these features with k={k} or more"
        )
    indices, distances = (part[:, :k].to(features.device) for part in given[:2])
    return Neighbors(indices, distances, given.backend, given.recall)


def as_points(features: Tensor, settings: Settings) -> Tensor:
    """Points (N, F), in double precision, whose Euclidean distances are the metric's.

    Sparse ones stay so.

    For the cosine: unit rows. A row of zeros (an empty document, a dead unit) has no
    direction. It stays where it is, as far from every direction, and beside others of
    its kind.

    Raises:
        ValueError: If the metric is unknown.
    """
    if settings.metric not in ("euclidean", "cosine"):
        raise ValueError(
            f"expected metric 'euclidean' or 'cosine' (got {settings.metric!r})"
        )
    dtype = torch.float32 if features.device.type == "mps" else torch.float64
    points = features.to(dtype)
    if settings.metric == "euclidean":
        return points
    rows = as_sparse(points)
    if rows is not None:
        rows = rows.bounded()
        length = rows.square_norms().sqrt()
        return cast(Tensor, rows.scaled(1 / length.where(length > 0, 1)))
    points = bounded_rows(points)
    norms: Tensor = points.norm(dim=1, keepdim=True)
    directions: Tensor = points / norms.where(norms > 0, 1)
    return directions
