"""Saliency from unions: which parts raise the score of the unions that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_margin.attr._arguments import number_regions
from captum_margin.attr._cross_energy import cross_energy
from captum_margin.attr._explanation import Explanation, Stage
from captum_margin.attr._focused_unions import FocusedUnions
from captum_margin.attr._masking import MaskedScorer
from captum_margin.attr._region_unions import RegionUnions
from captum_margin.attr._tent_unions import TentUnions, coarse_shape, enlarge
from captum_margin.signal import influence

__all__ = ["explain_by_region_unions", "explain_by_soft_unions"]

# Of N unions, one is compared with the N / 10 nearest to its size.
_NEIGHBOR_SHARE = 10
# What the second round's evidence weighs against the first's, per standard deviation.
_SECOND_ROUND = 0.5


def explain_by_soft_unions(
    scorer: MaskedScorer,
    n_unions: int,
    seed: int,
    dtype: torch.dtype,
    progress: tqdm[Any],
) -> list[Explanation]:
    """Explains images by soft unions, in two rounds.

    The first half of the unions are random, the second half vary the map that the
    first has drawn. Both rounds' evidence is added, the first's spread setting the
    scale.
    """
    (images,) = scorer.inputs
    size = (images.shape[2], images.shape[3])
    n_first = (n_unions + 1) // 2
    generators = [torch.Generator().manual_seed(seed) for _ in images]
    tents = [
        TentUnions(n_first, size, generator, images.device, dtype)
        for generator in generators
    ]
    scores = scorer.masked(list(enumerate(tents)), progress)
    first = [_evidence(*pair, dtype) for pair in zip(tents, scores)]
    # Where nothing changed the score there is nothing to focus on.
    focused = {
        example: FocusedUnions(
            evidence, n_unions - n_first, size, generators[example]
        )
        for example, (evidence, _) in enumerate(first)
        if evidence.std() > 0
    }
    scores = scorer.masked(list(focused.items()), progress) if focused else []
    second = {
        example: _evidence(domain, of_domain, dtype)
        for (example, domain), of_domain in zip(focused.items(), scores)
    }
    explanations = []
    for example, (evidence, stage) in enumerate(first):
        stages = (stage,)
        if example in second:
            variation, later = second[example]
            stages = (stage, later)
            if variation.std() > 0:
                weight = _SECOND_ROUND * evidence.std() / variation.std()
                evidence = evidence + weight * (variation - variation.mean())
        coarse = evidence.view(1, *coarse_shape(size))
        explanations.append(Explanation((enlarge(coarse, size),), stages))
    return explanations


def explain_by_region_unions(
    scorer: MaskedScorer,
    partitions: Sequence[tuple[Tensor, ...]],
    n_unions: int,
    seed: int,
    dtype: torch.dtype,
    progress: tqdm[Any],
) -> list[Explanation]:
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
    scores = scorer.masked(domains, progress)
    found: list[list[tuple[tuple[Tensor, ...], Stage]]] = [[] for _ in partitions]
    for (example, domain), of_domain in zip(domains, scores):
        evidence, stage = _evidence(domain, of_domain, dtype)
        found[example].append((domain.paint(evidence), stage))
    return [
        Explanation(
            tuple(
                torch.stack(of_input).mean(dim=0)
                for of_input in zip(*(maps for maps, _ in scales))
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
