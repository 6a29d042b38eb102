"""From a point's place among the boundaries to its interpretation."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from captum_margin.attr._boundaries import BoundaryTable, hyperplanes
from captum_margin.attr._captum import format_inputs, select_rows
from captum_margin.attr._layer_view import LayerView, margins
from captum_margin.attr._references import References, to_device
from captum_margin.attr.interpretation import Boundaries, Interpretation
from captum_margin.attr.interpretation_bank import InterpretationBank

__all__ = ["interpretation_of", "make_bank", "orientations", "warn_of_own_boundary"]


def orientations(
    table: BoundaryTable,
    projections: Tensor,
    predicted: Sequence[int],
    classes: Sequence[int],
) -> Tensor:
    """The polytopes of B points, int8 (B, Q): the explained side, 1 or -1, or 0.

    A point that is not predicted as the class asked for has the polytope of the most
    similar reference that is. A row of zeros: no boundary separates it.

    Args:
        table (BoundaryTable): What was fitted.
        projections (Tensor): Of the points to the boundaries, (B, Q), on the CPU.
        predicted (Sequence[int]): The class each is predicted as.
        classes (Sequence[int]): The class each is explained for.
    """
    found = torch.zeros(projections.shape, dtype=torch.int8)
    for row, (point, own, asked) in enumerate(
        zip(projections, predicted, classes, strict=True)
    ):
        if own != asked:
            reference = table.nearest(point, asked)
            if reference is None:
                continue
            point = table.projections[reference]
        side = (point >= 0).numpy()
        chosen = table.signs.polytope(side, asked).chosen
        found[row, chosen] = torch.from_numpy(np.where(side[chosen], 1, -1)).to(
            torch.int8
        )
    return found


def interpretation_of(
    view: LayerView,
    table: BoundaryTable,
    projections: Tensor,
    predicted: int,
    inputs: tuple[Tensor, ...] | None,
    additional_forward_args: object = None,
    *,
    references: References | None = None,
    reference: int | None = None,
) -> Interpretation:
    """The interpretation of one example, or of one reference.

    Args:
        view (LayerView): The model at the layer.
        table (BoundaryTable): What was fitted for it.
        projections (Tensor): Of the point to the boundaries, (Q,), on the CPU.
        predicted (int): The class it is predicted as.
        inputs (tuple[Tensor, ...], optional): The example; None for a reference, which
            is read if it is needed.
        additional_forward_args (Any, optional): Of the example, or of all references.
        references (References, optional): Where to read a reference.
        reference (int, optional): Its index.
    """
    side = (projections >= 0).numpy()
    polytope = table.signs.polytope(side, predicted)
    covered = torch.from_numpy(polytope.covered)
    chosen = torch.from_numpy(polytope.chosen)
    own_boundary = len(chosen) == 0
    if own_boundary:
        if inputs is None:
            inputs, additional_forward_args = _read(
                view, references, reference, additional_forward_args
            )
        gradients, values, scores = view.gradients(inputs, additional_forward_args)
        weight, bias = hyperplanes(gradients, values, margins(scores))
        boundaries = Boundaries(
            weight, bias, torch.tensor([-1]), torch.ones(1, dtype=torch.bool)
        )
    else:
        boundaries = Boundaries(
            table.weight[chosen.to(table.weight.device)],
            table.bias[chosen.to(table.bias.device)],
            table.reference[chosen],
            torch.from_numpy(side)[chosen],
        )
    alike = int((table.classes[covered] == predicted).sum())
    return Interpretation(
        boundaries=boundaries,
        predicted=predicted,
        covered=covered,
        purity=alike / len(covered) if len(covered) else float("nan"),
        tau=int(polytope.tau),
        own_boundary=own_boundary,
        _view=view,
        _table=table,
        _chosen=chosen,
        _projections=projections,
        _references=references,
        _image=None if inputs is None else inputs[0],
        _reference=reference,
    )


def make_bank(
    view: LayerView,
    table: BoundaryTable,
    references: References | None,
    additional_forward_args: object,
    n_per_class: int,
    seed: int,
) -> InterpretationBank:
    """Interprets the references nearest to the k-means centres of every class."""
    centers = torch.cat(
        [
            _centers(table, int(predicted), n_per_class, seed)
            for predicted in table.classes.unique()
        ]
    )
    interpretations = [
        interpretation_of(
            view,
            table,
            table.projections[center],
            int(table.classes[center]),
            None,
            additional_forward_args,
            references=references,
            reference=center,
        )
        for center in centers.tolist()
    ]
    n_alone = sum(one.own_boundary for one in interpretations)
    if n_alone:
        warn_of_own_boundary(n_alone)
    order = sorted(
        range(len(centers)),
        key=lambda i: (-interpretations[i].purity, -len(interpretations[i].covered)),
    )
    return InterpretationBank(
        [interpretations[i] for i in order], centers[order], view, table
    )


def warn_of_own_boundary(n_examples: int) -> None:
    """Says that some inputs have no polytope."""
    warnings.warn(
        f"no sampled boundary separates {n_examples} of the inputs from the references "
        "predicted otherwise: they are explained by their own boundary, which no other "
        "image shares; give references of several predicted classes, or more "
        "n_boundaries",
        stacklevel=3,
    )


def _centers(table: BoundaryTable, predicted: int, n_centers: int, seed: int) -> Tensor:
    """The references of a class nearest to its k-means centres, ascending."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import pairwise_distances_argmin

    members = (table.classes == predicted).nonzero()[:, 0]
    points = table.projections[members].numpy()
    n_centers = min(n_centers, len(np.unique(points, axis=0)))
    means = KMeans(n_centers, n_init=4, random_state=seed).fit(points)
    nearest = pairwise_distances_argmin(means.cluster_centers_, points)
    return members[torch.from_numpy(np.unique(nearest))]


def _read(
    view: LayerView,
    references: References | None,
    reference: int | None,
    additional_forward_args: object,
) -> tuple[tuple[Tensor, ...], object]:
    if references is None or reference is None:
        raise ValueError(
            "expected references to read (got none; a loaded state holds no images) "
            "for an interpretation that no sampled boundary separates; call fit() with "
            "references of several predicted classes"
        )
    rows = torch.tensor([reference])
    _, args = select_rows(None, additional_forward_args, rows, len(references))
    inputs = to_device(references.take([reference]), view.device())
    return format_inputs(inputs), args
