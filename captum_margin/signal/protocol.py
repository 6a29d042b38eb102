"""The protocol: domain, graph, function, filter, influence, in one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from captum_margin._keywords import check_keywords
from captum_margin.signal.graph import Graph, as_undirected, knn_graph
from captum_margin.signal.high_pass import HighPass, Shift
from captum_margin.signal.select import rank

__all__ = ["MarginResult", "Sided", "influence", "margin"]

Sided = Literal["both", "above", "below"]


class MarginResult(NamedTuple):
    """Every intermediate of :func:`margin`, so that a score can be explained.

    Args:
        graph (Graph): Edges, weights and the number N of nodes.
        function (Tensor): f, shape (N,) or (N, C).
        filtered (Tensor): The high-pass part of f, of the same shape.
        influence (Tensor): I, shape (N,), non-negative.
    """

    graph: Graph
    function: Tensor
    filtered: Tensor
    influence: Tensor

    def ranking(self) -> Tensor:
        """All nodes, the most influential first, ties by index; shape (N,)."""
        return rank(self.influence)


def influence(filtered: Tensor, sided: Sided = "both") -> Tensor:
    r"""How much a node stands out: the energy of the filtered signal at that node.

    .. math:: I(i) = \| f_h(i) \|^2

    as in MARGIN (https://arxiv.org/abs/1711.05407). The square throws the sign away.
    ``"above"`` first drops the negative part of each channel and keeps the nodes where
    f exceeds its neighbourhood; ``"below"`` drops the positive part.

    Args:
        filtered (Tensor): f_h of shape (N,) or (N, C), as :class:`HighPass` returns it.
        sided (str, optional): ``"both"`` (the paper), ``"above"`` or ``"below"``.
            Default: ``"both"``.

    Returns:
        Tensor: Shape (N,), non-negative, in the squared unit of f. The two one-sided
        influences add up to that of both sides.

    Raises:
        ValueError: If ``filtered`` has another shape or ``sided`` is unknown.

    Cost: O(N · C).

    >>> influence(torch.tensor([-2.0, 0.5]), sided="below").tolist()
    [4.0, 0.0]
    """
    if filtered.dim() not in (1, 2):
        raise ValueError(
            f"expected a filtered signal (N,) or (N, C) (got {tuple(filtered.shape)})"
        )
    if sided == "above":
        filtered = filtered.clamp(min=0)
    elif sided == "below":
        filtered = filtered.clamp(max=0)
    elif sided != "both":
        raise ValueError(f"expected sided 'both', 'above' or 'below' (got {sided!r})")
    energy = filtered.square()
    return energy if energy.dim() == 1 else energy.sum(dim=1)


@check_keywords
def margin(
    domain: Tensor | Graph,
    function: Tensor | Callable[[Graph], Tensor],
    *,
    k: int = 20,
    metric: Literal["euclidean", "cosine"] = "euclidean",
    weight: Literal["none", "gaussian"] = "none",
    bandwidth: float | None = None,
    shift: Shift = "random_walk",
    hops: int = 1,
    isolated: Literal["keep", "zero"] = "keep",
    sided: Sided = "both",
    support_normalized: bool = False,
) -> MarginResult:
    r"""Finds the nodes where a function changes against its neighbourhood.

    MARGIN (Anirudh et al., https://arxiv.org/abs/1711.05407): pose a question as a
    graph and a function on its nodes; the nodes of high influence
    :math:`\| f - A^p f \|^2` are the answer.

    Args:
        domain (Tensor or Graph): Features of shape (N, F), from which a k-nearest-
            neighbour graph is made, or a :class:`Graph`, which goes through
            :func:`as_undirected`.
        function (Tensor or Callable): f of shape (N,) or (N, C), or a callable that
            returns it from the :class:`Graph`; an integer or bool f is made floating.
        k (int, optional): As in :func:`knn_graph`; features only. Default: 20.
        metric (str, optional): As in :func:`knn_graph`; features only.
            Default: ``"euclidean"``.
        weight (str, optional): As in :func:`knn_graph`; features only.
            Default: ``"none"``.
        bandwidth (float, optional): As in :func:`knn_graph`; features only.
            Default: None.
        shift (str, optional): As in :class:`HighPass`. Default: ``"random_walk"``.
        hops (int, optional): As in :class:`HighPass`. Default: 1.
        isolated (str, optional): As in :class:`HighPass`: ``"keep"`` lets isolated
            nodes of a given graph rank first. Default: ``"keep"``.
        sided (str, optional): As in :func:`influence`. Default: ``"both"``.
        support_normalized (bool, optional): As in :class:`HighPass`. Default: False.

    Returns:
        MarginResult: Graph, function, filtered signal, influence; ``.ranking()``.

    Raises:
        TypeError: If ``domain`` is neither, f no tensor, an option unknown, or as the
            steps it calls.
        ValueError: If f does not have one row per node, or as the steps it calls.

    Cost: that of :func:`knn_graph` and of :class:`HighPass`.

    >>> x = torch.arange(6.0)[:, None]
    >>> f = torch.tensor([0.0, 0.0, 5.0, 0.0, 0.0, 0.0])
    >>> margin(x, f, k=2, sided="above").ranking()[0].item()
    2
    """
    if isinstance(domain, Graph):
        graph = as_undirected(*domain)
    elif isinstance(domain, Tensor):
        edges = knn_graph(domain, k, metric=metric, weight=weight, bandwidth=bandwidth)
        graph = Graph(*edges, domain.size(0))
    else:
        raise TypeError(
            "expected features (N, F) or a Graph as the domain "
            f"(got {type(domain).__name__}); wrap edges as "
            "Graph(edge_index, edge_weight, num_nodes)"
        )
    signal: object = function(graph) if callable(function) else function
    if not isinstance(signal, Tensor):
        kind = type(signal).__name__
        raise TypeError(f"expected a tensor as the function on the nodes (got {kind})")
    if signal.dim() not in (1, 2) or signal.size(0) != graph.num_nodes:
        raise ValueError(
            f"expected a function of shape (N,) or (N, C) with N = {graph.num_nodes} "
            f"(got {tuple(signal.shape)}); one row per node"
        )
    if not signal.is_floating_point():
        signal = signal.to(torch.get_default_dtype())
    layer = HighPass(
        shift, hops, isolated=isolated, support_normalized=support_normalized
    )
    filtered = layer(signal, graph.edge_index, graph.edge_weight)
    return MarginResult(graph, signal, filtered, influence(filtered, sided))
