"""The graph step: exact neighbours, defined ties, undirected and coalesced."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.utils import is_undirected

from captum_margin.signal import (
    Graph,
    _neighbors,
    as_undirected,
    check_graph,
    knn_graph,
    knn_graph_1d,
    to_csr,
)
from tests.helpers.graphs import dense
from tests.reference import margin_listings as reference

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
        ],
    ),
]
QUICK = settings(max_examples=60, deadline=None)


def assert_well_formed(edge_index, edge_weight, n):
    source, target = edge_index
    key = target * n + source
    assert (key[1:] > key[:-1]).all()  # sorted by target, then source; no duplicates
    assert (source != target).all()
    w = dense(edge_index.cpu(), edge_weight.double().cpu(), n)
    np.testing.assert_array_equal(w, w.T)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("weight", ["none", "gaussian"])
@pytest.mark.parametrize("k", [1, 4, 50])
def test_equals_brute_force(device, metric, weight, k):
    generator = torch.Generator().manual_seed(k)
    x = torch.randn(40, 7, generator=generator, dtype=torch.float64)
    edge_index, edge_weight = knn_graph(x.to(device), k, metric=metric, weight=weight)
    expected = reference.knn_weights(x.numpy(), k, metric, weight)
    assert edge_index.device.type == edge_weight.device.type == device
    assert_well_formed(edge_index, edge_weight, 40)
    np.testing.assert_allclose(
        dense(edge_index.cpu(), edge_weight.cpu(), 40), expected, rtol=1e-10
    )


@QUICK
@given(
    points=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=14
    ),
    k=st.integers(1, 16),
    chunk_size=st.integers(1, 15),
)
def test_ties_and_duplicates_go_to_the_lower_index(points, k, chunk_size):
    x = torch.tensor(points)
    edge_index, edge_weight = knn_graph(x, k, weight="gaussian", chunk_size=chunk_size)
    expected = reference.knn_weights(x.numpy(), k, weight="gaussian")
    assert_well_formed(edge_index, edge_weight, len(points))
    got = dense(edge_index, edge_weight, len(points))
    np.testing.assert_allclose(got, expected, rtol=1e-5)  # weights in float32


@QUICK
@given(
    values=st.lists(
        st.one_of(
            st.integers(-3, 3).map(float),
            st.floats(-100, 100, width=32).map(lambda v: round(v, 2)),
        ),
        min_size=1,
        max_size=25,
    ),
    k=st.integers(1, 27),
)
def test_sorting_on_a_line_gives_the_same_graph(values, k):
    x = torch.tensor(values)
    by_sorting = knn_graph_1d(x, k, weight="gaussian")
    by_pairs = knn_graph(x[:, None], k, weight="gaussian")
    assert torch.equal(by_sorting[0], by_pairs[0])
    assert torch.equal(by_sorting[1], by_pairs[1])


def test_many_equal_values_on_a_line():
    x = torch.tensor([1.0] * 300 + [0.0] * 5 + [2.0] * 3).flip(0)
    for k in (1, 4, 20):
        assert torch.equal(knn_graph_1d(x, k)[0], knn_graph(x[:, None], k)[0])


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_cancellation_does_not_swap_neighbours(offset):
    # Far from the origin |a|² + |b|² - 2ab has no digits left in float32.
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 3, generator=generator, dtype=torch.float64) + offset
    got = dense(*knn_graph(x, 5), 60)
    np.testing.assert_array_equal(got, reference.knn_weights(x.numpy(), 5))


@pytest.mark.parametrize("chunk_size", [1, 7, 100])
def test_chunks_do_not_change_the_graph(chunk_size):
    x = torch.randn(50, 33, generator=torch.Generator().manual_seed(1))
    whole, parts = knn_graph(x, 6), knn_graph(x, 6, chunk_size=chunk_size)
    assert torch.equal(whole[0], parts[0])


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_single_precision_is_left_where_it_does_not_suffice(scale, monkeypatch):
    """Two groups whose spread is a 10^-8 of their distance."""
    generator = torch.Generator().manual_seed(0)
    x = 1e-8 * torch.randn(60, 3, generator=generator, dtype=torch.float64)
    x[30:, 0] += 1
    x *= scale
    distance = (x[:, None] - x).square().sum(dim=2).fill_diagonal_(torch.inf)
    expected = distance.topk(4, largest=False).indices.sort().values
    dtypes = []
    screen = _neighbors._Screen
    monkeypatch.setattr(
        _neighbors, "_Screen", lambda *args: dtypes.append(args[-1]) or screen(*args)
    )
    _, j, _ = _neighbors.nearest(x, 4, chunk_size=20)
    assert torch.equal(j.view(60, 4).sort().values, expected)
    assert dtypes == [torch.float32, torch.float64]


def test_reduced_products_are_not_relied_upon():
    """Where float32 products may be rounded to bfloat16 they are made in float64."""
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    before = torch.get_float32_matmul_precision()
    assert _neighbors._first_dtype(x.double()) == torch.float32
    try:
        torch.set_float32_matmul_precision("medium")
        assert _neighbors._first_dtype(x.double()) == torch.float64
    finally:
        torch.set_float32_matmul_precision(before)


def test_duplicates_cost_no_more_than_other_points():
    # 20 000 equal points would be 400 million tied pairs.
    edge_index, _ = knn_graph(torch.ones(20_000, 2), 2)
    first, second = edge_index[:, edge_index[1] == 19_999][0].tolist()
    assert (first, second) == (0, 1)
    assert edge_index.size(1) == 2 * (3 + 2 * (20_000 - 3))


def test_one_node_has_no_edges_and_large_k_is_complete():
    edge_index, edge_weight = knn_graph(torch.zeros(1, 2), 3)
    assert edge_index.shape == (2, 0)
    assert edge_weight.shape == (0,)
    assert knn_graph_1d(torch.zeros(1), 3)[0].shape == (2, 0)
    assert knn_graph(torch.arange(5.0)[:, None], 9)[0].size(1) == 5 * 4


def test_gaussian_bandwidth_rule_and_value():
    x = torch.tensor([[0.0], [1.0], [4.0]], dtype=torch.float64)  # edges 0-1 and 1-2
    edge_index, edge_weight = knn_graph(x, 1, weight="gaussian")
    # Lengths 1, 1, 3, 3: the (lower) median is 1.
    expected = {(0, 1): np.exp(-0.5), (1, 2): np.exp(-4.5)}
    for (i, j), value in zip(edge_index.T.tolist(), edge_weight.tolist(), strict=True):
        assert value == pytest.approx(expected[min(i, j), max(i, j)], rel=1e-12)
    fixed = knn_graph(x, 1, weight="gaussian", bandwidth=3.0)[1]
    assert fixed.max().item() == pytest.approx(np.exp(-1 / 18), rel=1e-12)


def test_gaussian_weights_never_vanish():
    far = knn_graph(torch.tensor([[0.0], [0.1], [1e6]]), 1, weight="gaussian")[1]
    assert far.min() == torch.finfo(torch.float32).tiny
    duplicates = knn_graph(torch.ones(4, 2), 2, weight="gaussian")[1]
    assert torch.equal(duplicates, torch.ones_like(duplicates))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtype_of_the_weights_is_that_of_the_features(dtype):
    x = torch.arange(6).to(dtype)[:, None].requires_grad_()
    edge_weight = knn_graph(x, 2, weight="gaussian")[1]
    assert edge_weight.dtype == dtype
    assert not edge_weight.requires_grad
    assert knn_graph(torch.arange(6)[:, None], 2)[1].dtype == torch.get_default_dtype()


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (torch.zeros(0, 3), {}, r"N, F >= 1 \(got \(0, 3\)\)"),
        (torch.zeros(4), {}, r"\(N, F\).*x\[:, None\]"),
        (torch.tensor([[0.0], [torch.nan]]), {}, "finite features"),
        (torch.tensor([[0.0], [torch.inf]]), {}, "finite features"),
        (torch.eye(2)[:, :1], {"metric": "cosine"}, "non-zero rows.*row 1"),
        (torch.eye(2), {"metric": "manhattan"}, "got 'manhattan'"),
        (torch.eye(2), {"weight": "heat"}, "got 'heat'"),
        (torch.eye(2), {"bandwidth": 0.0}, "bandwidth > 0"),
        (torch.eye(2), {"chunk_size": 0}, "chunk_size >= 1"),
        (torch.eye(2), {"k": 0}, "k >= 1"),
    ],
)
def test_bad_features_and_options(x, options, message):
    with pytest.raises(ValueError, match=message):
        knn_graph(x, **{"k": 1, **options})


def test_bad_types():
    with pytest.raises(TypeError, match="integer k"):
        knn_graph(torch.eye(2), 1.5)
    with pytest.raises(TypeError, match="real features"):
        knn_graph(torch.eye(2, dtype=torch.complex64), 1)
    with pytest.raises(TypeError, match="a tensor of real features"):
        knn_graph(torch.eye(2).numpy(), 1)
    with pytest.raises(ValueError, match=r"values of shape \(N,\)"):
        knn_graph_1d(torch.eye(2), 1)


def test_as_undirected_symmetrises_merges_and_drops_loops():
    edge_index = torch.tensor([[0, 0, 1, 2, 3], [1, 1, 0, 2, 0]])
    graph = as_undirected(edge_index, torch.tensor([1.0, 5.0, 2.0, 9.0, 0.5]), 6)
    assert graph.num_nodes == 6
    assert is_undirected(graph.edge_index, graph.edge_weight)
    w = dense(graph.edge_index, graph.edge_weight, 6)
    expected = np.zeros((6, 6))
    expected[0, 1] = expected[1, 0] = 5.0  # the largest of 1, 5 and 2
    expected[0, 3] = expected[3, 0] = 0.5
    np.testing.assert_array_equal(w, expected)
    unweighted = as_undirected(edge_index)
    assert isinstance(unweighted, Graph)
    assert unweighted.edge_weight is None
    assert unweighted.num_nodes == 4
    assert torch.equal(unweighted.edge_index, graph.edge_index)


def test_as_undirected_leaves_its_own_result_alone():
    x = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    edge_index, edge_weight = knn_graph(x, 4, weight="gaussian")
    again = as_undirected(edge_index, edge_weight, 30)
    assert torch.equal(again.edge_index, edge_index)
    assert torch.equal(again.edge_weight, edge_weight)


def test_graphs_without_edges():
    empty = torch.empty(2, 0, dtype=torch.long)
    assert as_undirected(empty, num_nodes=3).edge_index.shape == (2, 0)
    assert as_undirected(empty).num_nodes == 0


EDGES = torch.tensor([[0, 1], [1, 0]])


@pytest.mark.parametrize(
    ("edge_index", "edge_weight", "message"),
    [
        (torch.zeros(3, 2, dtype=torch.long), None, r"\(2, E\).*transpose"),
        (EDGES + 1, None, r"within \[0, 2\) \(got 1 to 2\)"),
        (EDGES - 1, None, r"got -1 to 0"),
        (EDGES, torch.ones(3), r"edge_weight of shape \(E,\) = \(2,\) \(got \(3,\)\)"),
        (EDGES, torch.tensor([1.0, -2.0]), r"non-negative.*got -2"),
        (EDGES, torch.tensor([1.0, torch.nan]), "finite edge weights"),
        (EDGES, torch.tensor([1.0, torch.inf]), "finite edge weights"),
    ],
)
def test_check_graph_says_what_is_wrong(edge_index, edge_weight, message):
    with pytest.raises(ValueError, match=message):
        check_graph(edge_index, edge_weight, 2)


def test_check_graph_types_and_signed_weights():
    with pytest.raises(TypeError, match=r"torch.int64 \(got torch.float32\)"):
        check_graph(EDGES.float(), None, 2)
    check_graph(EDGES, torch.tensor([1.0, -2.0]), 2, signed=True)


def test_to_csr_has_targets_as_rows():
    edge_index = torch.tensor([[2, 0, 2], [1, 2, 0]])
    weight = torch.tensor([3.0, -4.0, 5.0], dtype=torch.float64)
    csr = to_csr(edge_index, weight, 3)
    assert csr.layout == torch.sparse_csr
    assert csr.dtype == torch.float64
    np.testing.assert_array_equal(csr.to_dense(), dense(edge_index, weight, 3))
    assert to_csr(edge_index, None, 4).dtype == torch.get_default_dtype()
    with pytest.raises(ValueError, match="same nodes"):
        to_csr(edge_index, weight, 2)
