r"""Decision boundaries of a network at a layer, and where references lie to them.

With :math:`\psi` the layer's feature map, G the rest of the network and
:math:`\Delta G` its largest class score minus the second largest, the boundary at an
image x is the hyperplane :math:`\langle W, t \rangle + b = 0` with
:math:`W = \partial \Delta G / \partial t` at :math:`t = \psi(x)` and
:math:`b = \Delta G - \langle W, \psi(x) \rangle`: exact where G is piecewise linear.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_margin._model.captum import select_rows
from captum_margin._model.layer_view import LayerView, class_scores, margins
from captum_margin._model.layers import is_map
from captum_margin._model.outputs import are_probabilities
from captum_margin._model.precision import full_precision
from captum_margin.attr.representative.polytope import SignTable
from captum_margin.attr.representative.references import References, to_device

__all__ = ["BoundaryTable", "fit_boundaries", "hyperplanes"]

# By how much every value of a feature map grows or shrinks, at random, to see whether
# the rest of the network is linear around it. (A normalisation layer takes no notice
# when it is scaled as a whole.)
_STEP = 0.01


@dataclass(frozen=True, eq=False)
class BoundaryTable:
    """Q boundaries, and M references on either side of each.

    Attributes:
        weight (Tensor): W, shape (Q, *layer_shape), on the layer's device.
        activity (Tensor): Mean of |psi| over the references, (K, ...).
        alpha (Tensor): Channel weights: means of W over positions, each weighted by
            its activity, (Q, K).
        bias (Tensor): b, (Q,).
        reference (Tensor): The reference that each boundary was taken at, (Q,).
        projections (Tensor): <W, psi> + b of every reference, (M, Q), on the CPU.
        classes (Tensor): The class that each reference is predicted as, (M,).
        executions (int): How often a forward pass runs the layer.
        linearization_error (float): See :class:`RepresentativeInterpretation`.
    """

    weight: Tensor
    activity: Tensor
    alpha: Tensor
    bias: Tensor
    reference: Tensor
    projections: Tensor
    classes: Tensor
    executions: int
    linearization_error: float

    @cached_property
    def signs(self) -> SignTable:
        """The same, one bit a reference and boundary."""
        return SignTable((self.projections >= 0).numpy(), self.classes.numpy())

    @full_precision()
    def project(self, values: Tensor) -> Tensor:
        """<W, psi> + b of feature maps (B, *layer_shape), (B, Q).

        Raises:
            ValueError: If the feature maps are of another shape.
        """
        if values.shape[1:] != self.weight.shape[1:]:
            raise ValueError(
                f"expected feature maps of shape (B, {_numbers(self.weight.shape[1:])})"
                f" (got {tuple(values.shape)}); explain inputs of the references' size"
            )
        weight = self.weight.to(values.device).flatten(1)
        flat = values.flatten(1).to(weight.dtype)
        return torch.addmm(self.bias.to(values.device), flat, weight.T)

    def channel_weights(
        self, view: LayerView, own: Sequence[Tensor], paper: bool
    ) -> Tensor:
        """Of all boundaries, and after them of other normals; plain means or not."""
        if not paper:
            more = [view.channel_weights(weight, self.activity) for weight in own]
            return torch.cat([self.alpha, *more])
        return torch.cat([view.channel_weights(w) for w in (self.weight, *own)])

    def covered(self, orientation: Tensor) -> Tensor:
        """The references on the given sides, 1 or -1, of boundaries, (Q,); 0 is any."""
        chosen = orientation.nonzero()[:, 0]
        sides = self.projections[:, chosen] >= 0
        return (sides == (orientation[chosen] > 0)).all(dim=1).nonzero()[:, 0]

    def nearest(self, projections: Tensor, predicted: int) -> int | None:
        """The reference of a class that is most similar to one point, (Q,)."""
        of_class = (self.classes == predicted).nonzero()[:, 0]
        if len(of_class) == 0:
            return None
        distances = (self.projections[of_class] - projections.cpu()).abs().sum(dim=1)
        return int(of_class[distances.argmin()])


def hyperplanes(
    gradients: Tensor, values: Tensor, margins: Tensor
) -> tuple[Tensor, Tensor]:
    """W and b of the boundaries at some feature maps, (B, ...) and (B,).

    In single precision or better; b is summed in double, for it is a difference of
    two like numbers.
    """
    dtype = torch.promote_types(gradients.dtype, torch.float32)
    wide = torch.float64 if gradients.device.type != "mps" else dtype
    product = (gradients.to(wide) * values.to(wide)).flatten(1).sum(dim=1)
    return gradients.to(dtype), (margins.to(wide) - product).to(dtype)


def fit_boundaries(
    view: LayerView,
    references: References,
    progress: tqdm[Any],
    *,
    additional_forward_args: object = None,
    n_boundaries: int = 50,
    seed: int | None = None,
) -> BoundaryTable:
    """Samples boundaries from the references, then streams all of these past them.

    Cost: Q forward and backward passes, Q more forward passes to see how linear the
    model is, and one forward pass a reference; a batch of feature maps, the Q weights
    and M * Q numbers in memory.
    """
    n_references = len(references)
    device = view.device()

    def at(indices: list[int], inputs: tuple[Tensor, ...]) -> tuple[Any, Any]:
        rows = torch.tensor(indices)
        _, args = select_rows(None, additional_forward_args, rows, n_references)
        # NaN among references shows in the outputs, which are checked.
        return to_device(inputs, device), args

    generator = None if seed is None else torch.Generator().manual_seed(seed)
    drawn = torch.randperm(n_references, generator=generator)[:n_boundaries]
    drawn = drawn.sort().values
    progress.reset(total=n_references + len(drawn))
    batch_size = references.loader.batch_size or 1
    weights, biases, errors, executions = [], [], [], 0
    for chunk in drawn.split(batch_size):
        indices = chunk.tolist()
        inputs, args = at(indices, references.take(indices))
        executions = executions or view.count_executions(inputs, args)
        gradients, values, scores = view.gradients(inputs, args)
        weight, bias = hyperplanes(gradients, values, margins(scores))
        weights.append(weight)
        biases.append(bias)
        step = random_signs(weight.shape[1:]).to(weight) * _STEP
        stepped = view.scores_of_scaled(inputs, args, executions, 1 + step)
        move = step * values.to(weight.dtype)
        errors.append(_linearization_errors(scores, stepped, weight, move))
        progress.update(len(indices))
    weight = torch.cat(weights)
    table = BoundaryTable(
        weight=weight,
        activity=torch.empty(0),
        alpha=torch.empty(0),
        bias=torch.cat(biases),
        reference=drawn,
        projections=torch.empty(0),
        classes=torch.empty(0),
        executions=executions,
        linearization_error=float(torch.cat(errors).median()),
    )
    projections = torch.empty(n_references, len(drawn), dtype=table.weight.dtype)
    classes = torch.empty(n_references, dtype=torch.int64)
    probabilities = True
    start, activity = 0, torch.zeros((), dtype=weight.dtype, device=weight.device)
    for batch in references.batches():
        stop = start + len(batch[0])
        inputs, args = at(list(range(start, stop)), batch)
        values, output = view.values_and_output(inputs, args)
        projections[start:stop] = table.project(values).cpu()
        if not torch.isfinite(projections[start:stop]).all():
            raise ValueError(
                f"expected finite feature maps of references {start} to {stop - 1} "
                "(got NaN or infinity); clean these references first"
            )
        scores = class_scores(output)
        probabilities = probabilities and are_probabilities(scores)
        classes[start:stop] = scores.argmax(dim=1).cpu()
        share = (stop - start) / n_references
        activity = activity + share * view.channels(values).to(activity).abs().mean(0)
        progress.update(stop - start)
        start = stop
    _warn_of_tokens(tuple(view.channels(weight).shape), tuple(batch[0].shape))
    if not bool(view.channels(weight).any()):
        warnings.warn(
            "no score changes with the maps of the layer, so that every map is zero: "
            "what is above it reads something else, as the head of a ViT reads only "
            "the class token of the last block (explain an earlier layer, such as the "
            "one that goes into the last attention), or rounds what it reads",
            stacklevel=4,
        )
    if probabilities:
        warnings.warn(
            "the model's outputs are probabilities: a softmax bends the boundaries, "
            "and the interpretations cover less purely; return logits",
            stacklevel=4,
        )
    return replace(
        table,
        activity=activity,
        alpha=view.channel_weights(weight, activity),
        projections=projections,
        classes=classes,
    )


def _warn_of_tokens(layer: tuple[int, ...], images: tuple[int, ...]) -> None:
    """Axis 1 is taken for the channels; in a transformer it is not."""
    if len(images) != 4 or len(layer) not in (3, 4) or min(layer[2:]) == 1:
        return
    if not is_map(layer, images[2:]):
        warnings.warn(
            f"the layer's output {('B', *layer[1:])} looks like tokens (B, T, K), or "
            "channels last (B, h, w, K), and is taken for (B, K, ...); pass "
            "reshape_transform=tokens_to_maps",
            stacklevel=5,
        )


def random_signs(shape: torch.Size) -> Tensor:
    """1 or -1 at random, the same each time."""
    generator = torch.Generator().manual_seed(0)
    return 2.0 * torch.randint(2, shape, generator=generator) - 1


def _linearization_errors(
    scores: Tensor, stepped: Tensor, weight: Tensor, move: Tensor
) -> Tensor:
    """How far a small move of the feature maps departs from its linear forecast, (B,).

    In units of what the move changes typically, over all choices of its signs.
    """
    classes = scores.argmax(dim=1)
    change = margins(stepped, classes) - margins(scores, classes)
    parts = (weight * move).flatten(1)
    error = (change.to(weight.dtype) - parts.sum(dim=1)).abs()
    typical = parts.norm(dim=1)
    return torch.where(typical > 0, error / typical, error).cpu()


def _numbers(shape: torch.Size) -> str:
    return ", ".join(map(str, shape))
