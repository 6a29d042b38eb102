"""What a perturbation p in [0, 1] of an image should be: large, harmless, even."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "ROUNDING",
    "coalition_loss",
    "drop_loss",
    "evenness_loss",
    "extent_loss",
    "gaussian_smoothed",
    "margin_loss",
    "smoothing_matrix",
]

#: A smaller fall of a score is none.
ROUNDING = 1e-4


def extent_loss(p: Tensor) -> Tensor:
    """L_r of each image: minus the mean of p, (B, C, H, W) -> (B,).

    Written without the absolute value of the paper's norm: p is never negative, and the
    absolute value has no gradient at 0, where p starts.
    """
    return -p.flatten(1).mean(dim=1)


def margin_loss(scores: Tensor, selected: Tensor) -> Tensor:
    """L_conf of the paper: how far other classes are above the target's score.

    Args:
        scores (Tensor): Scores of all classes, (n, C).
        selected (Tensor): That of the target, (n,).

    Returns:
        Tensor: Mean over the classes of max(0, f_j - f_t), (n,).
    """
    return (scores - selected[:, None]).clamp(min=0).mean(dim=1)


def drop_loss(selected: Tensor, reference: Tensor, scale: Tensor) -> Tensor:
    """How far the target's score falls below that of the image, in units of a scale.

    A rise is none. One within rounding is kept, or at the start, where nothing is
    changed yet, rounding would decide whether there is a gradient.

    Args:
        selected (Tensor): Scores (log-probabilities) of perturbed images, (n,).
        reference (Tensor): Those of the images themselves, (n,).
        scale (Tensor): Units, (n,), above zero.
    """
    return F.threshold((reference - selected) / scale, -ROUNDING, 0.0)


def coalition_loss(p: Tensor, coalitions: Tensor, sigma: float = 1.0) -> Tensor:
    r"""L_c of each image: minus the sum over coalitions of their mean perturbation.

    .. math:: L_c = - \sum_i \frac{1}{|C_i|} \sum_n \big((p \otimes C_i) * G\big)_n

    with G a Gaussian. The mean is that over the coalition: over the image, the sum of
    all coalitions would be the mean of p, whatever they are. It is linear in p: how p
    is spread within a coalition makes no difference, but where G leaves the image.

    Args:
        p (Tensor): Perturbation (B, C, H, W).
        coalitions (Tensor): Numbers from 0, (B, H, W), int64.
        sigma (float): Of G, in pixels.
    """
    # Blurring is linear and keeps sums but for what leaves at the border, so that each
    # pixel counts by its own share: that of G * 1, whatever coalition it is in.
    ones = p.new_ones(1, 1, *p.shape[2:])
    share = gaussian_smoothed(ones, sigma)  # G is symmetric: its own adjoint
    values = (p.mean(dim=1) * share[:, 0]).flatten(1)
    return -(values / _sizes(coalitions, p).flatten(1)).sum(dim=1)


def evenness_loss(p: Tensor, coalitions: Tensor, sigma: float = 1.0) -> Tensor:
    r"""L_c of each image as a penalty: how uneven p is within its coalitions.

    .. math:: L_c = \sum_i \frac{1}{|C_i|} \sum_{\{n, m\} \subseteq C_i}
        G(n - m) \, (p_n - p_m)^2

    over the pairs of pixels of a coalition, the mean over the channels. It is 0 where p
    is the same for pixels of a coalition that G reaches from each other, and only
    there; each coalition counts the same, a single pixel nothing.

    Args:
        p (Tensor): Perturbation (B, C, H, W).
        coalitions (Tensor): Numbers from 0, (B, H, W), int64.
        sigma (float): Of G, in pixels.
    """
    kernel = _gaussian(sigma, p).tolist()
    radius = len(kernel) // 2
    height, width = p.shape[2:]
    share = 1 / _sizes(coalitions, p)
    total = p.new_zeros(len(p))
    for down in range(min(radius, height - 1) + 1):
        for across in range(-min(radius, width - 1), min(radius, width - 1) + 1):
            if down == 0 and across <= 0:  # each pair once
                continue
            rows = slice(0, height - down), slice(down, height)
            left, right = max(0, -across), max(0, across)
            columns = slice(left, width - right), slice(right, width - left)
            here, there = (..., rows[0], columns[0]), (..., rows[1], columns[1])
            same = (coalitions[here] == coalitions[there]) * share[here]
            apart = (p[here] - p[there]).square().mean(dim=1)
            weight = kernel[radius + down] * kernel[radius + across]
            total = total + weight * (same * apart).flatten(1).sum(dim=1)
    return total


def _sizes(coalitions: Tensor, like: Tensor) -> Tensor:
    """How many pixels the coalition of each pixel has, (B, H, W), as floats."""
    places = coalitions.flatten(1)
    counts = like.new_zeros(len(places), int(places.max()) + 1)
    counts = counts.scatter_add(1, places, like.new_ones(places.shape))
    return counts.gather(1, places).view(coalitions.shape)


def gaussian_smoothed(maps: Tensor, sigma: float = 1.0) -> Tensor:
    """Maps (B, C, H, W) convolved with a Gaussian cut at 3 sigma; 0 outside."""
    kernel = _gaussian(sigma, maps)
    channels = maps.shape[1]
    rows = kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    maps = F.pad(maps, (len(kernel) // 2,) * 4)
    maps = F.conv2d(maps, rows, groups=channels)
    return F.conv2d(maps, rows.transpose(2, 3), groups=channels)


def smoothing_matrix(size: int, sigma: float, like: Tensor) -> Tensor:
    """What convolves columns of ``size`` with a Gaussian cut at 3 sigma.

    Outside they are what they are at the edge. For wide Gaussians of few channels, a
    product with it and its gradient take a fraction of what a convolution takes.

    Args:
        size (int): Values of a column.
        sigma (float): Of the Gaussian; 0: the matrix is one.
        like (Tensor): Of the dtype and on the device that the matrix shall have.
    """
    if sigma == 0:
        return torch.eye(size, dtype=like.dtype, device=like.device)
    kernel = _gaussian(sigma, like)
    steps = torch.arange(len(kernel), device=like.device) - len(kernel) // 2
    places = torch.arange(size, device=like.device)[:, None] + steps
    matrix = torch.zeros(size, size, dtype=like.dtype, device=like.device)
    return matrix.scatter_add(
        1, places.clamp(0, size - 1), kernel.expand(size, -1).contiguous()
    )


def _gaussian(sigma: float, like: Tensor) -> Tensor:
    radius = max(1, round(3 * sigma))
    steps = torch.arange(-radius, radius + 1, dtype=like.dtype, device=like.device)
    kernel = torch.exp(-0.5 * (steps / sigma).square())
    return kernel / kernel.sum()
