"""The interpretation of one image, and of every image that it covers."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from captum_margin._model.captum import format_inputs
from captum_margin._model.layer_view import LayerView
from captum_margin._whole_numbers import is_whole
from captum_margin.attr.representative.boundaries import BoundaryTable
from captum_margin.attr.representative.evidence import OwnEvidence
from captum_margin.attr.representative.heat_maps import heat_maps
from captum_margin.attr.representative.references import References, to_device

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Boundaries",
    "Interpretation",
    "NearestClasses",
    "RepresentativeDetails",
    "SimilarReferences",
]


class Boundaries(NamedTuple):
    r"""Hyperplanes :math:`\langle W, \psi \rangle + b = 0` in the space of a layer.

    Of :class:`Interpretation`; :math:`\psi` are the values of the layer.

    Args:
        weight (Tensor): W, shape (P, *layer_shape).
        bias (Tensor): b, (P,).
        reference (Tensor): Index of the reference that each was taken at, int64 (P,);
            -1 for the boundary of the explained image itself.
        side (Tensor): True where the explained image has
            :math:`\langle W, \psi \rangle + b \geq 0`, bool (P,).
    """

    weight: Tensor
    bias: Tensor
    reference: Tensor
    side: Tensor


class NearestClasses(NamedTuple):
    """Classes that references are predicted as: :meth:`Interpretation.nearest_classes`.

    Args:
        classes (Tensor): The classes, int64 (k,).
        scores (Tensor): What the model gives the explained image for each, descending,
            (k,).
        n_references (Tensor): How many references are predicted as each, int64 (k,).
    """

    classes: Tensor
    scores: Tensor
    n_references: Tensor


class SimilarReferences(NamedTuple):
    """Covered references, the most similar first: :meth:`Interpretation.similar`.

    Args:
        indices (Tensor): Which references, int64 (k,).
        distances (Tensor): Their distances, ascending, in units of the score, (k,).
    """

    indices: Tensor
    distances: Tensor


@dataclass(frozen=True, eq=False)
class RepresentativeDetails:
    """Under whose interpretations the maps of a batch are.

    Given by :meth:`RepresentativeInterpretation.attribute`.

    Attributes:
        predicted (Tensor): The class that each example is predicted as, int64 (B,).
        covered (tuple[Tensor, ...]): For each example the indices of the references
            within the polytope of its map, ascending, int64 (n,).
        purity (Tensor): Share of these that are predicted as the target, (B,); 0 if
            there are none, for then nothing speaks for it.
        representativeness (Tensor): How far each polytope stands for the target, from
            0 to 1, see :class:`Interpretation`, (B,).
        boundaries (tuple[Tensor, ...]): For each example the boundaries of that
            polytope, by the references they were taken at, int64 (P,).
        own_boundary (Tensor): Whether an example had no polytope, so that its map is
            under its own boundary and everything is covered, bool (B,).
        settings (dict): Every option of the run, plain values.
    """

    predicted: Tensor
    covered: tuple[Tensor, ...]
    purity: Tensor
    representativeness: Tensor
    boundaries: tuple[Tensor, ...]
    own_boundary: Tensor
    settings: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """A dict of what a saved :class:`captum_margin.Explanation` keeps of it."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        del values["settings"]
        return values


@dataclass(frozen=True, eq=False)
class Interpretation:
    r"""A polytope of like decisions around an image, and what it looks at.

    Made by :meth:`RepresentativeInterpretation.interpret` and ``.bank``. One
    interpretation covers many images: all that lie on the explained image's side of
    every boundary. Their heat maps share its channel weights, so that they take one
    forward pass to the layer and no backward pass.

    Attributes:
        boundaries (Boundaries): The P boundaries chosen, in the order of their choice.
        predicted (int): The class that the explained image is predicted as.
        covered (Tensor): Indices of the references covered, ascending, int64 (n,).
        purity (float): Share of these that are predicted alike; 0 if there are none,
            for then nothing speaks for it.
        representativeness (float): How far the polytope stands for its class, from 0 to
            1: a fortieth for each reference covered that is predicted alike, at most 1;
            0 without a sampled boundary. The rest of the map is Grad-CAM's.
        tau (int): How many references predicted otherwise no sampled boundary tells
            from the explained image; they are covered, whatever is chosen.
        own_boundary (bool): True if no sampled boundary was of use: the boundary is
            the image's own, for its heat map only, and everything is covered.

    Examples::

        >>> import torch
        >>> from captum_margin.attr import RepresentativeInterpretation
        >>> from torch import nn
        >>> # Class 1 is a bright left half, class 0 a dark one.
        >>> model = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(4, 2))
        >>> weight = torch.tensor([[0.0, 0, 0, 0], [1.0, 0, 1, 0]])
        >>> _ = model[2].load_state_dict(
        ...     {"weight": weight, "bias": torch.tensor([0.5, 0.0])}
        ... )
        >>> references = torch.rand(100, 1, 8, 8, generator=torch.manual_seed(0))
        >>> references[:50, :, :, :4] *= 0.2
        >>> explainer = RepresentativeInterpretation(model, model[0])
        >>> one = explainer.fit(references, seed=0).interpret(references[:1])
        >>> one.predicted, one.purity, len(one.covered)
        (0, 1.0, 50)
        >>> bool(one.covers(references[1:2]))
        True
        >>> one.attribute(references[1:2]).shape
        torch.Size([1, 1, 2, 2])
    """

    boundaries: Boundaries
    predicted: int
    covered: Tensor
    purity: float
    representativeness: float
    tau: int
    own_boundary: bool
    _view: LayerView
    _table: BoundaryTable
    _chosen: Tensor  # boundaries of the table that bound it, (P,), none if own_boundary
    _projections: Tensor  # of the explained image, to all boundaries of the table, (Q,)
    _own_alpha: Tensor | None  # channel weights of its class's own score, (K,)
    _references: References | None
    _image: Tensor | None  # None: the reference of index _reference
    _reference: int | None
    _scores: Tensor | None = None  # of all classes, (C,), if they are known

    def __repr__(self) -> str:
        """The figures in one line; the nearest classes if it has no reference."""
        nearest = ""
        if self._is_missing() and self._scores is not None:
            nearest = f", nearest_classes={self.nearest_classes(3).classes.tolist()}"
        return (
            f"Interpretation(predicted={self.predicted}, "
            f"boundaries={len(self.boundaries.bias)}, covered={len(self.covered)}, "
            f"purity={self.purity:.3f}, tau={self.tau}{nearest})"
        )

    def covers(
        self,
        images: Tensor | tuple[Tensor, ...],
        additional_forward_args: object = None,
    ) -> Tensor:
        """Whether images lie within the polytope.

        Args:
            images (Tensor or tuple[Tensor, ...]): Inputs of the model, B examples.
            additional_forward_args (Any, optional): As in Captum. Default: None

        Returns:
            Tensor: bool (B,).

        Cost: one forward pass to the layer.
        """
        values = self._values(images, additional_forward_args)
        if self.own_boundary:
            return torch.ones(len(values), dtype=torch.bool, device=values.device)
        chosen = self._chosen.to(values.device)
        sides = self._table.project(values)[:, chosen] >= 0
        return (sides == self.boundaries.side.to(values.device)).all(dim=1)

    def attribute(
        self,
        images: Tensor | tuple[Tensor, ...],
        additional_forward_args: object = None,
        relu_attributions: bool = False,
        attr_dim_summation: bool = True,
        *,
        paper: bool = False,
    ) -> Tensor:
        r"""Heat maps of images under this interpretation.

        With W of boundary h turned so that the explained image is on its positive
        side, and :math:`\bar\psi` the mean of :math:`|\psi|` over the references, the
        channel weights are :math:`\alpha_{hk} = \sum_{ij} W_{hkij} \bar\psi_{kij} /
        \sum_{ij} \bar\psi_{kij}`: positions count as they are active, and channel k
        contributes what it does to the boundary. The map is
        :math:`\sum_k ((1 - \lambda) a_k + \lambda \, \mathrm{mean}_h \alpha_{hk})
        \psi_k`, with :math:`\lambda` the :attr:`representativeness` and :math:`a_k`
        Grad-CAM's weights at the explained image: a polytope that holds nothing of its
        class explains as Grad-CAM, one that holds forty of it by its boundaries alone.

        Args:
            images (Tensor or tuple[Tensor, ...]): Inputs of the model, B examples.
                Whether the interpretation covers them is not asked here.
            additional_forward_args (Any, optional): As in Captum. Default: None
            relu_attributions (bool, optional): Only evidence for the class: the mean
                is of :math:`\max(0, \alpha_{hk})`, but for feature maps that are
                negative somewhere, as before an activation; :math:`a_k` stays as it is,
                and the map is cut off below zero. Default: False
            attr_dim_summation (bool, optional): Whether channels are summed.
                Default: True
            paper (bool, optional): The paper's channel weights, plain means of W over
                positions. With ``relu_attributions`` each boundary's map is cut off
                below zero and scaled to a largest value of 1 before the mean over h.
                Nothing but boundaries counts. Default: False

        Returns:
            *Tensor* of **attributions**, (B, 1, h, w), or (B, K, h, w) without the
            sum, as :class:`captum.attr.LayerGradCam` returns them.

        Cost: one forward pass to the layer, no backward pass.
        """
        values = self._view.channels(self._values(images, additional_forward_args))
        activity = None if paper else self._table.activity
        alpha = self._view.channel_weights(self.boundaries.weight, activity)
        side = self.boundaries.side.to(values.device)
        orientation = (2 * side.int() - 1).expand(len(values), -1)
        return heat_maps(
            values,
            alpha.to(values.device),
            orientation,
            None if paper else self._own(len(values)),
            relu_attributions=relu_attributions,
            attr_dim_summation=attr_dim_summation,
            paper=paper,
        )

    def _own(self, n_examples: int) -> OwnEvidence | None:
        """The evidence beside the boundaries, the same for each image."""
        if self._own_alpha is None:
            return None
        share = self._own_alpha.new_full((n_examples,), self.representativeness)
        return OwnEvidence(self._own_alpha.expand(n_examples, -1), share)

    def similar(self, k: int = 10) -> SimilarReferences:
        r"""The covered references most similar to the explained image.

        The distance of :math:`x'` is
        :math:`\sum_h |\langle W_h, \psi(x) \rangle - \langle W_h, \psi(x') \rangle|`
        over the boundaries of the polytope; over all sampled boundaries if it has none.

        Args:
            k (int, optional): How many; fewer if fewer are covered. Default: 10

        Returns:
            SimilarReferences: Indices and distances.

        Raises:
            ValueError: If ``k`` is below 1.
        """
        if not is_whole(k) or k < 1:
            raise ValueError(f"expected a whole k of at least 1 (got {k})")
        differences = self._table.projections[self.covered] - self._projections
        if not self.own_boundary:
            differences = differences[:, self._chosen]
        distances, order = differences.abs().sum(dim=1).sort(stable=True)
        return SimilarReferences(self.covered[order[:k]], distances[:k])

    def nearest_classes(self, k: int = 5) -> NearestClasses:
        """The classes of references that the model takes the explained image for most.

        Where no reference is predicted as the image's own class, they say which of the
        classes at hand come next, so which others its polytope lies among.

        Args:
            k (int, optional): How many; fewer if references are predicted as fewer.
                Default: 5

        Returns:
            NearestClasses: Classes, scores of the image, and numbers of references; the
            first is the image's own class if any reference is predicted so.

        Raises:
            ValueError: If ``k`` is below 1, or the interpretation is a bank's: then it
                is of a reference, whose class is among them.
        """
        if not is_whole(k) or k < 1:
            raise ValueError(f"expected a whole k of at least 1 (got {k})")
        if self._scores is None:
            raise ValueError(
                "expected an interpretation of an image (got a bank's, of a reference);"
                " make it by RepresentativeInterpretation.interpret"
            )
        classes, counts = self._table.classes.unique(return_counts=True)
        order = self._scores[classes].argsort(descending=True, stable=True)[:k]
        classes = classes[order]
        return NearestClasses(classes, self._scores[classes], counts[order])

    def _is_missing(self) -> bool:
        """Whether no reference is predicted as the class."""
        return not bool((self._table.classes == self.predicted).any())

    def plot(
        self,
        k: int = 4,
        *,
        references: object = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
    ) -> Figure:
        """The image, the most similar covered references, and their heat maps.

        Where no reference is predicted as the image's class, the heading names the
        nearest of the classes that some are.

        Args:
            k (int, optional): How many references. Default: 4
            references (optional): What ``fit`` was given; needed only after
                ``load_state_dict``. Default: None
            mean (list of float, optional): Means the inputs were normalised with, one
                per channel. Default: None, every image is scaled to its own range
            std (list of float, optional): Standard deviations of that normalisation.
                Default: None

        Returns:
            Figure: Two rows: images above, heat maps over them below.

        Raises:
            ValueError: If the references or the inputs cannot be drawn.
        """
        from captum_margin.attr.representative.plot import plot_heat_maps

        source = self._references if references is None else References(references)  # type: ignore[arg-type]
        if source is None:
            raise ValueError(
                "expected references to draw (got none; a loaded state holds no "
                "images); pass plot(references=...)"
            )
        image = self._image
        if image is None:
            assert self._reference is not None
            (image,) = source.take([self._reference])[:1]
        similar = self._others_like_it(k)
        images = image
        if image.dim() == 4 and len(similar.indices):
            taken = source.take(similar.indices.tolist())[0]
            images = torch.cat([image, *to_device((taken,), image.device)])
        maps = self.attribute(images, relu_attributions=True)
        titles = [f"explained: class {self.predicted}"]
        for index, distance in zip(*(v.tolist() for v in similar), strict=True):
            titles.append(f"reference {index}\ndistance {distance:.3g}")
        n_boundaries = len(self.boundaries.bias)
        heading = (
            f"{len(self.covered)} references covered, "
            f"{self.purity:.0%} predicted alike, "
            f"{n_boundaries} {'boundary' if n_boundaries == 1 else 'boundaries'}"
        )
        if self._is_missing() and self._scores is not None:
            nearest = ", ".join(map(str, self.nearest_classes(3).classes.tolist()))
            heading += f"\nno reference of the class; nearest classes: {nearest}"
        return plot_heat_maps(images, maps, titles, heading, mean, std)

    def _others_like_it(self, k: int) -> SimilarReferences:
        """The most similar covered references that are not the explained one."""
        if self._reference is None:
            return self.similar(k)
        similar = self.similar(k + 1)  # it is its own nearest
        others = similar.indices != self._reference
        return SimilarReferences(*(values[others][:k] for values in similar))

    def _values(
        self, images: Tensor | tuple[Tensor, ...], additional_forward_args: object
    ) -> Tensor:
        return self._view.values(
            format_inputs(images), additional_forward_args, self._table.executions
        )
