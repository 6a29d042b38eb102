"""What the questions about classes share: their function."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from captum_margin.signal import Graph, label_disagreement, one_hot


def class_signal(labels: Tensor, graph: Graph, disagreement: bool) -> Tensor:
    """One-hot labels (N, C), or the disagreement (N,); zeros if there is one class.

    Of the dtype of the graph's weights.
    """
    weight = graph.edge_weight
    dtype = torch.get_default_dtype() if weight is None else weight.dtype
    if labels.numel() == 0 or bool((labels == labels[0]).all()):
        warnings.warn(
            "all samples are of one class: there is nothing their neighbours could "
            "contradict, and all scores are 0",
            stacklevel=2,
        )
        return torch.zeros(labels.shape, dtype=dtype, device=labels.device)
    if disagreement:
        return label_disagreement(labels, graph.edge_index).to(dtype)
    return one_hot(labels).to(dtype)
