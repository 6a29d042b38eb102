"""Coalitions of images whose regions are known, of networks whose maps are."""

import copy

import pytest
import torch
from captum.attr import FeatureAblation, KernelShap
from sklearn.metrics import adjusted_rand_score
from torch import nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.models.squeezenet import Fire

from captum_margin.attr import MarginSaliency, feature_coalitions
from captum_margin.attr.coalition.feature_maps import (
    full_resolution_features,
    layer_features,
    pyramid_features,
)
from tests.helpers.models import Counted

COLOURS = {
    3: torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [1.0, 1.0, 0]]),
    1: torch.tensor([[0.0], [0.33], [0.66], [1.0]]),
}


def quarters(height, width, channels=3, noise=0.02, seed=0):
    """An image of four colours (1, C, H, W), and which quarter each pixel is of."""
    below = (torch.arange(height) >= height // 2).long()[:, None]
    places = 2 * below + (torch.arange(width) >= width // 2).long()
    image = COLOURS[channels][places].permute(2, 0, 1)[None]
    generator = torch.Generator().manual_seed(seed)
    return image + noise * torch.randn(image.shape, generator=generator), places


def seeded(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def head(channels, classes=3):
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]


def pointwise(channels=3, seed=0):
    """Features of a pixel that depend on that pixel only."""
    layers = [nn.Conv2d(channels, 8, 1), nn.ReLU(inplace=True)]
    layers += [nn.Conv2d(8, 12, 1), nn.Tanh(), *head(12)]
    return seeded(nn.Sequential(*layers), seed)


class Trunk(nn.Module):
    """A classifier of the form of VGG, AlexNet and SqueezeNet."""

    def __init__(self, *layers, channels=8, first=None):
        super().__init__()
        self.first = first  # what a wrapper does before, such as normalising
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(*head(channels))

    def forward(self, x, factor=None):
        x = x if self.first is None else self.first(x)
        x = self.classifier(self.features(x))
        return x if factor is None else x * factor.view(-1, 1)


def vgg(channels=3):
    layers = [nn.Conv2d(channels, 6, 3, padding=1), nn.BatchNorm2d(6)]
    layers += [nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(inplace=True), nn.AvgPool2d(2)]
    return seeded(Trunk(*layers))


def alexnet():
    layers = [nn.Conv2d(3, 6, 11, stride=4, padding=2), nn.ReLU(inplace=True)]
    layers += [nn.MaxPool2d(3, 2), nn.Dropout2d(), nn.Conv2d(6, 8, 4), nn.ReLU()]
    return seeded(Trunk(*layers))


def squeezenet():
    layers = [nn.Conv2d(3, 6, 7, stride=2), nn.ReLU(inplace=True)]
    layers += [nn.MaxPool2d(3, 2, ceil_mode=True), Fire(6, 3, 4, 4)]
    return seeded(Trunk(*layers))


def resnet():
    return seeded(ResNet(BasicBlock, [1, 1, 1, 1], num_classes=3))


def same(x, layer):
    """The convolution with stride 1, the image padded so that its size stays."""
    pads = []
    for size in reversed(layer.kernel_size):
        pads += [(size - 1) // 2, size - 1 - (size - 1) // 2]
    return F.conv2d(F.pad(x, pads), layer.weight, layer.bias)


def vgg_by_hand(net, x):
    f = net.features
    x = same(x, f[0])
    x = (x - f[1].running_mean[:, None, None]) / (
        f[1].running_var[:, None, None] + 1e-5
    ).sqrt()
    x = x * f[1].weight[:, None, None] + f[1].bias[:, None, None]
    return same(x.relu(), f[4]).relu()


def alexnet_by_hand(net, x):
    return same(same(x, net.features[0]).relu(), net.features[4]).relu()


def squeezenet_by_hand(net, x):
    fire = net.features[3]
    x = same(same(x, net.features[0]).relu(), fire.squeeze).relu()
    parts = [same(x, part).relu() for part in (fire.expand1x1, fire.expand3x3)]
    return torch.cat(parts, dim=1)


TRUNKS = [
    (vgg, vgg_by_hand),
    (alexnet, alexnet_by_hand),
    (squeezenet, squeezenet_by_hand),
]


def left(model):
    """All that may be left behind in a model."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    modules = [
        (m.training, [len(getattr(m, name)) for name in hooks]) for m in model.modules()
    ]
    parameters = [
        (p.requires_grad, p.grad is None, p._version) for p in model.parameters()
    ]
    return modules, parameters, {k: v.clone() for k, v in model.state_dict().items()}


def assert_left_as(model, before):
    modules, parameters, values = left(model)
    assert (modules, parameters) == before[:2]
    assert all(torch.equal(values[name], before[2][name]) for name in values)


@pytest.mark.parametrize("options", [{}, {"resolution": "full"}, {"layer": 0}])
@pytest.mark.parametrize("size", [(32, 32), (16, 16), (24, 40), (120, 60)])
@pytest.mark.parametrize("channels", [3, 1])
def test_known_regions(channels, size, options):
    # Grey values lie on a line, which noise must not hide.
    image, places = quarters(*size, channels, noise=0.02 if channels == 3 else 0.002)
    net = pointwise(channels)
    if "layer" in options:
        options = {"layer": net[2]}
    (found,) = feature_coalitions(net, image, n_coalitions=4, **options)
    assert found.dtype == torch.int64 and found.shape == size
    assert adjusted_rand_score(places.flatten(), found.flatten()) > 0.95
    assert found.unique().tolist() == [0, 1, 2, 3]


def test_what_the_network_does_not_see_is_not_told_apart():
    image, places = quarters(32, 32, noise=0.0)
    net = pointwise()
    net[0].weight.data[:, 1:] = 0  # sees red alone: in the first and the last quarter
    (found,) = feature_coalitions(net, image, layer=net[2])
    assert torch.equal(found == found[0, 0], (places == 0) | (places == 3))


@pytest.mark.parametrize("count", [1, 2, 5, 32, 10_000])
def test_no_more_coalitions_than_asked_for(count):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 20, 18, generator=generator)
    for found in feature_coalitions(vgg(), image, n_coalitions=count):
        numbers = found.unique().tolist()
        assert numbers == list(range(len(numbers))) and len(numbers) <= count
    assert len(numbers) >= min(count, 5)


@pytest.mark.parametrize("options", [{}, {"resolution": "pyramid"}, {"layer": 0}])
@pytest.mark.parametrize(("least", "first"), [(1, 32), (5, 32), (7, 7)])
def test_the_papers_number_of_coalitions(least, first, options):
    """Of k and l it lies between; by default k is the most."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 20, 18, generator=generator)
    net, numbers = vgg(), {"n_coalitions": least, "n_clusters": first}
    numbers["n_steps"] = 30
    if "layer" in options:
        options = {"layer": net.features[0]}
    for paper in (True, False):
        call = {"paper": paper, **numbers, **options}
        for found in feature_coalitions(net, image, **call):
            seen = found.unique().tolist()
            assert seen == list(range(len(seen)))
            assert least <= len(seen) <= first if paper else len(seen) <= least


def test_an_even_image_is_one_coalition():
    for image in (torch.zeros(1, 3, 16, 16), torch.full((1, 3, 16, 12), 0.7)):
        assert not feature_coalitions(pointwise(), image).any()
        assert not feature_coalitions(pointwise(), image, paper=True).any()


def test_batch_and_seed():
    images = torch.cat([quarters(24, 20, seed=s, noise=0.3)[0] for s in range(3)])
    factor = torch.tensor([1.0, 2.0, 3.0])
    for options in ({}, {"resolution": "full"}):
        call = {"n_coalitions": 6, "n_steps": 20, **options}
        found = feature_coalitions(vgg(), images, None, factor, **call)
        again = feature_coalitions(vgg(), images, **call)
        assert torch.equal(found, again)
        for row in range(3):
            alone = feature_coalitions(vgg(), images[row : row + 1], **call)
            assert torch.equal(found[row], alone[0])
        other = feature_coalitions(vgg(), images, seed=1, **call)
        assert not torch.equal(found, other)


def test_continuity_makes_compact_coalitions():
    image, _ = quarters(32, 32, noise=0.5)

    def borders(continuity):
        call = {"n_coalitions": 6, "n_steps": 60, "continuity": continuity}
        (found,) = feature_coalitions(vgg(), image, resolution="full", **call)
        return sum(int((found.diff(dim=axis) != 0).sum()) for axis in (0, 1))

    assert borders(20.0) < borders(0.0)


@pytest.mark.parametrize(("make", "by_hand"), TRUNKS)
@pytest.mark.parametrize("size", [(48, 48), (49, 64)])
def test_full_resolution(make, by_hand, size):
    # Processors convolve float32 in ways of their own, dilated or not.
    net, image = make().double(), quarters(*size)[0].double()
    (maps,) = full_resolution_features(net, image)
    assert maps.shape[2:] == size
    with torch.no_grad():
        torch.testing.assert_close(maps, by_hand(net, image))
        # In a wrapper the trunk sees what the wrapper gives it.
        (wrapped,) = full_resolution_features(nn.Sequential(Halved(), net), image)
        torch.testing.assert_close(wrapped, by_hand(net, image / 2))
        net.first = Halved()
        (inside,) = full_resolution_features(net, image)
        torch.testing.assert_close(inside, wrapped)


class Halved(nn.Module):
    def forward(self, x):
        return x / 2


def test_pyramid_of_a_residual_net():
    net, (image, _) = resnet(), quarters(64, 64)
    maps = pyramid_features(net, image)
    with torch.no_grad():
        stem = net.bn1(net.conv1(image)).relu()
        expected, x = [stem], net.maxpool(stem)
        for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
            x = stage(x)
            expected.append(x)
    assert [m.shape[2] for m in maps] == [32, 16, 8, 4, 2]
    for found, wanted in zip(maps, expected, strict=True):
        torch.testing.assert_close(found, wanted)
    (found,) = feature_coalitions(net, image, n_coalitions=7, n_steps=5)
    assert found.shape == (64, 64) and 2 <= len(found.unique()) <= 7


def test_layers_of_ones_own():
    net, (image, _) = vgg(), quarters(20, 28)
    first, last = net.features[0], net.features[5]
    maps = layer_features(net, [last, first], image)
    with torch.no_grad():
        torch.testing.assert_close(maps[1], first(image))  # not what ReLU made of it
        torch.testing.assert_close(maps[0], net.features[:6](image))
    one = feature_coalitions(net, image, first)
    assert torch.equal(one, feature_coalitions(net, image, [first]))
    # The model may be any function, if the layers are named.
    both = feature_coalitions(lambda x: net(x).sum(1), image, [last, first])
    assert torch.equal(both, feature_coalitions(net, image, [last, first]))


@pytest.mark.parametrize("options", [{}, {"resolution": "full"}, {"layer": 2}])
@pytest.mark.parametrize("frozen", [False, True])
def test_the_model_and_the_image_are_untouched(options, frozen):
    net = seeded(nn.Sequential(nn.ReLU(inplace=True), *vgg().features, *head(8)))
    net[2].train()
    net.requires_grad_(not frozen)
    image = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    if "layer" in options:
        options = {"layer": net[options["layer"]]}
    given, random, mode = image.clone(), torch.get_rng_state(), torch.is_grad_enabled()
    net[2].eval()
    before = left(net)
    feature_coalitions(net, image, n_steps=2, **options)
    assert torch.equal(image, given) and torch.is_grad_enabled() == mode
    assert torch.equal(torch.get_rng_state(), random)
    assert_left_as(net, before)
    net[-1].forward = None
    before = left(net)
    with pytest.raises(TypeError, match="not callable"):
        feature_coalitions(net, image, n_steps=2, **options)
    assert_left_as(net, before)
    assert torch.equal(image, given)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
def test_modes(mode):
    image, _ = quarters(16, 16)
    expected = feature_coalitions(vgg(), image, n_steps=5)
    with mode():
        found = feature_coalitions(vgg(), image + 0, n_steps=5)
    assert torch.equal(found, expected) and not found.is_inference()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtypes(dtype):
    image, places = quarters(16, 16)
    net = pointwise().to(dtype)
    for options in ({}, {"resolution": "full"}):
        call = {"n_coalitions": 4, **options}
        (found,) = feature_coalitions(net, image.to(dtype), **call)
        assert adjusted_rand_score(places.flatten(), found.flatten()) > 0.95


def test_the_networks_passes():
    image, _ = quarters(16, 16)
    net = Counted(pointwise())
    feature_coalitions(net, image.expand(3, -1, -1, -1))
    assert (net.rows, net.largest) == (3, 1)


def test_as_a_feature_mask():
    image, _ = quarters(16, 16)
    net = pointwise()
    mask = feature_coalitions(net, image, n_coalitions=4)[:, None]
    for method, options in [
        (FeatureAblation(net), {}),
        (KernelShap(net), {"n_samples": 20}),
        (MarginSaliency(net), {"n_evaluations": 50}),
    ]:
        maps = method.attribute(image, target=1, feature_mask=mask, **options)
        assert maps.abs().max() > 0
        for number in range(4):
            inside = maps.masked_select(mask == number)
            assert inside.std() < 1e-6 * (1 + maps.abs().max())


class Spare(nn.Module):
    """Has a layer that is not run, and one with an odd output."""

    def __init__(self):
        super().__init__()
        self.net, self.spare = pointwise(), nn.Conv2d(3, 2, 1)
        self.odd = Pair()

    def forward(self, x):
        return self.net(self.odd(x)[0])


class Pair(nn.Module):
    def forward(self, x):
        return x, x


def call(model=None, image=None, layer=None, **options):
    image = quarters(16, 16)[0] if image is None else image
    model = Spare() if model is None else model
    layer = None if layer is None else layer(model)
    return feature_coalitions(model, image, layer, **options)


ERRORS = [
    (lambda: call(lambda x: x.sum((1, 2, 3))), ValueError, "pass layer="),
    (lambda: call(nn.Sequential(nn.Flatten(), nn.Linear(768, 2))), ValueError, "layer"),
    (lambda: call(layer=lambda m: m.net[-1]), ValueError, r"Linear .*\(1, 3\)"),
    (lambda: call(layer=lambda m: m.spare), ValueError, "it is not run"),
    (lambda: call(layer=lambda m: m.odd), ValueError, "Pair .*tuple"),
    (lambda: call(layer=lambda m: "net.0"), TypeError, "a Module or a list"),
    (lambda: call(layer=lambda m: []), TypeError, "a Module or a list"),
    (lambda: call(resnet(), resolution="full"), ValueError, "pass layer="),
    (lambda: call(resolution="half"), ValueError, "'pyramid' or 'full'"),
    (lambda: call(n_coalitions=0), ValueError, "n_coalitions >= 1"),
    (lambda: call(n_clusters=0), ValueError, "n_clusters >= 1"),
    (lambda: call(n_coalitions=33, paper=True), ValueError, "n_coalitions <= n_clus"),
    (lambda: call(resnet(), paper=True), ValueError, "pass layer="),
    (lambda: call(n_steps=-1), ValueError, "n_steps >= 0"),
    (lambda: call(continuity=-0.1), ValueError, "continuity >= 0"),
    (lambda: call(continuity=torch.nan), ValueError, "continuity >= 0"),
    (lambda: call(image=torch.zeros(3, 16, 16)), ValueError, r"\(B, C, H, W\)"),
    (lambda: call(image=torch.zeros(0, 3, 16, 16)), ValueError, "non-empty"),
    (lambda: call(image=torch.full((1, 3, 8, 8), torch.nan)), ValueError, "finite"),
    (lambda: call(image=torch.zeros(1, 3, 8, 8).int()), TypeError, "floating"),
    (lambda: call(image=(torch.zeros(1, 3, 8, 8),)), TypeError, "one floating"),
]


@pytest.mark.parametrize(("wrong", "error", "match"), ERRORS)
def test_errors(wrong, error, match):
    with pytest.raises(error, match=match):
        wrong()


def test_copies_are_not_the_networks_layers():
    net = vgg()
    before = copy.deepcopy(net)
    full_resolution_features(net, quarters(16, 16)[0])
    for layer, other in zip(net.features, before.features, strict=True):
        assert repr(layer) == repr(other)
