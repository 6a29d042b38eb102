"""Thresholds and diverse picks: against a walk down the ranking, one node at a time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_margin.signal import (
    as_undirected,
    knn_graph,
    lowest_share,
    rank,
    select_diverse,
    top,
)
from tests.helpers.graphs import path, random_graph, ring

NO_EDGES = torch.empty(2, 0, dtype=torch.long)


def within(neighbours, node, hops):
    reached = {node}
    for _ in range(hops):
        reached |= {j for i in reached for j in neighbours[i]}
    return reached


def one_at_a_time(scores, edge_index, n, hops):
    neighbours = [set() for _ in scores]
    for source, target in edge_index.T.tolist():
        neighbours[target].add(source)
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    picks = []
    while len(picks) < min(n, len(scores)):
        skipped = set()
        for node in [i for i in order if i not in picks]:
            if node not in skipped and len(picks) < n:
                picks.append(node)
                skipped |= within(neighbours, node, hops)
    return picks


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(0, 30),
    hops=st.integers(0, 3),
    levels=st.sampled_from([2, 5, 1000]),
)
def test_equals_a_walk_down_the_ranking(seed, n, hops, levels):
    generator = torch.Generator().manual_seed(seed)
    edge_index, _ = random_graph(25, generator, density=0.1)
    scores = torch.randint(levels, (25,), generator=generator).float()
    expected = one_at_a_time(scores.tolist(), edge_index, n, hops)
    assert select_diverse(scores, edge_index, n, hops=hops).tolist() == expected


def test_known_graphs():
    falling = torch.arange(9, 0, -1).float()
    assert select_diverse(falling, path(9), 9).tolist() == [0, 2, 4, 6, 8, 1, 3, 5, 7]
    assert select_diverse(falling, ring(9), 3, hops=2).tolist() == [0, 3, 6]
    assert select_diverse(falling, path(9), 4, hops=0).tolist() == [0, 1, 2, 3]
    assert torch.equal(select_diverse(falling, NO_EDGES, 99), top(falling, 99))
    assert select_diverse(falling[:0], NO_EDGES, 3).tolist() == []


def test_a_longer_selection_begins_with_the_shorter():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 2, generator=generator)
    edge_index, _ = knn_graph(x, 5)
    scores = torch.rand(200, generator=generator)
    whole = select_diverse(scores, edge_index, 200)
    assert sorted(whole.tolist()) == list(range(200))
    assert torch.equal(select_diverse(scores, edge_index, 37), whole[:37])


def test_planted_clusters_are_all_visited_where_the_top_is_one():
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [20.0, 0.0], [0.0, 20.0], [20.0, 20.0]])
    cluster = torch.arange(4).repeat_interleave(30)
    x = centres[cluster] + torch.randn(120, 2, generator=generator)
    scores = -cluster + torch.rand(120, generator=generator) / 2  # cluster 0 on top
    edge_index, _ = knn_graph(x, 29)
    assert set(cluster[top(scores, 8)].tolist()) == {0}
    assert set(cluster[select_diverse(scores, edge_index, 8)].tolist()) == {0, 1, 2, 3}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-2, 2), max_size=30), st.floats(0, 1))
def test_the_lowest_share(values, share):
    scores = torch.tensor(values, dtype=torch.float32)
    got = lowest_share(scores, share).tolist()
    order = sorted(range(len(values)), key=lambda i: (values[i], i))
    assert got == order[: round(share * len(values))]


def test_bad_arguments():
    scores = torch.ones(3)
    edges = as_undirected(path(3)).edge_index
    with pytest.raises(ValueError, match="within"):
        lowest_share(scores, 1.5)
    with pytest.raises(ValueError, match="got -1 and 1"):
        select_diverse(scores, edges, -1)
    with pytest.raises(ValueError, match="got 1 and -2"):
        select_diverse(scores, edges, 1, hops=-2)
    with pytest.raises(ValueError, match="same nodes"):
        select_diverse(scores[:2], edges, 1)
    with pytest.raises(ValueError, match="NaN"):
        select_diverse(scores * torch.nan, edges, 1)
    assert rank(scores).tolist() == [0, 1, 2]
