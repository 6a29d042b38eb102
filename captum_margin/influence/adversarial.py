"""Which samples a network's latent space does not expect, such as attacked ones."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from typing_extensions import Unpack, override

from captum_margin.influence._adversarial import (
    AdversarialOptions,
    AdversarialSettings,
    as_graph_features,
    decisions,
    same_classes,
)
from captum_margin.influence._extraction import (
    as_dataset,
    as_loader,
    as_module,
    extract,
)
from captum_margin.influence._published import Paper
from captum_margin.influence._references import (
    class_means,
    log_density,
    reference_means,
    rest_density,
)
from captum_margin.influence.base import Function, MarginInfluence
from captum_margin.influence.new_samples import as_new_features, join
from captum_margin.influence.samples import ClassNames, Samples, as_features
from captum_margin.influence.settings import Settings, as_points
from captum_margin.signal import (
    Graph,
    influence,
    kernel_density,
    leave_neighborhood_out_mmd,
)
from captum_margin.signal._mmd_new import new_samples_mmd
from captum_margin.signal._mmd_whole import whole_mmd

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["AdversarialOptions", "AdversarialSettings", "AdversarialStatistics"]

Self = TypeVar("Self", bound="AdversarialStatistics")


class AdversarialStatistics(MarginInfluence):
    r"""Scores samples by how strange they are to a latent space; high is suspicious.

    An attack moves a sample to where the network decides otherwise, but seldom to where
    its latents are like those of real samples. Pass the data under suspicion, the
    attacked model and its last hidden layer. f is high where a sample is strange:

    - ``statistic="mmd"``: the leave-neighbourhood-out MMD, global: how far the mean of
      all samples but i and its neighbours moves when i joins. Needs nothing else.
    - ``statistic="kde"``: the negative logarithm of the kernel density at i of the
      training samples of the class that is predicted for i (Feinman et al., *Detecting
      Adversarial Samples from Artifacts*, https://arxiv.org/abs/1703.00410, where low
      density is suspicious). Of the logarithm because the filter compares differences,
      and densities far out all differ from 0 by next to nothing. Where the density
      underflows, or the class has no reference, f is 87 (float64: 708).

    The score is what f exceeds its neighbourhood by. For ``"kde"`` that is R(i), the
    references of the predicted class: the k = 30 nearest of them by ``graph_features``
    if these are given, else all. (By the latents themselves the neighbours of a strange
    sample would be the strange ones of the class.) f(r) of a reference is that of its
    density among the others of its class, 0 where there are none:

    .. math:: I(i) = \max\Big(0,
        f(i) - \frac{1}{|R(i)|} \sum_{r \in R(i)} f(r)\Big)^2

    References are not attacked, so the filter removes what is usual for such a sample
    and such a class, and leaves what the attack did. Neighbours among the samples
    themselves would remove that too where many are attacked alike; ``"mmd"``, which
    knows no others, has them, A the mean over the k nearest:

    .. math:: I(i) = \max(0, f(i) - (A^p f)(i))^2

    So read it finds outliers, not attacks: a few samples far from all others. Attacked
    samples between the classes have a *low* MMD instead, as on MNIST by FGSM and
    Carlini-Wagner: ``sided="below"``, and where they are many ``hops=64``, a
    neighbourhood wider than their own company. To tell attacks from references in
    several layers there is :class:`AttackDetector`.

    Compare with and without the filter by :meth:`plot_histograms`;
    ``result().function`` is f, ``result().filtered`` what the filter leaves of it, and
    ``result().graph`` that of the samples in both cases.

    ``paper=True`` is the form of case study V of MARGIN (Anirudh et al.,
    https://arxiv.org/abs/1711.05407): both filtered with the symmetric shift of the
    samples' own graph, and squared with the sign lost. Its MMD is another: between all
    samples, and all but i and its neighbours. With the n of these, i among them, out of
    N samples, and the kernel means :math:`\nu_i` of these and :math:`\mu` of all,

    .. math:: f(i) = \frac{n}{N - n} \|\nu_i - \mu\|

    Args:
        model, train_dataset, ...: As in :class:`MarginInfluence`, and its
            ``from_features``; labels are for pictures and tables only. The options,
            named there, are those of :class:`AdversarialSettings`; for ``"kde"``,
            without ``paper=True``, ``shift``, ``hops`` and ``bandwidth`` have no
            effect. ``from_graph`` knows no features and needs a ``function``.

    Raises:
        TypeError: As :class:`MarginInfluence`.
        ValueError: As :class:`MarginInfluence`, from a graph without a function, if
            references or their classes are missing or do not fit, or if an option is
            out of its range.

    Cost: that of the graph, O(N² F) time; then O(N² F) for ``"mmd"``, less with
    ``estimate="features"``, or O((N + M) M F + N · M · G) for ``"kde"``, with classes
    only pairs of a class. Memory O((N + M) (F + G) + N · k). With a model and a layer
    as ``graph_features`` one more forward pass per sample and reference.

    >>> line = torch.stack([torch.linspace(0, 1, 9), torch.zeros(9)], dim=1)
    >>> x = torch.cat([line, torch.tensor([[0.5, 2.0]])])
    >>> AdversarialStatistics.from_features(x, k=3).influence(k=1).indices.tolist()
    [[9]]
    >>> kde = AdversarialStatistics.from_features(
    ...     x, k=3, statistic="kde", references=line)
    >>> kde.influence(k=1).indices.tolist()
    [[9]]
    """

    _known: tuple[Tensor, Any] | None = None

    settings: ClassVar[Settings] = AdversarialSettings(
        k=30, sided="above", isolated="keep"
    )
    paper_settings: ClassVar[Settings] = AdversarialSettings(
        k=30, shift="symmetric", isolated="keep"
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
        **options: Unpack[AdversarialOptions],
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
        **options: Unpack[AdversarialOptions],
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
        **options: Unpack[AdversarialOptions],
    ) -> Self:
        return cls._of_graph(
            graph, labels, class_names, images, function, paper, options
        )

    def score(
        self, inputs: Any, *, predicted: Any = None, graph_features: Any = None
    ) -> Tensor:
        """Scores new samples, each on its own, without building anything anew.

        For ``"kde"`` that is what :meth:`self_influence` would say of them: it compares
        a sample with the references alone. For ``"mmd"`` they are compared with the
        fitted samples: f(i) is how far the mean of all of these but its k nearest moves
        when i joins, and the neighbours are these k, whose f stays as it is. (k should
        be far below N: f falls with the number of samples that are left, and fitted
        samples leave out more.) With ``paper=True`` both are filtered with these k.

        Args:
            inputs (Any): New: a Dataset, DataLoader or tuple ``(x, ..., labels)``
                where this was made from a model, labels without effect; features
                (M, F) after :meth:`from_features`.
            predicted (optional): As in :class:`AdversarialSettings`, of the new
                samples, (M,). Default: None.
            graph_features (optional): The same, (M, G). Default: None; with a model:
                the layer that was given.

        Returns:
            Tensor: Shape (M,), on the scale of :meth:`self_influence`.

        Raises:
            TypeError: As :meth:`self_influence`.
            ValueError: As :meth:`self_influence`; or with a ``function`` of one's own.

        Cost: O(M R F) for ``"kde"`` with R references; else that of the fit, if there
        was none yet, and that of the MMD once more.

        >>> line = torch.stack([torch.linspace(0, 1, 99), torch.zeros(99)], dim=1)
        >>> known = AdversarialStatistics.from_features(line, k=3)
        >>> near, far = known.score(torch.tensor([[0.4, 0.0], [0.4, 2.0]]))
        >>> bool(far > 10 * near)
        True
        """
        if self.function is not None:
            raise ValueError(
                "expected a question without function= (its values at new samples are "
                "not known); fit all samples together"
            )
        other, new = self._of_new(inputs, predicted, graph_features)
        assert new.features is not None
        if self._statistic() == "kde" and not self.paper:
            none = Graph(torch.empty(2, 0, dtype=torch.long), None, len(new.features))
            filtered = other._high_pass(other._signal(none, new), none, new)
            return influence(filtered, self.used.sided)
        result, used = self.result(), self._used()
        assert self._samples is not None and self._samples.features is not None
        fitted = self._samples.features
        own = new.features.to(fitted.device)
        graph, near = join(fitted, own, result.graph, used)
        if self._statistic() == "mmd":
            options: dict[str, Any] = {"gamma": used.gamma, "estimate": used.estimate}
            options |= {"seed": used.seed, "whole": self.paper is not None}
            signal = new_samples_mmd(fitted, own, near, **options)
        else:
            signal = other._signal(graph, new)
        both = torch.cat([result.function, signal.to(result.function)])
        filtered = super()._high_pass(both, graph, Samples())[len(fitted) :]
        return influence(filtered, used.sided)

    def plot_histograms(self, attacked: Any = None, *, bins: int = 50) -> Figure:
        """How many samples have which value, without and with the graph.

        Args:
            attacked (optional): Bools (N,), where it is known which samples are
                attacked: these get a colour of their own. Default: None.
            bins (int, optional): Of both histograms. Default: 50.

        Returns:
            Figure: Of matplotlib: f on the left, what the filter leaves of it on the
            right.

        Raises:
            ValueError: If ``attacked`` is not of shape (N,), or the function (one's
                own) has several channels.
        """
        from captum_margin._notebook import NotebookFigure

        result = self.result()
        if result.function.dim() != 1:
            raise ValueError(
                "expected a function of shape (N,) "
                f"(got {tuple(result.function.shape)})"
            )
        count = result.graph.num_nodes
        mask = np.zeros(count, bool)
        if attacked is not None:
            if isinstance(attacked, Tensor):
                attacked = attacked.cpu()
            mask = np.asarray(attacked).astype(bool)
        if mask.shape != (count,):
            raise ValueError(
                f"expected attacked of shape (N,) = ({count},) (got {mask.shape})"
            )
        figure = NotebookFigure(figsize=(8, 3), layout="constrained")
        panels = (
            ("without the graph: f", result.function),
            ("with the graph: f less its neighbours'", result.filtered),
        )
        for axes, panel in zip(figure.subplots(1, 2), panels, strict=True):
            title, value = panel
            x = value.cpu().numpy()
            edges = np.histogram_bin_edges(x, bins)
            if attacked is None:
                axes.hist(x, edges)
            else:
                axes.hist(x[~mask], edges, alpha=0.6, label="not attacked")
                axes.hist(x[mask], edges, alpha=0.6, label="attacked")
                axes.legend(frameon=False)
            axes.set(title=title, xlabel="value (high: suspicious)", ylabel="samples")
        return figure

    def _signal(self, graph: Graph, samples: Samples) -> Tensor:
        assert samples.features is not None  # _check
        used = self._used()
        x = samples.features
        if x.is_floating_point() and x.element_size() < 4:
            x = x.float()  # half precision cannot tell values near 1 / N apart
        if self._statistic() == "mmd":
            mmd = whole_mmd if self.paper else leave_neighborhood_out_mmd
            return mmd(
                x,
                graph.edge_index,
                gamma=used.gamma,
                estimate=used.estimate,
                seed=used.seed,
            )
        references = self._references()[0]
        own, other = self._classes(samples)
        density = kernel_density(
            x, references.to(x.device), own, other, gamma=used.gamma
        )
        return log_density(density)

    def _high_pass(self, signal: Tensor, graph: Graph, samples: Samples) -> Tensor:
        used = self._used()
        if self.paper or self.function is not None or self._statistic() == "mmd":
            return super()._high_pass(signal, graph, samples)
        assert samples.features is not None  # _check
        references = self._references()[0].to(samples.features.device)
        own, other = self._classes(samples)
        values = log_density(rest_density(references, other, used.gamma).to(signal))
        near = self._graph_features(len(signal), len(references))
        if own is None or other is None:
            own, other = (
                torch.zeros(len(v), dtype=torch.long, device=v.device)
                for v in (signal, references)
            )
        if near is None:
            return signal - class_means(values, own, other)
        points, others = (as_points(v.to(signal.device), used) for v in near)
        return signal - reference_means(points, others, values, used.k, own, other)

    def _classes(self, samples: Samples) -> tuple[Tensor | None, Tensor | None]:
        """Predicted classes and those of the references, or neither."""
        assert samples.features is not None  # _check
        references, other = self._references()
        predicted = self._used().predicted
        if predicted is None and samples.scores is not None:
            predicted = decisions(samples.scores)
        if predicted is None and other is None:
            return None, None
        if predicted is None or other is None:
            raise ValueError(
                "expected predicted= and reference_classes= together (got one of them)"
            )
        x = samples.features
        own, other = same_classes(predicted, other, len(x), len(references))
        return own.to(x.device), other.to(x.device)

    def _graph_features(self, n: int, m: int) -> tuple[Tensor, Tensor] | None:
        """What the nearest references are found by, of samples and references."""
        given, others = self._used().graph_features, self._used().graph_references
        if given is None and others is None:
            return None
        if self.model is not None and isinstance(given, (str, nn.Module)):
            layer = as_module(self.model, given)
            given = self._run(self.train_dataloader, layer)[0]
            if others is None and self._are_data(self._used().references):
                loader = as_loader(self._used().references, self.batch_size)
                others = self._run(loader, layer)[0]
        if given is None or others is None:
            raise ValueError(
                "expected graph_features= and graph_references= together (got one of "
                "them)"
            )
        return as_graph_features(given, others, n, m)

    def _of_new(
        self, inputs: Any, predicted: Any, graph_features: Any
    ) -> tuple[AdversarialStatistics, Samples]:
        """The same question to new samples, and these."""
        used, other = self._used(), copy(self)
        if self._statistic() == "kde":
            other._known = self._references()
        if graph_features is None and isinstance(used.graph_features, (str, nn.Module)):
            graph_features = used.graph_features
        other.used = replace(used, predicted=predicted, graph_features=graph_features)
        if self.model is not None:
            data = as_dataset(inputs)
            other.train_dataloader = as_loader(data, self.batch_size)
            return other, other._extract(show_progress=False)
        assert self._samples is not None and self._samples.features is not None
        values = as_new_features(inputs, self._samples.features)
        return other, Samples(values)

    def _references(self) -> tuple[Tensor, Any]:
        """Features of the references and their classes, if there are any; kept."""
        if self._known is None:
            given, classes = self._used().references, self._used().reference_classes
            if self._are_data(given):
                loader = as_loader(given, self.batch_size)
                features, labels = self._run(loader, self._layer)
                self._known = features, labels if classes is None else classes
            else:
                self._known = as_features(given), classes
        return self._known

    def _are_data(self, given: Any) -> bool:
        """Whether references are to be run through the model."""
        is_array = isinstance(given, Tensor) or hasattr(given, "dtype")
        return self.model is not None and not is_array

    def _run(self, loader: DataLoader[Any], layer: nn.Module) -> tuple[Tensor, Any]:
        """Features of a layer, and labels."""
        assert self.model is not None
        features, labels, _ = extract(
            self.model, loader, layer, self._pooling, False, self.get_name()
        )
        return features, labels

    def _check(self, samples: Samples) -> None:
        super()._check(samples)
        if samples.features is None and self.function is None:
            raise ValueError(
                f"{self.get_name()} needs features (got a graph alone): start with "
                "from_features or a model, or pass function="
            )

    def _other(self, inputs: Any) -> AdversarialStatistics:
        given = self._used().graph_features
        of_samples = given is not None and not isinstance(given, (str, nn.Module))
        if self._used().predicted is not None or of_samples:
            raise ValueError(
                "expected inputs=None (predicted= and graph_features= belong to the "
                "samples this was made with); start from_features anew"
            )
        return super()._other(inputs)

    def _statistic(self) -> str:
        used = self._used()
        return used.statistic or ("mmd" if used.references is None else "kde")

    def _used(self) -> AdversarialSettings:
        assert isinstance(self.used, AdversarialSettings)
        return self.used
