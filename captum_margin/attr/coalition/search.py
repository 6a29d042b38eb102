"""The search for the largest perturbation of a batch that leaves its scores alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from captum_margin._model.captum import (
    TargetType,
    select_rows,
    select_targets,
    take_rows,
    target_outputs,
)
from captum_margin._model.gradients import gradients_explained, no_gradient
from captum_margin._model.outputs import SoftmaxWatch
from captum_margin._model.refusals import Examples
from captum_margin.attr.coalition.losses import (
    ROUNDING,
    coalition_loss,
    drop_loss,
    evenness_loss,
    extent_loss,
    margin_loss,
    smoothing_matrix,
)

__all__ = ["STEPS_A_DELETION", "Search", "SearchResult", "search"]

#: A loss that has not fallen by this share has not fallen.
_SHARE = 0.002
#: The result is a mean of p over the last steps, weighted by powers of this.
_DECAY = 0.95
#: Of so many steps the last also asks what the network cannot do without. On tuning
#: pictures asking at every one told no more.
STEPS_A_DELETION = 5


@dataclass(frozen=True)
class Search:
    """What to search for, and how.

    Attributes:
        n_steps: Steps of Adam at most.
        patience: An image is done when its loss has not fallen for so many.
        learning_rate: Its step, in units of p.
        mask_size: Side of the coarse grid whose enlargement p is; None: p has a value
            of its own for every pixel and channel.
        smoothing: Sigma of a Gaussian over p, as a share of the shorter side.
        noise: Standard deviation of the noise, in those of each image.
        n_samples: Noises a step, in pairs of opposite sign; 1 without noise.
        confidence: ``"drop"`` or ``"margin"``.
        weights: Of the extent, the confidence and the coalitions.
        consistency: The loss of the coalitions, ``"mean"`` or ``"evenness"``.
        consistency_sigma: Of its Gaussian, in pixels.
        move_coalitions: Whether each coalition also moves as a whole.
        deletion: Whether evidence is also sought where all but p is taken away.
        softmax: Whether outputs (n, C > 1) are logits.
        seed: Of the noise.
        rows: Perturbed images in one forward pass at most.
        show_progress: A bar over the steps.
    """

    n_steps: int
    patience: int
    learning_rate: float
    mask_size: int | None
    smoothing: float
    noise: float
    n_samples: int
    confidence: Literal["drop", "margin"]
    weights: tuple[float, float, float]
    consistency: Literal["mean", "evenness"]
    consistency_sigma: float
    move_coalitions: bool
    deletion: bool
    softmax: bool
    seed: int
    rows: int
    show_progress: bool


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The perturbation, and what it took.

    Attributes:
        perturbation: Mean of p over the last steps, (B, C, H, W).
        evidence: How strongly the score resisted p, and 1 - p with ``deletion``, on
            average over the steps: the slopes of L_conf, as smooth as p, in [0, 1],
            (B, C, H, W).
        losses: Extent, confidence and coalition losses of each image at each step,
            unweighted, (n_steps, 3, B), NaN after its last one.
        n_steps: Steps of each image, (B,); 0 where p = 1 needs no search.
    """

    perturbation: Tensor
    evidence: Tensor
    losses: Tensor
    n_steps: Tensor


class _Scorer:
    """Confidence losses of perturbed rows of the batch."""

    def __init__(
        self,
        forward_func: Callable[..., Tensor],
        images: Tensor,
        baselines: Tensor,
        target: TargetType,
        args: object,
        options: Search,
    ) -> None:
        self.forward_func = forward_func
        self.images, self.baselines = images, baselines
        self.target, self.args = target, args
        self.options = options
        self.watch = SoftmaxWatch()
        self.output_shape: tuple[int, ...] | None = None
        deviation = images.flatten(1).std(dim=1, unbiased=False)
        self.noise = options.noise * deviation.view(-1, 1, 1, 1)
        if options.confidence == "drop":
            with torch.no_grad():
                self.reference, logs = self._all_scores(images)
                if logs:
                    self.scale = torch.ones_like(self.reference)
                else:
                    # The unit of other scores is unknown: what the baseline changes.
                    faded, _ = self._all_scores(baselines)
                    scale = (self.reference - faded).abs()
                    self.scale = scale.where(scale > 0, 1)

    def loss(self, p: Tensor, noise: Tensor, rows: Tensor) -> Tensor:
        """L_conf (n,) of the images ``rows`` under p (n, C, H, W) and the noise."""
        images, baselines = self.images[rows], self.baselines[rows]
        perturbed = images + p * (baselines - images + self.noise[rows] * noise)
        explained = not torch.is_grad_enabled()  # else the gradient is to blame
        output, target = self._output(perturbed.to(images.dtype), rows, explained)
        if self.options.confidence == "margin":
            if output.dim() != 2 or output.shape[1] < 2:
                raise ValueError(
                    "expected scores (B, C) of several classes for confidence='margin' "
                    f"(got {tuple(output.shape)}); use confidence='drop'"
                )
            return margin_loss(output, select_targets(output, target, len(rows)))
        selected, _ = self._selected(output, target, len(rows))
        return drop_loss(selected, self.reference[rows], self.scale[rows])

    @torch.no_grad()
    def stand_without_image(self) -> Tensor:
        """Which images (B,) lose nothing when they are the baseline altogether.

        All three losses have their minimum at p = 1 then, whatever their weights. The
        search would come near it and stop, and leave a map of its own habits.
        """
        if self.options.noise > 0:  # of which a few draws prove nothing
            return self.images.new_zeros(len(self.images), dtype=torch.bool)
        limit = ROUNDING if self.options.confidence == "drop" else 0.0
        whole, no_noise = torch.ones_like(self.images), torch.zeros_like(self.images)
        parts = torch.arange(len(self.images)).split(self.options.rows)
        losses = [self.loss(whole[rows], no_noise[rows], rows) for rows in parts]
        return torch.cat(losses) <= limit

    def _all_scores(self, images: Tensor) -> tuple[Tensor, bool]:
        parts, logs = [], False
        for rows in torch.arange(len(images)).split(self.options.rows):
            copies = images is not self.images
            output, target = self._output(images[rows], rows, copies)
            selected, logs = self._selected(output, target, len(rows))
            parts.append(selected)
        return torch.cat(parts), logs

    def _output(
        self, images: Tensor, rows: Tensor, copies: bool
    ) -> tuple[Tensor, TargetType]:
        count = len(self.images)
        _, args = take_rows((self.images,), self.args, rows)
        target, _ = select_rows(self.target, None, rows, count)
        of = Examples((self.images,), self.args, rows, self.output_shape)
        given = self.forward_func, (images,), args
        output = target_outputs(*given, of=of if copies else None)
        if of.are_mixed_in(output):
            target_outputs(*given, of=of)  # says so
        if self.output_shape is None and not copies and len(rows) == count:
            self.output_shape = tuple(output.shape)
        # Half precision would round away what a small step changes.
        return output.to(torch.promote_types(output.dtype, torch.float32)), target

    def _selected(
        self, output: Tensor, target: TargetType, count: int
    ) -> tuple[Tensor, bool]:
        """The target's scores, and whether they are log-probabilities."""
        logs = self.options.softmax and output.dim() == 2 and output.shape[1] > 1
        if logs:
            self.watch.note(output.detach())
            output = output.log_softmax(dim=1)
        return select_targets(output, target, count), logs


class _Mask:
    """p as an enlarged grid plus a value for each coalition, within [0, 1]."""

    def __init__(self, images: Tensor, coalitions: Tensor, options: Search) -> None:
        size, _, height, width = images.shape
        self.shape = (height, width)
        self.coalitions = coalitions
        side = options.mask_size
        self.fine = side is None
        self.sigma = options.smoothing * min(height, width)
        shape = (
            tuple(images.shape)
            if side is None
            else (size, 1, min(side, height), min(side, width))
        )
        # In half precision a step of Adam would be lost, and pixels be miscounted.
        dtype = torch.promote_types(images.dtype, torch.float32)
        # Not images.new_zeros: what subclasses of tensors make is no leaf.
        self.grid = torch.zeros(
            shape, dtype=dtype, device=images.device, requires_grad=True
        )
        self.down = smoothing_matrix(height, self.sigma, self.grid)
        self.across = smoothing_matrix(width, self.sigma, self.grid)
        self.parameters = [self.grid]
        self.offsets: Tensor | None = None
        if options.move_coalitions:
            count = int(coalitions.max()) + 1
            self.offsets = self.grid.new_zeros(size, count, requires_grad=True)
            self.parameters.append(self.offsets)

    def value(self) -> Tensor:
        """P, (B, 1 or C, H, W); gradients pass through its bounds.

        Otherwise a value that once overshot 0 could never come back.
        """
        p = self._enlarged(self.grid)
        if self.offsets is not None:
            of_pixels = self.offsets.gather(1, self.coalitions.flatten(1))
            p = p + of_pixels.view(len(p), 1, *self.shape)
        p = self._smoothed(p)
        return p + (p.clamp(0, 1) - p).detach()

    def evidence(self, slopes: Tensor) -> Tensor:
        """Slopes in p, (G, *p.shape), as one map: each in units of its largest."""
        found = [_in_units_of_the_largest(self._of_cells(one)) for one in slopes]
        return _in_units_of_the_largest(torch.stack(found).sum(dim=0))

    def _of_cells(self, slope: Tensor) -> Tensor:
        """Means of a slope in p over the cells of the grid, enlarged as p is.

        What p cannot show, evidence should not either: of pixels alone a network's
        slopes are noise. Negative means are 0.
        """
        p = self._smoothed(self._enlarged(self.grid))
        (sums,) = torch.autograd.grad(p, self.grid, slope, retain_graph=True)
        (sizes,) = torch.autograd.grad(p, self.grid, torch.ones_like(slope))
        with torch.no_grad():
            return self._smoothed(self._enlarged(sums / sizes)).clamp(min=0)

    def _enlarged(self, grid: Tensor) -> Tensor:
        if self.fine:
            return grid
        return F.interpolate(grid, self.shape, mode="bilinear", align_corners=False)

    def _smoothed(self, p: Tensor) -> Tensor:
        return self.down @ p @ self.across.T if self.sigma > 0 else p

    @torch.no_grad()
    def bound(self) -> None:
        """Keeps the parameters where a step can undo the last."""
        low = 0.0 if self.offsets is None else -1.0
        self.grid.clamp_(low, 1)
        if self.offsets is not None:
            self.offsets.clamp_(0, 1)


def _in_units_of_the_largest(maps: Tensor) -> Tensor:
    """Maps (B, C, H, W) that are not negative, the largest value of each 1."""
    highest = maps.amax(dim=(1, 2, 3), keepdim=True)
    return maps / highest.where(highest > 0, 1)


@torch.enable_grad()
def search(
    forward_func: Callable[..., Tensor],
    images: Tensor,
    baselines: Tensor,
    target: TargetType,
    args: object,
    coalitions: Tensor,
    options: Search,
) -> SearchResult:
    """Minimises the weighted losses of every image by Adam."""
    scorer = _Scorer(forward_func, images, baselines, target, args, options)
    mask = _Mask(images, coalitions, options)
    optimizer = torch.optim.Adam(mask.parameters, lr=options.learning_rate)
    generator = torch.Generator().manual_seed(options.seed)  # the same on any device
    losses = mask.grid.new_full((options.n_steps, 3, len(images)), torch.nan)
    weights = losses.new_tensor(options.weights)[:, None]
    consistency = coalition_loss if options.consistency == "mean" else evenness_loss
    stand = scorer.stand_without_image()
    if bool(stand.any()):
        _warn_of_nothing_to_keep(stand)
    active = ~stand
    average = torch.zeros_like(mask.value()).detach()
    resisted = average.new_zeros(1 + options.deletion, *average.shape)
    n_steps = torch.zeros_like(active, dtype=torch.long)
    best, best_step = torch.full_like(losses[0, 0], torch.inf), n_steps.clone()
    for step in tqdm(
        range(options.n_steps),
        desc="CoalitionPerturbation",
        disable=not options.show_progress,
    ):
        if not bool(active.any()):
            break
        p = mask.value()
        noises = _noises(images, options, generator)
        taken = p.detach()[None]
        if options.deletion and (step + 1) % STEPS_A_DELETION == 0:
            taken = torch.cat([taken, 1 - taken])
        lost, slopes = _confidence(scorer, taken, noises, active, options)
        confidence, slope = lost[0], slopes[0]
        extent = extent_loss(p)
        coalition = consistency(p, coalitions, options.consistency_sigma)
        resisted[: len(slopes)] += slopes
        terms = torch.stack([extent, confidence, coalition]).detach()
        losses[step] = terms.where(active, torch.nan)
        n_steps += active
        decayed = _DECAY * average + (1 - _DECAY) * p.detach()
        average = decayed.where(active.view(-1, 1, 1, 1), average)
        total = (weights * terms).sum(dim=0)
        better = active & ((total < best - _SHARE * total.abs()) | best.isinf())
        best, best_step = total.where(better, best), n_steps.where(better, best_step)
        active = active & (n_steps - best_step < options.patience)
        gradients = torch.autograd.grad(
            [p, extent, coalition],
            mask.parameters,
            [
                weights[1] * slope,
                weights[0].expand_as(extent),
                weights[2].expand_as(coalition),
            ],
        )
        for parameter, gradient in zip(mask.parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        mask.bound()
    flat = (resisted == 0).transpose(0, 1).flatten(1).all(dim=1) & ~stand
    if options.confidence == "margin":  # flat as long as no class came ahead
        flat &= (losses[:, 1] > 0).any(dim=0)
    if bool(flat.any()) and options.n_steps > 0:
        _warn_of_no_slope(flat)
    scorer.watch.warn()
    steps = n_steps.clamp(min=1).view(-1, 1, 1, 1)
    found = (average / (1 - _DECAY**steps)).where(~stand.view(-1, 1, 1, 1), 1.0)
    return SearchResult(found, mask.evidence(resisted), losses, n_steps)


def _warn_of_nothing_to_keep(stand: Tensor) -> None:
    which = stand.nonzero().flatten().tolist()
    named = ", ".join(map(str, which[:5])) + (", ..." if len(which) > 5 else "")
    warnings.warn(
        f"the score of {len(which)} of {len(stand)} images (number {named}) is no "
        "lower when the baseline replaces all of the image: nothing has to be kept, "
        "the map is 0. Check that the model sees the target in the image; if it sees "
        "it in the baseline too, pass other baselines",
        stacklevel=2,
    )


def _warn_of_no_slope(flat: Tensor) -> None:
    which = flat.nonzero().flatten().tolist()
    named = ", ".join(map(str, which[:5])) + (", ..." if len(which) > 5 else "")
    warnings.warn(
        f"the score of {len(which)} of {len(flat)} images (number {named}) changes, "
        "but its gradient was zero throughout, as behind rounding: the map tells "
        "nothing; MarginSaliency needs no gradient",
        stacklevel=2,
    )


def _confidence(
    scorer: _Scorer, p: Tensor, noises: Tensor, active: Tensor, options: Search
) -> tuple[Tensor, Tensor]:
    """Mean L_conf over the noises of each active image, and its gradient in p.

    Args:
        scorer (_Scorer): Of B images.
        p (Tensor): G perturbations of each image, (G, B, 1 or C, H, W).
        noises (Tensor): The same for all, (S, C, H, W).
        active (Tensor): Which images, (B,).
        options (Search): Rows of a pass.

    Returns:
        tuple: L_conf (G, B), and the gradient, of the shape of p; 0 where not active.
    """
    loss, slope = p.new_zeros(p.shape[:2]), torch.zeros_like(p)
    images = active.nonzero().squeeze(1)
    ways, samples = (torch.arange(len(of), device=p.device) for of in (p, noises))
    # The first perturbations before the others: they go in the passes, and round as
    # they do, in which they go without others.
    runs = torch.cartesian_prod(ways, images, samples)
    for way, which, sample in (part.unbind(dim=1) for part in runs.split(options.rows)):
        leaf = p[way, which].requires_grad_()
        of_rows, of_leaf = _slope(scorer, leaf, noises[sample], which)
        of_rows, of_leaf = of_rows / len(noises), of_leaf / len(noises)
        if not torch.isfinite(of_leaf).all():
            raise ValueError(
                "expected finite gradients of the scores (got NaN or infinity); check "
                "the model, for example for square roots of zero"
            )
        slope.index_put_((way, which), of_leaf, accumulate=True)
        loss.index_put_((way, which), of_rows.detach().to(loss), accumulate=True)
    return loss, slope


def _slope(
    scorer: _Scorer, p: Tensor, noise: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """L_conf (n,) under p, which wants a gradient, and its gradient.

    Raises:
        ValueError: If there is none, though what the model is shown changes the score.
    """
    with gradients_explained(lambda: scorer.loss(p, noise, rows), "the inputs"):
        loss = scorer.loss(p, noise, rows)
        slope = None
        if loss.requires_grad:
            (slope,) = torch.autograd.grad(loss.sum(), p, allow_unused=True)
    if slope is None:
        with torch.no_grad():
            faded = scorer.loss(torch.ones_like(p), noise, rows)
            shown = scorer.loss(torch.zeros_like(p), noise, rows)
        if not loss.requires_grad or not torch.equal(faded, shown):
            raise no_gradient("the inputs")
        slope = torch.zeros_like(p)
    return loss, slope


def _noises(images: Tensor, options: Search, generator: torch.Generator) -> Tensor:
    """Standard normal noises (S, C, H, W), the same for all images, in pairs."""
    shape = tuple(images.shape[1:])
    if options.noise == 0:
        return images.new_zeros(1, *shape)
    half = torch.randn(options.n_samples // 2, *shape, generator=generator)
    return torch.cat([half, -half]).to(images)
