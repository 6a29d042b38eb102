"""Which samples lie where the classes meet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn
from typing_extensions import Unpack, override

from captum_margin.influence._classes import class_signal
from captum_margin.influence._published import Paper
from captum_margin.influence.base import Function
from captum_margin.influence.new_samples import ScoresNewSamples
from captum_margin.influence.samples import ClassNames, Samples
from captum_margin.influence.settings import Settings, SettingsOptions
from captum_margin.signal import Graph, HighPass
from captum_margin.signal._votes import neighbor_voter

__all__ = [
    "DecisionBoundary",
    "DecisionBoundaryOptions",
    "DecisionBoundarySettings",
]

Self = TypeVar("Self", bound="DecisionBoundary")


@dataclass(frozen=True)
class DecisionBoundarySettings(Settings):
    """The options of :class:`DecisionBoundary`: of :class:`Settings`, and one more.

    Args:
        label_source (str): Whose classes meet: ``"predicted"``, the largest of the
            model's scores (with one score per sample: whether it is above 0), or
            ``"given"``, those of the data. From features or a graph they are what was
            passed.
    """

    label_source: Literal["predicted", "given"] = "predicted"

    def __post_init__(self) -> None:
        """Checks the choice."""
        if self.label_source not in ("predicted", "given"):
            raise ValueError(
                "expected label_source 'predicted' or 'given' "
                f"(got {self.label_source!r})"
            )


class DecisionBoundaryOptions(SettingsOptions, total=False):
    """:class:`DecisionBoundarySettings` as keywords; texts and defaults are there."""

    label_source: Literal["predicted", "given"]


class DecisionBoundary(ScoresNewSamples):
    r"""Scores samples by how their neighbours in a latent space are of other classes.

    f are the model's decisions as one-hot rows (N, C), on the graph of the latents
    (the output of ``layer``). The score is the energy of what the neighbours' weighted
    vote A f does not explain, near 0 well inside a class, near 2 alone in another:

    .. math:: I(i) = \| f(i) - (A^p f)(i) \|^2

    With the default settings A is the symmetric shift over a graph of k = 30 neighbours
    by cosine with Gaussian weights, and votes that add up to more than one, at hubs
    that are near to more samples than they are, are divided by their sum.

    In the last hidden layer the decision is linear, and neighbours there mostly repeat
    it: the top is then near the boundary, as that of entropy is. Neighbours in an
    earlier layer contradict more of the mistakes.

    ``paper=True`` is case study IV of MARGIN (Anirudh et al.,
    https://arxiv.org/abs/1711.05407): f is the share of neighbours of another class
    (k = 30, Euclidean, unweighted), filtered with the symmetric shift and squared.

    Args:
        model, train_dataset, ...: As in :class:`MarginInfluence`, and its
            ``from_features`` and ``from_graph``, where the options are named; they
            are those of :class:`DecisionBoundarySettings`.

    Raises:
        TypeError: As :class:`MarginInfluence`.
        ValueError: As :class:`MarginInfluence`, or without labels.

    Cost: that of the graph, see :class:`MarginInfluence`; then O(E · C).

    >>> import torch
    >>> angle = torch.linspace(0, 1.5, 8)
    >>> x = torch.stack([angle.cos(), angle.sin()], dim=1)
    >>> boundary = DecisionBoundary.from_features(x, angle > 0.7, k=2)
    >>> boundary.influence(k=2).indices.sort().values.tolist()
    [[3, 4]]
    """

    settings: ClassVar[Settings] = DecisionBoundarySettings(
        k=30, metric="cosine", bandwidth=1.0, shift="symmetric"
    )
    paper_settings: ClassVar[Settings] = DecisionBoundarySettings(
        k=30, shift="symmetric"
    )
    issue: ClassVar[str | None] = "boundary"
    bound: ClassVar[float] = 2.0
    needs_labels: ClassVar[bool] = True

    def __init__(
        self,
        model: nn.Module,
        train_dataset: Any,
        layer: nn.Module | str | None = None,
        *,
        batch_size: int = 32,
        pooling: Literal["mean", "flatten"] = "mean",
        class_names: ClassNames | None = None,
        function: Function | None = None,
        paper: bool | Paper = False,
        **options: Unpack[DecisionBoundaryOptions],
    ) -> None:
        self._of_model(
            model,
            train_dataset,
            layer,
            batch_size,
            pooling,
            class_names,
            function,
            paper,
            options,
        )

    @classmethod
    @override
    def from_features(
        cls: type[Self],
        features: Any,
        labels: Any = None,
        *,
        class_names: ClassNames | None = None,
        images: Any = None,
        function: Function | None = None,
        paper: bool | Paper = False,
        **options: Unpack[DecisionBoundaryOptions],
    ) -> Self:
        return cls._of_features(
            features, labels, class_names, images, function, paper, options
        )

    @classmethod
    @override
    def from_graph(
        cls: type[Self],
        graph: Any,
        labels: Any = None,
        *,
        class_names: ClassNames | None = None,
        images: Any = None,
        function: Function | None = None,
        paper: bool | Paper = False,
        **options: Unpack[DecisionBoundaryOptions],
    ) -> Self:
        return cls._of_graph(
            graph, labels, class_names, images, function, paper, options
        )

    def _signal(self, graph: Graph, samples: Samples) -> Tensor:
        assert samples.labels is not None  # needs_labels
        return class_signal(samples.labels, graph, disagreement=bool(self.paper))

    @override
    def _high_pass(self, signal: Tensor, graph: Graph, samples: Samples) -> Tensor:
        if self.paper or self.function is not None or signal.dim() == 1:
            return super()._high_pass(signal, graph, samples)
        layer = HighPass(self.used.shift, self.used.hops, isolated=self.used.isolated)
        filtered = signal - neighbor_voter(layer, graph, graph.num_nodes)(signal)
        # Inside a class all is rounding, which must not decide the order there.
        rounding = 64 * torch.finfo(filtered.dtype).eps
        return filtered.where(filtered.abs() > rounding, 0)

    def _extract(self, show_progress: bool) -> Samples:
        samples = super()._extract(show_progress)
        assert isinstance(self.used, DecisionBoundarySettings)
        if self.used.label_source == "given":
            return samples
        assert samples.scores is not None  # there is a model
        scores = (
            samples.scores.flatten(1)
            if samples.scores.dim() > 1
            else (samples.scores[:, None])
        )
        single = scores.size(1) == 1
        decided = (scores[:, 0] > 0).long() if single else scores.argmax(dim=1)
        classes: tuple[Any, ...] = tuple(range(max(scores.size(1), 2)))
        names = self._class_names
        # The names of the data are those of the model only if there are as many.
        if names is not None and len(names) == len(classes):
            classes = tuple(names[c] for c in classes)
        return samples._replace(labels=decided, classes=classes)
