"""The function step: label disagreement against its definition."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_margin.signal import as_undirected, label_disagreement, one_hot
from tests.helpers.graphs import dense, path, random_graph, star
from tests.reference import margin_listings as reference


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), classes=st.integers(1, 4))
def test_label_disagreement_equals_its_definition(seed, classes):
    generator = torch.Generator().manual_seed(seed)
    edge_index, _ = random_graph(10, generator, density=0.2)  # some nodes isolated
    labels = torch.randint(classes, (10,), generator=generator)
    expected = reference.label_disagreement(labels.numpy(), dense(edge_index, None, 10))
    got = label_disagreement(labels, edge_index)
    np.testing.assert_allclose(got, expected, rtol=1e-6)  # float32


def test_isolated_nodes_have_nobody_to_disagree_with():
    assert label_disagreement(torch.tensor([0, 1, 1]), path(2)).tolist() == [1, 1, 0]


def test_names_of_the_labels_do_not_matter():
    edges = star(3)
    expected = label_disagreement(torch.tensor([0, 1, 0, 1]), edges)
    assert torch.equal(
        label_disagreement(torch.tensor([9, -4, 9, -4]), edges), expected
    )
    labels = torch.tensor([False, True, False, True])
    assert torch.equal(label_disagreement(labels, edges.int()), expected)


def test_one_hot():
    assert one_hot(torch.tensor([2, 0])).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert one_hot(torch.tensor([False, True]), 3).shape == (2, 3)
    assert one_hot(torch.empty(0, dtype=torch.long), 3).shape == (0, 3)
    # The share of neighbours with another label, from one filtered channel each.
    edges = as_undirected(path(4)).edge_index
    labels = torch.tensor([0, 0, 1, 1])
    votes = torch.from_numpy(dense(edges, None, 4)) @ one_hot(labels).double()
    share = (one_hot(labels) * votes).sum(1) / torch.tensor([1, 2, 2, 1])
    torch.testing.assert_close(
        1 - share, label_disagreement(labels, edges).double(), rtol=1e-6, atol=0
    )


def test_bad_labels():
    with pytest.raises(TypeError, match=r"integer labels \(got torch.float32\)"):
        label_disagreement(torch.zeros(2), path(2))
    with pytest.raises(ValueError, match=r"\(N,\) \(got \(2, 1\)\)"):
        label_disagreement(torch.zeros(2, 1, dtype=torch.long), path(2))
    with pytest.raises(ValueError, match="same nodes"):
        label_disagreement(torch.zeros(2, dtype=torch.long), path(3))
    with pytest.raises(ValueError, match=r"within \[0, 2\) \(got 0 to 2\)"):
        one_hot(torch.tensor([0, 2]), 2)
    with pytest.raises(ValueError, match="got -1 to 0"):
        one_hot(torch.tensor([0, -1]))
