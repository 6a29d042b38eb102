"""How the questions make their graph and filter on it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from captum_margin.neighbors import Backend, find_neighbors, is_exact
from captum_margin.signal import Graph, graph_from_neighbors, knn_graph
from captum_margin.signal.high_pass import Shift
from captum_margin.signal.protocol import Sided

__all__ = ["Settings", "as_points", "neighbor_graph", "replaced"]

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
        backend (str or callable): As in
            :func:`~captum_margin.neighbors.find_neighbors`: what looks for the
            neighbours. ``"auto"``: all pairs are compared up to 20,000 samples; beyond,
            the neighbours are approximate.
    """

    k: int = 20
    metric: Literal["euclidean", "cosine"] = "euclidean"
    bandwidth: float | None = None
    shift: Shift = "random_walk"
    hops: int = 1
    isolated: Literal["keep", "zero"] = "zero"
    sided: Sided = "both"
    backend: Backend = "auto"


def replaced(settings: Kind, options: dict[str, Any], name: str) -> Kind:
    """Settings with some of them replaced.

    Raises:
        TypeError: If an option is unknown.
        ValueError: If the bandwidth is out of its range.
    """
    known = {field.name for field in fields(settings)}
    unknown = sorted(set(options) - known)
    if unknown:
        raise TypeError(
            f"{name} got unknown options {unknown}; it knows {sorted(known)}"
        )
    settings = replace(settings, **options)
    if settings.bandwidth is not None and not 0 < settings.bandwidth < torch.inf:
        raise ValueError(f"expected a finite bandwidth > 0 (got {settings.bandwidth})")
    return settings


def neighbor_graph(features: Tensor, settings: Settings) -> Graph:
    """The weighted graph of the features, weights in their dtype.

    Raises:
        TypeError: As :func:`~captum_margin.neighbors.find_neighbors`.
        ValueError: As :func:`~captum_margin.neighbors.find_neighbors`.
    """
    bandwidth = settings.bandwidth
    kind: Literal["none", "gaussian"] = "none" if bandwidth is None else "gaussian"
    if is_exact(len(features), backend=settings.backend):
        points = as_points(features, settings)
        edge_index, weight = knn_graph(points, settings.k, weight=kind)
    else:
        indices, distances, _, _ = find_neighbors(
            features, settings.k, metric=settings.metric, backend=settings.backend
        )
        edge_index, weight = graph_from_neighbors(indices, distances, weight=kind)
    if bandwidth is not None:
        # From a width of one median edge to that of several, or of a part of one.
        weight = weight.pow(bandwidth**-2).clamp(min=torch.finfo(weight.dtype).tiny)
    dtype = (
        features.dtype if features.is_floating_point() else torch.get_default_dtype()
    )
    return Graph(edge_index, weight.to(dtype), len(features))


def as_points(features: Tensor, settings: Settings) -> Tensor:
    """Points (N, F), in double precision, whose Euclidean distances are the metric's.

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
    norms: Tensor = points.norm(dim=1, keepdim=True)
    directions: Tensor = points / norms.where(norms > 0, 1)
    return directions
