r"""What of a map the high-pass filter leaves: the cross-energy of score and presence.

MARGIN's influence of a node is the energy of one filtered signal,
:math:`\|f_h\|^2` with :math:`f_h = f - A f`. When nodes are unions of parts of an
input, each node carries two signals: the model's score s and, for each part u, how
much of u is present, :math:`z_u`. The part's evidence is their cross-energy over the
same graph,

.. math::
    E_u = \langle s_h, z_{u,h} \rangle, \qquad
    \varphi_u = E_u \Big/ \tfrac1U \textstyle\sum_v \|z_{v,h}\|^2 ,

signed and linear in s. The graph joins unions of like size, so that the filter takes
away what a union scores merely by showing more of the input.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from captum_margin.signal import HighPass, knn_graph_1d

__all__ = ["CrossEnergy", "cross_energy"]


class CrossEnergy(NamedTuple):
    r"""Both ends of the filter.

    Args:
        evidence (Tensor): :math:`\varphi`, shape (U,), in units of the score.
        filtered (Tensor): :math:`s_h`, shape (N,).
    """

    evidence: Tensor
    filtered: Tensor


def cross_energy(
    scores: Tensor,
    presence: Tensor,
    sizes: Tensor,
    kinds: Tensor,
    *,
    n_neighbors: int | None,
) -> CrossEnergy:
    r"""Evidence of every part, from the scores of N unions of parts.

    The filter also takes away what all parts have in common, the mean of
    :math:`\varphi`; it is put back as the covariance among unions drawn alike measures
    it, so that the sign of a part is that of its effect. With ``n_neighbors=None``
    there is no filter and :math:`\varphi_u` is that covariance of s and :math:`z_u`
    over the variance of presence: over all unions of U regions, the Banzhaf value.

    Args:
        scores (Tensor): s of shape (N,).
        presence (Tensor): z in [0, 1] of shape (N, U).
        sizes (Tensor): Size of each union, (N,).
        kinds (Tensor): Unions of one kind were drawn alike, int64 from 0, (N,).
        n_neighbors (int, optional): Unions of like size that a union is compared
            with. None compares with all.

    Returns:
        CrossEnergy: Evidence (U,) and filtered scores (N,). The evidence is zero
        where the scores, or the unions, are all alike.

    Cost: O(N * n_neighbors * U) time, O(N * U) memory.
    """
    centred = _centre(presence, kinds)
    variance = centred.square().mean()
    deviation = _centre(scores, kinds)
    if variance == 0 or scores.max() == scores.min():  # not even rounding errors
        zeros = presence.new_zeros(presence.shape[1])
        return CrossEnergy(zeros, torch.zeros_like(scores))
    covariance = deviation @ centred / (len(scores) * variance)
    if n_neighbors is None or n_neighbors >= len(scores) - 1:
        return CrossEnergy(covariance, deviation)
    edge_index, edge_weight = knn_graph_1d(sizes, n_neighbors)
    both = torch.cat([scores[:, None], presence], dim=1)
    filtered = HighPass("random_walk")(both, edge_index, edge_weight)
    filtered_scores, filtered_presence = filtered[:, 0], filtered[:, 1:]
    energy = filtered_presence.square().mean()
    if energy == 0:
        return CrossEnergy(covariance, filtered_scores)
    within = filtered_scores @ filtered_presence / (len(scores) * energy)
    return CrossEnergy(within + (covariance - within).mean(), filtered_scores)


def _centre(values: Tensor, kinds: Tensor) -> Tensor:
    """Values minus their mean over the unions of the same kind."""
    n_kinds = int(kinds.max()) + 1
    sums = values.new_zeros(n_kinds, *values.shape[1:]).index_add(0, kinds, values)
    counts = kinds.bincount(minlength=n_kinds).to(values)
    means = sums / counts.view(-1, *[1] * (values.dim() - 1))
    return values - means[kinds]
