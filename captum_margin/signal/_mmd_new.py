"""The leave-neighbourhood-out MMD of new samples, among those that are known."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from captum_margin._numbers import middle
from captum_margin.signal._kernel import (
    BLOCK_NUMBERS,
    as_features,
    check_block_size,
    check_gamma,
    kernel_blocks,
    sum_dtype,
)
from captum_margin.signal._mmd_whole import mmd_of_means
from captum_margin.signal._sparse_rows import centred_product
from captum_margin.signal.mmd import (
    Estimate,
    _mmd,
    _printed,
    _Sums,
    random_frequencies,
)

__all__ = ["new_samples_mmd"]


def new_samples_mmd(
    features: Tensor,
    new: Tensor,
    near: Tensor,
    *,
    labels: Tensor | None = None,
    new_labels: Tensor | None = None,
    gamma: float | None = None,
    estimate: Estimate = "exact",
    n_features: int = 2048,
    seed: int = 0,
    whole: bool = False,
) -> Tensor:
    """MMD between all known samples but the neighbours of a new one, and these with it.

    As :func:`captum_margin.signal.leave_neighborhood_out_mmd`, but the samples that are
    left never hold another new one.

    Args:
        features (Tensor): Of the known samples, (N, F).
        new (Tensor): Of the new ones, (M, F).
        near (Tensor): Neighbours of each new one among the known, (M, k), different.
        labels (Tensor, optional): Classes of the known (N,), for the MMD of each class.
            Default: None.
        new_labels (Tensor, optional): The same of the new ones, (M,). Default: None.
        gamma (float, optional): As there. Default: None.
        estimate (str, optional): As there. Default: ``"exact"``.
        n_features (int, optional): As there. Default: 2048.
        seed (int, optional): As there. Default: 0.
        whole (bool, optional): Instead the MMD between the known samples and the new
            one, and these without it and its neighbours, as
            :func:`captum_margin.signal._mmd_whole.whole_mmd`. Default: False.

    Returns:
        Tensor: Shape (M,), in the precision of sums.

    Cost: ``"exact"`` and ``"paper"``: O(N (N + M) F + M k² F), ``"features"``:
    O((N + M) F D + M k D); with labels, of each class.
    """
    x = as_features(features)
    z = as_features(new).to(x.device, x.dtype)
    used = check_gamma(gamma, x)
    frequencies = None
    if estimate == "features":
        frequencies = random_frequencies(x, used, n_features, seed)
    result = x.new_zeros(len(z), dtype=sum_dtype(x))
    place = torch.empty(len(x), dtype=torch.long, device=x.device)
    for own, others in _of_class(x, z, labels, new_labels):
        inside = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        inside[own] = True
        place[own] = torch.arange(len(own), device=x.device)
        kept = inside[near[others]]
        around = place[near[others].where(kept, own[0])]
        rest, some = x[own], z[others]
        if frequencies is None:
            found = _of_kernel(rest, some, around, kept, used)
        else:
            found = _of_features(rest, some, around, kept, frequencies)
        if whole:
            members = 1 + kept.sum(dim=1).to(result)
            value = mmd_of_means(
                _distance(found, members, len(own) + 1), members, len(own) + 1
            )
        else:
            sums = _left(found, len(own), kept)
            value = _printed(sums) if estimate == "paper" else _mmd(sums)
        result[others] = value
    return result


class _Products(NamedTuple):
    """Inner products of sums of phi, (M,) each.

    Args:
        total (Tensor): Of the sum over the known samples with itself, ().
        row (Tensor): Of phi of the new sample with that sum.
        own (Tensor): Of phi of the new sample with the sum over its neighbours.
        crossing (Tensor): Of the sum over the neighbours with that over the known.
        inside (Tensor): Of the sum over the neighbours with itself.
    """

    total: Tensor
    row: Tensor
    own: Tensor
    crossing: Tensor
    inside: Tensor


def _left(p: _Products, n: int, kept: Tensor) -> _Sums:
    """With the sum over the known samples that are left."""
    square = p.total - 2 * p.crossing + p.inside
    return _Sums(n - kept.sum(dim=1), square, p.row - p.own)


def _distance(p: _Products, members: Tensor, n: int) -> Tensor:
    """Squared distance of two means: of the neighbours, of all n, with the new one."""
    total = p.total + 2 * p.row + 1
    crossing = p.crossing + p.row + p.own + 1
    inside = p.inside + 2 * p.own + 1
    return inside / members.square() - 2 * crossing / (members * n) + total / n**2


def _of_class(
    x: Tensor, z: Tensor, labels: Tensor | None, new_labels: Tensor | None
) -> list[tuple[Tensor, Tensor]]:
    """Known and new samples of each class that has both; all if there are none."""
    if labels is None or new_labels is None:
        known, new = (torch.arange(len(v), device=x.device) for v in (x, z))
        return [(known, new)]
    shared = [c for c in new_labels.unique() if bool((labels == c).any())]
    return [
        ((labels == c).nonzero().squeeze(1), (new_labels == c).nonzero().squeeze(1))
        for c in shared
    ]


def _of_kernel(
    x: Tensor, z: Tensor, near: Tensor, kept: Tensor, gamma: float
) -> _Products:
    """From blocks of kernel values."""
    dtype = sum_dtype(x)
    rows = check_block_size(None, len(x))
    row = torch.cat(
        [k.sum(1, dtype=dtype) for _, k in kernel_blocks(x, x, gamma, rows)]
    )
    of_new, own, inside = torch.empty(3, len(z), dtype=dtype, device=x.device)
    for start, kernel in kernel_blocks(z, x, gamma, rows):
        part = slice(start, start + len(kernel))
        of_new[part] = kernel.sum(1, dtype=dtype)
        own[part] = (kernel.gather(1, near[part]) * kept[part]).sum(1, dtype=dtype)
    k = near.size(1)
    for part in torch.arange(len(z)).split(
        max(1, BLOCK_NUMBERS // (k * (k + x.size(1))))
    ):
        at = x[near[part].flatten()].to_dense().unflatten(0, near[part].shape)
        some = kept[part].to(at)  # of (m, k, F)
        square = torch.cdist(at, at, compute_mode="donot_use_mm_for_euclid_dist") ** 2
        pairs = some[:, :, None] * some[:, None] * (-gamma * square).exp()
        inside[part] = pairs.sum((1, 2), dtype=dtype)
    crossing = (row[near] * kept).sum(dim=1)
    return _Products(row.sum(), of_new, own, crossing, inside)


def _of_features(
    x: Tensor, z: Tensor, near: Tensor, kept: Tensor, frequencies: Tensor
) -> _Products:
    """From random Fourier features."""
    half = frequencies.size(1)
    of_all = x.new_zeros((), dtype=sum_dtype(x))
    row, own, crossing, inside = x.new_zeros(4, len(z), dtype=sum_dtype(x))
    centre = middle(x)
    for some in frequencies.split(max(1, BLOCK_NUMBERS // len(x) // 2), dim=1):
        feature, of_new = (
            torch.cat([phase.cos(), phase.sin()], dim=1) / half**0.5
            for phase in (centred_product(v, centre, some) for v in (x, z))
        )
        total = feature.sum(dim=0)
        of_all += total.square().sum()
        row += of_new @ total
        rows = max(1, BLOCK_NUMBERS // (near.size(1) * feature.size(1)))
        for part in torch.arange(len(z)).split(rows):
            around = (feature[near[part]] * kept[part, :, None]).sum(dim=1)
            own[part] += (around * of_new[part]).sum(dim=1)
            crossing[part] += around @ total
            inside[part] += around.square().sum(dim=1)
    return _Products(of_all, row, own, crossing, inside)
