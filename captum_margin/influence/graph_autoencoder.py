"""Step 3 for nodes of a given graph: an embedding whose norm is the function.

The graph auto-encoder of Kipf and Welling, trained on sampled pairs of nodes instead
of all N times N of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus
from torch_geometric.data import Data
from torch_geometric.nn import GAE
from torch_geometric.nn.conv.gcn_conv import gcn_norm
from tqdm.auto import tqdm

from captum_margin._whole_numbers import is_whole, whole_number
from captum_margin.influence._graph_data import with_edge_index
from captum_margin.signal import Graph, as_undirected, to_csr

__all__ = ["embed_nodes"]

# Edges, and as many other pairs, that one step looks at: all of them on a citation
# graph; on large ones a fresh sample at each step, which bounds memory and time.
_PAIRS_PER_STEP = 2**16
# Bags of words are mostly zeros; up to this share of others a sparse product is faster.
_SPARSE_SHARE = 0.1

# The identity, a dense matrix, or a CSR matrix and its transpose.
_FeaturesType = Tensor | tuple[Tensor, Tensor] | None


# Training needs neither of the two modes that the caller may be in.
@torch.inference_mode(False)
@torch.enable_grad()
def embed_nodes(
    data: Data,
    *,
    dim: int = 16,
    hidden: int = 32,
    epochs: int = 200,
    lr: float = 0.01,
    seed: int = 0,
    show_progress: bool = False,
) -> Tensor:
    r"""Embeds the nodes of a graph with a graph auto-encoder, without labels.

    The non-variational model of `"Variational Graph Auto-Encoders"
    <https://arxiv.org/abs/1611.07308>`_ and its settings: an encoder of two graph
    convolutions,

    .. math::
        \mathbf{Z} = \hat{\mathbf{A}} \, \mathrm{ReLU}(\hat{\mathbf{A}} \mathbf{X}
        \mathbf{W}_1) \, \mathbf{W}_2 , \qquad
        \hat{\mathbf{A}} = \tilde{\mathbf{D}}^{-1/2} (\mathbf{A} + \mathbf{I})
        \tilde{\mathbf{D}}^{-1/2} ,

    trained by Adam so that :math:`\sigma(\mathbf{z}_i^{\top} \mathbf{z}_j)` tells edges
    from pairs of nodes without one. Rows of :math:`\mathbf{X}` are divided by the sum
    of their absolute values. Edges count the same in both directions and once; their
    weights, self loops and the other attributes of ``data`` are not looked at.

    Without features :math:`\mathbf{X}` is the identity, as in the paper; its first
    product is :math:`\mathbf{W}_1` itself, one learnt row per node, so that no N by N
    matrix is made. Isolated nodes are embedded from their own row alone. A graph
    without edges has nothing to learn from: its embedding is that of the untrained
    encoder, a random projection of the features.

    Args:
        data (Data): With ``edge_index`` or ``adj_t`` and, if there are any, features
            ``x`` of shape (N, F): floating, integer or bool.
        dim (int, optional): Size of an embedding. Default: 16.
        hidden (int, optional): Size of the layer before it. Default: 32.
        epochs (int, optional): Steps of Adam. Default: 200.
        lr (float, optional): Adam's learning rate. Default: 0.01.
        seed (int, optional): Of the first weights and of the sampled pairs. No global
            random state is read or changed. Default: 0.
        show_progress (bool, optional): Show a bar. Default: False.

    Returns:
        Tensor: Shape (N, ``dim``), on the device of the graph, without a gradient; in
        float64 if ``x`` is, else in float32 (the default dtype without features). The
        same numbers at every call on a CPU; on a GPU up to the order of its sums.

    Raises:
        TypeError: If ``data`` is no :class:`~torch_geometric.data.Data`, or ``x`` is
            complex or not a dense tensor.
        ValueError: If there is no ``edge_index`` or no node, if it does not fit the
            nodes, if ``x`` has another shape or is not finite, if an option is out of
            its range.

    Cost: per epoch O(E · (hidden + dim) + nnz(x) · hidden) time, with at most 65,536
    edges and as many other pairs in the loss. O(E + N · (hidden + dim)) memory beside
    one copy of ``x``, or four times N · hidden for W1 and Adam without features: under
    400 MiB for 100,000 nodes and 300,000 edges.

    >>> data = Data(edge_index=torch.tensor([[0, 1, 3], [1, 2, 4]]), num_nodes=5)
    >>> embed_nodes(data, dim=2, epochs=10).norm(dim=1).shape
    torch.Size([5])
    """
    _check_options(dim, hidden, epochs, lr)
    graph, x = _checked(data)
    home = graph.edge_index.device
    # Sparse products exist on these two only.
    device = home if home.type in ("cpu", "cuda") else torch.device("cpu")
    n = graph.num_nodes
    source, target = edge_index = graph.edge_index.to(device)
    edges = edge_index[:, source < target]  # (2, E / 2): each edge once, keys ascending
    dtype = torch.get_default_dtype() if x is None else x.dtype
    generator = torch.Generator().manual_seed(
        whole_number(seed, "seed")
    )  # on the CPU for any device

    edge_index, weight = gcn_norm(edge_index, None, n, dtype=dtype)
    shift = to_csr(edge_index, weight, n)  # symmetric
    features = None if x is None else _features(x.to(device))
    size = n if x is None else x.size(1)
    model = GAE(_Encoder(size, hidden, dim, generator).to(device, dtype))
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    steps = range(epochs if edges.size(1) else 0)
    for _ in tqdm(steps, desc="embed_nodes", disable=not show_progress):
        optimizer.zero_grad()
        z = model.encode(features, shift)
        _loss(model, z, *_pairs(edges, n, generator)).backward()
        optimizer.step()
    embedding: Tensor = model.encode(features, shift).detach()
    return embedding.to(home)


class _Encoder(torch.nn.Module):
    """Two graph convolutions, as the paper's: no bias, a ReLU between them."""

    def __init__(
        self, size: int, hidden: int, dim: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.first = _glorot(size, hidden, generator)
        self.second = _glorot(hidden, dim, generator)

    def forward(self, features: _FeaturesType, shift: Tensor) -> Tensor:
        """Z, shape (N, dim); the shift is symmetric."""
        if features is None:  # the identity
            projected: Tensor = self.first
        elif isinstance(features, Tensor):
            projected = features @ self.first
        else:
            projected = _SparseProduct.apply(self.first, *features)
        h = _SparseProduct.apply(projected, shift, shift).relu()
        out: Tensor = _SparseProduct.apply(h @ self.second, shift, shift)
        return out


class _SparseProduct(torch.autograd.Function):
    """A product with a constant CSR matrix whose transpose is at hand.

    Torch's own derivative transposes the matrix again at every step, which takes
    several times as long as the product.
    """

    @staticmethod
    def forward(ctx: Any, dense: Tensor, matrix: Tensor, transpose: Tensor) -> Tensor:
        ctx.transpose = transpose
        return matrix @ dense

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.transpose @ gradient, None, None


def _features(x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
    """Row-normalised features; as CSR with its transpose where most are zero."""
    total = x.abs().sum(dim=1, keepdim=True)
    x = x / total.where(total > 0, 1)
    if int(x.count_nonzero()) > _SPARSE_SHARE * x.numel():
        return x
    return x.to_sparse_csr(), x.T.contiguous().to_sparse_csr()


def _pairs(
    edges: Tensor, num_nodes: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Edges of this step and as many other pairs, less those that are edges or loops.

    Torch Geometric's ``negative_sampling`` draws from Python's global random state.
    """
    n = min(edges.size(1), _PAIRS_PER_STEP)
    drawn = torch.randint(num_nodes, (2, n), generator=generator).to(edges.device)
    low, high = drawn.aminmax(dim=0)
    key, known = high * num_nodes + low, edges[1] * num_nodes + edges[0]
    at = torch.searchsorted(known, key).clamp(max=len(known) - 1)
    others = drawn[:, (known[at] != key) & (low != high)]
    if edges.size(1) > n:
        some = torch.randint(edges.size(1), (n,), generator=generator)
        edges = edges[:, some.to(edges.device)]
    return edges, others


def _loss(model: GAE, z: Tensor, edges: Tensor, others: Tensor) -> Tensor:
    """The paper's weighted cross entropy, times two: edges weigh as much as the rest.

    As ``model.recon_loss``, but finite for scores beyond the range of the sigmoid and
    on a complete graph, which has no other pairs.
    """
    loss: Tensor = softplus(-model.decode(z, edges, sigmoid=False)).mean()
    if others.size(1):
        loss = loss + softplus(model.decode(z, others, sigmoid=False)).mean()
    return loss


def _glorot(rows: int, columns: int, generator: torch.Generator) -> torch.nn.Parameter:
    weight = torch.empty(rows, columns)
    torch.nn.init.xavier_uniform_(weight, generator=generator)
    return torch.nn.Parameter(weight)


def _checked(data: Data) -> tuple[Graph, Tensor | None]:
    """The undirected graph, and the features as floating numbers."""
    data = with_edge_index(data)
    if not isinstance(data, Data):
        raise TypeError(
            "expected a torch_geometric.data.Data with one type of nodes "
            f"(got {type(data).__name__}); convert a HeteroData by .to_homogeneous()"
        )
    if data.edge_index is None:
        raise ValueError(
            "expected data with an edge_index (got None); "
            "captum_margin.signal.knn_graph makes one of features"
        )
    x, n = data.x, data.num_nodes
    if not n:
        raise ValueError(f"expected at least one node (got num_nodes={n})")
    graph = as_undirected(data.edge_index, num_nodes=n)
    if x is None:
        return graph, None
    if not isinstance(x, Tensor) or x.layout != torch.strided or x.is_complex():
        kind = getattr(x, "dtype", type(x).__name__)
        raise TypeError(f"expected data.x as one dense real tensor (got {kind})")
    if x.dim() != 2 or x.size(0) != n:
        raise ValueError(
            f"expected data.x of shape (N, F) with N = {n} (got {tuple(x.shape)})"
        )
    if x.size(1) == 0:
        return graph, None
    if not x.is_floating_point():
        x = x.to(torch.get_default_dtype())
    x = x.detach().to(torch.promote_types(x.dtype, torch.float32))
    if not bool(x.isfinite().all()):
        raise ValueError("expected finite features data.x (got NaN or infinity)")
    return graph, x


def _check_options(dim: int, hidden: int, epochs: int, lr: float) -> None:
    sizes = {"dim": dim, "hidden": hidden, "epochs": epochs}
    for name, value in sizes.items():
        if not is_whole(value) or value < 1:
            raise ValueError(f"expected an integer {name} >= 1 (got {value!r})")
    if not 0 < lr < torch.inf:
        raise ValueError(f"expected a finite learning rate lr > 0 (got {lr})")
