"""Which nodes to label: the rule against its restatement, planted parts, ends."""

import numpy as np
import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.utils import to_dense_adj, to_undirected

from captum_margin.influence import ActiveLearning, select_nodes
from captum_margin.influence.graph_autoencoder import embed_nodes
from captum_margin.signal import Graph
from tests.reference import active_learning_reference as reference


def communities(sizes=(12, 9, 15, 7), *, features=6, seed=0, noise=0.6, across=0.02):
    """Dense parts, few edges between, features around a centre each; labels y."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    same = y[:, None] == y
    chance = torch.where(same, 0.5, across)
    joined = torch.rand(len(y), len(y), generator=generator) < chance
    edge_index = to_undirected(joined.triu(1).nonzero().T, num_nodes=len(y))
    centres = torch.randn(len(sizes), features, generator=generator).double()
    x = centres[y] + noise * torch.randn(len(y), features, generator=generator).double()
    return Data(x=x, edge_index=edge_index, y=y, num_nodes=len(y))


def chosen(z, budget, *, candidates=None, weighted=False, **options):
    """The choice from embeddings Z."""
    z = reference.centred(z)
    weight = reference.norms(z) if weighted else np.ones(len(z))
    candidates = range(len(z)) if candidates is None else candidates
    s = reference.similarity(z)
    return reference.greedy(s, weight, budget, candidates, **options)


def oracle(data, budget, reach=2, **options):
    """The choice by its definition."""
    adjacency = to_dense_adj(
        data.edge_index, edge_attr=data.edge_weight, max_num_nodes=data.num_nodes
    )[0].numpy()
    z = reference.propagated(data.x.numpy(), adjacency, reach)
    return chosen(z, budget, **options)


@pytest.mark.parametrize("reach", [0, 1, 2, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_choice_is_its_definition(seed, reach):
    data = communities(seed=seed)
    expected = oracle(data, 12, reach=reach, weighted=True)
    assert select_nodes(data, 12, reach=reach, weighted=True).tolist() == expected
    expected = oracle(data, 6, reach=reach)
    assert select_nodes(data, 6, reach=reach).tolist() == expected


@pytest.mark.parametrize("reach", [0, 2])
def test_every_pick_adds_most(reach):
    # Of two nodes that only each other is like, either adds the same to the coverage:
    # the order of such twins is that of rounding, what they add is not.
    data = communities(seed=1)
    adjacency = to_dense_adj(data.edge_index, max_num_nodes=43)[0].numpy()
    z = reference.centred(reference.propagated(data.x.numpy(), adjacency, reach))
    alike, covered = reference.similarity(z), np.zeros(43)
    for pick in select_nodes(data, 20, reach=reach).tolist():
        gains = np.maximum(alike - covered, 0).sum(axis=1)
        assert gains[pick] == pytest.approx(gains.max(), rel=1e-9)
        covered = np.maximum(covered, alike[pick])


def test_choice_among_candidates_after_earlier_rounds():
    data = communities(seed=2)
    pool, labelled = list(range(3, 35)), [1, 4, 4, 20]
    expected = oracle(data, 8, candidates=pool, chosen=[1, 4, 20])
    for candidates in (pool, torch.tensor(pool[::-1] + pool), np.array(pool)):
        picks = select_nodes(data, 8, candidates=candidates, labelled=labelled)
        assert picks.tolist() == expected
    mask = torch.zeros(data.num_nodes, dtype=torch.bool)
    done = mask.clone()
    mask[pool], done[labelled] = True, True
    picks = select_nodes(data, 8, candidates=mask, labelled=done)
    assert picks.tolist() == expected


def test_candidates_are_what_is_not_held_out():
    data = communities()
    data.val_mask = torch.arange(43) % 3 == 0
    data.test_mask = torch.arange(43) % 3 == 1
    free = torch.arange(2, 43, 3)
    everything = select_nodes(data, 1000)
    assert everything.sort().values.tolist() == free.tolist()
    assert everything.tolist() == oracle(data, 14, candidates=free.tolist())
    # Explicit candidates may be anywhere.
    assert select_nodes(data, 2, candidates=[0, 1]).sort().values.tolist() == [0, 1]


def test_rounds_go_on_where_the_last_one_ended():
    data = communities((30, 30, 30))
    whole = select_nodes(data, 40)
    first = select_nodes(data, 20)
    assert torch.equal(first, whole[:20])
    assert torch.equal(select_nodes(data, 20, labelled=first), whole[20:])
    learning = ActiveLearning(data)
    assert torch.equal(learning.select(20, labelled=first), whole[20:])


def test_every_class_has_its_budget():
    data = communities(seed=3)
    expected = oracle(data, 3, groups=dict(enumerate(data.y.tolist())))
    picks = select_nodes(data, 3, per_class=True)
    assert picks.tolist() == expected
    assert data.y[picks].bincount().tolist() == [3, 3, 3, 3]
    # The smallest class has 7, and classes without a candidate have none.
    picks = select_nodes(data, 10, per_class=True, candidates=range(9, 43))
    assert data.y[picks].bincount().tolist() == [3, 9, 10, 7]
    with pytest.raises(ValueError, match=r"data\.y"):
        select_nodes(Data(x=data.x, edge_index=data.edge_index), 1, per_class=True)


@pytest.mark.parametrize("given", ["features", "none"])
@pytest.mark.parametrize("seed", range(4))
def test_every_community_has_a_pick(seed, given):
    data = communities((40, 10, 25, 15, 30), seed=seed, across=0.002)
    if given == "none":
        data = Data(edge_index=data.edge_index, y=data.y, num_nodes=data.num_nodes)
    picks = select_nodes(data, 5, seed=seed)
    assert data.y[picks].sort().values.tolist() == [0, 1, 2, 3, 4]


def test_new_names_of_the_nodes_change_nothing():
    data = communities(seed=5)
    order = torch.randperm(43, generator=torch.Generator().manual_seed(0))
    place = order.argsort()  # node order[i] is called i
    renamed = Data(x=data.x[order], edge_index=place[data.edge_index], num_nodes=43)
    assert torch.equal(order[select_nodes(renamed, 15)], select_nodes(data, 15))


def test_edges_count_once_in_any_direction():
    data = communities(seed=6)
    source, target = data.edge_index
    half = data.edge_index[:, source < target]
    messy = torch.cat([half, half.flip(0)[:, :5], torch.tensor([[3], [3]])], dim=1)
    picks = select_nodes(Data(x=data.x, edge_index=messy), 9)
    assert torch.equal(picks, select_nodes(data, 9))
    data.edge_weight = torch.full_like(data.edge_index[0], 1.0, dtype=torch.double)
    assert torch.equal(picks, select_nodes(data, 9))
    data.edge_weight = 0.01 + (data.y[data.edge_index] == 0).all(dim=0).double()
    plain = data.clone()
    plain.edge_weight = None
    expected = oracle(data, 9, weighted=True)
    found = select_nodes(data, 9, weighted=True).tolist()
    assert found == expected != select_nodes(plain, 9, weighted=True).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_isolated_nodes_and_empty_rows(dtype):
    x = torch.tensor([[2, 0], [2, 0], [0, 3], [0, 3], [0, 0], [0, 5]], dtype=dtype)
    data = Data(x=x, edge_index=torch.tensor([[0, 2], [1, 3]]), num_nodes=6)
    picks = select_nodes(data, 6)
    assert picks.sort().values.tolist() == list(range(6))
    # One of either direction first: the larger group leads.
    assert picks[0] in (2, 3, 5) and picks[1] in (0, 1)
    alone = Data(x=x, edge_index=torch.empty(2, 0, dtype=torch.long))
    assert select_nodes(alone, 2).tolist() == [2, 0]


def test_embeddings_take_the_place_of_features():
    data = communities()
    expected = chosen(data.x.numpy(), 7)
    bare = Data(edge_index=data.edge_index, num_nodes=43)
    assert select_nodes(bare, 7, embeddings=data.x).tolist() == expected
    data.x, embeddings = torch.ones_like(data.x), data.x
    assert select_nodes(data, 7, embeddings=embeddings).tolist() == expected


@pytest.mark.parametrize("per_class", [False, True])
def test_the_papers_form(per_class):
    data = communities(seed=7)
    data.edge_index = data.edge_index[:, (data.edge_index != 5).all(dim=0)]  # alone
    norms = data.x.norm(dim=1).numpy()
    adjacency = to_dense_adj(data.edge_index, max_num_nodes=43)[0].double().numpy()
    pool = [i for i in range(43) if i not in (2, 30)]
    order, energy = reference.highest_energy(norms, adjacency, pool)
    if per_class:
        y = data.y.tolist()
        order = [i for c in range(4) for i in [j for j in order if y[j] == c][:3]]
        order.sort(key=lambda i: -energy[i])
    options = {"embeddings": data.x, "paper": True, "labelled": [2, 30]}
    picks = select_nodes(data, 3, per_class=per_class, **options)
    assert picks.tolist() == (order if per_class else order[:3])
    scores = ActiveLearning(data, embeddings=data.x, paper=True).self_influence()
    np.testing.assert_allclose(scores.numpy(), energy, rtol=1e-10)


def test_scores_are_the_part_above_the_neighbourhood():
    data = communities(seed=8)
    adjacency = to_dense_adj(data.edge_index)[0].double().numpy()
    learning = ActiveLearning(data)
    z = reference.centred(reference.propagated(data.x.numpy(), adjacency, 2))
    f = reference.norms(z)
    np.testing.assert_allclose(learning.result().function, f, rtol=1e-10)
    above = np.maximum(f - adjacency @ f / adjacency.sum(axis=1), 0)
    np.testing.assert_allclose(learning.self_influence(), above**2, rtol=1e-8)
    learnt = ActiveLearning(data, paper=True, seed=3).result().function
    assert torch.equal(learnt, embed_nodes(data, seed=3).norm(dim=1))
    own = ActiveLearning(data, function=data.x[:, 0].abs())
    assert torch.equal(own.result().function, data.x[:, 0].abs())
    s, weight = reference.similarity(z), data.x[:, 0].abs().numpy()
    assert own.select(7).tolist() == reference.greedy(s, weight, 7, range(43))


def test_the_same_seed_gives_the_same_choice():
    data = communities()
    data.x = None
    torch.manual_seed(1)
    picks = select_nodes(data, 9, seed=2)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(picks, select_nodes(data, 9, seed=2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(select_nodes(data, 9), select_nodes(data, 9, seed=0))


def test_other_ways_in():
    data = communities()
    graph = Graph(data.edge_index, None, 43)
    by_graph = ActiveLearning.from_graph(graph).select(5)
    bare = Data(edge_index=data.edge_index, num_nodes=43)
    assert torch.equal(by_graph, select_nodes(bare, 5))
    by_features = ActiveLearning.from_features(data.x, data.y, k=4)
    edge_index = by_features.result().graph.edge_index
    picks = select_nodes(Data(x=data.x, edge_index=edge_index, num_nodes=43), 5)
    assert torch.equal(by_features.select(5), picks)
    with pytest.raises(ValueError, match="start with it anew"):
        ActiveLearning(data).self_influence(data)


def test_nothing_to_pick():
    data = communities()
    for options in ({"candidates": []}, {"labelled": range(43)}):
        for paper in (False, True):
            picks = select_nodes(data, 3, paper=paper, embeddings=data.x, **options)
            assert picks.tolist() == [] and picks.dtype == torch.int64
    assert select_nodes(data, 0).tolist() == []
    assert select_nodes(data, 0, per_class=True).tolist() == []


@pytest.mark.parametrize(
    ("change", "options", "error", "says"),
    [
        ({}, {"budget": -1}, ValueError, "budget >= 0"),
        ({}, {"budget": 2.5}, TypeError, "integer budget"),
        ({}, {"budget": True}, TypeError, "integer budget"),
        ({}, {"candidates": [43]}, ValueError, r"candidates within \[0, 43\)"),
        ({}, {"labelled": [-1, 2]}, ValueError, r"labelled within \[0, 43\)"),
        ({}, {"candidates": torch.ones(4).bool()}, ValueError, r"mask of shape \(N,\)"),
        ({}, {"candidates": [0.5]}, ValueError, "list of node indices"),
        ({}, {"reach": -1}, ValueError, "reach >= 0"),
        ({}, {"reach": 1.5}, ValueError, "whole reach"),
        ({"x": torch.eye(43).to_sparse()}, {}, TypeError, "dense real tensor"),
        ({"x": torch.eye(43).to_sparse_csr()}, {}, TypeError, "dense real tensor"),
        ({}, {"steps": 2}, TypeError, "unknown options"),
        ({}, {"embeddings": torch.ones(4, 2)}, ValueError, r"embeddings of shape"),
        ({"x": torch.ones(4, 2)}, {}, ValueError, "N = 43"),
        ({"x": torch.full((43, 2), torch.nan)}, {}, ValueError, "finite features"),
        ({"val_mask": torch.ones(43, 2).bool()}, {}, ValueError, "one split"),
        ({"edge_index": None}, {}, TypeError, "edge_index"),
    ],
)
def test_wrong_use_is_told(change, options, error, says):
    data = communities()
    for name, value in change.items():
        setattr(data, name, value)
    with pytest.raises(error, match=says):
        select_nodes(data, **{"budget": 3, **options})
