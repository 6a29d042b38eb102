r"""MMD between all samples, and all but one and its neighbours: MARGIN's case study V.

With the kernel feature map :math:`\phi`, the n samples :math:`M_i` that are i or its
neighbours, their mean :math:`\nu_i` and the mean :math:`\mu` of all N,

.. math::
    f(i) = \mathrm{MMD}(X, X \setminus M_i) = \frac{n}{N - n} \|\nu_i - \mu\|,

because the mean without them is :math:`\mu + (\mu - \nu_i) n / (N - n)`. It tells how
unlike all samples a neighbourhood is as a whole, and grows with its size, where
:func:`~captum_margin.signal.leave_neighborhood_out_mmd`, of case study I, tells how
unlike the others the sample itself is.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from captum_margin._numbers import middle
from captum_margin.signal._kernel import (
    as_features,
    check_block_size,
    check_gamma,
    result_dtype,
    sum_dtype,
)
from captum_margin.signal._sparse_rows import centred_product
from captum_margin.signal.graph import check_graph, to_csr
from captum_margin.signal.mmd import (
    kernel_products,
    random_frequencies,
    with_self_loops,
)

__all__ = ["mmd_of_means", "whole_mmd"]

N_FEATURES = 2048


def whole_mmd(
    features: Tensor,
    edge_index: Tensor,
    *,
    gamma: float | None = None,
    estimate: Literal["exact", "features"] = "exact",
    seed: int = 0,
    block_size: int | None = None,
) -> Tensor:
    """The MMD that leaving out a neighbourhood makes.

    Args:
        features (Tensor): As in
            :func:`~captum_margin.signal.leave_neighborhood_out_mmd`.
        edge_index (Tensor): As there; no edges: each sample alone is left out.
        gamma (float, optional): As there. Default: None.
        estimate (str, optional): As there. Default: ``"exact"``.
        seed (int, optional): As there. Default: 0.
        block_size (int, optional): As there. Default: None.

    Returns:
        Tensor: f of shape (N,), within [0, sqrt(2) n / (N - n)]; 0 where no sample is
        left. Dtype as there.

    Cost: as there, O(N² F) time if exact, never N by N in memory.
    """
    x = as_features(features)
    n = x.size(0)
    check_graph(edge_index, None, n)
    edges = with_self_loops(edge_index.long(), n)
    gamma = check_gamma(gamma, x)
    if estimate == "features":
        frequencies = random_frequencies(x, gamma, N_FEATURES, seed)
        square = _feature_distance(x, edges, frequencies, block_size)
        members = edges[1].bincount(minlength=n).to(square)
    else:
        found = kernel_products(x, edges, gamma, block_size, within=True)
        members = found.members.to(found.row)
        square = found.inside / members.square() + found.row.sum() / n**2
        square -= 2 * found.crossing / (members * n)
    return mmd_of_means(square, members, n).to(result_dtype(features))


def mmd_of_means(square: Tensor, members: Tensor, n: int) -> Tensor:
    """The MMD from the squared distance of the means of M_i and of all n samples."""
    left = n - members
    value = square.clamp(min=0).sqrt() * members / left.clamp(min=1)
    return value.masked_fill(left == 0, 0.0)


def _feature_distance(
    x: Tensor, edge_index: Tensor, frequencies: Tensor, block_size: int | None
) -> Tensor:
    """That squared distance from random Fourier features."""
    n, half = x.size(0), frequencies.size(1)
    step = max(1, check_block_size(block_size, n) // 2)
    target = edge_index[1]
    share = 1 / target.bincount(minlength=n)[target].to(x.dtype)
    mean = to_csr(edge_index, share, n)
    square = x.new_zeros(n, dtype=sum_dtype(x))
    centre = middle(x)
    for some in frequencies.split(step, dim=1):
        phase = centred_product(x, centre, some)
        feature = torch.cat([phase.cos(), phase.sin()], dim=1) / half**0.5
        square += (mean @ feature - feature.mean(dim=0)).square().sum(dim=1)
    return square
