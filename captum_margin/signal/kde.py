"""Kernel density: how common a sample looks among the samples of its class."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_margin.signal._kernel import (
    as_features,
    check_block_size,
    check_gamma,
    kernel_blocks,
    result_dtype,
    sum_dtype,
)
from captum_margin.signal.function import _check_labels

__all__ = ["kernel_density"]


def kernel_density(
    features: Tensor,
    references: Tensor,
    classes: Tensor | None = None,
    reference_classes: Tensor | None = None,
    *,
    gamma: float | None = None,
    block_size: int | None = None,
) -> Tensor:
    r"""Mean Gaussian kernel between a sample and the references of its class.

    .. math:: f(i) = \frac{1}{|R_i|} \sum_{r \in R_i} \exp(-\gamma \|x_i - r\|^2)

    With features of a network's last hidden layer, predicted classes and the training
    set as references it is the detector of adversarial samples of Feinman et al.,
    *Detecting Adversarial Samples from Artifacts*, 2017
    (https://arxiv.org/abs/1703.00410; gamma = 1 / bandwidth² there): such samples lie
    where their predicted class is rare, and f is low.

    Args:
        features (Tensor): Shape (N, F), floating, integer or bool.
        references (Tensor): Shape (M, F).
        classes (Tensor, optional): Integer classes (N,), predicted ones as a rule: R_i
            are the references of the class of i. Default: None, R_i are all references.
        reference_classes (Tensor, optional): Integer classes (M,), needed with
            ``classes``. Default: None.
        gamma (float, optional): :math:`\gamma`. Default: None, one over the mean
            squared distance of two references, :math:`1 / (2 \sum_f \mathrm{var}_f)`.
        block_size (int, optional): Rows of kernel values held at once; it does not
            change the result beyond rounding. Default: None, about 64 MiB of them.

    Returns:
        Tensor: f of shape (N,), within [0, 1], of the dtype of ``features``, or the
        default dtype if they are not floating; 0 where the class has no reference. A
        sample that is a reference itself counts itself. No gradient reaches
        ``features``.

    Raises:
        TypeError: If features are complex or classes are not integers.
        ValueError: If shapes do not fit, features are not finite, an option is out of
            its range or only one of the two classes is given.

    Cost: O(N · M · F) time, with classes only pairs of a class; memory
    O(block_size · M + (N + M) · F).

    >>> references = torch.tensor([[0.0], [0.0], [9.0]])
    >>> kernel_density(torch.tensor([[0.0], [9.0]]), references, gamma=1.0)
    tensor([0.6667, 0.3333])
    """
    x, r = as_features(features), as_features(references, "references")
    if x.size(1) != r.size(1):
        raise ValueError(
            f"expected references of shape (M, F) = (M, {x.size(1)}) "
            f"(got {tuple(r.shape)}); take both from the same layer"
        )
    r = r.to(x.device, x.dtype)
    gamma = check_gamma(gamma, r)
    check_block_size(block_size, r.size(0))
    result = x.new_zeros(x.size(0), dtype=sum_dtype(x))
    for nodes, others in _pairs(x, r, classes, reference_classes):
        rows = check_block_size(block_size, others.numel())
        for start, kernel in kernel_blocks(x[nodes], r[others], gamma, rows):
            mean = kernel.mean(dim=1, dtype=result.dtype)
            result[nodes[start : start + rows]] = mean
    return result.to(result_dtype(features))


def _pairs(
    x: Tensor, r: Tensor, classes: Tensor | None, reference_classes: Tensor | None
) -> list[tuple[Tensor, Tensor]]:
    """Samples and their references, class by class; classes without are left out."""
    if classes is None and reference_classes is None:
        device = x.device
        both = torch.arange(x.size(0), device=device), torch.arange(len(r)).to(device)
        return [both]
    if classes is None or reference_classes is None:
        raise ValueError(
            "expected classes and reference_classes together (got one of them); give "
            "the predicted classes of the samples and the classes of the references"
        )
    for name, given, points in (
        ("classes", classes, x),
        ("reference_classes", reference_classes, r),
    ):
        _check_labels(given)
        if given.numel() != points.size(0):
            raise ValueError(
                f"expected {name} of shape ({points.size(0)},) "
                f"(got {tuple(given.shape)}); one per row"
            )
    shared = [c for c in reference_classes.unique() if bool((classes == c).any())]
    return [
        ((classes == c).nonzero().squeeze(1), (reference_classes == c).nonzero()[:, 0])
        for c in shared
    ]
