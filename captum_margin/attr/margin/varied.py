"""Saliency from few unions: each round varies the map drawn so far, and all count."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_margin.attr.margin.domains.axes import cell_sides, coarse_shape, enlarge
from captum_margin.attr.margin.domains.focused import FocusedUnions
from captum_margin.attr.margin.joint import JointEvidence
from captum_margin.attr.margin.masking import MaskedScorer
from captum_margin.attr.margin.shrinkage import noise_levels, without_noise
from captum_margin.attr.margin.stages import ExampleMaps, Stage
from captum_margin.attr.margin.units import power_of_two
from captum_margin.signal import influence

__all__ = ["explain_by_varied_unions"]

# Of each round, between which weights the map stands against the random fields. First
# there is no map; then it is rough, and followed from not at all to closely.
_STRENGTHS = ((0.0, 0.0), (0.0, 2.0), (1.0, 2.0), (1.0, 2.0))
# With a prior it is less rough. The first round does not follow it either: unions of
# the fields alone tell what it is worth, and where that is little nothing is lost.
_STRENGTHS_OF_PRIOR = ((0.0, 0.0), (1.0, 2.0), (1.0, 2.0))
# Where the image itself has less than this share of the scores' range the map is
# followed less: what scores high is then what the masks draw, not what the image shows.
# Chosen on tuning grids of four pictures, where most classes have a tenth of it or less
# (.1 to 1 tried); 1 lost on tuning photographs whose class has a third to a half.
_TRUSTED_SHARE = 1 / 3
# Most of a round's unions that delete what the map points at instead of keeping it. How
# many do, the scores of the round before say.
_MOST_DELETING = 1 / 2
# Standard deviation of the kernel that says how far evidence goes together. Finer ones
# leave islands: in grids of pictures their maps lie less on the right one.
_CELLS_A_KERNEL = 0.75
# A smaller share of the scores' range is none.
_ROUNDING = 1e-5
# A round of fewer unions than these would leave the map as it is.
_MIN_A_ROUND = 16


def explain_by_varied_unions(
    scorer: MaskedScorer,
    unmasked: Tensor,
    n_unions: int,
    seed: int,
    dtype: torch.dtype,
    progress: tqdm[Any],
    priors: Tensor | None = None,
    *,
    deletion: bool,
    keep_stages: bool,
) -> list[ExampleMaps]:
    """Explains images by soft unions, in rounds of like number.

    Args:
        scorer (MaskedScorer): Scores of B images, series or volumes.
        unmasked (Tensor): Scores of these themselves, (B,).
        n_unions (int): Unions of an image.
        seed (int): Seed of every image's draws.
        dtype (torch.dtype): Of masks and maps.
        progress (tqdm): Told of every masked copy.
        priors (Tensor, optional): K maps of each image to begin with, on its patches,
            (B, K, P), none of them constant. Default: None
        deletion (bool): Whether some unions delete what the map points at.
        keep_stages (bool): Whether the rounds are among what is returned; their unions
            take N * P numbers an image.
    """
    (images,) = scorer.inputs
    size = tuple(images.shape[2:])
    shape = coarse_shape(size)
    cell = tuple(  # in patches
        n / pixels * side
        for n, pixels, side in zip(shape, size, cell_sides(size), strict=True)
    )
    strengths = _STRENGTHS if priors is None else _STRENGTHS_OF_PRIOR
    n_rounds = max(1, min(len(strengths), n_unions // _MIN_A_ROUND))
    progress.reset(total=len(images) * n_unions)

    given = [None] * len(images) if priors is None else list(priors)
    nothing = images.new_zeros(math.prod(shape), dtype=dtype)
    focus = [nothing for _ in images]
    joint = [JointEvidence(shape, cell, _CELLS_A_KERNEL, maps) for maps in given]
    # One seed for all: an example is explained alike in any batch.
    generators = [torch.Generator().manual_seed(seed) for _ in images]
    stages: list[tuple[Stage, ...]] = [() for _ in images]
    seen: list[list[Tensor]] = [[] for _ in images]
    deleting = [_MOST_DELETING if deletion else 0.0 for _ in images]
    for number, strength in enumerate(strengths[:n_rounds]):
        n_of_round = n_unions * (number + 1) // n_rounds - n_unions * number // n_rounds
        domains = [
            FocusedUnions(
                map_so_far,
                n_of_round,
                size,
                generator,
                _as_far_as_trusted(strength, own, scores_so_far),
                share if any(strength) else 0.0,
            )
            for map_so_far, generator, share, own, scores_so_far in zip(
                focus, generators, deleting, unmasked, seen, strict=True
            )
        ]
        scores = scorer.masked(list(enumerate(domains)), progress)
        for i, (domain, of_domain) in enumerate(zip(domains, scores, strict=True)):
            filtered = joint[i].add(
                of_domain, domain.presence, domain.sizes, domain.kinds
            )
            seen[i].append(of_domain)
            if keep_stages:
                energy = influence(filtered).to(of_domain)
                stages[i] = (*stages[i], Stage(domain, of_domain, energy))
            deleting[i] = _next_deleting(
                of_domain, domain.kinds, deleting[i], joint[i].noise_ratio()
            )
            evidence = joint[i].evidence()
            evidence = (evidence / power_of_two(evidence)).to(nothing)
            if evidence.max() > evidence.min():
                focus[i] = evidence
        del domains, domain  # before the next ones are drawn
    maps = []
    for one in joint:
        evidence, error = one.evidence(), one.standard_error()
        unit = power_of_two(evidence)
        evidence, error = evidence / unit, error / unit
        enlarged = enlarge(evidence.to(nothing).view(1, *shape), size)
        if error > 0:  # 0 where the scores are all alike
            enlarged = without_noise(enlarged, noise_levels(evidence, error))
        maps.append(enlarged * unit)
    return [
        ExampleMaps((of_example,), torch.cat(scores), its_stages)
        for of_example, scores, its_stages in zip(maps, seen, stages, strict=True)
    ]


def _as_far_as_trusted(
    strengths: tuple[float, float], unmasked: Tensor, seen: list[Tensor]
) -> tuple[float, float]:
    """How closely to follow the map: as closely as the image itself is of the class.

    Unions may have the class's shape where the image has not. Varied on and on, they
    come to score ten times as much as the whole, and their map is of them.

    Args:
        strengths (tuple[float, float]): Those of a map that is trusted.
        unmasked (Tensor): Score of the image itself, a scalar.
        seen (list[Tensor]): Scores of the unions of each round so far.
    """
    if not seen:
        return strengths
    scores = torch.cat(seen)
    lowest, highest = float(scores.min()), float(scores.max())
    if highest == lowest:
        return strengths
    share = (float(unmasked) - lowest) / (highest - lowest)
    trust = min(1.0, max(0.0, share) / _TRUSTED_SHARE)
    return trust * strengths[0], trust * strengths[1]


def _next_deleting(
    scores: Tensor, kinds: Tensor, share: float, noise_ratio: float = 1.0
) -> float:
    """Share of the next round's unions that delete: where there is more to be won.

    What keeps could score as much as the best, what deletes as little as the least;
    what the scores lack of it in the mean is the room of either. Random unions, a round
    without a map, are both at once. Where a network gives up as soon as a little is
    missing there is no room below, and all is told by what is kept. Where what deletes
    is noisier, as where parts speak for the target only together, fewer are asked.

    Args:
        scores (Tensor): Of a round, (N,).
        kinds (Tensor): Which unions delete, (N,).
        share (float): What it was, and stays where nothing is to be seen.
        noise_ratio (float, optional): How many times as noisy unions that delete are.
            Default: 1.0
    """
    if share == 0 or scores.max() == scores.min():
        return share
    scores = scores / power_of_two(scores)
    delete = kinds == 1
    deleted = scores[delete] if delete.any() else scores
    above = max(0.0, float(scores.max() - scores[~delete].mean()))
    below = max(0.0, float(deleted.mean() - scores.min()))
    if above + below < _ROUNDING * float(scores.max() - scores.min()):
        return share  # either is already as good as it can be
    return min(_MOST_DELETING, below / (above + below)) / noise_ratio
