"""One interpretation for many images that a network decides alike."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from captum.attr import GradientAttribution, LayerAttribution
from captum.log import log_usage
from torch import Tensor, nn
from tqdm.auto import tqdm

from captum_margin._keywords import check_keywords
from captum_margin._model.arguments import warn_of_training
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
from captum_margin._whole_numbers import is_whole, whole_number
from captum_margin.attr.representative.bank import InterpretationBank
from captum_margin.attr.representative.boundaries import (
    BoundaryTable,
    fit_boundaries,
    hyperplanes,
)
from captum_margin.attr.representative.evidence import (
    OwnEvidence,
    is_of_few,
    representativeness,
    warn_of_few,
    warn_of_own_boundary,
)
from captum_margin.attr.representative.heat_maps import heat_maps
from captum_margin.attr.representative.interpretation import (
    Boundaries,
    Interpretation,
    RepresentativeDetails,
)
from captum_margin.attr.representative.references import (
    References,
    ReferenceSource,
    to_device,
)
from captum_margin.attr.representative.state import (
    dump_table,
    layer_of_state,
    load_table,
)

__all__ = ["RepresentativeInterpretation"]

# From _attribute_rows to who called attribute(), through its two decorators.
_FROM_ATTRIBUTE = 5


class RepresentativeInterpretation(LayerAttribution, GradientAttribution):
    r"""Heat maps of a layer that are shared by all images decided alike.

    From reference images Q decision boundaries of the network are sampled, hyperplanes
    :math:`\langle W, \psi \rangle + b = 0` in the space of the layer's feature maps.
    Around an image, the few of them are chosen whose polytope covers as many references
    as possible and no more of those predicted otherwise than must be. The heat map
    weights the channels by the normals W, as Grad-CAM does by the gradient at the one
    image; every image that the polytope covers has the same weights. For the formula
    see :meth:`Interpretation.attribute`. Lam et al., "Finding Representative
    Interpretations on Convolutional Neural Networks", ICCV 2021
    (https://arxiv.org/abs/2108.06384).

    It replaces :class:`captum.attr.LayerGradCam` by changing the class name and giving
    references: images that the network knows, some hundreds of each class that matters
    where there are few classes. Of a network of 1,000, bring 20 or more images that it
    predicts as each class to be explained, and as each that it should be told from;
    others need none. How many of them a polytope covers, and how purely, is in the
    tutorials' page of benchmarks for three networks; without any of the class it covers
    next to none.

    A polytope that covers fewer than 40 of its class has as much of Grad-CAM in its map
    as it lacks, and one of fewer than 5 is warned of: see
    :attr:`Interpretation.representativeness`.

    Give it logits: where the network above the layer is piecewise linear
    (ReLU, pooling) boundaries are exact; else see :attr:`linearization_error`.

    Attributes:
        references: What :meth:`fit` was given, or the constructor.
        linearization_error (float): Median over the boundaries of the error of the
            linear forecast when every value of a feature map grows or shrinks by 1% at
            random, over what such a step changes typically: 0 up to rounding and kinks
            where the network above is piecewise linear.
    """

    def __init__(
        self,
        forward_func: Callable[..., Tensor],
        layer: nn.Module | None = None,
        references: ReferenceSource | None = None,
        device_ids: list[int] | None = None,
        *,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        seed: int | None = None,
    ) -> None:
        """Makes an explainer of a model at a layer.

        Args:
            forward_func (Callable): The model, or any function of the inputs that runs
                it, with class scores out: (B, C), or one score a row.
            layer (Module, optional): The layer whose output (B, K, h, w) or (B, K) is
                explained, usually the last with an extent in space. Default: None, what
                :func:`~captum_margin.attr.last_conv_layer` finds, with a warning that
                names it; this needs ``forward_func`` to be a Module.
            references (Tensor, tuple, Dataset or DataLoader, optional): Fitted with
                :meth:`fit`'s defaults when they are first needed. Default: None
            device_ids (list[int], optional): As in Captum. Default: None
            reshape_transform (Callable, optional): A linear function from the layer's
                output to (B, K, h, w), for layers of tokens, (B, tokens, K), such as
                :func:`~captum_margin.attr.tokens_to_maps`. Default: None
            seed (int, optional): Seed of the sample of boundaries, as :meth:`fit`'s,
                for references given here. Default: None, it is drawn from torch's
                global generator

        Raises:
            TypeError: If the seed is no whole number.
        """
        LayerAttribution.__init__(self, forward_func, layer, device_ids)
        self.layer: Any = layer  # None until it is chosen
        GradientAttribution.__init__(self, forward_func)
        self.reshape_transform = reshape_transform
        self.references = references
        self._batch_size = 32
        self.seed = _checked_seed(seed)
        self._fit_options: dict[str, Any] = {"seed": seed}  # of fit_boundaries
        # One table for each layer (and its input) asked for: Captum's TCAV changes
        # the layer from call to call.
        self._tables: list[tuple[nn.Module, bool, BoundaryTable]] = []

    def fit(
        self,
        references: ReferenceSource,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        *,
        n_boundaries: int = 50,
        batch_size: int = 32,
        seed: int | None = None,
        show_progress: bool = False,
    ) -> RepresentativeInterpretation:
        """Samples boundaries and finds on which side of them every reference lies.

        The references are read once, in batches, and their feature maps are not kept.
        Another layer (as :class:`captum.concept.TCAV` asks for) is fitted with the
        same options when it is first explained.

        Args:
            references (Tensor, tuple[Tensor, ...], Dataset or DataLoader): M inputs of
                the model. Items of a data set may be (x, ..., label): the last entry
                of two or more is not used. Loaders must not shuffle.
            additional_forward_args (Any, optional): As in Captum; a tensor of M rows
                goes with the references, see :class:`captum_margin.Shared`. Default:
                None
            attribute_to_layer_input (bool, optional): Whether the layer's input is
                explained. Default: False
            n_boundaries (int, optional): Q, at most M are used. More separate classes
                better, and take Q feature maps of memory. Default: 50
            batch_size (int, optional): References in a forward pass; a loader has its
                own. Default: 32
            seed (int, optional): Seed of the sample. Default: None, the constructor's;
                without one it is drawn from torch's global generator, so that
                ``torch.manual_seed`` repeats it
            show_progress (bool, optional): Shows a progress bar over the references.
                Default: False

        Returns:
            RepresentativeInterpretation: itself.

        Raises:
            TypeError: If the references, or the model's outputs, are no tensors.
            ValueError: If there are no references, they are shuffled or have no
                indices, an option is out of range, or there is NaN or infinity.

        Cost: M + Q forward passes and Q forward and backward passes; memory for a
        batch, Q feature maps and M * Q numbers.
        """
        n_boundaries = whole_number(n_boundaries, "n_boundaries", 1)
        source = References(references, batch_size)
        warn_of_training(self.forward_func)
        self._choose_layer(source, additional_forward_args)
        options = {
            "additional_forward_args": additional_forward_args,
            "n_boundaries": n_boundaries,
            "seed": self.seed if seed is None else _checked_seed(seed),
        }
        table = self._fit_table(
            source, attribute_to_layer_input, options, show_progress
        )
        # Nothing is changed before the fit has come to its end.
        self.references = references
        self._batch_size, self._fit_options = batch_size, options
        self._tables = [(self.layer, attribute_to_layer_input, table)]
        return self

    @check_keywords
    @log_usage(part_of_slo=True)
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: TargetType = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        attr_dim_summation: bool = True,
        grad_kwargs: dict[str, Any] | None = None,
        *,
        paper: bool = False,
        return_details: bool = False,
    ) -> Tensor | tuple[Tensor, RepresentativeDetails]:
        r"""Heat maps of the layer, each under the interpretation of its input.

        An input that is predicted as its target has the polytope around itself. For
        another target it has that of the most similar reference predicted as the
        target, the one whose projections to the sampled boundaries differ least.

        Args:
            inputs (Tensor or tuple[Tensor, ...]): As in
                :class:`captum.attr.LayerGradCam`.
            target (int, tuple, Tensor or list, optional): As there. Default: None, for
                models with one score a row: the map is the evidence for a high score
            additional_forward_args (Any, optional): As there. Default: None
            attribute_to_layer_input (bool, optional): As there. Default: False
            relu_attributions (bool, optional): Only evidence for the target, see
                :meth:`Interpretation.attribute`. Default: False
            attr_dim_summation (bool, optional): Whether channels are summed.
                Default: True
            grad_kwargs (dict, optional): As there; used where an input falls back to
                its own boundary. Default: None
            paper (bool, optional): The paper's weights, see there. Default: False
            return_details (bool, optional): Also returns
                :class:`RepresentativeDetails`. Default: False

        Returns:
            *Tensor* of **attributions**, (B, 1, h, w), or (B, K, h, w) without the
            sum, detached; or a pair of these and **details**.

        Raises:
            AssertionError: If a target is missing, or not one an example (as in
                Captum), or the layer has several tensors.
            ValueError: Without references, such a class, or inputs of their size.

        Cost: :meth:`fit` before the first; one forward pass; and a forward and a
        backward pass more for inputs whose polytope covers fewer than 40 references of
        the class.

        Examples::

            >>> import torch
            >>> from captum_margin.attr import RepresentativeInterpretation
            >>> from torch import nn
            >>> _ = torch.manual_seed(0)
            >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(),
            ...     nn.Linear(8 * 30 * 30, 10))
            >>> references = torch.randn(200, 3, 32, 32)
            >>> explainer = RepresentativeInterpretation(net, net[1], references)
            >>> images = torch.randn(2, 3, 32, 32)
            >>> target = net(images).argmax(dim=1)
            >>> explainer.attribute(images, target=target).shape
            torch.Size([2, 1, 30, 30])
        """
        inputs = format_inputs(inputs)
        view, table = self._fitted(attribute_to_layer_input)
        maps, details = _attribute_rows(
            view,
            table,
            inputs,
            target,
            additional_forward_args,
            grad_kwargs,
            relu_attributions=relu_attributions,
            attr_dim_summation=attr_dim_summation,
            paper=paper,
        )
        return (maps, details) if return_details else maps

    def interpret(
        self,
        x: Tensor | tuple[Tensor, ...],
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
    ) -> Interpretation:
        """The interpretation of one input: what else the network decides so, and why.

        Args:
            x (Tensor or tuple[Tensor, ...]): One example, with its batch axis.
            additional_forward_args (Any, optional): As in Captum. Default: None
            attribute_to_layer_input (bool, optional): As there. Default: False

        Returns:
            Interpretation: Of the class that the input is predicted as.

        Raises:
            ValueError: If there are no references or more than one example.
        """
        inputs = format_inputs(x)
        if len(inputs[0]) != 1:
            raise ValueError(
                f"expected one example, (1, ...) (got {len(inputs[0])}); explain the "
                "others one by one, or all with attribute() or bank()"
            )
        view, table = self._fitted(attribute_to_layer_input)
        values, output = view.values_and_output(inputs, additional_forward_args)
        projections = table.project(values)[0].cpu()
        predicted = int(class_scores(output).argmax(dim=1))
        one = _interpretation_of(
            view, table, projections, predicted, inputs, additional_forward_args
        )
        _warn_of_poor([one], stacklevel=2)
        scores = class_scores(output)[0].cpu()
        return replace(one, _references=self._references(), _scores=scores)

    def bank(
        self,
        n_per_class: int = 10,
        *,
        seed: int = 0,
        attribute_to_layer_input: bool = False,
        paper: bool = False,
    ) -> InterpretationBank:
        """Interpretations that together explain images never seen.

        The references of each predicted class are clustered by k-means, in the space
        of their projections to the sampled boundaries; the reference nearest to each
        centre is interpreted.

        The paper's bank (section 6.4) clusters all references at once, in the space of
        the feature maps; the default differs so that no feature maps need be kept, that
        every class has its interpretations, however few its references, and that
        distances are those :meth:`Interpretation.similar` ranks by.

        Args:
            n_per_class (int, optional): Interpretations of each class; fewer where it
                has fewer references. Default: 10
            seed (int, optional): Seed of k-means. Default: 0
            attribute_to_layer_input (bool, optional): As in :meth:`attribute`.
                Default: False
            paper (bool, optional): The paper's bank: joint k-means of the feature maps
                into ``n_per_class`` times as many clusters as classes are predicted,
                so that a class may have more interpretations than another; what no
                polytope covers goes by the nearest centre among the feature maps. For
                its heat maps see ``paper`` of :meth:`InterpretationBank.attribute`.
                Default: False

        Returns:
            InterpretationBank: The interpretations.

        Raises:
            ValueError: If there are no references (a loaded state holds none to read
                for ``paper``), or no interpretations asked for.

        Cost: k-means on M points of Q numbers; no forward pass, but for references
        that no boundary separates. With ``paper`` M forward passes to the layer, their
        feature maps in memory, and k-means on these.
        """
        n_per_class = whole_number(n_per_class, "n_per_class", 1)
        view, table = self._fitted(attribute_to_layer_input)
        references = self._references()
        args = self._fit_options.get("additional_forward_args")
        return _make_bank(view, table, references, args, n_per_class, seed, paper)

    @property
    def linearization_error(self) -> float:
        """See the class; of the layer as it was fitted last."""
        if not self._tables:
            self._fitted(False)
        return self._tables[-1][2].linearization_error

    def state_dict(self, attribute_to_layer_input: bool = False) -> dict[str, Any]:
        """What was fitted: the boundaries and M * Q projections, no images.

        Args:
            attribute_to_layer_input (bool, optional): As in :meth:`fit`. Default: False

        Returns:
            dict: Tensors and plain values: ``torch.save`` writes it, ``torch.load(...,
            weights_only=True)`` reads it.
        """
        view, table = self._fitted(attribute_to_layer_input)
        return dump_table(table, view)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what :meth:`state_dict` of an explainer of this layer returned.

        Args:
            state (Mapping): The state.

        Raises:
            ValueError: If it is of another version or layer, or incomplete.
        """
        if self.layer is None:
            self.layer = layer_of_state(self.forward_func, state)
        to_input, table = load_table(state, self._view(False))
        self._tables = [(self.layer, to_input, table)]
        self.references = None

    def attribute_future(self) -> None:
        """Not available: a fallback takes two passes, one after the other."""
        raise NotImplementedError(
            "attribute_future is not implemented for RepresentativeInterpretation"
        )

    def _view(self, to_input: bool) -> LayerView:
        return LayerView(
            self.forward_func,
            self.layer,
            self.device_ids,
            to_input,
            self.reshape_transform,
        )

    def _references(self) -> References | None:
        given = self.references
        return None if given is None else References(given, self._batch_size)

    def _choose_layer(self, source: References | None, args: object) -> None:
        """Takes the last layer with maps where none was given."""
        if self.layer is None and source is not None:
            self.layer = _last_layer(self.forward_func, source, args)

    def _fitted(self, to_input: bool) -> tuple[LayerView, BoundaryTable]:
        """The model at the layer, and what was fitted for it, or is now."""
        warn_of_training(self.forward_func)
        source = self._references()
        self._choose_layer(source, self._fit_options.get("additional_forward_args"))
        for layer, input_side, table in self._tables:
            if layer is self.layer and input_side == to_input:
                return self._view(to_input), table
        if source is None:
            fitted = ", ".join(
                f"the {'input' if side else 'output'} of {type(layer).__name__}"
                for layer, side, _ in self._tables
            )
            raise ValueError(
                f"expected references (got none; fitted: {fitted or 'nothing'}); call "
                "fit(references), or give references to the constructor"
            )
        table = self._fit_table(source, to_input, self._fit_options, False)
        self._tables.append((self.layer, to_input, table))
        return self._view(to_input), table

    def _fit_table(
        self,
        source: References,
        to_input: bool,
        options: Mapping[str, Any],
        show_progress: bool,
    ) -> BoundaryTable:
        with tqdm(desc=f"{self.get_name()} fit", disable=not show_progress) as progress:
            return fit_boundaries(self._view(to_input), source, progress, **options)


def _last_layer(
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


def _attribute_rows(
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
    polytopes = _orientations(
        table, table.project(values).cpu(), predicted.tolist(), classes.tolist()
    )
    settings = {
        "layer": view.layer_name(),
        "n_boundaries": len(table.bias),
        "n_references": len(table.classes),
        "attribute_to_layer_input": view.to_input,
        "relu_attributions": relu_attributions,
        "attr_dim_summation": attr_dim_summation,
        "paper": paper,
    }
    details = _details(table, polytopes, predicted, classes, settings)
    alone, poor = details.own_boundary, is_of_few(details.representativeness)
    warn_of_own_boundary(int(alone.sum()), _FROM_ATTRIBUTE)
    warn_of_few(int((poor & ~alone).sum()), _FROM_ATTRIBUTE)
    needed = alone if paper else details.representativeness < 1
    needed = needed.nonzero()[:, 0]
    normals: list[Tensor] = []
    orientation, own = polytopes, None
    if len(needed):
        rows, args = take_rows(inputs, additional_forward_args, needed)
        asked = classes[needed.to(classes.device)]
        gradients, _, _ = view.gradients(rows, args, asked, grad_kwargs, own=not paper)
        gradients = gradients.to(table.weight.dtype)
        if paper:
            normals.append(gradients)
            orientation = _with_own_boundaries(polytopes, needed)
        else:
            alpha = view.channel_weights(gradients)
            of_all = alpha.new_zeros(len(polytopes), alpha.shape[1])
            of_all[needed.to(alpha.device)] = alpha
            own = OwnEvidence(of_all, details.representativeness)
    maps = heat_maps(
        view.channels(values),
        table.channel_weights(view, normals, paper).to(values.device),
        orientation,
        own,
        relu_attributions=relu_attributions,
        attr_dim_summation=attr_dim_summation,
        paper=paper,
    )
    return maps, details


def _orientations(
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


def _details(
    table: BoundaryTable,
    polytopes: Tensor,
    predicted: Tensor,
    classes: Tensor,
    settings: dict[str, Any],
) -> RepresentativeDetails:
    """Whose maps the polytopes (B, Q) stand for."""
    covered = [table.covered(row) for row in polytopes]
    n_covered = torch.tensor([len(within) for within in covered])
    n_alike = torch.stack(
        [
            (table.classes[within] == asked).sum()
            for within, asked in zip(covered, classes.tolist(), strict=True)
        ]
    )
    own_boundary = (polytopes == 0).all(dim=1)
    return RepresentativeDetails(
        predicted=predicted,
        covered=tuple(covered),
        purity=n_alike / n_covered.clamp(min=1),
        representativeness=representativeness(n_alike, own_boundary),
        boundaries=tuple(table.reference[row.nonzero()[:, 0]] for row in polytopes),
        own_boundary=own_boundary,
        settings=settings,
    )


def _with_own_boundaries(polytopes: Tensor, alone: Tensor) -> Tensor:
    """One more boundary for each example that has none, (B, Q + len(alone))."""
    columns = torch.zeros(len(polytopes), len(alone), dtype=polytopes.dtype)
    columns[alone, torch.arange(len(alone))] = 1
    return torch.cat([polytopes, columns], dim=1)


def _interpretation_of(
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
    alike = int((table.classes[covered] == predicted).sum())
    stands = representativeness(torch.tensor([alike]), torch.tensor([own_boundary]))
    # Without its image an interpretation of few is under its boundaries alone.
    if inputs is None and (own_boundary or (stands < 1 and references is not None)):
        inputs, additional_forward_args = _read(
            view, references, reference, additional_forward_args
        )
    own_alpha = None
    if inputs is not None and stands < 1:
        classes = torch.tensor([predicted], device=view.device())
        gradients, _, _ = view.gradients(
            inputs, additional_forward_args, classes, own=True
        )
        own_alpha = view.channel_weights(gradients.to(table.weight.dtype))[0]
    if own_boundary:
        assert inputs is not None
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
    return Interpretation(
        boundaries=boundaries,
        predicted=predicted,
        covered=covered,
        purity=alike / max(1, len(covered)),
        representativeness=float(stands),
        tau=int(polytope.tau),
        own_boundary=own_boundary,
        _view=view,
        _table=table,
        _chosen=chosen,
        _projections=projections,
        _own_alpha=own_alpha,
        _references=references,
        _image=None if inputs is None else inputs[0],
        _reference=reference,
    )


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


def _make_bank(
    view: LayerView,
    table: BoundaryTable,
    references: References | None,
    additional_forward_args: object,
    n_per_class: int,
    seed: int,
    paper: bool,
) -> InterpretationBank:
    """Interprets the references nearest to the k-means centres."""
    classes, means = table.classes.unique(), None
    if paper:
        maps = _feature_maps(view, table, references, additional_forward_args)
        centers, means = _joint_centers(maps, n_per_class * len(classes), seed)
    else:
        centers = torch.cat(
            [_centers(table, int(label), n_per_class, seed) for label in classes]
        )
    interpretations = [
        _interpretation_of(
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
    _warn_of_poor(interpretations, stacklevel=3)
    order = sorted(
        range(len(centers)),
        key=lambda i: (-interpretations[i].purity, -len(interpretations[i].covered)),
    )
    means = None if means is None else means[order]
    return InterpretationBank(
        [interpretations[i] for i in order], centers[order], view, table, means
    )


def _feature_maps(
    view: LayerView,
    table: BoundaryTable,
    references: References | None,
    additional_forward_args: object,
) -> Tensor:
    """Of all references, (M, *layer_shape), on the CPU."""
    if references is None:
        raise ValueError(
            "expected references to read (got none; a loaded state holds no images) "
            "for the paper's bank, which clusters feature maps; call fit()"
        )
    maps: list[Tensor] = []
    start = 0
    for batch in references.batches():
        rows = torch.arange(start, start + len(batch[0]))
        start += len(rows)
        _, args = select_rows(None, additional_forward_args, rows, len(references))
        inputs = format_inputs(to_device(batch, view.device()))
        maps.append(view.values(inputs, args, table.executions).cpu())
    return torch.cat(maps)


def _joint_centers(maps: Tensor, n_centers: int, seed: int) -> tuple[Tensor, Tensor]:
    """K-means of feature maps: the reference nearest to each centre, and the centres.

    One for each centre, even where two share a reference.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import pairwise_distances_argmin

    points = maps.to(torch.promote_types(maps.dtype, torch.float32)).flatten(1).numpy()
    n_centers = min(n_centers, len(points))
    # One start: four would take minutes where feature maps have 10^5 values.
    means = KMeans(n_centers, n_init=1, random_state=seed).fit(points)
    nearest = pairwise_distances_argmin(means.cluster_centers_, points)
    centers = torch.from_numpy(means.cluster_centers_).view(-1, *maps.shape[1:])
    return torch.from_numpy(nearest), centers


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


def _warn_of_poor(interpretations: Sequence[Interpretation], stacklevel: int) -> None:
    """Says how many interpretations stand for no or few references."""
    shares = torch.tensor([one.representativeness for one in interpretations])
    few = is_of_few(shares).tolist()
    poor = [one for one, of_few in zip(interpretations, few, strict=True) if of_few]
    warn_of_own_boundary(sum(one.own_boundary for one in poor), stacklevel + 1)
    poor = [one for one in poor if not one.own_boundary]
    without_images = any(one._own_alpha is None for one in poor)
    warn_of_few(len(poor), stacklevel + 1, without_images)


def _checked_seed(seed: int | None) -> int | None:
    if seed is not None and not is_whole(seed):
        raise TypeError(
            f"expected the seed as a whole number or None (got {seed!r}); a torch "
            "generator has one: generator.initial_seed()"
        )
    return None if seed is None else int(seed)
