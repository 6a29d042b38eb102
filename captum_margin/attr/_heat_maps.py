"""Heat maps from channel weights, as Grad-CAM draws them."""

from __future__ import annotations

from torch import Tensor

__all__ = ["heat_maps"]


def heat_maps(
    values: Tensor,
    alpha: Tensor,
    orientation: Tensor,
    *,
    relu_attributions: bool,
    attr_dim_summation: bool,
) -> Tensor:
    """Mean over boundaries of feature maps weighted by channel.

    Args:
        values (Tensor): Feature maps, (B, K, ...).
        alpha (Tensor): Channel weights of each boundary, (Q, K).
        orientation (Tensor): For each example and boundary 1 or -1, by the side that is
            explained, and 0 for boundaries that are not its polytope's, (B, Q).
        relu_attributions (bool): Whether only evidence for the side counts; summed
            over channels, every boundary's map is then scaled to a largest value of 1
            before the mean.
        attr_dim_summation (bool): Whether channels are summed.

    Returns:
        Tensor: Maps (B, 1, ...), or (B, K, ...) if channels are not summed.

    Cost: with both options B * Q maps in memory, else the maps returned.
    """
    n_examples, n_channels, *spatial = values.shape
    flat = values.to(alpha.dtype).reshape(n_examples, n_channels, -1)
    orientation = orientation.to(alpha)
    n_boundaries = orientation.abs().sum(dim=1)[:, None, None]
    if relu_attributions and attr_dim_summation:
        used = orientation.any(dim=0)
        single = orientation[:, used, None] * (alpha[used] @ flat)  # (B, Q, h * w)
        single = single.clamp(min=0)
        largest = single.amax(dim=2, keepdim=True)
        maps = (single / largest.where(largest > 0, 1)).sum(dim=1, keepdim=True)
        maps = maps / n_boundaries
    else:
        mean = (orientation @ alpha)[:, :, None] / n_boundaries  # (B, K, 1)
        if attr_dim_summation:
            maps = mean.transpose(1, 2) @ flat
        else:
            maps = mean * flat
            maps = maps.clamp(min=0) if relu_attributions else maps
    return maps.view(n_examples, -1, *spatial).to(values.dtype)
