"""Which nodes of a graph to label, so that a graph network learns most from few."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torch_geometric.data import Data
from typing_extensions import Unpack, override

from captum_margin._whole_numbers import is_whole
from captum_margin.influence._graph_data import (
    warn_of_few_candidates,
    with_edge_index,
)
from captum_margin.influence._nodes import (
    indices_of,
    not_held_out,
    rows_of,
    samples_of,
)
from captum_margin.influence._options import document_options, name_options
from captum_margin.influence._published import Paper
from captum_margin.influence.base import Function, MarginInfluence
from captum_margin.influence.graph_autoencoder import embed_nodes
from captum_margin.influence.samples import ClassNames, Samples
from captum_margin.influence.settings import Settings, SettingsOptions
from captum_margin.signal import (
    Graph,
    HighPass,
    rank,
    select_covering,
    unit_rows,
)

__all__ = [
    "ActiveLearning",
    "ActiveLearningOptions",
    "ActiveLearningSettings",
    "select_nodes",
]

Self = TypeVar("Self", bound="ActiveLearning")


@dataclass(frozen=True)
class ActiveLearningSettings(Settings):
    """The options of :class:`ActiveLearning`: those of :class:`Settings`, and more.

    ``hops``, ``shift`` and ``isolated`` are those of the scores.

    Args:
        seed (int): Of the auto-encoder, and of the nodes over which coverage of a large
            graph is summed.
        reach (int): Steps of propagation of the features before nodes are compared.
        weighted (bool): Whether to cover a node is worth what the function is there; a
            function of your own always is the worth.
    """

    seed: int = 0
    reach: int = 2
    weighted: bool = False

    def __post_init__(self) -> None:
        """Checks the reach."""
        if not is_whole(self.reach) or self.reach < 0:
            raise ValueError(f"expected a whole reach >= 0 (got {self.reach})")


class ActiveLearningOptions(SettingsOptions, total=False):
    """:class:`ActiveLearningSettings` as keywords; texts and defaults are there."""

    seed: int
    reach: int
    weighted: bool


def select_nodes(
    data: Any,
    budget: int,
    *,
    candidates: Any = None,
    labelled: Any = None,
    embeddings: Tensor | None = None,
    per_class: bool = False,
    paper: bool | Paper = False,
    **options: Unpack[ActiveLearningOptions],
) -> Tensor:
    r"""Chooses the nodes of a graph to label, before any label is known.

    Two nodes are alike if what a graph network sees of them is: the mean of the
    features around them. Features of unit norm go through p steps of propagation
    (``reach``; each node counts as its own neighbour), which leaves the part that the
    high-pass filter takes away, and the mean of all nodes is taken from each,

    .. math::
        \mathbf{Z} = \mathbf{A}^p \hat{\mathbf{X}}
        = \hat{\mathbf{X}} - (\mathbf{I} - \mathbf{A}^p) \hat{\mathbf{X}} ,
        \qquad \mathbf{c}_i = \mathbf{z}_i - \bar{\mathbf{z}} .

    The picks cover all nodes by the cosine of :math:`\mathbf{c}`, see
    :func:`~captum_margin.signal.select_covering`. With ``weighted`` to cover node j is
    worth the function :math:`f(j) = \|\mathbf{c}_j\|`: much where the features around
    a node agree with one another and not with those of the whole graph. The first picks
    do not depend on how many follow: with ``labelled`` the next round goes on where the
    last one ended.

    Args:
        data (Data): With ``edge_index`` (any direction, loops and parallel edges are
            merged) or ``adj_t``, and what else there is: ``x`` (N, F), ``edge_weight``,
            ``num_nodes``, ``val_mask``, ``test_mask``, ``y``.
        budget (int): How many nodes, at least 0; with ``per_class``, of each class.
        candidates (Tensor, optional): Mask (N,) or indices of the nodes that may be
            picked. Default: None, those outside ``val_mask`` and ``test_mask``.
        labelled (Tensor, optional): Mask (N,) or indices of nodes that have a label:
            they cover already and are not picked again. Default: None.
        embeddings (Tensor, optional): Z, of shape (N, dim). Default: None, as above;
            without features ``x``, and with ``paper``, those of a graph auto-encoder,
            see :func:`embed_nodes`.
        per_class (bool, optional): ``budget`` nodes of each class of ``data.y`` that
            the candidates have, all of them where a class has fewer. For studies in
            which the labels of the candidates are known. Default: False.
        paper (bool or str, optional): Case study VI of MARGIN
            (https://arxiv.org/abs/1711.05407): the nodes of the largest squared
            high-pass part of the embeddings' norm. Default: False.
        **options: Fields of :class:`ActiveLearningSettings`.

    Returns:
        Tensor: Node indices in the order of picking, int64, without repetition; all
        candidates, with a warning, if the budget exceeds them, none if there are none.

    Raises:
        TypeError: If an argument is of the wrong type or an option unknown.
        ValueError: If shapes or indices do not fit the N nodes, if features are not
            finite, or if ``per_class`` has no labels to go by.

    Cost: O(p · E · F) for the propagation, then that of ``select_covering``.

    >>> two_stars = torch.tensor([[0, 0, 0, 4, 4, 4], [1, 2, 3, 5, 6, 7]])
    >>> x = torch.eye(2)[[0, 0, 0, 0, 1, 1, 1, 1]]
    >>> data = Data(x=x, edge_index=two_stars)
    >>> select_nodes(data, 2).tolist()
    [0, 4]
    """
    learning = ActiveLearning(data, embeddings=embeddings, paper=paper, **options)
    return learning.select(
        budget, candidates=candidates, labelled=labelled, per_class=per_class
    )


class ActiveLearning(MarginInfluence):
    r"""Scores and chooses the nodes of a graph to label.

    **Choice.** Nodes are not worth labelling one by one: the best ones are alike.
    :meth:`select` chooses them together, see :func:`select_nodes`.

    **Scores.** f(i) is the norm of the node's embedding seen from the mean of all, as
    in :func:`select_nodes`. The score is what f exceeds its neighbourhood by:

    .. math:: I(i) = \max(0, f(i) - (A f)(i))^2

    ``paper=True`` is case study VI of MARGIN (Anirudh et al.,
    https://arxiv.org/abs/1711.05407): the embedding of a graph auto-encoder, the
    symmetric shift, squared with the sign lost; :meth:`select` takes the highest
    scores (of each class), which crowd.

    Args:
        data (Data): As in :func:`select_nodes`. ``from_features`` makes a graph of
            neighbours first, ``from_graph`` knows no features.
        embeddings (Tensor, optional): As in :func:`select_nodes`. Default: None.
        function (Tensor or Callable, optional): f instead of the norm, as in
            :class:`MarginInfluence`. Default: None.
        paper (bool or str, optional): See above. Default: False.
        **options: Fields of :class:`ActiveLearningSettings`.

    Raises:
        TypeError: As :func:`select_nodes`.
        ValueError: As :func:`select_nodes`.

    Cost: as :func:`select_nodes`; with ``paper``, or without features, that of
    :func:`embed_nodes`.

    >>> two_stars = torch.tensor([[0, 0, 0, 4, 4, 4], [1, 2, 3, 5, 6, 7]])
    >>> norm = torch.tensor([9.0, 1.0, 1.0, 1.0, 5.0, 1.0, 1.0, 1.0])
    >>> data = Data(edge_index=two_stars, num_nodes=8)
    >>> learning = ActiveLearning(data, embeddings=norm[:, None])
    >>> learning.influence(k=2).indices.tolist()
    [[0, 4]]
    """

    settings: ClassVar[Settings] = ActiveLearningSettings(sided="above")
    paper_settings: ClassVar[Settings] = ActiveLearningSettings(
        shift="symmetric", isolated="keep"
    )
    _candidates: Tensor | None = None
    _embeddings: Tensor | None = None
    _points: Tensor | None = None

    def __init__(
        self,
        data: Any,
        *,
        embeddings: Tensor | None = None,
        function: Function | None = None,
        paper: bool | Paper = False,
        **options: Unpack[ActiveLearningOptions],
    ) -> None:
        """See the class."""
        data = with_edge_index(data)
        samples = samples_of(data)
        assert samples.graph is not None
        self._start(samples, function, paper, None, options)
        if embeddings is not None:
            nodes = samples.graph.num_nodes
            self._embeddings = rows_of(embeddings, nodes, "embeddings")
        self._candidates = not_held_out(data, samples.graph)

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
        **options: Unpack[ActiveLearningOptions],
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
        **options: Unpack[ActiveLearningOptions],
    ) -> Self:
        return cls._of_graph(
            graph, labels, class_names, images, function, paper, options
        )

    def select(
        self,
        budget: int,
        *,
        candidates: Any = None,
        labelled: Any = None,
        per_class: bool = False,
    ) -> Tensor:
        """The nodes to label, as :func:`select_nodes` chooses them.

        Args:
            budget (int): As there.
            candidates (Tensor, optional): As there. Default: None.
            labelled (Tensor, optional): As there. Default: None.
            per_class (bool, optional): As there. Default: False.

        Returns:
            Tensor: Node indices in the order of picking, int64.

        Raises:
            TypeError: As there.
            ValueError: As there.
        """
        if not is_whole(budget):
            raise TypeError(f"expected an integer budget (got {budget!r})")
        if budget < 0:
            raise ValueError(f"expected a budget >= 0 (got {budget})")
        samples = self._with_graph()
        graph = samples.graph
        assert graph is not None
        groups = samples.labels
        if per_class and groups is None:
            raise ValueError(
                "expected one class per node in data.y with per_class=True (got none); "
                "leave it out to choose without labels"
            )
        pool = self._candidates
        if candidates is not None or pool is None:
            everyone = torch.arange(graph.num_nodes, device=graph.edge_index.device)
            given = everyone if candidates is None else candidates
            pool = indices_of(given, graph, "candidates")
        done = pool[:0] if labelled is None else indices_of(labelled, graph, "labelled")
        if not per_class:
            groups = None
        free = pool[~torch.isin(pool, done)]
        if groups is None:
            warn_of_few_candidates(budget, len(free))
        if self.paper:
            pool = free
            return _highest(self.self_influence(), pool, budget, groups)
        weighted = self._used().weighted or self.function is not None
        return select_covering(
            self._embedding(samples),
            budget,
            weight=self.result().function if weighted else None,
            candidates=pool,
            chosen=done,
            groups=groups,
            seed=self._used().seed,
        )

    def _signal(self, graph: Graph, samples: Samples) -> Tensor:
        norm: Tensor = self._embedding(samples).norm(dim=1)
        return norm

    def _answer(self, samples: Samples) -> Any:
        return super()._answer(self._with_graph())

    def _other(self, inputs: Any) -> Any:
        if isinstance(inputs, Data):
            raise ValueError(
                "expected inputs=None (got another graph); start with it anew"
            )
        return super()._other(inputs)

    def _with_graph(self) -> Samples:
        """The samples with their graph, which is made of features only once."""
        assert self._samples is not None  # the constructors see to it
        if self._samples.graph is None:
            graph = self._neighbors(self._samples)
            self._samples = self._samples._replace(graph=graph)
        return self._samples

    def _embedding(self, samples: Samples) -> Tensor:
        """What is compared, shape (N, F): given, propagated or learnt, and centred."""
        if self._points is None:
            z, x, graph = self._embeddings, samples.features, samples.graph
            assert graph is not None
            x = None if x is None else x.to_dense()
            if z is None and x is not None and not self.paper:
                x = x.to(torch.promote_types(x.dtype, torch.float32))
                z = _propagated(unit_rows(x), graph, self._used().reach)
            elif z is None:
                data = Data(x, graph.edge_index, num_nodes=graph.num_nodes)
                z = embed_nodes(data, seed=self._used().seed)
            self._points = z if self.paper else z - z.mean(dim=0)
        return self._points

    def _used(self) -> ActiveLearningSettings:
        assert isinstance(self.used, ActiveLearningSettings)
        return self.used


name_options(select_nodes, ActiveLearning.settings)
select_nodes.__doc__ = document_options(
    select_nodes.__doc__, ActiveLearning.settings, ActiveLearning.paper_settings
)


def _highest(
    scores: Tensor, pool: Tensor, budget: int, groups: Tensor | None
) -> Tensor:
    """The highest scores of the pool, of each group."""
    order: Tensor = pool[rank(scores[pool])]
    if groups is None:
        return order[:budget]
    mine = groups[order]
    within = torch.empty_like(order)
    for group in mine.unique():
        of_group = mine == group
        within[of_group] = torch.arange(int(of_group.sum()), device=order.device)
    chosen: Tensor = order[within < budget]
    return chosen


def _propagated(x: Tensor, graph: Graph, steps: int) -> Tensor:
    """The mean over each node and its neighbours, so many times."""
    if steps == 0:
        return x
    loops = torch.arange(graph.num_nodes, device=x.device).expand(2, -1)
    edges = torch.cat([graph.edge_index, loops], dim=1)
    weight = graph.edge_weight
    if weight is not None:
        weight = torch.cat([weight, weight.new_ones(graph.num_nodes)])
    low: Tensor = x - HighPass(hops=steps)(x, edges, weight)
    return low
