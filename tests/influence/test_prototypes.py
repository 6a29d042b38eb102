"""Prototypes and criticisms: those of the signal functions, planted ones, ends."""

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from captum_margin.influence import Prototypes
from captum_margin.signal import (
    knn_graph,
    leave_neighborhood_out_mmd,
    lowest_share,
    select_criticisms,
    select_prototypes,
)
from tests.influence.test_inputs import assert_same_state, image_data, net, state
from tests.influence.test_scores import blobs
from tests.reference import influence_reference as reference
from tests.reference import mmd_reference


def neighbours(weights):
    return [set(np.flatnonzero(row).tolist()) for row in weights]


@pytest.mark.parametrize("local", [False, True])
def test_scores_are_their_formula(local):
    x, labels = blobs(8, spread=1.5)
    points = x.numpy()
    weights = reference.neighbor_weights(points, 5, "euclidean", None)
    f = mmd_reference.leave_neighborhood_out_mmd(
        points,
        neighbours(weights),
        mmd_reference.default_gamma(points),
        labels.numpy() if local else None,
    )
    above = np.maximum(f - reference.shifted(weights, f, "random_walk"), 0)
    prototypes = Prototypes.from_features(x, labels, k=5, local=local)
    np.testing.assert_allclose(
        prototypes.self_influence().numpy(), above**2, rtol=1e-8, atol=1e-18
    )
    np.testing.assert_allclose(prototypes.result().function.numpy(), f, rtol=1e-10)
    if not local:
        unlabelled = Prototypes.from_features(x, k=5).self_influence()
        assert torch.equal(unlabelled, prototypes.self_influence())


@pytest.mark.parametrize("estimate", ["exact", "features"])
@pytest.mark.parametrize("labelled", [False, True])
def test_choices_are_those_of_the_signal_functions(labelled, estimate):
    x, labels = blobs(30, spread=1.0)
    given = labels if labelled else None
    edges, _ = knn_graph(x, 25)
    prototypes = Prototypes.from_features(x, given, estimate=estimate, k=25, seed=0)
    expected = select_prototypes(x, edges, 9, labels=given)
    assert prototypes.select(9).tolist() == expected.tolist()
    expected = select_criticisms(x, edges, 9, labels=given, estimate=estimate)
    assert prototypes.criticisms(9).tolist() == expected.tolist()
    assert torch.equal(prototypes.result().graph.edge_index, edges)


@pytest.mark.parametrize("labelled", [False, True])
def test_the_papers_form(labelled):
    x, labels = blobs(30, spread=1.0)
    given = labels if labelled else None
    edges, _ = knn_graph(x, 25)
    paper = Prototypes.from_features(x, given, paper=True, gamma=0.1)
    options = {"labels": given, "gamma": 0.1}
    expected = select_prototypes(x, edges, 7, rule="paper", **options)
    assert paper.select(7).tolist() == expected.tolist()
    f = leave_neighborhood_out_mmd(x, edges, estimate="paper", **options)
    assert torch.equal(paper.result().function, f)
    # The scores are those whose lower half the rule chooses from.
    low = set(lowest_share(paper.self_influence(), 0.5).tolist())
    assert set(paper.select(45).tolist()) == low
    cells = paper.select(7, rule="cells")
    assert torch.equal(cells, select_prototypes(x, edges, 7, labels=given))


@pytest.mark.parametrize("labelled", [False, True])
def test_planted_clusters_get_a_prototype_each(labelled):
    x, labels = blobs(20, classes=4, spread=0.1)
    prototypes = Prototypes.from_features(x, labels if labelled else None)
    chosen = prototypes.select(4)
    assert sorted(labels[chosen].tolist()) == [0, 1, 2, 3]
    if labelled:  # the loss is about borders: anywhere in a far cluster will do
        return
    for i in chosen.tolist():
        members = x[labels == labels[i]]
        distance = (members - members.mean(dim=0)).norm(dim=1)
        own = (x[i] - members.mean(dim=0)).norm()
        assert int((distance < own).sum()) <= 2


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("estimate", ["exact", "features"])
def test_a_planted_outlier_is_the_first_criticism(labelled, estimate):
    x, labels = blobs(30)
    x[17] = torch.tensor([-4.0, 9.0, -6.0, 5.0])
    prototypes = Prototypes.from_features(
        x, labels if labelled else None, k=5, estimate=estimate
    )
    assert prototypes.criticisms(1).tolist() == [17]
    assert prototypes.influence(k=1).indices.tolist() == [[17]]
    assert 17 not in prototypes.select(3).tolist()


def test_a_sample_of_another_class_is_a_criticism_only_locally():
    x, labels = blobs(30)
    labels[17] = (labels[17] + 1) % 3
    assert Prototypes.from_features(x, labels, k=5).criticisms(1).tolist() == [17]
    anywhere = Prototypes.from_features(x, labels, k=5, local=False)
    assert 17 not in anywhere.criticisms(3).tolist()


def test_model_and_features_choose_the_same():
    model, (x, labels) = net(), image_data()
    before = state(model)
    data = TensorDataset(x, labels)
    with torch.no_grad():
        features = net().eval().maps(x).mean(dim=(2, 3))
    direct = Prototypes.from_features(features, labels, k=6)
    run = Prototypes(model, data, "maps", batch_size=5, k=6)
    assert run.select(5, show_progress=True).tolist() == direct.select(5).tolist()
    assert run.criticisms(5).tolist() == direct.criticisms(5).tolist()
    assert_same_state(before, state(model))
    other = Prototypes(model, data, "maps", k=6)
    torch.testing.assert_close(
        other.self_influence(), direct.self_influence(), rtol=1e-7, atol=1e-15
    )
    assert other.select(5).tolist() == direct.select(5).tolist()


def test_the_model_runs_once_and_the_graph_is_made_once(monkeypatch):
    model, (x, labels) = net(), image_data()
    calls = []
    model.register_forward_hook(lambda *_: calls.append("model"))
    import captum_margin.influence.base as module

    make = module.neighbor_graph
    monkeypatch.setattr(
        module, "neighbor_graph", lambda *args: (calls.append("graph"), make(*args))[1]
    )
    prototypes = Prototypes(model, TensorDataset(x, labels), "maps", batch_size=23)
    prototypes.select(3)
    prototypes.criticisms(3)
    prototypes.select(5)
    assert calls == ["model", "graph"]


def test_another_data_set_is_asked_the_same():
    prototypes = Prototypes.from_features(*blobs(10), k=5)
    prototypes.self_influence()
    other = blobs(8, seed=4)
    expected = Prototypes.from_features(*other, k=5).self_influence()
    assert torch.equal(prototypes.self_influence(other), expected)


def test_the_seed_decides():
    x, _ = blobs(60, spread=2.0)
    choices = [
        Prototypes.from_features(x, seed=seed).select(20).tolist()
        for seed in (0, 0, 1, 2)
    ]
    assert choices[0] == choices[1]
    assert len({tuple(choice) for choice in choices}) > 1
    before = torch.get_rng_state()
    Prototypes.from_features(x, estimate="features").criticisms(3)
    assert torch.equal(torch.get_rng_state(), before)


def test_more_than_there_are_and_none():
    x, labels = blobs(4)
    prototypes = Prototypes.from_features(x, labels)
    assert sorted(prototypes.select(99).tolist()) == list(range(12))
    assert sorted(prototypes.criticisms(99).tolist()) == list(range(12))
    assert prototypes.select(0).tolist() == prototypes.criticisms(0).tolist() == []
    for choose in (prototypes.select, prototypes.criticisms):
        with pytest.raises(ValueError, match=">= 0"):
            choose(-1)


def test_one_class_is_the_global_case():
    x, _ = blobs(20)
    one = Prototypes.from_features(x, ["only"] * len(x))
    none = Prototypes.from_features(x)
    assert one.select(5).tolist() == none.select(5).tolist()
    assert torch.equal(one.self_influence(), none.self_influence())


def test_one_sample_duplicates_and_constant_features():
    assert Prototypes.from_features(torch.ones(1, 2)).self_influence().tolist() == [0]
    constant = Prototypes.from_features(torch.ones(40, 3))
    assert len(set(constant.select(7).tolist())) == 7
    assert constant.self_influence().max() < 1e-10
    x, labels = blobs(10)
    twice = Prototypes.from_features(torch.cat([x, x]), torch.cat([labels, labels]))
    assert bool(twice.self_influence().isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.int64])
def test_coarse_numbers_rank_like_fine_ones(dtype):
    x, _ = blobs(30)
    x[17] = torch.tensor([-4.0, 9.0, -6.0, 5.0])
    coarse = (8 * x).round()
    fine = Prototypes.from_features(coarse, k=6).self_influence()
    scores = Prototypes.from_features(coarse.to(dtype), k=6).self_influence()
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.double(), fine, rtol=1e-2, atol=1e-8)


def test_a_graph_alone_is_not_enough():
    x, _ = blobs(10)
    graph, _ = knn_graph(x, 5)
    with pytest.raises(ValueError, match="needs features"):
        Prototypes.from_graph(graph)
    f = leave_neighborhood_out_mmd(x, graph)
    own = Prototypes.from_graph(graph, function=f)
    expected = Prototypes.from_features(x, k=5).criticisms(4)
    assert own.criticisms(4).tolist() == expected.tolist()
    with pytest.raises(ValueError, match="expected features to select"):
        own.select(3)


def test_options_are_checked():
    x, _ = blobs(5)
    for options, message in [
        ({"estimate": "other"}, "estimate"),
        ({"estimate": "paper"}, "low where the MMD is high"),
        ({"gamma": -1.0}, "gamma"),
    ]:
        with pytest.raises(ValueError, match=message):
            Prototypes.from_features(x, **options).self_influence()
    with pytest.raises(ValueError, match="rule"):
        Prototypes.from_features(x).select(2, rule="greedy")
    x[3, 1] = float("nan")
    with pytest.raises(ValueError, match="finite"):
        Prototypes.from_features(x).select(2)


@pytest.mark.parametrize("labelled", [True, False])
def test_k_is_small_beside_the_classes_unless_given(labelled):
    """120 samples of a class: 6; 360 without classes: 18; given: as given."""
    x = torch.randn(360, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(360) % 3 if labelled else None
    few = Prototypes.from_features(x, labels).result()
    same = Prototypes.from_features(x, labels, k=6 if labelled else 18).result()
    assert torch.equal(few.graph.edge_index, same.graph.edge_index)
    given = Prototypes.from_features(x, labels, k=25).result()
    assert given.graph.edge_index.size(1) > few.graph.edge_index.size(1)
    paper = Prototypes.from_features(x, labels, paper=True).result()
    assert torch.equal(paper.graph.edge_index, given.graph.edge_index)
