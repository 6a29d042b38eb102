"""Which samples stand for a data set, and which none of these stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn
from typing_extensions import Unpack, override

from captum_margin.influence._published import Paper
from captum_margin.influence.base import Function
from captum_margin.influence.new_samples import Extended, ScoresNewSamples
from captum_margin.influence.samples import ClassNames, Samples
from captum_margin.influence.settings import Settings, SettingsOptions
from captum_margin.signal import (
    Graph,
    leave_neighborhood_out_mmd,
    select_prototypes,
    top,
)
from captum_margin.signal._mmd_new import new_samples_mmd
from captum_margin.signal.mmd import Estimate
from captum_margin.signal.prototypes import prototypes_of_low_influence

__all__ = ["Prototypes", "PrototypesOptions", "PrototypesSettings"]

Self = TypeVar("Self", bound="Prototypes")

# Of a class, left out as a neighbourhood: at k = 25, where k is not given, from 500 on.
_LEFT_OUT = 0.05


@dataclass(frozen=True)
class PrototypesSettings(Settings):
    """The options of :class:`Prototypes`: those of :class:`Settings`, and more.

    ``metric`` is that of the graph. The function and the cells of the prototypes use
    Euclidean distances of the features as they are: scale the rows to unit length
    first where directions are what counts.

    Args:
        estimate (str): Of the MMD, as in
            :func:`~captum_margin.signal.leave_neighborhood_out_mmd`: ``"exact"``,
            ``"features"`` for many samples, or ``"paper"``, which is a density.
        gamma (float, optional): Of its kernel, as there.
        local (bool): Whether each class is on its own, where there are labels.
        share (float): Of the samples that count as of low influence, with ``paper``
            only: a threshold that the paper does not tell, and no more are selected.
            On USPS smaller ones do better without labels, larger ones with labels and
            few prototypes.
        seed (int): Of random features, and of the choice of prototypes.
    """

    estimate: Estimate = "exact"
    gamma: float | None = None
    local: bool = True
    share: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the choice."""
        if self.estimate not in ("exact", "features", "paper"):
            raise ValueError(
                "expected estimate 'exact', 'features' or 'paper' "
                f"(got {self.estimate!r})"
            )
        if self.estimate == "paper" and self.sided == "above":
            raise ValueError(
                "expected sided='both' or 'below' with estimate='paper' (got 'above'); "
                "it is low where the MMD is high"
            )


class PrototypesOptions(SettingsOptions, total=False):
    """:class:`PrototypesSettings` as keywords; texts and defaults are there."""

    estimate: Estimate
    gamma: float | None
    local: bool
    share: float
    seed: int


class Prototypes(ScoresNewSamples):
    r"""Finds prototypes, which stand for the samples around them, and criticisms.

    Mind the direction: a **high** ``self_influence`` marks a *criticism*, a sample
    that nothing else stands for, **not** a prototype. Prototypes are no ranking of
    single samples (the most typical ones all look alike): :meth:`select` chooses them
    together.

    **Criticisms.** f(i) is how far the mean of all samples but i and its neighbours
    moves when i joins them, the leave-neighbourhood-out MMD; with labels, among the
    samples of the same class. The score is what f exceeds its neighbourhood by (A:
    the mean over the k = 25 nearest neighbours):

    .. math:: I(i) = \max(0, f(i) - (A^p f)(i))^2

    f is at most :math:`\sqrt 2 / (m + 1)`, m the samples (of the class) left without
    the neighbours, so scores are small numbers; their order counts. Where k is not far
    below the size of the classes m differs much from sample to sample, and f says more
    of m than of strangeness: unless k is given it is at most 5% of the median sample's
    class.

    Of new samples :meth:`score` tells how little the others stand for them.

    **Prototypes.** They start spread over the data (k-means, in every class with
    labels) and move along the edges of the graph as long as the samples lie closer to
    them or, with labels, closer to those of their own class than of another, see
    :func:`~captum_margin.signal.select_prototypes`. 1-NN error on USPS (7,291 training
    images, 5 seeds) with 110 / 410 / 960 of them as the training set: 10.8 / 8.5 / 7.5%
    with labels and 15.0 / 9.5 / 7.8% without; the best of the peers reach 12.6 / 8.8 /
    7.8% with labels and 18.3 / 11.1 / 8.2% without
    (``python -m tests.benchmarks.prototypes.bench``). Which prototype is nearest to new
    samples, and how far from them, is found by
    :func:`~captum_margin.neighbors.neighbors_among`.

    ``paper=True`` is case study I of MARGIN (Anirudh et al.,
    https://arxiv.org/abs/1711.05407): f is the paper's equation 2 as printed, a
    density, filtered and squared with its sign lost; prototypes are the highest f among
    the samples of lowest influence, see ``share``. They crowd into the densest region.

    Args:
        model, train_dataset, ...: As in :class:`MarginInfluence`, and its
            ``from_features``; labels are optional there. The options, named there, are
            those of :class:`PrototypesSettings`. ``from_graph`` knows no features: it
            needs a ``function`` and answers with criticisms only.

    Raises:
        TypeError: As :class:`MarginInfluence`.
        ValueError: As :class:`MarginInfluence`, from a graph without a function, or if
            an option is out of its range.

    Cost: the scores O(N² F) time, with ``estimate="features"`` O(N² F) for the graph
    alone; :meth:`select` the graph, O(N · n · F) and, for each of 5 rounds of moves,
    O(N · F · min(max(4 n, 1600), N)). Memory O(N (F + k)) for the
    scores, never N by N, and O(N (n + F)) for :meth:`select`. Nothing is done twice:
    graph and function are kept.

    >>> import torch
    >>> line = torch.arange(11.0)
    >>> x = torch.cat([line, line + 20, torch.tensor([60.0])])[:, None]
    >>> prototypes = Prototypes.from_features(x, k=2)
    >>> sorted(prototypes.select(3).tolist())
    [5, 16, 22]
    >>> prototypes.criticisms(1).tolist()
    [22]
    """

    settings: ClassVar[Settings] = PrototypesSettings(
        k=25, sided="above", isolated="keep"
    )
    paper_settings: ClassVar[Settings] = PrototypesSettings(
        k=25, shift="symmetric", estimate="paper", isolated="keep"
    )

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
        **options: Unpack[PrototypesOptions],
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
        **options: Unpack[PrototypesOptions],
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
        **options: Unpack[PrototypesOptions],
    ) -> Self:
        return cls._of_graph(
            graph, labels, class_names, images, function, paper, options
        )

    def select(
        self,
        n: int,
        *,
        rule: Literal["cells", "paper"] | None = None,
        show_progress: bool = False,
    ) -> Tensor:
        """The prototypes: n samples that stand for all.

        Args:
            n (int): How many, at least 0.
            rule (str, optional): As in
                :func:`~captum_margin.signal.select_prototypes`. Default: None,
                ``"cells"``, or ``"paper"`` if this was made with ``paper=True``.
            show_progress (bool, optional): A bar over the batches, where a model is
                still to be run. Default: False.

        Returns:
            Tensor: Indices of shape (min(n, N),), int64, without repetition, those
            that stand for the most samples first; under ``"paper"`` by rank, a
            ``share`` of N at most. The same for the same seed.

        Raises:
            ValueError: From a graph alone, or if ``n`` or ``rule`` is out of its range.
        """
        samples = self._ready(show_progress)
        if samples.features is None:
            raise ValueError(
                "expected features to select prototypes from (got a graph alone); "
                "start with from_features or a model"
            )
        used = self._used()
        labels = samples.labels if used.local else None
        if self.paper and self.function is None and rule != "cells":
            result = self.result()
            if labels is None:
                labels = torch.zeros_like(result.scores, dtype=torch.long)
            f, scores = result.function, result.scores
            return prototypes_of_low_influence(f, scores, labels, used.share)[:n]
        return select_prototypes(
            samples.features,
            self._neighbors(samples).edge_index,
            n,
            labels=labels,
            rule=rule or ("paper" if self.paper else "cells"),
            gamma=used.gamma,
            share=used.share,
            seed=used.seed,
        )

    def criticisms(self, n: int, *, show_progress: bool = False) -> Tensor:
        """The criticisms: the n samples of the highest scores.

        Args:
            n (int): How many, at least 0.
            show_progress (bool, optional): As in :meth:`select`. Default: False.

        Returns:
            Tensor: Indices of shape (min(n, N),), int64, the most critical first, ties
            by index.

        Raises:
            ValueError: If ``n`` is negative.
        """
        return top(self.self_influence(show_progress=show_progress), n)

    def _signal(self, graph: Graph, samples: Samples) -> Tensor:
        assert samples.features is not None  # _check
        used = self._used()
        x = samples.features
        if x.is_floating_point() and x.element_size() < 4:
            x = x.float()  # half precision cannot tell values near 1 / N apart
        return leave_neighborhood_out_mmd(
            x,
            graph.edge_index,
            labels=samples.labels if used.local else None,
            gamma=used.gamma,
            estimate=used.estimate,
            seed=used.seed,
        )

    def _signal_new(self, extended: Extended) -> Tensor:
        used, known = self._used(), self.result().function
        fitted, new = extended.fitted, extended.new
        labels = extended.samples.labels if used.local else None
        found = new_samples_mmd(
            fitted,
            new,
            extended.near,
            labels=None if labels is None else labels[: len(fitted)],
            new_labels=None if labels is None else labels[len(fitted) :],
            gamma=used.gamma,
            estimate=used.estimate,
            seed=used.seed,
        )
        return torch.cat([known, found.to(known)])

    def _start(
        self,
        samples: Samples | None,
        function: Function | None,
        paper: bool | Paper,
        class_names: ClassNames | None,
        options: Mapping[str, Any],
    ) -> None:
        self._k_given = paper or "k" in options
        super()._start(samples, function, paper, class_names, options)

    def _check(self, samples: Samples) -> None:
        super()._check(samples)
        if samples.features is None and self.function is None:
            raise ValueError(
                f"{self.get_name()} needs features (got a graph alone): start with "
                "from_features or a model, or pass function= for criticisms only"
            )

    def _ready(self, show_progress: bool) -> Samples:
        """The samples, from the model if that is still to be run."""
        if self._samples is None:
            self._samples = self._extract(show_progress)
        return self._samples

    def _graph_settings(self, samples: Samples) -> Settings:
        used: Settings = self.used
        if not self._k_given:
            used = replace(used, k=min(used.k, self._most_neighbors(samples)))
        return used

    def _most_neighbors(self, samples: Samples) -> int:
        """So many that leaving them out leaves nearly all of a class."""
        assert samples.features is not None  # the constructors see to it
        size = len(samples.features)
        if samples.labels is not None and self._used().local:
            size = int(samples.labels.bincount()[samples.labels].median())
        return max(1, round(_LEFT_OUT * size))

    def _used(self) -> PrototypesSettings:
        assert isinstance(self.used, PrototypesSettings)
        return self.used
