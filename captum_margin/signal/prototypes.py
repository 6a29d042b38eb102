r"""Prototypes and criticisms: a few samples that stand for all, and those nobody does.

A prototype stands for the samples nearest to it, its cell. Starting from samples spread
over the data, prototypes move along the edges of the graph as long as that lowers the
loss

.. math::
    \sum_i a_i^2 \quad\text{or, with labels,}\quad
    \sum_i \sigma\Big(\frac{1}{\tau} \frac{a_i - b_i}{a_i + b_i}\Big),

a_i and b_i the distances of sample i to the nearest prototype and, with labels, to the
nearest of its own and of another class. The first is that of k-medoids, the second the
smoothed number of samples nearer to another class (the relative margin of generalised
learning vector quantisation, Sato and Yamada 1995; there prototypes are free points,
here they are samples). The rule of the MARGIN paper is kept beside it.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor

from captum_margin._numbers import middle
from captum_margin._whole_numbers import is_whole, whole_number
from captum_margin.signal._cells import Samples, nearest_prototypes, sweep
from captum_margin.signal._kernel import as_features, check_block_size
from captum_margin.signal._seeds import class_shares, spread_seeds
from captum_margin.signal._sparse_rows import as_sparse, square_norms
from captum_margin.signal.function import _check_labels
from captum_margin.signal.graph import check_graph
from captum_margin.signal.high_pass import HighPass
from captum_margin.signal.mmd import Estimate, leave_neighborhood_out_mmd
from captum_margin.signal.protocol import influence
from captum_margin.signal.select import lowest_share, rank, top

__all__ = ["prototypes_of_low_influence", "select_criticisms", "select_prototypes"]


def select_prototypes(
    features: Tensor,
    edge_index: Tensor,
    n: int,
    *,
    labels: Tensor | None = None,
    rule: Literal["cells", "paper"] = "cells",
    gamma: float | None = None,
    share: float = 0.5,
    sweeps: int = 5,
    seed: int = 0,
    block_size: int | None = None,
) -> Tensor:
    """Samples that stand for all others: where a new sample finds its like.

    ``rule="cells"`` starts from seeds spread over the data (k-means in every class,
    snapped to samples) and lets each prototype try neighbours in the graph within its
    cell, judged by the loss at the top of ``captum_margin.signal.prototypes``; with
    labels each class gets an equal number, as far as it has samples, and a sample is
    not its own prototype in the loss, or many prototypes would each learn itself.

    ``rule="paper"`` (case study I of MARGIN, https://arxiv.org/abs/1711.05407) takes
    the function :func:`leave_neighborhood_out_mmd` as in the paper, keeps the nodes of
    low influence (of the symmetric shift) and ranks them by the function, class by
    class in turn with labels. Its picks crowd into the densest region.

    Args:
        features (Tensor): Shape (N, F), floating, integer or bool.
        edge_index (Tensor): Shape (2, E), as :func:`knn_graph` returns it.
        n (int): How many, at least 0.
        labels (Tensor, optional): Integer labels (N,); without them the selection is
            *global*, with them *local*. Default: None.
        rule (str, optional): ``"cells"`` or ``"paper"``. Default: ``"cells"``.
        gamma (float, optional): Of the kernel; ``"paper"`` only.
            Default: None, as in :func:`leave_neighborhood_out_mmd`.
        share (float, optional): Of the nodes that count as of low influence, a
            threshold that the paper does not tell; ``"paper"`` only. Default: 0.5.
        sweeps (int, optional): Rounds of moves at most; ``"cells"`` only. Default: 5.
        seed (int, optional): Of seeds and moves; ``"cells"`` only. Default: 0.
        block_size (int, optional): Rows of distances held at once. Default: None,
            about 64 MiB of them.

    Returns:
        Tensor: Node indices of shape (min(n, N),), int64, without repetition: under
        ``"cells"`` by the number of samples they stand for, the most first; under
        ``"paper"`` by rank, at most ``share`` of all nodes.

    Raises:
        TypeError: If features are complex or edges or labels are not integers.
        ValueError: If a shape does not fit, features are not finite or an option is
            unknown or out of its range.

    Cost: ``"cells"``: O(N · n · F) for the seeds, O(N · F · min(max(4 n, 1600), N)) for
    each sweep, which judges so many moves at most; O(N (n + F + block_size) + E)
    memory. k-means is SciPy's, of sparse features scikit-learn's: it holds the
    distances from a class to its seeds, and runs on a copy on the CPU where the
    features are on another device.
    ``"paper"``: that of :func:`leave_neighborhood_out_mmd`.

    >>> x = torch.tensor([[0.0], [1.0], [2.0], [7.0], [8.0], [9.0]])
    >>> path = torch.tensor([[1, 0, 2, 1, 3, 2, 4, 3, 5, 4],
    ...                      [0, 1, 1, 2, 2, 3, 3, 4, 4, 5]])
    >>> sorted(select_prototypes(x, path, 2).tolist())
    [1, 4]
    """
    x = as_features(features)
    check_graph(edge_index, None, x.size(0))
    group = _groups(x, labels)
    check_block_size(block_size, 1)
    if not is_whole(n) or n < 0 or sweeps < 0:
        raise ValueError(f"expected n >= 0 and sweeps >= 0 (got {n} and {sweeps})")
    if rule == "paper":
        f = leave_neighborhood_out_mmd(
            x,
            edge_index,
            labels=labels,
            gamma=gamma,
            estimate="paper",
            block_size=block_size,
        )
        scores = influence(HighPass("symmetric")(f, edge_index))
        return prototypes_of_low_influence(f, scores, group, share)[:n]
    if rule != "cells":
        raise ValueError(f"expected rule 'cells' or 'paper' (got {rule!r})")
    n = min(n, x.size(0))
    if n == 0:
        return torch.empty(0, dtype=torch.long, device=x.device)
    # Smaller numbers, smaller rounding errors; sparse ones would be dense.
    rows = as_sparse(x)
    x = x - middle(x) if rows is None else cast(Tensor, rows.double())
    norms = square_norms(x)
    far = float((4 * norms.max().sqrt() + 1).square())  # four times the radius, + 1
    samples = Samples(x, norms, group, int(group.max()) > 0, far, block_size)
    generator = torch.Generator().manual_seed(
        whole_number(seed, "seed")
    )  # on the CPU for any device
    parts = []
    for c, share_of_c in enumerate(class_shares(group.bincount(), n)):
        nodes = (group == c).nonzero().squeeze(1)
        parts.append(nodes[spread_seeds(x[nodes], share_of_c, generator, block_size)])
    prototypes = torch.cat(parts)
    cells = nearest_prototypes(samples, prototypes)
    for _ in range(sweeps):
        moved = sweep(samples, prototypes, cells, edge_index.long(), generator)
        if moved is None:
            break
        prototypes, cells = moved
    stood_for = cells.own_index[cells.own[:, 0] < samples.far, 0]
    represented = stood_for.bincount(minlength=n)
    return prototypes[rank(represented)]


def select_criticisms(
    features: Tensor,
    edge_index: Tensor,
    n: int,
    *,
    labels: Tensor | None = None,
    gamma: float | None = None,
    estimate: Estimate = "exact",
    block_size: int | None = None,
) -> Tensor:
    """Samples that prototypes do not stand for: unlike the rest and their neighbours.

    Those of the highest influence of :func:`leave_neighborhood_out_mmd` from above: the
    function exceeds that of the neighbourhood (case study I of MARGIN,
    https://arxiv.org/abs/1711.05407).

    Args:
        features (Tensor): Shape (N, F), floating, integer or bool.
        edge_index (Tensor): Shape (2, E), as :func:`knn_graph` returns it.
        n (int): How many, at least 0.
        labels (Tensor, optional): Integer labels (N,), for a local MMD. Default: None.
        gamma (float, optional): As in :func:`leave_neighborhood_out_mmd`.
            Default: None.
        estimate (str, optional): ``"exact"`` or ``"features"``, as there.
            Default: ``"exact"``.
        block_size (int, optional): As there. Default: None.

    Returns:
        Tensor: Node indices of shape (min(n, N),), int64, the most critical first.

    Raises:
        TypeError: As :func:`leave_neighborhood_out_mmd`.
        ValueError: As there, if ``n`` is negative or ``estimate`` is ``"paper"``, which
            is low where the MMD is high.

    Cost: that of :func:`leave_neighborhood_out_mmd`.

    >>> from captum_margin.signal import knn_graph
    >>> x = torch.cat([torch.arange(9.0), torch.tensor([30.0])])[:, None]
    >>> edge_index, _ = knn_graph(x, 2)
    >>> select_criticisms(x, edge_index, 1).tolist()
    [9]
    """
    if estimate == "paper":
        raise ValueError(
            "expected estimate 'exact' or 'features' (got 'paper'); it is low where "
            "the MMD is high"
        )
    f = leave_neighborhood_out_mmd(
        as_features(features),  # half precision cannot tell values near 1 / N apart
        edge_index,
        labels=labels,
        gamma=gamma,
        estimate=estimate,
        block_size=block_size,
    )
    return top(influence(HighPass()(f, edge_index), "above"), n)


def _groups(x: Tensor, labels: Tensor | None) -> Tensor:
    """Classes 0 .. C-1 of the samples; one class without labels."""
    if labels is None:
        return torch.zeros(x.size(0), dtype=torch.long, device=x.device)
    _check_labels(labels)
    if labels.numel() != x.size(0):
        raise ValueError(
            f"expected labels of shape (N,) = ({x.size(0)},) "
            f"(got {tuple(labels.shape)}); one label per row of the features"
        )
    group: Tensor = labels.unique(return_inverse=True)[1]
    return group


def prototypes_of_low_influence(
    f: Tensor, scores: Tensor, group: Tensor, share: float
) -> Tensor:
    """Nodes of low influence by the function, highest first; classes take turns.

    Args:
        f (Tensor): The function, (N,).
        scores (Tensor): The influence, (N,).
        group (Tensor): The class of each node, 0 .. C-1, (N,).
        share (float): Of the nodes that count as of low influence.

    Returns:
        Tensor: Node indices (M,).
    """
    low = lowest_share(scores, share)
    low = low[rank(f[low])]
    # The first of each class, then the second of each, and so on.
    by_class = group[low].argsort(stable=True)
    count = group[low].bincount()
    turn = torch.empty_like(low)
    start = (count.cumsum(0) - count)[group[low][by_class]]
    turn[by_class] = torch.arange(low.numel(), device=low.device) - start
    return low[turn.argsort(stable=True)]
