"""The layer that is found, layers of tokens, and torchvision's transformers."""

import warnings

import pytest
import torch
from captum.attr import LayerGradCam
from torch import nn
from torchvision import models

from captum_margin._model.layers import is_map
from captum_margin.attr import (
    CoalitionPerturbation,
    MarginSaliency,
    RepresentativeInterpretation,
    feature_coalitions,
    last_conv_layer,
    tokens_to_maps,
)

IMAGE = (1, 3, 224, 224)


@pytest.mark.parametrize(
    ("name", "layer", "shape"),
    [
        ("alexnet", "features", (1, 256, 6, 6)),
        ("vgg16", "features", (1, 512, 7, 7)),  # not the pooling after it
        ("squeezenet1_0", "features", (1, 512, 13, 13)),  # not the maps of classes
        ("resnet18", "layer4", (1, 512, 7, 7)),
        ("densenet121", "features", (1, 1024, 7, 7)),
        ("mobilenet_v3_small", "features", (1, 576, 7, 7)),
        ("shufflenet_v2_x1_0", "conv5", (1, 1024, 7, 7)),
        ("efficientnet_b0", "features", (1, 1280, 7, 7)),
        ("convnext_tiny", "features", (1, 768, 7, 7)),
        ("maxvit_t", "blocks.3", (1, 512, 7, 7)),
        ("swin_t", "permute", (1, 768, 7, 7)),  # the others have channels last
    ],
)
def test_torchvisions_last_layers(name, layer, shape):
    with torch.device("meta"):  # shapes without numbers
        model = models.get_model(name).eval()
        found = last_conv_layer(model, torch.zeros(IMAGE))
    assert (found.name, found.shape) == (layer, shape)
    assert found.layer is model.get_submodule(layer)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("name", ["vit_b_16", "vit_b_32"])
def test_a_transformer_is_not_explained_by_its_patches(name):
    with torch.device("meta"):
        model = models.get_model(name).eval()
        with pytest.raises(ValueError, match="as in a transformer") as caught:
            last_conv_layer(model, torch.zeros(IMAGE))
    assert "'encoder.layers.encoder_layer_11.ln_1'" in str(caught.value)
    assert "reshape_transform=tokens_to_maps" in str(caught.value)


def flat(*layers):
    return nn.Sequential(*layers).eval()


def test_flat_networks():
    x = torch.rand(2, 3, 16, 12)
    conv, head = nn.Conv2d(3, 5, 3), nn.LazyLinear(5)
    relu, pool = nn.ReLU(), nn.AdaptiveAvgPool2d(2)
    assert last_conv_layer(flat(conv, relu, pool, nn.Flatten(), head), x).layer is relu
    # As many channels as classes, but learnt layers come after: no maps of classes.
    assert head.out_features == conv.out_channels
    classes = nn.Conv2d(5, 4, 1)
    scored = flat(conv, relu, classes, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert last_conv_layer(scored, x) == ("1", relu, (2, 5, 14, 10))
    # A layer used twice counts where it is used last.
    again = [nn.Conv2d(5, 3, 1), nn.Tanh(), conv, nn.Flatten(), nn.LazyLinear(2)]
    assert last_conv_layer(flat(conv, relu, *again), x).name == "0"


class Rows(nn.Module):
    """Convolutions and then rows: no attention, though there is a "flatten"."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3)
        self.flatten, self.mix = nn.Flatten(2), nn.Linear(20 * 20, 7)
        self.head = nn.Linear(42, 3)

    def forward(self, x):
        rows = self.flatten(self.last(self.first(x).relu()))
        return self.head(self.mix(rows).flatten(1))


def test_flattened_maps_are_no_tokens():
    assert last_conv_layer(Rows(), torch.rand(1, 3, 24, 24)).name == "last"


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(6, 2)

    def forward(self, rows, images, factor):
        values = self.conv(images).mean(dim=(2, 3)) * factor
        return self.head(torch.cat([rows, values], dim=1))


def test_several_inputs_and_forward_arguments():
    inputs = torch.rand(1, 2), torch.rand(1, 3, 9, 8)
    assert last_conv_layer(TwoInputs(), inputs, 2.0).name == "conv"
    assert last_conv_layer(TwoInputs(), inputs, (2.0,)).shape == (1, 4, 7, 6)


@pytest.mark.parametrize(
    "model, inputs",
    [
        (lambda x: x.mean(dim=(2, 3)), torch.rand(1, 3, 8, 8)),  # hides its layers
        (nn.Linear(4, 2), torch.rand(1, 4)),
        (flat(nn.Flatten(), nn.Linear(192, 2)), torch.rand(1, 3, 8, 8)),
    ],
)
def test_nothing_to_find(model, inputs):
    with pytest.raises(ValueError, match=r"cannot choose a layer by itself.*layer="):
        last_conv_layer(model, inputs)


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((1, 768, 7, 7), (224, 224), True),
        ((1, 7, 7, 768), (224, 224), False),
        ((1, 56, 56, 96), (224, 224), False),
        ((1, 96, 14, 7), (224, 112), True),
        ((1, 14, 7, 96), (224, 112), False),
        ((1, 6, 28, 6), (32, 10), True),  # unpadded, so not quite in proportion
        ((1, 512, 1, 1), (224, 224), False),
        ((1, 197, 768), (224, 224), False),
    ],
)
def test_maps_are_told_from_channels_last(shape, size, expected):
    assert is_map(shape, size) is expected


def test_tokens_as_maps():
    places = torch.arange(2 * 9 * 5.0).view(2, 9, 5)
    for n_others in (0, 1, 5):  # class token and registers come first
        tokens = torch.cat([torch.full((2, n_others, 5), -1.0), places], dim=1)
        maps = tokens_to_maps(tokens)
        assert maps.shape == (2, 5, 3, 3)
        for row, column in [(0, 0), (0, 2), (2, 1)]:
            torch.testing.assert_close(
                maps[:, :, row, column], places[:, 3 * row + column]
            )
    last = torch.rand(2, 4, 3, 6)
    assert torch.equal(tokens_to_maps(last), last.permute(0, 3, 1, 2))
    with pytest.raises(ValueError, match=r"expected tokens \(B, T, K\)"):
        tokens_to_maps(torch.rand(2, 5))


def small_net(seed=0):
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())
    return nn.Sequential(body, nn.Flatten(), nn.Linear(6 * 64, 3)).double().eval()


@pytest.fixture
def drawn():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(40, 3, 10, 10, generator=generator).double()


def test_representative_interpretation_chooses_a_layer_and_says_so(drawn):
    net = small_net()
    chosen = RepresentativeInterpretation(net)
    with pytest.warns(UserWarning, match=r"'0' is explained.*6 of 8 x 8") as caught:
        chosen.fit(drawn, n_boundaries=8, seed=0)
    assert len(caught) == 1 and chosen.layer is net[0]
    given = RepresentativeInterpretation(net, net[0])
    given.fit(drawn, n_boundaries=8, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maps = chosen.attribute(drawn[:4], target=1)
    assert torch.equal(maps, given.attribute(drawn[:4], target=1))
    # The references may also be given to the constructor, the layer to the state.
    lazy = RepresentativeInterpretation(net, references=drawn)
    with pytest.warns(UserWarning, match="no layer given"):
        assert lazy.attribute(drawn[:4], target=1).shape == maps.shape
    loaded = RepresentativeInterpretation(net)
    loaded.load_state_dict(given.state_dict())
    assert torch.equal(loaded.attribute(drawn[:4], target=1), maps)


def test_a_layer_cannot_be_chosen(drawn):
    net = small_net()
    hidden = RepresentativeInterpretation(lambda x: net(x))
    with pytest.raises(ValueError, match="pass layer="):
        hidden.fit(drawn)
    assert hidden.layer is None
    with pytest.raises(ValueError, match=r"call fit\(references\)"):
        RepresentativeInterpretation(net).attribute(drawn, target=1)
    state = RepresentativeInterpretation(net, net[0], drawn).state_dict()
    other = RepresentativeInterpretation(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="expected a model with the layer '0'"):
        other.load_state_dict(state)


def vit():
    torch.manual_seed(0)
    model = models.vit_b_16(image_size=64).eval()
    nn.init.normal_(model.heads.head.weight, std=0.1)  # it is zero
    return model


def swin():
    torch.manual_seed(0)
    return models.swin_t().eval()


@pytest.fixture(scope="module", params=[vit, swin], ids=["vit_b_16", "swin_t"])
def transformer(request):
    """Model, images, their classes, a layer, and a layer that no score depends on."""
    model = request.param()
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(8, 3, 64, 64, generator=generator)
    x[4:, 0] *= 0.1
    with torch.no_grad():
        target = model(x).argmax(dim=1)
    if request.param is vit:
        return model, x, target, model.encoder.layers[-1].ln_1, model.encoder.layers[-1]
    return model, x, target, model.features, None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:no sampled boundary")
def test_representative_interpretation_of_transformers(transformer):
    model, x, target, layer, blind = transformer
    fitted = RepresentativeInterpretation(
        model, layer, reshape_transform=tokens_to_maps
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted.fit(x, n_boundaries=4, seed=0)
    maps = fitted.attribute(x[:2], target=target[:2], attr_dim_summation=False)
    side = 4 if blind is not None else 2
    assert maps.shape == (2, 768, side, side)
    # The channels of the map are those of the tokens, at their places.
    values = []
    handle = layer.register_forward_hook(lambda _m, _i, out: values.append(out))
    with torch.no_grad():
        model(x[:2])
    handle.remove()
    weights = maps / tokens_to_maps(values[0])
    first = weights[:, :, :1, :1].expand_as(weights)
    torch.testing.assert_close(weights, first, rtol=1e-3, atol=1e-6)
    assert maps.std() > 0
    with pytest.warns(UserWarning, match="reshape_transform=tokens_to_maps"):
        RepresentativeInterpretation(model, layer).fit(x[:4], n_boundaries=2, seed=0)
    if blind is not None:  # only the class token is read above it
        unread = RepresentativeInterpretation(
            model, blind, reshape_transform=tokens_to_maps
        )
        with pytest.warns(UserWarning, match="every map is zero"):
            unread.fit(x[:4], n_boundaries=2, seed=0)


@pytest.mark.slow
def test_the_layer_found_in_swin_serves_grad_cam_too():
    model, x = swin(), torch.randn(2, 3, 64, 64)
    layer = last_conv_layer(model, x).layer
    maps = LayerGradCam(model, layer).attribute(x, target=1)
    assert maps.shape == (2, 1, 2, 2) and maps.std() > 0


@pytest.mark.slow
def test_black_box_and_coalitions_of_transformers(transformer):
    model, x, target, layer, _ = transformer
    image, asked = x[:1], target[:1]
    found = MarginSaliency(model).attribute(image, target=asked, n_evaluations=20)
    assert found.shape == image.shape and found.std() > 0
    options = {"target": asked, "n_steps": 3}
    tokens = CoalitionPerturbation(model, layer, reshape_transform=tokens_to_maps)
    maps, details = tokens.attribute(image, **options, return_details=True)
    assert maps.shape == image.shape and maps.std() > 0
    expected = feature_coalitions(model, image, layer, reshape_transform=tokens_to_maps)
    assert torch.equal(details.coalitions, expected) and expected.max() > 0
    with pytest.raises(ValueError, match="reshape_transform=tokens_to_maps"):
        CoalitionPerturbation(model, layer).attribute(image, **options)


def test_layers_with_channels_last_are_left_out_of_the_pyramid():
    class ChannelsLast(nn.Module):
        def forward(self, values):
            return values.permute(0, 2, 3, 1)

    class Back(nn.Module):
        def forward(self, values):
            return values.permute(0, 3, 1, 2)

    torch.manual_seed(0)
    conv, head = nn.Conv2d(3, 9, 3, stride=2), nn.Linear(9, 2)
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), head]
    x = torch.rand(1, 3, 17, 17)
    plain = feature_coalitions(flat(conv, *pool), x)
    turned = feature_coalitions(flat(conv, ChannelsLast(), Back(), *pool), x)
    assert torch.equal(plain, turned)
