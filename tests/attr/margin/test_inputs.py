"""Inputs and models of every kind; what they are left as; what is refused."""

import warnings

import pytest
import torch
from torch import nn

from captum_margin.attr import MarginSaliency
from tests.helpers import models

TILES = models.tiles(24, 20, 5)
FORMS = {
    "soft unions": {},
    "unions": {"feature_mask": TILES},
    "regions": {"feature_mask": TILES, "domain": "regions"},
}
over_forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())


def explain(model, x, form=None, **options):
    options = {"target": 1, "n_evaluations": 33, **(form or {}), **options}
    return MarginSaliency(model).attribute(x, **options)


@over_forms
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dtype_and_layout(form, dtype):
    x = models.images(dtype=dtype)
    model = models.conv(dtype=dtype)
    # An even number of neighbours: none is chosen by the rounding of a size.
    found = explain(model, x.requires_grad_(), form, n_evaluations=81)
    assert found.dtype == dtype and found.device == x.device
    assert found.is_contiguous() and not found.requires_grad and found.grad_fn is None
    assert x.requires_grad and x.grad is None
    exact = explain(models.conv(), x.detach().double(), form, n_evaluations=81)
    if dtype == torch.bfloat16:  # so coarse that regions of like saliency are others
        if "domain" not in form:
            both = torch.stack([found.double().flatten(), exact.flatten()])
            assert both.corrcoef()[0, 1] > 0.9
    else:
        tolerance = 0.0 if dtype == torch.float64 else 1e-2
        difference = (found.double() - exact).abs().max()
        assert difference <= tolerance * exact.abs().max()


@over_forms
def test_layout_of_the_input_does_not_matter(form):
    x, model = models.images(), models.conv()
    before = x.clone()
    found = explain(model, x, form)
    assert torch.equal(x, before)
    close = {"rtol": 1e-8, "atol": 1e-13}
    last = x.contiguous(memory_format=torch.channels_last)
    turned = x.transpose(2, 3).contiguous().transpose(2, 3)
    expanded = x[:1].expand(2, -1, -1, -1)
    torch.testing.assert_close(explain(model, last, form), found, **close)
    torch.testing.assert_close(explain(model, turned, form), found, **close)
    both = explain(model, expanded, form)
    assert both.is_contiguous() and torch.equal(both[0], both[1])
    torch.testing.assert_close(both[:1], found[:1], **close)


@over_forms
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_under_other_gradient_modes(form, mode):
    x, model = models.images(), models.conv()
    expected = explain(model, x, form)
    with mode():
        found = explain(model, x.clone(), form)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_the_model_is_left_as_found(training, frozen):
    model = models.conv().train(training).requires_grad_(not frozen)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    explain(model, models.images())
    assert all(module.training == training for module in model.modules())
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != frozen and parameter.grad is None
        assert torch.equal(parameter, before[name])
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks


def test_models_that_write_into_their_input():
    x, model = models.images(), models.conv()
    before = x.clone()

    class InPlace(nn.Module):
        def forward(self, t):
            return model(t.sub_(0.5).relu_())

    found = explain(InPlace(), x)
    assert torch.equal(x, before)
    expected = explain(lambda t: model((t - 0.5).relu()), x)
    torch.testing.assert_close(found, expected)


def test_models_that_return_a_view_of_their_input():
    # The masked copies share one buffer from call to call.
    x = models.rows(2)
    found, details = explain(
        lambda t: t[:, 1],
        x,
        target=None,
        n_evaluations=40,
        perturbations_per_eval=3,
        return_details=True,
    )
    expected = torch.zeros_like(x)
    expected[:, 1] = x[:, 1]
    torch.testing.assert_close(found, expected)
    assert details.scores.data_ptr() != x.data_ptr()


@pytest.mark.parametrize("size", [(16, 16), (16, 40), (33, 21), (224, 20)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sizes_and_channels(size, channels):
    x, model = models.images(1, channels, *size), models.conv(channels)
    found = explain(model, x)
    assert found.shape == x.shape and found.std() > 0
    assert torch.equal(found, found[:, :1].expand_as(found))


def test_tuples():
    x, model = models.images(), models.conv()
    (found,) = explain(model, (x,))
    assert torch.equal(found, explain(model, x))
    a, b = models.rows(2), models.rows(2, seed=9)[:, :3]
    net = models.tabular(8)
    joined = explain(net, torch.cat([a, b], dim=1), n_evaluations=300)
    parts = explain(lambda s, t: net(torch.cat([s, t], 1)), (a, b), n_evaluations=300)
    assert isinstance(parts, tuple)
    torch.testing.assert_close(torch.cat(parts, dim=1), joined)


def test_tokens_are_kept_or_replaced():
    embedding = models.rows(7, 4)
    tokens = torch.tensor([[1, 4, 6], [2, 2, 5]])
    net = models.tabular(4)
    seen = []

    def model(ids):
        seen.append(ids.clone())
        return net(embedding[ids].sum(dim=1))

    found = explain(model, tokens, baselines=3)
    assert found.shape == tokens.shape and found.dtype == torch.float32
    ids = torch.cat(seen[1:])
    assert ids.dtype == torch.int64 and len(ids.unique(dim=0)) > 8
    allowed = torch.cat([tokens, torch.full((1, 3), 3)])
    assert all(set(ids[:, i].tolist()) == set(allowed[:, i].tolist()) for i in range(3))
    # Two places with the same token are worth the same.
    torch.testing.assert_close(found[1, 0], found[1, 1])


def test_flags_may_be_inputs():
    flags = torch.tensor([[True, False, True]])
    weights = torch.tensor([1.0, 2.0, 4.0])
    found = explain(lambda t: t.float() @ weights, flags, target=None)
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.0, 4.0]]))


@over_forms
def test_a_constant_model_has_no_map(form):
    x = models.images()
    with pytest.warns(UserWarning, match="no masked copy of example 1"):
        found = explain(lambda t: t.new_full((len(t), 3), 0.3), x, form)
    assert not found.any()


def test_a_map_that_is_not_zero_has_no_warning(recwarn):
    # One region: there is one masked copy, which differs from the example.
    x, mask = models.images(1), torch.zeros(24, 20)
    found = explain(models.conv(), x, feature_mask=mask, domain="regions", sided="both")
    assert found.any()
    assert not [w for w in recwarn if "no masked copy" in str(w.message)]


def test_probabilities_are_not_squashed_unnoticed():
    x, model = models.rows(), models.tabular()

    def probabilities(t):
        return model(t).softmax(dim=1)

    with pytest.warns(UserWarning, match="probabilities already: pass softmax=False"):
        explain(probabilities, x)
    found = explain(probabilities, x, softmax=False)
    torch.testing.assert_close(found, explain(model, x))


BAD = {
    "domain": ({"domain": "pixels"}, ValueError, "expected domain 'unions' or"),
    "sided": ({"sided": "left"}, ValueError, "expected sided 'both', 'above' or"),
    "evaluations": ({"n_evaluations": 15}, ValueError, "whole number of at least 16"),
    "a float": ({"n_evaluations": 160.0}, ValueError, "whole number of at least 16"),
    "per eval": (
        {"perturbations_per_eval": 0},
        AssertionError,
        "perturbations_per_eval of at least 1",
    ),
    "baseline": ({"baselines": torch.zeros(5)}, ValueError, "a baseline that broad"),
    "baselines": ({"baselines": (0, 1)}, AssertionError, "one baseline for each"),
    "kind": ({"baselines": "black"}, AssertionError, "baselines to be numbers or"),
    "mask": ({"feature_mask": TILES[:9]}, ValueError, "a feature mask that broadcasts"),
    "masks": ({"feature_mask": (TILES,) * 2}, AssertionError, "one feature mask for"),
    "list": ({"feature_mask": [TILES]}, AssertionError, "feature_mask to be a tensor"),
}


@pytest.mark.parametrize("options, error, message", BAD.values(), ids=BAD.keys())
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        explain(models.conv(), models.images(), **options)


def test_bad_inputs():
    model, x = models.conv(), models.images()
    for value in (torch.nan, torch.inf):
        spoilt = x.clone()
        spoilt[0, 0, 3, 3] = value
        with pytest.raises(ValueError, match="expected finite inputs"):
            explain(model, spoilt)
    with pytest.raises(ValueError, match="one non-empty batch axis"):
        explain(model, x[:0])
    with pytest.raises(ValueError, match="one non-empty batch axis"):
        explain(model, (x, x[:1]))
    with pytest.raises(AssertionError):
        explain(model, [x])
    with pytest.raises(ValueError, match="expected a feature_mask for 2 inputs"):
        explain(lambda a, b: model(a), (x, x))


def test_bad_models():
    x = models.images()
    with pytest.raises(TypeError, match="forward_func to return a tensor"):
        explain(lambda t: [t], x)

    def fails_on_masked(t):
        return torch.full((len(t), 2), 0.0 if len(t) == 2 else torch.nan)

    with pytest.raises(ValueError, match="expected finite model outputs"):
        explain(fails_on_masked, x)


def test_bad_segments():
    x, model = models.images(), models.conv()
    for segments in (TILES, TILES[None, :9], TILES[None, None]):
        explainer = MarginSaliency(model, lambda image, s=segments: s)
        with pytest.raises(ValueError, match=r"to return \(S, H, W\)"):
            explainer.attribute(x, target=1)
    explainer = MarginSaliency(model, lambda image: TILES.expand(20, -1, -1))
    with pytest.raises(ValueError, match="fewer partitions than n_evaluations"):
        explainer.attribute(x, target=1, n_evaluations=16)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@over_forms
def test_one_seed_one_answer_on_every_device(form):
    x, model = models.images(), models.conv()
    expected = explain(model, x, form)
    found = explain(model.cuda(), x.cuda(), form)
    assert found.device.type == "cuda"
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-6, atol=1e-12)


def test_segmentation_func_needs_one_image():
    explainer = MarginSaliency(lambda x: x.sum(dim=1), lambda image: image[:1].long())
    with pytest.raises(ValueError, match="expected one input of shape"):
        explainer.attribute(torch.ones(2, 5))


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(5), nn.Dropout(0.5)])
def test_a_model_in_train_mode_warns_and_stays_in_it(layer):
    model = nn.Sequential(layer, nn.Linear(5, 2)).train()
    with pytest.warns(UserWarning, match="train mode"):
        MarginSaliency(model).attribute(torch.rand(4, 5), target=0)
    assert model.training and layer.training
    model.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MarginSaliency(model).attribute(torch.rand(4, 5), target=0)
