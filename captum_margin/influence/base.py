"""The template of the dataset questions: samples -> graph -> function -> filter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, ClassVar, Literal, TypeVar

from captum.influence import DataInfluence
from torch import Tensor, nn
from typing_extensions import Unpack

from captum_margin._whole_numbers import is_whole
from captum_margin.influence._extraction import (
    as_dataset,
    as_loader,
    as_module,
    extract,
    images_of,
)
from captum_margin.influence._options import (
    arguments_of,
    document_options,
    name_options,
)
from captum_margin.influence._published import (
    Paper,
    paper_form,
    published_filter,
)
from captum_margin.influence.result import InfluenceResult, KMostInfluentialResults
from captum_margin.influence.samples import (
    ClassNames,
    Samples,
    as_features,
    as_function,
    as_graph,
    as_labels,
)
from captum_margin.influence.settings import (
    FoundGraph,
    Settings,
    SettingsOptions,
    neighbor_graph,
    replaced,
)
from captum_margin.neighbors import Neighbors
from captum_margin.signal import Graph, influence, rank

__all__ = ["Function", "MarginInfluence"]

Function = Tensor | Callable[[Graph, Samples], Tensor]
Self = TypeVar("Self", bound="MarginInfluence")


class MarginInfluence(DataInfluence):
    """One score per sample from a graph of the samples and a function on it.

    A subclass says which function (:meth:`_signal`) and with which settings. Nothing
    is computed before the first answer is asked for, and then once.

    Args:
        model (Module): Called as ``model(*batch[:-1])``, in evaluation mode and without
            gradients, on its own device. It is left as it was found.
        train_dataset (Dataset or DataLoader): Items ``(x, ..., label)``; a loader must
            keep the data's order and leave nothing out. The last batch may be smaller.
        layer (Module or str, optional): The layer, or its name, whose output are the
            features; it must run once per batch. Default: None, the model's output.
        batch_size (int, optional): Of a Dataset; a loader has its own. Default: 32.
        pooling (str, optional): ``"mean"`` averages feature maps (B, K, h, w) over
            their positions, ``"flatten"`` keeps these; other outputs are flattened to
            (B, F). Default: ``"mean"``.
        class_names (Sequence or Mapping, optional): Name of each integer label.
            Default: None, ``train_dataset.classes`` if there is one, else the labels.
        function (Tensor or Callable, optional): f of shape (N,) or (N, C) instead of
            the question's own, or ``function(graph, samples)`` that returns it from the
            :class:`~captum_margin.signal.Graph` and the :class:`Samples`. It is
            filtered plainly. Default: None.
        paper (bool or str, optional): The question as in the MARGIN paper, with the
            filter in one of the forms it was published in: ``"algorithm"`` or True,
            f - A^p f, Algorithm 1; ``"arxiv"``, f - (A^p f) / M with M the positive
            entries in a row of A^p, as in the listing of the arXiv edition;
            ``"journal"``, the same of (A^p f) / M in place of f, as in the listing of
            the journal. Default: False.
        **options: Fields of the class's ``settings``, or of its ``paper_settings``.

    Raises:
        TypeError: If an argument is of the wrong type or an option unknown.
        ValueError: If the loader shuffles, or the layer is not part of the model.

    Cost: one forward pass per sample; O(N (F + k)) memory for the graph and O(N² F)
    time, beyond 50,000 samples about O(N sqrt(N) F) for approximate neighbours, see
    :func:`~captum_margin.neighbors.find_neighbors`; O(E · C) for the filter.
    """

    settings: ClassVar[Settings] = Settings()
    paper_settings: ClassVar[Settings] = Settings(shift="symmetric")
    issue: ClassVar[str | None] = None
    bound: ClassVar[float] = 0.0
    needs_labels: ClassVar[bool] = False

    model: nn.Module | None
    train_dataset: Any
    _samples: Samples | None
    _result: InfluenceResult | None

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
        **options: Unpack[SettingsOptions],
    ) -> None:
        """See the class."""
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

    def __init_subclass__(cls) -> None:
        """Names the options of the question in its constructors, with its defaults."""
        super().__init_subclass__()
        _show_options(cls)

    @classmethod
    def from_features(
        cls: type[Self],
        features: Any,
        labels: Any = None,
        *,
        class_names: ClassNames | None = None,
        images: Any = None,
        function: Function | None = None,
        paper: bool | Paper = False,
        **options: Unpack[SettingsOptions],
    ) -> Self:
        """Starts from features instead of a model and its data.

        Args:
            features (array): (N, F): a tensor, NumPy array, memory map (read in place),
                SciPy sparse matrix (it stays so; all pairs are compared, unless
                ``backend`` says otherwise) or pandas DataFrame.
            labels (optional): Shape (N,): integers, bools or strings, as a tensor,
                array, Series or list. Default: None.
            class_names (optional): As in the class. Default: None.
            images (optional): As in :meth:`InfluenceResult.plot`. Default: None.
            function (optional): As in the class. Default: None.
            paper (bool or str, optional): As in the class. Default: False.
            **options: As in the class.

        Raises:
            TypeError: If features or labels are of the wrong type.
            ValueError: If they are not (N, F) and (N,), or a label is missing.
        """
        return cls._of_features(
            features, labels, class_names, images, function, paper, options
        )

    @classmethod
    def from_graph(
        cls: type[Self],
        graph: Any,
        labels: Any = None,
        *,
        class_names: ClassNames | None = None,
        images: Any = None,
        function: Function | None = None,
        paper: bool | Paper = False,
        **options: Unpack[SettingsOptions],
    ) -> Self:
        """Starts from a neighbour graph instead of making one.

        The options ``k``, ``metric`` and ``backend`` have no effect.

        Args:
            graph (Graph, Tensor or SciPy sparse matrix): A
                :class:`~captum_margin.signal.Graph`, whose weights count as they are;
                ``edge_index`` (2, E); or a square sparse matrix of the distances of
                neighbours, as cleanlab's Datalab and scikit-learn's
                ``kneighbors_graph(mode="distance")`` make it, explicit zeros included.
                It is made undirected; distances become weights by ``bandwidth``, in
                the unit they have.
            labels (optional): As in :meth:`from_features`. Default: None.
            class_names (optional): As in the class. Default: None.
            images (optional): As in :meth:`from_features`. Default: None.
            function (optional): As in the class. Default: None.
            paper (bool or str, optional): As in the class. Default: False.
            **options: As in the class.

        Raises:
            TypeError: If the graph is none of these.
            ValueError: If edges, weights or labels do not fit together.
        """
        return cls._of_graph(
            graph, labels, class_names, images, function, paper, options
        )

    def self_influence(self, inputs: Any = None, show_progress: bool = False) -> Tensor:
        """One score per sample, in data order.

        Args:
            inputs (optional): Another data set to put the same question to, on its
                own: a Dataset, DataLoader or tuple ``(x, ..., labels)``, or
                ``(features, labels)`` after :meth:`from_features`. Default: None.
            show_progress (bool, optional): A bar over the batches. Default: False.

        Returns:
            Tensor: Shape (N,), high for what the class is named for.

        Raises:
            TypeError: If items or labels are of the wrong type.
            ValueError: If features hold NaN, or shapes do not fit.
        """
        return self.result(inputs, show_progress=show_progress).scores

    def influence(
        self,
        inputs: Any = None,
        k: int | None = None,
        proponents: bool = True,
        show_progress: bool = False,
    ) -> Tensor | KMostInfluentialResults:
        """The scores as other classes of :mod:`captum.influence` return aggregates.

        Args:
            inputs (optional): As in :meth:`self_influence`. Default: None.
            k (int, optional): Only so many samples. Default: None, all.
            proponents (bool, optional): Those of the highest scores; False: of the
                lowest. Default: True.
            show_progress (bool, optional): As there. Default: False.

        Returns:
            Tensor or KMostInfluentialResults: Shape (1, N), or with ``k`` indices and
            scores of shape (1, min(k, N)), ties by index.

        Raises:
            TypeError: As :meth:`self_influence`.
            ValueError: As :meth:`self_influence`, or if ``k`` is below 1.
        """
        if k is not None and (not is_whole(k) or k < 1):
            raise ValueError(f"expected k >= 1 samples (got {k})")
        scores = self.self_influence(inputs, show_progress)
        if k is None:
            return scores[None]
        indices = rank(scores, descending=proponents)[:k]
        return KMostInfluentialResults(indices[None], scores[indices][None])

    def result(
        self, inputs: Any = None, *, show_progress: bool = False
    ) -> InfluenceResult:
        """Scores with the graph, function and filtered signal they come from.

        Args:
            inputs (optional): As in :meth:`self_influence`. Default: None.
            show_progress (bool, optional): As there. Default: False.

        Returns:
            InfluenceResult: Of the N samples; kept, so that asking again is free.

        Raises:
            TypeError: As :meth:`self_influence`.
            ValueError: As :meth:`self_influence`.
        """
        if inputs is not None:
            return self._other(inputs).result(show_progress=show_progress)
        if self._result is None:
            if self._samples is None:
                self._samples = self._extract(show_progress)
            self._result = self._answer(self._samples)
        return self._result

    def _signal(self, graph: Graph, samples: Samples) -> Tensor:
        """The question's function f, (N,) or (N, C)."""
        raise NotImplementedError(
            f"{self.get_name()} has no function of its own: pass function="
        )

    def _high_pass(self, signal: Tensor, graph: Graph, samples: Samples) -> Tensor:
        """What of f the neighbours do not explain."""
        form = self.paper or "algorithm"
        return published_filter(signal, graph, form, self.used)

    def _of_model(
        self,
        model: nn.Module,
        train_dataset: Any,
        layer: nn.Module | str | None,
        batch_size: int,
        pooling: Literal["mean", "flatten"],
        class_names: ClassNames | None,
        function: Function | None,
        paper: bool | Paper,
        options: Mapping[str, Any],
    ) -> None:
        """Starts from a model, which every question does with options of its own."""
        if pooling not in ("mean", "flatten"):
            raise ValueError(f"expected pooling 'mean' or 'flatten' (got {pooling!r})")
        self._layer = as_module(model, layer)
        self.train_dataloader = as_loader(train_dataset, batch_size)
        self.batch_size = batch_size
        self._pooling = pooling
        dataset = self.train_dataloader.dataset
        if class_names is None:
            class_names = getattr(dataset, "classes", None)
        self._start(None, function, paper, class_names, options)
        self.model, self.train_dataset = model, dataset

    @classmethod
    def _of_features(
        cls: type[Self],
        features: Any,
        labels: Any,
        class_names: ClassNames | None,
        images: Any,
        function: Function | None,
        paper: bool | Paper,
        options: Mapping[str, Any],
    ) -> Self:
        """Starts from features, as :meth:`_of_model` does from a model."""
        values = as_features(features)
        if values.dim() != 2 or 0 in values.shape:
            raise ValueError(
                f"expected features of shape (N, F) with N, F >= 1 (got "
                f"{tuple(values.shape)}); flatten each sample to one row"
            )
        samples = Samples(features=values)
        if labels is not None:
            codes, classes = as_labels(labels, len(values), class_names)
            samples = samples._replace(labels=codes.to(values.device), classes=classes)
        return cls._of_samples(samples, class_names, images, function, paper, options)

    @classmethod
    def _of_graph(
        cls: type[Self],
        graph: Any,
        labels: Any,
        class_names: ClassNames | None,
        images: Any,
        function: Function | None,
        paper: bool | Paper,
        options: Mapping[str, Any],
    ) -> Self:
        """Starts from a graph, as :meth:`_of_model` does from a model."""
        settings = cls._settings(paper, options)
        count = None if labels is None else len(labels)
        given = as_graph(graph, count, settings.bandwidth)
        samples = Samples(graph=given)
        if labels is not None:
            codes, classes = as_labels(labels, given.num_nodes, class_names)
            codes = codes.to(given.edge_index.device)
            samples = samples._replace(labels=codes, classes=classes)
        return cls._of_samples(samples, class_names, images, function, paper, options)

    @classmethod
    def _of_samples(
        cls: type[Self],
        samples: Samples,
        class_names: ClassNames | None,
        images: Any,
        function: Function | None,
        paper: bool | Paper,
        options: Mapping[str, Any],
    ) -> Self:
        """Starts without a model, past a constructor that asks for one."""
        self = cls.__new__(cls)
        self._start(samples, function, paper, class_names, options)
        self._images = images
        return self

    def _start(
        self,
        samples: Samples | None,
        function: Function | None,
        paper: bool | Paper,
        class_names: ClassNames | None,
        options: Mapping[str, Any],
    ) -> None:
        """What all constructors share."""
        self.used = self._settings(paper, options)
        self.paper = paper_form(paper)
        self.function = function
        self.model = None
        self.train_dataset = None
        self._class_names = class_names
        self._samples = samples
        self._images: Any = None
        self._found: FoundGraph | None = None
        self._result = None
        if samples is not None:
            self._check(samples)

    @classmethod
    def _settings(cls, paper: bool | Paper, options: Mapping[str, Any]) -> Settings:
        settings = cls.paper_settings if paper else cls.settings
        return replaced(settings, options, cls.__name__)

    def _check(self, samples: Samples) -> None:
        if self.needs_labels and samples.labels is None and self.function is None:
            raise ValueError(f"{self.get_name()} needs labels: pass labels=")

    def _extract(self, show_progress: bool) -> Samples:
        """Samples from the model."""
        assert self.model is not None
        features, labels, scores = extract(
            self.model,
            self.train_dataloader,
            self._layer,
            self._pooling,
            show_progress,
            self.get_name(),
        )
        codes, classes = as_labels(labels, len(features), self._class_names)
        return Samples(features, None, codes.to(features.device), classes, scores)

    def _other(self: Self, inputs: Any) -> Self:
        """The same question to another data set."""
        if isinstance(self.used.backend, Neighbors):
            raise ValueError("expected inputs=None (got backend= of other samples)")
        options: dict[str, Any] = {
            option.name: getattr(self.used, option.name) for option in fields(self.used)
        }
        options["class_names"] = self._class_names
        options["function"] = self.function
        options["paper"] = self.paper or False
        if self.model is not None:
            return type(self)(
                self.model,
                as_dataset(inputs),
                self._layer,
                batch_size=self.batch_size,
                pooling=self._pooling,
                **options,
            )
        if self._samples is not None and self._samples.graph is not None:
            raise ValueError(
                "expected inputs=None after from_graph; start from_graph anew"
            )
        if not isinstance(inputs, tuple):
            inputs = (inputs,)
        return type(self).from_features(*inputs, **options)

    def _answer(self, samples: Samples) -> InfluenceResult:
        """Graph, function, filter, scores."""
        graph = self._neighbors(samples)
        signal = self._checked_signal(graph, samples)
        filtered = self._high_pass(signal, graph, samples)
        images = self._images
        if self.model is not None:
            images = images_of(self.train_dataset)
        return InfluenceResult(
            name=self.get_name(),
            scores=influence(filtered, self.used.sided),
            graph=graph,
            function=signal,
            filtered=filtered,
            labels=samples.labels,
            classes=samples.classes,
            issue=self.issue,
            bound=self.bound if self.function is None else 0.0,
            images=images,
            backend=None if self._found is None else self._found.backend,
            recall=None if self._found is None else self._found.recall,
        )

    def _neighbors(self, samples: Samples) -> Graph:
        """The graph as given, or of the features, which is made once."""
        if samples.graph is not None:
            return samples.graph
        if self._found is None:
            assert samples.features is not None  # the constructors see to it
            used = self._graph_settings(samples)
            self._found = neighbor_graph(samples.features, used)
        return self._found.graph

    def _graph_settings(self, samples: Samples) -> Settings:
        """What the graph is made with."""
        return self.used

    def _checked_signal(self, graph: Graph, samples: Samples) -> Tensor:
        own = self.function
        if own is None:
            signal = self._signal(graph, samples)
        else:
            signal = own if isinstance(own, Tensor) else own(graph, samples)
        return as_function(signal, graph.num_nodes)


_TEXTS = {
    "__init__": "Starts from a model and its data.\n\n"
    + arguments_of(MarginInfluence.__doc__),
    "from_features": MarginInfluence.from_features.__doc__,
    "from_graph": MarginInfluence.from_graph.__doc__,
}


def _show_options(question: type[MarginInfluence]) -> None:
    """Names a question's options in the constructors it defines, see ``_options``."""
    settings, paper_settings = question.settings, question.paper_settings
    for name, text in _TEXTS.items():
        constructor = vars(question).get(name)
        if constructor is None:
            continue
        function = getattr(constructor, "__func__", constructor)
        name_options(function, settings)
        text = document_options(function.__doc__ or text, settings, paper_settings)
        function.__doc__ = constructor.__doc__ = text
    question.__doc__ = document_options(question.__doc__, settings, paper_settings)


_show_options(MarginInfluence)
