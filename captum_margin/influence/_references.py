"""The graph from samples to trusted ones: what f is where all is as it should be."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_margin.signal import kernel_density

__all__ = ["class_means", "log_density", "reference_means", "rest_density"]

# Distances held at once: 64 MiB in float64.
_BLOCK_NUMBERS = 2**23


def log_density(density: Tensor) -> Tensor:
    """The negative logarithm, that of the smallest normal number at most."""
    return -density.clamp(min=torch.finfo(density.dtype).tiny).log()


def rest_density(
    references: Tensor, classes: Tensor | None, gamma: float | None
) -> Tensor:
    """Density at each reference of the others of its class, (M,); 1 where it is alone.

    In double precision where there is one: a kernel value of 1, its own, is taken off.
    """
    r = references if references.device.type == "mps" else references.double()
    if classes is None:
        classes = torch.zeros(len(r), dtype=torch.long, device=r.device)
    count = classes.bincount()[classes].to(r.dtype)
    density = kernel_density(r, r, classes, classes, gamma=gamma)
    others = (density * count - 1) / (count - 1).clamp(min=1)
    return others.clamp(min=0).where(count > 1, 1.0)


def class_means(values: Tensor, classes: Tensor, reference_classes: Tensor) -> Tensor:
    """Mean value of all references of each sample's class, (N,); 0 without any."""
    size = int(max(classes.max(), reference_classes.max())) + 1
    total = values.new_zeros(size).index_add_(0, reference_classes, values)
    count = reference_classes.bincount(minlength=size).clamp(min=1)
    return (total / count)[classes]


def reference_means(
    points: Tensor,
    references: Tensor,
    values: Tensor,
    k: int,
    classes: Tensor,
    reference_classes: Tensor,
) -> Tensor:
    """Mean value of the k nearest references of each point's class, (N,).

    All references of the class if there are fewer, 0 if there are none. Ties fall as
    they fall: samples that are equal here seldom differ in value.
    """
    means = values.new_zeros(len(points))
    for c in classes.unique():
        own = (classes == c).nonzero().squeeze(1)
        others = (reference_classes == c).nonzero().squeeze(1)
        if len(others) == 0:
            continue
        near, value = references[others], values[others]
        for rows in own.split(max(1, _BLOCK_NUMBERS // len(others))):
            distance = torch.cdist(points[rows], near)
            nearest = distance.topk(min(k, len(others)), largest=False).indices
            means[rows] = value[nearest].mean(dim=1)
    return means
