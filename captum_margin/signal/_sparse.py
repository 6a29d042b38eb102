"""Sparse layouts of a graph: what :class:`HighPass` needs of them, and no more.

Rows are targets, columns are sources, as in PyTorch Geometric's ``adj_t``.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.utils.sparse import index2ptr

_INT32_MAX = 2**31 - 1


def csr_from_sparse(adj_t: Tensor, num_nodes: int, dtype: torch.dtype) -> Tensor:
    """A sparse COO, CSR or CSC matrix as CSR of the given dtype; no copy if it is."""
    if tuple(adj_t.shape) != (num_nodes, num_nodes):
        raise ValueError(
            f"expected adj_t of shape (N, N) = ({num_nodes}, {num_nodes}) "
            f"(got {tuple(adj_t.shape)})"
        )
    adj_t = adj_t.detach()
    if adj_t.layout == torch.sparse_coo:
        adj_t = adj_t.coalesce()
    with _no_beta_warning():
        return adj_t.to_sparse_csr().to(dtype)


def csr_from_edge_index(
    edge_index: Tensor,
    edge_weight: Tensor | None,
    num_nodes: int,
    dtype: torch.dtype,
    sort: bool = True,
) -> Tensor | None:
    """An edge list as CSR; None if it is not sorted by target and must not be."""
    # 32-bit indices halve the traffic of every product, which is all its time.
    small = max(num_nodes, edge_index.size(1)) <= _INT32_MAX
    index_dtype = torch.int32 if small else torch.int64
    if isinstance(edge_index, EdgeIndex) and edge_index.is_sorted:
        (pointer, source), order = edge_index.get_csc()  # kept by the EdgeIndex
        source, pointer = source.to(index_dtype), pointer.to(index_dtype)
        if order is not None and edge_weight is not None:
            edge_weight = edge_weight.index_select(0, order)
    else:
        if isinstance(edge_index, EdgeIndex):
            edge_index = edge_index.as_tensor()
        # Torch's sparse code takes its indices to be contiguous, which pairs.T is not.
        edge_index = edge_index.contiguous()
        target = edge_index[1]
        ordered = bool((target[1:] >= target[:-1]).all())
        if not ordered and not sort:
            return None
        source = edge_index[0].to(index_dtype)
        if not ordered:
            target, order = target.to(index_dtype).sort(stable=True)
            source = source.index_select(0, order)
            if edge_weight is not None:
                edge_weight = edge_weight.index_select(0, order)
        pointer = index2ptr(target, num_nodes).to(index_dtype)
    if edge_weight is None:
        edge_weight = torch.ones(source.numel(), dtype=dtype, device=source.device)
    with _no_beta_warning():
        return torch.sparse_csr_tensor(
            pointer,
            source,
            edge_weight.detach().contiguous(),
            size=(num_nodes, num_nodes),
            check_invariants=False,  # the caller has checked the edges
        )


def coo_from_csr(csr: Tensor) -> tuple[Tensor, Tensor]:
    """``edge_index`` (2, E), sources first, and ``edge_weight`` of a CSR matrix."""
    count = csr.crow_indices().diff()
    nodes = torch.arange(csr.size(0), device=csr.device)
    target = nodes.repeat_interleave(count)
    return torch.stack([csr.col_indices().long(), target]), csr.values()


def row_sums(csr: Tensor, equal: bool) -> Tensor:
    """The sum of each row of a CSR matrix, shape (N,); ``equal``: of equal values."""
    pointer, values = csr.crow_indices(), csr.values()
    if values.numel() == 0:
        return values.new_zeros(csr.size(0))
    if equal:
        return pointer.diff() * values[0]  # at a tenth of the time
    return torch.segment_reduce(values, "sum", offsets=pointer.long(), unsafe=True)


def walk_targets(
    edge_index: Tensor, edge_weight: Tensor | None, num_nodes: int, hops: int
) -> Tensor:
    """How many nodes the walks of exactly ``hops`` edges into each node start from."""
    edge_index = edge_index.long()
    if edge_weight is not None:
        edge_index = edge_index[:, edge_weight > 0]
    size = (num_nodes, num_nodes)

    ones = torch.ones(edge_index.size(1), device=edge_index.device)
    step = torch.sparse_coo_tensor(
        edge_index.flip(0), ones, size, check_invariants=False
    ).coalesce()
    reached = step  # entry (i, j) counts the walks from j to i; only its place matters
    for _ in range(hops - 1):
        reached = torch.sparse.mm(reached, step).coalesce()
    return reached.indices()[0].bincount(minlength=num_nodes)


@contextlib.contextmanager
def _no_beta_warning() -> Iterator[None]:
    """Silences the notice that torch prints at the first CSR tensor of a process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        yield
