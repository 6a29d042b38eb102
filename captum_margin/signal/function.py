"""Step 3, the function: explanation functions on the nodes, (N,) or (N, C)."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_margin.signal.graph import check_graph

__all__ = ["label_disagreement", "one_hot"]


def label_disagreement(labels: Tensor, edge_index: Tensor) -> Tensor:
    r"""Share of a node's neighbours that carry another label.

    .. math:: f(i) = 1 - |\{j \in N_i : y_j = y_i\}| / |N_i|

    It is high at nodes whose label their surroundings contradict: wrong labels, and
    samples at a decision boundary (case studies III and IV of the MARGIN paper,
    https://arxiv.org/abs/1711.05407).

    Args:
        labels (Tensor): Integer or bool labels y of shape (N,).
        edge_index (Tensor): Shape (2, E), undirected without parallel edges or self
            loops, as :func:`~captum_margin.signal.knn_graph` and
            :func:`~captum_margin.signal.as_undirected` return it; N_i are the sources
            of the edges that end in i.

    Returns:
        Tensor: Shape (N,), in [0, 1], of the default dtype. An isolated node has no
        neighbour that disagrees: 0.

    Raises:
        TypeError: If the labels are not integers.
        ValueError: If the labels are not of shape (N,) or the edges do not fit them.

    Cost: O(N + E).

    >>> path = torch.tensor([[1, 0, 2, 1], [0, 1, 1, 2]])
    >>> label_disagreement(torch.tensor([0, 0, 1]), path).tolist()
    [0.0, 0.5, 1.0]
    """
    _check_labels(labels)
    check_graph(edge_index, None, labels.numel())
    source, target = edge_index.long()
    other = target[labels[source] != labels[target]]
    disagreeing = torch.bincount(other, minlength=labels.numel())
    neighbours = torch.bincount(target, minlength=labels.numel())
    return disagreeing / neighbours.clamp(min=1)


def one_hot(labels: Tensor, num_classes: int | None = None) -> Tensor:
    """Labels as a signal of C channels, one per class.

    Filtering it compares each node's label with the weighted vote of its neighbours.

    Args:
        labels (Tensor): Integer or bool labels of shape (N,), at least 0.
        num_classes (int, optional): C. Default: None, the largest label + 1.

    Returns:
        Tensor: Shape (N, C), zeros and ones of the default dtype.

    Raises:
        TypeError: If the labels are not integers.
        ValueError: If they are not of shape (N,) or not within [0, C).

    Cost: O(N · C) time and memory.

    >>> one_hot(torch.tensor([1, 0])).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    _check_labels(labels)
    labels = labels.long()
    low, high = (int(labels.min()), int(labels.max())) if labels.numel() else (0, -1)
    classes = high + 1 if num_classes is None else num_classes
    if low < 0 or high >= classes:
        raise ValueError(
            f"expected labels within [0, {classes}) (got {low} to {high}); map them "
            "with torch.unique(labels, return_inverse=True)"
        )
    hot = torch.nn.functional.one_hot(labels, classes)
    return hot.to(torch.get_default_dtype())


def _check_labels(labels: Tensor) -> None:
    if labels.is_floating_point() or labels.is_complex():
        raise TypeError(
            f"expected integer labels (got {labels.dtype}); map them with "
            "torch.unique(labels, return_inverse=True)"
        )
    if labels.dim() != 1:
        raise ValueError(f"expected labels of shape (N,) (got {tuple(labels.shape)})")
