"""``--method coalition``: what must stay of an image, and its coalitions."""

from __future__ import annotations

import argparse
import functools
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from captum_margin._explain import explain
from captum_margin._model.layers import layer_of_maps
from captum_margin.cli.classifier import Classifier
from captum_margin.cli.explain.explained import Explained, Explainer
from captum_margin.cli.output import shows_progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COALITIONS = "-coalitions"
"""Ending of the picture of the coalitions."""

_DEFAULT_COALITIONS = 16


def prepare(args: argparse.Namespace, classifier: Classifier) -> Explainer:
    """Returns the function that explains an image; the seed is the same for all."""
    from captum_margin.attr import CoalitionPerturbation

    @functools.cache
    def explainer(shape: tuple[int, ...]) -> CoalitionPerturbation:
        """Of convolutional networks it takes maps of all sizes, of others tokens."""
        image = torch.zeros(shape, device=classifier.device)
        try:
            layer, reshape = layer_of_maps(classifier.model, image)
        except ValueError:
            reshape = None
        if reshape is None:
            return CoalitionPerturbation(classifier.model)
        return CoalitionPerturbation(
            classifier.model, layer.layer, reshape_transform=reshape
        )

    def explain_one(image: Tensor, target: int) -> Explained:
        found = explain(
            explainer(tuple(image.shape)),
            image,
            target,
            n_coalitions=args.n_coalitions or _DEFAULT_COALITIONS,
            seed=args.seed,
            show_progress=shows_progress(args),
        )
        assert isinstance(found.attributions, Tensor)
        (coalitions,) = found.details["coalitions"]
        sizes = coalitions.flatten().bincount()
        kept = float(found.details["kept"].mean())
        n_steps = int(found.details["n_steps"])
        # What is kept says what a low drop is worth: at 1 it is all.
        line = f"{len(sizes)} coalitions, {n_steps} steps, {kept:.0%} of the image kept"
        record = {
            "n_coalitions": len(sizes),
            "coalition_sizes": sizes.tolist(),
            "n_steps": n_steps,
            "kept": round(kept, 6),
            "mean_of_map": round(float(found.attributions.mean()), 6),
        }
        draw = partial(_draw, image[0], coalitions, classifier)
        return Explained(found, {"coalitions": record}, [line], {COALITIONS: draw})

    return explain_one


def _draw(image: Tensor, coalitions: Tensor, classifier: Classifier) -> Figure:
    """The image (C, H, W) with the borders of its coalitions (H, W)."""
    from matplotlib.figure import Figure
    from skimage.segmentation import mark_boundaries

    from captum_margin.viz._arrays import displayable_image

    pixels = displayable_image(image, classifier.mean, classifier.std)
    bordered = mark_boundaries(  # type: ignore[no-untyped-call]
        pixels, coalitions.cpu().numpy(), color=(1, 1, 0), mode="inner"
    )
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    count = int(coalitions.max()) + 1
    for axis, shown, title in zip(
        figure.subplots(1, 2),
        (pixels, bordered),
        ("image", f"{count} coalition{'s' if count > 1 else ''}"),
        strict=True,
    ):
        axis.imshow(shown)
        axis.set_title(title, fontsize=8)
        axis.set_axis_off()
    return figure
