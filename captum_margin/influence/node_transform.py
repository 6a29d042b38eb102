"""The choice of nodes as a transform of PyTorch Geometric."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform
from typing_extensions import Unpack

from captum_margin.influence._nodes import indices_of
from captum_margin.influence._options import document_options, name_options
from captum_margin.influence._published import Paper, paper_form
from captum_margin.influence.active_learning import (
    ActiveLearning,
    ActiveLearningOptions,
)
from captum_margin.influence.base import Function
from captum_margin.influence.settings import replaced

__all__ = ["SelectNodes"]


class SelectNodes(BaseTransform):
    r"""Chooses the nodes to label and writes them into the graph.

    Adds to a :class:`~torch_geometric.data.Data`

    - ``margin_score``: the scores of
      :class:`~captum_margin.influence.ActiveLearning`, shape (N,);
    - ``train_mask``: bool of shape (N,), true at the chosen nodes, and at those of
      ``labelled`` if given. A ``train_mask`` that is there is replaced and not looked
      at; candidates are the nodes outside ``val_mask`` and ``test_mask``.

    Args:
        budget (int): As in :func:`~captum_margin.influence.select_nodes`.
        candidates (Tensor, optional): As there. Default: None.
        labelled (Tensor, optional): As there. Default: None.
        per_class (bool, optional): As there. Default: False.
        embeddings (Tensor, optional): As there. Default: None.
        function (Tensor or Callable, optional): As in
            :class:`~captum_margin.influence.ActiveLearning`. Default: None.
        paper (bool or str, optional): As in ``select_nodes``. Default: False.
        **options: Those of :class:`~captum_margin.influence.ActiveLearning`.

    Raises:
        TypeError: If the graph is no ``Data``, or as ``select_nodes``.
        ValueError: As ``select_nodes``.

    Cost: that of ``select_nodes``.

    >>> import torch_geometric.transforms as T
    >>> two_stars = torch.tensor([[0, 0, 0, 4, 4, 4], [1, 2, 3, 5, 6, 7]])
    >>> data = Data(x=torch.eye(2)[[0, 0, 0, 0, 1, 1, 1, 1]], edge_index=two_stars)
    >>> T.Compose([T.ToUndirected(), SelectNodes(2)])(data).train_mask.nonzero().T
    tensor([[0, 4]])
    """

    def __init__(
        self,
        budget: int,
        *,
        candidates: Any = None,
        labelled: Any = None,
        per_class: bool = False,
        embeddings: Tensor | None = None,
        function: Function | None = None,
        paper: bool | Paper = False,
        **options: Unpack[ActiveLearningOptions],
    ) -> None:
        """See the class."""
        replaced(ActiveLearning.settings, options, self.__class__.__name__)
        self.budget = budget
        self.candidates = candidates
        self.labelled = labelled
        self.per_class = per_class
        self.embeddings = embeddings
        self.function = function
        self.paper = paper_form(paper) or False
        self.options = options

    def forward(self, data: Any) -> Data:
        """The graph ``data`` with its scores and its choice; called on a copy."""
        if not isinstance(data, Data):
            raise TypeError(
                "expected a torch_geometric.data.Data with one type of nodes "
                f"(got {type(data).__name__}); convert a HeteroData by "
                ".to_homogeneous()"
            )
        learning = ActiveLearning(
            data,
            embeddings=self.embeddings,
            function=self.function,
            paper=self.paper,
            **self.options,
        )
        chosen = learning.select(
            self.budget,
            candidates=self.candidates,
            labelled=self.labelled,
            per_class=self.per_class,
        )
        result = learning.result()
        data.margin_score = result.scores
        mask = torch.zeros(data.num_nodes, dtype=torch.bool, device=chosen.device)
        mask[chosen] = True
        if self.labelled is not None:
            mask[indices_of(self.labelled, result.graph, "labelled")] = True
        data.train_mask = mask
        return data

    def __repr__(self) -> str:
        """The call, in the form of PyTorch Geometric."""
        return f"{self.__class__.__name__}(budget={self.budget})"


name_options(SelectNodes.__init__, ActiveLearning.settings)
SelectNodes.__doc__ = document_options(
    SelectNodes.__doc__, ActiveLearning.settings, ActiveLearning.paper_settings
)
