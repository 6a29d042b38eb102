"""The k-nearest-neighbour rows of more features than fit in memory, with checkpoints.

faiss places lists of near points once, on a sample. Each row is compared with the
members of the lists nearest to it, as many as the recall asks for: on 500 rows whose
exact neighbours are known, one sees in which of their nearest lists these lie.

Rows are numbered list by list, so neighbours lie near each other on the disk, and a
block of rows reads few other blocks. All steps are tasks of blocks, written as they
are finished.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from captum_margin._numbers import check_span
from captum_margin._whole_numbers import is_whole
from captum_margin.neighbors._lists import (
    Lists,
    faiss_threads,
    members_of,
    nearest_members,
    place_lists,
    take_pilots,
)
from captum_margin.neighbors.rows import Metric
from captum_margin.scale._features import (
    FeatureSource,
    data_of,
    feature_source,
    fingerprint,
    open_features,
)
from captum_margin.scale._folder import (
    BlockFolder,
    remove_folder,
    write_array,
    write_text,
)
from captum_margin.scale.executor import map_blocks
from captum_margin.scale.shards import BLOCK_SIZE, RowShards

__all__ = ["build_shards", "recall_of"]


def build_shards(
    features: Any,
    path: str | os.PathLike[str],
    k: int,
    *,
    metric: Metric = "euclidean",
    seed: int = 0,
    executor: Any = None,
    recall: float = 0.95,
    block_size: int = BLOCK_SIZE,
    show_progress: bool = False,
) -> RowShards:
    """Finds the k nearest neighbours of each row, on disk, and goes on where it was.

    Kill it anywhere and call it again: what was finished is read, not repeated, and the
    result is the same, byte for byte, with any executor.

    Args:
        features (array or path): Shape (N, F): an array, a memory map, a tensor or the
            path of a ``.npy`` file; processes open a file themselves.
        path (str or Path): The folder of the shards.
        k (int): Neighbours per node, at least 1 and below N.
        metric (str, optional): ``"euclidean"``, or ``"cosine"``: Euclidean between unit
            rows, where rows of zeros stay zero. Default: ``"euclidean"``.
        seed (int, optional): Of the sample, the lists and the pilots. Default: 0.
        executor (optional): As in :func:`~captum_margin.scale.map_blocks`.
            Default: None.
        recall (float, optional): Share of the exact neighbours to be found, in (0, 1].
            What was found of those of 500 rows is in :func:`recall_of`. Default: 0.95.
        block_size (int, optional): Rows of a task, about. Default: 262,144.
        show_progress (bool, optional): A bar over the blocks. Default: False.

    Returns:
        RowShards: Distances in float32, rows numbered list by list (``order``), each
        row by distance, ties by row. Near the features, in the same order, they are in
        ``path/points``.

    Raises:
        ValueError: If faiss is not installed, an argument is out of its range, features
            are not finite, or the folder belongs to another request.

    Cost: about O(N sqrt(N) F) time, of which little is in interpreted code; O(N) memory
    for the numbering, and O(block_size (F + k)) per worker; (F + 2 k + P) · 4 · N bytes
    of disk with P lists that a row looks into, some ten as a rule. Reading the features
    list by list is fast while they fit in the page cache. faiss has the threads of
    torch here, and one in a worker process.

    >>> import tempfile
    >>> x = np.array([[0.0], [1.0], [3.0]])
    >>> rows = build_shards(x, tempfile.mkdtemp(), k=1)
    >>> rows.to_graph().edge_index.tolist()
    [[1, 0, 2, 1], [0, 1, 1, 2]]
    """
    source = open_features(features)
    shape = data_of(source).shape
    if len(shape) != 2 or 0 in shape:
        raise ValueError(
            f"expected features of shape (N, F) with N, F >= 1 (got {tuple(shape)}); "
            "flatten each sample to one row"
        )
    n = int(shape[0])
    if not is_whole(k) or not 1 <= k < n:
        raise ValueError(f"expected an integer k in [1, N) = [1, {n}) (got {k!r})")
    if metric not in ("euclidean", "cosine"):
        raise ValueError(f"expected metric 'euclidean' or 'cosine' (got {metric!r})")
    if not 0 < recall <= 1:
        raise ValueError(f"expected recall in (0, 1] (got {recall})")
    if block_size < 1:
        raise ValueError(f"expected block_size >= 1 (got {block_size})")
    check_span(data_of(source), metric, single=True)
    path = Path(path)
    if not (path / "plan.json").exists():
        remove_folder(path / "assigned")  # of features that could not be read
    request = {
        "num_nodes": n,
        "k": k,
        "metric": metric,
        "seed": seed,
        "recall": recall,
        "fingerprint": fingerprint(features),
        "starts": [*range(0, n, block_size), n],
    }
    assigned = _folder(path / "assigned", {"form": "lists", **request})
    with feature_source(source, metric, path / "assigned", executor) as data:
        if not (path / "plan.json").exists():
            _plan(path, data, n, k, recall, seed)
        task = partial(_assign_block, assigned, path, data)
        _run(task, assigned.unfinished, executor, show_progress, "lists")
        starts, order = _numbering(path, assigned, block_size)
        points = _folder(
            path / "points", {"form": "points", **request, "starts": starts.tolist()}
        )
        shards = RowShards.create(
            path,
            n,
            k,
            metric=metric,
            seed=seed,
            fingerprint=str(request["fingerprint"]),
            starts=starts,
            order=order,
        )
        task = partial(_gather_block, points, path, data)
        _run(task, points.unfinished, executor, show_progress, "points")
    task = partial(_join_block, shards, points, assigned, path)
    _run(task, shards.folder.unfinished, executor, show_progress, "neighbours")
    return shards


def recall_of(path: str | os.PathLike[str]) -> float:
    """Share of the exact neighbours of the pilot rows that the built shards hold.

    Args:
        path (str or Path): The folder of :func:`build_shards`.

    Returns:
        float: Within [0, 1].

    Raises:
        FileNotFoundError: If nothing was built there.
        ValueError: If it is not finished.

    Cost: some hundred rows are read.

    >>> import tempfile
    >>> path = tempfile.mkdtemp()
    >>> _ = build_shards(np.array([[0.0], [1.0], [3.0]]), path, k=1)
    >>> recall_of(path)
    1.0
    """
    shards, path = RowShards(path), Path(path)
    samples, true = np.load(path / "pilots.npy"), np.load(path / "true.npy")
    order = shards.order
    assert order is not None  # build_shards numbers the rows
    place = np.empty(shards.num_nodes, np.int64)
    place[order] = np.arange(shards.num_nodes)
    rows = place[samples]
    blocks = np.searchsorted(shards.folder.starts, rows, side="right") - 1
    hits = 0
    for row, b, wanted in zip(rows, blocks, true, strict=True):
        found = shards.block(int(b))[0][row - shards.folder.starts[b]]
        hits += np.isin(order[found[found >= 0]], wanted).sum()
    return float(hits / true.size)


def _plan(
    path: Path, data: FeatureSource, n: int, k: int, recall: float, seed: int
) -> None:
    """Places the lists and finds how many of them a row must look into."""
    rows = data.rows()
    with faiss_threads():
        lists = place_lists(rows, seed)
        pilots = take_pilots(rows, k, seed)
        count = pilots.lists_needed(lists, rows, recall)
    arrays = {
        "pilots": pilots.samples.cpu().numpy(),
        "true": pilots.true.cpu().numpy(),
        **lists._asdict(),
    }
    for name, array in arrays.items():
        write_array(path / f"{name}.npy", array)
    write_text(path / "plan.json", json.dumps({"lists_compared": count}) + "\n")


def _lists(path: Path) -> tuple[Lists, int]:
    """The lists, and how many of them a row looks into."""
    lists = Lists(*(np.load(path / f"{name}.npy") for name in Lists._fields))
    return lists, json.loads((path / "plan.json").read_text())["lists_compared"]


def _assign_block(
    assigned: BlockFolder, path: Path, data: FeatureSource, b: int
) -> None:
    """The lists that each row of a block looks into, its own first."""
    (lists, count), rows, whole = _lists(path), data.rows(), assigned.rows(b)
    near = np.empty((whole.stop - whole.start, count), np.int32)
    with faiss_threads():
        for block in rows.blocks():
            low, high = max(block.start, whole.start), min(block.stop, whole.stop)
            if low < high:
                own = slice(low - whole.start, high - whole.start)
                near[own] = lists.near(lists.centred(rows[low:high]), count)
    assigned.write(b, {}, near=near)


def _numbering(
    path: Path, assigned: BlockFolder, block_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """First row of each block, at the start of a list, and the sample of each row."""
    if (path / "manifest.json").exists():
        return BlockFolder(path).starts, np.load(path / "order.npy", mmap_mode="r")
    parts = [assigned.read(b, "near")[:, 0] for b in range(assigned.num_blocks)]
    own = np.concatenate(parts)
    order = np.argsort(own, kind="stable")
    sizes = np.bincount(own, minlength=len(np.load(path / "centres.npy")))
    write_array(path / "sizes.npy", sizes)
    ends, steps = np.cumsum(sizes), np.arange(block_size, len(own), block_size)
    cuts = ends[np.searchsorted(ends, steps)]
    return np.unique(np.concatenate([[0], cuts, [len(own)]])), order


def _gather_block(points: BlockFolder, path: Path, data: FeatureSource, b: int) -> None:
    """Features of a block of rows."""
    samples = np.load(path / "order.npy", mmap_mode="r")[points.rows(b)]
    rising = np.sort(samples)  # one way through the file
    block = data.rows().take(torch.from_numpy(rising)).numpy()
    block -= np.load(path / "mean.npy")
    points.write(b, {}, points=block[np.searchsorted(rising, samples)])


def _join_block(
    shards: RowShards, points: BlockFolder, assigned: BlockFolder, path: Path, b: int
) -> None:
    """Neighbours of a block of rows."""
    (lists, count), whole = _lists(path), points.rows(b)
    blocks = [points.read(other, "points") for other in range(points.num_blocks)]
    members = members_of(blocks, np.load(path / "sizes.npy"), shards.k)
    samples = np.load(path / "order.npy", mmap_mode="r")[whole]
    near = np.empty((len(samples), count), np.int32)
    home = np.searchsorted(assigned.starts, samples, side="right") - 1
    for other in np.unique(home):
        own = home == other
        at = samples[own] - assigned.starts[other]
        near[own] = assigned.read(other, "near")[at]
    with faiss_threads():
        itself = np.arange(whole.start, whole.stop)
        found = nearest_members(blocks[b], near, lists, members, shards.k, itself)
    shards.write_block(b, *found)


def _folder(path: Path, request: dict[str, Any]) -> BlockFolder:
    BlockFolder.start(path, request)
    return BlockFolder(path)


def _run(
    task: Any, blocks: Iterable[int], executor: Any, show_progress: bool, name: str
) -> None:
    """All tasks; what they give is on disk."""
    blocks = list(blocks)
    done: Iterable[None] = map_blocks(task, blocks, executor)
    if show_progress:
        from tqdm.auto import tqdm

        done = tqdm(done, total=len(blocks), desc=name)
    for _ in done:
        pass
