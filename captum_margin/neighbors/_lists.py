"""Lists of near points, placed by faiss, and the search through them list by list.

A point is in the list whose centre is nearest to it, and is compared with the members
of the lists near to it. All queries of a list are compared at once: one matrix product
instead of one search for each query, as in ``faiss.contrib.big_batch_search``, here for
points that lie in memory or in the blocks of a folder.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from captum_margin._numbers import not_far_off
from captum_margin.neighbors.recall import nearest_to, sample_rows
from captum_margin.neighbors.rows import Rows

__all__ = [
    "Lists",
    "Members",
    "Pilots",
    "faiss_threads",
    "members_of",
    "nearest_members",
    "place_lists",
    "take_pilots",
]

Array = np.ndarray

# 4 sqrt(N) lists, fewer where they would be short; rounds of k-means and points of its
# sample per list: chosen with bench_neighbors' data.
_LISTS = 4
_SHORTEST = 40
_ROUNDS = 4
_SAMPLE = 40
# A list of more members, and of so many times the average, of duplicates say, is cut.
_LARGEST = 2**13
_TIMES_AVERAGE = 8
# The pilots are a sample: what is asked of them beyond the recall.
_PILOTS = 500
_MARGIN = 0.005
# Pairs of a query and a list, and numbers of a block of differences, held at once.
_PAIRS = 2**22
_BLOCK_NUMBERS = 2**18


@contextmanager
def faiss_threads() -> Iterator[Any]:
    """The library, with as many threads as torch has; their number is restored.

    Raises:
        ValueError: If faiss is not installed.
    """
    faiss = _faiss()
    # Two OpenMP in one process crash on macOS; threads of a forked one may hang.
    alone = sys.platform == "darwin" or multiprocessing.parent_process() is not None
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1 if alone else torch.get_num_threads())
    try:
        yield faiss
    finally:
        faiss.omp_set_num_threads(before)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise ValueError(
            "expected faiss for approximate neighbours (got none installed): "
            "pip install captum-margin[scale]"
        ) from None
    return faiss


class Lists(NamedTuple):
    """L lists, as they were placed.

    Args:
        mean (ndarray): Of what is not far off, taken from all points: small numbers,
            small rounding errors; (F,).
        centres (ndarray): Of the lists, (L, F) float32, near ones close together.
    """

    mean: Array
    centres: Array

    def centred(self, points: Tensor) -> Array:
        """Points (n, F) less the mean."""
        centred: Array = points.cpu().numpy() - self.mean
        return centred

    def near(self, centred: Array, count: int = 1) -> Array:
        """The lists nearest to centred points, nearest first, (n, count) int32."""
        near: Array = _faiss().knn(centred, self.centres, count)[1]
        return near.astype(np.int32)


def place_lists(rows: Rows, seed: int) -> Lists:
    """Places lists by k-means of faiss on a sample of the rows.

    Cost: O(N · F) time and O(sqrt(N) · F) memory, both some hundreds of times.
    """
    faiss = _faiss()
    number = round(min(_LISTS * len(rows) ** 0.5, len(rows) / _SHORTEST)) or 1
    sample = rows.take(sample_rows(len(rows), _SAMPLE * number, seed)).cpu().numpy()
    near = sample[not_far_off(torch.from_numpy(sample)).numpy()]
    same = (near == near[0]).all(axis=0)  # whose mean may be rounded to another
    mean = np.where(same, near[0], near.mean(axis=0))
    sample -= mean

    def k_means(points: Array, k: int) -> Any:
        few = {"min_points_per_centroid": 1, "max_points_per_centroid": len(points)}
        means = faiss.Kmeans(rows.width, k, niter=_ROUNDS, seed=seed, **few)
        means.train(points)
        return means

    centres = k_means(sample, number).centroids
    groups = k_means(centres, round(number**0.5))
    order = groups.index.search(centres, 1)[1].ravel().argsort(kind="stable")
    return Lists(mean, centres[order])


class Pilots(NamedTuple):
    """Some rows, or queries, whose neighbours are known.

    Args:
        samples (Tensor): Which, (P,).
        points (Tensor): Shape (P, F).
        true (Tensor): Their k nearest rows, (P, k), and how far they are.
        distances (Tensor): Shape (P, k).
    """

    samples: Tensor
    points: Tensor
    true: Tensor
    distances: Tensor

    def lists_needed(self, lists: Lists, rows: Rows, recall: float) -> int:
        """How many of the lists nearest to a point hold this share of its neighbours.

        Cost: O(P (k + L) F) time, O(P L) memory for L lists.
        """
        wanted, place = self.true.unique(return_inverse=True)
        home = lists.near(lists.centred(rows.take(wanted)))[place.cpu().numpy(), 0]
        number = len(lists.centres)
        near = lists.near(lists.centred(self.points), number)
        rank = np.empty_like(near)
        np.put_along_axis(rank, near, np.arange(number, dtype=np.int32)[None], axis=1)
        rank = np.take_along_axis(rank, home, axis=1)
        # Which of many duplicates are found makes no difference.
        rank[(self.distances == 0).cpu().numpy()] = 0
        found = np.bincount(rank.ravel(), minlength=number).cumsum() / rank.size
        return int((found < min(recall + _MARGIN, 1)).sum()) + 1


def take_pilots(rows: Rows, k: int, seed: int, queries: Rows | None = None) -> Pilots:
    """Finds the neighbours of 500 rows, or queries, among all rows."""
    samples = sample_rows(len(queries or rows), _PILOTS, seed + 1).to(rows.device)
    points = (queries or rows).take(samples).to(rows.device)
    skip = samples if queries is None else None
    return Pilots(samples, points, *nearest_to(rows, points, k, skip=skip))


class Members(NamedTuple):
    """The rows, numbered list by list.

    Args:
        blocks (Sequence of ndarray): Their centred points, (n, F) float32 each, arrays
            or memory maps; no list is in two of them.
        starts (ndarray): First row of each block, and N; (B + 1,).
        parts (ndarray): First row of each part of a list, and N; (T + 1,).
        first (ndarray): First part of each list, and T; (L + 1,).
    """

    blocks: Sequence[Array]
    starts: Array
    parts: Array
    first: Array


def members_of(blocks: Sequence[Array], sizes: Array, k: int) -> Members:
    """The members of lists of these sizes; what is too large for one part is cut.

    A query looks into one part of a list: of duplicates it needs no more.
    """
    most = max(_LARGEST, _TIMES_AVERAGE * sizes.sum() // len(sizes), 4 * (k + 1))
    pieces = np.maximum(1, -(-sizes // most))
    first = np.append(0, pieces.cumsum())
    of = np.repeat(np.arange(len(sizes)), pieces)
    begin = (sizes.cumsum() - sizes)[of]
    parts = begin + (np.arange(len(of)) - first[of]) * sizes[of] // pieces[of]
    starts = np.cumsum([0, *map(len, blocks)])
    return Members(blocks, starts, np.append(parts, sizes.sum()), first)


def nearest_members(
    queries: Array,
    near: Array,
    lists: Lists,
    members: Members,
    k: int,
    skip: Array | None = None,
) -> tuple[Array, Array]:
    """The k nearest rows of each query in the lists that it looks into.

    Args:
        queries (ndarray): Centred points, (n, F) float32.
        near (ndarray): Lists that each looks into, (n, P).
        lists (Lists): All, for queries that find fewer than k rows in theirs.
        members (Members): Of the lists.
        k (int): At most N, or N - 1 with ``skip``.
        skip (ndarray, optional): The row that each query is, (n,). Default: None.

    Returns:
        Rows (n, k) and distances in float32, by differences, so that duplicates are at
        0; nearest first, equal distances by row.

    Cost: O(n · M · F) time with M members of P lists; O(n (F + k)) memory.
    """
    wide = k if skip is None else k + 1  # itself
    found = np.empty((len(queries), wide), np.int64)
    step = max(1, _PAIRS // near.shape[1])
    for start in range(0, len(queries), step):
        some = slice(start, start + step)
        found[some] = _join(queries[some], near[some], members, wide)
    count, number = near.shape[1], len(lists.centres)
    few = np.arange(len(queries))
    while len(few := few[(found[few] < 0).any(axis=1)]) and count < number:
        count = min(4 * count, number)
        step = max(1, _PAIRS // count)
        for few_at_once in np.split(few, range(step, len(few), step)):
            points = queries[few_at_once]
            near = lists.near(points, count)
            found[few_at_once] = _join(points, near, members, wide)
    if skip is not None:
        found[found == skip[:, None]] = -1
    square = _squares(queries, found, members)
    order = np.lexsort((found, square), axis=1)[:, :k]
    square = np.take_along_axis(square, order, axis=1)
    return np.take_along_axis(found, order, axis=1), np.sqrt(square)


def _join(queries: Array, near: Array, members: Members, k: int) -> Array:
    """Rows of the k nearest members, (n, k), in any order; -1 where there are fewer."""
    faiss = _faiss()
    pieces = np.diff(members.first)[near]
    part = members.first[near] + np.arange(len(near))[:, None] % pieces
    order = part.ravel().argsort(kind="stable")
    which, begin = np.unique(part.ravel()[order], return_index=True)
    of_parts = np.split(order // near.shape[1], begin[1:])
    block = np.searchsorted(members.starts, members.parts[which], side="right") - 1
    heap = faiss.ResultHeap(len(queries), k)
    for b, t, rows in zip(block.tolist(), which.tolist(), of_parts, strict=True):
        low, high = members.parts[t], members.parts[t + 1]
        if low == high:
            continue
        points = members.blocks[b][low - members.starts[b] : high - members.starts[b]]
        distance, found = faiss.knn(queries[rows], points, min(k, len(points)))
        heap.add_result_subset(rows, distance, found + low)
    ids: Array = heap.I
    return ids


def _squares(queries: Array, found: Array, members: Members) -> Array:
    """Squared distances (n, k) of the rows found, infinity at -1."""
    k, ids = found.shape[1], found.ravel()
    square = np.full(ids.size, np.inf, np.float32)
    block = np.searchsorted(members.starts, ids, side="right") - 1  # -1 for none
    order = block.argsort(kind="stable")
    ends = np.searchsorted(block[order], np.arange(len(members.blocks) + 1))
    step = max(1, _BLOCK_NUMBERS // queries.shape[1])
    for b in np.flatnonzero(np.diff(ends)).tolist():
        for begin in range(ends[b], ends[b + 1], step):
            pairs = order[begin : min(begin + step, ends[b + 1])]
            apart = members.blocks[b][ids[pairs] - members.starts[b]]
            apart = apart - queries[pairs // k]
            square[pairs] = np.einsum("ij,ij->i", apart, apart)
    return square.reshape(found.shape)
