"""The benchmark's other selections: budgets, pools, and what each is named for."""

import networkx as nx
import numpy as np
import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.utils import to_networkx, to_undirected

pytest.importorskip("kmedoids", reason="needs kmedoids")

from tests.benchmarks.active_learning import ablation, paper, peers
from tests.benchmarks.active_learning.data import blocks, pool


def small_graph() -> Data:
    """30 nodes in 3 classes; the last is isolated, six are outside the pool."""
    rng = torch.Generator().manual_seed(1)
    edges = torch.randint(29, (2, 40), generator=rng)
    edges = to_undirected(edges[:, edges[0] != edges[1]], num_nodes=30)
    x = (torch.rand(30, 12, generator=rng) < 0.3).float()
    data = Data(x=x, edge_index=edges, y=torch.arange(30) % 3)
    data.val_mask = torch.arange(30) < 3
    data.test_mask = (torch.arange(30) >= 3) & (torch.arange(30) < 6)
    data.train_mask = torch.arange(30) >= 12
    return data


@pytest.mark.parametrize("name", peers.PEERS)
def test_selections_are_of_the_pool_and_the_same_for_the_same_seed(name):
    data, select = small_graph(), peers.PEERS[name]
    picks = select(data, 7, [0, 1, 0])
    assert all(len(p.unique()) == 7 and (p >= 6).all() for p in picks)
    assert picks[0].tolist() == picks[2].tolist()
    if name in peers.NESTED:
        smaller = select(data, 4, [0])[0]
        assert smaller.tolist() == picks[0][:4].tolist()


def test_rankings_by_degree_and_pagerank():
    data = small_graph()
    graph = to_networkx(data, to_undirected=True)
    nodes = pool(data).tolist()
    best = sorted(nodes, key=lambda node: -graph.degree[node])[:6]
    assert peers.by_degree(data, 6, [0])[0].tolist() == best
    ranks = nx.pagerank(graph, tol=1e-10)
    best = sorted(nodes, key=lambda node: -ranks[node])[:6]
    assert peers.by_pagerank(data, 6, [0])[0].tolist() == best


@pytest.mark.parametrize("threshold", [0.0, 0.1])
def test_grain_covers_greedily(threshold):
    data = small_graph()
    adjacency = np.eye(30)
    adjacency[tuple(data.edge_index.numpy())] = 1
    root = adjacency.sum(1) ** -0.5
    twice = np.linalg.matrix_power(root[:, None] * adjacency * root, 2)
    share = twice / twice.sum(1, keepdims=True)
    z = twice @ data.x.numpy()
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    distance = np.linalg.norm(z[:, None] - z, axis=-1)
    near = distance / distance.max() <= 0.2

    def value(picks: list[int]) -> int:
        active = {v for u in picks for v in range(30) if share[v, u] > threshold}
        covered = {w for v in active for w in range(30) if near[v, w]}
        return len(active) + len(covered)

    picks: list[int] = []
    for _ in range(6):
        free = [node for node in pool(data).tolist() if node not in picks]
        picks.append(max(free, key=lambda node: value([*picks, node])))
    found = peers.grain_ball(data, 6, [0], radius=0.2, threshold=threshold)[0]
    assert found.tolist() == picks


def test_medoids_lie_in_planted_groups():
    data = small_graph()
    data.edge_index = data.edge_index[:, :0]
    data.x = torch.eye(4)[torch.arange(30) % 4]
    for select in (peers.featprop, peers.medoids, peers.medoids_normalized):
        hits = [len((p % 4).unique()) for p in select(data, 4, range(5))]
        assert max(hits) == 4


def test_percentiles_are_shares_of_smaller_values():
    values = np.array([3.0, 1.0, 3.0, 2.0])
    assert peers._percentile(values).tolist() == [0.5, 0.0, 0.5, 0.25]


@pytest.mark.parametrize("name", paper.PAPER)
def test_so_many_of_each_class_out_of_the_training_nodes(name):
    data = small_graph()
    for picks in paper.PAPER[name](data, 4, [0, 1]):
        assert data.y[picks].bincount().tolist() == [4, 4, 4]
        assert data.train_mask[picks].all() and len(picks.unique()) == 12


def test_draws_follow_the_scores():
    data = small_graph()
    score = torch.zeros(30)
    score[12:15] = 1.0  # one node of each class
    score[15:18] = 3.0  # another of each
    first = torch.stack(paper.drawn(lambda data, seed: score)(data, 1, range(600)))
    share = ((first >= 15) & (first < 18)).double().mean()
    assert set(first.unique().tolist()) == set(range(12, 18))
    assert abs(share - 0.75) < 0.04  # a standard error of 0.010


def test_scores_equal_their_definitions():
    data = small_graph()
    adjacency = torch.zeros(30, 30)
    adjacency[data.edge_index[0], data.edge_index[1]] = 1
    mean = adjacency / adjacency.sum(1, keepdim=True).clamp(min=1)
    f = paper.norm(data, 3)
    root = adjacency.sum(1).clamp(min=1) ** -0.5
    count = adjacency.gt(0).sum(1).clamp(min=1)

    def left(values):
        return values - root * (adjacency @ (root * values)) / count

    smooth = f - left(f)
    expected = {
        paper.energy: (f - mean @ f) ** 2,
        paper.energy_symmetric: (f - root * (adjacency @ (root * f))) ** 2,
        paper.feature_contrast: (data.x - mean @ data.x).norm(dim=1),
        paper.feature_norm: (data.x**2).sum(dim=1).sqrt(),
        paper.published("algorithm"): (f - root * (adjacency @ (root * f))) ** 2,
        paper.published("arxiv"): left(f) ** 2,
        paper.published("journal"): left(smooth) ** 2,
    }
    for score, values in expected.items():
        torch.testing.assert_close(score(data, 3), values, rtol=1e-4, atol=1e-5)


def test_the_drawn_graph_has_classes_that_its_edges_and_words_tell():
    data = blocks(0)
    same = data.y[data.edge_index[0]] == data.y[data.edge_index[1]]
    assert data.is_undirected() and not data.has_self_loops()
    assert 0.75 < same.double().mean() < 0.9
    masks = torch.stack([data.val_mask, data.test_mask, data.train_mask])
    assert masks.sum(1).tolist() == [500, 1000, 140] and masks.sum(0).max() == 1
    assert data.y[data.train_mask].bincount().tolist() == [20] * 7
    shared = data.x @ data.x.T
    alike = data.y[:, None] == data.y
    assert shared[alike].mean() > 1.3 * shared[~alike].mean()


@pytest.mark.parametrize("name", ablation.VARIANTS)
def test_variants_choose_from_the_pool(name):
    data = small_graph()
    for picks in ablation.VARIANTS[name](data, 7, [0, 1]):
        assert len(picks.unique()) == len(picks) == 7 and (picks >= 6).all()


def test_the_plain_greedy_of_the_variants_is_that_of_select_nodes():
    data = small_graph()
    plain = ablation.covering(ablation.centred, ablation.cosine)(data, 9, [0])[0]
    assert plain.tolist() == ablation.ours(weighted=True)(data, 9, [0])[0].tolist()
