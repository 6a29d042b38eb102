"""The graph auto-encoder: its formulas, what it finds, what it leaves alone."""

import random

import numpy as np
import pytest
import torch
from torch_geometric.data import Data, HeteroData
from torch_geometric.nn import GAE, GCNConv

from captum_margin.influence import graph_autoencoder
from captum_margin.influence.graph_autoencoder import embed_nodes
from captum_margin.signal import as_undirected, to_csr
from tests.helpers.graphs import both_directions, path, ring, star

CUDA = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]


def communities(n=60, inside=0.3, across=0.02, seed=0):
    """Two halves, many edges within each and few between them."""
    generator = torch.Generator().manual_seed(seed)
    i, j = torch.triu_indices(n, n, offset=1)
    chance = torch.where((i < n // 2) == (j < n // 2), inside, across)
    kept = torch.rand(len(i), generator=generator) < chance
    return torch.stack([i[kept], j[kept]])


def area_under_curve(positive, negative):
    """Share of pairs (positive, negative) in the right order; ties count half."""
    difference = positive[:, None] - negative[None]
    return float(((difference > 0).float() + 0.5 * (difference == 0)).mean())


def scores(z, pairs):
    return (z[pairs[0]] * z[pairs[1]]).sum(dim=1)


# --------------------------------------------------------------------- what it finds


@pytest.mark.parametrize("features", [False, True])
def test_two_planted_communities(features):
    n = 60
    edges = communities(n)
    generator = torch.Generator().manual_seed(1)
    # Features that say nothing: what is found is found in the edges.
    x = torch.rand(n, 40, generator=generator) if features else None
    z = embed_nodes(Data(x=x, edge_index=edges, num_nodes=n), epochs=100)
    i, j = torch.triu_indices(n, n, offset=1)
    same = (i < n // 2) == (j < n // 2)
    score = scores(z, torch.stack([i, j]))
    assert area_under_curve(score[same], score[~same]) > 0.9
    adjacent = torch.zeros(n, n, dtype=torch.bool)
    adjacent[edges[0], edges[1]] = True
    adjacent = adjacent[i, j]
    assert area_under_curve(score[adjacent], score[~adjacent]) > 0.75
    centred = z - z.mean(dim=0)
    side = torch.linalg.svd(centred, full_matrices=False)[0][:, 0] > 0
    agreement = (side == (torch.arange(n) < n // 2)).float().mean()
    assert max(agreement, 1 - agreement) > 0.95


def test_training_lowers_the_loss_over_all_pairs():
    n = 60
    data = Data(edge_index=communities(n), num_nodes=n)
    i, j = torch.triu_indices(n, n, offset=1)
    adjacent = torch.zeros(n, n, dtype=torch.bool)
    adjacent[tuple(data.edge_index)] = True
    adjacent = adjacent[i, j]

    def loss(z):
        score = scores(z.double(), torch.stack([i, j]))
        edges = -torch.sigmoid(score[adjacent]).log().mean()
        return float(edges - (1 - torch.sigmoid(score[~adjacent])).log().mean())

    losses = [loss(embed_nodes(data, epochs=epochs)) for epochs in (1, 10, 30)]
    assert losses[0] - losses[1] > 0.15 and losses[1] - losses[2] > 0.05


# ---------------------------------------------------------------------- the formulas


@pytest.mark.parametrize("kind", ["identity", "dense", "sparse"])
def test_the_encoder_is_two_graph_convolutions(kind):
    n, hidden, dim = 12, 5, 3
    generator = torch.Generator().manual_seed(2)
    edges = torch.cat([ring(n), both_directions([(0, 5), (2, 9)])], dim=1)
    edges = as_undirected(edges).edge_index
    x = torch.rand(n, 30, generator=generator, dtype=torch.float64) - 0.3
    if kind == "sparse":
        x[:, 2:] = 0
    x[4] = 0  # stays zero
    data = Data(x=None if kind == "identity" else x, edge_index=edges, num_nodes=n)
    # What embed_nodes() gives after a number of steps so small that nothing moves is
    # PyG's own layers with the same weights.
    z = embed_nodes(data, dim=dim, hidden=hidden, epochs=1, lr=1e-12, seed=3)
    draws = torch.Generator().manual_seed(3)
    size = n if kind == "identity" else 30
    first, second = torch.empty(size, hidden), torch.empty(hidden, dim)
    for weight in (first, second):
        torch.nn.init.xavier_uniform_(weight, generator=draws)
    layers = [GCNConv(size, hidden, bias=False), GCNConv(hidden, dim, bias=False)]
    for layer, weight in zip(layers, (first, second), strict=True):
        layer.lin.weight.data = weight.T.clone().to(z.dtype)
    rows = torch.eye(n) if kind == "identity" else x / x.abs().sum(1, keepdim=True)
    rows = rows.nan_to_num(0.0).to(z.dtype)
    expected = layers[1](layers[0](rows, edges).relu(), edges)
    torch.testing.assert_close(z, expected.detach(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("sparse", [False, True])
def test_gradients_of_the_encoder(sparse):
    generator = torch.Generator().manual_seed(4)
    edges = as_undirected(torch.randint(8, (2, 20), generator=generator)).edge_index
    weight = torch.rand(8, 8, generator=generator, dtype=torch.float64)
    weight = (weight + weight.T)[edges[0], edges[1]]
    shift = to_csr(edges, weight, 8)
    x = torch.rand(8, 20, generator=generator, dtype=torch.float64)
    x[:, 1 if sparse else 20 :] = 0
    features = graph_autoencoder._features(x)
    assert isinstance(features, tuple) == sparse
    encoder = graph_autoencoder._Encoder(20, 4, 3, generator).double()

    def encode(first, second):
        return torch.func.functional_call(
            encoder, {"first": first, "second": second}, (features, shift)
        )

    # Through PyTorch's dense products: gradcheck would stop at the ReLU's kinks.
    first, second = (p.detach().clone().requires_grad_() for p in encoder.parameters())
    rows = x / x.abs().sum(dim=1, keepdim=True)
    dense = shift.to_dense()
    expected = dense @ ((dense @ (rows @ first)).relu() @ second)
    out = encode(first, second)
    torch.testing.assert_close(out, expected)
    direction = torch.rand(8, 3, generator=generator, dtype=torch.float64)
    found = torch.autograd.grad((out * direction).sum(), (first, second))
    wanted = torch.autograd.grad((expected * direction).sum(), (first, second))
    torch.testing.assert_close(found, wanted)


def test_the_loss_is_that_of_pyg():
    generator = torch.Generator().manual_seed(5)
    z = torch.randn(9, 3, generator=generator, dtype=torch.float64)
    edges, others = torch.randint(9, (2, 2, 7), generator=generator)
    model = GAE(torch.nn.Identity())
    loss = graph_autoencoder._loss(model, z, edges, others)
    torch.testing.assert_close(loss, model.recon_loss(z, edges, others))
    # Scores that saturate a float32 sigmoid still pull.
    far = torch.full((2, 3), 10.0, requires_grad=True)
    none = torch.empty(2, 0, dtype=torch.long)
    graph_autoencoder._loss(model, far, none.new_zeros(2, 1), path(2)).backward()
    assert float(far.grad.abs().min()) > 1


def test_the_other_pairs_are_uniform_over_what_is_no_edge():
    n = 7
    edges = as_undirected(ring(n)).edge_index
    edges = edges[:, edges[0] < edges[1]]
    generator = torch.Generator().manual_seed(6)
    counts = np.zeros((n, n))
    for _ in range(2000):
        kept, others = graph_autoencoder._pairs(edges, n, generator)
        assert kept is edges  # few edges: each of them at every step
        np.add.at(counts, (others[0].numpy(), others[1].numpy()), 1)
    counts = counts + counts.T
    adjacent = np.zeros((n, n), dtype=bool)
    adjacent[edges[0], edges[1]] = adjacent[edges[1], edges[0]] = True
    assert counts[adjacent].sum() == counts.trace() == 0
    free = counts[~adjacent & ~np.eye(n, dtype=bool)]
    # 2000 draws of 7 pairs, each unordered pair with chance 2 / 49, seen twice.
    expected = 2000 * 7 * 2 / 49
    assert np.abs(free - expected).max() < 4.5 * expected**0.5


def test_a_large_graph_takes_a_sample_of_its_edges(monkeypatch):
    monkeypatch.setattr(graph_autoencoder, "_PAIRS_PER_STEP", 10)
    edges = as_undirected(communities()).edge_index
    edges = edges[:, edges[0] < edges[1]]
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(300):
        some, others = graph_autoencoder._pairs(edges, 60, generator)
        assert some.shape == (2, 10) and others.size(1) <= 10
        seen |= set(map(tuple, some.T.tolist()))
    assert seen == set(map(tuple, edges.T.tolist()))
    data = Data(edge_index=communities(), num_nodes=60)
    z = embed_nodes(data, epochs=200)
    score = scores(z, torch.triu_indices(60, 60, offset=1))
    i, j = torch.triu_indices(60, 60, offset=1)
    same = (i < 30) == (j < 30)
    assert area_under_curve(score[same], score[~same]) > 0.9


def test_memory_grows_with_nodes_and_edges():
    resource = pytest.importorskip("resource")  # not on Windows
    n = 100_000
    edges = torch.randint(n, (2, 300_000), generator=torch.Generator().manual_seed(0))

    def peak():  # in MiB (on Linux), of the whole process so far
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    before = peak()
    embed_nodes(Data(edge_index=edges, num_nodes=n), epochs=2)
    assert peak() - before < 400  # N by N numbers would be 38,000


# ------------------------------------------------------------- what it leaves alone


def test_one_seed_one_result_and_no_global_state():
    data = Data(x=torch.rand(60, 4), edge_index=communities(), num_nodes=60)
    before = data.x.clone(), data.edge_index.clone()
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    z = embed_nodes(data, epochs=5)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])
    assert torch.equal(data.x, before[0]) and torch.equal(data.edge_index, before[1])
    assert sorted(data.keys()) == ["edge_index", "num_nodes", "x"]
    assert not z.requires_grad and data.x.grad is None
    torch.manual_seed(123)
    random.seed(123)
    assert torch.equal(embed_nodes(data, epochs=5), z)
    assert not torch.equal(embed_nodes(data, epochs=5, seed=1), z)
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            assert torch.equal(embed_nodes(data, epochs=5), z)
    data.x.requires_grad_()
    assert torch.equal(embed_nodes(data, epochs=5), z)


def test_edges_count_once_and_both_ways():
    edges = communities()
    x = torch.rand(60, 4)
    z = embed_nodes(Data(x=x, edge_index=edges), epochs=5)
    loops = torch.arange(60).expand(2, -1)
    again = torch.cat([edges.flip(0), edges[:, :9], loops], dim=1)[:, ::1]
    data = Data(x=x, edge_index=again.flip(1), edge_weight=torch.rand(again.size(1)))
    assert torch.equal(embed_nodes(data, epochs=5), z)
    # Rows of features count by their direction alone.
    scaled = Data(x=x * 2.0 ** torch.arange(60)[:, None].remainder(9), edge_index=edges)
    assert torch.equal(embed_nodes(scaled, epochs=5), z)


def test_shapes_dtypes_and_the_bar(capsys):
    edges = communities()
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        data = Data(x=torch.ones(60, 3).to(dtype), edge_index=edges)
        z = embed_nodes(data, dim=5, hidden=4, epochs=2)
        assert z.shape == (60, 5) and bool(z.isfinite().all())
        assert z.dtype == torch.promote_types(dtype, torch.float32)
    for dtype in (torch.bool, torch.int64, torch.uint8):
        whole = Data(x=torch.ones(60, 3).to(dtype), edge_index=edges)
        ones = Data(x=torch.ones(60, 3), edge_index=edges)
        assert torch.equal(embed_nodes(whole, epochs=2), embed_nodes(ones, epochs=2))
    assert capsys.readouterr().err == ""
    embed_nodes(data, epochs=2, show_progress=True)
    assert "embed_nodes" in capsys.readouterr().err


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=CUDA)])
@pytest.mark.parametrize("features", [False, True])
def test_on_the_gpu(device, features):
    x = torch.rand(60, 4) if features else None
    data = Data(x=x, edge_index=communities(), num_nodes=60)
    state = torch.cuda.get_rng_state()
    z = embed_nodes(data.to(device), epochs=5)
    assert z.device.type == device
    assert torch.equal(torch.cuda.get_rng_state(), state)
    torch.testing.assert_close(z.cpu(), embed_nodes(data.cpu(), epochs=5))


# ------------------------------------------------------------------- edges of the map


def test_isolated_nodes_see_only_themselves():
    x = torch.rand(6, 4)
    x[5] = x[4]  # two isolated nodes with the same features
    data = Data(x=x, edge_index=path(3))
    z = embed_nodes(data, epochs=20)
    assert torch.equal(z[4], z[5]) and bool(z.isfinite().all())
    changed = x.clone()
    changed[:3] = 0  # its embedding depends on others through the weights alone
    first = embed_nodes(data, epochs=1, lr=1e-12)
    other = embed_nodes(Data(x=changed, edge_index=path(3)), epochs=1, lr=1e-12)
    torch.testing.assert_close(first[3:], other[3:])
    assert bool(embed_nodes(Data(edge_index=path(3), num_nodes=6)).isfinite().all())


def test_a_graph_without_edges_is_projected_at_random():
    none = torch.empty(2, 0, dtype=torch.long)
    x = torch.rand(5, 4, dtype=torch.float64)
    z = embed_nodes(Data(x=x, edge_index=none))
    draws = torch.Generator().manual_seed(0)
    first, second = torch.empty(4, 32), torch.empty(32, 16)
    for weight in (first, second):
        torch.nn.init.xavier_uniform_(weight, generator=draws)
    rows = x / x.sum(dim=1, keepdim=True)
    torch.testing.assert_close(z, (rows @ first.double()).relu() @ second.double())
    loops = torch.arange(5).expand(2, -1)
    assert torch.equal(embed_nodes(Data(x=x, edge_index=loops)), z)
    assert embed_nodes(Data(edge_index=none, num_nodes=1)).shape == (1, 16)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_a_complete_graph_has_no_other_pairs(n):
    edges = both_directions([(i, j) for i in range(n) for j in range(i)])
    z = embed_nodes(Data(edge_index=edges, num_nodes=n), epochs=50)
    assert bool(z.isfinite().all())
    assert float(scores(z, edges).min()) > 0


def test_features_without_columns_are_none():
    data = Data(x=torch.empty(5, 0), edge_index=star(4))
    without = Data(edge_index=star(4), num_nodes=5)
    assert torch.equal(embed_nodes(data, epochs=3), embed_nodes(without, epochs=3))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_features_must_be_finite(bad):
    x = torch.ones(4, 2)
    x[1, 1] = bad
    with pytest.raises(ValueError, match="finite features"):
        embed_nodes(Data(x=x, edge_index=path(4)))


def test_bad_input():
    edges = path(4)
    with pytest.raises(TypeError, match="got HeteroData"):
        embed_nodes(HeteroData())
    with pytest.raises(ValueError, match="expected data with an edge_index"):
        embed_nodes(Data(x=torch.ones(4, 2)))
    with pytest.raises(ValueError, match="at least one node"):
        embed_nodes(Data(x=torch.ones(0, 2), edge_index=edges[:, :0]))
    with pytest.raises(ValueError, match=r"\(N, F\) with N = 4 \(got \(4,\)\)"):
        embed_nodes(Data(x=torch.ones(4), edge_index=edges))
    with pytest.raises(ValueError, match="within"):
        embed_nodes(Data(x=torch.ones(3, 2), edge_index=edges))
    with pytest.raises(TypeError, match="complex64"):
        embed_nodes(Data(x=torch.ones(4, 2, dtype=torch.complex64), edge_index=edges))
    with pytest.raises(TypeError, match="dense real tensor"):
        embed_nodes(Data(x=torch.ones(4, 2).to_sparse(), edge_index=edges))
    for name, value in (("dim", 0), ("hidden", 1.5), ("epochs", 0), ("epochs", True)):
        with pytest.raises(ValueError, match=f"expected an integer {name} >= 1"):
            embed_nodes(Data(edge_index=edges, num_nodes=4), **{name: value})
    for lr in (0.0, -1.0, torch.nan, torch.inf):
        with pytest.raises(ValueError, match="learning rate"):
            embed_nodes(Data(edge_index=edges, num_nodes=4), lr=lr)
