"""Series, images and volumes; and layouts that are none of these."""

import warnings
from functools import partial

import pytest
import torch
from torch import nn

from captum_margin import Explanation, explain
from captum_margin.attr import (
    CoalitionPerturbation,
    MarginSaliency,
    feature_coalitions,
    last_conv_layer,
)
from captum_margin.attr.margin.domains.axes import along_axes
from captum_margin.metrics import (
    average_drop,
    evaluate,
    grid_pointing,
    insertion_deletion,
    smallest_region,
)
from tests.helpers import models


def planted(size, share, seed):
    """Two bright blocks, the truth (1 in one, -1 in the other) and its model."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.2 + 0.05 * torch.rand(1, 2, *size, generator=generator)
    sides = [max(1, round(side * share)) for side in size]
    edges = [side // 10 for side in size]
    truth = torch.zeros(size)
    pairs = list(zip(size, sides, edges, strict=True))
    for_it = tuple(slice(edge, edge + side) for _, side, edge in pairs)
    against = tuple(slice(n - edge - side, n - edge) for n, side, edge in pairs)
    truth[for_it], truth[against] = 1.0, -1.0
    x += 0.7 * truth.abs()

    def model(t):
        parts = [
            t[(..., *box)].flatten(1).mean(1, keepdim=True) for box in (for_it, against)
        ]
        evidence = 3 * (parts[0] - parts[1])
        return torch.cat([evidence, torch.zeros_like(evidence)], dim=1)

    return x, truth, model


# Lowest correlation seen over 4 seeds, less .02; single elements have .1 to .2.
SPACES = {
    "series": ((1000,), 1 / 16, 0.92),
    "short series": ((64,), 1 / 16, 0.93),
    "image": ((96, 96), 1 / 4, 0.87),
    "volume": ((16, 16, 16), 0.4, 0.80),
    "video": ((8, 32, 32), 0.4, 0.83),
}


@pytest.mark.parametrize(("size", "share", "least"), SPACES.values(), ids=SPACES.keys())
def test_planted_blocks_are_found_with_200_evaluations(size, share, least):
    for seed in range(2):
        x, truth, model = planted(size, share, seed)
        found = MarginSaliency(model).attribute(
            x, target=0, n_evaluations=200, seed=seed
        )
        assert found.shape == x.shape and torch.equal(found[:, 0], found[:, 1])
        found = found[0, 0].flatten()
        both = torch.stack([found, truth.flatten()])
        assert both.corrcoef()[0, 1] > least
        assert truth.flatten()[found.argmax()] == 1
        assert truth.flatten()[found.argmin()] == -1


@pytest.mark.parametrize("size", [(40,), (6, 9, 8)])
@pytest.mark.parametrize("n_evaluations", [60, 200])
def test_a_batch_is_its_examples(size, n_evaluations):
    x, _, model = planted(size, 0.3, 0)
    x = torch.cat([x, x.flip(-1)]).double()
    explainer = MarginSaliency(model)
    options = {"target": 0, "n_evaluations": n_evaluations}
    found = explainer.attribute(x, perturbations_per_eval=7, **options)
    for i in range(2):
        alone = explainer.attribute(x[i : i + 1], **options)[0]
        torch.testing.assert_close(found[i], alone)
    assert not torch.equal(found[0], found[1])


def test_a_matrix_along_each_axis():
    generator = torch.Generator().manual_seed(0)
    for points in [(4,), (4, 5), (4, 5, 3)]:
        values = torch.randn(2, *points, generator=generator)
        matrices = [torch.randn(6 + n, n, generator=generator) for n in points]
        letters, others = "abc"[: len(points)], "xyz"[: len(points)]
        terms = ",".join(b + a for a, b in zip(letters, others, strict=True))
        for form, given in [
            (terms, matrices),
            (
                ",".join(f"n{term}" for term in terms.split(",")),
                [torch.stack([m, 2 * m]) for m in matrices],
            ),
        ]:
            expected = torch.einsum(f"n{letters},{form}->n{others}", values, *given)
            torch.testing.assert_close(along_axes(values, given), expected)


def last(x):
    return x.permute(0, 2, 3, 1).contiguous()


class ChannelsLast(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = models.conv()

    def forward(self, x):
        return self.model(x.permute(0, 3, 1, 2))


ENTRIES = {
    "saliency": lambda m, x: MarginSaliency(m).attribute(x, target=1),
    "regions": lambda m, x: MarginSaliency(m).attribute(x, target=1, domain="regions"),
    "own regions": lambda m, x: MarginSaliency(m, lambda i: i[None, :, :, 0]).attribute(
        x, target=1
    ),
    "coalition": lambda m, x: CoalitionPerturbation(m).attribute(x, target=1),
    "coalitions": feature_coalitions,
    "last layer": last_conv_layer,
    "insertion": lambda m, x: insertion_deletion(m, x, x, 1),
    "drop": lambda m, x: average_drop(m, x, x, 1),
    "region": lambda m, x: smallest_region(m, x, x, 1),
    "all": lambda m, x: evaluate(m, x, x, 1),
}


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES.keys())
def test_channels_last_are_refused(entry):
    x = last(models.images())
    message = r"channels first, \(B, C, H, W\) \(got \(2, 24, 20, 3\), .*permute\(0, 3"
    with pytest.raises(ValueError, match=message):
        entry(ChannelsLast(), x)


def test_channels_last_are_refused_in_grids_and_volumes():
    x = last(models.images(4, height=20))
    with pytest.raises(ValueError, match="channels first"):
        grid_pointing(ChannelsLast(), lambda image, target: image, x)
    with pytest.raises(ValueError, match=r"permute\(0, 4, 1, 2, 3\)"):
        MarginSaliency(lambda v: v.flatten(1).sum(1)).attribute(
            torch.rand(1, 16, 20, 18, 1)
        )


def test_what_the_message_says_works():
    x, net = models.images(), ChannelsLast()
    found = MarginSaliency(lambda t: net(t.permute(0, 2, 3, 1))).attribute(
        last(x).permute(0, 3, 1, 2), target=1, n_evaluations=40
    )
    expected = MarginSaliency(net.model).attribute(x, target=1, n_evaluations=40)
    torch.testing.assert_close(found, expected)


def test_a_feature_mask_takes_any_layout():
    x, net = models.images(), ChannelsLast()
    mask = models.tiles(24, 20, 8)
    options = {"target": 1, "n_evaluations": 200, "baselines": 0.2}
    found = MarginSaliency(net).attribute(
        last(x), feature_mask=mask[None, :, :, None], **options
    )
    expected = MarginSaliency(net.model).attribute(x, feature_mask=mask, **options)
    torch.testing.assert_close(found, last(expected))


class Steps(nn.Module):
    """Reads the second of 6 steps (B, 6, 20) behind a recurrence, or a convolution."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return x[:, 1].mean(dim=1)


@pytest.mark.parametrize(
    "layer", [nn.GRU(20, 2, batch_first=True), nn.TransformerEncoderLayer(20, 2)]
)
def test_steps_first_are_no_series(layer):
    x = torch.ones(1, 6, 20)
    found = MarginSaliency(Steps(layer).eval()).attribute(x, n_evaluations=800)
    # Each element is a feature, of which the second step's add 1 / 20 to the score.
    assert found[0, 1].min() > found[0, [0, 2, 3, 4, 5]].abs().max()
    assert abs(float(found[0, 1].mean()) - 1 / 20) < 0.005
    model = Steps(nn.Sequential(nn.Conv1d(6, 20, 1), layer)).eval()
    found = MarginSaliency(model).attribute(x, n_evaluations=400)
    assert torch.equal(found[:, :1].expand_as(found), found)


class SecondToken(nn.Module):
    """The logits of the second of T tokens of 32 features, (B, T, 32)."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        if isinstance(self.layer, nn.Conv1d):
            return self.layer(x.transpose(1, 2))[:, :, 1]
        return self.layer(x)[:, 1]


@pytest.mark.parametrize(
    ("layer", "wrapped"),
    [
        (nn.Linear(32, 2), lambda net: net),
        (nn.Conv1d(32, 2, 1), lambda net: net),
        (nn.Linear(32, 2), lambda net: lambda x: net(x)),
        (nn.Linear(32, 2), lambda net: net.forward),
        (nn.Linear(32, 2), lambda net: partial(net)),
        (nn.Linear(32, 2), nn.DataParallel),
    ],
    ids=["linear", "transposed", "function", "method", "partial", "parallel"],
)
def test_tokens_are_told_from_series_by_the_first_layer(layer, wrapped):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 5, 32, generator=generator)
    net = SecondToken(layer).eval()
    with torch.no_grad():
        layer.weight.copy_(torch.rand(layer.weight.shape, generator=generator))
    options = {"target": 0, "softmax": False, "n_evaluations": 2000}
    found = MarginSaliency(wrapped(net)).attribute(x, **options)
    # Every element adds its weighted value.
    expected = torch.zeros_like(x)
    expected[:, 1] = x[:, 1] * layer.weight[0].detach().view(32)
    assert float((found - expected).abs().max()) < 0.25


def test_a_first_convolution_of_as_many_channels_makes_a_series():
    net = nn.Sequential(nn.Conv1d(5, 2, 1), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    x = torch.rand(1, 5, 32)
    found = MarginSaliency(lambda t: net(t)).attribute(x, target=0, n_evaluations=60)
    assert torch.equal(found[:, :1].expand_as(found), found)


@pytest.mark.parametrize("shape", [(2, 16, 16, 3), (2, 20, 32, 1)])
@pytest.mark.filterwarnings("ignore:.* features share")
def test_feature_maps_of_few_columns_are_no_pictures(shape):
    net = nn.Sequential(
        nn.Conv2d(shape[1], 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).eval()
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    options = {"target": 0, "softmax": False}
    found = MarginSaliency(net).attribute(x, n_evaluations=50, **options)
    elements = torch.arange(x[0].numel()).view(1, *x.shape[1:])
    expected = MarginSaliency(net).attribute(
        x, feature_mask=elements, n_evaluations=50, **options
    )
    torch.testing.assert_close(found, expected)
    curves = insertion_deletion(lambda t: net(t), x, x, **options)
    with torch.no_grad():
        torch.testing.assert_close(curves.insertion[:, -1], net(x)[:, 0])
    with pytest.raises(ValueError, match=r"channels first.*Module whose first layer"):
        insertion_deletion(lambda t: t.flatten(1).sum(1), x, x)


def test_fewer_evaluations_than_features_warn_once():
    x = torch.ones(2, 40)
    explainer = MarginSaliency(lambda t: t.sum(1))
    with pytest.warns(UserWarning, match="40 features share 39 masked copies") as seen:
        explainer.attribute(x, n_evaluations=40)
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explainer.attribute(x, n_evaluations=41)


def test_a_prior_is_of_images():
    with pytest.raises(ValueError, match=r"a prior only for images \(B, C, H, W\)"):
        MarginSaliency(lambda t: t.flatten(1).sum(1)).attribute(
            torch.rand(1, 2, 64), prior=torch.rand(1, 1, 64)
        )


def test_whole_numbers_are_no_volumes():
    with pytest.raises(TypeError, match="expected floating-point images"):
        MarginSaliency(lambda t: t.flatten(1).float().sum(1)).attribute(
            torch.ones(1, 1, 16, 16, 16, dtype=torch.uint8)
        )


@pytest.mark.parametrize("size", [(64,), (6, 9, 8)])
def test_what_is_no_picture_is_kept_but_not_drawn(size, tmp_path):
    x, _, model = planted(size, 0.3, 0)
    found = explain(MarginSaliency(model), x, target=0, n_evaluations=40)
    path = tmp_path / "explanation.npz"
    found.save(path)
    assert torch.equal(Explanation.load(path).attributions, found.attributions)
    with pytest.raises(ValueError, match=r"expected images \(B, C, H, W\) to draw"):
        found.plot()
    with pytest.raises(ValueError, match="expected inputs to be one batch of images"):
        found.evaluate(model)
