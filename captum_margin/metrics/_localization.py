"""Does a map lie where the evidence is known to be: a mask, or a box?

Three measures, from the loosest to the strictest about where a map puts its weight:
the share of the positive map inside (the "energy-based pointing game" of Wang et al.,
"Score-CAM", CVPR workshops 2020, section 4.3), the pointing game (Zhang et al.,
"Top-down Neural Attention by Excitation Backprop", ECCV 2016, section 4.2), and the
intersection over union of the mask and as many of the top pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captum_margin._version import versions
from captum_margin.metrics._resized_maps import InterpolateMode, resized_map

__all__ = ["Localization", "localization"]


@dataclass(frozen=True, eq=False)
class Localization:
    """Scores of :func:`localization`, one an example.

    Read them beside ``area``: a map that knows nothing has this ``energy`` and
    ``pointing`` on average, and about ``area / (2 - area)`` in ``iou``.

    Attributes:
        energy (Tensor): Share of the map's positive part that lies inside, (B,); 0
            where the map has none. Higher is better.
        pointing (Tensor): Whether the map's highest pixel lies inside, 1 or 0, or the
            share of the highest pixels that do where several are equal, (B,). Higher
            is better.
        iou (Tensor): Intersection over union of the mask and as many top pixels, (B,);
            its mean over all orders of equal pixels. Higher is better.
        area (Tensor): Share of the image inside, (B,).
        is_empty (Tensor): Whether the map has no positive part, bool, (B,).
        settings (dict): All that the numbers depend on; plain values, fit for JSON.
    """

    energy: Tensor
    pointing: Tensor
    iou: Tensor
    area: Tensor
    is_empty: Tensor
    settings: dict[str, Any]


def localization(
    attributions: Tensor | tuple[Tensor, ...],
    masks: Tensor | None = None,
    *,
    boxes: Tensor | None = None,
    image_size: tuple[int, int] | None = None,
    tolerance: float = 0.0,
    interpolate_mode: InterpolateMode = "bilinear",
) -> Localization:
    r"""Compares maps with masks or boxes of what they should show.

    With :math:`A^+` the positive part of a map, M the mask and :math:`|M|` its number
    of pixels:

    - ``energy`` is :math:`\sum_{p \in M} A^+_p / \sum_p A^+_p` (Wang et al., CVPR
      workshops 2020, section 4.3). Negative values are ignored. A map without a
      positive value shows nothing: 0, and ``is_empty`` is true.
    - ``pointing`` asks whether the highest pixel lies inside (Zhang et al., ECCV 2016,
      section 4.2). Pixels that are highest together count by their share inside, what
      a choice among them by lot has on average. A constant map, of zeros too, so has
      the mask's share of the image. With ``tolerance``, a pixel no further than this
      from one of the mask counts as inside.
    - ``iou`` is the intersection over union of M and the :math:`|M|` highest pixels.
      Where the last of these are equal to others, it is the mean over all choices
      among the equal ones, exactly (the hypergeometric distribution).

    Maps with channels are summed over them; maps of another resolution are brought to
    that of the masks first, as :meth:`captum.attr.LayerAttribution.interpolate` does.

    Args:
        attributions (Tensor): Maps of shape (B, K, h, w), high where the image speaks
            for the target, of any resolution.
        masks (Tensor, optional): True, or 1, where the evidence is, of shape (B, H, W)
            or (B, 1, H, W); bool, or numbers that are all 0 or 1. Default: None, with
            ``boxes``
        boxes (Tensor, optional): Instead of masks, one box an example, (B, 4), as
            (x1, y1, x2, y2) in pixels, :math:`x_1 < x_2`; a pixel is inside if its
            centre is, so that (0, 0, W, H) is the whole image, as in torchvision. Add 1
            to x2 and y2 where these name the last pixel inside. Default: None
        image_size (tuple[int, int], optional): With ``boxes``, (H, W) of the images.
            Default: None, the maps' own size
        tolerance (float, optional): Distance in pixels at which a highest pixel still
            counts as inside, for ``pointing`` alone; Zhang et al. take 15, on images
            of some 500 x 375. Default: 0.0
        interpolate_mode (str, optional): ``"bilinear"`` or ``"nearest"``, for maps of
            another resolution. Default: ``"bilinear"``

    Returns:
        Localization: The three scores, the area, which maps are empty, settings;
        float64, on the device of the maps.

    Raises:
        ValueError: If a shape does not fit, a mask or box is empty, a mask holds other
            values than 0 and 1, a value is NaN or infinite, there are both masks and
            boxes or neither, or an option has no such value.
        TypeError: If maps, masks or boxes are not tensors.

    Cost: O(P log P) per example of P pixels; no forward pass. ``pointing`` with a
    tolerance and ``iou`` are computed on the CPU.

    Example:
        >>> import torch
        >>> from captum_margin.metrics import localization
        >>> attributions = torch.tensor([[[[3.0, 0.0], [1.0, -2.0]]]])
        >>> found = localization(attributions, torch.tensor([[[True, False]] * 2]))
        >>> found.energy.item(), found.pointing.item(), found.iou.item()
        (1.0, 1.0, 1.0)
        >>> found = localization(attributions, boxes=torch.tensor([[0, 0, 2, 1]]))
        >>> found.energy.item(), found.area.item()
        (0.75, 0.5)
    """
    if (masks is None) == (boxes is None):
        raise ValueError(
            "expected either masks or boxes (got "
            f"{'neither' if masks is None else 'both'}); pass what the maps should show"
        )
    if masks is not None:
        if image_size is not None:
            raise ValueError(
                f"expected image_size with boxes only (got {image_size} with masks, "
                "which have a size of their own); leave it out"
            )
        inside = _checked_masks(masks)
    else:
        inside = _masks_of(boxes, _size_for_boxes(image_size, attributions))
    if not 0 <= tolerance < float("inf"):
        raise ValueError(f"expected a tolerance of 0 pixels or more (got {tolerance})")
    n_examples, height, width = inside.shape
    values = resized_map(attributions, n_examples, (height, width), interpolate_mode)
    inside = inside.to(values.device)
    values, inside = values.flatten(1), inside.flatten(1)

    positive = values.clamp(min=0)
    total = positive.sum(dim=1)
    is_empty = total == 0
    energy = (positive * inside).sum(dim=1) / total.masked_fill(is_empty, 1.0)

    highest = values == values.amax(dim=1, keepdim=True)
    near = _grown(inside.view(n_examples, height, width), tolerance).flatten(1)
    pointing = (highest & near).sum(dim=1) / highest.sum(dim=1).double()

    rows = zip(values.cpu().numpy(), inside.cpu().numpy(), strict=True)
    iou = [_expected_iou(one, mask) for one, mask in rows]
    return Localization(
        energy=energy,
        pointing=pointing,
        iou=torch.tensor(iou, dtype=values.dtype, device=values.device),
        area=inside.double().mean(dim=1),
        is_empty=is_empty,
        settings={
            "metric": "localisation in a mask or box",
            "given": "masks" if masks is not None else "boxes",
            "image_size": [height, width],
            "tolerance": float(tolerance),
            "interpolate_mode": interpolate_mode,
            "map": "attributions summed over channels, brought to the masks' size",
            "energy": "positive part; 0 for a map without one",
            "pointing": "equal highest pixels count by their share inside",
            "iou": "as many top pixels as the mask has; mean over orders of equal ones",
            "versions": versions("torch", "scipy"),
        },
    )


def _checked_masks(masks: Tensor) -> Tensor:
    """The masks as bool (B, H, W), none of them empty."""
    if not isinstance(masks, Tensor):
        raise TypeError(
            f"expected masks to be a tensor (got {type(masks).__name__}); convert "
            "them with torch.as_tensor"
        )
    if masks.dim() == 4 and masks.shape[1] == 1:
        masks = masks[:, 0]
    if masks.dim() != 3 or masks.numel() == 0:
        raise ValueError(
            "expected masks of shape (B, H, W) or (B, 1, H, W) "
            f"(got {tuple(masks.shape)}); one mask an example"
        )
    if masks.dtype != torch.bool and not ((masks == 0) | (masks == 1)).all():
        raise ValueError(
            "expected masks of 0 and 1 (got other values); compare them first, "
            "for example labels == class_index or soft_mask > 0.5"
        )
    inside = masks.bool()
    _refuse_empty(inside, "masks with at least one pixel")
    return inside


def _size_for_boxes(
    image_size: tuple[int, int] | None, attributions: Tensor | tuple[Tensor, ...]
) -> tuple[int, int]:
    """The size of the images that the boxes are in."""
    if image_size is None:
        first = attributions[0] if isinstance(attributions, tuple) else attributions
        if not isinstance(first, Tensor) or first.dim() != 4:
            got = tuple(first.shape) if isinstance(first, Tensor) else type(first)
            raise ValueError(f"expected attributions of shape (B, K, h, w) (got {got})")
        return int(first.shape[2]), int(first.shape[3])
    if len(image_size) != 2 or not all(
        isinstance(side, int) and side > 0 for side in image_size
    ):
        raise ValueError(f"expected image_size as (H, W) in pixels (got {image_size})")
    return int(image_size[0]), int(image_size[1])


def _masks_of(boxes: Tensor | None, size: tuple[int, int]) -> Tensor:
    """Which pixels have their centre in the boxes, bool, (B, H, W)."""
    if not isinstance(boxes, Tensor):
        raise TypeError(
            f"expected boxes to be a tensor (got {type(boxes).__name__}); convert "
            "them with torch.as_tensor"
        )
    if boxes.dim() != 2 or boxes.shape[1] != 4 or len(boxes) == 0:
        raise ValueError(
            "expected boxes of shape (B, 4), one (x1, y1, x2, y2) an example "
            f"(got {tuple(boxes.shape)}); join several into a mask"
        )
    corners = boxes.detach().double()
    if not torch.isfinite(corners).all():
        raise ValueError("expected finite boxes (got NaN or infinity)")
    left, top, right, bottom = corners[:, :, None].unbind(dim=1)
    y, x = (torch.arange(side, device=boxes.device) + 0.5 for side in size)
    rows = (top <= y) & (y < bottom)  # (B, H)
    columns = (left <= x) & (x < right)  # (B, W)
    inside = rows[:, :, None] & columns[:, None, :]
    _refuse_empty(
        inside,
        f"boxes (x1, y1, x2, y2), x1 < x2 and y1 < y2, that hold the centre of a pixel "
        f"of the images of {size[0]} x {size[1]}",
    )
    return inside


def _refuse_empty(inside: Tensor, expected: str) -> None:
    empty = (~inside.flatten(1).any(dim=1)).nonzero()[:, 0].tolist()
    if empty:
        more = ", ..." if len(empty) > 10 else ""
        raise ValueError(
            f"expected {expected} (got none in examples "
            f"{', '.join(map(str, empty[:10]))}{more}); leave these examples out, as "
            "nothing can lie in nothing"
        )


def _grown(inside: Tensor, tolerance: float) -> Tensor:
    """The masks with all pixels no further than ``tolerance`` from them."""
    if tolerance == 0:
        return inside
    from scipy.ndimage import distance_transform_edt

    distances = [distance_transform_edt(~mask) for mask in inside.cpu().numpy()]
    return torch.from_numpy(np.stack(distances) <= tolerance).to(inside.device)


def _expected_iou(values: NDArray[np.float64], inside: NDArray[np.bool_]) -> float:
    """Mean over all orders of equal pixels: how many of them inside are drawn."""
    from scipy.stats import hypergeom

    count = int(inside.sum())
    last = np.partition(values, len(values) - count)[len(values) - count]
    above, equal = values > last, values == last
    sure = int((above & inside).sum())
    n_equal, n_equal_inside = int(equal.sum()), int((equal & inside).sum())
    n_drawn = count - int(above.sum())
    fewest = max(0, n_drawn - (n_equal - n_equal_inside))
    hits = np.arange(fewest, min(n_drawn, n_equal_inside) + 1)
    chances = hypergeom(n_equal, n_equal_inside, n_drawn).pmf(hits)
    shared = sure + hits
    weights = chances / chances.sum()  # exactly 1 where there is no choice
    return float((weights * (shared / (2 * count - shared))).sum())
