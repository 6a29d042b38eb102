"""What ``audit`` is asked about, wherever it comes from."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captum_margin.cli.audit.seen import SeenImages
from captum_margin.cli.output import CommandError, one_line
from captum_margin.influence.samples import as_labels

_BLOCK = 2**16

# Not 007, which is a name.
_NUMBER = re.compile(r"[+-]?(0|[1-9]\d*)?([.,]\d+)?([eE][+-]?\d+)?(?<=\d)\.?")

LABEL_NAMES = ("label", "labels")
"""What the labels are called, if the user does not say."""


@dataclass(frozen=True)
class Scaling:
    """Brings columns to mean 0 and variance 1.

    Attributes:
        mean (Tensor): Shape (F,), float64; of the samples that are not far off.
        spread (Tensor): Standard deviations, or 1 for columns that are constant.
    """

    mean: Tensor
    spread: Tensor

    def __call__(self, values: Tensor) -> Tensor:
        """Features (n, F) scaled, float32, a block at a time."""
        scaled = torch.empty(values.shape, dtype=torch.float32)
        for block, into in zip(values.split(_BLOCK), scaled.split(_BLOCK), strict=True):
            into.copy_((block.double() - self.mean) / self.spread)
        return scaled


@dataclass(frozen=True)
class AuditData:
    """Samples, and how to name and show them.

    Attributes:
        title (str): Name of the data.
        names (list[str]): Of the N samples.
        features (Tensor): Shape (N, F), finite.
        origin (str): What the features are, as the end of "samples alike in".
        labels (Tensor, optional): Class numbers (N,).
        classes (tuple[str, ...]): Their names.
        splits (list[str]): Of each sample the part of the data that it belongs to, such
            as "train"; empty if there are no parts.
        metric (str): What distances of the features mean something.
        scaling (Scaling, optional): What the features have been scaled by.
        picture (Callable, optional): From an index and the height and width that
            suffice to a PIL image.
        seen (SeenImages, optional): The images and the network of the features.
        unreadable (list[tuple[str, str]]): Names of what was left out, and why.
        notes (list[str]): What the user should know, a line each.
        record (dict): Where it comes from; plain values, fit for JSON.
    """

    title: str
    names: list[str]
    features: Tensor
    origin: str
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    splits: list[str] = field(default_factory=list)
    metric: Literal["cosine", "euclidean"] = "cosine"
    scaling: Scaling | None = None
    picture: Callable[[int, int], Any] | None = None
    seen: SeenImages | None = None
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def has_classes(self) -> bool:
        """Whether there are two classes or more, so that labels can be wrong."""
        return self.labels is not None and len(self.classes) > 1

    @cached_property
    def points(self) -> Tensor:
        """Shape (N, F): the features so that Euclidean distances are the metric's."""
        if self.metric == "euclidean":
            return self.features
        norms: Tensor = self.features.norm(dim=1, keepdim=True)
        points: Tensor = self.features / norms.where(norms > 0, 1)
        return points


def half_of_a_class(labels: Tensor, share: float = 0.5) -> int:
    """This share of the samples of the median sample's class, at least 1."""
    return max(1, int(share * int(labels.bincount()[labels].median())))


def as_classes(
    labels: Any, n: int | None = None
) -> tuple[Tensor | None, tuple[str, ...]]:
    """Class numbers (N,) and names; whole numbers in their order, not the alphabet's.

    Raises:
        CommandError: If there is not one label for each sample, or they are fractions.
    """
    if labels is None:
        return None, ()
    if isinstance(labels, list) and all(_is_whole(label) for label in labels):
        labels = [int(label) for label in labels]
    elif isinstance(labels, list) and all(map(_NUMBER.fullmatch, labels)):
        labels = [float(label.replace(",", ".")) for label in labels]
    try:
        codes, classes = as_labels(labels, len(labels) if n is None else n)
    except (TypeError, ValueError) as error:
        raise CommandError(one_line(error)) from None
    return codes, tuple(str(name) for name in classes)


def check_finite(values: NDArray[Any], where: Callable[[int, int], str]) -> None:
    """Raises unless all numbers (N, F) are finite.

    Raises:
        CommandError: If one is not; ``where`` says which, from row and column.
    """
    finite = np.isfinite(values)
    if not finite.all():
        row, column = (int(index) for index in np.argwhere(~finite)[0])
        raise CommandError(
            f"expected finite numbers (got {values[row, column]} in "
            f"{where(row, column)}); clean the data first"
        )


def _is_whole(label: str) -> bool:
    try:
        return str(int(label)) == label
    except ValueError:
        return False
