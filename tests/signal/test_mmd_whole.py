"""MMD of all samples and of all but a neighbourhood, against full kernel matrices."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_margin.influence import AdversarialStatistics
from captum_margin.signal import knn_graph, leave_neighborhood_out_mmd
from captum_margin.signal._mmd_new import new_samples_mmd
from captum_margin.signal._mmd_whole import whole_mmd
from tests.helpers.graphs import both_directions, star
from tests.reference import mmd_reference as reference
from tests.signal.test_mmd import NO_EDGES, neighbours, sample


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), gamma=st.floats(0.02, 2.0))
def test_equals_the_mmd_of_the_two_sets(seed, gamma):
    x, edge_index, _ = sample(seed)
    expected = reference.whole_mmd(x.numpy(), neighbours(edge_index, len(x)), gamma)
    got = whole_mmd(x, edge_index, gamma=gamma, block_size=4)
    assert got.dtype == torch.float64
    # The root of a difference of kernel means: exact to the root of a rounding.
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=3e-8)
    plain = whole_mmd(x, edge_index)
    gamma = reference.default_gamma(x.numpy())
    expected = reference.whole_mmd(x.numpy(), neighbours(edge_index, len(x)), gamma)
    np.testing.assert_allclose(plain, expected, rtol=1e-9, atol=3e-8)


def test_alone_it_is_the_mmd_of_a_sample_without_neighbours():
    """mean - mean without i = (phi_i - mean without i) / N, of both functions."""
    x, _, _ = sample(1, n=30)
    joined = leave_neighborhood_out_mmd(x, NO_EDGES, gamma=0.4)
    torch.testing.assert_close(whole_mmd(x, NO_EDGES, gamma=0.4), joined)


def test_two_heaps_in_closed_form():
    """Of a heap of n among N, all alike: the share b left of the other heap counts."""
    x = torch.zeros(10, 2, dtype=torch.float64)
    x[:3, 0] = 1.0
    edges = both_directions([(0, 1), (0, 2), (1, 2)])
    f = whole_mmd(x, edges, gamma=0.7)
    between = np.sqrt(2 - 2 * np.exp(-0.7))
    assert f[:3].tolist() == pytest.approx([0.3 * between] * 3, rel=1e-10)
    # One of the other heap: 3 / 9 of the first are left instead of 3 / 10.
    assert f[3:].tolist() == pytest.approx([(1 / 3 - 0.3) * between] * 7, rel=1e-8)


def test_it_is_another_function_than_that_of_case_study_1():
    """A dense heap far away is nobody's neighbour: only here it stands out."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(120, 3, generator=generator, dtype=torch.float64)
    heap = 0.01 * torch.randn(20, 3, generator=generator, dtype=torch.float64) + 5
    x = torch.cat([x, heap])
    edge_index, _ = knn_graph(x, 19)
    f = whole_mmd(x, edge_index)
    assert f[120:].min() > f[:120].max()
    sizes = torch.bincount(edge_index[1], minlength=140)
    both = torch.stack([f, leave_neighborhood_out_mmd(x, edge_index)])
    assert sizes[:120].max() > 19
    assert float(torch.corrcoef(both)[0, 1]) < 0.999


def test_blocks_and_sides():
    x, edge_index, _ = sample(3, n=60, density=0.5)
    for estimate in ("exact", "features"):
        expected = whole_mmd(x, edge_index, estimate=estimate)
        for size in (1, 7, 1000):
            got = whole_mmd(x, edge_index, estimate=estimate, block_size=size)
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)
    exact = whole_mmd(x, edge_index)
    torch.testing.assert_close(
        whole_mmd(x, edge_index, estimate="features"), exact, rtol=0.2, atol=0
    )
    narrow = whole_mmd(x.float(), edge_index)
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow.double(), exact, rtol=1e-3, atol=0)


def test_nobody_left_is_zero():
    x, _, _ = sample(9, n=4)
    full = both_directions([(i, j) for i in range(4) for j in range(i)])
    assert whole_mmd(x, full).tolist() == [0] * 4
    assert whole_mmd(x[:1], NO_EDGES).tolist() == [0]
    hub = whole_mmd(x, star(3))
    assert hub[0] == 0
    assert (hub[1:] > 0).all()


@pytest.mark.parametrize("estimate", ["exact", "features"])
def test_a_new_sample_is_left_out_with_its_nearest(estimate):
    x, _, _ = sample(5, n=40)
    new, _, _ = sample(6, n=7)
    near = torch.cdist(new, x).topk(4, largest=False).indices
    got = new_samples_mmd(x, new, near, gamma=0.3, estimate=estimate, whole=True)
    for i, around in enumerate(near.tolist()):
        both = torch.cat([x, new[i : i + 1]]).numpy()
        sets = [set() for _ in range(40)] + [set(around)]
        expected = reference.whole_mmd(both, sets, 0.3)[-1]
        loose = 1e-8 if estimate == "exact" else 0.2
        assert got[i].item() == pytest.approx(expected, rel=loose)


def test_the_question_scores_new_samples_by_it():
    x, _, _ = sample(5, n=40)
    new, _, _ = sample(6, n=7)
    fitted = AdversarialStatistics.from_features(x, k=5, paper=True)
    scores = fitted.score(new)
    f = fitted.result().function
    degree = torch.bincount(fitted.result().graph.edge_index[1], minlength=40)
    near = torch.cdist(new, x).topk(5, largest=False).indices
    own = new_samples_mmd(x, new, near, whole=True)
    mean = (f[near] / degree[near].sqrt()).sum(dim=1) / 5**0.5
    torch.testing.assert_close(scores, (own - mean).square(), rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(fitted.score(new[2:3]), scores[2:3])
