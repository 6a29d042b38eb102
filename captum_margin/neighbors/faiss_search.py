"""Approximate neighbours by an inverted file of faiss."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from captum_margin.neighbors.recall import found_share, nearest_to, sample_rows
from captum_margin.neighbors.rows import Metric, Rows, check_search, pair_distances

__all__ = ["FaissSearch"]

_PILOTS = 500
_MARGIN = 0.005
_SAMPLE_PER_CELL = 40


class FaissSearch:
    """An IVF index of faiss (``pip install captum-margin[scale]``).

    Slower than :class:`CellSearch` where the points fit in memory as they are;
    ``compressed=True`` stores them in 8 bits a number instead. The number of probed
    lists is chosen on 500 rows.

    Args:
        metric (str, optional): ``"euclidean"`` or ``"cosine"``.
            Default: ``"euclidean"``.
        recall (float, optional): Share of the true neighbours to be found.
            Default: 0.95.
        seed (int, optional): Of the samples. Default: 0.
        compressed (bool, optional): 8-bit codes (SQ8), a quarter of the memory; the
            neighbours' distances are computed anew from the rows. Default: False.

    Raises:
        ValueError: If faiss is not installed.
    """

    name = "faiss"

    def __init__(
        self,
        metric: Metric = "euclidean",
        *,
        recall: float = 0.95,
        seed: int = 0,
        compressed: bool = False,
    ) -> None:
        """See the class."""
        self.metric = metric
        self.recall = recall
        self.seed = seed
        self.compressed = compressed

    def __call__(self, X: Any, k: int) -> tuple[Tensor, Tensor]:
        """Indices (N, k), -1 where there are no more, and distances (N, k)."""
        faiss = _faiss()
        rows = Rows(X, self.metric)
        found = check_search(rows, k)
        indices = torch.full((len(rows), k), -1)
        distances = torch.full((len(rows), k), torch.inf)
        if found == 0:
            return indices.to(rows.device), distances.to(rows.device)
        threads = faiss.omp_get_max_threads()
        # With a second OpenMP in the process more than one thread crashes on macOS.
        faiss.omp_set_num_threads(
            1 if sys.platform == "darwin" else torch.get_num_threads()
        )
        try:
            index = self._index(faiss, rows)
            index.nprobe = self._probes(index, rows, found)
            for block in rows.blocks(2**14):
                points = rows[block].cpu()
                own = torch.arange(block.start, block.stop)
                # One more: a point finds itself, as a rule.
                near = _search(index, points, found + 1)
                near[near == own[:, None]] = -1
                distance = _distances(rows, points, near)
                distance, order = distance.sort(dim=1)
                indices[block, :found] = near.gather(1, order)[:, :found]
                distances[block, :found] = distance[:, :found]
        finally:
            faiss.omp_set_num_threads(threads)
        return indices.to(rows.device), distances.to(rows.device)

    def _index(self, faiss: Any, rows: Rows) -> Any:
        """The trained index with all rows in it."""
        lists = max(1, min(round(4 * len(rows) ** 0.5), len(rows) // 40))
        code = "SQ8" if self.compressed else "Flat"
        index = faiss.index_factory(rows.width, f"IVF{lists},{code}")
        index.cp.seed = self.seed
        index.cp.min_points_per_centroid = 1
        drawn = sample_rows(len(rows), _SAMPLE_PER_CELL * lists, self.seed)
        index.train(rows.take(drawn).cpu().numpy())
        for block in rows.blocks():
            index.add(rows[block].cpu().numpy())
        return index

    def _probes(self, index: Any, rows: Rows, k: int) -> int:
        """The lists to probe, seen on some rows."""
        pilots = sample_rows(len(rows), _PILOTS, self.seed + 1)
        queries = rows.take(pilots)
        _, distance = nearest_to(rows, queries, k, skip=pilots.to(rows.device))
        probes = 1
        while True:
            index.nprobe = min(probes, index.nlist)
            near = _search(index, queries.cpu(), k + 1)
            near[near == pilots[:, None]] = -1
            near = near.to(rows.device)
            share = found_share(
                rows, pilots.to(rows.device), near, distance[:, -1], k=k
            )
            if float(share.mean()) >= self.recall + _MARGIN or probes >= index.nlist:
                return int(index.nprobe)
            probes = probes + max(1, probes // 3)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise ValueError(
            "backend 'faiss' needs faiss (got none installed): "
            "pip install captum-margin[scale]"
        ) from None
    return faiss


def _search(index: Any, points: Tensor, k: int) -> Tensor:
    """Indices (Q, k), -1 where the probed lists have too few."""
    return torch.from_numpy(index.search(points.numpy(), k)[1])


def _distances(rows: Rows, points: Tensor, near: Tensor) -> Tensor:
    """Distances (Q, k) from the rows themselves, infinity at -1."""
    wanted, place = near.clamp(min=0).unique(return_inverse=True)
    distance = pair_distances(points, rows.take(wanted).cpu(), place)
    return distance.masked_fill(near < 0, torch.inf)
