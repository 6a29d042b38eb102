"""From a point's place among the boundaries to its interpretation."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from captum_margin._model.captum import (
    TargetType,
    format_inputs,
    select_rows,
    take_rows,
)
from captum_margin._model.layer_view import (
    LayerView,
    class_scores,
    margins,
    target_classes,
)
from captum_margin._model.layers import last_conv_layer
from captum_margin.attr.representative.bank import InterpretationBank
from captum_margin.attr.representative.boundaries import BoundaryTable, hyperplanes
from captum_margin.attr.representative.heat_maps import heat_maps
from captum_margin.attr.representative.interpretation import (
    Boundaries,
    Interpretation,
    RepresentativeDetails,
)
from captum_margin.attr.representative.references import References, to_device

__all__ = [
    "attribute_rows",
    "choose_layer",
    "interpretation_of",
    "make_bank",
    "orientations",
    "warn_of_own_boundary",
]


def choose_layer(
    forward_func: Callable[..., Tensor],
    references: References,
    additional_forward_args: object,
) -> nn.Module:
    """The last layer with maps, as it is for the first reference; warns of the choice.

    Raises:
        ValueError: If there is none that could be meant.
    """
    parameters = getattr(forward_func, "parameters", lambda: iter(()))()
    first = next(parameters, None)
    device = torch.device("cpu") if first is None else first.device
    rows = torch.tensor([0])
    _, args = select_rows(None, additional_forward_args, rows, len(references))
    inputs = to_device(references.take([0]), device)
    name, layer, shape = last_conv_layer(forward_func, inputs, args)
    warnings.warn(
        f"no layer given: {name!r} is explained, the last with maps ({shape[1]} of "
        f"{shape[2]} x {shape[3]}); pass layer=model.get_submodule({name!r}), or "
        "another",
        stacklevel=4,
    )
    return layer


def attribute_rows(
    view: LayerView,
    table: BoundaryTable,
    inputs: tuple[Tensor, ...],
    target: TargetType,
    additional_forward_args: object,
    grad_kwargs: dict[str, Any] | None,
    *,
    relu_attributions: bool,
    attr_dim_summation: bool,
    paper: bool,
) -> tuple[Tensor, RepresentativeDetails]:
    """Heat maps of a batch, and whose they are; see ``attribute``."""
    values, output = view.values_and_output(inputs, additional_forward_args)
    predicted = class_scores(output).argmax(dim=1)
    classes = target_classes(output, target)
    orientation = orientations(
        table, table.project(values).cpu(), predicted.tolist(), classes.tolist()
    )
    own_boundary = (orientation == 0).all(dim=1)
    alone = own_boundary.nonzero()[:, 0]
    covered = [table.covered(row) for row in orientation]
    details = RepresentativeDetails(
        predicted=predicted,
        covered=tuple(covered),
        purity=torch.stack(
            [
                (table.classes[within] == asked).float().mean()
                for within, asked in zip(covered, classes.tolist(), strict=True)
            ]
        ),
        boundaries=tuple(table.reference[row.nonzero()[:, 0]] for row in orientation),
        own_boundary=own_boundary,
        settings={
            "layer": view.layer_name(),
            "n_boundaries": len(table.bias),
            "n_references": len(table.classes),
            "attribute_to_layer_input": view.to_input,
            "relu_attributions": relu_attributions,
            "attr_dim_summation": attr_dim_summation,
            "paper": paper,
        },
    )
    weights: list[Tensor] = []
    if len(alone):
        warn_of_own_boundary(len(alone))
        rows, args = take_rows(inputs, additional_forward_args, alone)
        own = classes[alone.to(classes.device)]
        gradients, _, _ = view.gradients(rows, args, own, grad_kwargs)
        weights.append(gradients.to(table.weight.dtype))
        columns = torch.zeros(len(values), len(alone), dtype=orientation.dtype)
        columns[alone, torch.arange(len(alone))] = 1
        orientation = torch.cat([orientation, columns], dim=1)
    maps = heat_maps(
        view.channels(values),
        table.channel_weights(view, weights, paper).to(values.device),
        orientation,
        relu_attributions=relu_attributions,
        attr_dim_summation=attr_dim_summation,
        paper=paper,
    )
    return maps, details


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
        stacklevel=4,
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
