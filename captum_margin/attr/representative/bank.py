"""A few interpretations that together explain a whole data set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from captum_margin._model.captum import format_inputs, select_rows
from captum_margin._model.layer_view import LayerView, class_scores
from captum_margin.attr.representative.boundaries import BoundaryTable
from captum_margin.attr.representative.evidence import OwnEvidence
from captum_margin.attr.representative.heat_maps import heat_maps
from captum_margin.attr.representative.interpretation import Interpretation
from captum_margin.attr.representative.references import (
    References,
    ReferenceSource,
    to_device,
)

__all__ = ["Assignment", "Atlas", "BankReport", "Group", "InterpretationBank"]


class Assignment(NamedTuple):
    """Which interpretation explains an image: :meth:`InterpretationBank.assign`.

    Args:
        which (Tensor): Position in ``bank.interpretations``, int64 (B,).
        covered (Tensor): True if that interpretation covers the image, False if it is
            the nearest of those that do not, bool (B,).
    """

    which: Tensor
    covered: Tensor


class BankReport(NamedTuple):
    """How well :meth:`InterpretationBank.evaluate` finds unseen images covered.

    Args:
        n (int): Images.
        n_covered (int): Images covered by an interpretation.
        n_pure (int): Of these, images predicted as that interpretation's class.
        coverage (float): ``n_covered / n``.
        coverage_interval (tuple[float, float]): Its 95% confidence interval (Wilson).
        purity (float): ``n_pure / n_covered``; 0 if none is covered.
        purity_interval (tuple[float, float]): Its 95% confidence interval (Wilson);
            (0, 1) if none is covered.
    """

    n: int
    n_covered: int
    n_pure: int
    coverage: float
    coverage_interval: tuple[float, float]
    purity: float
    purity_interval: tuple[float, float]


class Group(NamedTuple):
    """The references that one interpretation covers, in an :class:`Atlas`.

    Args:
        which (int): Position in ``bank.interpretations``.
        predicted (int): Its class.
        n_covered (int): How many references it covers.
        purity (float): Share of these that are predicted alike.
    """

    which: int
    predicted: int
    n_covered: int
    purity: float


class Atlas(NamedTuple):
    """What a bank says of the references: :meth:`InterpretationBank.atlas`.

    Args:
        groups (list[Group]): One an interpretation, the largest first.
        uncovered (Tensor): References that no interpretation covers, ascending.
    """

    groups: list[Group]
    uncovered: Tensor


class InterpretationBank:
    """Interpretations around the centres of a data set, for images never seen.

    Made by :meth:`RepresentativeInterpretation.bank`. An image is explained by the
    first interpretation that covers it (which of several, the paper does not say), or
    else by that of the nearest centre, whose projections to all sampled boundaries
    differ least from the image's. In a bank made with ``paper=True`` the nearest centre
    is that of the k-means cluster whose mean feature map is nearest to the image's, as
    in section 6.4 of the paper.

    Attributes:
        interpretations (list[Interpretation]): The purest first, of those alike the
            one that covers most references.
        centers (Tensor): The reference in the middle of each, int64 (n,).
        means (Tensor or None): Of a bank made with ``paper=True``, the centre of each
            cluster, (n, *layer_shape).

    Examples::

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
        >>> bank = explainer.fit(references[::2], seed=0).bank(n_per_class=1)
        >>> len(bank), sorted(one.predicted for one in bank)
        (2, [0, 1])
        >>> bank.evaluate(references[1::2]).purity > 0.9
        True
    """

    def __init__(
        self,
        interpretations: list[Interpretation],
        centers: Tensor,
        view: LayerView,
        table: BoundaryTable,
        means: Tensor | None = None,
    ) -> None:
        """Brings together what :meth:`RepresentativeInterpretation.bank` has made.

        Args:
            interpretations (list[Interpretation]): In the order of the attribute.
            centers (Tensor): References in the middle of each, int64 (n,).
            view (LayerView): The model at the layer.
            table (BoundaryTable): All boundaries and where the references lie.
            means (Tensor, optional): See the attribute. Default: None
        """
        self.interpretations = interpretations
        self.centers = centers
        self.means = means
        self._view = view
        self._table = table
        # Own boundaries come after the sampled ones, for the heat maps only.
        n_sampled = len(table.bias)
        own = [one for one in interpretations if one.own_boundary]
        self._own = [one.boundaries.weight for one in own]
        n_columns = n_sampled + len(own)
        self._orientation = torch.zeros(
            len(interpretations), n_columns, dtype=torch.int8
        )
        n_own = 0
        for row, one in enumerate(interpretations):
            if one.own_boundary:
                chosen = torch.tensor([n_sampled + n_own])
                n_own += 1
            else:
                chosen = one._chosen
            side = one.boundaries.side.cpu().to(torch.int8)
            self._orientation[row, chosen] = 2 * side - 1

    def __len__(self) -> int:
        """How many interpretations there are."""
        return len(self.interpretations)

    def __getitem__(self, index: int) -> Interpretation:
        """One of the interpretations."""
        return self.interpretations[index]

    def __iter__(self) -> Iterator[Interpretation]:
        """All of the interpretations."""
        return iter(self.interpretations)

    def assign(
        self,
        images: Tensor | tuple[Tensor, ...],
        target: int | Tensor | None = None,
        additional_forward_args: object = None,
    ) -> Assignment:
        """Which interpretation explains each image, and whether it covers it.

        Args:
            images (Tensor or tuple[Tensor, ...]): Inputs of the model, B examples.
            target (int or Tensor, optional): Classes that the images are explained
                for, one for all or (B,): only interpretations of these are asked.
                Default: None, all are
            additional_forward_args (Any, optional): As in Captum. Default: None

        Returns:
            Assignment: For each image which, and whether it covers the image.

        Raises:
            ValueError: If no interpretation is of the target's class.

        Cost: one forward pass to the layer.
        """
        values = self._values(images, additional_forward_args)
        return self._assign(values, target)

    def attribute(
        self,
        images: Tensor | tuple[Tensor, ...],
        target: int | Tensor | None = None,
        additional_forward_args: object = None,
        relu_attributions: bool = False,
        attr_dim_summation: bool = True,
        *,
        paper: bool = False,
    ) -> Tensor:
        """Heat maps of images, each under the interpretation that :meth:`assign` says.

        Args:
            images (Tensor or tuple[Tensor, ...]): Inputs of the model, B examples.
            target (int or Tensor, optional): As in :meth:`assign`. Default: None
            additional_forward_args (Any, optional): As in Captum. Default: None
            relu_attributions (bool, optional): As in
                :meth:`Interpretation.attribute`. Default: False
            attr_dim_summation (bool, optional): As there. Default: True
            paper (bool, optional): As there. Default: False

        Returns:
            *Tensor* of **attributions**, (B, 1, h, w), or (B, K, h, w) without the sum.

        Raises:
            ValueError: If no interpretation is of the target's class.

        Cost: one forward pass to the layer, no backward pass.
        """
        values = self._values(images, additional_forward_args)
        which = self._assign(values, target).which
        alpha = self._table.channel_weights(self._view, self._own, paper)
        return heat_maps(
            self._view.channels(values),
            alpha.to(values.device),
            self._orientation.to(values.device)[which],
            None if paper else self._evidence(alpha, which),
            relu_attributions=relu_attributions,
            attr_dim_summation=attr_dim_summation,
            paper=paper,
        )

    def evaluate(
        self,
        images: ReferenceSource,
        additional_forward_args: object = None,
        *,
        batch_size: int = 32,
    ) -> BankReport:
        """Coverage and purity on held-out images.

        Args:
            images (Tensor, tuple[Tensor, ...], Dataset or DataLoader): As ``fit``'s
                references; labels are not used.
            additional_forward_args (Any, optional): As ``fit``'s. Default: None
            batch_size (int, optional): Images in a forward pass. Default: 32

        Returns:
            BankReport: Counts, shares and 95% confidence intervals.

        Raises:
            TypeError: If the images are no tensors.
            ValueError: If there are none, or a loader shuffles them.

        Cost: one forward pass of each image.
        """
        source = References(images, batch_size)
        device = self._view.device()
        classes = torch.tensor([one.predicted for one in self.interpretations])
        n_seen = n_covered = n_pure = 0
        for batch in source.batches():
            inputs = format_inputs(to_device(batch, device))
            rows = torch.arange(n_seen, n_seen + len(inputs[0]))
            n_seen += len(rows)
            _, args = select_rows(None, additional_forward_args, rows, len(source))
            values, output = self._view.values_and_output(inputs, args)
            which, covered = self._assign(values)
            alike = class_scores(output).argmax(dim=1).cpu() == classes[which.cpu()]
            n_covered += int(covered.sum())
            n_pure += int((covered.cpu() & alike).sum())
        n = len(source)
        return BankReport(
            n=n,
            n_covered=n_covered,
            n_pure=n_pure,
            coverage=n_covered / n,
            coverage_interval=_wilson(n_covered, n),
            purity=n_pure / max(1, n_covered),
            purity_interval=_wilson(n_pure, n_covered),
        )

    def atlas(self) -> Atlas:
        """The groups that the interpretations make of the references.

        Returns:
            Atlas: Groups, the largest first, and the references left over.
        """
        groups = [
            Group(index, one.predicted, len(one.covered), one.purity)
            for index, one in enumerate(self.interpretations)
        ]
        groups.sort(key=lambda group: -group.n_covered)
        alone = torch.ones(len(self._table.classes), dtype=torch.bool)
        for one in self.interpretations:
            alone[one.covered] = False
        return Atlas(groups, alone.nonzero()[:, 0])

    def _evidence(self, like: Tensor, which: Tensor) -> OwnEvidence | None:
        """What some interpretations have beside boundaries, for each of B images."""
        alphas = [one._own_alpha for one in self.interpretations]
        if all(alpha is None for alpha in alphas):
            return None
        nothing = like.new_zeros(like.shape[1])
        stacked = torch.stack([nothing if a is None else a.to(like) for a in alphas])
        share = torch.tensor(
            [
                1.0 if a is None else one.representativeness
                for one, a in zip(self.interpretations, alphas, strict=True)
            ],
            dtype=like.dtype,
        )
        return OwnEvidence(
            stacked.to(which.device)[which], share.to(which.device)[which]
        )

    def _values(
        self, images: Tensor | tuple[Tensor, ...], additional_forward_args: object
    ) -> Tensor:
        return self._view.values(
            format_inputs(images), additional_forward_args, self._table.executions
        )

    def _assign(self, values: Tensor, target: int | Tensor | None = None) -> Assignment:
        projections = self._table.project(values)  # (B, Q)
        orientation = self._orientation[:, : projections.shape[1]].to(values.device)
        sides = torch.where(projections >= 0, 1, -1).to(torch.int8)
        # (B, n): how many boundaries the image is on the wrong side of
        wrong = (sides[:, None] * orientation < 0).sum(dim=2)
        covers = wrong == 0
        if self.means is None:
            centres = self._table.projections[self.centers].to(projections)
            distances = torch.cdist(projections, centres, p=1)
        else:
            means = self.means.to(values.device).flatten(1)
            # Without products, whose rounding would grow with the norms.
            distances = torch.cdist(
                values.flatten(1).to(means),
                means,
                compute_mode="donot_use_mm_for_euclid_dist",
            )
        if target is not None:
            other = ~self._of_class(target, values)
            covers = covers & ~other
            distances = distances.masked_fill(other, torch.inf)
        covered = covers.any(dim=1)
        first = covers.int().argmax(dim=1)  # the first of those that are alike
        return Assignment(torch.where(covered, first, distances.argmin(dim=1)), covered)

    def _of_class(self, target: int | Tensor, values: Tensor) -> Tensor:
        """Whether each interpretation is of each example's class, bool (B, n)."""
        predicted = torch.tensor([one.predicted for one in self.interpretations])
        wanted = torch.as_tensor(target).cpu()
        if tuple(wanted.shape) not in ((), (1,), (len(values),)):
            raise ValueError(
                f"expected one target, or one of each of the {len(values)} images (got "
                f"{tuple(wanted.shape)})"
            )
        wanted = wanted.expand(len(values))
        of_class = wanted[:, None] == predicted
        if not of_class.any(dim=1).all():
            missing = sorted(set(wanted.tolist()) - set(predicted.tolist()))
            raise ValueError(
                f"expected targets among the classes of the bank (got {missing}); give "
                "references that the model predicts so, or no target"
            )
        return of_class.to(values.device)


def _wilson(successes: int, trials: int) -> tuple[float, float]:
    from scipy.stats import binomtest

    if trials == 0:
        return 0.0, 1.0
    interval = binomtest(successes, trials).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)
