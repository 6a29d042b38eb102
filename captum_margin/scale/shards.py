"""The store: a graph on disk, in blocks of rows, read by memory map.

Row i holds the neighbours of node i and a number for each: entry (i, j) of a sparse
matrix whose rows are targets, as PyTorch Geometric's ``adj_t``. Two forms:

- :class:`RowShards`: k neighbours a row, as a search finds them. Directed.
- :class:`EdgeShards`: any number a row. Undirected, from :func:`undirected`: an edge
  where either end is among the neighbours of the other, as in
  :mod:`captum_margin.signal`.

Rows may be numbered otherwise than the samples, so that neighbours lie near each
other; ``order`` has the sample of each row. All functions of :mod:`captum_margin.scale`
take and return arrays in the order of the samples; only blocks are in that of the rows.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from captum_margin._version import versions
from captum_margin.scale._folder import BlockFolder
from captum_margin.scale._matrix import CSRRows, pointer_of
from captum_margin.signal import Graph, as_undirected

__all__ = ["RowShards", "Shards", "Values"]

Values = Literal["none", "distance", "weight"]
BLOCK_SIZE = 2**18


class Shards:
    """What both forms share.

    Args:
        path (str or Path): A folder that a ``create`` or :func:`undirected` made.

    Attributes:
        num_nodes (int): N.
        metric (str): Of the distances.
        values (str): What is kept for each entry: ``"none"``, ``"distance"`` or
            ``"weight"``.
        width (float, optional): Distances become weights exp(-d² / 2 width²), or ones
            where it is None; see :meth:`EdgeShards.gaussian`.

    Raises:
        FileNotFoundError: If there is no store.
        ValueError: If it is of the other form, or of another version.

    Cost: opening is free; arrays are mapped, and read where they are used. The first
    128 files of a store stay mapped, and open, for as long as the store lives.
    """

    _form = ""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Opens the store."""
        self.folder = BlockFolder(path)
        manifest = self.folder.manifest
        if manifest.get("form") != self._form:
            raise ValueError(
                f"expected {self._form} in {path} (got {manifest.get('form')!r}); open "
                "rows with RowShards and undirected edges with EdgeShards"
            )
        self.path = self.folder.path
        self.num_nodes = self.folder.num_rows
        self.metric: str = manifest["metric"]
        self.values: Values = manifest["values"]
        self.width: float | None = None

    @property
    def num_blocks(self) -> int:
        """How many blocks there are, finished or not."""
        return self.folder.num_blocks

    @property
    def finished(self) -> list[int]:
        """The blocks that are written, all of them in a finished store."""
        return self.folder.finished

    @property
    def order(self) -> np.ndarray | None:
        """The sample of each row, (N,); None if rows are numbered as the samples."""
        if not self.folder.manifest["ordered"]:
            return None
        order: np.ndarray = np.load(self.path / "order.npy", mmap_mode="c")
        return order

    def to_rows(self, x: Tensor) -> Tensor:
        """``x`` (N, ...) from the order of the samples to that of the rows."""
        order = self.order
        return x if order is None else x[torch.from_numpy(order)]

    def to_samples(self, x: Tensor) -> Tensor:
        """``x`` (N, ...) from the order of the rows to that of the samples."""
        order = self.order
        if order is None:
            return x
        out = torch.empty_like(x)
        out[torch.from_numpy(order)] = x
        return out

    def rows(self, b: int) -> slice:
        """The rows of block ``b``."""
        return self.folder.rows(b)

    def sparse_rows(self, b: int) -> CSRRows:
        """Block ``b`` of the weight matrix."""
        raise NotImplementedError

    def degrees(self, b: int) -> Tensor | None:
        """Sums of the weights of the rows of block ``b``, (n,), float64, if kept."""
        if self.values != "weight" or "degrees" not in self.folder.mark(b)["files"]:
            return None
        return torch.from_numpy(self.folder.mapped(b, "degrees"))

    def will_need(self, b: int) -> None:
        """Asks the system to read block ``b`` ahead, if there is one."""
        if b < self.num_blocks:
            self.folder.will_need(b)

    def to_graph(self) -> Graph:
        """The graph in memory, as the rest of the package takes it; for small N.

        Returns:
            Graph: Undirected, in the order of the samples. Of the two weights of a
            pair the larger is kept.

        Raises:
            ValueError: If a block is missing or not finished.

        Cost: O(E log E) time, O(E) memory.
        """
        parts, weights = [], []
        for b in range(self.num_blocks):
            rows, block = self.rows(b), self.sparse_rows(b)
            target = torch.arange(rows.start, rows.stop)
            target = target.repeat_interleave(block.pointer.diff().long())
            edges = torch.stack([block.indices.long(), target])
            parts.append(edges)
            weights.append(block.weights)
        edge_index = torch.cat(parts, dim=1)
        given = [w for w in weights if w is not None]
        edge_weight = torch.cat(given) if given else None
        if self.order is not None:
            edge_index = torch.from_numpy(self.order).long()[edge_index]
        return as_undirected(edge_index, edge_weight, self.num_nodes)

    def verify(self) -> None:
        """Compares the checksums of all finished blocks; reads everything.

        Raises:
            ValueError: Of the first block whose files are missing or changed.
        """
        self.folder.verify()

    def _weights(self, values: np.ndarray) -> Tensor | None:
        """Weights in single precision from what is kept."""
        if self.values == "none" or (self.values == "distance" and self.width is None):
            return None
        kept = torch.from_numpy(values).to(torch.float32)
        if self.values == "weight":
            return kept
        assert self.width is not None
        scaled = kept.square().mul_(-0.5 / self.width**2)
        return scaled.exp_()


class RowShards(Shards):
    """k neighbours of each node, on disk: the directed graph a search finds.

    Args:
        path (str or Path): As in :class:`Shards`.

    Cost: as :class:`Shards`.

    >>> import tempfile
    >>> path = tempfile.mkdtemp()
    >>> shards = RowShards.from_arrays(path, np.array([[1], [0], [1]]), block_size=2)
    >>> shards.num_blocks, shards.block(1)[0].tolist()
    (2, [[1]])
    >>> shards.to_graph().edge_index.tolist()
    [[1, 0, 2, 1], [0, 1, 1, 2]]
    """

    _form = "rows"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Opens the store."""
        super().__init__(path)
        self.k: int = self.folder.manifest["k"]

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        num_nodes: int,
        k: int,
        *,
        metric: str = "euclidean",
        values: Values = "distance",
        seed: int | None = None,
        fingerprint: str | None = None,
        block_size: int = BLOCK_SIZE,
        starts: np.ndarray | None = None,
        order: np.ndarray | None = None,
    ) -> RowShards:
        """Begins a store, or goes on with the one of the same request.

        Args:
            path (str or Path): The folder.
            num_nodes (int): N.
            k (int): Neighbours per node.
            metric (str, optional): Of the distances. Default: ``"euclidean"``.
            values (str, optional): What is kept beside the neighbours: ``"none"``,
                ``"distance"`` or ``"weight"``. Default: ``"distance"``.
            seed (int, optional): Of the search. Default: None.
            fingerprint (str, optional): Of the data, see :func:`fingerprint`.
                Default: None.
            block_size (int, optional): Rows per block. Default: 262,144.
            starts (ndarray, optional): First row of each block and N, (B + 1,),
                instead of equal blocks. Default: None.
            order (ndarray, optional): The sample of each row, (N,). Default: None.

        Raises:
            ValueError: If the folder holds the store of another request, or an
                argument is out of its range.
        """
        if num_nodes < 1 or k < 1 or block_size < 1:
            raise ValueError(
                f"expected num_nodes, k and block_size >= 1 (got {num_nodes}, {k} and "
                f"{block_size})"
            )
        if values not in ("none", "distance", "weight"):
            raise ValueError(
                f"expected values 'none', 'distance' or 'weight' (got {values!r})"
            )
        if starts is None:
            starts = np.append(np.arange(0, num_nodes, block_size), num_nodes)
        if starts[0] != 0 or starts[-1] != num_nodes or (np.diff(starts) < 1).any():
            raise ValueError(f"expected starts that rise from 0 to N = {num_nodes}")
        arrays = {} if order is None else {"order": order}
        request = {
            "form": cls._form,
            "symmetric": False,
            "num_nodes": num_nodes,
            "k": k,
            "metric": metric,
            "values": values,
            "seed": seed,
            "fingerprint": fingerprint,
            "ordered": order is not None,
            "starts": [int(start) for start in starts],
            "versions": versions("numpy", "torch"),
        }
        BlockFolder.start(Path(path), request, **arrays)
        return cls(path)

    @classmethod
    def from_arrays(
        cls,
        path: str | os.PathLike[str],
        indices: Any,
        values: Any = None,
        *,
        kind: Values | None = None,
        metric: str = "euclidean",
        block_size: int = BLOCK_SIZE,
    ) -> RowShards:
        """The store of neighbours that are in memory, or memory-mapped.

        Args:
            path (str or Path): The folder.
            indices (ndarray or Tensor): Neighbours (N, k), -1 for none.
            values (optional): Distances or weights (N, k). Default: None.
            kind (str, optional): What ``values`` are. Default: None, ``"distance"`` if
                they are given.
            metric (str, optional): Of the distances. Default: ``"euclidean"``.
            block_size (int, optional): Rows per block. Default: 262,144.

        Raises:
            ValueError: As :meth:`create` and :meth:`write_block`.
        """
        kind = kind or ("none" if values is None else "distance")
        n, k = indices.shape
        shards = cls.create(
            path, n, k, metric=metric, values=kind, block_size=block_size
        )
        for b in shards.folder.unfinished:
            rows = shards.rows(b)
            part = None if values is None else np.asarray(values[rows])
            shards.write_block(b, np.asarray(indices[rows]), part)
        return shards

    def write_block(
        self, b: int, indices: np.ndarray, values: np.ndarray | None = None
    ) -> None:
        """Writes a block, which is then finished; writing it again changes nothing.

        Args:
            b (int): The block.
            indices (ndarray): Rows of the neighbours, (n, k); -1 for none.
            values (ndarray, optional): Distances or weights, (n, k), float32 or
                float16, which halves the file and keeps 3 digits. Default: None.

        Raises:
            ValueError: If shapes do not fit, an index is not within [-1, N), or a value
                is negative or not finite.
        """
        rows = self.rows(b)
        shape = (rows.stop - rows.start, self.k)
        if indices.shape != shape or indices.dtype.kind not in "iu":
            raise ValueError(
                f"expected integer indices of shape (n, k) = {shape} for block {b} "
                f"(got {indices.dtype} {indices.shape})"
            )
        if indices.min() < -1 or indices.max() >= self.num_nodes:
            raise ValueError(
                f"expected indices within [-1, {self.num_nodes}) (got "
                f"{indices.min()} to {indices.max()})"
            )
        arrays = {"indices": indices.astype(index_dtype(self.num_nodes))}
        missing = indices < 0
        if self.values != "none":
            if values is None or values.shape != shape:
                got = None if values is None else values.shape
                raise ValueError(
                    f"expected {self.values}s of shape (n, k) = {shape} for block {b} "
                    f"(got {got})"
                )
            kept = np.where(missing, 0, values).astype(
                np.float16 if values.dtype == np.float16 else np.float32
            )
            if not (np.isfinite(kept).all() and (kept >= 0).all()):
                raise ValueError(
                    f"expected finite {self.values}s >= 0 in block {b} (got NaN, "
                    "infinity or negative ones)"
                )
            arrays["values"] = kept
        if self.values == "weight":
            arrays["degrees"] = kept.sum(axis=1, dtype=np.float64)
        self.folder.write(b, {"missing": int(missing.sum())}, **arrays)

    def block(self, b: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Neighbours (n, k), -1 for none, and values (n, k) of block ``b``, mapped.

        They are kept for other calls: copy what you write to.

        Raises:
            ValueError: If the block is not finished, or a file is missing or changed.
        """
        indices = self.folder.mapped(b, "indices")
        if self.values == "none":
            return indices, None
        return indices, self.folder.mapped(b, "values")

    def sparse_rows(self, b: int) -> CSRRows:
        """Block ``b`` of the weight matrix; no neighbour: no entry."""
        indices, values = self.block(b)
        flat = torch.from_numpy(indices).flatten()
        weights = None if values is None else self._weights(values.reshape(-1))
        if not self.folder.mark(b)["missing"]:
            small = torch.int32 if len(flat) < 2**31 else torch.int64
            pointer = torch.arange(0, len(flat) + 1, self.k, dtype=small)
            return CSRRows(pointer, flat, weights)
        there = flat >= 0
        pointer = pointer_of(there.view(-1, self.k).sum(dim=1))
        weights = None if weights is None else weights[there]
        return CSRRows(pointer, flat[there], weights)


def index_dtype(n: int) -> type[np.signedinteger[Any]]:
    """The smallest integers that number n rows."""
    return np.int32 if n <= 2**31 - 1 else np.int64
