"""New samples against a fitted MMD or density: restated slowly, sample by sample."""

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from captum_margin.influence import AdversarialStatistics, Prototypes
from captum_margin.signal import _mmd_new
from tests.influence.test_inputs import image_data, net
from tests.influence.test_new_samples import new_weights, shifted_new
from tests.influence.test_prototypes import neighbours
from tests.influence.test_scores import blobs
from tests.reference import influence_reference as reference
from tests.reference import mmd_reference


def mmd_of_new(x, new, near, gamma, labels=None, new_labels=None, paper=False):
    """Of each new sample on its own, by the definition."""
    result = []
    for i, z in enumerate(new):
        rest = ~near[i].astype(bool)
        if labels is not None:
            rest &= labels == new_labels[i]
        if not rest.any():
            result.append(0.0)
            continue
        without, joined = x[rest], np.vstack([x[rest], z])
        if paper:
            own = z[None]
            value = mmd_reference.kernel(own, without, gamma).mean()
            value += mmd_reference.kernel(own, joined, gamma).mean()
        else:
            value = mmd_reference.mmd(without, joined, gamma)
        result.append(value)
    return np.array(result)


def whole_of_new(x, new, near, gamma):
    """Of all with the new sample, and those that are neither it nor its neighbours."""
    return np.array(
        [
            mmd_reference.mmd(np.vstack([x, z]), x[~near[i].astype(bool)], gamma)
            for i, z in enumerate(new)
        ]
    )


@pytest.mark.parametrize("paper", [False, True])
@pytest.mark.parametrize("gamma", [None, 0.3])
@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("small", [False, True])
def test_criticisms_among_new_samples(monkeypatch, paper, gamma, local, small):
    if small:  # blocks of one row
        monkeypatch.setattr(_mmd_new, "BLOCK_NUMBERS", 1)
    x, labels = blobs(9, spread=1.5)
    new, new_labels = blobs(4, seed=3, spread=2.5)
    labels[labels == 2] = 1
    labels[:7] = 2  # as few as the neighbours: none may be left
    points, others = x.numpy(), new.numpy()
    classes = (labels.numpy(), new_labels.numpy()) if local else ()
    used = gamma or mmd_reference.default_gamma(points)
    fitted = reference.neighbor_weights(points, 7, "euclidean", None)
    near = new_weights(points, others, 7, "euclidean", None)
    known = mmd_reference.leave_neighborhood_out_mmd(
        points, neighbours(fitted), used, *classes[:1], paper=paper
    )
    f = mmd_of_new(points, others, near, used, *classes, paper=paper)
    shift = "symmetric" if paper else "random_walk"
    low = f - shifted_new(near, fitted, known, shift)
    options = {"k": 7, "paper": paper, "gamma": gamma, "local": local}
    options["sided"] = "below" if gamma else "both"
    expected = np.minimum(low, 0) ** 2 if gamma else low**2
    prototypes = Prototypes.from_features(x, labels, **options)
    scores = prototypes.score(new, new_labels)
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-7, atol=1e-18)
    assert float(scores.max()) > 0
    alone = prototypes.score(new[3:5], new_labels[3:5])
    torch.testing.assert_close(alone, scores[3:5], rtol=1e-7, atol=1e-15)


@pytest.mark.parametrize("paper", [False, True])
def test_mmd_of_new_samples(paper):
    x, labels = blobs(9, spread=1.5)
    new, _ = blobs(4, seed=3, spread=2.5)
    points, others = x.numpy(), new.numpy()
    fitted = reference.neighbor_weights(points, 5, "euclidean", None)
    near = new_weights(points, others, 5, "euclidean", None)
    used = mmd_reference.default_gamma(points)
    if paper:
        known = mmd_reference.whole_mmd(points, neighbours(fitted), used)
        f = whole_of_new(points, others, near, used)
    else:
        known = mmd_reference.leave_neighborhood_out_mmd(
            points, neighbours(fitted), used
        )
        f = mmd_of_new(points, others, near, used)
    shift = "symmetric" if paper else "random_walk"
    low = f - shifted_new(near, fitted, known, shift)
    expected = low**2 if paper else np.maximum(low, 0) ** 2
    # Labels take no part.
    question = AdversarialStatistics.from_features(x, labels, k=5, paper=paper)
    scores = question.score(new)
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-7, atol=1e-18)


@pytest.mark.parametrize("labels", [False, True])
def test_random_features_approximate_the_mmd(labels):
    x, y = blobs(40, spread=1.5)
    new, own = blobs(6, seed=3, spread=2.5)
    y, own = (y, own) if labels else (None, None)
    near = torch.arange(5).expand(len(new), 5)
    options = {"labels": y, "new_labels": own}
    exact = _mmd_new.new_samples_mmd(x, new, near, **options)
    found = _mmd_new.new_samples_mmd(
        x, new, near, estimate="features", n_features=2**14, **options
    )
    sizes = (
        torch.full((len(new),), 115.0) if y is None else torch.full_like(exact, 40.0)
    )
    if y is not None:
        left = torch.stack([(y[:5] == c).sum() for c in own])
        sizes -= left
    scaled = [((sizes + 1) * f) ** 2 for f in (exact, found)]
    assert float((scaled[0] - scaled[1]).abs().max()) < 4 * 3 / 2**7
    assert float((scaled[0] - scaled[1]).abs().max()) > 0
    assert float(scaled[0].max() - scaled[0].min()) > 0.3


@pytest.mark.parametrize("paper", [False, True])
@pytest.mark.parametrize("near", [False, True])
def test_density_of_new_samples(paper, near):
    x, _ = blobs(9, spread=1.5)
    new, predicted = blobs(4, seed=3, spread=2.5)
    references, own = blobs(8, seed=5)
    given = {"references": references, "reference_classes": own, "k": 4}
    given |= {"paper": paper, "predicted": torch.arange(len(x)) % 3}
    layers = [v[:, :2] + 1 for v in (x, references, new)]
    by = {}
    if near:
        given |= {"graph_features": layers[0], "graph_references": layers[1]}
        by = {"graph_features": layers[2]}
    question = AdversarialStatistics.from_features(x, **given)
    scores = question.score(new, predicted=predicted, **by)
    if not paper:
        # The references alone: as if the new ones had been asked about at first.
        given |= {"predicted": predicted, **by}
        expected = AdversarialStatistics.from_features(new, **given).self_influence()
        assert torch.equal(scores, expected)
        return
    fitted = reference.neighbor_weights(x.numpy(), 4, "euclidean", None)
    joined = new_weights(x.numpy(), new.numpy(), 4, "euclidean", None)
    used = mmd_reference.default_gamma(references.numpy())
    f = [
        -np.log(
            mmd_reference.kernel_density(
                v.numpy(), references.numpy(), used, c.numpy(), own.numpy()
            )
        )
        for v, c in ((x, given["predicted"]), (new, predicted))
    ]
    expected = (f[1] - shifted_new(joined, fitted, f[0], "symmetric")) ** 2
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-7, atol=1e-12)


def test_new_samples_of_a_model():
    model = net()
    data, other, training = (TensorDataset(*image_data(seed=s)) for s in (1, 7, 9))
    options = {"k": 3, "references": training, "graph_features": "maps"}
    question = AdversarialStatistics(model, data, "norm", **options)
    expected = AdversarialStatistics(model, other, "norm", **options).self_influence()
    torch.testing.assert_close(question.score(other), expected)
    mmd = AdversarialStatistics(model, data, "norm", k=3)
    fitted, new = (AdversarialStatistics(model, d, "norm", k=3) for d in (data, other))
    features = [q._extract(False).features for q in (fitted, new)]
    again = AdversarialStatistics.from_features(features[0], k=3).score(features[1])
    torch.testing.assert_close(mmd.score(other), again)


def test_a_planted_stranger_among_new_samples_ranks_first():
    x, labels = blobs(40)
    new, own = blobs(10, seed=4)
    new[17] += 12
    for question, given in ((Prototypes, (new, own)), (AdversarialStatistics, (new,))):
        scores = question.from_features(x, labels, k=4).score(*given)
        assert int(scores.argmax()) == 17


def test_what_cannot_be_scored():
    x, labels = blobs(6)
    known = AdversarialStatistics.from_features(x, k=3)
    with pytest.raises(ValueError, match=r"expected new features of shape \(M, 4\)"):
        known.score(x[:, :2])
    own = AdversarialStatistics.from_features(x, k=3, function=x[:, 0])
    with pytest.raises(ValueError, match="without function="):
        own.score(x)
    with pytest.raises(ValueError, match="expected labels of the new samples"):
        Prototypes.from_features(x, labels, k=3).score(x)
    scores = Prototypes.from_features(x, k=3).score(x + 1)  # without labels at all
    assert scores.shape == (18,)
