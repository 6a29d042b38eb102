"""Saliency from unions: which parts raise the score of the unions that hold them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_margin._model.arguments import number_regions
from captum_margin.attr.margin.cross_energy import cross_energy
from captum_margin.attr.margin.domains.axes import (
    PATCHES_A_CELL,
    coarse_shape,
    enlarge,
)
from captum_margin.attr.margin.domains.region_unions import RegionUnions
from captum_margin.attr.margin.domains.tents import TentUnions
from captum_margin.attr.margin.masking import MaskedScorer
from captum_margin.attr.margin.stages import ExampleMaps, Stage
from captum_margin.attr.margin.units import power_of_two
from captum_margin.signal import influence

__all__ = ["explain_by_region_unions", "explain_by_tents"]

# Of N unions, one is compared with the N / 10 nearest to its size.
_NEIGHBOR_SHARE = 10
_SIZE_STEPS = 2**20  # sizes are whole, or shares, of which float32 tells 2**24
# Evidence is blurred by a Gaussian of a quarter of a cell: what is finer is noise.
_BLUR_CELLS = 0.25


def explain_by_tents(
    scorer: MaskedScorer,
    n_unions: int,
    seed: int,
    dtype: torch.dtype,
    progress: tqdm[Any],
) -> list[ExampleMaps]:
    """Explains images by one round of soft unions, too few to vary a map of.

    Args:
        scorer (MaskedScorer): Scores of B images, series or volumes.
        n_unions (int): Unions of an image.
        seed (int): Seed of the draws, the same for every image.
        dtype (torch.dtype): Of masks and maps.
        progress (tqdm): Told of every masked copy.
    """
    (images,) = scorer.inputs
    size = tuple(images.shape[2:])
    generator = torch.Generator().manual_seed(seed)
    tents = TentUnions(n_unions, size, generator, images.device, dtype)
    progress.reset(total=len(images) * n_unions)
    scores = scorer.masked([(i, tents) for i in range(len(images))], progress)
    found = [_evidence(tents, of_example, dtype) for of_example in scores]
    return [
        ExampleMaps((_map(evidence, size),), stage.scores, (stage,))
        for evidence, stage in found
    ]


def _map(evidence: Tensor, size: tuple[int, ...]) -> Tensor:
    """Evidence on the patches of an image, (P,), as its map (1, *size)."""
    blurred = _blur(evidence, size)
    return enlarge(blurred.view(1, *coarse_shape(size)), size)


def _blur(evidence: Tensor, size: tuple[int, ...]) -> Tensor:
    """Evidence on the patches of an image, (P,), without what is finer."""
    from scipy.ndimage import gaussian_filter

    coarse = evidence.view(coarse_shape(size)).cpu().numpy()
    deviation = _BLUR_CELLS * PATCHES_A_CELL[len(size)]
    blurred = gaussian_filter(coarse, deviation, mode="nearest")
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
    most = 0
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
            most = max(most, n_regions)
            n_of_scale = len(range(scale, n_unions, n_scales))
            domains.append(
                (
                    example,
                    RegionUnions(regions, n_regions, n_of_scale, generator, dtype),
                )
            )
    if most > n_unions:
        warnings.warn(
            f"{most} features share {n_unions} masked copies, less than one each: the "
            "map is mostly noise; group them with a feature_mask, or take more "
            "n_evaluations (images (B, C, H, W), volumes (B, C, D, H, W) and series "
            "(B, C, L) of more steps than channels need neither)",
            stacklevel=2,
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
            torch.cat([stage.scores for _, stage in scales]),
            tuple(stage for _, stage in scales),
        )
        for scales in found
    ]


def _evidence(
    domain: TentUnions | RegionUnions,
    scores: Tensor,
    dtype: torch.dtype,
) -> tuple[Tensor, Stage]:
    """The parts' evidence, and the round it comes from."""
    complete = isinstance(domain, RegionUnions) and domain.exhaustive
    n_neighbors = None if complete else max(1, len(domain) // _NEIGHBOR_SHARE)
    unit = power_of_two(scores)
    evidence, filtered = cross_energy(
        scores.to(dtype) / unit,
        domain.presence,
        # Rounding must not choose the neighbours of unions of the same size.
        (domain.sizes * _SIZE_STEPS).round(),
        domain.kinds,
        n_neighbors=n_neighbors,
    )
    return evidence * unit, Stage(domain, scores, influence(filtered * unit))
