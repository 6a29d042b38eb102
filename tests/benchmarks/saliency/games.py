"""Shapley values of parts of a picture, by the packages that estimate them.

``shap``'s partition explainer, which cuts the picture in halves again and again, and
``shapiq``'s permutations and stratified estimate (SVARM) of superpixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.benchmarks.saliency.methods import CHUNK, Photograph

Game = Callable[[np.ndarray], np.ndarray]


def shap_partition(photo: Photograph, n_evaluations: int = 500) -> Tensor:
    """What is taken away becomes the mean colour, as for every other method."""
    import shap

    def target_score(pixels: np.ndarray) -> np.ndarray:
        images = torch.from_numpy(pixels).to(photo.image).permute(0, 3, 1, 2)
        with torch.no_grad():
            scores = photo.probabilities(images)[:, photo.target, None]
        return scores.numpy()

    pixels = photo.image[0].permute(1, 2, 0).numpy()
    colour = photo.mean_colour[0].permute(1, 2, 0).numpy()
    masker = shap.maskers.Image(np.ascontiguousarray(colour), pixels.shape)
    explainer = shap.PartitionExplainer(target_score, masker)
    values = explainer(
        pixels[None], max_evals=n_evaluations, batch_size=CHUNK, silent=True
    ).values
    return torch.from_numpy(values[0, ..., 0].sum(axis=2)).float()


def permutation_shapley(photo: Photograph, n_evaluations: int = 800) -> Tensor:
    """Superpixels added one by one in random orders."""
    from shapiq.approximator import PermutationSamplingSV

    return _of_superpixels(photo, n_evaluations, PermutationSamplingSV)


def svarm(photo: Photograph, n_evaluations: int = 800) -> Tensor:
    """Kolpaczki et al. 2024: means with and without a superpixel, not differences."""
    from shapiq.approximator import SVARM

    return _of_superpixels(photo, n_evaluations, SVARM)


def shapley_values(
    approximator: Any, n_players: int, n_evaluations: int, game: Game, seed: int
) -> np.ndarray:
    """Of a game of coalitions (n, n_players), bool, to values (n,)."""

    def any_shape(coalitions: np.ndarray) -> np.ndarray:
        return game(np.atleast_2d(coalitions))

    values = approximator(n_players, random_state=seed).approximate(
        n_evaluations, any_shape
    )
    found: np.ndarray = values.get_n_order_values(1)
    return found


def _of_superpixels(photo: Photograph, n_evaluations: int, approximator: Any) -> Tensor:
    partition = photo.segments[0]
    names, regions = partition.unique(return_inverse=True)

    def game(coalitions: np.ndarray) -> np.ndarray:
        kept = torch.from_numpy(coalitions.astype(np.float32))
        return photo.scores(kept, lambda rows: rows[:, regions]).double().numpy()

    values = shapley_values(approximator, len(names), n_evaluations, game, photo.seed)
    return torch.from_numpy(values).float()[regions]
