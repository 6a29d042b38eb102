"""``--method representative``: fitted once to a folder of references."""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from captum.attr import LayerAttribution
from torch import Tensor

from captum_margin.cli.classifier import Classifier
from captum_margin.cli.explain.explained import Explained, Explainer
from captum_margin.cli.explain.layer import choose_layer
from captum_margin.cli.explain.passes import Passes
from captum_margin.cli.images import ReferenceFolder, find_references
from captum_margin.cli.output import CommandError, one_line, say
from captum_margin.cli.preprocessing import check_one_size
from captum_margin.explanation import Explanation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from captum_margin.attr import Interpretation, RepresentativeInterpretation

SIMILAR = "-similar"
"""Ending of the picture of the most similar references."""

_N_SIMILAR = 4
_NAME_LENGTH = 24
_DEFAULT_BOUNDARIES = 50
# What the method warns of, and the record says in the words of the command line.
_WARNINGS = ("no sampled boundary separates", ".*too few to be representative")
_N_NEAREST = 3
_FEW = 5  # references of the class: fewer are not representative


def prepare(args: argparse.Namespace, classifier: Classifier) -> Explainer:
    """Fits the method to the references; returns the function that explains an image.

    Raises:
        CommandError: If there are no references or no such layer, or the fit fails.
    """
    from captum_margin.attr import RepresentativeInterpretation

    model, show_progress = classifier.model, sys.stderr.isatty()
    check_one_size(classifier.preprocess)
    references = find_references(args.references, classifier.preprocess, show_progress)
    device = classifier.device
    layer = choose_layer(model, references[0][None].to(device), args.layer)
    n_maps, height, width = layer.shape
    say(
        f"layer {layer.name} ({n_maps} maps of {height} x {width}), "
        f"{len(references)} references"
    )
    explainer = RepresentativeInterpretation(
        model, layer.module, reshape_transform=layer.reshape
    )
    started = time.perf_counter()
    with Passes(model) as passes:
        try:
            explainer.fit(
                references,
                n_boundaries=args.n_boundaries or _DEFAULT_BOUNDARIES,
                seed=args.seed,
                show_progress=show_progress,
            )
        except CommandError:  # of an image
            raise
        except Exception as error:  # a network of the user's may raise anything
            raise CommandError(
                f"cannot fit the references: {one_line(error)}"
            ) from None
    fit = {
        "seconds": round(time.perf_counter() - started, 3),
        "forward_passes": passes.n,
        "linearization_error": explainer.linearization_error,
    }
    state = explainer.state_dict()
    classes = state["classes"]  # that the references are predicted as
    settings = {
        "layer": layer.name,
        "layer_shape": list(layer.shape),
        "references": str(args.references),
        "n_references": len(references),
        "n_boundaries": len(state["bias"]),
        "relu_attributions": True,
        "seed": args.seed,
    }

    def explain(image: Tensor, target: int) -> Explained:
        started = time.perf_counter()
        with Passes(model) as passes:
            one, maps, support = _interpret(explainer, image, target)
        seconds = time.perf_counter() - started
        maps = LayerAttribution.interpolate(maps, image.shape[2:], "bilinear")
        name = classifier.categories[target]
        n_alike = int((classes == target).sum())
        n_within = int((classes[support.covered] == target).sum())
        note = _note(one, support, n_within, classifier.categories, target, n_alike)
        record: dict[str, Any] = {"fit": fit, "interpretation": None, "note": note}
        lines = [] if note is None else [note]
        pictures = {}
        if one is not None:
            n_covered = int((classes[one.covered] == target).sum())
            lines.insert(
                0,
                f"covered: {n_covered} of {n_alike} references predicted as {name}, "
                f"{len(one.covered) - n_covered} of {len(classes) - n_alike} others",
            )
            record["interpretation"] = _describe(one, references, n_alike)
            pictures[SIMILAR] = partial(_draw_similar, one, references, classifier)
        found = Explanation(
            attributions=maps.expand_as(image).contiguous(),
            target=target,
            method=type(explainer).__name__,
            settings=settings,
            details={} if one is None else {"covered": (one.covered,)},
            inputs=image,
            n_forward=passes.n,
            seconds=seconds,
        )
        return Explained(found, record, lines, pictures)

    return explain


class _Support(NamedTuple):
    """What the map of an image rests on.

    Args:
        own_boundary (bool): Whether no sampled boundary separates the image.
        representativeness (float): How far the interpretation stands for its class.
        covered (Tensor): The references that it covers.
    """

    own_boundary: bool
    representativeness: float
    covered: Tensor


def _interpret(
    explainer: RepresentativeInterpretation, image: Tensor, target: int
) -> tuple[Interpretation | None, Tensor, _Support]:
    """The interpretation, the layer's map, and what it rests on.

    An image that is not predicted as the target has no interpretation for it: its map
    is the one that the method makes from a similar reference.
    """
    with warnings.catch_warnings():
        for message in _WARNINGS:
            warnings.filterwarnings("ignore", message)
        one = explainer.interpret(image)
        if one.predicted == target:
            maps = one.attribute(image, relu_attributions=True)
            return (
                one,
                maps,
                _Support(one.own_boundary, one.representativeness, one.covered),
            )
        maps, details = explainer.attribute(
            image, target=target, relu_attributions=True, return_details=True
        )
    return (
        None,
        maps,
        _Support(
            bool(details.own_boundary),
            float(details.representativeness),
            details.covered[0],
        ),
    )


def _note(
    one: Interpretation | None,
    support: _Support,
    n_within: int,
    categories: Sequence[str],
    target: int,
    n_alike: int,
) -> str | None:
    """What is out of the ordinary, if anything is."""
    parts, name = [], categories[target]
    if one is None:
        parts.append(f"no picture of similar references: {name} is not predicted")
    if support.own_boundary:
        parts.append(
            "the image has only its own boundary, and the map is Grad-CAM's: no "
            "sampled one separates it from other classes "
            f"({n_alike} references are predicted as {name})"
        )
    elif one is None:
        parts.append(
            "the map is under the interpretation of the most similar of the "
            f"{n_alike} references predicted as {name}"
        )
    if n_within < _FEW and not support.own_boundary:
        share = 1 - support.representativeness
        parts.append(
            f"{n_within} references predicted as {name} are covered, too few to be "
            f"representative: {share:.0%} of the map is Grad-CAM's; give 20 or more"
        )
    if one is not None and n_alike == 0:
        nearest = one.nearest_classes(_N_NEAREST).classes.tolist()
        names = ", ".join(categories[index] for index in nearest)
        parts.append(f"nearest classes among the references: {names}")
    return "; ".join(parts) or None


def _describe(
    one: Interpretation, references: ReferenceFolder, n_alike: int
) -> dict[str, Any]:
    similar = [
        {
            "reference": index,
            "path": str(references.paths[index]),
            "distance": float(f"{distance:.6g}"),
        }
        for index, distance in zip(
            *(values.tolist() for values in one.similar(_N_SIMILAR)), strict=True
        )
    ]
    return {
        "n_boundaries": len(one.boundaries.bias),
        "n_predicted_alike": n_alike,
        "n_covered": len(one.covered),
        "purity": round(one.purity, 6),
        "representativeness": one.representativeness,
        "tau": one.tau,
        "own_boundary": one.own_boundary,
        "similar": similar,
    }


def _draw_similar(
    one: Interpretation, references: ReferenceFolder, classifier: Classifier
) -> Figure:
    similar = one.similar(_N_SIMILAR)
    figure = one.plot(
        _N_SIMILAR,
        references=references,
        mean=classifier.mean,
        std=classifier.std,
    )
    # Whoever has a folder knows its images by name, and classes too.
    figure.axes[0].set_title(classifier.categories[one.predicted], fontsize=8)
    for axis, index, distance in zip(
        figure.axes[1:], *(values.tolist() for values in similar), strict=False
    ):
        name = references.paths[index].name[-_NAME_LENGTH:]
        axis.set_title(f"{name}\ndistance {distance:.3g}", fontsize=8)
    return figure
