"""GraphPart's parts and picks, by closed forms; the rule of the default's choice."""

import networkx as nx
import numpy as np
import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.utils import from_networkx

pytest.importorskip("kmedoids", reason="needs kmedoids")

from tests.benchmarks.active_learning import choice, graphpart


def ring_of_cliques(cliques: int, size: int) -> Data:
    """Cliques, each joined to the next by one edge; attributes name the clique."""
    data = from_networkx(nx.ring_of_cliques(cliques, size))
    data.y = torch.arange(cliques).repeat_interleave(size)
    data.x = torch.eye(cliques)[data.y]
    none = torch.zeros(cliques * size, dtype=torch.bool)
    data.val_mask, data.test_mask = none, none.clone()
    return data


def test_greedy_modularity_finds_the_planted_cliques_and_their_modularity():
    data = ring_of_cliques(6, 5)
    part = graphpart.modular(data)
    assert np.array_equal(part.reshape(6, 5).min(1), part.reshape(6, 5).max(1))
    assert sorted(part[::5]) == list(range(6))
    # Each clique has 10 of 66 edges inside, and 1/6 of all ends.
    graph = nx.ring_of_cliques(6, 5)
    groups = [np.flatnonzero(part == p) for p in range(6)]
    modularity = nx.community.modularity(graph, groups)
    assert modularity == pytest.approx(6 * (10 / 66 - (1 / 6) ** 2), abs=1e-12)


def test_one_pick_in_each_planted_clique():
    data = ring_of_cliques(6, 5)
    for far in (False, True):
        for picks in graphpart.graphpart(data, 6, range(3), far):
            assert data.y[picks].sort().values.tolist() == list(range(6))
        # Two more each: shares of 13 over six parts are 3, 2, 2, 2, 2, 2.
        for picks in graphpart.graphpart(data, 13, [0], far):
            assert sorted(data.y[picks].bincount().tolist()) == [2, 2, 2, 2, 2, 3]
            assert len(picks.unique()) == 13


def test_a_part_gives_no_more_than_its_pool_has():
    data = ring_of_cliques(3, 4)
    data.test_mask[:3] = True  # one node of the first clique is left
    (picks,) = graphpart.graphpart(data, 7, [0])
    assert data.y[picks].bincount().tolist() == [1, 3, 3] and 3 in picks
    (everything,) = graphpart.graphpart(data, 50, [0])
    assert everything.sort().values.tolist() == list(range(3, 12))


def test_communities_are_joined_by_their_sizes_and_means():
    # Costs n_i n_j / (n_i + n_j) |m_i - m_j|: pairs 0-1: 4 * 1, 1-2: 0.89 * 2,
    # 0-2: 0.89 * 3; joined, 1 and 2 have their mean at (8 * 1 + 3) / 9.
    means, sizes = np.array([[0.0], [1.0], [3.0]]), np.array([8.0, 8.0, 1.0])
    assert graphpart._joined(means.copy(), sizes.copy(), 3).tolist() == [0, 1, 2]
    joined_means = means.copy()
    assert graphpart._joined(joined_means, sizes.copy(), 2).tolist() == [0, 1, 1]
    assert joined_means[1, 0] == pytest.approx(11 / 9)


def test_uneven_parts_are_joined_and_numbered_by_size():
    data = ring_of_cliques(3, 6)
    # A pair, far from the graph and alike to the third clique.
    ends = torch.tensor([[18, 19], [19, 18]])
    data = Data(
        x=torch.cat([data.x, data.x[-2:]]),
        y=torch.cat([data.y, data.y[-2:]]),
        edge_index=torch.cat([data.edge_index, ends], 1),
    )
    # 2 * 4 / 20 nodes is above a third: nothing is joined.
    assert np.bincount(graphpart.parts(data, 3)).tolist() == [6, 6, 6, 2]
    data.modular = torch.tensor([0] * 6 + [1] * 6 + [2] * 7 + [3])
    assert np.bincount(graphpart.parts(data, 3)).tolist() == [8, 6, 6]
    assert (graphpart.parts(data, 3)[12:] == 0).all()


def test_far_picks_away_from_earlier_parts():
    # Two parts on a line; the second one's centre 3 has 2 and 4 at the same distance,
    # and 2 is nearer to the first part's pick at 0.
    z = np.array([[0.0], [0.0], [0.0], [2.0], [4.0]])
    part, free = np.array([0, 0, 0, 1, 1]), np.array([True, False, False, True, True])
    assert graphpart._picks(z, part, free, 2, 0, far=False) == [0, 3]
    assert graphpart._picks(z, part, free, 2, 0, far=True) == [0, 4]


@pytest.mark.parametrize(
    ("means", "chosen"),
    [
        # (form, graph): differences to the best are all alike unless said.
        ([[5, 6, 7], [8, 9, 10], [7, 8, 9]], 1),  # one behind, without error
        ([[5, 9, 7], [6, 8, 8], [5, 6, 7]], 0),  # behind by 1/3 ± 0.67
        ([[9, 9, 9], [9, 9, 9], [9, 9, 9]], 0),  # ties go to the first
        ([[1, 2, 3], [5, 9, 7], [6, 8, 8]], 1),
        ([[6, 8, 8], [5, 9, 7], [1, 2, 3]], 0),  # the best is the simpler
    ],
)
def test_the_rule_takes_the_simplest_within_a_standard_error(means, chosen):
    cells = np.array(means, dtype=float)[:, :, None] + np.array([-1.0, 0.0, 1.0])
    assert choice.rule(cells) == chosen


def test_picks_of_communities_are_shared_by_their_sizes():
    similarity = torch.eye(9)
    community = torch.tensor([0] * 5 + [1] * 3 + [2])
    form = choice.Form(similarity, None, community)
    order = choice.picks(form, torch.arange(9), 9)
    # D'Hondt: 5, 3, 5/2, 5/3, 3/2, 5/4, 1, 1, 1.
    assert community[order].tolist() == [0, 1, 0, 0, 1, 0, 0, 1, 2]
