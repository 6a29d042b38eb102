"""Leave-neighbourhood-out MMD against its definition, with full kernel matrices."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_margin.signal import knn_graph, leave_neighborhood_out_mmd, rank
from tests.helpers.graphs import both_directions, random_graph, star
from tests.reference import mmd_reference as reference

NO_EDGES = torch.empty(2, 0, dtype=torch.long)


def neighbours(edge_index, n):
    sets = [set() for _ in range(n)]
    for source, target in edge_index.T.tolist():
        sets[target].add(source)
    return sets


def sample(seed, n=14, width=3, density=0.3):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, width, generator=generator, dtype=torch.float64)
    edge_index, _ = random_graph(n, generator, density)
    return x, edge_index, torch.randint(3, (n,), generator=generator)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    gamma=st.floats(0.02, 2.0),
    local=st.booleans(),
    paper=st.booleans(),
)
def test_equals_the_mmd_of_the_two_sets(seed, gamma, local, paper):
    x, edge_index, labels = sample(seed)
    expected = reference.leave_neighborhood_out_mmd(
        x.numpy(),
        neighbours(edge_index, len(x)),
        gamma,
        labels.numpy() if local else None,
        paper,
    )
    got = leave_neighborhood_out_mmd(
        x,
        edge_index,
        labels=labels if local else None,
        gamma=gamma,
        estimate="paper" if paper else "exact",
        block_size=4,
    )
    assert got.dtype == torch.float64
    np.testing.assert_allclose(got, expected, rtol=1e-10)


def test_the_default_gamma_is_one_over_the_mean_squared_distance():
    x, edge_index, _ = sample(1)
    gamma = reference.default_gamma(x.numpy())
    expected = reference.leave_neighborhood_out_mmd(
        x.numpy(), neighbours(edge_index, len(x)), gamma
    )
    np.testing.assert_allclose(
        leave_neighborhood_out_mmd(x, edge_index), expected, rtol=1e-10
    )


@pytest.mark.parametrize("estimate", ["exact", "features", "paper"])
def test_local_is_each_class_on_its_own(estimate):
    x, edge_index, labels = sample(2, n=40)
    options = {"gamma": 0.3, "estimate": estimate, "n_features": 32}
    got = leave_neighborhood_out_mmd(x, edge_index, labels=labels - 1, **options)
    for label in range(3):
        nodes = (labels == label).nonzero().squeeze(1).tolist()
        kept = [
            (nodes.index(i), nodes.index(j))
            for i, j in edge_index.T.tolist()
            if i in nodes and j in nodes
        ]
        edges = torch.tensor(kept, dtype=torch.long).reshape(-1, 2).T
        # The mean that the features subtract is that of the class in both.
        alone = leave_neighborhood_out_mmd(x[nodes], edges, **options)
        torch.testing.assert_close(got[nodes], alone, rtol=1e-12, atol=0)


@pytest.mark.parametrize("estimate", ["exact", "features", "paper"])
def test_blocks_do_not_matter(estimate):
    x, edge_index, _ = sample(3, n=60, density=0.5)
    options = {"estimate": estimate, "n_features": 64}
    expected = leave_neighborhood_out_mmd(x, edge_index, **options)
    for block_size in (1, 7, 1000):
        got = leave_neighborhood_out_mmd(
            x, edge_index, block_size=block_size, **options
        )
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("estimate", ["exact", "features", "paper"])
def test_nodes_and_edges_in_another_order(estimate):
    x, edge_index, labels = sample(4, n=30)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(30, generator=generator)
    place = order.argsort()
    shuffled = place[edge_index][:, torch.randperm(edge_index.size(1))]
    expected = leave_neighborhood_out_mmd(
        x, edge_index, labels=labels, estimate=estimate, n_features=64
    )
    got = leave_neighborhood_out_mmd(
        x[order], shuffled, labels=labels[order], estimate=estimate, n_features=64
    )
    torch.testing.assert_close(got, expected[order], rtol=1e-12, atol=0)


def test_parallel_edges_and_self_loops_change_nothing():
    x, edge_index, _ = sample(5)
    loops = torch.arange(len(x)).expand(2, -1)
    for estimate in ("exact", "features"):
        torch.testing.assert_close(
            leave_neighborhood_out_mmd(
                x, torch.cat([edge_index, loops, edge_index], 1), estimate=estimate
            ),
            leave_neighborhood_out_mmd(x, edge_index, estimate=estimate),
        )


def test_directed_edges_leave_out_the_sources():
    x, _, _ = sample(6, n=5)
    edges = torch.tensor([[0, 1, 2, 3], [4, 4, 0, 1]])
    expected = reference.leave_neighborhood_out_mmd(
        x.numpy(), neighbours(edges, 5), 0.5
    )
    got = leave_neighborhood_out_mmd(x, edges, gamma=0.5)
    np.testing.assert_allclose(got, expected, rtol=1e-10)


def test_random_features_err_as_stated():
    """((m + 1) f)² errs by at most 3 / sqrt(D), and four times less with 16 times D."""
    x, edge_index, _ = sample(7, n=60, density=0.1)
    x = x / 2
    scale = 60 - torch.bincount(edge_index[1], minlength=60)
    exact = leave_neighborhood_out_mmd(x, edge_index)
    deviations = {}
    for size in (64, 1024):
        errors = []
        for seed in range(40):
            got = leave_neighborhood_out_mmd(
                x, edge_index, estimate="features", n_features=size, seed=seed
            )
            errors.append((scale * got).square() - (scale * exact).square())
        deviations[size] = torch.stack(errors).square().mean().sqrt().item()
        assert deviations[size] < 3 / size**0.5
    assert deviations[64] / deviations[1024] == pytest.approx(4, rel=0.2)


def test_random_features_are_kernel_values_on_average():
    """Two samples without edges: ((m + 1) f)² = 2 - 2 k(x, y), m = 1."""
    x = torch.tensor([[0.0, 0.0], [1.0, 0.5]], dtype=torch.float64)
    k = np.exp(-0.4 * 1.25)
    values = []
    for seed in range(400):
        f = leave_neighborhood_out_mmd(
            x, NO_EDGES, gamma=0.4, estimate="features", n_features=50, seed=seed
        )
        values.append(1 - 2 * f[0].item() ** 2)
    deviation = (1 - k**2) / np.sqrt(50)
    assert np.mean(values) == pytest.approx(k, abs=4 * deviation / 20)
    assert np.std(values) == pytest.approx(deviation, rel=0.15)


def test_random_features_know_their_seed():
    x, edge_index, _ = sample(8)
    first, again, other = (
        leave_neighborhood_out_mmd(x, edge_index, estimate="features", seed=seed)
        for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("estimate", ["exact", "features", "paper"])
def test_nobody_left_is_zero(estimate):
    x, _, _ = sample(9, n=4)
    full = both_directions([(i, j) for i in range(4) for j in range(i)])
    options = {"estimate": estimate}
    assert leave_neighborhood_out_mmd(x, full, **options).tolist() == [0] * 4
    assert leave_neighborhood_out_mmd(x[:1], NO_EDGES, **options).tolist() == [0]
    hub = leave_neighborhood_out_mmd(x, star(3), **options)
    assert hub[0] == 0
    assert (hub[1:] > 0).all()
    classes = torch.tensor([0, 1, 2, 3])
    got = leave_neighborhood_out_mmd(x, NO_EDGES, labels=classes, **options)
    assert got.tolist() == [0] * 4


def test_duplicates():
    x = torch.ones(6, 2, dtype=torch.float64)
    same = leave_neighborhood_out_mmd(x, NO_EDGES)
    torch.testing.assert_close(same, torch.zeros_like(same), rtol=0, atol=1e-8)
    # Five of six alike: the five are near the mean, the sixth is |phi - phi'| off.
    x[5] = 2.0
    f = leave_neighborhood_out_mmd(x, NO_EDGES, gamma=1.0)
    distance = np.sqrt(2 - 2 * np.exp(-2.0))
    assert f[5].item() == pytest.approx(distance / 6, rel=1e-10)
    assert f[0].item() == pytest.approx(distance / 5 / 6, rel=1e-10)


@pytest.mark.parametrize("estimate", ["exact", "features"])
def test_a_planted_outlier_ranks_first_and_a_dense_cluster_last(estimate):
    generator = torch.Generator().manual_seed(0)
    cluster = torch.randn(80, 5, generator=generator) * 0.2
    spread = torch.randn(40, 5, generator=generator) * 2 + 1
    outlier = torch.full((1, 5), 9.0)
    x = torch.cat([spread, outlier, cluster])
    edge_index, _ = knn_graph(x, 3)
    f = leave_neighborhood_out_mmd(x, edge_index, gamma=0.05, estimate=estimate)
    order = rank(f).tolist()
    assert order[0] == 40
    assert set(order[:30]) <= set(range(41))
    assert min(order[-70:]) > 40
    if estimate == "exact":
        density = leave_neighborhood_out_mmd(
            x, edge_index, gamma=0.05, estimate="paper"
        )
        assert rank(density)[-1] == 40


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_dtype_is_kept_and_inputs_are_left_alone(dtype):
    x, edge_index, _ = sample(10)
    x = (x * 3).to(dtype)
    before = x.clone()
    expected = leave_neighborhood_out_mmd(x.double(), edge_index)
    for estimate in ("exact", "features"):
        got = leave_neighborhood_out_mmd(x, edge_index, estimate=estimate)
        assert got.dtype == (x.dtype if dtype.is_floating_point else torch.float32)
        loose = 0.2 if estimate == "features" else 1e-4
        loose = max(loose, 0.01 if dtype == torch.bfloat16 else 0)
        torch.testing.assert_close(got.double(), expected, rtol=loose, atol=0)
    assert torch.equal(x, before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("estimate", ["exact", "features", "paper"])
def test_on_a_gpu(estimate):
    x, edge_index, labels = sample(11, n=200)
    options = {"estimate": estimate, "block_size": 30}
    expected = leave_neighborhood_out_mmd(x, edge_index, labels=labels, **options)
    got = leave_neighborhood_out_mmd(
        x.cuda(), edge_index.cuda(), labels=labels.cuda(), **options
    )
    assert got.is_cuda
    torch.testing.assert_close(got.cpu(), expected, rtol=1e-10, atol=0)


def test_bad_arguments():
    x, edge_index, labels = sample(12)
    f = leave_neighborhood_out_mmd
    with pytest.raises(ValueError, match=r"features of shape \(N, F\).*got \(14,\)"):
        f(x[:, 0], edge_index)
    with pytest.raises(ValueError, match="finite features"):
        f(x / 0, edge_index)
    with pytest.raises(TypeError, match="real features"):
        f(x.to(torch.complex64), edge_index)
    with pytest.raises(ValueError, match="same nodes"):
        f(x[:5], edge_index)
    with pytest.raises(ValueError, match=r"labels of shape \(N,\) = \(14,\)"):
        f(x, edge_index, labels=labels[:5])
    with pytest.raises(TypeError, match="integer labels"):
        f(x, edge_index, labels=labels.float())
    with pytest.raises(ValueError, match="got 'rff'"):
        f(x, edge_index, estimate="rff")
    for name, value in (("gamma", 0.0), ("n_features", 3), ("block_size", 0)):
        with pytest.raises(ValueError, match=name):
            f(x, edge_index, **{name: value})
