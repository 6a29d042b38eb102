"""One picture for one image and any number of methods: map, overlay and curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from captum.attr import visualization  # loads matplotlib, as every import of Captum
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from captum_margin._notebook import NotebookFigure
from captum_margin.metrics import InsertionDeletion
from captum_margin.viz._arrays import Array, displayable_image, displayable_map

__all__ = ["visualize_comparison"]

Sign = Literal["positive", "negative", "absolute_value", "all"]

_PANEL_INCHES = 2.6
_TITLES = ("image", "heat map", "overlay", "insertion / deletion")


def visualize_comparison(
    image: Tensor | Array,
    attributions: Mapping[str, Tensor | Array] | Tensor | Array,
    *,
    curves: Mapping[str, InsertionDeletion] | InsertionDeletion | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    sign: Sign = "positive",
    outlier_perc: float = 2,
    cmap: Any = None,
    alpha_overlay: float = 0.5,
    title: str | None = None,
) -> tuple[Figure, Array]:
    """Draws image, heat map, overlay and insertion/deletion curves, a row per method.

    Each panel is drawn by :func:`captum.attr.visualization.visualize_image_attr`, which
    scales every map by itself: colours compare places within a map, not methods with
    each other. A map without anything of the chosen sign (where Captum raises
    an error) is drawn empty and its panel says so. The figure belongs to no pyplot
    window: it works without a display, changes no global state and needs no closing.
    Show it with ``fig`` as a notebook cell's last line, keep it with ``fig.savefig``.

    Args:
        image (Tensor or ndarray): One image: a tensor of shape (C, H, W) or
            (1, C, H, W), or an array of shape (H, W, C) or (H, W), with 1 or 3
            channels. Integers are taken as 0 to 255.
        attributions (Mapping[str, Tensor or ndarray], Tensor or ndarray): The maps by
            name, in the order of the rows, or one map. Shapes as for ``image``;
            channels are summed, as Captum does. A map smaller than the image, such
            as the (1, 1, h, w) of :class:`captum.attr.LayerGradCam`, is upsampled
            bilinearly.
        curves (Mapping[str, InsertionDeletion] or InsertionDeletion, optional): Results
            of :func:`captum_margin.metrics.insertion_deletion` for this one image, by
            the names of ``attributions``; adds the column of curves. Default: None
        mean (Sequence[float] or float, optional): Mean the image was normalised with,
            added back before drawing. Default: None, which is 0 if ``std`` is given
        std (Sequence[float] or float, optional): Standard deviation the image was
            normalised with. Without ``mean`` and ``std``, a floating-point image with
            values outside [0, 1] is stretched to [0, 1]. Default: None
        sign (str, optional): Evidence to show: ``"positive"``, ``"negative"``,
            ``"absolute_value"`` or ``"all"``. Default: ``"positive"``
        outlier_perc (float, optional): Share of the total attribution, in percent, in
            the strongest pixels that is clipped to the end of the colour scale, at
            least 0 and under 100. Default: 2
        cmap (str or Colormap, optional): Colours of the maps. Default: None, which is
            ``"inferno"``, and ``"RdBu_r"`` (red for, blue against) with ``sign="all"``
        alpha_overlay (float, optional): Opacity of the map over the image, 0 to 1.
            Default: 0.5
        title (str, optional): Title of the figure. Default: None

    Returns:
        tuple[Figure, ndarray]: The figure, and its axes in an array of shape (rows, 3),
        or (rows, 4) with ``curves``.

    Raises:
        TypeError: If an image or map is neither a tensor nor an array.
        ValueError: If a shape does not fit, a value is NaN or infinite, there is no
            map, ``sign``, ``outlier_perc`` or ``alpha_overlay`` is out of range, or a
            name in ``curves`` has no map.

    Cost: that of drawing, about 0.1 s a row.

    Example:
        >>> import torch
        >>> from captum_margin.viz import visualize_comparison
        >>> image = torch.rand(1, 3, 32, 32)
        >>> maps = {"one": torch.rand(1, 3, 32, 32), "two": torch.zeros(1, 1, 8, 8)}
        >>> figure, axes = visualize_comparison(image, maps)
        >>> axes.shape
        (2, 3)
    """
    named = _by_name(attributions)
    named_curves = _curves_by_name(curves, named)
    if sign not in ("positive", "negative", "absolute_value", "all"):
        raise ValueError(
            'expected sign "positive", "negative", "absolute_value" or "all" '
            f"(got {sign!r})"
        )
    if not 0 <= outlier_perc < 100:
        raise ValueError(
            f"expected outlier_perc of at least 0 and under 100 (got {outlier_perc})"
        )
    pixels = displayable_image(image, mean, std)
    height, width = pixels.shape[:2]
    maps = {
        name: displayable_map(name, attribution, (height, width))
        for name, attribution in named.items()
    }

    n_columns = 4 if named_curves else 3
    panel_height = _PANEL_INCHES * min(max(height / width, 0.5), 2.0)
    figure = NotebookFigure(
        figsize=(
            _PANEL_INCHES * 3 + (n_columns - 3) * 3.2 + 0.3,
            panel_height * len(maps) + (0.7 if title else 0.4),
        ),
        layout="constrained",
    )
    axes: Array = figure.subplots(
        len(maps),
        n_columns,
        squeeze=False,
        gridspec_kw={"width_ratios": [1, 1, 1, 1.25][:n_columns]},
    )
    style = {
        "sign": sign,
        # At exactly 0, rounding can leave Captum without a largest value.
        "outlier_perc": max(outlier_perc, 1e-6),
        "cmap": cmap or ("RdBu_r" if sign == "all" else "inferno"),
    }
    for row, (name, values) in zip(axes, maps.items(), strict=True):
        _draw_maps(figure, row, pixels, values, style, alpha_overlay)
        if isinstance(attributions, Mapping):
            row[0].set_ylabel(name, fontsize=11)
        if named_curves:
            _draw_curves(row[3], named_curves.get(name))
    if named_curves:
        # One scale for all methods: these panels are there to be compared.
        limits = [axis.get_ylim() for axis in axes[:, 3] if axis.axison]
        lowest, highest = min(low for low, _ in limits), max(high for _, high in limits)
        for axis in axes[:, 3]:
            axis.set_ylim(min(0.0, lowest), highest)
    for axis, heading in zip(axes[0], _TITLES, strict=False):
        axis.set_title(heading, fontsize=11)
    if title:
        figure.suptitle(title, fontsize=13)
    return figure, axes


def _by_name(
    attributions: Mapping[str, Tensor | Array] | Tensor | Array,
) -> dict[str, Tensor | Array]:
    if not isinstance(attributions, Mapping):
        return {"attribution": attributions}
    if not attributions:
        raise ValueError("expected at least one map in attributions (got none)")
    return dict(attributions)


def _curves_by_name(
    curves: Mapping[str, InsertionDeletion] | InsertionDeletion | None,
    named: dict[str, Tensor | Array],
) -> dict[str, InsertionDeletion]:
    if curves is None:
        return {}
    if not isinstance(curves, Mapping):
        if len(named) > 1:
            raise ValueError(
                "expected curves by the names of attributions (got one result for "
                f"{len(named)} maps); pass a mapping such as {{name: result}}"
            )
        curves = {next(iter(named)): curves}
    unknown = sorted(set(curves) - set(named))
    if unknown:
        raise ValueError(
            f"expected the names in curves among those of attributions, {list(named)} "
            f"(got {unknown})"
        )
    for name, result in curves.items():
        if result.insertion.shape[0] != 1:
            raise ValueError(
                f"expected curves[{name!r}] of one image, of shape (1, S + 1) "
                f"(got {tuple(result.insertion.shape)}); measure this image by itself"
            )
    return dict(curves)


def _draw_maps(
    figure: Figure,
    row: Array,
    pixels: Array,
    values: Array,
    style: dict[str, Any],
    alpha_overlay: float,
) -> None:
    def draw(axis: Axes, method: str, attribution: Array, **options: Any) -> None:
        visualization.visualize_image_attr(
            attribution,
            pixels,
            method=method,
            plt_fig_axis=(figure, axis),
            use_pyplot=False,
            **options,
        )

    # Captum scales the map even where it draws none of it, so it is given one of ones.
    ones = np.ones_like(values)
    draw(row[0], "original_image", ones)
    sign = style["sign"]
    chosen = {"positive": values.clip(min=0), "negative": values.clip(max=0)}
    largest = np.abs(chosen.get(sign, values)).max()
    if largest > 0:
        # Captum warns of scales under 1e-5, which say nothing about a map's meaning.
        scaled = values / largest
        draw(row[1], "heat_map", scaled, **style)
        draw(row[2], "blended_heat_map", scaled, alpha_overlay=alpha_overlay, **style)
    else:
        lowest = -1 if sign == "all" else 0
        row[1].imshow(np.zeros_like(values), cmap=style["cmap"], vmin=lowest, vmax=1)
        row[1].set(xticks=[], yticks=[])
        is_signed = sign in ("positive", "negative")
        row[1].set_xlabel(f"nothing {sign}" if is_signed else "the map is zero")
        draw(row[2], "original_image", ones)


def _draw_curves(axis: Axes, result: InsertionDeletion | None) -> None:
    if result is None:
        axis.set_axis_off()
        return
    fractions = result.fractions.detach().cpu().double().numpy()
    for label, scores, area, colour in (
        ("insertion", result.insertion, result.insertion_auc, "#1b7837"),
        ("deletion", result.deletion, result.deletion_auc, "#c51b7d"),
    ):
        heights = scores[0].detach().cpu().double().numpy()
        axis.plot(
            fractions, heights, color=colour, label=f"{label} {float(area[0]):.3f}"
        )
        axis.fill_between(fractions, heights, color=colour, alpha=0.12)
    axis.set_xlim(0, 1)
    axis.margins(y=0.02)
    axis.set_xlabel("share of pixels")
    axis.set_ylabel("score of the target")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=9, loc="best", frameon=False)
