"""New samples against a fitted graph: restated slowly, and what must not change."""

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from captum_margin.influence import DecisionBoundary, LabelNoise
from captum_margin.influence import settings as settings_module
from captum_margin.neighbors import find as find_module
from tests.influence.test_inputs import image_data, net
from tests.influence.test_scores import blobs, with_flips
from tests.reference import influence_reference as reference
from tests.reference import label_noise_reference as noise_reference


def unit(x):
    return x / np.sqrt((x**2).sum(axis=1, keepdims=True))


def new_weights(x, new, k, metric, bandwidth):
    """(M, N): each new sample joined to its k nearest fitted ones."""
    if metric == "cosine":
        x, new = unit(x), unit(new)
    lengths = np.array([[np.sqrt(((a - b) ** 2).sum()) for b in x] for a in new])
    near = np.zeros(lengths.shape, bool)
    for row, nearest in zip(near, lengths.argsort(axis=1)[:, :k], strict=True):
        row[nearest] = True
    if bandwidth is None:
        return near.astype(float)
    # The median length of the fitted edges.
    joined = reference.neighbor_weights(x, k, "euclidean", None) > 0
    own = np.array([[np.sqrt(((a - b) ** 2).sum()) for b in x] for a in x])
    fitted = np.sort(own[joined & (own > 0)])
    sigma = bandwidth * fitted[(len(fitted) - 1) // 2]
    return np.where(near, np.exp(-(lengths**2) / (2 * sigma**2)), 0.0)


def one_hot(labels, classes=3):
    return np.eye(classes)[labels]


def shifted_new(weights, fitted_weights, f, shift):
    """A f at the new samples: only the fitted ones speak, at their fitted degrees."""
    degree = weights.sum(axis=1, keepdims=True)
    if shift == "symmetric":
        return weights / np.sqrt(degree * fitted_weights.sum(axis=1)) @ f
    return weights / degree @ f


def label_noise(
    x, labels, new, new_labels, k, metric, bandwidth, shift, trusted, regression
):
    fitted = reference.neighbor_weights(x, k, metric, bandwidth)
    weights = new_weights(x, new, k, metric, bandwidth)
    points, others = (unit(x), unit(new)) if metric == "cosine" else (x, new)

    def neighbors(f):
        own = noise_reference.neighbor_votes(fitted, f, shift)
        total = shifted_new(weights, fitted, np.ones((len(f), 1)), shift)
        return np.vstack(
            [own, shifted_new(weights, fitted, f, shift) / np.maximum(total, 1)]
        )

    voters = [neighbors]
    if regression:
        voters.append(lambda f: noise_reference.all_votes(points, f, others).clip(0, 1))
    votes, *_ = noise_reference.rounds_of_votes(
        one_hot(labels), voters, 3 if trusted else 1
    )
    return ((one_hot(new_labels) - votes[len(x) :]) ** 2).sum(axis=1)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("bandwidth", [None, 0.5])
@pytest.mark.parametrize("shift", ["symmetric", "random_walk"])
@pytest.mark.parametrize(("trusted", "regression"), [(True, True), (False, False)])
def test_new_samples_are_scored_by_the_formula(
    metric, bandwidth, shift, trusted, regression
):
    x, labels = blobs(9, spread=1.2)
    labels, _ = with_flips(labels, n=3)
    new, new_labels = blobs(4, seed=3, spread=1.2)
    options = {"k": 5, "metric": metric, "bandwidth": bandwidth, "shift": shift}
    options |= {"trusted": trusted, "regression": regression}
    scores = LabelNoise.from_features(x, labels, **options).score(new, new_labels)
    expected = label_noise(
        *(v.numpy() for v in (x, labels, new, new_labels)),
        *(5, metric, bandwidth, shift, trusted, regression),
    )
    torch.testing.assert_close(scores, torch.from_numpy(expected), rtol=1e-5, atol=1e-6)


def test_boundary_and_the_papers_form():
    x, labels = blobs(15, spread=1.5)
    new, new_labels = blobs(4, seed=3, spread=1.5)
    x_, new_ = x.numpy(), new.numpy()
    fitted = reference.neighbor_weights(x_, 6, "cosine", 1.0)
    weights = new_weights(x_, new_, 6, "cosine", 1.0)
    votes = shifted_new(weights, fitted, one_hot(labels), "symmetric")
    expected = ((one_hot(new_labels) - votes) ** 2).sum(axis=1)
    boundary = DecisionBoundary.from_features(x, labels, k=6)
    torch.testing.assert_close(
        boundary.score(new, new_labels),
        torch.from_numpy(expected),
        rtol=1e-5,
        atol=1e-6,
    )
    fitted = reference.neighbor_weights(x_, 6, "euclidean", None)
    weights = new_weights(x_, new_, 6, "euclidean", None)
    own = np.array(
        [
            np.mean(labels.numpy()[w > 0] != y)
            for w, y in zip(fitted, labels.numpy(), strict=True)
        ]
    )
    f = np.array(
        [
            np.mean(labels.numpy()[w > 0] != y)
            for w, y in zip(weights, new_labels.numpy(), strict=True)
        ]
    )
    expected = (f - shifted_new(weights, fitted, own, "symmetric")) ** 2
    paper = DecisionBoundary.from_features(x, labels, k=6, paper=True)
    torch.testing.assert_close(
        paper.score(new, new_labels).double(),
        torch.from_numpy(expected),
        rtol=0,
        atol=1e-5,
    )


@pytest.mark.parametrize("question", [LabelNoise, DecisionBoundary])
@pytest.mark.parametrize("hops", [1, 2])
def test_the_fit_stays_and_new_samples_do_not_see_each_other(question, hops):
    x, labels = blobs(20)
    new, new_labels = blobs(5, seed=8)
    fitted = question.from_features(x, labels, k=4, hops=hops)
    before = fitted.self_influence().clone()
    together = fitted.score(new, new_labels)
    alone = [fitted.score(new[i : i + 1], new_labels[i : i + 1]) for i in range(15)]
    torch.testing.assert_close(together, torch.cat(alone))
    assert torch.equal(fitted.self_influence(), before)
    assert together.dtype == before.dtype


def test_planted_wrong_labels_among_new_samples_rank_first():
    x, labels = blobs(30)
    new, new_labels = blobs(20, seed=4)
    flipped, wrong = with_flips(new_labels, n=5)
    noise = LabelNoise.from_features(x, [f"class {y}" for y in labels.tolist()])
    scores = noise.score(new, [f"class {y}" for y in flipped.tolist()])
    assert sorted(scores.argsort(descending=True)[:5].tolist()) == wrong.tolist()


def test_new_samples_of_a_model():
    model = net()
    data, other = (TensorDataset(*image_data(seed=seed)) for seed in (1, 7))
    question = LabelNoise(model, data, "maps", k=3)
    scores = question.score(other)
    fitted, new = (LabelNoise(model, d, "maps", k=3) for d in (data, other))
    for one in (fitted, new):
        one.self_influence()
    again = LabelNoise.from_features(
        fitted._samples.features, fitted._samples.labels, k=3
    ).score(new._samples.features, new._samples.labels)
    torch.testing.assert_close(scores, again)


def test_what_cannot_be_scored():
    x, labels = blobs(6)
    noise = LabelNoise.from_features(x, labels, k=3)
    with pytest.raises(ValueError, match=r"expected new features of shape \(M, 4\)"):
        noise.score(x[:, :2], labels)
    with pytest.raises(ValueError, match="expected labels of the new samples"):
        noise.score(x)
    with pytest.raises(ValueError, match="expected labels among the fitted classes"):
        noise.score(x[:2], [0, 7])
    given = LabelNoise.from_graph(torch.tensor([[0, 1], [1, 2]]), [0, 1, 1])
    with pytest.raises(ValueError, match="expected a question with features"):
        given.score(x, labels)
    own = LabelNoise.from_features(x, labels, k=3, function=x[:, 0])
    with pytest.raises(ValueError, match="without function="):
        own.score(x, labels)


def test_many_samples_take_the_approximate_way(monkeypatch, tmp_path):
    x, labels = blobs(300, spread=1.0)
    labels, _ = with_flips(labels, n=20)
    exact = LabelNoise.from_features(x, labels, k=8)
    exact.result()
    monkeypatch.setattr(find_module, "EXACT_UP_TO", 500)
    searched = []

    def find_neighbors(x, k, **options):
        searched.append(k)
        return find_module.find_neighbors(x, k, **options)

    monkeypatch.setattr(settings_module, "find_neighbors", find_neighbors)
    np.save(tmp_path / "x.npy", x.float().numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    noise = LabelNoise.from_features(mapped, labels, k=8)
    graphs = [question.result().graph for question in (exact, noise)]
    pairs = [{*map(tuple, g.edge_index.T.tolist())} for g in graphs]
    assert searched == [8]  # not all pairs were compared,
    assert len(pairs[0] & pairs[1]) > 0.93 * len(pairs[0])
    assert noise.result().scores.dtype == torch.float32
    top = {*noise.result().top(20).tolist()}
    assert len(top & {*exact.result().top(20).tolist()}) >= 18
    always = LabelNoise.from_features(mapped, labels, k=8, backend="exact")
    assert {*map(tuple, always.result().graph.edge_index.T.tolist())} == pairs[0]
    new, new_labels = blobs(3, seed=9)
    torch.testing.assert_close(
        noise.score(new, new_labels).double(),
        exact.score(new, new_labels),
        rtol=0.1,
        atol=0.05,
    )
