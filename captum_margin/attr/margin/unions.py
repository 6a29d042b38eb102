"""Saliency from unions: which parts raise the score of the unions that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_margin._model.arguments import number_regions
from captum_margin.attr.margin.cross_energy import cross_energy
from captum_margin.attr.margin.domains.focused import FocusedUnions
from captum_margin.attr.margin.domains.region_unions import RegionUnions
from captum_margin.attr.margin.domains.tents import TentUnions, coarse_shape, enlarge
from captum_margin.attr.margin.masking import MaskedScorer
from captum_margin.attr.margin.stages import ExampleMaps, Stage
from captum_margin.signal import influence

__all__ = [
    "FEW_UNIONS",
    "MANY_UNIONS",
    "explain_by_region_unions",
    "explain_by_soft_unions",
]

# Of N unions, one is compared with the N / 10 nearest to its size.
_NEIGHBOR_SHARE = 10
# After the first round, a round for each weight: what its evidence weighs against the
# first's, per standard deviation.
_LATER_WEIGHTS = (0.6, 0.4)
#: With fewer unions than these there is one round, of tents, and with these or more
#: three. Between, half of the unions as tents are too rough to be varied.
FEW_UNIONS = 150
MANY_UNIONS = 399
# Evidence is blurred by a Gaussian of a quarter of a cell: what is finer is noise.
_BLUR_PATCHES = 2.0


def explain_by_soft_unions(
    scorer: MaskedScorer,
    n_unions: int,
    seed: int,
    dtype: torch.dtype,
    progress: tqdm[Any],
) -> list[ExampleMaps]:
    """Explains images by soft unions, in three rounds or one.

    The first half of the unions, or all, are random tents. Each later round varies the
    map that the rounds before it have drawn, and its evidence is added to theirs, the
    first's spread setting the scale.

    Args:
        scorer (MaskedScorer): Scores of B images.
        n_unions (int): Unions of an image.
        seed (int): Seed of every image's draws.
        dtype (torch.dtype): Of masks and maps.
        progress (tqdm): Told of every masked copy.
    """
    (images,) = scorer.inputs
    size = (images.shape[2], images.shape[3])
    generator = torch.Generator().manual_seed(seed)
    n_later = n_unions // 4 if n_unions >= FEW_UNIONS else 0
    tents = TentUnions(n_unions - 2 * n_later, size, generator, images.device, dtype)
    progress.reset(total=len(images) * n_unions)

    # Every example sees the same first unions, and draws on from there by itself.
    generators = [_copy(generator) for _ in images]
    scores = scorer.masked([(i, tents) for i in range(len(images))], progress)
    found = [_evidence(tents, of_example, dtype) for of_example in scores]
    evidence = [_blur(of_example, size) for of_example, _ in found]
    stages: list[tuple[Stage, ...]] = [(stage,) for _, stage in found]
    # Where nothing changed the score there is nothing to vary.
    spreads = {i: e.std() for i, e in enumerate(evidence) if e.std() > 0}
    for weight in _LATER_WEIGHTS if n_later else ():
        focused = [
            (i, FocusedUnions(evidence[i], n_later, size, generators[i]))
            for i in spreads
        ]
        scores = scorer.masked(focused, progress)
        for (i, domain), of_domain in zip(focused, scores, strict=True):
            variation, stage = _evidence(domain, of_domain, dtype)
            variation = _blur(variation, size)
            stages[i] = (*stages[i], stage)
            if variation.std() > 0:
                share = weight * spreads[i] / variation.std()
                evidence[i] = evidence[i] + share * (variation - variation.mean())
    return [
        ExampleMaps((enlarge(e.view(1, *coarse_shape(size)), size),), of_example)
        for e, of_example in zip(evidence, stages, strict=True)
    ]


def _copy(generator: torch.Generator) -> torch.Generator:
    copy = torch.Generator()
    copy.set_state(generator.get_state())
    return copy


def _blur(evidence: Tensor, size: tuple[int, int]) -> Tensor:
    """Evidence on the patches of an image, (h * w,), without what is finer."""
    from scipy.ndimage import gaussian_filter

    coarse = evidence.view(coarse_shape(size)).cpu().numpy()
    blurred = gaussian_filter(coarse, _BLUR_PATCHES, mode="nearest")
    return torch.from_numpy(blurred).to(evidence).flatten()


def explain_by_region_unions(
    scorer: MaskedScorer,
    partitions: Sequence[tuple[Tensor, ...]],
    n_unions: int,
    seed: int,
    dtype: torch.dtype,
    progress: tqdm[Any],
) -> list[ExampleMaps]:
    """Explains examples by unions of given regions.

    Args:
        scorer (MaskedScorer): Scores of B examples.
        partitions (Sequence): For each example one tensor an input, (S, *shape) or
            broadcastable to that: S partitions, which share the unions.
        n_unions (int): Unions of an example.
        seed (int): Seed of every example's draws.
        dtype (torch.dtype): Of masks and maps.
        progress (tqdm): Told of every masked copy.
    """
    domains: list[tuple[int, RegionUnions]] = []
    for example, of_inputs in enumerate(partitions):
        generator = torch.Generator().manual_seed(seed)
        n_scales = max(len(partition) for partition in of_inputs)
        if n_scales > n_unions:
            raise ValueError(
                f"expected fewer partitions than n_evaluations = {n_unions + 1} "
                f"(got {n_scales}); they share the evaluations"
            )
        for scale in range(n_scales):
            regions, n_regions = number_regions(
                tuple(partition[scale] for partition in of_inputs)
            )
            n_of_scale = len(range(scale, n_unions, n_scales))
            domains.append(
                (
                    example,
                    RegionUnions(regions, n_regions, n_of_scale, generator, dtype),
                )
            )
    progress.reset(total=sum(len(domain) for _, domain in domains))
    scores = scorer.masked(domains, progress)
    found: list[list[tuple[tuple[Tensor, ...], Stage]]] = [[] for _ in partitions]
    for (example, domain), of_domain in zip(domains, scores, strict=True):
        evidence, stage = _evidence(domain, of_domain, dtype)
        found[example].append((domain.paint(evidence), stage))
    return [
        ExampleMaps(
            tuple(
                torch.stack(of_input).mean(dim=0)
                for of_input in zip(*(maps for maps, _ in scales), strict=True)
            ),
            tuple(stage for _, stage in scales),
        )
        for scales in found
    ]


def _evidence(
    domain: TentUnions | FocusedUnions | RegionUnions,
    scores: Tensor,
    dtype: torch.dtype,
) -> tuple[Tensor, Stage]:
    """The parts' evidence, and the round it comes from."""
    complete = isinstance(domain, RegionUnions) and domain.exhaustive
    n_neighbors = None if complete else max(1, len(domain) // _NEIGHBOR_SHARE)
    evidence, filtered = cross_energy(
        scores.to(dtype),
        domain.presence,
        domain.sizes,
        domain.kinds,
        n_neighbors=n_neighbors,
    )
    return evidence, Stage(domain, scores, influence(filtered))
