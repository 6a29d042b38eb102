"""Approximate neighbours by pynndescent, where it is installed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from captum_margin.neighbors.rows import Rows, check_search

__all__ = ["PyNNDescentSearch"]

_FEWEST = 64  # rows, below which its forest has nothing to split


class PyNNDescentSearch:
    """NN-descent of pynndescent (``pip install pynndescent``), for its many metrics.

    It compiles itself at the first call in a process, about a minute.

    Args:
        metric (str, optional): Any that pynndescent knows; under ``"cosine"`` distances
            are Euclidean between unit rows, as those of all backends.
            Default: ``"euclidean"``.
        seed (int, optional): Of its random choices. Default: 0.

    Raises:
        ValueError: If pynndescent is not installed or there are fewer than 64 rows.

    Cost: that of pynndescent; memory for a float32 copy of the points and its index.

    >>> search = PyNNDescentSearch("manhattan")  # find_neighbors(X, k, backend=search)
    >>> search.name
    'pynndescent'
    """

    name = "pynndescent"

    def __init__(self, metric: str = "euclidean", *, seed: int = 0) -> None:
        """See the class."""
        self.metric = metric
        self.seed = seed

    def __call__(self, X: Any, k: int) -> tuple[Tensor, Tensor]:
        """The ``k`` nearest others of each row of ``X``, as :class:`NeighborSearch`."""
        try:
            from pynndescent import NNDescent
        except ImportError:
            raise ValueError(
                "backend 'pynndescent' needs pynndescent (got none installed): "
                "pip install pynndescent"
            ) from None
        metric = self.metric
        rows = Rows(X, "cosine" if metric == "cosine" else "euclidean")
        found = check_search(rows, k)
        if len(rows) < _FEWEST:
            raise ValueError(
                f"expected at least {_FEWEST} rows for pynndescent (got {len(rows)}); "
                "use backend='exact'"
            )
        if metric == "cosine":
            metric = "euclidean"  # of unit rows
        points = torch.cat([rows[block].cpu() for block in rows.blocks()]).numpy()
        threads = torch.get_num_threads()
        try:
            # Itself is among its own, as a rule.
            index = NNDescent(
                points,
                n_neighbors=min(found + 1, len(rows)),
                metric=metric,
                random_state=self.seed,
                n_jobs=threads,
            )
        finally:
            torch.set_num_threads(threads)  # Numba's start gives torch all the cores
        near, distance = (torch.from_numpy(part) for part in index.neighbor_graph)
        near, distance = near.long(), distance.float()
        own = torch.arange(len(rows))[:, None]
        left_out = (near == own) | (near < 0)
        distance = distance.masked_fill(left_out, torch.inf)
        near = near.masked_fill(left_out, -1)
        distance, order = distance.sort(dim=1, stable=True)
        indices = torch.full((len(rows), k), -1)
        distances = torch.full((len(rows), k), torch.inf)
        indices[:, :found] = near.gather(1, order)[:, :found]
        distances[:, :found] = distance[:, :found]
        return indices.to(rows.device), distances.to(rows.device)
