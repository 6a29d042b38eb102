"""Ground truth without labels: grids of images, of which one is to be found.

The grid pointing game: Böhle, Fritz, Schiele, "Convolutional Dynamic Alignment
Networks for Interpretable Classifications", CVPR 2021, section 4.2; under the name
GridPG in Rao, Böhle, Schiele, "Towards Better Understanding Attribution Methods",
CVPR 2022, section 3.1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_margin._model.captum import SoftmaxWatch, check_output, target_outputs
from captum_margin._version import versions
from captum_margin._whole_numbers import whole_number
from captum_margin.metrics._images import check_count, check_images
from captum_margin.metrics._resized_maps import InterpolateMode, resized_map

__all__ = ["GridPointing", "grid_pointing"]

CellSize = Literal["full", "shrunk"]


@dataclass(frozen=True, eq=False)
class GridPointing:
    """What :func:`grid_pointing` found in G grids, of each of which E cells were asked.

    Cells are counted row by row, from 0 at the top left.

    Attributes:
        scores (Tensor): Share of the positive part of the map that lies in the right
            cell, (G, E); 0 where the map has none. Higher is better.
        mean_score (float): Mean of ``scores``, 0 to 1; 1 / n_cells² is chance.
        standard_error (float): Of the mean over grids; NaN for one grid.
        n_empty (int): Maps without a positive part, which count as 0.
        is_empty (Tensor): Which these are, bool, (G, E).
        cells (Tensor): The cell that each map was to find, (G, E).
        images (Tensor): The image in every cell, an index, (G, n_cells²).
        targets (Tensor): The class of every cell, (G, n_cells²).
        grid_scores (Tensor): Scores that the model gives these classes for the whole
            grid, (G, n_cells²).
        n_candidates (int): Images that are classified confidently enough.
        settings (dict): All that the numbers depend on; plain values, fit for JSON.
    """

    scores: Tensor
    mean_score: float
    standard_error: float
    n_empty: int
    is_empty: Tensor
    cells: Tensor
    images: Tensor
    targets: Tensor
    grid_scores: Tensor
    n_candidates: int
    settings: dict[str, Any]

    def __repr__(self) -> str:
        """The mean in one line."""
        n_grids, n_asked = self.scores.shape
        return (
            f"GridPointing(mean_score={self.mean_score:.3f} "
            f"± {self.standard_error:.3f}, n_grids={n_grids}, maps={n_grids * n_asked},"
            f" n_empty={self.n_empty})"
        )


def grid_pointing(
    forward_func: Callable[..., Tensor],
    attribute: Callable[..., Tensor | tuple[Tensor, ...]],
    images: Tensor | tuple[Tensor, ...],
    targets: int | Tensor | list[int] | None = None,
    *,
    attribute_options: Mapping[str, Any] | None = None,
    n_cells: int = 2,
    n_grids: int | None = None,
    n_explained: int | None = None,
    cell_size: CellSize = "full",
    min_score: float = 0.5,
    softmax: bool = True,
    interpolate_mode: InterpolateMode = "bilinear",
    batch_size: int = 1,
    seed: int = 0,
    show_progress: bool = False,
) -> GridPointing:
    r"""Measures whether a method finds, in a grid of images, the one of its class.

    Images of ``n_cells``² different classes, each decided confidently by the model, are
    put side by side. The grid is explained for the class of a cell, and with
    :math:`A^+` the positive part of the map the score is the share of it in this cell,

    .. math:: \sum_{p \in \mathrm{cell}} A^+_p / \sum_p A^+_p

    (Böhle et al., CVPR 2021, section 4.2; Rao et al., CVPR 2022, section 3.1). A map
    that is positive there alone has 1. A constant positive map has 1 / n_cells², and so
    has a random one on average: .25 of four cells. Negative values are ignored. A map
    without a positive value shows nothing: it has 0, and is counted in ``n_empty``.

    Candidates are the images for whose target the model has its largest output, with a
    score of ``min_score`` at least. Grids are drawn from them by lot, the classes with
    the most images left coming first, so that no image is used twice before as many
    grids as can be were made of different ones.

    Args:
        forward_func (Callable): The model, as in
            :class:`captum.attr.FeatureAblation`, with outputs (B, classes); put it in
            evaluation mode first.
        attribute (Callable): The method: called as ``attribute(grids, target=classes,
            **attribute_options)`` with grids (B, C, H', W') and a tensor (B,) of
            classes, it returns maps (B, K, h, w) of any resolution. For example
            ``LayerGradCam(model, layer).attribute``.
        images (Tensor): Images of shape (N, C, H, W).
        targets (int, Tensor or list, optional): Class of every image, (N,), or one for
            all. Default: None, the class the model decides for
        attribute_options (Mapping, optional): Further named arguments of ``attribute``,
            such as ``{"relu_attributions": True}``. Default: None
        n_cells (int, optional): Cells along a side, 2 at least. Default: 2
        n_grids (int, optional): Number of grids; where there are too few images for as
            many, images are used again. Default: None, as many as can be made of
            different images
        n_explained (int, optional): Cells of each grid that are asked for, chosen by
            lot. Default: None, all of them
        cell_size (str, optional): ``"full"`` puts the images side by side, which makes
            the grid ``n_cells`` times as high and wide, for models that take any size
            (global pooling before the classifier). ``"shrunk"`` makes each so much
            smaller that the grid is of the images' own size, for models of one size
            (a fixed position embedding, a flattened map). Candidates must then also
            be confident at this smaller size: in a grid of copies of the one image.
            Default: ``"full"``
        min_score (float, optional): Least score of a candidate. Default: 0.5
        softmax (bool, optional): Whether outputs are logits, to be turned into
            probabilities. Default: True
        interpolate_mode (str, optional): ``"bilinear"`` or ``"nearest"``: how maps of
            another resolution are brought to that of the grid, as by
            :meth:`captum.attr.LayerAttribution.interpolate`. Default: ``"bilinear"``
        batch_size (int, optional): Images in one pass, and grids in one call of
            ``attribute``. Default: 1
        seed (int, optional): Of the draw of grids and cells. Default: 0
        show_progress (bool, optional): Whether to show a progress bar. Default: False

    Returns:
        GridPointing: Scores and their mean, empty maps, what each grid is made of, the
        model's scores of it, settings.

    Raises:
        ValueError: If there are not ``n_cells``² candidates of different classes, the
            model does not take images of the grid's size or has not outputs
            (B, classes), a shape does not fit, an option has no such value, or a value
            is NaN or infinite.
        TypeError: If the images are not floating point, ``attribute`` cannot be called
            or does not return one tensor, or targets are not integers.

    Cost: N passes for the candidates, 2 N with ``"shrunk"``, and one a grid, n_cells²
    times as large with ``"full"``; G * E calls of ``attribute`` over ``batch_size``.

    Example:
        >>> import torch
        >>> from captum_margin.metrics import grid_pointing
        >>> images = torch.eye(4)[:, :, None, None].expand(-1, -1, 8, 8)  # 4 colours
        >>> model = lambda x: 20 * x.mean(dim=(2, 3))  # names the colour
        >>> def colour(x, target):
        ...     return x[torch.arange(len(x)), target][:, None]
        >>> grid_pointing(model, colour, images)
        GridPointing(mean_score=1.000 ± nan, n_grids=1, maps=4, n_empty=0)
        >>> flat = lambda x, target: torch.ones_like(x)
        >>> grid_pointing(model, flat, images).mean_score
        0.25
    """
    x = check_images(images, forward_func)
    for value, name in ((n_cells, "n_cells"), (batch_size, "batch_size")):
        check_count(value, name)
    if n_cells < 2:
        raise ValueError("expected n_cells >= 2 (got 1); one cell holds every map")
    if n_grids is not None:
        check_count(n_grids, "n_grids")
    per_grid = n_cells * n_cells
    if n_explained is not None:
        check_count(n_explained, "n_explained")
    n_asked = per_grid if n_explained is None else n_explained
    if n_asked > per_grid:
        raise ValueError(
            f"expected n_explained of {per_grid} cells at most (got {n_explained})"
        )
    if cell_size not in ("full", "shrunk"):
        raise ValueError(
            f'expected cell_size to be "full" or "shrunk" (got {cell_size!r})'
        )
    if cell_size == "shrunk" and min(x.shape[2:]) < n_cells:
        raise ValueError(
            f"expected images of at least {n_cells} x {n_cells} pixels "
            f"(got {tuple(x.shape[2:])})"
        )
    if not callable(attribute):
        raise TypeError(
            f"expected attribute to be callable (got {type(attribute).__name__}); pass "
            "the method's attribute, for example LayerGradCam(model, layer).attribute"
        )

    bounds = _bounds(x, n_cells, cell_size)
    scores = _scores_of(forward_func, x, softmax, batch_size)
    classes = _classes_of(targets, scores)
    confident = _are_confident(scores, classes, min_score)
    if cell_size == "shrunk":
        copies = torch.arange(len(x))[:, None].expand(-1, per_grid)
        repeated = _joined(x, copies, bounds)
        scores = _scores_of(forward_func, repeated, softmax, batch_size)
        confident &= _are_confident(scores, classes, min_score)
    candidates = confident.nonzero()[:, 0].tolist()
    generator = torch.Generator().manual_seed(whole_number(seed, "seed"))
    members = _drawn_grids(
        candidates, classes.tolist(), per_grid, n_grids, generator, min_score, len(x)
    )
    # Of its own, so that the first grids and cells are the same however many there are.
    generator = torch.Generator().manual_seed(seed + 1)
    asked = torch.stack(
        [torch.randperm(per_grid, generator=generator)[:n_asked] for _ in members]
    )
    asked = asked.sort(dim=1).values
    class_of_cell = classes.cpu()[members]

    pairs = [(grid, int(cell)) for grid, row in enumerate(asked) for cell in row]
    shares = torch.zeros(asked.shape, dtype=torch.float64)
    is_empty = torch.zeros(asked.shape, dtype=torch.bool)
    grid_scores = []
    for start in range(0, len(members), batch_size):
        block = _joined(x, members[start : start + batch_size], bounds)
        found = _scores_of_grids(forward_func, block, softmax, cell_size)
        of_block = class_of_cell[start : start + batch_size].to(found.device)
        grid_scores.append(found.gather(1, of_block))
    options = dict(attribute_options or {})
    starts = range(0, len(pairs), batch_size)
    for start in _with_progress(starts, show_progress):
        chunk = pairs[start : start + batch_size]
        rows = torch.tensor([grid for grid, _ in chunk])
        wanted = torch.tensor([cell for _, cell in chunk])
        grids = _joined(x, members[rows], bounds)
        target = class_of_cell[rows, wanted].to(x.device)
        attributions = attribute(grids, target=target, **options)
        size = (int(grids.shape[2]), int(grids.shape[3]))
        values = resized_map(attributions, len(chunk), size, interpolate_mode)
        positive = values.clamp(min=0).cpu()
        for number, (value, cell) in enumerate(zip(positive, wanted, strict=True)):
            total = value.sum()
            place = divmod(start + number, n_asked)
            is_empty[place] = total == 0
            if total > 0:
                shares[place] = value[_cell(bounds, int(cell))].sum() / total

    of_grids = shares.mean(dim=1)
    error = of_grids.std() / len(of_grids) ** 0.5 if len(of_grids) > 1 else torch.nan
    return GridPointing(
        scores=shares,
        mean_score=shares.mean().item(),
        standard_error=float(error),
        n_empty=int(is_empty.sum()),
        is_empty=is_empty,
        cells=asked,
        images=members,
        targets=class_of_cell,
        grid_scores=torch.cat(grid_scores).cpu(),
        n_candidates=len(candidates),
        settings={
            "metric": "grid pointing game",
            "n_cells": n_cells,
            "n_grids": len(members),
            "n_explained": n_asked,
            "cell_size": cell_size,
            "grid_size": [bounds[0][-1], bounds[1][-1]],
            "min_score": min_score,
            "softmax": softmax,
            "interpolate_mode": interpolate_mode,
            "map": "positive part of attributions summed over channels; 0 without one",
            "seed": seed,
            "dtype": str(x.dtype),
            "versions": versions("captum", "torch"),
        },
    )


@torch.no_grad()
def _scores_of(
    forward_func: Callable[..., Tensor], x: Tensor, softmax: bool, batch_size: int
) -> Tensor:
    """The model's scores of all classes, (N, classes)."""
    found = [target_outputs(forward_func, (part,)) for part in x.split(batch_size)]
    output = torch.cat(found)
    if output.dim() != 2 or output.shape[1] < 2 or len(output) != len(x):
        raise ValueError(
            f"expected outputs of shape (B, classes) (got {tuple(output.shape)} for "
            f"{len(x)} images); wrap the model so that it returns one score a class"
        )
    if softmax:
        watch = SoftmaxWatch()
        watch.note(output)
        watch.warn(stacklevel=4)
    return _softmax(output, softmax)


def _softmax(output: Tensor, softmax: bool) -> Tensor:
    dtype = torch.promote_types(output.dtype, torch.float32)
    return output.softmax(dim=1, dtype=dtype) if softmax else output.to(dtype)


def _are_confident(scores: Tensor, classes: Tensor, min_score: float) -> Tensor:
    """Whether a class has the largest score, and enough of it, bool, (N,)."""
    own = scores.gather(1, classes[:, None])[:, 0]
    return (own >= min_score) & (own == scores.amax(dim=1))


@torch.no_grad()
def _scores_of_grids(
    forward_func: Callable[..., Tensor],
    grids: Tensor,
    softmax: bool,
    cell_size: CellSize,
) -> Tensor:
    """The scores of grids; says what to do if they are too large for the model."""
    try:
        output = forward_func(grids)
    except (RuntimeError, AssertionError, ValueError) as error:
        if cell_size == "shrunk":
            raise
        raise ValueError(
            "expected a model that takes images of the grid's size, "
            f"{grids.shape[2]} x {grids.shape[3]} (got {type(error).__name__}: "
            f'{error}); pass cell_size="shrunk" for grids of the images\' own size'
        ) from error
    check_output(output)
    return _softmax(output, softmax)


def _classes_of(targets: int | Tensor | list[int] | None, scores: Tensor) -> Tensor:
    """One class an image, int64, (N,)."""
    n_images, n_classes = scores.shape
    if targets is None:
        return scores.argmax(dim=1)
    given = torch.as_tensor(targets)
    if given.is_floating_point() or given.dtype == torch.bool or given.is_complex():
        raise TypeError(
            f"expected targets to be integers (got {given.dtype}); pass class indices"
        )
    if given.dim() == 0:
        given = given.expand(n_images)
    if given.shape != (n_images,):
        raise ValueError(
            f"expected targets of shape (N,) = ({n_images},) "
            f"(got {tuple(given.shape)}); pass one class an image, or none"
        )
    if given.min() < 0 or given.max() >= n_classes:
        raise ValueError(
            f"expected targets from 0 to {n_classes - 1} "
            f"(got {int(given.min())} to {int(given.max())})"
        )
    return given.to(scores.device, torch.int64)


def _drawn_grids(
    candidates: list[int],
    classes: list[int],
    per_grid: int,
    n_grids: int | None,
    generator: torch.Generator,
    min_score: float,
    n_images: int,
) -> Tensor:
    """Images of every grid, no two of one class, (G, per_grid).

    The classes with the most images left come first: no other choice makes more grids
    of different images.
    """
    by_class: dict[int, list[int]] = defaultdict(list)
    for image in candidates:
        by_class[classes[image]].append(image)
    if len(by_class) < per_grid:
        raise ValueError(
            f"expected images of at least {per_grid} different classes that the model "
            f"decides for with a score of {min_score} (got {len(candidates)} of "
            f"{n_images} images, of {len(by_class)} classes); bring more images, or "
            "lower min_score or n_cells"
        )
    left: dict[int, list[int]] = {}
    grids: list[list[int]] = []
    while n_grids is None or len(grids) < n_grids:
        if sum(bool(images) for images in left.values()) < per_grid:
            if n_grids is None and grids:
                break
            left = {label: list(images) for label, images in by_class.items()}
        labels = [label for label in sorted(left) if left[label]]
        lots = torch.randperm(len(labels), generator=generator).tolist()
        order = sorted(
            range(len(labels)), key=lambda i: (-len(left[labels[i]]), lots[i])
        )
        grid = []
        for i in order[:per_grid]:
            images = left[labels[i]]
            pick = int(torch.randint(len(images), (), generator=generator))
            grid.append(images.pop(pick))
        places = torch.randperm(per_grid, generator=generator).tolist()
        grids.append([grid[place] for place in places])
    return torch.tensor(grids)


def _bounds(
    x: Tensor, n_cells: int, cell_size: CellSize
) -> tuple[list[int], list[int]]:
    """Where cells begin and end along the height and the width of a grid."""

    def along(side: int) -> list[int]:
        if cell_size == "full":
            return [side * i for i in range(n_cells + 1)]
        return [side * i // n_cells for i in range(n_cells + 1)]

    return along(x.shape[2]), along(x.shape[3])


def _cell(bounds: tuple[list[int], list[int]], cell: int) -> tuple[slice, slice]:
    """Rows and columns of a cell."""
    row, column = divmod(cell, len(bounds[0]) - 1)
    ys, xs = bounds
    return slice(ys[row], ys[row + 1]), slice(xs[column], xs[column + 1])


def _joined(x: Tensor, members: Tensor, bounds: tuple[list[int], list[int]]) -> Tensor:
    """Puts images (by index, (B, n_cells²)) into grids, (B, C, H', W')."""
    grids = x.new_empty(len(members), x.shape[1], bounds[0][-1], bounds[1][-1])
    for cell in range(members.shape[1]):
        rows, columns = _cell(bounds, cell)
        part = x[members[:, cell].to(x.device)]
        size = (rows.stop - rows.start, columns.stop - columns.start)
        if part.shape[2:] != size:
            part = F.interpolate(part, size, mode="bilinear", antialias=True)
        grids[:, :, rows, columns] = part
    return grids


def _with_progress(starts: range, show: bool) -> range:
    if not show:
        return starts
    from tqdm.auto import tqdm

    bar: range = tqdm(starts, desc="grid pointing")
    return bar
