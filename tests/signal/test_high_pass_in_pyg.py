"""The filter among PyG's own layers: in models, mini-batches and explainers."""

import copy
import io
import itertools
import pickle

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients
from torch_geometric import EdgeIndex
from torch_geometric.data import Batch, Data
from torch_geometric.explain import CaptumExplainer, Explainer, GNNExplainer
from torch_geometric.loader import NeighborLoader
from torch_geometric.nn import HeteroConv, LGConv, Sequential, to_captum_model
from torch_geometric.nn import to_hetero as make_hetero
from torch_geometric.typing import WITH_PYG_LIB, WITH_TORCH_SPARSE, SparseTensor
from torch_geometric.utils import k_hop_subgraph

from captum_margin.signal import HighPass, to_csr
from tests.helpers.graphs import both_directions, layouts, ring, sample_signal

SHIFTS = ["random_walk", "symmetric", "adjacency", "laplacian"]
CUDA = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]
DEVICES = ["cpu", pytest.param("cuda", marks=CUDA)]
needs_torch_sparse = pytest.mark.skipif(
    not WITH_TORCH_SPARSE, reason="needs torch-sparse"
)
needs_sampler = pytest.mark.skipif(
    not (WITH_PYG_LIB or WITH_TORCH_SPARSE), reason="needs pyg-lib or torch-sparse"
)


class Net(torch.nn.Module):
    """The filter, then a linear layer, in float64."""

    def __init__(self, layer=None):
        super().__init__()
        self.filter = HighPass() if layer is None else layer
        self.linear = torch.nn.Linear(3, 2, dtype=torch.float64)
        weights = torch.linspace(-1, 1, 6, dtype=torch.float64).view(2, 3)
        self.linear.weight.data, self.linear.bias.data = weights, weights[:, 0].clone()

    def forward(self, x, edge_index, edge_weight=None):
        return self.linear(self.filter(x, edge_index, edge_weight))


class Bare(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, edge_index):
        return self.layer(x, edge_index)


# ------------------------------------------------------------------------ in a model


@pytest.mark.parametrize("device", DEVICES)
def test_in_sequential(device):
    x, edges, weight = (part.to(device) for part in sample_signal())
    first, second = HighPass(), HighPass("symmetric", hops=2, isolated="zero")
    linear = torch.nn.Linear(3, 2, dtype=torch.float64, device=device)
    model = Sequential(
        "x, edge_index, edge_weight",
        [
            (first, "x, edge_index, edge_weight -> x"),
            (linear, "x -> x"),
            torch.nn.ReLU(),
            (second, "x, edge_index -> x"),
        ],
    )
    hidden = linear(first(x, edges, weight)).relu()
    torch.testing.assert_close(model(x, edges, weight), second(hidden, edges))


@needs_torch_sparse
@pytest.mark.parametrize("gradient", [False, True])
def test_torch_sparse_tensor(gradient):
    x, edges, weight = sample_signal()
    x.requires_grad_(gradient)
    adj_t = SparseTensor(
        row=edges[1], col=edges[0], value=weight, sparse_sizes=(12, 12)
    )
    unweighted = adj_t.set_value(None, layout=None)
    for shift in SHIFTS:
        layer = HighPass(shift, 2)
        expected = layer(x, edges, weight)
        torch.testing.assert_close(layer(x, adj_t), expected)
        torch.testing.assert_close(layer(x, unweighted), layer(x, edges))


@pytest.mark.parametrize("order", ["row", "col"])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_undirected_edge_index(order, channels):
    x, edges, weight = sample_signal(channels=channels)
    index, sorting = EdgeIndex(edges, sparse_size=(12, 12), is_undirected=True).sort_by(
        order
    )
    expected = HighPass()(x, edges, weight)
    for _ in range(2):  # the second call meets what the first has cached
        torch.testing.assert_close(HighPass()(x, index, weight[sorting]), expected)
    x.requires_grad_()
    torch.testing.assert_close(HighPass()(x, index, weight[sorting]), expected)


def test_a_batch_of_graphs_is_each_graph():
    signals = [sample_signal(seed, n=5 + seed) for seed in range(3)]
    batch = Batch.from_data_list(
        [Data(x=x, edge_index=edges, edge_attr=weight) for x, edges, weight in signals]
    )
    got = HighPass("symmetric", 2)(batch.x, batch.edge_index, batch.edge_attr)
    expected = [HighPass("symmetric", 2)(*signal) for signal in signals]
    torch.testing.assert_close(got, torch.cat(expected))


def test_several_kinds_of_nodes():
    x, edges, _ = sample_signal()
    same = HeteroConv({("a", "to", "a"): HighPass()})
    out = same({"a": x}, {("a", "to", "a"): edges})["a"]
    torch.testing.assert_close(out, HighPass()(x, edges))
    kinds = ["a", "b"], [("a", "to", "b"), ("b", "to", "a")]
    for layer in (HighPass(), LGConv()):  # one tensor of nodes, as PyG's own
        model = make_hetero(Bare(layer), kinds)
        with pytest.raises((TypeError, AttributeError), match="tuple"):
            model({"a": x, "b": x}, dict.fromkeys(kinds[1], edges))


def test_copies_and_checkpoints():
    x, edges, weight = sample_signal()
    layer = HighPass("symmetric", 2, isolated="zero")
    expected = layer(x, edges, weight)
    stream = io.BytesIO()
    torch.save(layer, stream)
    stream.seek(0)
    for again in (
        copy.copy(layer),
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),
        torch.load(stream, weights_only=False),
    ):
        assert str(again) == str(layer)
        assert torch.equal(again(x, edges, weight), expected)
    assert layer.state_dict() == {} and list(layer.parameters()) == []
    layer.reset_parameters()
    # A checkpoint of a model does not depend on whether it filters.
    plain = Net(torch.nn.Identity()).state_dict()
    Net().load_state_dict(plain, strict=True)


@pytest.mark.parametrize("shift", ["random_walk", "symmetric", "laplacian"])
def test_a_cached_graph_is_that_of_the_first_call(shift):
    x, edges, weight = sample_signal()
    csr = to_csr(edges, weight, len(x))
    for graph in ((edges, weight), (csr,)):
        plain, layer = HighPass(shift, 2), HighPass(shift, 2, cached=True)
        for signal in (x, x[:, 0], x + 1, x.float(), x):
            assert torch.equal(layer(signal, *graph), plain(signal.clone(), csr))
        # Whatever graph is given, until the layer forgets; messages keep nothing.
        other = ring(len(x))
        assert torch.equal(layer(x, other), plain(x, csr))
        y = x.clone().requires_grad_()
        torch.testing.assert_close(layer(y, edges, weight), plain(x, csr))
        torch.testing.assert_close(layer(y, other), plain(x, other))
        with pytest.raises(ValueError, match=r"the 12 nodes .*reset_parameters"):
            layer(x[:6], ring(6))
        layer.reset_parameters()
        torch.testing.assert_close(layer(x, other), plain(x, other))


def test_hooks_on_messages_are_called_on_every_layout():
    x, edges, weight = sample_signal()
    expected = HighPass()(x, edges, weight)
    layer, called = HighPass(), []
    hook = layer.register_message_forward_hook(lambda *_: called.append("message"))
    for name, (form, values) in layouts(edges, weight, 12).items():
        torch.testing.assert_close(layer(x, form, values), expected)
        assert called == ["message"], name
        called.clear()
    hook.remove()
    layer.register_propagate_forward_hook(lambda *_: called.append("propagate"))
    layer(x, *layouts(edges, weight, 12)["edge_index, by target"])
    assert called == ["propagate"]


@pytest.mark.parametrize("aggr", ["mean", "max", None])
def test_only_sums_are_a_filter(aggr):
    with pytest.raises(ValueError, match=f"expected aggr 'add' \\(got {aggr!r}"):
        HighPass(aggr=aggr)
    assert HighPass(aggr="sum").aggr == "sum"


def test_arguments_of_message_passing():
    x, edges, weight = sample_signal(channels=4)
    expected = HighPass()(x, edges, weight)
    for options in ({"decomposed_layers": 2}, {"node_dim": 0}, {"aggr": "sum"}):
        for signal in (x, x.clone().requires_grad_()):
            got = HighPass(**options)(signal, edges, weight)
            torch.testing.assert_close(got.detach(), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels", [1, 3])
def test_autocast_changes_nothing(device, channels):
    x, edges, weight = sample_signal(channels=channels, dtype=torch.float32)
    expected = HighPass()(x, edges, weight)
    for name, (form, values) in layouts(edges, weight, 12).items():
        values = None if values is None else values.to(device)
        for signal in (x, x.clone().requires_grad_()):
            with torch.autocast(device, torch.bfloat16):
                got = HighPass()(signal.to(device), form.to(device), values)
            assert got.dtype == torch.float32, name
            torch.testing.assert_close(got.detach().cpu(), expected)


# ------------------------------------------------------------------- in mini-batches


def small_world(n=40):
    """A ring with chords: every node has neighbours beyond any few hops of another."""
    ends = [(i, (i + 1) % n) for i in range(n)]
    ends += [(i, (i + 5) % n) for i in range(0, n, 4)]
    edges = both_directions(ends)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    half = torch.rand(len(ends), generator=generator, dtype=torch.float64) + 0.1
    return x, edges, torch.cat([half, half])


@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize("hops", [1, 2, 3])
@pytest.mark.parametrize("shift", SHIFTS)
def test_all_neighbours_give_the_seeds_their_values(shift, hops, directed):
    x, edges, weight = small_world()
    layer = HighPass(shift, hops)
    expected = layer(x, edges, weight)
    seeds = torch.tensor([3, 20])

    def on_subgraph(size):
        nodes, part, at, kept = k_hop_subgraph(
            seeds, size, edges, relabel_nodes=True, num_nodes=40, directed=directed
        )
        assert len(nodes) < 40
        return layer(x[nodes], part, weight[kept])[at]

    enough = hops + (shift == "symmetric")
    torch.testing.assert_close(on_subgraph(enough), expected[seeds])
    # And no fewer: the statement is tight.
    assert float((on_subgraph(enough - 1) - expected[seeds]).abs().min()) > 1e-3


def sampled(edges, size, n):
    """Every graph in which each node keeps ``size`` of its neighbours, as likely."""
    choices = []
    for node in range(n):
        near = edges[0, edges[1] == node].tolist()
        picks = itertools.combinations(near, min(size, len(near)))
        choices.append([[(j, node) for j in pick] for pick in picks])
    for combination in itertools.product(*choices):
        yield torch.tensor(list(itertools.chain(*combination))).T


def test_sampled_neighbours_are_unbiased_under_random_walk_only():
    # Node 0 has four neighbours; 1 and 2, 3 and 4, 4 and 5 are joined too.
    edges = both_directions([(0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (3, 4), (4, 5)])
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(6, generator=generator, dtype=torch.float64)
    graphs = list(sampled(edges, 2, 6))
    assert len(graphs) == 6 * 3  # six pairs at node 0, three at node 4

    def estimates(layer):
        return torch.stack([layer(x, graph) for graph in graphs])

    exact = HighPass()(x, edges)
    found = estimates(HighPass())
    torch.testing.assert_close(found.mean(0), exact)
    # The square exceeds by the variance of a mean drawn without replacement.
    near = x[1:5]
    variance = near.var() / 2 * (1 - 2 / 4)
    torch.testing.assert_close(found[:, 0].square().mean(), exact[0] ** 2 + variance)
    for shift in ("symmetric", "adjacency", "laplacian"):
        bias = estimates(HighPass(shift)).mean(0) - HighPass(shift)(x, edges)
        assert abs(float(bias[0])) > 0.05


@needs_sampler
def test_neighbor_loader():
    x, edges, weight = small_world()
    data = Data(x=x, edge_index=edges, edge_attr=weight)
    for shift, hops in (("random_walk", 1), ("random_walk", 2), ("symmetric", 1)):
        layer = HighPass(shift, hops)
        layers = [-1] * (hops + (shift == "symmetric"))
        expected = layer(x, edges, weight)
        for batch in NeighborLoader(data, layers, batch_size=7):
            got = layer(batch.x, batch.edge_index, batch.edge_attr)
            seeds = batch.n_id[: batch.batch_size]
            torch.testing.assert_close(got[: batch.batch_size], expected[seeds])


# ---------------------------------------------------------------------- to explainers


def contributions(x, edges, weight, node, direction):
    """What each edge into a node takes off the filtered signal along a direction."""
    degree = np.zeros(12)
    np.add.at(degree, edges[1].numpy(), weight.numpy())
    part = -(weight / degree[node]) * (x[edges[0]] @ direction)
    return part.where(edges[1] == node, 0.0)


@pytest.mark.parametrize("mask_type", ["edge", "node_and_edge"])
def test_captum_attributes_to_edges(mask_type):
    x, edges, weight = sample_signal()
    model = Net()
    masked = to_captum_model(model, mask_type, output_idx=2)
    mask = torch.ones(1, edges.size(1), dtype=torch.float64)
    if mask_type == "edge":
        inputs, rest = mask, (x, edges, weight)
    else:
        inputs, rest = (x[None], mask), (edges, weight)
    found = IntegratedGradients(masked).attribute(
        inputs, target=1, additional_forward_args=rest, internal_batch_size=1
    )
    direction = model.linear.weight[1].detach()
    if mask_type == "edge":  # linear in the mask: its gradient times one
        expected = contributions(x, edges, weight, 2, direction)
        torch.testing.assert_close(found[0], expected)
    else:  # bilinear: along the diagonal half of it belongs to the mask
        expected = contributions(x, edges, weight, 2, direction) / 2
        torch.testing.assert_close(found[1][0], expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("algorithm", ["GNNExplainer", "IntegratedGradients"])
def test_explainers_of_pyg_find_the_edges_that_matter(algorithm):
    x, edges, weight = sample_signal()
    model = Net()
    explainer = Explainer(
        model,
        GNNExplainer(epochs=20)
        if algorithm == "GNNExplainer"
        else CaptumExplainer(algorithm),
        explanation_type="model",
        node_mask_type="attributes",
        edge_mask_type="object",
        model_config={
            "mode": "multiclass_classification",
            "task_level": "node",
            "return_type": "raw",
        },
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = explainer(x, edges, edge_weight=weight, index=2).edge_mask
    into = edges[1] == 2
    assert bool((found[into] != 0).all()) and bool((found[~into] == 0).all())
