"""The protocol: the steps in order, the sides of influence, a planted effect."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import captum_margin.signal as signal
from captum_margin.signal import (
    Graph,
    HighPass,
    as_undirected,
    influence,
    knn_graph,
    label_disagreement,
    margin,
    one_hot,
    top,
)
from tests.helpers.graphs import path
from tests.reference import margin_listings as reference


@pytest.mark.parametrize("sided", ["both", "above", "below"])
@pytest.mark.parametrize("shape", [(8,), (8, 3)])
def test_influence_is_the_squared_norm_of_a_side(sided, shape):
    f = np.random.default_rng(0).normal(size=shape)
    expected = []
    for row in f.reshape(8, -1):
        part = {"both": row, "above": row[row > 0], "below": row[row < 0]}[sided]
        expected.append(sum(value**2 for value in part))
    got = influence(torch.from_numpy(f), sided)
    np.testing.assert_allclose(got, expected, rtol=1e-10)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20))
def test_the_sides_add_up_and_mirror(values):
    f = torch.tensor(values, dtype=torch.float64)
    assert torch.equal(influence(f, "above") + influence(f, "below"), influence(f))
    assert torch.equal(influence(f, "above"), influence(-f, "below"))


@pytest.mark.parametrize("shift", ["random_walk", "symmetric"])
@pytest.mark.parametrize("weight", ["none", "gaussian"])
def test_margin_equals_the_steps_done_slowly(shift, weight):
    rng = np.random.default_rng(1)
    x, f = rng.normal(size=(30, 4)), rng.normal(size=(30, 2))
    result = margin(
        torch.from_numpy(x),
        torch.from_numpy(f),
        k=4,
        metric="cosine",
        weight=weight,
        shift=shift,
        hops=2,
    )
    w = reference.knn_weights(x, 4, "cosine", weight)
    filtered = reference.high_pass(w, f, shift, 2)
    np.testing.assert_allclose(result.filtered, filtered, rtol=1e-10, atol=1e-13)
    expected = (filtered**2).sum(axis=1)
    np.testing.assert_allclose(result.influence, expected, rtol=1e-10)
    assert result.ranking().tolist() == np.argsort(-expected, kind="stable").tolist()
    assert torch.equal(result.function, torch.from_numpy(f))
    assert result.graph.num_nodes == 30


def test_a_given_graph_is_made_undirected_and_a_callable_sees_it():
    directed = torch.tensor([[0, 0, 1, 1], [1, 1, 2, 1]])
    seen = []

    def degree(graph):
        seen.append(graph)
        return torch.bincount(graph.edge_index[1], minlength=graph.num_nodes)

    result = margin(Graph(directed, None, 4), degree, isolated="zero")
    expected = as_undirected(directed, num_nodes=4)
    assert torch.equal(seen[0].edge_index, expected.edge_index)
    assert result.function.tolist() == [1.0, 2.0, 1.0, 0.0]
    assert result.filtered.tolist() == [-1.0, 1.0, -1.0, 0.0]
    assert margin(Graph(path(2), None, 3), torch.ones(3)).ranking()[0] == 2
    assert (
        margin(Graph(path(2), None, 2), torch.eye(2), sided="above").ranking()[0] == 0
    )


def test_options_reach_the_layer():
    x, f = torch.arange(6.0)[:, None], torch.arange(6.0)
    result = margin(x, f, k=2, shift="symmetric", support_normalized=True)
    layer = HighPass("symmetric", support_normalized=True)
    edge_index, _ = knn_graph(x, 2)
    assert torch.equal(result.filtered, layer(f, edge_index))


@pytest.mark.parametrize("signal_of", ["label_disagreement", "one_hot"])
def test_planted_wrong_labels_are_found(signal_of):
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0]])
    clean = torch.arange(3).repeat_interleave(100)
    x = centres[clean] + torch.randn(300, 2, generator=generator)
    flipped = torch.randperm(300, generator=generator)[:24]
    labels = clean.clone()
    labels[flipped] = (clean[flipped] + 1) % 3

    if signal_of == "one_hot":
        result = margin(x, one_hot(labels), k=15, weight="gaussian")
    else:
        result = margin(
            x,
            lambda graph: label_disagreement(labels, graph.edge_index),
            k=15,
            sided="above",
        )
    found = set(top(result.influence, 24).tolist()) & set(flipped.tolist())
    assert len(found) >= 22


def test_bad_domains_and_functions():
    with pytest.raises(TypeError, match=r"got tuple.*Graph\("):
        margin((path(2), None), torch.ones(2))
    with pytest.raises(ValueError, match=r"N = 3 \(got \(2,\)\)"):
        margin(torch.eye(3), torch.ones(2))
    with pytest.raises(TypeError, match=r"a tensor as the function .* \(got list\)"):
        margin(torch.eye(3), [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="got 'up'"):
        influence(torch.ones(2), "up")
    with pytest.raises(ValueError, match="filtered signal"):
        influence(torch.ones(2, 2, 2))


def test_public_names():
    assert sorted(signal.__all__) == signal.__all__
    for name in signal.__all__:
        assert getattr(signal, name).__doc__
