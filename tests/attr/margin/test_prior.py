"""Maps to begin with: what they do, what they must be, and how Grad-CAM makes one."""

import math

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from torch import nn

from captum_margin.attr import MarginSaliency, last_conv_layer
from captum_margin.attr.margin.domains.axes import coarse_shape
from captum_margin.attr.margin.priors import priors_on_patches
from tests.helpers import models
from tests.reference import margin_saliency_reference as reference

SAME = {"rtol": 1e-8, "atol": 1e-11}


def explain(model, x, prior, **options):
    options = {"target": 1, "n_evaluations": 61, **options}
    return MarginSaliency(model).attribute(x, prior=prior, **options)


def a_map(*shape, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def grad_cams(model, x, target):
    layer = last_conv_layer(model, x).layer
    return LayerGradCam(model, layer).attribute(x, target=target).detach()


@pytest.mark.parametrize("size", [(12, 9), (24, 20), (7, 31)])
def test_on_patches_is_bilinear_and_standard(size):
    x = torch.zeros(1, 3, 48, 40)
    prior = 3 * a_map(1, 1, *size) + 2
    ((found,),) = priors_on_patches(prior, lambda t: t, x, x, 0, None)
    patches = coarse_shape((48, 40))
    assert found.shape == (math.prod(patches),)
    if all(a <= b for a, b in zip(size, patches, strict=True)):
        expected = reference.enlarged(prior[0, 0].numpy(), patches).flatten()
        expected = expected - expected.mean()
        expected = expected / abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_a_thin_box_is_there_on_coarser_patches():
    box = torch.zeros(1, 1, 224, 224, dtype=torch.bool)
    box[..., 101, 30:90] = True  # one row of pixels, a quarter of a patch
    x = torch.zeros(1, 3, 224, 224)
    ((found,),) = priors_on_patches(box, lambda t: t, x, x, 0, None)
    row, column = divmod(int(found.argmax()), 56)
    assert row == 101 // 4 and 30 // 4 <= column <= 90 // 4


def test_mean_scale_resolution_and_channels_of_a_prior():
    x, model, prior = models.images(), models.conv(), a_map(2, 1, 24, 20)
    found = explain(model, x, prior)
    assert not torch.allclose(found, explain(model, x, a_map(2, 1, 24, 20, seed=6)))
    for same in (
        7 * prior - 3,
        1e200 * prior,
        1e-200 * prior,
        prior.expand_as(x),
        torch.cat([prior, 0 * prior, 2 * prior], dim=1),
    ):
        torch.testing.assert_close(explain(model, x, same), found, **SAME)
    of_all = explain(model, x, prior[:1])
    torch.testing.assert_close(of_all[:1], found[:1], **SAME)
    torch.testing.assert_close(
        of_all, explain(model, x, prior[:1].repeat(2, 1, 1, 1)), **SAME
    )
    assert explain(model, x, prior > 0.5).any()
    assert explain(model, x, (9 * prior).long()).any()


@pytest.mark.parametrize("n_evaluations", [16, 33, 100, 401])
def test_a_batch_its_examples_and_any_chunks_agree(n_evaluations):
    x, model, prior = models.images(), models.conv(), a_map(2, 1, 5, 4)
    options = {"n_evaluations": n_evaluations}
    found = explain(model, x, prior, target=[1, 3], **options)
    assert found.any()
    chunks = explain(
        model, x, prior, target=[1, 3], perturbations_per_eval=7, **options
    )
    torch.testing.assert_close(chunks, found, **SAME)
    for example, target in enumerate([1, 3]):
        one = slice(example, example + 1)
        alone = explain(model, x[one], prior[one], target=target, **options)
        torch.testing.assert_close(alone, found[one], **SAME)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("given", [True, False])
def test_dtypes(dtype, given):
    prior = a_map(2, 1, 5, 4) if given else "gradcam"
    x, options = models.images(dtype=dtype), {"n_evaluations": 161}
    found = explain(models.conv(dtype=dtype), x, prior, **options)
    assert found.dtype == dtype and not found.requires_grad
    if dtype == torch.bfloat16 and not given:
        rough = models.conv(dtype=dtype)  # and so are its maps
        prior = grad_cams(rough, x, 1), differences(rough, x, [1, 1])
        options = {"n_evaluations": 158}
    exact = explain(models.conv(), x.double(), prior, **options)
    both = torch.stack([found.double().flatten(), exact.flatten()])
    assert both.corrcoef()[0, 1] > {torch.float32: 0.9999}.get(dtype, 0.9)


def test_the_seed_decides_alone():
    x, model, prior = models.images(), models.conv(), a_map(2, 1, 5, 4)
    state = torch.get_rng_state()
    found = explain(model, x, prior, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(explain(model, x, prior, seed=3), found)
    assert not torch.equal(explain(model, x, prior, seed=4), found)


def differences(model, x, target, baselines=None):
    """The gradient in the pixels times what they differ by from the baseline."""
    pixels = x.clone().requires_grad_()
    rows = torch.arange(len(x))
    score = model(pixels)[rows, torch.as_tensor(target)].sum()
    (gradient,) = torch.autograd.grad(score, pixels)
    base = x.mean(dim=(2, 3), keepdim=True) if baselines is None else baselines
    fine = (gradient.double() * (x - base).double()).mean(dim=1).numpy()
    shape = tuple(x.shape[2:])
    assert coarse_shape(shape) == shape  # small pictures' pixels are the patches
    blurred = [reference.blurred(one, min(shape) / 16) for one in fine]
    return torch.from_numpy(np.stack(blurred))[:, None]


@pytest.mark.parametrize("baselines", [None, 0.25])
def test_grad_cam_is_captums_and_the_gradient_goes_with_it(baselines):
    x, model = models.images(), models.conv()
    both = grad_cams(model, x, [1, 3]), differences(model, x, [1, 3], baselines)
    options = {"target": [1, 3], "baselines": baselines, "return_details": True}
    found, details = explain(model, x, "gradcam", n_evaluations=64, **options)
    given, of_given = explain(model, x, both, **options)
    torch.testing.assert_close(found, given, **SAME)
    for one in both:
        assert not torch.allclose(explain(model, x, one, **options)[0], found)
    assert details.settings["prior"] == "gradcam" and details.n_forward == 64
    assert of_given.settings["prior"] == "given" and of_given.n_forward == 61


def test_grad_cam_with_arguments_in_place_and_several_heads():
    x, net = models.images(), models.conv()
    factor = torch.tensor([0.5, 2.0], dtype=torch.float64)

    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, t, factor):
            return self.net(t.sub_(0.5)) * factor.view(-1, 1)

    before = x.clone()
    found = explain(InPlace(), x, "gradcam", additional_forward_args=factor)
    assert torch.equal(x, before)

    class Scaled(nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.net, self.factor = net, factor

        def forward(self, t):
            return self.net(t - 0.5) * self.factor

    for example in range(2):
        one = slice(example, example + 1)
        alone = explain(Scaled(factor[example]), x[one], "gradcam")
        torch.testing.assert_close(alone, found[one], **SAME)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("frozen", [True, False])
def test_grad_cam_with_frozen_parameters_and_under_other_modes(mode, frozen):
    x, model = models.images(), models.conv()
    expected = explain(model, x, "gradcam")
    model.requires_grad_(not frozen)
    with mode():
        torch.testing.assert_close(explain(model, x.clone(), "gradcam"), expected)
    assert all(p.requires_grad != frozen and p.grad is None for p in model.parameters())
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
        assert not module._backward_hooks and not module.training


@pytest.mark.parametrize("prior", ["gradcam", None])
def test_forward_passes_are_counted(prior):
    x, model = models.images(), models.Counted(models.conv())
    _, details = explain(model, x, prior, return_details=True)
    n_copies = sum(len(stage.scores) for stage in details.stages[0])
    assert details.n_forward == 61 == n_copies + (4 if prior else 1)
    assert model.rows == 2 * details.n_forward


def seen_at(model, seen, prior, n_evaluations, image):
    found = explain(model, image, prior, target=0, n_evaluations=n_evaluations)[0, 0]
    inside = torch.zeros(found.shape, dtype=torch.bool)
    inside[seen] = True
    top = found.flatten().topk(int(inside.sum())).indices
    return float(inside.flatten()[top].double().mean())


def test_a_right_prior_finds_a_planted_effect_with_fewer_passes():
    image, seen, _ = models.corners(side=64)
    model, prior = models.Planted(seen), torch.zeros(1, 1, 64, 64)
    prior[0, 0][seen] = 1.0
    without = seen_at(model, seen, None, 200, image)
    assert seen_at(model, seen, prior, 60, image) > without + 0.1


def test_a_wrong_prior_is_left():
    image, seen, unseen = models.corners(side=64)
    model, prior = models.Planted(seen), torch.zeros(1, 1, 64, 64)
    prior[0, 0][unseen] = 1.0
    found = explain(model, image, prior, target=0, n_evaluations=200)[0, 0]
    assert found[seen].mean() > 2 * found[unseen].mean()


def test_the_first_round_judges_a_prior_and_the_others_follow():
    x, model = models.images(), models.conv()
    (first, *later), (again, *others) = (
        explain(model, x, prior, return_details=True)[1].stages[0]
        for prior in (a_map(2, 1, 5, 4), a_map(2, 1, 5, 4, seed=6))
    )
    assert torch.equal(first.domain.presence, again.domain.presence)
    assert not first.domain.kinds.any()
    assert len(later) == 2
    for one, other in zip(later, others, strict=True):
        assert not torch.allclose(one.domain.presence, other.domain.presence)


def test_scores_that_do_not_move_give_zero():
    x = models.images(1)
    with pytest.warns(UserWarning, match="no masked copy"):
        found = explain(lambda t: torch.ones(len(t)), x, a_map(1, 1, 4, 4), target=None)
    assert not found.any()


@pytest.mark.parametrize(
    ("prior", "error", "says"),
    [
        (torch.ones(1, 1, 4, 4), ValueError, "constant"),
        (torch.full((2, 1, 4, 4), 0.1), ValueError, "constant"),
        (torch.full((1, 1, 4, 4), math.nan), ValueError, "finite values of prior"),
        (torch.full((1, 1, 4, 4), math.inf), ValueError, "finite values of prior"),
        (a_map(4, 4), ValueError, "expected prior of shape"),
        (a_map(2, 4, 4), ValueError, "expected prior of shape"),
        (a_map(3, 1, 4, 4), ValueError, "expected prior of shape"),
        (a_map(2, 2, 4, 4), ValueError, "expected prior of shape"),
        (a_map(2, 1, 4, 0), ValueError, "expected prior of shape"),
        (a_map(2, 1, 4, 4) + 0j, ValueError, "real numbers"),
        ("grad_cam", ValueError, "a map or 'gradcam'"),
        ([[0.0, 1.0]], TypeError, "torch.as_tensor"),
    ],
)
def test_bad_priors(prior, error, says):
    with pytest.raises(error, match=says):
        explain(models.conv(), models.images(), prior)


def test_the_example_of_a_constant_prior_is_named():
    prior = a_map(2, 1, 4, 4)
    prior[1] = 3.0
    with pytest.raises(ValueError, match="example 1"):
        explain(models.conv(), models.images(), prior)


@pytest.mark.parametrize(
    "options",
    [
        {"domain": "regions"},
        {"paper": True},
        {"feature_mask": models.tiles(24, 20, 5)},
    ],
)
@pytest.mark.parametrize("prior", ["gradcam", a_map(2, 1, 4, 4)])
def test_a_prior_without_a_map_to_vary(options, prior):
    with pytest.raises(ValueError, match="a prior only for images"):
        explain(models.conv(), models.images(), prior, **options)


def test_a_prior_of_what_is_no_image():
    with pytest.raises(ValueError, match="a prior only for images"):
        explain(models.tabular(), models.rows(), "gradcam")


def test_models_without_a_layer_of_maps():
    x, net = models.images(), models.conv()
    with pytest.raises(ValueError, match=r"hides its layers.*pass a map"):
        explain(lambda t: net(t), x, "gradcam")
    flat = nn.Sequential(nn.Flatten(), nn.Linear(24 * 20 * 3, 4)).double()
    with pytest.raises(ValueError, match=r"(?s)last layer of maps.*pass a map"):
        explain(flat, x, "gradcam")


class Tokens(nn.Module):
    """A transformer of one block, with a patch embedding of one or two convolutions."""

    def __init__(self, stem):
        super().__init__()
        self.patches = nn.Sequential(*stem)
        self.norm = nn.LayerNorm(8)
        self.self_attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, t):
        tokens = self.norm(self.patches(t).flatten(2).transpose(1, 2))
        tokens, _ = self.self_attention(tokens, tokens, tokens)
        return self.head(tokens.mean(dim=1))


@pytest.mark.parametrize(
    "stem",
    [
        [nn.Conv2d(3, 8, 4, 4)],
        [nn.Conv2d(3, 4, 2, 2), nn.ReLU(), nn.Conv2d(4, 8, 2, 2)],
    ],
)
def test_grad_cam_of_a_transformer_is_that_of_its_tokens(stem):
    model, x = Tokens(stem).double().eval(), models.images(height=24, width=24)
    tokens = model.norm(model.patches(x).flatten(2).transpose(1, 2)).detach()
    tokens.requires_grad_()
    attended, _ = model.self_attention(tokens, tokens, tokens)
    score = model.head(attended.mean(dim=1))[:, 1].sum()
    (gradient,) = torch.autograd.grad(score, tokens)
    maps = (tokens * gradient.mean(dim=1, keepdim=True)).sum(dim=2).view(2, 1, 6, 6)
    found = MarginSaliency(model).attribute(
        x, target=1, prior="gradcam", n_evaluations=40
    )
    # Three of the passes are the gradients'.
    prior = maps.detach(), differences(model, x, [1, 1])
    expected = MarginSaliency(model).attribute(
        x, target=1, prior=prior, n_evaluations=37
    )
    torch.testing.assert_close(found, expected)


def test_what_says_nothing_of_the_two_is_left_out():
    x, net = models.images(), models.conv()

    class Rounded(nn.Module):  # no gradient in the pixels
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, t):
            return self.net((64 * t).round() / 64)

    cams = grad_cams(Rounded(), x, [1, 1])
    found = explain(Rounded(), x, "gradcam", n_evaluations=64)
    torch.testing.assert_close(found, explain(Rounded(), x, cams), **SAME)

    class Steep(nn.Module):  # an infinite one where the image has its least
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, t):
            return self.net(t + 1e-3 * (t - float(t.min())).sqrt())

    cams = grad_cams(Steep(), x[:1], 1)
    found = explain(Steep(), x[:1], "gradcam", n_evaluations=64)
    torch.testing.assert_close(found, explain(Steep(), x[:1], cams), **SAME)


@pytest.mark.parametrize(
    ("prior", "error", "says"),
    [
        ((), ValueError, "one map or more"),
        ((torch.rand(1, 1, 4, 4), "gradcam"), TypeError, "tuple of tensors"),
        ((torch.rand(1, 1, 4, 4), None), TypeError, "got NoneType"),
        ([torch.rand(1, 1, 4, 4)], TypeError, r"with tuple\(\)"),
        ((torch.rand(1, 1, 4, 4), torch.ones(1, 1, 4, 4)), ValueError, "constant"),
        ((torch.rand(1, 1, 4, 4), torch.rand(3, 1, 4, 4)), ValueError, "B being 2"),
    ],
)
def test_bad_tuples_of_priors(prior, error, says):
    with pytest.raises(error, match=says):
        explain(models.conv(), models.images(), prior)


def test_several_priors_are_weighed_and_the_wrong_one_is_left():
    image, seen, unseen = models.corners(side=64)
    model = models.Planted(seen)
    right, wrong = torch.zeros(2, 1, 1, 64, 64)
    right[0, 0][seen], wrong[0, 0][unseen] = 1.0, 1.0
    without = seen_at(model, seen, None, 200, image)
    assert seen_at(model, seen, (wrong, right), 60, image) > without + 0.1
    assert seen_at(model, seen, (right, wrong), 60, image) > without + 0.1


def test_a_constant_grad_cam_says_so():
    model = models.conv()
    nn.init.zeros_(model[-1].weight)
    with pytest.raises(ValueError, match="constant one for example 0"):
        explain(model, models.images(), "gradcam")
