"""The choice of nodes as a transform of PyTorch Geometric."""

from __future__ import annotations

from typing import Any

import torch
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform

from captum_margin.influence._nodes import indices_of
from captum_margin.influence.active_learning import ActiveLearning

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
        **options: Those of :class:`~captum_margin.influence.ActiveLearning`, for
            example ``seed`` or ``paper``.

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
        **options: Any,
    ) -> None:
        """See the class."""
        self.budget = budget
        self.candidates = candidates
        self.labelled = labelled
        self.per_class = per_class
        self.options = options

    def forward(self, data: Any) -> Data:
        """The graph ``data`` with its scores and its choice; called on a copy."""
        if not isinstance(data, Data):
            raise TypeError(
                "expected a torch_geometric.data.Data with one type of nodes "
                f"(got {type(data).__name__}); convert a HeteroData by "
                ".to_homogeneous()"
            )
        learning = ActiveLearning(data, **self.options)
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
