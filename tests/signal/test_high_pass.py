"""The filter: every law of (I - A^p) f, on every path through the layer."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.explain.algorithm.utils import clear_masks, set_masks
from torch_geometric.nn import LGConv
from torch_geometric.utils import get_laplacian

from captum_margin.signal import HighPass, as_undirected, to_csr
from tests.helpers.graphs import dense, layouts, path, ring, sample_signal, star
from tests.reference import margin_listings as reference

SHIFTS = ["random_walk", "symmetric", "adjacency", "laplacian"]
QUICK = settings(max_examples=25, deadline=None)


# ------------------------------------------------------------------ the definition


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("hops", [1, 2, 5])
@pytest.mark.parametrize("channels", [1, 3])
def test_equals_the_dense_filter_on_every_layout(shift, hops, channels):
    x, edge_index, edge_weight = sample_signal(hops, channels=channels)
    expected = reference.high_pass(
        dense(edge_index, edge_weight, 12), x.numpy(), shift, hops
    )
    layer = HighPass(shift, hops)
    forms = layouts(edge_index, edge_weight, 12)
    forms["to_csr"] = to_csr(edge_index, edge_weight, 12), None
    for name, (edges, weight) in forms.items():
        got = layer(x, edges, weight)
        np.testing.assert_allclose(
            got.numpy(), expected, rtol=1e-10, atol=1e-10, err_msg=name
        )


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("weighted", [True, False])
def test_messages_equal_the_product(shift, weighted):
    x, edge_index, edge_weight = sample_signal()
    weight = edge_weight if weighted else None
    expected = reference.high_pass(dense(edge_index, weight, 12), x.numpy(), shift, 2)
    layer = HighPass(shift, hops=2)
    product = layer(x, edge_index, weight)
    messages = layer(x.clone().requires_grad_(), edge_index, weight).detach()
    np.testing.assert_allclose(product, expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(messages, expected, rtol=1e-10, atol=1e-12)


def test_explainers_mask_single_messages():
    x, *_ = graph = sample_signal()
    edge_index, edge_weight = layouts(*graph[1:], 12)["edge_index, by target"]
    layer = HighPass()
    keep = torch.ones(edge_index.size(1), dtype=torch.float64)
    keep[::2] = 0.0
    set_masks(layer, torch.nn.Parameter(keep), edge_index, apply_sigmoid=False)
    got = layer(x, edge_index, edge_weight).detach()
    degree = dense(edge_index, edge_weight, 12).sum(axis=1)
    masked = dense(edge_index, edge_weight * keep, 12) / degree[:, None]
    np.testing.assert_allclose(
        got, x.numpy() - masked @ x.numpy(), rtol=1e-10, atol=1e-12
    )
    clear_masks(layer)
    expected = HighPass()(x, edge_index, edge_weight)
    torch.testing.assert_close(layer(x, edge_index, edge_weight), expected)


@pytest.mark.parametrize("sparse", [True, False])
def test_sparse_input_keeps_its_gradient_in_x(sparse):
    x, edge_index, edge_weight = sample_signal()
    edges, weight = layouts(edge_index, edge_weight, 12)["csr"]
    if not sparse:
        edges, weight = edge_index, edge_weight
    x.requires_grad_()
    HighPass()(x, edges, weight)[0, 0].backward()
    w = dense(edge_index, edge_weight, 12)
    expected = np.eye(12)[0] - w[0] / w[0].sum()
    np.testing.assert_allclose(x.grad[:, 0], expected, rtol=1e-10, atol=1e-14)


# ------------------------------------------------------------------------ the laws


@QUICK
@given(
    seed=st.integers(0, 10**6), shift=st.sampled_from(SHIFTS), hops=st.integers(1, 3)
)
def test_linear(seed, shift, hops):
    x, edge_index, edge_weight = sample_signal(seed)
    layer, y = HighPass(shift, hops), x.flip(0)
    both = layer(2 * x - 3 * y, edge_index, edge_weight)
    parts = 2 * layer(x, edge_index, edge_weight) - 3 * layer(
        y, edge_index, edge_weight
    )
    torch.testing.assert_close(both, parts, rtol=1e-9, atol=1e-9)


@QUICK
@given(
    seed=st.integers(0, 10**6), shift=st.sampled_from(SHIFTS), hops=st.integers(1, 3)
)
def test_node_permutation_equivariant_and_edge_order_free(seed, shift, hops):
    x, edge_index, edge_weight = sample_signal(seed)
    generator = torch.Generator().manual_seed(seed)
    nodes = torch.randperm(12, generator=generator)
    edges = torch.randperm(edge_index.size(1), generator=generator)
    place = nodes.argsort()  # node nodes[i] becomes node i
    layer = HighPass(shift, hops, isolated="zero")
    expected = layer(x, edge_index, edge_weight)[nodes]
    got = layer(x[nodes], place[edge_index[:, edges]], edge_weight[edges])
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


@QUICK
@given(
    seed=st.integers(0, 10**6), shift=st.sampled_from(SHIFTS), hops=st.integers(1, 3)
)
def test_components_are_independent(seed, shift, hops):
    x, edge_index, edge_weight = sample_signal(seed)
    layer = HighPass(shift, hops)
    together = layer(
        torch.cat([x, 100 * x]),
        torch.cat([edge_index, edge_index + 12], dim=1),
        torch.cat([edge_weight, 7 * edge_weight]),
    )
    alone = layer(x, edge_index, edge_weight)
    torch.testing.assert_close(together[:12], alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shift", ["random_walk", "laplacian"])
@pytest.mark.parametrize("hops", [1, 2, 3])
def test_a_constant_has_no_high_pass_part(shift, hops):
    _, edge_index, edge_weight = sample_signal()
    got = HighPass(shift, hops, isolated="zero")(
        torch.full((12,), 3.0, dtype=torch.float64), edge_index, edge_weight
    )
    torch.testing.assert_close(got, torch.zeros_like(got), rtol=0, atol=1e-11)


def test_a_constant_leaves_a_residual_on_a_star_under_the_symmetric_shift():
    got = HighPass("symmetric")(torch.ones(4, dtype=torch.float64), star(3))
    assert got[0].square().item() == pytest.approx((1 - math.sqrt(3)) ** 2, rel=1e-12)
    assert got[0].square().item() == pytest.approx(0.54, abs=0.005)
    assert got[1].square().item() == pytest.approx(0.18, abs=0.005)


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("hops", [1, 2, 3])
@pytest.mark.parametrize("frequency", [0, 1, 5, 8])
def test_ring_eigenvectors(shift, hops, frequency):
    n = 16
    cosine = math.cos(2 * math.pi * frequency / n)
    eigenvalue = {  # of A, on a ring, where every degree is 2
        "random_walk": cosine,
        "symmetric": cosine,
        "adjacency": 2 * cosine,
        "laplacian": 1 - (2 - 2 * cosine),
    }[shift]
    angle = torch.arange(n, dtype=torch.float64) * 2 * math.pi * frequency / n
    wave = torch.stack([angle.cos(), angle.sin()], dim=1)
    got = HighPass(shift, hops)(wave, ring(n))
    torch.testing.assert_close(got, (1 - eigenvalue**hops) * wave)


def test_one_laplacian_hop_is_the_sum_of_differences():
    x = torch.tensor([1.0, 4.0, 9.0, 16.0])
    assert HighPass("laplacian")(x, path(4)).tolist() == [-3.0, -2.0, -2.0, 7.0]


def test_one_symmetric_hop_is_that_of_the_normalised_laplacian():
    x, edge_index, weight = sample_signal()
    laplacian, degrees = get_laplacian(edge_index, weight, "sym", num_nodes=12)
    expected = dense(laplacian, degrees, 12) @ x.numpy()
    got = HighPass("symmetric")(x, edge_index, weight)
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-10)


def test_symmetric_low_pass_is_lgconv():
    x, edge_index, _ = sample_signal()
    expected = x - LGConv()(x, edge_index)
    torch.testing.assert_close(HighPass("symmetric")(x, edge_index), expected)


@pytest.mark.parametrize("shift", SHIFTS)
def test_isolated_nodes(shift):
    x = torch.tensor([1.0, 4.0, 7.0, -3.0])
    edges = path(2)
    kept = HighPass(shift)(x, edges)
    zeroed = HighPass(shift, isolated="zero")(x, edges)
    assert kept[2:].tolist() == ([0.0, 0.0] if shift == "laplacian" else [7.0, -3.0])
    assert zeroed[2:].tolist() == [0.0, 0.0]
    assert torch.equal(kept[:2], zeroed[:2])
    # A node all of whose edges weigh nothing is isolated too, never NaN.
    weight = torch.tensor([0.0, 0.0])
    assert torch.equal(
        HighPass(shift, isolated="zero")(x, edges, weight), torch.zeros(4)
    )


def test_isolated_nodes_of_a_weighted_matrix():
    edge_index = torch.tensor([[0, 1, 4, 5, 4, 1], [1, 0, 5, 4, 1, 4]])
    weight = torch.tensor([1.0, 1.0, 2.0, 2.0, 0.5, 0.5])
    x = torch.arange(1.0, 8.0)
    expected = HighPass()(x.clone().requires_grad_(), edge_index, weight)
    got = HighPass()(x, to_csr(edge_index, weight, 7))
    torch.testing.assert_close(got, expected.detach())
    assert got[[2, 3, 6]].tolist() == [3.0, 4.0, 7.0]


def test_a_graph_without_edges_and_one_without_nodes():
    empty = torch.empty(2, 0, dtype=torch.long)
    x = torch.tensor([[1.0, 2.0]])
    assert torch.equal(HighPass()(x, empty), x)
    assert HighPass()(torch.empty(0, 3), empty).shape == (0, 3)


def test_parallel_edges_add_up_and_as_undirected_removes_them():
    x = torch.tensor([0.0, 3.0, 9.0])
    twice = torch.cat([path(3), torch.tensor([[0, 1], [1, 0]])], dim=1)
    assert HighPass()(x, twice)[1].item() == pytest.approx(0.0)  # 3 - (0 + 0 + 9) / 3
    merged = as_undirected(twice)
    assert HighPass()(x, merged.edge_index)[1].item() == pytest.approx(-1.5)


def test_a_directed_graph_uses_the_incoming_edges_of_the_flow():
    x = torch.tensor([1.0, 10.0])
    edge = torch.tensor([[0], [1]])
    assert HighPass()(x, edge).tolist() == [1.0, 9.0]
    assert HighPass(flow="target_to_source")(x, edge).tolist() == [-9.0, 10.0]
    for hops in (1, 2):
        counted = HighPass(
            "adjacency", hops, support_normalized=True, flow="target_to_source"
        )
        flipped = HighPass("adjacency", hops, support_normalized=True)
        assert torch.equal(counted(x, edge), flipped(x, edge.flip(0)))


def test_subnormal_degrees_do_not_overflow():
    tiny = torch.full((4,), 1e-40)
    got = HighPass()(torch.tensor([1.0, 3.0, 5.0]), path(3), tiny)
    torch.testing.assert_close(got, torch.tensor([-2.0, 0.0, 2.0]))


# --------------------------------------------------------------------- the listings


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_the_listings(hops):
    x, edge_index, _ = sample_signal(3, channels=1)
    assert edge_index[1].unique().numel() == 12  # the listings divide by degrees
    w, f = dense(edge_index, None, 12), x[:, 0]
    layer = HighPass("symmetric", hops, support_normalized=True)

    direct = layer(f, edge_index).abs()
    expected = reference.listing_arxiv(w, f.numpy(), hops)
    np.testing.assert_allclose(direct / direct.max(), expected, rtol=1e-10)

    smooth = f - layer(f, edge_index)
    twice = layer(smooth, edge_index).abs()
    expected = reference.listing_journal(w, f.numpy(), hops)
    np.testing.assert_allclose(twice / twice.max(), expected, rtol=1e-10)


@pytest.mark.parametrize("shift", ["random_walk", "symmetric", "adjacency"])
@pytest.mark.parametrize("hops", [1, 2, 4])
def test_support_normalized_equals_the_dense_formula(shift, hops):
    x, edge_index, edge_weight = sample_signal(hops)
    edge_weight = edge_weight.clone()
    edge_weight[(edge_index.sum(0) % 5) == 0] = 0.0  # no part of the support
    expected = reference.support_normalized(
        dense(edge_index, edge_weight, 12), x.numpy(), shift, hops
    )
    layer = HighPass(shift, hops, support_normalized=True)
    for name, (edges, weight) in layouts(edge_index, edge_weight, 12).items():
        np.testing.assert_allclose(
            layer(x, edges, weight), expected, rtol=1e-10, atol=1e-12, err_msg=name
        )
