"""Losses, clustering steps and search steps against their plain restatements."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from captum_margin.attr.coalition.clustering import (
    _responses,
    continuity_loss,
    similarity_loss,
)
from captum_margin.attr.coalition.losses import (
    coalition_loss,
    drop_loss,
    evenness_loss,
    extent_loss,
    gaussian_smoothed,
    margin_loss,
    smoothing_matrix,
)
from captum_margin.attr.coalition.perturbation import _maps
from captum_margin.attr.coalition.search import _DECAY, Search, search
from tests.reference import coalition_reference as reference

EXACT = {"rtol": 1e-10, "atol": 1e-12}
SIZES = [(8, 7), (1, 5), (2, 2), (12, 9)]


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def perturbation(batch, channels, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, channels, height, width)
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def regions(batch, height, width, count=4, seed=1):
    """Coalitions of uneven sizes; not every image has all of them."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(batch, height, width, generator=generator)
    numbers = (drawn.square() * count).long()
    numbers[0] = numbers[0].clamp(max=1)
    return numbers


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_losses_of_a_mask(channels, size):
    p, coalitions = perturbation(3, channels, *size), regions(3, *size)
    arrays = p.numpy()
    np.testing.assert_allclose(
        extent_loss(p), [reference.extent(array) for array in arrays], **EXACT
    )
    for loss, plain in [
        (coalition_loss, reference.coalition),
        (evenness_loss, reference.evenness),
    ]:
        for sigma in (1.0, 0.4, 2.0):
            pairs = zip(arrays, coalitions.numpy(), strict=True)
            np.testing.assert_allclose(
                loss(p, coalitions, sigma),
                [plain(*pair, sigma) for pair in pairs],
                **EXACT,
            )
        assert torch.equal(loss(p, coalitions), loss(p, coalitions, 1.0))


@pytest.mark.parametrize("sigma", [1.0, 0.5, 2.0])
def test_blur(sigma):
    maps = perturbation(2, 2, 9, 6)
    found = gaussian_smoothed(maps, sigma)
    for one, image in zip(found, maps, strict=True):
        for plane, given in zip(one.numpy(), image.numpy(), strict=True):
            np.testing.assert_allclose(plane, reference.smoothed(given, sigma), **EXACT)


@pytest.mark.parametrize("size", [1, 2, 9])
@pytest.mark.parametrize("sigma", [0.0, 0.4, 1.0, 5.0])
def test_smoothing_with_edges_that_go_on(size, sigma):
    found = smoothing_matrix(size, sigma, draw(1))
    expected = reference.edge_smoothing(size, sigma)
    np.testing.assert_allclose(found, expected, **EXACT)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(size).double())


def test_losses_of_scores():
    scores = 3 * draw(6, 5)
    targets = torch.tensor([0, 1, 2, 3, 4, 0])
    selected = scores.gather(1, targets[:, None]).squeeze(1)
    expected = [
        reference.margin(row, t)
        for row, t in zip(scores.numpy(), targets.tolist(), strict=True)
    ]
    np.testing.assert_allclose(margin_loss(scores, selected), expected, **EXACT)
    before, scale = torch.linspace(-2, 3, 6), torch.linspace(0.5, 2, 6)
    expected = [
        reference.drop(*map(float, entry))
        for entry in zip(selected, before, scale, strict=True)
    ]
    np.testing.assert_allclose(drop_loss(selected, before, scale), expected, rtol=1e-6)


def test_rounding_does_not_decide_on_the_first_gradient():
    for change, slope in [(1e-6, -1.0), (0.0, -1.0), (-1e-6, -1.0), (1e-2, 0.0)]:
        selected = torch.tensor([1.0 + change], requires_grad=True)
        drop_loss(selected, torch.ones(1), torch.ones(1)).sum().backward()
        assert float(selected.grad) == slope


def test_gradients():
    p = perturbation(2, 2, 5, 4).requires_grad_()
    coalitions = regions(2, 5, 4)
    assert torch.autograd.gradcheck(extent_loss, p)
    assert torch.autograd.gradcheck(lambda q: coalition_loss(q, coalitions), p)
    assert torch.autograd.gradcheck(lambda q: evenness_loss(q, coalitions, 2.0), p)
    assert torch.autograd.gradcheck(gaussian_smoothed, p)
    scores = draw(4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: margin_loss(s, s[:, 1]), scores)
    ones = torch.ones(4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: drop_loss(s[:, 0], ones, ones), scores)
    responses = draw(4, 5, 3).requires_grad_()
    assert torch.autograd.gradcheck(continuity_loss, responses)
    assert torch.autograd.gradcheck(lambda r: similarity_loss(r.view(20, 3)), responses)


def test_laws_of_the_mask():
    p, q = perturbation(2, 3, 9, 8), perturbation(2, 3, 9, 8, seed=5)
    coalitions = regions(2, 9, 8)
    for loss in (extent_loss, lambda x: coalition_loss(x, coalitions)):
        torch.testing.assert_close(loss(2 * p - 3 * q), 2 * loss(p) - 3 * loss(q))
    renumbered = torch.tensor([7, 2, 9, 0])[coalitions]
    expected = coalition_loss(p, coalitions)
    torch.testing.assert_close(coalition_loss(p, renumbered), expected)
    # A coalition alone counts by its mean; a pixel alone as much as that.
    share = gaussian_smoothed(p.new_ones(1, 1, 9, 8))
    of_one = coalition_loss(p, torch.zeros_like(coalitions))
    torch.testing.assert_close(of_one, -(p * share).mean(dim=(1, 2, 3)))
    every = torch.arange(72).view(1, 9, 8).expand(2, -1, -1)
    torch.testing.assert_close(coalition_loss(p, every), 72 * of_one)


def test_evenness_is_nothing_only_where_each_coalition_has_one_value():
    """Of its pixels that the Gaussian reaches from each other."""
    coalitions = regions(2, 9, 8)
    values = draw(2, 3, 4)
    of_pixels = coalitions.flatten(1)[:, None].expand(-1, 3, -1)
    p = values.gather(2, of_pixels).view(2, 3, 9, 8)
    assert not evenness_loss(p, coalitions, 3.0).any()
    # One pixel that differs from its like is enough, in any channel and at any place.
    for channel, row, column in [(0, 0, 0), (2, 8, 7), (1, 4, 3)]:
        uneven = p.clone()
        uneven[:, channel, row, column] += 0.1
        assert (evenness_loss(uneven, coalitions, 3.0) > 0).all()
    # A pixel alone may have any, and so may parts that are too far from each other.
    every = torch.arange(72).view(1, 9, 8).expand(2, -1, -1)
    assert not evenness_loss(perturbation(2, 3, 9, 8), every).any()
    rows = torch.arange(9)[:, None].expand(9, 8)
    apart = ((rows < 2) | (rows > 3)).long().expand(2, -1, -1)
    p = torch.where(rows > 3, 0.7, 0.2).double().expand(2, 1, 9, 8).clone()
    assert not evenness_loss(p, apart, 0.7).any()  # ends after two pixels
    assert (evenness_loss(p, apart, 1.0) > 0).all()  # after three


def test_laws_of_evenness():
    p, coalitions = perturbation(2, 3, 9, 8), regions(2, 9, 8)
    base = evenness_loss(p, coalitions)
    assert (base > 0).all()
    # Constants of each coalition and signs make no difference; scales are squared.
    moved = p + coalitions[:, None] * 0.7 - 2
    torch.testing.assert_close(evenness_loss(moved, coalitions), base)
    torch.testing.assert_close(evenness_loss(-3 * p, coalitions), 9 * base)
    renumbered = torch.tensor([7, 2, 9, 0])[coalitions]
    torch.testing.assert_close(evenness_loss(p, renumbered), base)
    for turned in (lambda x: x.flip(-1), lambda x: x.flip(-2), lambda x: x.mT):
        found = evenness_loss(turned(p), turned(coalitions))
        torch.testing.assert_close(found, base)
    # The mean over channels, each image by itself; a copy counts as the coalition.
    of_channels = [evenness_loss(p[:, [c]], coalitions) for c in range(3)]
    torch.testing.assert_close(torch.stack(of_channels).mean(dim=0), base)
    torch.testing.assert_close(evenness_loss(p[1:], coalitions[1:]), base[1:])
    twice = torch.cat([p, p.new_zeros(2, 3, 5, 8), p], dim=2)
    other = torch.cat([coalitions, coalitions[:, :5] * 0 + 4, coalitions + 5], dim=1)
    torch.testing.assert_close(evenness_loss(twice, other), 2 * base)
    # What the mean of a coalition does not see.
    steps = torch.zeros(1, 1, 9, 8).double()
    steps[..., ::2, :] = 1
    one = torch.zeros(1, 9, 8).long()
    assert evenness_loss(steps, one) > 0 == evenness_loss(steps * 0 + 0.5, one)


def test_constant_perturbation():
    """Within the image each coalition counts the same, be it one pixel or hundreds."""
    p = torch.full((1, 3, 20, 20), 0.25, dtype=torch.float64)
    torch.testing.assert_close(extent_loss(p), p.new_tensor([-0.25]))
    frame = torch.zeros(1, 20, 20, dtype=torch.long)
    whole = coalition_loss(p, frame)
    for rows, columns in [((3, 17), (3, 17)), ((9, 10), (4, 5)), ((3, 4), (3, 15))]:
        coalitions = frame.clone()
        coalitions[:, slice(*rows), slice(*columns)] = 1
        inner = coalition_loss(p * (coalitions == 1)[:, None], coalitions)
        torch.testing.assert_close(inner, p.new_tensor([-0.25]))
        outer = coalition_loss(p * (coalitions == 0)[:, None], coalitions)
        total = coalition_loss(p, coalitions)
        torch.testing.assert_close(total, inner + outer)
    # At the border the blur leaves the image: its one-dimensional sums, squared.
    weights = np.exp(-0.5 * np.arange(-3, 4) ** 2)
    weights /= weights.sum()
    kept = [weights[max(0, 3 - i) : 3 + 20 - i].sum() for i in range(20)]
    np.testing.assert_allclose(whole, [-0.25 * np.mean(kept) ** 2], **EXACT)


@pytest.mark.parametrize("size", [(4, 5), (1, 6), (7, 1)])
def test_losses_of_responses(size):
    responses = 2 * draw(*size, 6)
    rows = responses.view(-1, 6)
    expected = reference.similarity(rows.numpy())
    np.testing.assert_allclose(similarity_loss(rows), expected, **EXACT)
    expected = reference.continuity(responses.numpy())
    np.testing.assert_allclose(continuity_loss(responses), expected, **EXACT)


def both_clusterings(steps, continuity, n_clusters, k, least, seed):
    """Ours, and the plain one."""
    size, features = (5, 4), draw(20, 3)
    drawn = torch.Generator().manual_seed(seed)
    start = (torch.randn(3, n_clusters, generator=drawn) / 3**0.5).double().numpy()
    options = k, n_clusters, steps, continuity, seed, least
    expected = reference.learnt_responses(
        features.numpy(), size, start, steps, continuity, k, least
    )
    return _responses(features, size, *options), expected


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("continuity", [0.0, 1.5])
@pytest.mark.parametrize("n_clusters", [32, 6])
def test_clustering_steps(steps, continuity, n_clusters):
    found, expected = both_clusterings(steps, continuity, n_clusters, 1, False, 7)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_clustering_ends_at_a_number_most_or_least():
    """Of clusters there are 16, 17, 16, 15 and then 12."""
    ends = {}
    for k, least in [(15, False), (15, True), (14, False), (14, True)]:
        found, expected = both_clusterings(4, 20.0, 32, k, least, 8)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        ends[k, least] = expected.argmax(axis=1)
    number = {key: len(set(ends[key].tolist())) for key in ends}
    assert number == {(15, False): 15, (15, True): 15, (14, False): 12, (14, True): 15}


def test_clustering_stops_at_enough():
    size = (9, 8)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 9), torch.arange(8.0), indexing="ij")
    features = torch.stack([y, (x > 3).float(), y * y], dim=2).double().view(72, 3)
    clusters = [
        _responses(features, size, 1, 32, steps, 1.0, 0).argmax(dim=1).unique().numel()
        for steps in range(12)
    ]
    enough = min(clusters)
    first = clusters.index(enough)
    assert first > 0
    stopped = _responses(features, size, enough, 32, 60, 1.0, 0)
    assert torch.equal(stopped, _responses(features, size, 1, 32, first, 1.0, 0))


def test_the_papers_clustering_ends_before_there_are_too_few():
    size, features = (9, 8), draw(72, 4)

    def after(steps, k=1, paper=False):
        return _responses(features, size, k, 32, steps, 20.0, 0, paper)

    clusters = [after(steps).argmax(dim=1).unique().numel() for steps in range(20)]
    met, passed = 0, 0
    for k in range(min(clusters), clusters[0]):
        first = next(i for i, number in enumerate(clusters) if number <= k)
        last = first if clusters[first] == k else first - 1
        met, passed = met + (last == first), passed + (last < first)
        assert torch.equal(after(60, k, paper=True), after(last))
        assert torch.equal(after(60, k), after(first))
        assert clusters[last] >= k >= clusters[first]
    assert met and passed


class Net:
    """Logits of three classes, in torch and in NumPy."""

    def __init__(self, n_pixels, seed=0):
        generator = torch.Generator().manual_seed(seed)
        shapes = [(4, n_pixels), (3, 4)]
        self.layers = [torch.randn(s, generator=generator).double() for s in shapes]

    def __call__(self, x):
        return torch.tanh(x.flatten(1) @ self.layers[0].T) @ self.layers[1].T

    def scores(self, image):
        first, second = (layer.numpy() for layer in self.layers)
        return second @ np.tanh(first @ image.ravel())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"deletion": False},
        {"move_coalitions": False},
        {"mask_size": 30},
        {"mask_size": 1},
        {"mask_size": None, "move_coalitions": False},
        {"mask_size": None},
        {"noise": 1.0, "n_samples": 2},
        {"noise": 0.5, "n_samples": 4, "mask_size": None, "confidence": "margin"},
        {"smoothing": 0.2},
        {"smoothing": 0.5, "mask_size": None},
        {"weights": (2.0, 0.0, 0.0)},
        {"weights": (0.0, 3.0, 0.5)},
        {"learning_rate": 0.9},
        {"consistency": "evenness", "weights": (1.0, 0.7, 3.0)},
        {"consistency": "evenness", "consistency_sigma": 2.0, "mask_size": None},
        {"consistency_sigma": 2.0},
    ],
    ids=str,
)
def test_search_steps(changes):
    options = {
        "learning_rate": 0.15,
        "mask_size": 3,
        "smoothing": 0.0,
        "noise": 0.0,
        "n_samples": 2,
        "confidence": "drop",
        "weights": (1.0, 0.7, 0.3),
        "consistency": "mean",
        "consistency_sigma": 1.0,
        "move_coalitions": True,
        "deletion": True,
        **changes,
    }
    n_steps, size, target, seed = 11, (5, 4), 1, 11
    image = draw(1, 2, *size)
    baseline = 0.5 * draw(1, 2, *size, seed=1)
    coalitions = regions(2, *size)[1:]
    net = Net(image.numel())
    generator = torch.Generator().manual_seed(seed)
    noises = np.zeros((n_steps, 1, 2, *size))
    if options["noise"]:
        half = options["n_samples"] // 2
        drawn = [
            torch.randn(half, 2, *size, generator=generator) for _ in range(n_steps)
        ]
        noises = [np.concatenate([d.numpy(), -d.numpy()]) for d in drawn]
    expected, evidence, losses = reference.search(
        net.scores,
        image[0].numpy(),
        baseline[0].numpy(),
        target,
        coalitions[0].numpy(),
        noises,
        {**options, "decay": _DECAY},
    )
    further = {"softmax": True, "seed": seed, "rows": 3, "show_progress": False}
    settings = Search(n_steps=n_steps, patience=20, **options, **further)
    found = search(net, image, baseline, target, None, coalitions, settings)
    np.testing.assert_allclose(found.losses[:, :, 0], losses, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.perturbation[0], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.evidence[0], evidence, rtol=1e-3, atol=1e-4)
    assert found.evidence.max() == (evidence > 0).any() and found.n_steps.tolist() == [
        n_steps
    ]
    for eta in (0.0, 0.3, 1.0):
        maps = _maps(found, image, eta)[0]
        wanted = reference.attribution(expected, evidence, eta)
        wanted = np.broadcast_to(wanted, maps.shape)
        np.testing.assert_allclose(maps, wanted, rtol=1e-3, atol=1e-3)


def test_enlargement_of_the_grid():
    grid = torch.rand(1, 1, 4, 3, dtype=torch.float64)
    expected = (
        reference.bilinear(4, 9) @ grid[0, 0].numpy() @ reference.bilinear(3, 8).T
    )
    found = F.interpolate(grid, (9, 8), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(found[0, 0], expected, **EXACT)
