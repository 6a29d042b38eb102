"""What speaks for another class: the vote of the others, its slope, and where."""

from contextlib import nullcontext

import pytest
import torch

from captum_margin.influence import LabelNoise
from captum_margin.influence.settings import as_points
from captum_margin.signal._kernel_ridge import AllVotes, KernelRidge


def two_kinds(n=60, width=6, seed=0):
    """Two kinds of rows, float64, and labels of which a few are wrong."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.arange(n) % 2
    x = torch.randn(n, width, generator=generator, dtype=torch.float64)
    x[:, 0] += 3 * kind
    x[:, 1] += 3 * (1 - kind)
    labels = kind.clone()
    labels[[4, 9]] = 1 - labels[[4, 9]]
    return x, labels


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_vote_is_that_of_all_others(metric):
    """At the sample itself what the regression says of it when it is left out."""
    x, labels = two_kinds()
    noise = LabelNoise.from_features(x, labels, k=6, metric=metric, trusted=False)
    votes = AllVotes(as_points(x, noise.used))(noise.result().function)
    for i in (0, 4, 9):
        evidence = noise.evidence(i)
        own, other = int(labels[i]), 1 - int(labels[i])
        assert (evidence.given, evidence.other) == (own, other)
        expected = votes[i, other] - votes[i, own]
        torch.testing.assert_close(evidence(x[i : i + 1])[0], expected)
    assert evidence(x[9:10]) > 0 > noise.evidence(0)(x[:1])


def test_leaving_one_out_is_the_regression_without_it():
    """With its landmarks and penalty, by a second regression in full."""
    x, labels = two_kinds()
    f = torch.nn.functional.one_hot(labels).double()
    ridge = KernelRidge(x, len(x))
    fit = ridge.fit(f)
    row, kept = 7, torch.arange(len(x)) != 7
    smaller = ridge.without(fit, row, f[row])
    bumps = (-ridge.gamma * torch.cdist(x, x).square()).exp()
    weights = bumps[kept] - bumps[kept].mean(dim=0)
    target = f[kept] - f[kept].mean(dim=0)
    # In the basis of the bumps the penalty is that of the functions' norm.
    at = next(
        p
        for p in range(ridge.inverse.size(1))
        if torch.equal(fit.left_out, _left_out(ridge, f, p))
    )
    largest = ridge.features.square().sum(dim=0).max()
    penalty = largest * 4.0 ** (at - 8)
    slope = torch.linalg.solve(
        weights.T @ weights + penalty * bumps, weights.T @ target
    )
    intercept = f[kept].mean(dim=0) - bumps[kept].mean(dim=0) @ slope
    torch.testing.assert_close(
        smaller.predict(x), bumps @ slope + intercept, rtol=1e-5, atol=1e-6
    )


def _left_out(ridge, f, at):
    mean = f.mean(dim=0)
    slope = ridge.inverse[:, at, None] * (ridge.features.T @ (f - mean))
    own = ridge.leverage[:, at, None]
    return (ridge.features @ slope + mean - own * f) / (1 - own)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_slope_and_map_are_those_of_small_steps(metric):
    x, labels = two_kinds()
    evidence = LabelNoise.from_features(x, labels, k=6, metric=metric).evidence(4)
    slope = evidence.slope(x[:3])
    step = 1e-6 * torch.eye(6, dtype=torch.float64)
    for i in range(3):
        rise = (evidence(x[i] + step) - evidence(x[i] - step)) / 2e-6
        torch.testing.assert_close(slope[i], rise, rtol=1e-5, atol=1e-8)
    generator = torch.Generator().manual_seed(1)
    maps = torch.randn(3, 6, 4, 5, generator=generator, dtype=torch.float64)
    maps += (x[:3] - maps.mean(dim=(2, 3)))[:, :, None, None]
    where = evidence.positions(maps)
    torch.testing.assert_close(where[1, 2, 3], slope[1] @ maps[1, :, 2, 3])
    linear = (slope * x[:3]).sum(dim=1)
    torch.testing.assert_close(where.mean(dim=(1, 2)), linear)
    if metric == "cosine":
        torch.testing.assert_close(linear, torch.zeros(3, dtype=torch.float64))


def network(images):
    """Maps (n, 8, 4, 4): how much of each of eight colours every quarter holds."""
    colours = torch.linspace(0, 1, 8)
    away = images[:, None] - colours[:, None, None]
    return torch.nn.functional.avg_pool2d((-20 * away.square()).exp(), 4)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("is_left", [True, False])
def test_of_two_halves_the_other_kind_is_found(metric, label, is_left):
    """Cats are dark and dogs are bright; half of one image is of the other kind."""
    generator = torch.Generator().manual_seed(0)
    noise = 0.15 * torch.randn(60, 16, 16, generator=generator)
    kind = torch.arange(60) % 2
    images = 0.2 + 0.6 * kind[:, None, None] + noise
    columns = slice(8, 16) if is_left else slice(0, 8)  # where it is not its own kind
    images[label, :, columns] += 0.6 - 1.2 * label
    maps = network(images)
    features = maps.mean(dim=(2, 3))
    if metric == "euclidean":  # lengths are from the mean of all, in like units
        maps = (maps - features.mean(dim=0)[:, None, None]) / features.std(dim=0)[
            :, None, None
        ]
        features = maps.mean(dim=(2, 3))
    question = LabelNoise.from_features(features, kind, k=10, metric=metric)
    where = question.evidence(label).positions(maps[label : label + 1])[0].clamp(min=0)
    of_left, of_right = where[:, :2].sum(), where[:, 2:].sum()
    found, missed = (of_right, of_left) if is_left else (of_left, of_right)
    assert found > 20 * missed


def test_another_class_can_be_asked_for():
    x, labels = two_kinds()
    labels[::3] = 2
    noise = LabelNoise.from_features(x, labels, k=6)
    given = int(labels[0])
    both = [noise.evidence(0, other=c)(x) for c in range(3) if c != given]
    votes = noise.result().function - noise.result().filtered
    most = max((c for c in range(3) if c != given), key=lambda c: votes[0, c])
    expected = both[[c for c in range(3) if c != given].index(most)]
    torch.testing.assert_close(noise.evidence(0)(x), expected)
    torch.testing.assert_close(noise.evidence(-len(x))(x), expected)
    for wrong in (given, 3, -1):
        with pytest.raises(ValueError, match="expected another class"):
            noise.evidence(0, other=wrong)
    with pytest.raises(IndexError):
        noise.evidence(len(x))


def test_without_the_vote_of_all_there_is_none():
    x, labels = two_kinds()
    for noise in (
        LabelNoise.from_features(x, labels, k=6, regression=False),
        LabelNoise.from_features(x, labels, k=6, paper=True),
        LabelNoise.from_probabilities(torch.full((60, 2), 0.5), labels),
    ):
        with (
            pytest.warns() if noise._pred_probs is not None else nullcontext(),
            pytest.raises(ValueError, match="regression=True"),
        ):
            noise.evidence(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_of_identical_points_the_vote_is_the_mean_of_the_others(dtype):
    f = torch.nn.functional.one_hot(torch.arange(30) % 3).to(dtype)
    ridge = KernelRidge(torch.ones(30, 4, dtype=dtype), 30)
    fit = ridge.fit(f)
    torch.testing.assert_close(fit.left_out, (f.sum(dim=0) - f) / 29)
    elsewhere = ridge.without(fit, 3, f[3]).predict(torch.zeros(1, 4, dtype=dtype))
    torch.testing.assert_close(elsewhere, fit.left_out[3:4])
