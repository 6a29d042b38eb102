"""Approximate neighbours in memory by the lists and the k-means of faiss."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_margin.neighbors._lists import (
    faiss_threads,
    members_of,
    nearest_members,
    place_lists,
    take_pilots,
)
from captum_margin.neighbors.rows import Metric, Rows, check_search

__all__ = ["FaissSearch"]

# Points whose neighbours are looked for at once.
_QUERIES = 2**18


class FaissSearch:
    """Nearest neighbours among the members of near lists, by faiss.

    For ``pip install captum-margin[scale]``. k-means puts the points into about
    4 sqrt(N) lists. Each point is compared with the members of as many of the nearest
    lists as the recall asks for on 500 points, whose exact neighbours are found first.

    Args:
        metric (str, optional): ``"euclidean"`` or ``"cosine"``.
            Default: ``"euclidean"``.
        recall (float, optional): Share of the true neighbours to be found.
            Default: 0.95.
        seed (int, optional): Of the samples and of k-means. Default: 0.
        show_progress (bool, optional): A bar over the points. Default: False.

    Raises:
        ValueError: If faiss is not installed.

    Cost: O(N · sqrt(N) · F) time for the lists, O(N · M · F) for the neighbours with M
    compared points, some thousands; memory for a float32 copy of the points, the
    lists of each point and the result. Points that fit in memory as they are but not
    twice: :func:`~captum_margin.scale.build_shards`.

    >>> x = torch.arange(200.0)[:, None]
    >>> indices, distances = FaissSearch()(x, 2)
    >>> indices[100].sort().values.tolist()
    [99, 101]
    """

    name = "faiss"

    def __init__(
        self,
        metric: Metric = "euclidean",
        *,
        recall: float = 0.95,
        seed: int = 0,
        show_progress: bool = False,
    ) -> None:
        """See the class."""
        self.metric = metric
        self.recall = recall
        self.seed = seed
        self.show_progress = show_progress

    def __call__(self, X: Any, k: int) -> tuple[Tensor, Tensor]:
        """The ``k`` nearest others of each row of ``X``, as :class:`NeighborSearch`."""
        rows = Rows(X, self.metric)
        found = check_search(rows, k)
        indices = torch.full((len(rows), k), -1)
        distances = torch.full((len(rows), k), torch.inf)
        if found:
            indices[:, :found], distances[:, :found] = self._search(rows, None, found)
        return indices.to(rows.device), distances.to(rows.device)

    def among(self, X: Any, queries: Any, k: int) -> tuple[Tensor, Tensor]:
        """The nearest rows of X of queries that are none of them.

        Args:
            X (Any): N points.
            queries (Any): Shape (Q, F).
            k (int): Neighbours, at most N.

        Returns:
            tuple[Tensor, Tensor]: Indices and distances, (Q, k).
        """
        rows = Rows(X, self.metric)
        near, distance = self._search(rows, Rows(queries, self.metric), k)
        return near.to(rows.device), distance.to(rows.device)

    def _search(
        self, rows: Rows, queries: Rows | None, k: int
    ) -> tuple[Tensor, Tensor]:
        with faiss_threads():
            lists = place_lists(rows, self.seed)
            pilots = take_pilots(rows, k, self.seed, queries)
            count = pilots.lists_needed(lists, rows, self.recall)
            # Lists of each row: that of its own, or all that it looks into.
            width = 1 if queries else count
            near = np.empty((len(rows), width), np.int32)
            for block in rows.blocks():
                near[block] = lists.near(lists.centred(rows[block]), width)
            order = near[:, 0].argsort(kind="stable")
            place = np.empty_like(order)
            place[order] = np.arange(len(order))
            points = np.empty((len(rows), rows.width), np.float32)
            for block in rows.blocks():
                points[place[block]] = lists.centred(rows[block])
            sizes = np.bincount(near[:, 0], minlength=len(lists.centres))
            members = members_of([points], sizes, k)
            indices = np.empty((len(queries or rows), k), np.int64)
            distances = np.empty((len(queries or rows), k), np.float32)
            blocks = (queries or rows).blocks(_QUERIES)
            for block in tqdm(blocks, "neighbours", disable=not self.show_progress):
                if queries is None:
                    own, skip = order[block], np.arange(block.start, block.stop)
                    given, looked_into = points[block], near[own]
                else:
                    own, skip = block, None
                    given = lists.centred(queries[block])
                    looked_into = lists.near(given, count)
                at, distances[own] = nearest_members(
                    given, looked_into, lists, members, k, skip
                )
                indices[own] = order[at]
        return torch.from_numpy(indices), torch.from_numpy(distances)
