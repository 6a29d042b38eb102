"""Which samples carry a wrong label."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn
from typing_extensions import Unpack, override

from captum_margin.influence._classes import class_signal
from captum_margin.influence._knowledge import Knowledge, knowledge
from captum_margin.influence._probabilities import (
    as_probabilities,
    warn_of_learnt_labels,
)
from captum_margin.influence._published import Paper
from captum_margin.influence.base import Function
from captum_margin.influence.evidence import Evidence
from captum_margin.influence.new_samples import Extended, ScoresNewSamples
from captum_margin.influence.result import InfluenceResult
from captum_margin.influence.samples import ClassNames, Samples, as_labels
from captum_margin.influence.settings import Settings, SettingsOptions, as_points
from captum_margin.signal import Graph, HighPass
from captum_margin.signal._kernel_ridge import AllVotes, Fit
from captum_margin.signal._sparse_rows import as_sparse
from captum_margin.signal._votes import (
    ROUNDS,
    Combined,
    Voter,
    combined,
    neighbor_voter,
    trust_in,
)
from captum_margin.signal.protocol import Sided, influence

__all__ = ["LabelNoise", "LabelNoiseSettings"]

Self = TypeVar("Self", bound="LabelNoise")


@dataclass(frozen=True)
class LabelNoiseSettings(Settings):
    """The options of :class:`LabelNoise`: those of :class:`Settings` and two more.

    Args:
        trusted (bool): Whether contradicted labels are trusted less.
        regression (bool): Whether all samples vote too, by a regression on the
            features, and not only the neighbours; no effect from a graph alone.

    Neither has an effect with ``paper=True`` or a ``function`` of one's own.
    """

    trusted: bool = True
    regression: bool = True


class LabelNoiseOptions(SettingsOptions, total=False):
    """:class:`LabelNoiseSettings` as keywords; texts and defaults are there."""

    trusted: bool
    regression: bool


class LabelNoise(ScoresNewSamples):
    r"""Scores samples by how much the others contradict their labels.

    f are the labels as one-hot rows (N, C). The others vote, and the score is the
    energy of what their vote does not explain:

    .. math:: I(i) = \| f(i) - (V T f)(i) \|^2, \qquad V = \sum_v w_v V_v, \qquad
        T_{jj} = \frac{2 (V T f)_{j y_j}}{(V T f)_{j y_j} + \max_c (V T f)_{jc}}

    The votes :math:`V_v`, each made without the sample's own label:

    - The neighbours': a graph filter :math:`A^p`, by default the symmetric shift over a
      graph of k = 30 neighbours by cosine, weighted by a narrow Gaussian. Where votes
      add up to more than one, at hubs that are near to more samples than they are, they
      are divided by their sum.
    - That of all samples: a ridge regression of f with a Gaussian kernel, each sample
      left out in turn, within [0, 1], with the penalty of the smallest left-out error;
      up to 20,000 samples learn, the others are predicted. ``regression=False`` leaves
      it out.
    - ``pred_probs``: the probabilities of a model of your own. Their part of the energy
      has two channels, the label and all else: :math:`2 (1 - p_{i y_i})^2`.

    The weights w are the mean of equal ones and of those that bring V f nearest to f.
    T: a label that is itself contradicted is trusted less. The votes are taken three
    times, first with T = 1, then with what the time before says of T. That keeps wrong
    labels apart when they are many or all of one kind, and costs a little where they
    are few and classes overlap.

    A sample that nearly all others outvote with one voice scores about 2, an undisputed
    one near 0, one that they cannot place near 1. The :meth:`result` says how well the
    votes name labels, :attr:`InfluenceResult.knowledge`, and calls labels wrong only of
    classes that they know, and no more than there probably are.

    ``paper=True`` is case study III of MARGIN (Anirudh et al.,
    https://arxiv.org/abs/1711.05407): f is the share of neighbours with another label
    (k = 20, Euclidean, unweighted), filtered once with the symmetric shift and squared.
    It throws away the sign, so that clean samples beside wrong ones rank high too.

    Args:
        model, train_dataset, ...: As in :class:`MarginInfluence`, and its
            ``from_features`` and ``from_graph``, where the options are named; they
            are those of :class:`LabelNoiseSettings`.
        pred_probs (array, optional): Class probabilities (N, C) of each sample by a
            model that has not learnt from it (out of fold), columns in the order of the
            sorted labels, or of ``class_names``; a DataFrame's columns may be named.
            Default: None.

    Raises:
        TypeError: As :class:`MarginInfluence`.
        ValueError: As :class:`MarginInfluence`, without labels, or if ``pred_probs``
            are no probabilities of these classes.

    Warns:
        UserWarning: If the votes know no class, if ``pred_probs`` seem to come from a
            model that had learnt the labels, or if there is one class only.

    Cost: that of the graph, see :class:`MarginInfluence`; the regression
    O(L M F + L M² + M³) for L learners, at most 20,000, and M = 2,048 landmarks (512
    beyond 100,000 samples), then O(N M (F + C)); O(E · C) for each filter. Memory
    O(N (F + k + C) + L M).

    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [0.0, 1.0], [0.1, 1.0],
    ...                   [0.2, 1.0]]).repeat(4, 1)
    >>> labels = ["a", "a", "a", "b", "b", "b"] * 4
    >>> labels[2] = "b"
    >>> noise = LabelNoise.from_features(x, labels, k=6)
    >>> noise.influence(k=1).indices.tolist()
    [[2]]
    >>> noise.result().predicted()[2].item(), noise.result().knowledge.n_wrong
    (0, 1)
    """

    settings: ClassVar[Settings] = LabelNoiseSettings(
        k=30, metric="cosine", bandwidth=0.5, shift="symmetric"
    )
    paper_settings: ClassVar[Settings] = LabelNoiseSettings(
        k=20, shift="symmetric", trusted=False, regression=False
    )
    _everybody: tuple[AllVotes, Fit, Tensor] | None = None
    issue: ClassVar[str | None] = "label"
    bound: ClassVar[float] = 2.0
    needs_labels: ClassVar[bool] = True

    def __init__(
        self,
        model: nn.Module,
        train_dataset: Any,
        layer: nn.Module | str | None = None,
        *,
        pred_probs: Any = None,
        batch_size: int = 32,
        pooling: Literal["mean", "flatten"] = "mean",
        class_names: ClassNames | None = None,
        function: Function | None = None,
        paper: bool | Paper = False,
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
        self._take_probabilities(pred_probs)

    @classmethod
    @override
    def from_features(
        cls: type[Self],
        features: Any,
        labels: Any = None,
        *,
        pred_probs: Any = None,
        class_names: ClassNames | None = None,
        images: Any = None,
        function: Function | None = None,
        paper: bool | Paper = False,
        **options: Unpack[LabelNoiseOptions],
    ) -> Self:
        """Starts from features instead of a model and its data.

        Args:
            features: As in :meth:`MarginInfluence.from_features`.
            labels: As in :meth:`MarginInfluence.from_features`.
            pred_probs (array, optional): As in the class. Default: None.
            class_names: As in :class:`MarginInfluence`.
            images: As in :meth:`MarginInfluence.from_features`.
            function: As in :class:`MarginInfluence`.
            paper: As in :class:`MarginInfluence`.
            **options: As in the class.

        Raises:
            TypeError: As :meth:`MarginInfluence.from_features`.
            ValueError: As :meth:`MarginInfluence.from_features`, or with ``pred_probs``
                beside ``paper=True`` or ``function``.
        """
        self = cls._of_features(
            features, labels, class_names, images, function, paper, options
        )
        self._take_probabilities(pred_probs)
        return self

    @classmethod
    @override
    def from_graph(
        cls: type[Self],
        graph: Any,
        labels: Any = None,
        *,
        pred_probs: Any = None,
        class_names: ClassNames | None = None,
        images: Any = None,
        function: Function | None = None,
        paper: bool | Paper = False,
        **options: Unpack[LabelNoiseOptions],
    ) -> Self:
        """Starts from a neighbour graph instead of making one.

        Args:
            graph: As in :meth:`MarginInfluence.from_graph`.
            labels: As in :meth:`MarginInfluence.from_graph`.
            pred_probs (array, optional): As in the class. Default: None.
            class_names: As in :class:`MarginInfluence`.
            images: As in :meth:`MarginInfluence.from_graph`.
            function: As in :class:`MarginInfluence`.
            paper: As in :class:`MarginInfluence`.
            **options: As in the class.

        Raises:
            TypeError: As :meth:`MarginInfluence.from_graph`.
            ValueError: As :meth:`MarginInfluence.from_graph`, or with ``pred_probs``
                beside ``paper=True`` or ``function``.
        """
        self = cls._of_graph(
            graph, labels, class_names, images, function, paper, options
        )
        self._take_probabilities(pred_probs)
        return self

    @classmethod
    def from_probabilities(
        cls: type[Self],
        pred_probs: Any,
        labels: Any,
        *,
        class_names: ClassNames | None = None,
        images: Any = None,
    ) -> Self:
        """Starts from class probabilities alone, as cleanlab does.

        Without features there are no neighbours: the graph of the result has no edges,
        and the probabilities are the only vote.

        Args:
            pred_probs (array): As in the class.
            labels: As in :meth:`from_features`.
            class_names (optional): As in the class. Default: None.
            images (optional): As in :meth:`InfluenceResult.plot`. Default: None.

        Raises:
            TypeError: As :meth:`from_features`.
            ValueError: As :meth:`from_features`, or if ``pred_probs`` are no
                probabilities of these classes.

        Cost: O(N · C) time and memory, and O(C³) for the order of the columns.

        >>> probabilities = [[0.9, 0.1], [0.8, 0.2], [0.1, 0.9]] * 8
        >>> labels = ["a", "a", "b"] * 8
        >>> labels[4] = "b"
        >>> noise = LabelNoise.from_probabilities(probabilities, labels)
        >>> noise.result().top(1).tolist()
        [4]
        """
        codes, classes = as_labels(labels, len(labels), class_names)
        no_edges = torch.empty(2, 0, dtype=torch.long, device=codes.device)
        graph = Graph(no_edges, None, len(codes))
        samples = Samples(graph=graph, labels=codes, classes=classes)
        self = cls._of_samples(samples, class_names, images, None, False, {})
        if pred_probs is None:
            raise ValueError("expected pred_probs of shape (N, C) (got None)")
        self._take_probabilities(pred_probs)
        return self

    @override
    def result(
        self, inputs: Any = None, *, show_progress: bool = False
    ) -> InfluenceResult:
        """Scores with the graph, the votes and what these know of the labels.

        Args:
            inputs (optional): As in :meth:`MarginInfluence.result`. Default: None.
            show_progress (bool, optional): As there. Default: False.

        Returns:
            InfluenceResult: With its ``knowledge``.

        Raises:
            TypeError: As :meth:`MarginInfluence.result`.
            ValueError: As there, or if ``inputs`` are given after ``pred_probs``, which
                are of other samples.
        """
        if inputs is not None and self._pred_probs is not None:
            raise ValueError(
                "expected inputs=None with pred_probs, which are of other samples; "
                "start anew with theirs"
            )
        return super().result(inputs, show_progress=show_progress)

    def evidence(self, i: int, *, other: int | None = None) -> Evidence:
        """What in features speaks for another class than that of sample i.

        By the vote of all samples but this one, their labels trusted as the votes say.
        Of images, whose features are the mean of a network's last maps, its
        :meth:`Evidence.positions` are a heat map of where the image speaks for the
        other class.

        Args:
            i (int): A sample.
            other (int, optional): Number of the other class. Default: None, the one
                with the most votes.

        Returns:
            Evidence: A function of features.

        Raises:
            IndexError: If there is no sample i.
            ValueError: Without features that are dense, with ``regression=False``,
                ``paper=True`` or ``function=``, or with one class.

        Cost: the first time that of the regression, as in the class, whose memory is
        kept; then O(M R) for M landmarks.

        >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.2], [0.0, 1.0], [0.2, 1.0]])
        >>> noise = LabelNoise.from_features(x.repeat(4, 1), [0, 0, 1, 1] * 4, k=6)
        >>> evidence = noise.evidence(0)
        >>> evidence.given, evidence.other
        (0, 1)
        >>> (evidence(x) > 0).tolist()
        [False, False, True, True]
        """
        result = self.result()
        features = None if self._samples is None else self._samples.features
        assert isinstance(self.used, LabelNoiseSettings)
        if (
            features is None
            or as_sparse(features) is not None
            or not self.used.regression
            or self._is_plain(result.function)
        ):
            raise ValueError(
                "expected dense features, two classes or more, and regression=True "
                "without paper=True or function= (got a question without the vote of "
                "all samples)"
            )
        i = range(len(features))[i]
        assert result.labels is not None  # needs_labels
        votes = result.function - result.filtered
        everybody, fit, f = self._learnt(features, result.function, votes)
        given = int(result.labels[i])
        if other is None:
            others = votes[i].clone()
            others[given] = -torch.inf
            other = int(others.argmax())
        elif not 0 <= other < votes.size(1) or other == given:
            raise ValueError(
                f"expected another class than {given}, below {votes.size(1)} (got "
                f"{other})"
            )
        return Evidence(given, other, everybody.without(fit, f, i), self.used)

    def _learnt(
        self, features: Tensor, f: Tensor, votes: Tensor
    ) -> tuple[AllVotes, Fit, Tensor]:
        """The vote of all samples on labels as far as they are trusted; made once."""
        if self._everybody is None:
            assert isinstance(self.used, LabelNoiseSettings)
            everybody = AllVotes(as_points(features, self.used))
            trusted = trust_in(f, votes) * f if self.used.trusted else f
            self._everybody = everybody, everybody.fit(trusted), trusted
        return self._everybody

    def _take_probabilities(self, pred_probs: Any) -> None:
        """Kept as they are until the labels are known."""
        if pred_probs is not None and (self.paper or self.function is not None):
            raise ValueError(
                "expected pred_probs=None with paper=True or function=, in which they "
                "have no part"
            )
        self._pred_probs = pred_probs
        self._votes: Combined | None = None
        self._everybody = None

    def _signal(self, graph: Graph, samples: Samples) -> Tensor:
        assert samples.labels is not None  # needs_labels
        return class_signal(samples.labels, graph, disagreement=bool(self.paper))

    @override
    def _high_pass(self, signal: Tensor, graph: Graph, samples: Samples) -> Tensor:
        if self._is_plain(signal):
            return super()._high_pass(signal, graph, samples)
        voters = self._voters(signal, graph, samples, None)
        self._votes = combined(signal, voters, self._rounds())
        filtered = signal - self._votes.mean
        if self.used.isolated == "zero":
            filtered[self._votes.first.sum(dim=1) == 0] = 0  # nobody contradicts them
        return filtered

    @override
    def _answer(self, samples: Samples) -> InfluenceResult:
        result = super()._answer(samples)
        votes, self._votes = self._votes, None
        if votes is None or result.labels is None:
            return result
        scores = result.scores
        if self._pred_probs is not None:
            scores = _with_probabilities(result.function, votes, self.used.sided)
        known = knowledge(result.labels, votes.first, votes.mean)
        if not bool(known.known.any()):
            _warn_of_no_knowledge(known)
        return replace(result, scores=scores, knowledge=known)

    @override
    def _filter_new(self, signal: Tensor, extended: Extended) -> Tensor:
        if self._is_plain(signal):
            return super()._filter_new(signal, extended)
        if self._pred_probs is not None:
            raise ValueError(
                "expected a fit without pred_probs, which are not known of new samples "
                "(got some); fit all samples together"
            )
        count = len(extended.fitted)
        samples = Samples(features=extended.fitted)
        voters = self._voters(signal, extended.graph, samples, extended.new)
        votes = combined(signal[:count], voters, self._rounds()).mean
        return (signal - votes)[count:]

    def _is_plain(self, signal: Tensor) -> bool:
        """Whether f is only filtered: the paper's form, one's own, or one class."""
        one_class = signal.dim() == 1
        return bool(self.paper) or self.function is not None or one_class

    def _rounds(self) -> int:
        assert isinstance(self.used, LabelNoiseSettings)
        return ROUNDS if self.used.trusted else 1

    def _voters(
        self, signal: Tensor, graph: Graph, samples: Samples, new: Tensor | None
    ) -> list[Voter]:
        """Neighbours, all samples, and the probabilities: those that there are."""
        used, features = self.used, samples.features
        assert isinstance(used, LabelNoiseSettings)
        voters: list[Voter] = []
        n = graph.num_nodes - (0 if new is None else len(new))
        if features is not None or graph.edge_index.numel():
            layer = HighPass(used.shift, used.hops, isolated="keep")
            voters.append(neighbor_voter(layer, graph, n))
        if used.regression and features is not None:
            everybody = AllVotes(as_points(features, used))
            others = None if new is None else as_points(new, used)
            voters.append(lambda f: everybody(f, others).clamp(0, 1))
        if self._pred_probs is not None:
            assert samples.labels is not None  # needs_labels
            given = as_probabilities(self._pred_probs, samples.labels, samples.classes)
            warn_of_learnt_labels(given, samples.labels)
            voters.append(lambda _: given)
        return voters


def _with_probabilities(f: Tensor, votes: Combined, sided: Sided) -> Tensor:
    """The energy, where the last voter are probabilities; (N,).

    Of them there are two channels: the given class, and all others as one. How a model
    shares out what it does not give to the label says little.
    """
    own = (votes.each[-1] * f).sum(dim=1)
    scores = votes.shares[-1] * 2 * (1 - own).square()
    if len(votes.shares) > 1:
        rest = votes.shares[:-1].sum(dim=0)
        others = (votes.shares[:-1, :, None] * votes.each[:-1]).sum(dim=0)
        others = others / rest.where(rest > 0, 1)[:, None]
        scores = scores + rest * influence(f - others, sided)
    return scores


def _warn_of_no_knowledge(known: Knowledge) -> None:
    warnings.warn(
        f"nothing is known of the labels from these features: {known}. No label is "
        "called wrong, and the ranking means nothing; take other features",
        stacklevel=5,
    )
