"""Step 4, the filter: what of a signal its neighbourhood does not explain.

One layer, written as the operators of ``torch_geometric.nn.conv`` are.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch_geometric import EdgeIndex
from torch_geometric.nn.conv import MessagePassing
from torch_geometric.typing import Adj, OptTensor, SparseTensor
from torch_geometric.utils import is_torch_sparse_tensor, scatter, spmm

from captum_margin._whole_numbers import is_whole
from captum_margin.signal._sparse import (
    coo_from_csr,
    csr_from_edge_index,
    csr_from_sparse,
    row_sums,
    walk_targets,
)
from captum_margin.signal.graph import check_graph, check_weights

__all__ = ["HighPass"]

Shift = Literal["random_walk", "symmetric", "adjacency", "laplacian"]

# On a CPU, products of an unsorted edge list cost less than sorting it, up to here
# (signal channels times hops; measured at 1 M nodes and 20 M edges).
_PRODUCTS_WORTH_A_SORT = 4


class HighPass(MessagePassing):
    r"""The graph high-pass filter of MARGIN.

    The operator of the `"MARGIN: Uncovering Deep Neural Networks Using Graph Signal
    Analysis" <https://arxiv.org/abs/1711.05407>`_ paper.

    .. math::
        \mathbf{x}^{\prime} = \mathbf{x} - \mathbf{A}^p \mathbf{x}

    with p hops of the shift A, built from the edge weights W and the degrees
    :math:`D_{ii} = \sum_j W_{ij}`:

    - ``"random_walk"``: :math:`D^{-1} W`, the mean of the neighbours. A constant
      signal has no high-pass part.
    - ``"symmetric"``: :math:`D^{-1/2} W D^{-1/2}`, that of the paper's listings and of
      :class:`~torch_geometric.nn.LGConv`. A constant leaves a residual where the
      degrees of neighbours differ: a squared one of 0.54 at the hub of a star with
      three leaves.
    - ``"adjacency"``: W as it is, which may be any operator prepared beforehand, and
      the only one whose weights may be negative.
    - ``"laplacian"``: :math:`I - L` with :math:`L = D - W`, so that one hop gives
      :math:`L \mathbf{x}`, the differences to the neighbours summed. Unlike the first
      two it, and ``"adjacency"``, grow with the degree and with p. The paper's
      Laplacian (section 3 of the arXiv edition) is normalised,
      :math:`L = I - D^{-1/2} W D^{-1/2}`; one hop of ``"symmetric"`` gives that
      :math:`L \mathbf{x}`.

    The graph is meant to be undirected (:func:`~captum_margin.signal.as_undirected`);
    degrees are those of the incoming edges.

    Args:
        shift (str, optional): One of the above. Default: ``"random_walk"``.
        hops (int, optional): p, at least 1. Default: 1.
        support_normalized (bool, optional): Divide :math:`A^p \mathbf{x}` at node i
            by the number of positive entries in row i of :math:`A^p`, as the papers'
            listings do on top of the normalisation. With p = 1 that is the number of
            neighbours, and next to nothing is subtracted. Not defined for
            ``"laplacian"``. Default: False.
        isolated (str, optional): The result at nodes of degree 0. ``"keep"``: what
            the formula gives, x itself (0 under ``"laplacian"``), so that such nodes
            rank first. ``"zero"``: 0, no neighbourhood and no change against it.
            Default: ``"keep"``.
        cached (bool, optional): Keep the matrix and the degrees of the first graph,
            and take them for the graph of every later call, as in
            :class:`~torch_geometric.nn.GCNConv`; messages (see Cost) are of the graph
            that is given. ``reset_parameters()`` forgets it. Default: False.
        **kwargs (optional): Arguments of
            :class:`~torch_geometric.nn.conv.MessagePassing`, except another ``aggr``.

    Raises:
        ValueError: If an option is unknown or out of its range, or ``aggr`` another.

    .. note::
        In a mini-batch the rows of the seed nodes are those of the whole graph if the
        batch holds all nodes within p hops of them and all edges into those within
        p - 1: ``NeighborLoader(data, [-1] * p)``, or p hops of
        :func:`~torch_geometric.utils.k_hop_subgraph`. ``"symmetric"`` needs p + 1, for
        the degrees of the outermost nodes. The other rows of a batch are not to be
        used. Sampled neighbours give estimates. Those of ``"random_walk"`` with p = 1
        and no weights are unbiased; their squares, the influence, are too large by the
        variance of the sample's mean. The other shifts take the degrees of the sample
        for those of the graph, and are biased.

    .. note::
        For :func:`torch.compile`, :func:`torch.export.export`, :func:`torch.jit.trace`
        and :mod:`torch.func` the layer is message passing and does not look at values:
        it takes edge indices only, and checks neither signal nor graph.
        ``support_normalized`` breaks the compiled graph in two, and
        :func:`torch.jit.script` is not supported.

    Shapes:
        - **input:**
          signal :math:`(|\mathcal{V}|)` or :math:`(|\mathcal{V}|, C)`,
          edge indices :math:`(2, |\mathcal{E}|)`, a
          :class:`~torch_geometric.EdgeIndex`, or a sparse tensor ``adj_t``
          :math:`(|\mathcal{V}|, |\mathcal{V}|)` whose rows are targets,
          edge weights :math:`(|\mathcal{E}|)` *(optional)*
        - **output:** as the signal, in its dtype; bfloat16 and float16 are
          computed in float32

    Cost: O(p · E · C) time. Without a gradient it is a sparse CSR product: O(E + N · C)
    memory, and about the time of the product itself if ``edge_index`` is sorted by
    target (as this package's graphs are), is a sorted ``EdgeIndex`` or a CSR matrix;
    otherwise it is sorted first where that pays. With ``cached`` that, the checks and
    the degrees are paid once. With a gradient, for explainers and
    for hooks on messages it is message passing: O(E · C) memory.
    ``support_normalized`` with p > 1 needs the pattern of :math:`A^p`.

    >>> path = torch.tensor([[1, 0, 2, 1], [0, 1, 1, 2]])
    >>> HighPass()(torch.tensor([0.0, 1.0, 4.0]), path).tolist()
    [-1.0, -1.0, 3.0]
    """

    def __init__(
        self,
        shift: Shift = "random_walk",
        hops: int = 1,
        *,
        support_normalized: bool = False,
        isolated: Literal["keep", "zero"] = "keep",
        cached: bool = False,
        **kwargs: Any,
    ) -> None:
        """See the class."""
        if shift not in get_args(Shift):
            raise ValueError(f"expected shift in {get_args(Shift)} (got {shift!r})")
        if not is_whole(hops) or hops < 1:
            raise ValueError(f"expected an integer hops >= 1 (got {hops!r})")
        if isolated not in ("keep", "zero"):
            raise ValueError(f"expected isolated 'keep' or 'zero' (got {isolated!r})")
        if support_normalized and shift == "laplacian":
            raise ValueError(
                "expected another shift than 'laplacian' with support_normalized=True; "
                "the papers define it for normalised adjacencies"
            )
        if kwargs.setdefault("aggr", "add") not in ("add", "sum"):
            raise ValueError(
                f"expected aggr 'add' (got {kwargs['aggr']!r}); the shift says how the "
                "sum over neighbours is normalised"
            )
        super().__init__(**kwargs)
        self.cached = cached
        self._cached_graph: tuple[Tensor, Tensor] | None = None  # CSR matrix, degrees
        self.shift = shift
        self.hops = hops
        self.support_normalized = support_normalized
        self.isolated = isolated

    def reset_parameters(self) -> None:
        """Forgets a graph that was kept."""
        super().reset_parameters()
        self._cached_graph = None

    def forward(
        self, x: Tensor, edge_index: Adj, edge_weight: OptTensor = None
    ) -> Tensor:
        """Returns x minus its p-hop neighbourhood part; shapes as in the class.

        Raises:
            TypeError: If ``x`` is not one floating tensor (two-part graphs have two).
            ValueError: If ``x`` is not (N,) or (N, C) or not finite, or the graph does
                not fit it (see :func:`~captum_margin.signal.check_graph`), or has not
                the nodes of the graph that was kept.
        """
        _check_signal(x)
        # Half precision cannot count neighbours beyond a few hundred.
        dtype = torch.promote_types(x.dtype, torch.float32)
        signal = (x if x.dim() == 2 else x.unsqueeze(-1)).to(dtype)  # (N, C)
        if edge_weight is not None:
            edge_weight = edge_weight.to(dtype)
        adj, edge_weight, degree = self._graph(signal, edge_index, edge_weight)

        low = signal
        for _ in range(self.hops):
            low = self._apply_shift(low, degree, adj, edge_weight)
        if self.support_normalized:
            low = low / self._support(adj, edge_weight, signal).clamp(min=1)[:, None]
        out = signal - low
        if self.isolated == "zero":
            out = out.masked_fill((degree == 0).unsqueeze(-1), 0.0)
        return out.to(x.dtype).view_as(x)

    def _apply_shift(
        self, low: Tensor, degree: Tensor, adj: Adj, edge_weight: OptTensor
    ) -> Tensor:
        """One hop, A x. Scaling the signal is cheaper than scaling the edges."""
        # Not [:, None]: torch 2.6 and 2.7 export no open sizes with it.
        degree = degree.unsqueeze(-1)
        if self.shift == "adjacency":
            return self._sum_neighbors(low, adj, edge_weight)
        if self.shift == "laplacian":
            return low - degree * low + self._sum_neighbors(low, adj, edge_weight)
        divisor = torch.nn.functional.threshold(degree, 0.0, 1.0)  # 1 where it is 0
        if self.shift == "random_walk":
            return self._sum_neighbors(low, adj, edge_weight) / divisor
        scale = divisor.rsqrt().masked_fill(degree == 0, 0.0)
        return scale * self._sum_neighbors(scale * low, adj, edge_weight)

    def _sum_neighbors(self, x: Tensor, adj: Adj, edge_weight: OptTensor) -> Tensor:
        """W x, as one product or as messages."""
        if is_torch_sparse_tensor(adj):
            # Not through propagate(), which would unfold the matrix to edges again.
            return self.message_and_aggregate(adj, x)
        # propagate_type: (x: Tensor, edge_weight: OptTensor)
        out: Tensor = self.propagate(adj, x=x, edge_weight=edge_weight, size=None)
        return out

    def message(self, x_j: Tensor, edge_weight: OptTensor) -> Tensor:
        """What an edge carries: the weighted signal of its source."""
        return x_j if edge_weight is None else edge_weight.view(-1, 1) * x_j

    def message_and_aggregate(self, adj_t: Adj, x: Tensor) -> Tensor:
        """The sum of all messages as a sparse product."""
        # Autocast would count in half precision, for which a CPU has no such product.
        with torch.autocast(x.device.type, enabled=False):
            # A matrix-vector product takes 3/4 of the time of one column; on a CPU it
            # exists with MKL only.
            if x.size(-1) == 1 and (x.is_cuda or torch.backends.mkl.is_available()):
                x = x.squeeze(-1)
                return torch.mv(adj_t, x).unsqueeze(-1)
            out: Tensor = spmm(adj_t, x, reduce="sum")
            return out

    def _graph(
        self, signal: Tensor, edge_index: Adj, edge_weight: OptTensor
    ) -> tuple[Adj, OptTensor, Tensor]:
        """What :meth:`_layout` makes of the graph, and its degrees, or those kept."""
        kept = self._cached_graph
        if kept is not None and not self._needs_messages(signal, edge_weight):
            if len(kept[1]) != len(signal):
                raise ValueError(
                    f"expected a signal on the {len(kept[1])} nodes of the graph that "
                    f"cached=True kept (got {len(signal)}); call reset_parameters() "
                    "before another graph"
                )
            if (kept[1].dtype, kept[1].device) == (signal.dtype, signal.device):
                return kept[0], None, kept[1]
        adj, edge_weight, equal = self._layout(signal, edge_index, edge_weight)
        degree = self._degree(adj, edge_weight, equal, signal)  # (N,)
        if self.cached and is_torch_sparse_tensor(adj):
            self._cached_graph = adj, degree
        return adj, edge_weight, degree

    def _layout(
        self, signal: Tensor, edge_index: Adj, edge_weight: OptTensor
    ) -> tuple[Adj, OptTensor, bool]:
        """The checked graph: a CSR matrix for products, an edge list for messages.

        With the weights of the edge list, and whether all weights are equal.
        """
        num_nodes, signed = signal.size(0), self.shift == "adjacency"
        messages = self._needs_messages(signal, edge_weight)
        if isinstance(edge_index, SparseTensor):
            edge_index = edge_index.to_torch_sparse_csr_tensor()
        if is_torch_sparse_tensor(edge_index):
            if edge_weight is not None or edge_index.requires_grad:
                raise ValueError(
                    "expected a constant sparse adj_t, whose values are the weights, "
                    "and no edge_weight; for gradients pass edge_index and edge_weight"
                )
            if self.flow != "source_to_target":
                raise ValueError(
                    "expected flow 'source_to_target' with a sparse adj_t "
                    f"(got {self.flow!r})"
                )
            csr = csr_from_sparse(edge_index, num_nodes, signal.dtype)
            equal = check_weights(csr.values(), signed=signed)
            return (*coo_from_csr(csr), equal) if messages else (csr, None, equal)
        if not _values_hidden():
            check_graph(edge_index, edge_weight, num_nodes, signed=signed)
        if not messages:
            few = signal.size(1) * self.hops < _PRODUCTS_WORTH_A_SORT
            sort = signal.is_cuda or not few or self.cached
            found = csr_from_edge_index(
                edge_index, edge_weight, num_nodes, signal.dtype, sort
            )
            if found is not None:
                return found, None, edge_weight is None
        if isinstance(edge_index, EdgeIndex):
            edge_index = edge_index.as_tensor()
        # Older releases of torch scatter by int64 only.
        return edge_index.long(), edge_weight, edge_weight is None

    def _needs_messages(self, signal: Tensor, edge_weight: OptTensor) -> bool:
        """Whether someone wants to see, or differentiate, single messages."""
        if _values_hidden():
            return True
        inputs = (signal,) if edge_weight is None else (signal, edge_weight)
        hooks = (
            self._propagate_forward_pre_hooks,
            self._propagate_forward_hooks,
            self._message_forward_pre_hooks,
            self._message_forward_hooks,
            self._aggregate_forward_pre_hooks,
            self._aggregate_forward_hooks,
        )
        return (
            (torch.is_grad_enabled() and any(part.requires_grad for part in inputs))
            or any(forward_ad.unpack_dual(part).tangent is not None for part in inputs)
            or bool(self.explain)
            or any(hooks)
            or self.flow != "source_to_target"
            or signal.device.type not in ("cpu", "cuda")  # no CSR products elsewhere
        )

    def _degree(
        self, adj: Adj, edge_weight: OptTensor, equal: bool, signal: Tensor
    ) -> Tensor:
        """D, shape (N,); zeros where neither the shift nor an option needs it."""
        if self.shift == "adjacency" and self.isolated == "keep":
            return signal.new_zeros(signal.size(0))
        if is_torch_sparse_tensor(adj):
            return row_sums(adj, equal)
        if edge_weight is None:
            edge_weight = signal.new_ones(adj.size(1))
        target = adj[1 if self.flow == "source_to_target" else 0]
        degree: Tensor = scatter(edge_weight, target, dim=0, dim_size=signal.size(0))
        return degree

    def _support(self, adj: Adj, edge_weight: OptTensor, signal: Tensor) -> Tensor:
        """Positive entries in each row of A^p, shape (N,)."""
        if is_torch_sparse_tensor(adj):
            adj, edge_weight = coo_from_csr(adj)
        elif self.flow != "source_to_target":
            adj = adj.flip(0)
        return walk_targets(adj, edge_weight, signal.size(0), self.hops).to(signal)

    def __repr__(self) -> str:
        """The call that makes this layer."""
        return (
            f"{self.__class__.__name__}(shift={self.shift!r}, hops={self.hops}, "
            f"support_normalized={self.support_normalized}, "
            f"isolated={self.isolated!r}, cached={self.cached})"
        )


def _values_hidden() -> bool:
    """Whether a program is recorded, so that no decision may hang on a value."""
    return (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._functorch.maybe_current_level() is not None
    )


def _check_signal(x: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(
            f"expected one tensor x (got {type(x).__name__}); a filter is for one kind "
            "of nodes and the edges among them"
        )
    if x.layout != torch.strided:
        raise TypeError(f"expected a dense signal x (got {x.layout}); .to_dense()")
    if not x.is_floating_point():
        raise TypeError(f"expected a floating signal x (got {x.dtype}); call .float()")
    if x.dim() not in (1, 2):
        raise ValueError(
            f"expected x of shape (N,) or (N, C) (got {tuple(x.shape)}); "
            "flatten the channels"
        )
    if _values_hidden() or x.numel() == 0:
        return
    if not bool(torch.stack(x.detach().aminmax()).isfinite().all()):
        raise ValueError("expected a finite signal x (got NaN or infinity)")
