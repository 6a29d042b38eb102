"""Well separated clusters, hubs, and features that say nothing."""

import warnings

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from captum_margin.influence import LabelNoise
from captum_margin.signal import Graph
from tests.influence.test_scores import blobs


def clusters(sizes, spreads, dims, share, seed):
    """Clusters far apart on a circle; some labels of each are those of others."""
    generator = torch.Generator().manual_seed(seed)
    n_classes = len(sizes)
    labels = torch.repeat_interleave(torch.arange(n_classes), torch.tensor(sizes))
    angle = 2 * torch.pi * torch.arange(n_classes, dtype=torch.float64) / n_classes
    centres = torch.zeros(n_classes, dims, dtype=torch.float64)
    centres[:, 0], centres[:, 1] = angle.cos(), angle.sin()
    spread = 0.02 * torch.tensor(spreads, dtype=torch.float64) / dims**0.5
    noise = torch.randn(len(labels), dims, generator=generator, dtype=torch.float64)
    given = labels.clone()
    for c in range(n_classes):
        members = (labels == c).nonzero()[:, 0]
        order = torch.randperm(len(members), generator=generator)
        wrong = members[order[: max(1, int(share * len(members)))]]
        other = torch.randint(1, n_classes, (len(wrong),), generator=generator)
        given[wrong] = (c + other) % n_classes
    return centres[labels] + spread[labels][:, None] * noise, given, given != labels


def around(graph, of):
    """Of each sample the weighted share of its neighbours of some kind."""
    source, target = graph.edge_index
    weight = graph.edge_weight.double()
    degree = weight.new_zeros(graph.num_nodes).index_add_(0, target, weight)
    kind = weight.new_zeros(graph.num_nodes)
    return kind.index_add_(0, target, weight * of[source]) / degree


def vote_sums(graph):
    """How much the symmetric shift leaves of a constant."""
    source, target = graph.edge_index
    weight = graph.edge_weight.double()
    degree = weight.new_zeros(graph.num_nodes).index_add_(0, target, weight)
    scaled = weight / (degree[source] * degree[target]).sqrt()
    return weight.new_zeros(graph.num_nodes).index_add_(0, target, scaled)


# Eight samples a cluster: ten neighbours are not all of it.
@example([(8, 0.25), (8, 1.0)], 2, 0.125, 0)
@given(
    st.lists(st.tuples(st.integers(8, 80), st.floats(0.2, 5)), min_size=2, max_size=5),
    st.integers(2, 300),
    st.floats(0.02, 0.2),
    st.integers(0, 1000),
)
@settings(max_examples=20, deadline=None)
def test_planted_mistakes_are_above_every_clean_sample(kinds, dims, share, seed):
    """Of any sizes, densities and dimension, where no neighbourhood is half wrong."""
    x, labels, wrong = clusters(*zip(*kinds, strict=True), dims, share, seed)
    result = LabelNoise.from_features(x, labels).result()
    assume(float(around(result.graph, wrong).max()) < 0.4)
    assert result.scores[wrong].min() > result.scores[~wrong].max()
    # Neighbours alone have next to no vote on those that nobody is near to, so all
    # edges count the same here; and with more of them than a cluster has samples, half
    # are of another one, whose right labels contradict as wrong ones do.
    k = min(10, min(size for size, _ in kinds) - 1)
    plain = {"bandwidth": None, "regression": False, "k": k}
    result = LabelNoise.from_features(x, labels, **plain).result()
    assume(float(around(result.graph, wrong).max()) < 0.4)
    assume(float(vote_sums(result.graph).min()) > 0.5)
    assert result.scores[wrong].min() > result.scores[~wrong].max()
    again = LabelNoise.from_graph(result.graph, labels).result()
    torch.testing.assert_close(again.scores, result.scores)


@pytest.mark.parametrize("leaves", [5, 50, 500])
@pytest.mark.parametrize("trusted", [True, False])
def test_a_clean_hub_is_no_suspect(leaves, trusted):
    """A star in a ring: the hub's degree is many times that of its neighbours."""
    ring = torch.arange(1, leaves + 1)
    spokes = torch.stack([torch.zeros_like(ring), ring])
    edges = torch.cat([spokes, torch.stack([ring, ring.roll(1)])], dim=1)
    other = edges + leaves + 1
    graph = Graph(torch.cat([edges, other], dim=1), None, 2 * leaves + 2)
    labels = torch.arange(2 * leaves + 2) // (leaves + 1)
    result = LabelNoise.from_graph(graph, labels, trusted=trusted).result()
    hubs = [0, leaves + 1]
    # Under the symmetric shift it would be (1 - sqrt(leaves / 3))².
    assert result.scores[hubs].max() < 1e-10
    flipped = labels.clone()
    flipped[2] = 1
    result = LabelNoise.from_graph(graph, flipped, trusted=trusted).result()
    assert result.top(1).tolist() == [2]
    assert result.scores[hubs].max() < 0.1


def test_hubs_of_many_dimensions_do_not_outrank_mistakes():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(2000) % 10
    centres = torch.randn(10, 256, generator=generator)
    x = 1.5 * centres[labels] + torch.randn(2000, 256, generator=generator)
    wrong = torch.rand(2000, generator=generator) < 0.05
    flipped = torch.where(wrong, (labels + 1) % 10, labels)
    for regression in (True, False):
        noise = LabelNoise.from_features(x, flipped, regression=regression)
        found = noise.result().top(int(wrong.sum()))
        assert wrong[found].double().mean() >= 0.998


def says_nothing(kind, n, seed):
    generator = torch.Generator().manual_seed(seed)
    if kind == "constant":
        return torch.full((n, 3), 0.1, dtype=torch.float64)
    width = {"noise": 8, "column": 1}[kind]
    x = torch.randn(n, width, generator=generator, dtype=torch.float64)
    return x.abs() + 0.1 if kind == "column" else x


def share_flagged(kind, n, draws, classes=2):
    """In the mean of some draws; and how often there was the warning."""
    flagged, warned = 0.0, 0
    for seed in range(draws):
        generator = torch.Generator().manual_seed(1000 + seed)
        labels = torch.randint(classes, (n,), generator=generator)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            noise = LabelNoise.from_features(says_nothing(kind, n, seed), labels)
            result = noise.result()
        flagged += float((result.predicted() != labels).double().mean()) / draws
        warned += any(
            "nothing is known of the labels" in str(w.message) for w in caught
        )
    return flagged, warned


@pytest.mark.parametrize("kind", ["constant", "noise", "column"])
@pytest.mark.parametrize("n", [20, 60, 200])
def test_features_that_say_nothing_contradict_no_label(kind, n):
    flagged, warned = share_flagged(kind, n, 5)
    assert flagged <= 0.05 and warned == 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["constant", "noise", "column"])
@pytest.mark.parametrize("n", [20, 60, 200, 1000])
def test_features_that_say_nothing_contradict_no_label_in_many_draws(kind, n):
    draws = 100 if n < 1000 else 20
    flagged, warned = share_flagged(kind, n, draws)
    # Each class passes for known with a chance of one in a thousand.
    assert flagged <= 0.01 and warned >= 0.97 * draws


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_a_scattered_class_is_not_flagged_for_being_rare(metric):
    labels = (torch.arange(100) >= 97).long()
    for seed in range(8):
        x = says_nothing("noise", 100, seed)
        with pytest.warns(UserWarning, match="nothing is known"):
            result = LabelNoise.from_features(x, labels, metric=metric).result()
        assert torch.equal(result.predicted(), labels)


@pytest.mark.parametrize("members", [4, 6, 8])
def test_a_mistake_of_a_rare_class_that_is_a_cluster_is_found(members):
    x, labels = blobs(50, classes=2)
    generator = torch.Generator().manual_seed(1)
    rare = torch.tensor([[-3.0, -3, 3, 3]], dtype=torch.float64)
    rare = rare + 0.1 * torch.randn(members, 4, generator=generator).double()
    x = torch.cat([x, rare])
    labels = torch.cat([labels, torch.full((members,), 2)])
    labels[0] = 2
    result = LabelNoise.from_features(x, labels).result()
    assert (result.predicted() != labels).nonzero().flatten().tolist() == [0]
    assert result.predicted()[0] == 0
