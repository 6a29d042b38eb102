"""The scores: formulas, laws, and planted samples that must rank on top."""

import numpy as np
import pytest
import torch

from captum_margin.influence import DecisionBoundary, LabelNoise, MarginInfluence
from captum_margin.signal import Graph
from tests.reference import influence_reference as reference
from tests.reference.label_noise_reference import label_noise


def blobs(n=40, classes=3, seed=0, spread=0.4, features=4):
    """Clusters in different directions; float64 features and labels."""
    generator = torch.Generator().manual_seed(seed)
    centres = 3 * torch.eye(classes, features, dtype=torch.float64) + 0.5
    labels = torch.arange(n * classes) % classes
    noise = torch.randn(len(labels), features, generator=generator, dtype=torch.float64)
    return centres[labels] + spread * noise, labels


def with_flips(labels, n=6, classes=3):
    wrong = torch.arange(n) * 7 + 2
    flipped = labels.clone()
    flipped[wrong] = (labels[wrong] + 1) % classes
    return flipped, wrong


QUESTIONS = [LabelNoise, DecisionBoundary]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("bandwidth", [None, 0.5, 2.0])
@pytest.mark.parametrize("shift", ["symmetric", "random_walk"])
@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("regression", [True, False])
def test_label_noise_is_its_formula(metric, bandwidth, shift, trusted, regression):
    x, labels = blobs(8, spread=1.2)
    labels, _ = with_flips(labels, n=3)
    weights = reference.neighbor_weights(x.numpy(), 5, metric, bandwidth)
    points = x.numpy()
    if metric == "cosine":
        points = points / np.sqrt((points**2).sum(axis=1, keepdims=True))
    expected = label_noise(
        weights, labels.numpy(), shift, trusted, points if regression else None
    )
    options = {"k": 5, "metric": metric, "bandwidth": bandwidth, "shift": shift}
    options |= {"trusted": trusted, "regression": regression}
    noise = LabelNoise.from_features(x, labels, **options)
    torch.testing.assert_close(
        noise.self_influence(), torch.from_numpy(expected), rtol=1e-6, atol=1e-7
    )


def test_decision_boundary_is_its_formula():
    x, labels = blobs(15, spread=1.5)
    weights = reference.neighbor_weights(x.numpy(), 30, "cosine", 1.0)
    expected = reference.unexplained(weights, labels.numpy(), "symmetric")
    scores = DecisionBoundary.from_features(x, labels).self_influence()
    torch.testing.assert_close(
        scores, torch.from_numpy(expected), rtol=1e-10, atol=1e-14
    )


@pytest.mark.parametrize(("question", "k"), [(LabelNoise, 20), (DecisionBoundary, 30)])
def test_the_papers_form(question, k):
    x, labels = blobs(15, spread=1.5)
    weights = reference.neighbor_weights(x.numpy(), k, "euclidean", None)
    expected = reference.paper(weights, labels.numpy())
    scores = question.from_features(x, labels, paper=True).self_influence()
    # The share of neighbours is counted in the default dtype, float32.
    torch.testing.assert_close(scores, torch.from_numpy(expected), rtol=0, atol=1e-6)


def test_planted_wrong_labels_rank_first():
    x, labels = blobs()
    labels, wrong = with_flips(labels)
    noise = LabelNoise.from_features(x, labels)
    found = noise.influence(k=len(wrong)).indices[0]
    assert sorted(found.tolist()) == wrong.tolist()
    clean = torch.ones(len(x), dtype=torch.bool).index_fill(0, wrong, False)
    scores = noise.self_influence()
    assert scores[wrong].min() > 2 * scores[clean].max()


def test_trust_helps_where_wrong_labels_are_many():
    x, clean = blobs(100, classes=3, spread=0.6)
    generator = torch.Generator().manual_seed(1)
    wrong = torch.rand(len(x), generator=generator) < 0.35
    labels = torch.where(wrong, (clean + 1) % 3, clean)
    found = {}
    for trusted in (True, False):
        noise = LabelNoise.from_features(x, labels, trusted=trusted, regression=False)
        found[trusted] = int(wrong[noise.result().top(int(wrong.sum()))].sum())
    assert found[True] >= found[False] + 5, found
    assert found[True] >= 0.9 * int(wrong.sum())


def test_votes_of_all_help_where_neighbours_are_of_all_classes():
    """One quiet direction of twenty tells the classes apart: neighbours hardly do."""
    generator = torch.Generator().manual_seed(2)
    x = 3 * torch.randn(400, 20, generator=generator, dtype=torch.float64)
    clean = torch.arange(400) % 2
    x[:, 0] = 4.0 * clean - 2
    wrong = torch.rand(400, generator=generator) < 0.1
    labels = torch.where(wrong, 1 - clean, clean)
    found = {}
    for regression in (True, False):
        noise = LabelNoise.from_features(x, labels, regression=regression)
        found[regression] = int(wrong[noise.result().top(int(wrong.sum()))].sum())
    assert found[True] >= found[False] + 10, found
    assert found[True] >= 0.9 * int(wrong.sum()), found


def test_planted_boundary_points_rank_first():
    angle = torch.linspace(0, 1.5, 101, dtype=torch.float64)
    x = torch.stack([angle.cos(), angle.sin()], dim=1)
    boundary = DecisionBoundary.from_features(x, angle > 0.7525, k=10)
    found = boundary.influence(k=6).indices[0]
    assert sorted(found.tolist()) == [48, 49, 50, 51, 52, 53]


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("paper", [False, True])
def test_order_of_samples_and_names_of_classes_do_not_matter(question, paper):
    x, labels = blobs()
    labels, _ = with_flips(labels)
    scores = question.from_features(x, labels, paper=paper).self_influence()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(3))
    renamed = torch.tensor([9, -4, 2])[labels[order]]
    other = question.from_features(x[order], renamed, paper=paper).self_influence()
    torch.testing.assert_close(other, scores[order], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("question", QUESTIONS)
def test_duplicates_are_ordinary_neighbours(question):
    x, labels = blobs(10)
    x, labels = torch.cat([x, x, x]), torch.cat([labels] * 3)
    labels[3] = (labels[3] + 1) % 3
    scores = question.from_features(x, labels, k=5).self_influence()
    assert int(scores.argmax()) == 3 and bool(scores.isfinite().all())


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("paper", [False, True])
def test_one_class_has_no_suspects(question, paper):
    x, _ = blobs(10)
    one = question.from_features(x, ["only"] * len(x), paper=paper)
    with pytest.warns(UserWarning, match="one class"):
        assert not one.self_influence().any()


@pytest.mark.parametrize("question", QUESTIONS)
def test_k_beyond_n_is_the_complete_graph(question):
    x, labels = blobs(3)
    scores = question.from_features(x, labels, k=8).self_influence()
    more = question.from_features(x, labels, k=1000).self_influence()
    torch.testing.assert_close(more, scores)


@pytest.mark.parametrize("question", QUESTIONS)
def test_constant_features_leave_the_labels_to_count(question):
    labels = [0] * 19 + [1]
    scores = question.from_features(torch.ones(20, 3), labels, k=19).self_influence()
    assert int(scores.argmax()) == 19
    torch.testing.assert_close(scores[:19], scores[:1].expand(19))


def test_rows_of_zeros_have_scores_too():
    x, labels = blobs()
    labels, wrong = with_flips(labels)
    x = torch.cat([x, torch.zeros(3, 4, dtype=x.dtype)])
    labels = torch.cat([labels, torch.tensor([0, 0, 0])])
    noise = LabelNoise.from_features(x, labels, k=10)
    assert sorted(noise.influence(k=6).indices[0].tolist()) == wrong.tolist()


@pytest.mark.parametrize("question", QUESTIONS)
def test_one_sample_and_isolated_samples_score_zero(question):
    with pytest.warns(UserWarning, match="one class"):
        single = question.from_features(torch.ones(1, 2), ["a"]).self_influence()
    assert single.tolist() == [0]
    graph = Graph(torch.tensor([[0], [1]]), None, 3)
    scores = question.from_graph(graph, [0, 1, 1]).self_influence()
    assert scores[2] == 0 and (scores[:2] > 0).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_no_numbers_are_refused(value):
    x, labels = blobs(5)
    x[3, 1] = value
    with pytest.raises(ValueError, match="finite"):
        LabelNoise.from_features(x, labels).self_influence()


def test_a_function_of_ones_own():
    x, labels = blobs(10, spread=1.5)
    seen = {}

    def disagreement(graph, samples):
        seen.update(samples._asdict())
        return (samples.labels == 1).double()

    own = MarginInfluence.from_features(x, labels, function=disagreement, k=4)
    weights = reference.neighbor_weights(x.numpy(), 4, "euclidean", None)
    f = (labels == 1).double().numpy()
    expected = (f - reference.shifted(weights, f, "random_walk")) ** 2
    np.testing.assert_allclose(
        own.self_influence().numpy(), expected, rtol=1e-10, atol=1e-15
    )
    assert seen["features"] is not None and seen["classes"] == (0, 1, 2)

    fixed = LabelNoise.from_features(x, function=labels == 1, k=4, bandwidth=None)
    assert fixed.result().function.tolist() == f.tolist()
    with pytest.raises(ValueError, match="one row per sample"):
        LabelNoise.from_features(x, function=torch.ones(3)).self_influence()
    with pytest.raises(NotImplementedError, match="function="):
        MarginInfluence.from_features(x).self_influence()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_dtype_is_that_of_the_features(dtype):
    x, labels = blobs(10)
    x = (10 * x).to(dtype)
    scores = LabelNoise.from_features(x, labels).self_influence()
    assert scores.dtype == (dtype if dtype.is_floating_point else torch.float32)


def test_options_are_checked():
    x, labels = blobs(5)
    with pytest.raises(TypeError, match="unknown options"):
        LabelNoise.from_features(x, labels, neighbours=5)
    with pytest.raises(ValueError, match="bandwidth"):
        LabelNoise.from_features(x, labels, bandwidth=0.0)
    with pytest.raises(ValueError, match="metric"):
        LabelNoise.from_features(x, labels, metric="l1").self_influence()
    with pytest.raises(ValueError, match="'predicted' or 'given'"):
        DecisionBoundary.from_features(x, labels, label_source="x")
