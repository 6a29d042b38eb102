"""Graphs of the benchmark of nodes to label, and how its cells are summed up."""

import json

import numpy as np
import pytest
import torch
from torch_geometric.data import Data

pytest.importorskip("kmedoids", reason="needs kmedoids")

from tests.benchmarks.active_learning import bench, choice_graphs, data, splits


def test_the_mixed_graph_mixes_as_it_says():
    graph = data.mixed(3)
    assert graph.is_undirected() and not graph.has_self_loops()
    assert graph.y.bincount().tolist() == [500] * 5
    source, target = graph.y[graph.edge_index]
    step = (target - source) % 5
    share = step.bincount(minlength=5) / len(step)
    # Of an edge both ends count: to the next class 0.35, back from it 0.15.
    expected = torch.tensor([0.2, 0.25, 0.15, 0.15, 0.25])
    assert (share - expected).abs().max() < 0.012  # two standard errors
    alike = graph.x @ graph.x.T
    same = graph.y[:, None] == graph.y
    assert alike[same].mean() > 1.5 * alike[~same].mean()


def test_neighbours_are_joined_in_both_directions():
    x = np.zeros((1600, 2))
    x[:, 0] = np.arange(1600) ** 1.01  # gaps grow: the nearest ones are the earlier
    graph = data.knn_graph(x, np.arange(1600) % 2, seed=0)
    neighbours = graph.edge_index[1, graph.edge_index[0] == 0]
    assert neighbours.sort().values.tolist() == [1, 2, 3, 4, 5]
    assert graph.is_undirected() and not graph.has_self_loops()
    assert graph.val_mask.sum() == 500 and graph.test_mask.sum() == 1000
    assert not (graph.val_mask & graph.test_mask).any()


def test_splits_differ_and_leave_the_graph_as_it_is():
    graph = data.mixed(0)
    first, second = (data.split(graph, seed) for seed in (1, 2))
    assert not torch.equal(first.test_mask, second.test_mask)
    assert torch.equal(first.test_mask, data.split(second, 1).test_mask)
    assert torch.equal(graph.test_mask, data.split(graph, 0).test_mask)


def test_attributes_as_given_are_those_before_rows_summed_to_one():
    graph = Data(x=torch.tensor([[2.0, 6.0], [0.0, 4.0]]))
    whole = data.normalized(graph)
    assert whole.x.tolist() == [[0.25, 0.75], [0, 1]]
    assert data.as_given(whole).x.tolist() == [[2, 6], [0, 4]]
    words = Data(x=torch.tensor([[0.0, 0.2]]))
    assert data.as_given(words).x.tolist() == [[0, 1]]


def test_samples_share_no_node():
    first, second = (choice_graphs._sample(5172, part) for part in (1, 2))
    assert len(np.union1d(first, second)) == 5000


@pytest.mark.parametrize("mixing", choice_graphs.MIXINGS)
def test_block_models_mix_as_they_say(mixing):
    graph = choice_graphs.block_model(mixing, 5, None)
    source, target = graph.y[graph.edge_index]
    within = (source == target).double().mean()
    ends = source.bincount() / len(source)
    anywhere = choice_graphs.MIXINGS[mixing][2]
    expected = 1 - anywhere + anywhere * (ends**2).sum()
    assert abs(within - expected) < 0.02  # 5,000 edges: two standard errors are 0.014


def test_cells_are_paired_by_split(tmp_path):
    for method, hits in {"a": [0.5, 0.7, 0.9], "b": [0.4, 0.5, 0.9]}.items():
        (tmp_path / f"{method}, 20.json").write_text(json.dumps(hits))
    found = splits.rows(tmp_path, ["a", "b"], [20, 40])
    assert found["a"]["20"] == {
        "mean": 70.0,
        "sd": 20.0,
        "default_minus_this": 0.0,
        "standard_error": 0.0,
    }
    # Differences 10, 20, 0.
    assert found["b"]["20"]["default_minus_this"] == 10.0
    assert found["b"]["20"]["standard_error"] == pytest.approx(10 / 3**0.5, abs=0.01)


def test_a_second_round_goes_on_from_the_same_nodes():
    graph = data.normalized(data.mixed(0))
    parts = [data.split(graph, seed) for seed in range(2)]
    whole = {name: splits.later(parts, name, 23) for name in ("random", "entropy")}
    whole["told"] = splits.later(parts, "select_nodes, told", 23)
    for i, split in enumerate(parts):
        firsts = {tuple(picks[i][:20].tolist()) for picks in whole.values()}
        assert len(firsts) == 1
        for picks in whole.values():
            assert len(picks[i].unique()) == 23
            assert not (split.val_mask | split.test_mask)[picks[i]].any()


def test_a_new_default_takes_the_place_of_the_old_one_and_differences_are_to_it():
    def cell(mean, sd):
        return {"20": {"mean": mean, "sd": sd}}

    methods = {"select_nodes": cell(60.0, 1.0), "random": cell(50.0, 3.0)}
    record = {"results": {"Cora, open": {"methods": methods}}}
    rows = {"select_nodes": cell(64.0, 4.0), "GraphPart": cell(65.0, 3.0)}
    bench.update(record, "Cora, open", rows, {"command": "later"})
    found = record["results"]["Cora, open"]
    assert found["methods"]["select_nodes"] == cell(64.0, 4.0)
    for name, difference in {"random": 14.0, "GraphPart": -1.0}.items():
        now = found["methods"][name]["20"]
        assert now["default_minus_this"] == difference
        assert now["standard_error"] == 1.12  # sqrt((16 + 9) / 20)
    assert found["losses"] == []  # one point is less than the error
    assert set(found["later_rows"]) == {"select_nodes", "GraphPart"}
