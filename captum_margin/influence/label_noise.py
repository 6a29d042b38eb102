"""Which samples carry a wrong label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn
from typing_extensions import Unpack, override

from captum_margin.influence._classes import class_signal
from captum_margin.influence.base import Function
from captum_margin.influence.new_samples import Extended, ScoresNewSamples
from captum_margin.influence.samples import ClassNames, Samples
from captum_margin.influence.settings import Settings, SettingsOptions, as_points
from captum_margin.signal import Graph
from captum_margin.signal._linear import LinearVotes

__all__ = ["LabelNoise", "LabelNoiseOptions", "LabelNoiseSettings"]

Self = TypeVar("Self", bound="LabelNoise")


@dataclass(frozen=True)
class LabelNoiseSettings(Settings):
    """The options of :class:`LabelNoise`: those of :class:`Settings` and one more.

    Args:
        trusted (bool): Whether contradicted labels are trusted less.
        linear (bool): Whether all samples vote too, by a linear regression of the
            features, and not only the neighbours; no effect from a graph alone.

    Neither has an effect with ``paper=True`` or a ``function`` of one's own.
    """

    trusted: bool = True
    linear: bool = True


class LabelNoiseOptions(SettingsOptions, total=False):
    """:class:`LabelNoiseSettings` as keywords; texts and defaults are there."""

    trusted: bool
    linear: bool


class LabelNoise(ScoresNewSamples):
    r"""Scores samples by how much the others contradict their labels.

    f are the labels as one-hot rows (N, C). The others vote, V f, and the score is the
    energy of what their vote does not explain:

    .. math:: I(i) = \| f(i) - (V T f)(i) \|^2, \qquad V = s A^p + (1 - s) L, \qquad
        T_{jj} = \frac{(V f)_{j y_j}}{\max_c (V f)_{jc}}

    - A: the vote of the neighbours. With the default settings the symmetric shift over
      a graph of k = 30 neighbours by cosine, weighted by a narrow Gaussian.
    - L: the vote of all samples. A ridge regression of f on the features (unit rows, as
      for the cosine) predicts each sample from all others, within [0, 1], with the
      penalty of the smallest leave-one-out error. It knows which directions tell the
      classes apart, and neighbours do not. ``linear=False`` leaves it out.
    - s in [0, 1]: the share that brings V f nearest to f. Pixels of digits leave the
      vote to the neighbours (s from 0.8 to 1), deep features share it (about 0.5).
    - T: a label that is itself contradicted is trusted less. The filter runs twice,
      first to find T, then with it. That keeps wrong labels apart when they are many or
      all of one kind, and costs a little where they are few and classes overlap.

    A sample that nearly all others outvote with one voice scores about 2 (more where it
    is near to more samples than they are), an undisputed one near 0, one that they
    cannot place near 1.

    The defaults were chosen with planted flips on USPS, MNIST (pixels) and features of
    CIFAR-10 images that serve nothing else. Average precision on the three, against
    that of the same filter without L and T: 0.99, 0.99, 0.82 (0.99, 0.99, 0.77) with
    10% symmetric flips, 1.00, 1.00, 0.95 (1.00, 0.99, 0.91) with 40%, 0.99, 0.98, 0.84
    (0.95, 0.92, 0.64) with 30% pairwise ones.
    ``paper=True`` is case study III of MARGIN (Anirudh et al.,
    https://arxiv.org/abs/1711.05407): f is the share of neighbours with another label
    (k = 20, Euclidean, unweighted), filtered once with the symmetric shift and squared.
    It throws away the sign, so that clean samples beside wrong ones rank high too.

    Args:
        model, train_dataset, ...: As in :class:`MarginInfluence`, and its
            ``from_features`` and ``from_graph``, where the options are named; they
            are those of :class:`LabelNoiseSettings`.

    Raises:
        TypeError: As :class:`MarginInfluence`.
        ValueError: As :class:`MarginInfluence`, or without labels.

    Cost: that of the graph, see :class:`MarginInfluence`; the linear vote O(N F² + F³)
    time, with more than 1,024 features of a random projection to 1,024; O(E · C) for
    the filter. Memory O(N (F + k + C)).

    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [0.0, 1.0], [0.1, 1.0],
    ...                   [0.2, 1.0]])
    >>> noise = LabelNoise.from_features(x, ["a", "a", "b", "b", "b", "b"], k=2)
    >>> noise.influence(k=1).indices.tolist()
    [[2]]
    >>> noise.result().explain(2)
    'sample 2 is labelled b; 2 of its 2 neighbours are a'
    """

    settings: ClassVar[Settings] = LabelNoiseSettings(
        k=30, metric="cosine", bandwidth=0.5, shift="symmetric"
    )
    paper_settings: ClassVar[Settings] = LabelNoiseSettings(
        k=20, shift="symmetric", trusted=False, linear=False
    )
    issue: ClassVar[str | None] = "label"
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
        paper: bool = False,
        **options: Unpack[LabelNoiseOptions],
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
        paper: bool = False,
        **options: Unpack[LabelNoiseOptions],
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
        paper: bool = False,
        **options: Unpack[LabelNoiseOptions],
    ) -> Self:
        return cls._of_graph(
            graph, labels, class_names, images, function, paper, options
        )

    def _signal(self, graph: Graph, samples: Samples) -> Tensor:
        assert samples.labels is not None  # needs_labels
        return class_signal(samples.labels, graph, disagreement=self.paper)

    def _high_pass(self, signal: Tensor, graph: Graph, samples: Samples) -> Tensor:
        if self._is_plain(signal):
            return super()._high_pass(signal, graph, samples)
        return signal - self._votes(signal, graph, samples.features, None)

    def _filter_new(self, signal: Tensor, extended: Extended) -> Tensor:
        if self._is_plain(signal):
            return super()._filter_new(signal, extended)
        graph, fitted, new = extended.graph, extended.fitted, extended.new
        votes = self._votes(signal, graph, fitted, new)
        return (signal - votes)[len(fitted) :]

    def _is_plain(self, signal: Tensor) -> bool:
        """Whether there are neither trust nor linear votes."""
        one_class = signal.dim() == 1
        return self.paper or self.function is not None or one_class

    def _votes(
        self,
        signal: Tensor,
        graph: Graph,
        features: Tensor | None,
        new: Tensor | None,
    ) -> Tensor:
        """V T f, (N, C), or (N + M, C) with new samples, who have no vote."""
        used = self.used
        assert isinstance(used, LabelNoiseSettings)
        linear = others = None
        if used.linear and features is not None:
            linear = LinearVotes(as_points(features, used))
            others = None if new is None else as_points(new, used)
        fitted = slice(None if new is None or features is None else len(features))
        trust, share = torch.ones_like(signal[:, :1]), None
        for _ in range(2 if used.trusted else 1):
            f = trust * signal
            votes = f - super()._high_pass(f, graph, Samples())
            if linear is not None:
                line = linear(f[fitted].to(linear.centre), others)
                line = line.clamp(0, 1).to(votes)
                if share is None:
                    share = _share(signal[fitted], votes[fitted], line[fitted])
                votes = share * votes + (1 - share) * line
            trust = _trust(signal, votes)
        return votes


def _share(f: Tensor, near: Tensor, line: Tensor) -> Tensor:
    """The share of the first in the mean of two votes that is nearest to f."""
    apart = near - line
    square = apart.square().sum()
    best = ((f - line) * apart).sum() / square.where(square > 0, 1)
    return best.clamp(0, 1).where(square > 0, 1)


def _trust(f: Tensor, votes: Tensor) -> Tensor:
    """Votes for the given class in those for the class with the most, (N, 1)."""
    own = (votes * f).sum(dim=1, keepdim=True).clamp(min=0)
    most = votes.amax(dim=1, keepdim=True)
    return torch.where(most > 0, own / most.where(most > 0, 1), 1)
