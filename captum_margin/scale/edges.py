"""The undirected graph on disk, and how the directed rows become it.

An edge is where either end is among the k neighbours of the other, as in
:mod:`captum_margin.signal`. A row therefore needs the rows that name it, which may be
anywhere: each block writes its edges the other way round, sorted by the block they
belong to, in a file of its own; then each block picks its part from all these files.
That is a shuffle in external memory, in two rounds of tasks.
"""

from __future__ import annotations

import copy
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from captum_margin._version import versions
from captum_margin.scale._folder import BlockFolder, remove_folder
from captum_margin.scale._matrix import CSRRows, pointer_of
from captum_margin.scale.executor import map_blocks
from captum_margin.scale.shards import RowShards, Shards

__all__ = ["EdgeShards", "undirected"]


class EdgeShards(Shards):
    """An undirected graph on disk, in compressed sparse rows; see :func:`undirected`.

    Neighbours of a row rise, both directions of an edge are there, with the same value.

    >>> import tempfile
    >>> rows = RowShards.from_arrays(tempfile.mkdtemp(), np.array([[1], [0], [1]]))
    >>> EdgeShards(undirected(rows, tempfile.mkdtemp()).path).num_edges
    4
    """

    _form = "edges"

    def block(self, b: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Pointer (n + 1,), neighbours and values (E_b,) of block ``b``, mapped.

        They are kept for other calls: copy what you write to.

        Raises:
            ValueError: If the block is not finished, or a file is missing or changed.
        """
        pointer = self.folder.mapped(b, "pointer")
        indices = self.folder.mapped(b, "indices")
        if self.values == "none":
            return pointer, indices, None
        return pointer, indices, self.folder.mapped(b, "values")

    def sparse_rows(self, b: int) -> CSRRows:
        """Block ``b`` of the weight matrix."""
        pointer, indices, values = self.block(b)
        weights = None if values is None else self._weights(values)
        return CSRRows(torch.from_numpy(pointer), torch.from_numpy(indices), weights)

    @property
    def num_edges(self) -> int:
        """E, which counts both directions."""
        counts = [self.folder.mark(b)["edges"] for b in range(self.num_blocks)]
        return int(sum(counts))

    def gaussian(self, bandwidth: float = 1.0) -> EdgeShards:
        r"""The same edges with weights :math:`\exp(-d^2 / 2 \sigma^2)`.

        Args:
            bandwidth (float, optional): :math:`\sigma` in units of the median length
                of the edges that are longer than zero (1 if there are none), which is
                exact. Default: 1.0.

        Returns:
            EdgeShards: Another view of the same files, nothing is copied.

        Raises:
            ValueError: If the store keeps no distances, or ``bandwidth`` <= 0.

        Cost: two passes over the distances.
        """
        if self.values != "distance":
            raise ValueError(
                f"expected shards that keep distances (got {self.values!r}); build "
                "them with values='distance'"
            )
        if not 0 < bandwidth < np.inf:
            raise ValueError(f"expected a finite bandwidth > 0 (got {bandwidth})")
        view = copy.copy(self)
        view.width = bandwidth * self.median_distance()
        return view

    def median_distance(self) -> float:
        """The (lower) median length of the edges longer than zero, 1 if none is.

        Non-negative floats rise as their bits do, so it is found by counting: the upper
        half of the bits in one pass over the files, the lower half in another.
        """

        def bits(b: int) -> np.ndarray:
            values = self.folder.read(b, "values")
            whole = np.asarray(values, dtype=np.float32)
            return whole[whole > 0].view(np.uint32)

        high = np.zeros(2**16, dtype=np.int64)
        for b in range(self.num_blocks):
            high += np.bincount(bits(b) >> 16, minlength=2**16)
        if not high.any():
            return 1.0
        place = (int(high.sum()) - 1) // 2
        top = int(np.searchsorted(high.cumsum(), place, side="right"))
        place -= int(high[:top].sum())
        low = np.zeros(2**16, dtype=np.int64)
        for b in range(self.num_blocks):
            found = bits(b)
            found = found[found >> 16 == top] & 0xFFFF
            low += np.bincount(found, minlength=2**16)
        bottom = int(np.searchsorted(low.cumsum(), place, side="right"))
        return float(np.uint32(top << 16 | bottom).view(np.float32))


def undirected(
    shards: RowShards, path: str | os.PathLike[str], *, executor: Any = None
) -> EdgeShards:
    """Makes directed neighbours undirected by union, on disk, and goes on where it was.

    Args:
        shards (RowShards): All blocks finished.
        path (str or Path): The folder of the edges.
        executor (optional): As in :func:`~captum_margin.scale.map_blocks`.
            Default: None.

    Returns:
        EdgeShards: With the blocks and the order of the rows. Where the two ends of an
        edge keep different values, the smaller distance or the larger weight counts,
        as in :mod:`captum_margin.signal`; self loops are dropped.

    Raises:
        ValueError: If rows are missing, or the folder belongs to other shards.

    Cost: O(N k log k) time; per worker O(k) times the rows of a block, and what points
    at them, in memory: 60 bytes for each edge; on disk 8 bytes for each edge, and 12
    for each neighbour while it runs.

    >>> import tempfile
    >>> rows = RowShards.from_arrays(tempfile.mkdtemp(), np.array([[1], [0], [1]]))
    >>> edges = undirected(rows, tempfile.mkdtemp())
    >>> edges.num_edges, edges.sparse_rows(0).indices.tolist()
    (4, [1, 0, 2, 1])
    """
    path = Path(path)
    manifest = shards.folder.manifest
    request = {
        **{key: value for key, value in manifest.items() if key != "format"},
        "form": EdgeShards._form,
        "symmetric": True,
        "versions": versions("numpy", "torch"),
    }
    order = shards.order
    BlockFolder.start(path, request, **({} if order is None else {"order": order}))
    edges = EdgeShards(path)
    if edges.folder.unfinished:
        BlockFolder.start(path / "reversed", {**request, "form": "reversed edges"})
        back = BlockFolder(path / "reversed")
        for task, folder in ((_reverse_block, back), (_merge_block, edges.folder)):
            blocks = folder.unfinished
            work = partial(task, shards, back, edges.folder)
            for _ in map_blocks(work, blocks, executor):
                pass
    remove_folder(path / "reversed")
    return edges


def _reverse_block(
    shards: RowShards, back: BlockFolder, _: BlockFolder, b: int
) -> None:
    """The edges of a block the other way round, sorted by the block they belong to."""
    indices, values = shards.block(b)
    rows = shards.rows(b)
    target = np.arange(rows.start, rows.stop, dtype=indices.dtype).repeat(shards.k)
    there = (indices >= 0).ravel()
    source = indices.ravel()[there]
    owner = np.searchsorted(back.starts, source, side="right") - 1
    # Small integers are sorted in linear time.
    small = np.uint16 if back.num_blocks <= 2**16 else np.int64
    order = np.argsort(owner.astype(small), kind="stable")
    arrays = {"rows": source[order], "neighbours": target[there][order]}
    if values is not None:
        arrays["values"] = values.ravel()[there][order]
    ends = np.cumsum(np.bincount(owner, minlength=back.num_blocks))
    back.write(b, {}, ends=np.append(0, ends), **arrays)


def _merge_block(
    shards: RowShards, back: BlockFolder, edges: BlockFolder, b: int
) -> None:
    """All edges of a block of rows, each once."""
    indices, values = shards.block(b)
    rows = shards.rows(b)
    target = np.arange(rows.stop - rows.start).repeat(shards.k)
    there = (indices >= 0).ravel()
    parts = [(target[there], indices.ravel()[there])]
    kept = [] if values is None else [values.ravel()[there]]
    for a in range(back.num_blocks):
        low, high = back.read(a, "ends")[b : b + 2]
        own = back.read(a, "rows")[low:high] - rows.start
        parts.append((own, back.read(a, "neighbours")[low:high]))
        if values is not None:
            kept.append(back.read(a, "values")[low:high])
    n = shards.num_nodes
    key = np.concatenate([own * np.int64(n) + j for own, j in parts])
    order = np.argsort(key)
    key = key[order]
    first = np.flatnonzero(np.diff(key, prepend=-1))  # of each run of one edge
    own, j = key[first] // n, key[first] % n
    proper = own + rows.start != j
    arrays = {"indices": j[proper].astype(indices.dtype)}
    if kept:
        reduce = np.minimum if shards.values == "distance" else np.maximum
        merged = reduce.reduceat(np.concatenate(kept)[order], first)
        arrays["values"] = merged[proper]
    size = rows.stop - rows.start
    if shards.values == "weight":
        kept_weights = arrays["values"].astype(np.float64)
        arrays["degrees"] = np.bincount(own[proper], kept_weights, minlength=size)
    count = np.bincount(own[proper], minlength=size)
    arrays["pointer"] = pointer_of(torch.from_numpy(count)).numpy()
    edges.write(b, {"edges": int(proper.sum())}, **arrays)
