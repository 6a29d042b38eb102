"""New samples against a fitted graph, which stays as it is."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from captum_margin.influence.base import MarginInfluence
from captum_margin.influence.samples import Samples, as_features, as_labels
from captum_margin.influence.settings import Settings, as_points
from captum_margin.neighbors import Neighbors, neighbors_among
from captum_margin.signal import Graph, influence

__all__ = ["Extended", "ScoresNewSamples", "as_new_features", "join"]


class Extended(NamedTuple):
    """Fitted samples, followed by new ones that are joined to them.

    Args:
        graph (Graph): The fitted edges, and edges from the k nearest fitted samples
            into each new one; none leaves a new one.
        samples (Samples): Features (N + M, F) are left out, labels are (N + M,).
        fitted (Tensor): Features of the fitted samples, (N, F).
        new (Tensor): Features of the new ones, (M, F).
        near (Tensor): Their nearest fitted samples, (M, k).
    """

    graph: Graph
    samples: Samples
    fitted: Tensor
    new: Tensor
    near: Tensor


class ScoresNewSamples(MarginInfluence):
    """A question that can be put to new samples one by one."""

    def score(self, inputs: Any, labels: Any = None) -> Tensor:
        r"""Scores new samples against the fitted ones, without building anything anew.

        A new sample is joined to its k nearest fitted samples by edges into it alone,
        weighted as the fitted edges are (:math:`\sigma` is that of the fitted graph),
        and the question's function and filter are taken of it. Degrees, signals and
        votes of the fitted samples stay as they are, so the score of a new sample does
        not depend on the others that come with it. It is near, not equal, to what the
        sample would score in a fit that holds it: there it may also be among the
        nearest of others.

        Args:
            inputs: New samples, as in :meth:`self_influence`: a Dataset, DataLoader or
                tuple ``(x, ..., labels)`` where this was made from a model; features
                (M, F) after :meth:`from_features`.
            labels (optional): Shape (M,), of the fitted classes, with features, where
                the question is about labels. Default: None.

        Returns:
            Tensor: Shape (M,), on the scale of :meth:`self_influence`.

        Raises:
            TypeError: If features or labels are of the wrong type.
            ValueError: If they do not fit the fitted ones; after :meth:`from_graph`; or
                with a ``function`` of one's own.

        Cost: that of the fit if there was none yet; then that of
        :func:`~captum_margin.neighbors.neighbors_among`, of the question's function,
        and O(E · C).

        >>> import torch
        >>> from captum_margin.influence import LabelNoise
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
        >>> noise = LabelNoise.from_features(x, ["a", "a", "b", "b"], k=1)
        >>> scores = noise.score(torch.tensor([[1.0, 0.05], [1.0, 0.05]]), ["a", "b"])
        >>> bool(scores[1] > scores[0])
        True
        """
        if self.function is not None:
            raise ValueError(
                "expected a question without function= (its values at new samples are "
                "not known); fit all samples together"
            )
        extended = self._extend(inputs, labels)
        signal = self._signal_new(extended)
        filtered = self._filter_new(signal, extended)
        return influence(filtered, self.used.sided)

    def _signal_new(self, extended: Extended) -> Tensor:
        """The question's function, (N + M,) or (N + M, C)."""
        return self._signal(extended.graph, extended.samples)

    def _filter_new(self, signal: Tensor, extended: Extended) -> Tensor:
        """The filtered signal of the new samples, (M,) or (M, C)."""
        count = len(extended.fitted)
        return self._high_pass(signal, extended.graph, extended.samples)[count:]

    def _extend(self, inputs: Any, labels: Any) -> Extended:
        """The fitted graph and labels with the new samples behind."""
        graph = self.result().graph
        fitted = self._samples
        assert fitted is not None  # there is a result
        if fitted.features is None:
            raise ValueError(
                "expected a question with features (got a graph alone, in which new "
                "samples have no place); start with from_features or a model"
            )
        new = self._new_samples(inputs, labels)
        assert new.features is not None
        own = new.features.to(fitted.features.device)
        settings = self._graph_settings(fitted)
        extended, near = join(fitted.features, own, graph, settings)
        samples = Samples(classes=fitted.classes)
        if fitted.labels is not None and new.labels is not None:
            codes = torch.cat([fitted.labels, _same_codes(new, fitted)])
            samples = samples._replace(labels=codes)
        return Extended(extended, samples, fitted.features, own, near)

    def _new_samples(self, inputs: Any, labels: Any) -> Samples:
        """Features and labels of the new samples."""
        assert self._samples is not None and self._samples.features is not None
        if self.model is not None:
            if labels is not None:
                raise ValueError(
                    "expected labels=None with a model; its data hold the labels"
                )
            return self._other(inputs)._extract(show_progress=False)
        values = as_new_features(inputs, self._samples.features)
        if labels is None and self._samples.labels is None:
            return Samples(features=values)
        if labels is None:
            raise ValueError("expected labels of the new samples (got None)")
        codes, classes = as_labels(labels, len(values), self._class_names)
        return Samples(features=values, labels=codes, classes=classes)


def as_new_features(features: Any, fitted: Tensor) -> Tensor:
    """Features (M, F) of new samples, as wide as those of the fitted ones.

    Raises:
        TypeError: If they are not numbers.
        ValueError: If they are of another shape.
    """
    values, width = as_features(features), fitted.size(1)
    if values.dim() != 2 or len(values) == 0 or values.size(1) != width:
        raise ValueError(
            f"expected new features of shape (M, {width}) with M >= 1 "
            f"(got {tuple(values.shape)}); take them from where the fitted ones are"
        )
    return values


def join(
    fitted: Tensor, new: Tensor, graph: Graph, settings: Settings
) -> tuple[Graph, Tensor]:
    """The fitted graph with edges into new samples, counted from N.

    Returns:
        The graph, and the nearest fitted samples of each new one, (M, k).
    """
    given = settings.backend
    near, distance = neighbors_among(
        fitted,
        new,
        settings.k,
        metric=settings.metric,
        backend="auto" if isinstance(given, Neighbors) else given,
    )
    target = torch.arange(len(new), device=near.device) + len(fitted)
    target = target.repeat_interleave(near.size(1))
    edges, length = torch.stack([near.flatten(), target]), distance.flatten().double()
    assert graph.edge_weight is not None  # neighbor_graph always weighs
    if settings.bandwidth is None:
        weight = torch.ones_like(length)
    else:
        sigma = settings.bandwidth * _median_length(fitted, graph, settings)
        weight = torch.exp(-0.5 * (length / sigma).square())
        tiny = torch.finfo(graph.edge_weight.dtype).tiny
        weight = weight.clamp(min=tiny)
    extended = Graph(
        torch.cat([graph.edge_index, edges], dim=1),
        torch.cat([graph.edge_weight, weight.to(graph.edge_weight)]),
        graph.num_nodes + len(new),
    )
    return extended, near


def _median_length(fitted: Tensor, graph: Graph, settings: Settings) -> float:
    """The median length of the fitted edges, which the weights are relative to.

    No need to keep it: the weight of the edge that is so long is exp(-1 / 2 b²).
    """
    assert settings.bandwidth is not None and graph.edge_weight is not None
    if graph.edge_weight.numel() == 0:
        return 1.0
    wanted = torch.tensor(-0.5 * settings.bandwidth**-2, dtype=torch.float64).exp()
    at = (graph.edge_weight.double() - wanted.to(graph.edge_weight.device)).abs()
    ends = graph.edge_index[:, at.argmin()]
    points = as_points(fitted[ends].to_dense(), settings)
    return float((points[0] - points[1]).norm()) or 1.0


def _same_codes(new: Samples, fitted: Samples) -> Tensor:
    """Labels of the new samples as numbers of the fitted classes, (M,)."""
    assert new.labels is not None and fitted.labels is not None
    number = {name: c for c, name in enumerate(fitted.classes)}
    unknown = [name for name in new.classes if name not in number]
    if unknown:
        raise ValueError(
            f"expected labels among the fitted classes {fitted.classes} (got "
            f"{tuple(unknown)}); fit again with samples of these"
        )
    table = torch.tensor([number[name] for name in new.classes])
    return table[new.labels.cpu()].to(fitted.labels.device)
