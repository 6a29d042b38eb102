"""Heat maps from channel weights, as Grad-CAM draws them."""

from __future__ import annotations

from torch import Tensor

from captum_margin._model.precision import full_precision
from captum_margin.attr.representative.evidence import OwnEvidence

__all__ = ["heat_maps"]


@full_precision()
def heat_maps(
    values: Tensor,
    alpha: Tensor,
    orientation: Tensor,
    own: OwnEvidence | None = None,
    *,
    relu_attributions: bool,
    attr_dim_summation: bool,
    paper: bool,
) -> Tensor:
    """Feature maps weighted by channel, the weights being means over boundaries.

    Args:
        values (Tensor): Feature maps, (B, K, ...).
        alpha (Tensor): Channel weights of each boundary, (Q, K).
        orientation (Tensor): For each example and boundary 1 or -1, by the side that is
            explained, and 0 for boundaries that are not its polytope's, (B, Q).
        own (OwnEvidence, optional): Weights of each example's own score, and how much
            of the map is of the boundaries. Default: None, all of it; not for ``paper``
        relu_attributions (bool): Whether only channels that speak for the side of a
            boundary count (in maps that are nowhere negative, as after a ReLU), and
            only what is positive of the map.
        attr_dim_summation (bool): Whether channels are summed.
        paper (bool): Whether ``relu_attributions`` cuts off the map of each boundary
            instead, and scales it to a largest value of 1 before the mean.

    Returns:
        Tensor: Maps (B, 1, ...), or (B, K, ...) if channels are not summed.

    Raises:
        ValueError: If the feature maps have not K channels in their second axis.

    Cost: for the paper's rectified maps B * Q of them in memory.
    """
    if values.shape[1] != alpha.shape[1]:
        raise ValueError(
            f"expected feature maps (B, {alpha.shape[1]}, ...) (got "
            f"{tuple(values.shape)}); give images a batch axis, (B, C, H, W)"
        )
    orientation = orientation.to(alpha)
    n_boundaries = orientation.abs().sum(dim=1)[:, None].clamp(min=1)
    flat = values.to(alpha.dtype).reshape(*values.shape[:2], -1)
    if paper and relu_attributions and attr_dim_summation:
        used = orientation.any(dim=0)
        single = orientation[:, used, None] * (alpha[used] @ flat)  # (B, Q, h * w)
        single = single.clamp(min=0)
        largest = single.amax(dim=2, keepdim=True)
        maps = (single / largest.where(largest > 0, 1)).sum(dim=1, keepdim=True)
        maps = maps / n_boundaries[:, :, None]
    else:
        weights = orientation @ alpha
        if relu_attributions and not paper:
            for_it = orientation.clamp(min=0) @ alpha.clamp(min=0)
            for_it = for_it + orientation.clamp(max=0) @ alpha.clamp(max=0)
            # Before an activation a channel of positive weight speaks against it
            # wherever it is negative, and one of negative weight for it.
            negative = (flat < 0).flatten(1).any(dim=1)[:, None]
            weights = weights.where(negative, for_it)
        weights = weights / n_boundaries  # (B, K)
        if own is not None:
            share = own.representativeness[:, None].to(weights)
            weights = share * weights + (1 - share) * own.alpha.to(weights)
        if attr_dim_summation:
            maps = weights[:, None] @ flat
        else:
            maps = weights[:, :, None] * flat
        maps = maps.clamp(min=0) if relu_attributions else maps
    return maps.view(len(values), -1, *values.shape[2:]).to(values.dtype)
