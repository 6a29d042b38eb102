r"""Leave-neighbourhood-out MMD: how far a sample lies from all but its neighbours.

With the kernel feature map :math:`\phi`, the m samples :math:`\bar X_i` that are
neither i nor its neighbours, and their mean :math:`\mu_i`,

.. math::
    f(i) = \mathrm{MMD}(\bar X_i, \bar X_i \cup \{x_i\})
         = \frac{\|\mu_i - \phi(x_i)\|}{m + 1},

because the mean of the union is :math:`\mu_i + (\phi(x_i) - \mu_i) / (m + 1)`. The
neighbours are left out, so that a sample cannot look ordinary by its own company.

The paper's approximation keeps only what the two means say of the sample itself, with
a plus sign between them as printed,

.. math::
    f(i) = \frac{1}{m} \sum_{x \in \bar X_i} k(x_i, x)
         + \frac{1}{m + 1} \sum_{x \in \bar X_i \cup \{x_i\}} k(x_i, x),

which is a density: it is high where the MMD is low.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from captum_margin._numbers import middle
from captum_margin._whole_numbers import whole_number
from captum_margin.signal._kernel import (
    BLOCK_NUMBERS,
    as_features,
    check_block_size,
    check_gamma,
    kernel_blocks,
    result_dtype,
    sum_dtype,
)
from captum_margin.signal._sparse_rows import centred_product
from captum_margin.signal.function import _check_labels
from captum_margin.signal.graph import check_graph, to_csr

__all__ = ["leave_neighborhood_out_mmd"]

Estimate = Literal["exact", "features", "paper"]


class _Sums(NamedTuple):
    """Inner products with the sum of phi over the m samples that are left, (N,) each.

    Args:
        left (Tensor): m.
        square (Tensor): Of that sum with itself.
        own (Tensor): Of that sum with phi(x_i).
    """

    left: Tensor
    square: Tensor
    own: Tensor


class Products(NamedTuple):
    """Inner products of sums of phi over M_i, i and its neighbours, (N,) each.

    Args:
        members (Tensor): n, the samples in M_i.
        row (Tensor): Of phi(x_i) with the sum over all samples.
        own (Tensor): Of phi(x_i) with the sum over M_i.
        crossing (Tensor): Of the sum over M_i with that over all.
        inside (Tensor): Of the sum over M_i with itself; 0 where it is not asked for.
    """

    members: Tensor
    row: Tensor
    own: Tensor
    crossing: Tensor
    inside: Tensor


def leave_neighborhood_out_mmd(
    features: Tensor,
    edge_index: Tensor,
    *,
    labels: Tensor | None = None,
    gamma: float | None = None,
    estimate: Estimate = "exact",
    n_features: int = 2048,
    seed: int = 0,
    block_size: int | None = None,
) -> Tensor:
    r"""MMD between all samples but i and its neighbours, and the same with i.

    It is high for samples unlike the others and low in dense regions (case studies I
    and V of the MARGIN paper, https://arxiv.org/abs/1711.05407). The kernel is
    :math:`k(x, y) = \exp(-\gamma \|x - y\|^2)`; the formula is at the top of
    ``captum_margin.signal.mmd``.

    Args:
        features (Tensor): Shape (N, F), floating, integer or bool.
        edge_index (Tensor): Shape (2, E), as :func:`knn_graph` returns it; N_i are the
            sources of the edges that end in i.
        labels (Tensor, optional): Integer labels (N,). With them the MMD is *local*:
            each class on its own, as if there were no other samples and no edges to
            them. Default: None (*global*).
        gamma (float, optional): :math:`\gamma`. Default: None, one over the mean
            squared distance of two samples, :math:`1 / (2 \sum_f \mathrm{var}_f)`: like
            the usual median, but exact in one pass, without a sample or a seed.
        estimate (str, optional): ``"exact"``; ``"features"``: random Fourier features
            instead of kernel values; ``"paper"``: the paper's approximation, its
            equation 2 as printed (same place), which turns the order round.
            Default: ``"exact"``.
        n_features (int, optional): D, even; ``"features"`` only. Default: 2048.
        seed (int, optional): Of the random features. Default: 0.
        block_size (int, optional): Rows of kernel values, or random features, held at
            once. It does not change the result beyond rounding. Default: None, about
            64 MiB of them.

    Returns:
        Tensor: f of shape (N,), the MMD itself and not its square, within
        [0, sqrt(2) / (m + 1)] (``"paper"``: within [0, 2]); 0 where no sample is left
        (m = 0). Of the dtype of ``features``, or the default dtype if they are not
        floating; no gradient reaches them.

    Raises:
        TypeError: If features are complex or edges or labels are not integers.
        ValueError: If a shape does not fit, features are not finite or an option is
            unknown or out of its range.

    Cost: ``"exact"`` and ``"paper"``: O(N² F) time, plus O(sum of the squared degrees)
    for ``"exact"``; O(block_size · N + N · F + E) memory, never N by N.
    ``"features"``: O(N · F · D + E · D) time, O(block_size · N + N · F + E) memory;
    the error of each kernel value has standard deviation (1 - k²) / sqrt(D), so that of
    ((m + 1) f)² at most 3 / sqrt(D). With labels, N and E are those of a class.

    >>> x = torch.tensor([[0.0], [0.1], [0.2], [9.0]])
    >>> no_edges = torch.empty(2, 0, dtype=torch.long)
    >>> leave_neighborhood_out_mmd(x, no_edges).argmax().item()
    3
    """
    x = as_features(features)
    check_graph(edge_index, None, x.size(0))
    if estimate not in ("exact", "features", "paper"):
        raise ValueError(
            f"expected estimate 'exact', 'features' or 'paper' (got {estimate!r})"
        )
    if n_features < 2 or n_features % 2:
        raise ValueError(f"expected an even n_features >= 2 (got {n_features})")
    check_block_size(block_size, x.size(0))
    gamma = check_gamma(gamma, x)
    frequencies = None
    if estimate == "features":
        frequencies = random_frequencies(x, gamma, n_features, seed)

    def function(x: Tensor, edge_index: Tensor) -> Tensor:
        if frequencies is not None:
            sums = _feature_sums(x, edge_index, frequencies, block_size)
        else:
            within = estimate == "exact"
            sums = _kernel_sums(x, edge_index, gamma, block_size, within)
        return _printed(sums) if estimate == "paper" else _mmd(sums)

    result = x.new_zeros(x.size(0), dtype=sum_dtype(x))
    for nodes, edges in _classes(edge_index.long(), labels, x.size(0)):
        result[nodes] = function(x[nodes], with_self_loops(edges, nodes.numel()))
    return result.to(result_dtype(features))


def random_frequencies(x: Tensor, gamma: float, n_features: int, seed: int) -> Tensor:
    """Of random Fourier features of the kernel, (F, D / 2)."""
    generator = torch.Generator().manual_seed(
        whole_number(seed, "seed")
    )  # on the CPU for any device
    size = (x.size(1), n_features // 2)
    draw = torch.randn(size, generator=generator, dtype=torch.float64)
    frequencies: Tensor = (draw * (2 * gamma) ** 0.5).to(x.device, x.dtype)
    return frequencies


def _mmd(sums: _Sums) -> Tensor:
    """|mu - phi| / (m + 1), expanded."""
    m = sums.left.clamp(min=1)
    square = sums.square / m.square() - 2 * sums.own / m + 1
    value = square.clamp(min=0).sqrt() / (m + 1)
    return value.masked_fill(sums.left == 0, 0.0)


def _printed(sums: _Sums) -> Tensor:
    """Mean kernel to the samples left, plus that to them and the sample itself."""
    value = sums.own / sums.left.clamp(min=1) + (sums.own + 1) / (sums.left + 1)
    return value.masked_fill(sums.left == 0, 0.0)


def _kernel_sums(
    x: Tensor, edge_index: Tensor, gamma: float, block_size: int | None, within: bool
) -> _Sums:
    """The sums from blocks of kernel values; ``square`` is 0 unless ``within``."""
    found = kernel_products(x, edge_index, gamma, block_size, within)
    square = torch.zeros_like(found.row)
    if within:
        square = found.row.sum() - 2 * found.crossing + found.inside
    return _Sums(x.size(0) - found.members, square, found.row - found.own)


def kernel_products(
    x: Tensor, edge_index: Tensor, gamma: float, block_size: int | None, within: bool
) -> Products:
    """The inner products from blocks of kernel values.

    All edges, with self loops, are j -> i for the j in M_i = {i} and its neighbours.
    """
    n = x.size(0)
    source, target = edge_index  # by target
    members = target.bincount(minlength=n)  # |M_i|
    first = members.cumsum(0) - members  # of M_i among the sources
    by_source = source.argsort(stable=True)
    zeros = x.new_zeros(n, dtype=sum_dtype(x))
    row, own, inside = zeros.clone(), zeros.clone(), zeros.clone()
    rows = check_block_size(block_size, n)
    for start, kernel in kernel_blocks(x, x, gamma, rows):  # (rows, N)
        stop = start + kernel.size(0)
        row[start:stop] = kernel.sum(dim=1, dtype=row.dtype)
        ends = torch.tensor([start, stop], device=x.device)
        low, high = torch.searchsorted(target, ends).tolist()
        i, j = target[low:high], source[low:high]
        own.index_add_(0, i, kernel[i - start, j].to(own))
        if within:
            low, high = torch.searchsorted(source[by_source], ends).tolist()
            edges = by_source[low:high]
            j, i = source[edges], target[edges]
            for part in _parts(members[i], rows * n):
                # Every l in M_i, for each edge j -> i of the part.
                count = members[i[part]]
                edge = torch.arange(count.numel(), device=x.device)
                edge = edge.repeat_interleave(count)
                offset = torch.arange(edge.numel(), device=x.device)
                offset -= (count.cumsum(0) - count)[edge]
                l_node = source[first[i[part]][edge] + offset]
                value = kernel[j[part][edge] - start, l_node]
                inside.index_add_(0, i[part][edge], value.to(inside))
    crossing = zeros.index_add(0, target, row[source])
    return Products(members, row, own, crossing, inside)


def _feature_sums(
    x: Tensor, edge_index: Tensor, frequencies: Tensor, block_size: int | None
) -> _Sums:
    """The sums from random Fourier features, whose squares add up to one per sample."""
    n, half = x.size(0), frequencies.size(1)
    step = max(1, check_block_size(block_size, n) // 2)
    adj = to_csr(edge_index, torch.ones_like(edge_index[0], dtype=x.dtype), n)
    square = x.new_zeros(n, dtype=sum_dtype(x))
    own = torch.zeros_like(square)
    centre = middle(x)
    for start in range(0, half, step):
        phase = centred_product(x, centre, frequencies[:, start : start + step])
        feature = torch.cat([phase.cos(), phase.sin()], dim=1) / half**0.5
        left = feature.sum(dim=0) - adj @ feature
        square += left.square().sum(dim=1)
        own += (left * feature).sum(dim=1)
    members = edge_index[1].bincount(minlength=n)
    return _Sums(n - members, square, own)


def _classes(
    edge_index: Tensor, labels: Tensor | None, n: int
) -> list[tuple[Tensor, Tensor]]:
    """Nodes of each class and the edges among them, renumbered; one class if None."""
    if labels is None:
        return [(torch.arange(n, device=edge_index.device), edge_index)]
    _check_labels(labels)
    if labels.numel() != n:
        raise ValueError(
            f"expected labels of shape (N,) = ({n},) (got {tuple(labels.shape)}); "
            "one label per row of the features"
        )
    place = torch.empty_like(labels, dtype=torch.long)
    parts = []
    for label in labels.unique():
        inside = labels == label
        nodes = inside.nonzero().squeeze(1)
        place[nodes] = torch.arange(nodes.numel(), device=nodes.device)
        kept = inside[edge_index].all(dim=0)
        parts.append((nodes, place[edge_index[:, kept]]))
    return parts


def with_self_loops(edge_index: Tensor, n: int) -> Tensor:
    """Each edge once, by target and source, and one self loop at every node."""
    source, target = edge_index
    loops = torch.arange(n, device=edge_index.device) * (n + 1)
    key = torch.cat([target * n + source, loops]).unique()
    return torch.stack([key % n, key // n])


def _parts(counts: Tensor, limit: int) -> list[slice]:
    """Slices of consecutive entries whose counts add up to at most the limit.

    An entry above the limit is a slice of its own.
    """
    limit = min(limit, BLOCK_NUMBERS // 8)  # each entry costs several indices
    end = counts.cumsum(0)
    parts, first, done = [], 0, 0
    while first < counts.numel():
        last = int(torch.searchsorted(end, done + limit, right=True))
        last = max(first + 1, last)
        parts.append(slice(first, last))
        first, done = last, int(end[last - 1])
    return parts
