"""Features of any network give coalitions: empty channels, extreme units, one place."""

import numpy as np
import pytest
import torch
from torch import nn

from captum_margin.attr import feature_coalitions, tokens_to_maps
from captum_margin.attr.coalition.clustering import _pixels
from captum_margin.attr.coalition.feature_maps import layer_features, pyramid_features
from tests.benchmarks.networks import vit
from tests.reference import coalition_reference as reference


class Given(nn.Module):
    """A network whose only feature map is given; the image is not looked at."""

    def __init__(self, maps, finite=True):
        super().__init__()
        self.maps, self.finite = maps, finite
        self.trunk = Maps(maps)

    def forward(self, x):
        maps = self.trunk(x)
        scores = maps.double().flatten(2).mean(dim=2)[:, :1]
        return scores if self.finite else torch.zeros_like(scores)


class Maps(nn.Module):
    def __init__(self, maps):
        super().__init__()
        self.maps = maps

    def forward(self, x):
        return self.maps.expand(len(x), -1, -1, -1).clone()


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, *shape, generator=generator, dtype=torch.float64)


def halves(channels=5, side=8):
    """Two halves, which every channel tells apart."""
    maps = torch.zeros(1, channels, side, side, dtype=torch.float64)
    maps[..., side // 2 :] = torch.linspace(1, 2, channels).double().view(-1, 1, 1)
    return maps


def rank_deficient():
    """As the last maps of a network with ReLU6: more channels than places, most 0."""
    maps = draw(1280, 7, 7).clamp(0, 6)
    maps[:, torch.arange(1280) % 9 > 2] = 0
    return maps


FEATURES = {
    "rank deficient": rank_deficient(),
    "one pattern in every channel": draw(1, 6, 6) * draw(40, 1, 1, seed=1),
    "constant": torch.full((1, 5, 6, 6), 0.3),
    "constant channels": draw(5, 1, 1).expand(-1, -1, 6, 6),
    "all zero": torch.zeros(1, 5, 6, 6),
    "one channel": draw(1, 9, 9),
    "one channel beside empty ones": nn.functional.pad(draw(1, 9, 9), [0] * 5 + [60]),
    "many channels": draw(300, 4, 4),
    "more places than channels": draw(3, 20, 20),
    "huge beside tiny": draw(6, 8, 8) * torch.logspace(-20, 0, 6).view(-1, 1, 1),
    "far from zero": draw(4, 8, 8) + 1000,
    "halves": halves(),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("unit", [1.0, 1e30, 1e-30])
@pytest.mark.parametrize("name", FEATURES)
def test_any_features_give_coalitions(name, unit, dtype):
    image = torch.zeros(2, 3, 18, 18)
    net = Given((FEATURES[name] * unit).to(dtype))
    found = feature_coalitions(net, image, net.trunk, n_steps=3)
    assert torch.equal(found, feature_coalitions(net, image, net.trunk, n_steps=3))
    assert torch.equal(found[0], found[1])
    one = "constant" in name or "zero" in name
    assert (found.max() == 0) == (one and name != "far from zero")
    assert found[0].unique().tolist() == list(range(int(found.max()) + 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", FEATURES)
def test_units_do_not_matter(name, dtype):
    maps = FEATURES[name].to(dtype)
    base = _pixels(maps, (18, 18))
    assert base.dtype == dtype and base.isfinite().all()
    for unit in (2.0**90, 2.0**-60):
        assert torch.equal(_pixels(maps * unit, (18, 18)), base)


@pytest.mark.parametrize("name", FEATURES)
def test_the_main_directions_keep_the_distances(name):
    """Against the singular values of the centred features, which NumPy finds."""
    maps = FEATURES[name].double()
    size = tuple(maps.shape[2:])
    found = _pixels(maps, size).numpy()
    expected = reference.principal_features(maps[0].numpy())
    # The products of rows do not depend on signs, nor on which directions are equal.
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-9)


def test_half_precision_that_ran_over_names_the_layer():
    net = Given(FEATURES["halves"].half() * 60000, finite=False)
    for options in ({}, {"layer": net.trunk}):
        with pytest.raises(ValueError, match=r"finite feature maps .*'trunk'.*float16"):
            feature_coalitions(net, torch.zeros(1, 3, 18, 18), **options)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
def test_features_that_are_not_finite_name_the_layer(wrong):
    maps = FEATURES["halves"].clone()
    maps[0, 2, 3, 4] = wrong
    net = nn.Sequential(nn.Identity(), Given(maps, finite=False))
    for options in ({}, {"layer": [net[1].trunk]}):
        with pytest.raises(ValueError, match=r"finite feature maps .*'1\.trunk'"):
            feature_coalitions(net, torch.zeros(1, 3, 18, 18), **options)


def test_one_place_and_one_pixel():
    net = Given(draw(7, 1, 1).float())
    assert not feature_coalitions(net, torch.zeros(1, 3, 8, 8), net.trunk).any()
    net = Given(draw(7, 5, 5).float())
    assert not feature_coalitions(net, torch.zeros(1, 3, 1, 1), net.trunk).any()


def test_rounding_makes_no_coalitions():
    """Features that only rounding tells apart are the same."""
    noise = 1 + 1e-7 * draw(6, 8, 8)
    net = Given((noise * draw(6, 1, 1, seed=1)).float())
    assert not feature_coalitions(net, torch.zeros(1, 3, 16, 16), net.trunk).any()


def test_frames_are_no_features():
    """A padded image, or padded maps, are another size but nothing new."""
    layers = [nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 4, 3, stride=2), nn.ReLU()]
    layers += [nn.ReflectionPad2d(1), nn.Conv2d(4, 5, 3), nn.ReplicationPad2d(2)]
    layers += [nn.AvgPool2d(5, 1), nn.Flatten(), nn.LazyLinear(2)]
    net = nn.Sequential(*layers).eval()
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    net(image)
    assert [m.shape[1:] for m in pyramid_features(net, image)] == [(5, 8, 8)]


def test_a_transformers_tokens_are_features():
    """Those that go into the last attention, beside the maps of its stem."""
    from torchvision.models.vision_transformer import VisionTransformer

    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    patches = VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=3)
    for net in (patches.eval(), vit.architecture().eval()):
        last = net.encoder.layers[-1].ln_1
        (expected,) = layer_features(net, [last], image, None, tokens_to_maps)
        *stem, found = pyramid_features(net, image)
        torch.testing.assert_close(found, expected)
        assert len(stem) == (0 if net is patches else 2)
        assert feature_coalitions(net, image, n_coalitions=4).max() > 0
