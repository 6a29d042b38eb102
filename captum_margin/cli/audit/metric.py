"""By what samples are alike: one rule for all kinds of data, and by evidence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from captum_margin._numbers import bounded_rows, check_span, not_far_off
from captum_margin.cli.audit.data import AuditData, Scaling, half_of_a_class
from captum_margin.cli.output import CommandError, one_line
from captum_margin.neighbors import find_neighbors

Metric = Literal["cosine", "euclidean"]

_ROWS = 2_000  # that are compared by each metric
_NEAR = 10  # neighbours whose labels are compared
_BLOCK = 2**16

_WORDS = {
    "cosine": "cosine of the features",
    "euclidean": "distance of the features, each scaled to variance 1",
}


@dataclass(frozen=True)
class Choice:
    """What samples are alike by, and why.

    Attributes:
        metric (str): That is used.
        asked (str): ``"auto"``, or the metric that was asked for.
        agreement (dict[str, float], optional): By metric the share of the nearest
            neighbours that have the sample's label; None where nothing was compared.
        rows (int): Samples compared.
        k (int): Neighbours of each.
        reason (str): Why nothing was compared, if a metric was not asked for.
    """

    metric: Metric
    asked: str
    agreement: dict[str, float] | None = None
    rows: int = 0
    k: int = 0
    reason: str = "without labels"

    def told(self) -> str:
        """In a line."""
        if self.agreement is None:
            why = "asked for" if self.asked != "auto" else self.reason
            return f"{_WORDS[self.metric]} ({why})"
        shares = {name: f"{share:.1%}" for name, share in self.agreement.items()}
        other = "euclidean" if self.metric == "cosine" else "cosine"
        return (
            f"{_WORDS[self.metric]}: {shares[self.metric]} of the neighbours have the "
            f"same label, by {other} {shares[other]}"
        )

    def record(self) -> dict[str, Any]:
        """Its parts, fit for JSON."""
        return {
            "used": self.metric,
            "asked": self.asked,
            "agreement": self.agreement,
            "rows": self.rows,
            "k": self.k,
        }


def measured(data: AuditData, asked: str) -> tuple[AuditData, Choice]:
    """The data with the metric that fits, and features in single precision to go by.

    There are two: the cosine of the features as they are, and the Euclidean distance of
    features that are each scaled to mean 0 and variance 1. ``"auto"`` compares the
    labels of at most 2,000 samples, drawn at random, with those of their ten nearest by
    either, and takes the distance where it is better by more than a standard error,
    else the cosine. Without labels there is nothing to compare, nor where digits do not
    tell directions apart, and it takes the distance, which suits columns of any kind.

    Args:
        data (AuditData): With features as they were read.
        asked (str): ``"auto"``, ``"cosine"`` or ``"euclidean"``.

    Raises:
        CommandError: If samples differ by less than their digits tell.

    Cost: O(N F), and two exact searches among the drawn.
    """
    scaling = _scaling(data.features)
    choice = _choice(data, scaling, asked)
    _check_digits(data.features, choice.metric)
    used: Scaling | None = None
    if choice.metric == "euclidean":
        used = scaling
        features = scaling(data.features)
    else:
        features = bounded_rows(data.features).float()
    data.record["metric"] = choice.record()
    return (
        replace(data, features=features, scaling=used, metric=choice.metric),
        choice,
    )


def _check_digits(features: Tensor, metric: Metric) -> None:
    """Raises where samples differ by less than the digits of their features tell."""
    if metric == "euclidean" and features.dtype == torch.float64:
        return  # each column is scaled, whatever numbers it holds
    try:
        check_span(features, metric)
    except ValueError as error:
        hint = "" if metric == "euclidean" else ", or use --metric euclidean"
        raise CommandError(one_line(error) + hint) from None


def _choice(data: AuditData, scaling: Scaling, asked: str) -> Choice:
    if asked != "auto":
        return Choice("cosine" if asked == "cosine" else "euclidean", asked)
    if data.labels is None or not data.has_classes:
        return Choice("euclidean", asked)
    n = len(data.names)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randperm(n, generator=generator)[:_ROWS].sort().values
    labels = data.labels[drawn]
    k = min(_NEAR, half_of_a_class(labels), len(drawn) - 1)
    raw = data.features[drawn]
    scaled = scaling(raw)
    # Directions need no more digits, but numbers beyond single precision have them.
    bounded = bounded_rows(raw.double())
    largest = bounded.abs().amax().clamp(min=1e-300)
    points: dict[Metric, Tensor] = {
        "cosine": (bounded / largest).float(),
        "euclidean": scaled,
    }
    try:
        check_span(points["cosine"], "cosine")
    except ValueError:
        reason = "for by cosine samples differ by less than their digits tell"
        return Choice("euclidean", asked, reason=reason)
    same = {}
    for metric, values in points.items():
        found = find_neighbors(values, k, metric=metric, backend="exact").indices
        same[metric] = (labels[found] == labels[:, None]).double().mean(dim=1)
    better = same["euclidean"] - same["cosine"]
    error = float(better.std(correction=0)) / len(drawn) ** 0.5
    return Choice(
        "euclidean" if float(better.mean()) > error else "cosine",
        asked,
        {metric: float(values.mean()) for metric, values in same.items()},
        len(drawn),
        k,
    )


def _scaling(features: Tensor) -> Scaling:
    """To mean 0 and variance 1 of each column; one that is constant stays at 0."""
    n = len(features)
    blocks = features.split(_BLOCK)
    # In units of the largest number, whose square would be beyond all numbers.
    unit = torch.stack([block.abs().amax(dim=0) for block in blocks]).amax(dim=0)
    unit = unit.double().where(unit > 0, 1)
    mean, square = torch.zeros_like(unit), torch.zeros_like(unit)
    for block in blocks:
        mean += (block.double() / unit).sum(dim=0) / n
    for block in blocks:
        square += (block.double() / unit - mean).square().sum(dim=0)
    spread = (square / n).sqrt() * unit
    mean = mean * unit
    near = not_far_off(features)
    if not bool(near.all()):
        mean = features[near].double().mean(dim=0)
    return Scaling(mean, spread.where(spread > 0, 1))
