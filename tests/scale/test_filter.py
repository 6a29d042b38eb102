"""The filter and the functions from disk against those in memory."""

import numpy as np
import pytest
import torch

from captum_margin import scale, signal
from captum_margin.scale import RowShards, high_pass, undirected
from captum_margin.signal import HighPass
from tests.helpers.shards import random_rows, stored

SHIFTS = ["random_walk", "symmetric", "adjacency", "laplacian"]


@pytest.fixture(scope="module")
def edges(tmp_path_factory):
    path = tmp_path_factory.mktemp("filter")
    order = np.random.default_rng(3).permutation(60)
    indices, values = random_rows(60, 4, 5, missing=0.2)
    indices[:2] = -1  # these rows have the neighbours that name them
    indices[indices == 1] = -1  # and this one has none
    rows = RowShards.create(path / "rows", 60, 4, order=order, block_size=11)
    for b in range(rows.num_blocks):
        rows.write_block(b, indices[rows.rows(b)], values[rows.rows(b)])
    return undirected(rows, path / "edges")


def noise(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.mark.parametrize("isolated", ["keep", "zero"])
@pytest.mark.parametrize("hops", [1, 3])
@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("bandwidth", [None, 0.7])
def test_equals_the_layer(edges, shift, hops, isolated, bandwidth):
    shards = edges if bandwidth is None else edges.gaussian(bandwidth)
    graph = shards.to_graph()
    assert 0 in torch.bincount(graph.edge_index[1], minlength=60)  # an isolated node
    layer = HighPass(shift, hops, isolated=isolated)
    for x in (noise(60), noise(60, 3), noise(60, 2, dtype=torch.float64)):
        found = high_pass(shards, x, shift, hops, isolated=isolated)
        expected = layer(x, graph.edge_index, graph.edge_weight)
        assert found.dtype == x.dtype
        # Of numbers as large as the terms that were added up.
        size = float(expected.abs().max())
        tolerance = 1e-14 if x.dtype == torch.float64 and bandwidth is None else 1e-6
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * size)


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("kind", ["none", "weight"])
def test_rows_are_the_directed_graph(tmp_path, shift, kind):
    indices, values = random_rows(40, 5, 2, missing=0.1)
    rows = RowShards.from_arrays(
        tmp_path, indices, None if kind == "none" else values, kind=kind, block_size=9
    )
    there = torch.from_numpy(indices >= 0)
    target = torch.arange(40)[:, None].expand(40, 5)[there]
    edge_index = torch.stack([torch.from_numpy(indices)[there], target])
    weight = None if kind == "none" else torch.from_numpy(values)[there]
    x = noise(40, 2)
    expected = HighPass(shift)(x, edge_index, weight)
    torch.testing.assert_close(high_pass(rows, x, shift), expected)


@pytest.mark.parametrize("shift", SHIFTS)
def test_sums_of_the_weights_are_read_where_they_are_stored(tmp_path, shift):
    rows = stored(tmp_path / "rows", kind="weight", missing=0.2)
    edges = undirected(rows, tmp_path / "edges")
    x = noise(50, 2, dtype=torch.float64)
    graph = edges.to_graph()
    expected = HighPass(shift, 2)(x, graph.edge_index, graph.edge_weight)
    found = high_pass(edges, x, shift, 2)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    # Without them, as in a store that was written before, they are computed.
    for b in range(edges.num_blocks):
        edges.folder.mark(b)["files"].pop("degrees")
    torch.testing.assert_close(high_pass(edges, x, shift, 2), found)


def test_the_mean_of_the_neighbours_by_hand(tmp_path):
    indices, values = random_rows(30, 4, 0)
    rows = RowShards.from_arrays(tmp_path, indices, values, kind="weight", block_size=8)
    f = noise(30).numpy()
    expected = f - (values * f[indices]).sum(1) / values.sum(1)
    found = high_pass(rows, torch.from_numpy(f))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_half_precision_signals_keep_their_dtype(edges):
    x = noise(60).bfloat16()
    found = high_pass(edges, x)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, high_pass(edges, x.float()).bfloat16())


def test_labels_disagree_as_in_memory(edges):
    labels = torch.randint(4, (60,), generator=torch.Generator().manual_seed(0)) * 100
    expected = signal.label_disagreement(labels, edges.to_graph().edge_index)
    for given in (labels, labels - 200, labels * 10**9):
        assert torch.equal(scale.label_disagreement(edges, given), expected)


def test_votes_are_the_filter_of_one_hot_labels(edges):
    shards = edges.gaussian()
    labels = torch.randint(4, (60,), generator=torch.Generator().manual_seed(0))
    votes = scale.label_votes(shards, labels, 5)
    hot = signal.one_hot(labels, 5)
    expected = hot - high_pass(shards, hot, "adjacency")
    torch.testing.assert_close(votes, expected)
    # Divided by their sums, what the random walk leaves of the labels.
    share = votes / votes.sum(dim=1, keepdim=True).clamp(min=1e-30)
    torch.testing.assert_close(hot - share, high_pass(shards, hot))


def test_norms(tmp_path):
    x = noise(50, 7)
    np.save(tmp_path / "x.npy", x.numpy())
    found = scale.row_norms(tmp_path / "x.npy", rows=8)
    torch.testing.assert_close(found, x.norm(dim=1))


def test_wrong_signals_and_options_are_errors(tmp_path):
    shards = stored(tmp_path)
    with pytest.raises(TypeError, match="floating"):
        high_pass(shards, torch.ones(50, dtype=torch.long))
    with pytest.raises(ValueError, match="N = 50"):
        high_pass(shards, torch.ones(49))
    with pytest.raises(ValueError, match="finite"):
        high_pass(shards, torch.full((50,), torch.nan))
    with pytest.raises(ValueError, match="expected shift"):
        high_pass(shards, torch.ones(50), "walk")
    with pytest.raises(ValueError, match="hops >= 1"):
        high_pass(shards, torch.ones(50), hops=0)
    with pytest.raises(ValueError, match="expected isolated"):
        high_pass(shards, torch.ones(50), isolated="drop")
    with pytest.raises(ValueError, match=r"labels of shape \(N,\) = \(50,\)"):
        scale.label_disagreement(shards, torch.ones(3, dtype=torch.long))
    with pytest.raises(TypeError, match="integer labels"):
        scale.label_votes(shards, torch.ones(50))
    with pytest.raises(ValueError, match=r"within \[0, 2\)"):
        scale.label_votes(shards, torch.full((50,), 2), 2)


def test_a_missing_block_stops_the_filter(tmp_path):
    shards = stored(tmp_path)
    (tmp_path / "000004.indices.npy").unlink()
    with pytest.raises(ValueError, match="block 4"):
        high_pass(RowShards(tmp_path), torch.ones(50))
    assert shards.finished  # the others are there
