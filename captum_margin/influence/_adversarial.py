"""The options of the adversarial statistics, and classes as they compare them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from captum_margin.influence.samples import as_features, as_labels
from captum_margin.influence.settings import Settings, SettingsOptions

__all__ = [
    "AdversarialOptions",
    "AdversarialSettings",
    "as_graph_features",
    "decisions",
    "same_classes",
]


@dataclass(frozen=True, eq=False)
class AdversarialSettings(Settings):
    """The options of :class:`AdversarialStatistics`: of :class:`Settings`, and more.

    Args:
        statistic (str, optional): ``"mmd"``, or ``"kde"``, which needs references.
            Default: None, ``"kde"`` with references and ``"mmd"`` without.
        references (optional): ``"kde"`` only: training samples (M, F) in the same
            latent space, of any type that ``from_features`` takes; with a model also
            its training data, a Dataset or DataLoader, which is run through it.
        reference_classes (optional): Their classes (M,). From a data set: its labels.
        predicted (optional): The model's decisions (N,) for the samples. With a model:
            its own, the largest of its scores (with one score: whether it is above 0).
            Without both kinds of classes all references count.
        graph_features (optional): ``"kde"`` only: what the nearest references are found
            by, (N, G): what an attack moves little, such as the input or an early
            layer. With a model: that layer or its name. No effect with ``paper=True``.
            Default: None: all references of the class count.
        graph_references (optional): The same of the references, (M, G). With a model
            and references as data: from that layer too.
        gamma (float, optional): Of the kernel, as in
            :func:`~captum_margin.signal.leave_neighborhood_out_mmd` and
            :func:`~captum_margin.signal.kernel_density`.
        estimate (str): Of the MMD, ``"exact"``, or ``"features"`` for many samples.
        seed (int): Of random features.
    """

    statistic: Literal["mmd", "kde"] | None = None
    references: Any = field(default=None, repr=False)
    reference_classes: Any = field(default=None, repr=False)
    predicted: Any = field(default=None, repr=False)
    graph_features: Any = field(default=None, repr=False)
    graph_references: Any = field(default=None, repr=False)
    gamma: float | None = None
    estimate: Literal["exact", "features"] = "exact"
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the choice."""
        if self.statistic not in ("mmd", "kde", None):
            raise ValueError(
                f"expected statistic 'mmd' or 'kde' (got {self.statistic!r})"
            )
        if self.estimate not in ("exact", "features"):
            raise ValueError(
                f"expected estimate 'exact' or 'features' (got {self.estimate!r})"
            )
        if self.statistic == "kde" and self.references is None:
            raise ValueError(
                "statistic='kde' needs references=: training samples in the same "
                "latent space, or with a model its training data"
            )


class AdversarialOptions(SettingsOptions, total=False):
    """:class:`AdversarialSettings` as keywords; texts and defaults are there."""

    statistic: Literal["mmd", "kde"] | None
    references: Any
    reference_classes: Any
    predicted: Any
    graph_features: Any
    graph_references: Any
    gamma: float | None
    estimate: Literal["exact", "features"]
    seed: int


def decisions(scores: Tensor) -> Tensor:
    """The class of the largest score; of a single one, whether it is above 0."""
    scores = scores.flatten(1) if scores.dim() > 1 else scores[:, None]
    return (scores[:, 0] > 0).long() if scores.size(1) == 1 else scores.argmax(dim=1)


def same_classes(
    predicted: Any, references: Any, samples: int, count: int
) -> tuple[Tensor, Tensor]:
    """Both as numbers of the same classes, whatever they are called.

    Raises:
        ValueError: If there is not one for each, or they have no class in common.
    """
    own, names = as_labels(predicted, samples)
    other, reference_names = as_labels(references, count)
    number = {name: c for c, name in enumerate(names)}
    if not number.keys() & set(reference_names):
        raise ValueError(
            f"expected predicted classes {names} among those of the references (got "
            f"{reference_names})"
        )
    # Classes that are never predicted share a number that no sample has.
    table = torch.tensor([number.get(name, len(names)) for name in reference_names])
    return own, table[other]


def as_graph_features(
    given: Any, references: Any, n: int, m: int
) -> tuple[Tensor, Tensor]:
    """Checked features by which references are near, (N, G) and (M, G).

    Raises:
        ValueError: If a shape does not fit, or one is not finite.
    """
    pair = as_features(given).to_dense(), as_features(references).to_dense()
    for name, values, count in (
        ("graph_features", pair[0], n),
        ("graph_references", pair[1], m),
    ):
        if values.dim() != 2 or len(values) != count:
            raise ValueError(
                f"expected {name} of shape ({count}, G) "
                f"(got {tuple(values.shape)}); one row each"
            )
        if values.is_floating_point() and not bool(values.isfinite().all()):
            raise ValueError(f"expected finite {name} (got NaN or infinity)")
    if pair[0].size(1) != pair[1].size(1):
        raise ValueError(
            f"expected graph_references of shape (M, {pair[0].size(1)}) "
            f"(got {tuple(pair[1].shape)}); take both from the same layer"
        )
    return pair
