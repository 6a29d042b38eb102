"""What a graph with nodes to choose from is made of, checked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from captum_margin.influence.samples import Samples, as_features
from captum_margin.signal import Graph, as_undirected


def samples_of(data: Any) -> Samples:
    """Graph, features and classes of what a user has."""
    edge_index = getattr(data, "edge_index", None)
    if edge_index is None:
        raise TypeError(
            "expected a graph with edge_index, such as torch_geometric.data.Data "
            f"(got {type(data).__name__}); make one with Data(edge_index=..., x=...)"
        )
    x, y = getattr(data, "x", None), getattr(data, "y", None)
    if x is not None:
        x = as_features(x)
        if x.dim() == 0:
            raise ValueError("expected features data.x of shape (N, F) (got a number)")
    nodes = getattr(data, "num_nodes", None)
    if nodes is None and x is not None:
        nodes = len(x)
    graph = as_undirected(edge_index, getattr(data, "edge_weight", None), nodes)
    if graph.num_nodes == 0:
        raise ValueError("expected at least one node (got none)")
    features = None
    if x is not None and 0 not in x.shape:
        features = rows_of(x, graph.num_nodes, "features data.x")
    labels = None
    if isinstance(y, Tensor) and y.numel() == graph.num_nodes and not y.is_complex():
        labels = y.view(-1)
    if labels is None or labels.is_floating_point():
        return Samples(features, graph)
    classes, codes = labels.unique(return_inverse=True)
    return Samples(features, graph, codes, tuple(classes.tolist()))


def rows_of(x: Tensor, nodes: int, name: str) -> Tensor:
    """Checked rows (N, F) of floating numbers."""
    if not isinstance(x, Tensor) or x.is_complex() or x.layout != torch.strided:
        kind = getattr(x, "layout", type(x).__name__)
        raise TypeError(f"expected {name} as a dense real tensor (got {kind})")
    if x.dim() != 2 or x.size(0) != nodes:
        raise ValueError(
            f"expected {name} of shape (N, F) with N = {nodes} (got {tuple(x.shape)})"
        )
    x = x.detach()
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if not bool(x.isfinite().all()):
        raise ValueError(f"expected finite {name} (got NaN or infinity)")
    return x


def not_held_out(data: Any, graph: Graph) -> Tensor:
    """The nodes that are neither for validation nor for the test."""
    held = torch.zeros(graph.num_nodes, dtype=torch.bool)
    held = held.to(graph.edge_index.device)
    for name in ("val_mask", "test_mask"):
        mask = getattr(data, name, None)
        if mask is not None:
            if mask.dtype != torch.bool or mask.shape != held.shape:
                raise ValueError(
                    f"expected {name} as a mask of shape (N,) = ({len(held)},) (got "
                    f"{tuple(mask.shape)}, {mask.dtype}); choose one split of several"
                )
            held |= mask.to(held.device)
    free: Tensor = (~held).nonzero().flatten()
    return free


def indices_of(given: Any, graph: Graph, name: str) -> Tensor:
    """A mask or indices as ascending indices without repetition."""
    if isinstance(given, (set, frozenset)):
        given = sorted(given)
    try:
        value: Tensor = torch.as_tensor(given, device=graph.edge_index.device)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"expected {name} as a mask (N,) or a list of node indices (got "
            f"{type(given).__name__})"
        ) from None
    nodes = graph.num_nodes
    if value.dtype == torch.bool:
        if value.shape != (nodes,):
            raise ValueError(
                f"expected {name} as a mask of shape (N,) = ({nodes},) "
                f"(got {tuple(value.shape)})"
            )
        return value.nonzero().flatten()
    if value.numel() == 0:
        return value.new_empty(0, dtype=torch.long)
    if value.dim() != 1 or value.is_floating_point() or value.is_complex():
        raise ValueError(
            f"expected {name} as a mask (N,) or a list of node indices (got "
            f"{tuple(value.shape)}, {value.dtype})"
        )
    value = value.long().unique()
    if int(value[0]) < 0 or int(value[-1]) >= nodes:
        raise ValueError(
            f"expected {name} within [0, {nodes}) (got {int(value[0])} to "
            f"{int(value[-1])})"
        )
    return value
