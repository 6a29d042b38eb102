"""What is wrong is said in the words of the user's own call, by all three methods."""

import numpy as np
import pytest
import torch
from torch import nn

from captum_margin import explain
from captum_margin.attr import (
    CoalitionPerturbation,
    MarginSaliency,
    RepresentativeInterpretation,
    feature_coalitions,
    last_conv_layer,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore:no sampled boundary", "ignore:the score of"
)

SIZE = 16
TILES = torch.arange(SIZE * SIZE).view(SIZE, SIZE) // 64


def make_net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)]
        return nn.Sequential(body, *head).eval()


NET = make_net()
X = torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
REFERENCES = torch.rand(20, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
FITTED = RepresentativeInterpretation(NET, NET[0])
FITTED.fit(REFERENCES, n_boundaries=4, seed=0)


def margin(x, target=1, model=NET, **options):
    options = {"n_evaluations": 16, **options}
    return MarginSaliency(model).attribute(x, target=target, **options)


def representative(x, target=1, model=None, **options):
    if model is None:
        return FITTED.attribute(x, target=target, **options)
    return RepresentativeInterpretation(model, NET[0]).fit(x, **options)


def coalition(x, target=1, model=NET, **options):
    options = {"n_steps": 2, "n_coalitions": 3, **options}
    return CoalitionPerturbation(model).attribute(x, target=target, **options)


def recorded(x, target=1, model=NET):
    return explain(MarginSaliency(model), x, target, n_evaluations=16)


over_methods = pytest.mark.parametrize(
    "method", [margin, representative, coalition, recorded]
)

DTYPE = r"torch.float32 \(got torch.%s\)"
INPUTS = {
    "uint8": ((X * 255).to(torch.uint8), TypeError, r"(float() / 255|float())"),
    "int64": ((X * 255).long(), TypeError, "got torch.int64"),
    "double": (X.double(), TypeError, DTYPE % "float64" + ".*or the model"),
    "bfloat16": (X.bfloat16(), TypeError, DTYPE % "bfloat16"),
    "no batch axis": (X[0], ValueError, r"images \(B, C, H, W\) \(got"),
    "five axes": (X[None], ValueError, r"images \(B, C, H, W\) \(got"),
    "empty": (X[:0], ValueError, r"non-empty batch axis \(got"),
    "scalar": (torch.tensor(1.0), ValueError, r"non-empty batch axis \(got"),
    "NaN": (X / 0 * 0, ValueError, r"finite inputs \(got NaN"),
    "sparse": (X.to_sparse(), ValueError, "to_dense"),
    "list": ([X], AssertionError, r"tuple of tensors.*\(got list\)"),
    "numpy": (X.numpy(), AssertionError, r"\(got ndarray\).*as_tensor"),
    "None": (None, AssertionError, r"\(got NoneType\)"),
}


@over_methods
@pytest.mark.parametrize("x, error, message", INPUTS.values(), ids=INPUTS.keys())
def test_inputs(method, x, error, message):
    if method is recorded and not isinstance(x, torch.Tensor):
        error, message = TypeError, "expected inputs as a tensor"
    with pytest.raises(error, match=message):
        method(x)


SECOND = r"expected target as an int.* each of the 3,.*\(got %s"
TARGETS = {
    "too large": (3, ValueError, r"a target from 0 to 2 \(got 3 for .* \(3, 3\)\)"),
    "far too large": (2000, ValueError, "a target from 0 to 2 .got 2000"),
    "negative": (-4, ValueError, "a target from 0 to 2 .got -4"),
    "one of a list": ([0, 9, 1], ValueError, r"from 0 to 2 .got \[0, 9, 1\]"),
    "one of a tensor": (torch.tensor([0, 1, 9]), ValueError, r"from 0 to 2 .got tens"),
    "two of three": ([0, 1], AssertionError, SECOND % r"\[0, 1\]"),
    "a tensor too short": (torch.tensor([0, 1]), AssertionError, SECOND % "tensor"),
    "a name": ("cat", AssertionError, SECOND % "'cat'"),
    "a bool": (True, AssertionError, SECOND % "True"),
    "a float": (1.0, AssertionError, SECOND % "1.0"),
    "floats": (torch.ones(3), AssertionError, SECOND % "tensor"),
    "too many axes": ((1, 2), AssertionError, SECOND % r"\(1, 2\)"),
    "none": (None, AssertionError, "Target not provided when necessary"),
}


@over_methods
def test_channels_last_in_words_and_not_those_of_the_convolution(method):
    message = r"channels first, .*\(3, 16, 16, 3\).*permute\(0, 3, 1, 2\)"
    with pytest.raises(ValueError, match=message):
        method(X.permute(0, 2, 3, 1))


@over_methods
@pytest.mark.parametrize("target, error, message", TARGETS.values(), ids=TARGETS.keys())
def test_targets(method, target, error, message):
    with pytest.raises(error, match=message):
        method(X, target)


def test_targets_within_are_counted_from_the_end_too():
    for method in (margin, representative, coalition):
        assert torch.equal(method(X, -1), method(X, 2))


OPTIONS = {
    "baseline NaN": ({"baselines": float("nan")}, ValueError, "finite baselines"),
    "baseline shape": ({"baselines": X[..., 1:]}, ValueError, r"a number, or \(1, C"),
    "baseline array": ({"baselines": X.numpy()}, AssertionError, r"\(got ndarray\)"),
    "mask of fractions": ({"feature_mask": TILES / 2}, ValueError, "whole ones"),
    "mask of NaN": ({"feature_mask": TILES * np.nan}, ValueError, "whole ones"),
    "mask shape": ({"feature_mask": TILES[1:]}, ValueError, r"\(got \(15, 16\)\)"),
}


@pytest.mark.parametrize("method", [margin, coalition])
@pytest.mark.parametrize("options, error, message", OPTIONS.values(), ids=OPTIONS)
def test_baselines_and_masks(method, options, error, message):
    with pytest.raises(error, match=message):
        method(X, **options)


@pytest.mark.parametrize("method", [margin, coalition])
def test_a_mask_of_whole_floats_is_a_mask(method):
    found = method(X, feature_mask=TILES.float())
    assert torch.equal(found, method(X, feature_mask=TILES))


@pytest.mark.parametrize("method", [margin, coalition])
def test_a_model_on_another_device(method):
    elsewhere = make_net().to("meta")
    with pytest.raises(ValueError, match=r"device, meta .got one on cpu.*to.'meta'"):
        method(X, model=elsewhere)


def test_models_that_convert_what_they_get_are_not_refused():
    def of_bytes(x):
        return NET(x.float() / 255)

    pixels = (X * 255).round()
    options = {"feature_mask": TILES, "baselines": 0}
    found = margin(pixels.to(torch.uint8), model=of_bytes, **options)
    torch.testing.assert_close(found, margin(pixels / 255, **options))
    with pytest.raises(TypeError, match=r"images .got torch.uint8.*float.. / 255"):
        margin(pixels.to(torch.uint8), model=of_bytes)


def test_a_model_s_own_error_is_left_to_it():
    with pytest.raises(RuntimeError, match=r"to have 3 channels, but got 1 channels"):
        margin(X[:, :1])


def test_scores_without_a_gradient():
    message = "a gradient with respect to the layer.*MarginSaliency"
    for rounded in (lambda x: NET(x).detach(), lambda x: NET(x).argmax(dim=1)):
        with pytest.raises(ValueError, match=message):
            representative(X, model=rounded)


def test_the_other_entries():
    with pytest.raises(TypeError, match=r"float32 \(got torch.uint8\)"):
        representative((REFERENCES * 9).to(torch.uint8), model=NET)
    with pytest.raises(TypeError, match=r"float32 \(got torch.float64\)"):
        last_conv_layer(NET, X.double())
    with pytest.raises(ValueError, match="expected a Module and images"):
        last_conv_layer(NET, [X])
    with pytest.raises(TypeError, match=r"\(got list\)"):
        feature_coalitions(NET, [X])
    one = FITTED.interpret(X[:1])
    with pytest.raises(ValueError, match=r"feature maps \(B, 4, ...\) \(got"):
        one.attribute(X[0])
    with pytest.raises(TypeError, match="got the class MarginSaliency"):
        explain(MarginSaliency, X)
    with pytest.raises(TypeError, match="got Sequential"):
        explain(NET, X)
