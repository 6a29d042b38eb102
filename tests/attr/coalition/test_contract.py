"""Forms of inputs, targets, models and modes, and what is refused."""

import copy
import pickle

import pytest
import torch
from captum.attr import PerturbationAttribution
from torch import nn

from captum_margin.attr import CoalitionPerturbation
from tests.attr.coalition.test_perturbation import CLOSE, FEW, attribute, thin
from tests.helpers.models import Scaled, conv, images

SOFTMAX = "the model's outputs are probabilities"


def test_kind():
    assert issubclass(CoalitionPerturbation, PerturbationAttribution)
    x, _, model = thin()
    explainer = CoalitionPerturbation(model)
    assert explainer.multiplies_by_inputs is False
    assert not explainer.has_convergence_delta()
    with pytest.raises(NotImplementedError):
        explainer.attribute_future()
    for other in (copy.deepcopy(explainer), pickle.loads(pickle.dumps(explainer))):
        expected = explainer.attribute(x, target=0, **FEW)
        assert torch.equal(other.attribute(x, target=0, **FEW), expected)


@pytest.mark.parametrize("paper", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtypes_and_forms(dtype, paper):
    x, mask, model = thin()
    options = {"target": 1, "feature_mask": mask, "paper": paper, "n_samples": 2}
    exact = attribute(model, x, **options)
    given = x.to(dtype).requires_grad_()
    maps = attribute(model.to(dtype), given, **options)
    assert maps.dtype == dtype and maps.shape == x.shape
    assert maps.is_contiguous() and not maps.requires_grad
    assert given.requires_grad and given.grad is None
    (of_tuple,) = attribute(model, (given,), **options)
    assert torch.equal(of_tuple, maps)
    missed = (maps.double() - exact).abs().mean()
    assert missed < (0.1 if dtype == torch.bfloat16 else 1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_coalitions_of_many_pixels_in_half_precision(dtype):
    """Half precision cannot count beyond some hundreds."""
    x = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(0)).to(dtype)
    mask = torch.zeros(1, 1, 40, 40, dtype=torch.long)
    _, details = attribute(
        lambda y: y.float().square().sum((1, 2, 3)), x, feature_mask=mask, n_steps=3,
        return_details=True, confidence_weight=0.0, mask_size=1, learning_rate=0.1,
        coalition_weight=1.0,
    )  # fmt: skip
    extent, _, coalition = details.losses[-1, :, 0]
    assert 0.9 < coalition / extent < 1  # what leaves at the border is missing


@pytest.mark.parametrize(
    ("target", "rows"),
    [
        (1, [1, 1]),
        (torch.tensor(2), [2, 2]),
        (torch.tensor([2]), [2, 2]),
        (torch.tensor([2, 0]), [2, 0]),
        ([2, 0], [2, 0]),
    ],
)
def test_targets(target, rows):
    x, mask, model = thin()
    maps = attribute(model, x, target=target, feature_mask=mask)
    for row, index in enumerate(rows):
        alone = attribute(model, x[row : row + 1], target=index, feature_mask=mask)
        torch.testing.assert_close(alone[0], maps[row], **CLOSE)
    assert not torch.allclose(maps[0], maps[1])


@pytest.mark.parametrize(
    ("target", "rows"), [((1, 0), [(1, 0), (1, 0)]), ([(1, 0), (0, 1)],) * 2]
)
def test_targets_of_outputs_with_several_axes(target, rows):
    x, mask, model = thin()
    maps = attribute(
        lambda y: model(y).view(-1, 2, 2), x, target=target, feature_mask=mask
    )
    for row, (first, second) in enumerate(rows):
        alone = attribute(
            lambda y, k=2 * first + second: model(y)[:, k],
            x[row : row + 1],
            feature_mask=mask,
        )
        torch.testing.assert_close(alone[0], maps[row], **CLOSE)


def test_one_score_an_image():
    x, mask, model = thin()
    flat = attribute(lambda y: model(y)[:, 1], x, feature_mask=mask)
    column = attribute(lambda y: model(y)[:, 1:2], x, feature_mask=mask)
    raw = attribute(model, x, target=1, softmax=False, feature_mask=mask)
    assert torch.equal(flat, column) and torch.allclose(flat, raw)
    logits = attribute(model, x, target=1, feature_mask=mask)
    assert not torch.allclose(logits, raw)
    # The score may be what the softmax makes of logits, as long as that is said.
    with pytest.warns(UserWarning, match=SOFTMAX):
        attribute(lambda y: model(y).softmax(1), x, target=1, feature_mask=mask)


@pytest.mark.filterwarnings("error")
def test_forward_arguments():
    x, mask, model = thin()
    factor = torch.tensor([0.5, 2.0]).double()
    options = {"target": 1, "feature_mask": mask, "noise": 0.4, "n_samples": 2}
    maps = attribute(Scaled(model), x, additional_forward_args=(factor, 2), **options)
    for row in range(2):
        scale = float(factor[row]) ** 2
        alone = attribute(
            lambda y, scale=scale: scale * model(y), x[row : row + 1], **options
        )
        torch.testing.assert_close(alone[0], maps[row], **CLOSE)
    # Also where the coalitions are looked for.
    found = attribute(Scaled(model), x, target=1, additional_forward_args=(factor, 2))
    assert found.shape == x.shape


def test_baselines():
    x, mask, model = thin()
    options = {"target": 1, "feature_mask": mask}
    mean = x.mean(dim=(2, 3), keepdim=True)
    default = attribute(model, x, **options)
    for same in (mean, mean.expand_as(x), (mean,)):
        found = attribute(model, x, baselines=same, **options)
        torch.testing.assert_close(found, default, **CLOSE)
    zero = attribute(model, x, baselines=0, **options)
    assert torch.equal(zero, attribute(model, x, baselines=torch.zeros(()), **options))
    assert not torch.allclose(zero, default)
    # The paper's noise is all that happens to an image, unless it has a baseline.
    paper = {**options, "paper": True, "n_samples": 2, "confidence": "drop"}
    noise = attribute(model, x, **paper)
    assert torch.equal(noise, attribute(model, x, baselines=x, **paper))
    assert not torch.allclose(noise, attribute(model, x, baselines=0, **paper))


@pytest.mark.parametrize(
    "mode", [torch.no_grad, torch.enable_grad, torch.inference_mode]
)
@pytest.mark.parametrize("frozen", [False, True])
def test_modes(mode, frozen):
    x, _, model = thin()
    expected = attribute(model, x, target=1)
    model = copy.deepcopy(model).requires_grad_(not frozen)
    factor, options = torch.ones(2).double(), {"target": torch.tensor([1, 1])}
    with mode():
        found = attribute(model, x + 0, **options)
        given = {"baselines": x.mean(dim=(2, 3), keepdim=True)}
        given["additional_forward_args"] = (factor + 0, 1)
        scaled = attribute(Scaled(model), x + 0, target=1, **given)
    assert torch.equal(found, expected) and not found.requires_grad
    torch.testing.assert_close(scaled, expected, **CLOSE)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_train_mode_is_warned_of():
    model = nn.Sequential(nn.Dropout2d(), *conv())
    x = images()
    with pytest.warns(UserWarning, match="train mode"):
        attribute(model.train(), x, target=0)
    assert model.training


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("size", [(16, 16), (13, 30)])
def test_sizes(channels, size):
    x = images(1, channels, *size)
    for paper in (False, True):
        layer = conv(channels)[0] if not paper else None
        model = conv(channels) if layer is None else nn.Sequential(layer, Pooled())
        maps = attribute(model, x, layer, target=0, paper=paper, n_samples=2)
        assert maps.shape == x.shape and maps.isfinite().all()
        assert paper or torch.equal(maps, maps[:, :1].expand_as(maps))


class Pooled(nn.Module):
    def forward(self, x):
        return x.mean(dim=(2, 3))


def test_an_even_image_has_nothing_to_keep():
    x = torch.full((1, 3, 16, 16), 0.4, dtype=torch.float64)
    with pytest.warns(UserWarning, match="nothing has to be kept"):
        assert not attribute(conv(), x, target=0).any()


def explain(x=None, model=None, **options):
    x = images(1, 3, 12, 10) if x is None else x
    model = conv() if model is None else model
    return attribute(model, x, **{"target": 0, **options})


def scores(function):
    """A model whose coalitions are given, and the mask they are given by."""
    return {"model": function, "feature_mask": torch.zeros(1, 1, 12, 10).long()}


def rough(x):
    """No gradient of the root at 0, where a sum of squares falls."""
    return x.square().sum((1, 2, 3)) + (0 * x).sum((1, 2, 3)).sqrt()


NAN = torch.full((1, 3, 8, 8), torch.nan)
ERRORS = [
    (lambda: explain(NAN), ValueError, "finite"),
    (lambda: explain(torch.zeros(1, 3, 8, 8).int()), TypeError, "floating-point"),
    (lambda: explain((images(), images())), ValueError, "one tensor of images"),
    (lambda: explain(torch.zeros(3, 8, 8)), ValueError, r"\(B, C, H, W\)"),
    (lambda: explain([images()]), AssertionError, None),
    (lambda: explain(colour=1), TypeError, r"unknown options \['colour'\]"),
    (lambda: explain(n_steps=0), ValueError, "n_steps >= 1"),
    (lambda: explain(learning_rate=0.0), ValueError, "learning_rate > 0"),
    (lambda: explain(internal_batch_size=0), ValueError, "internal_batch_size >= 1"),
    (lambda: explain(extent_weight=-1.0), ValueError, "finite weights >= 0"),
    (lambda: explain(confidence_weight=torch.inf), ValueError, "finite weights"),
    (lambda: explain(coalition_weight=torch.nan), ValueError, "finite weights"),
    (lambda: explain(mask_size=0), ValueError, "mask_size >= 1"),
    (lambda: explain(evidence_weight=-0.1), ValueError, r"evidence_weight within \[0"),
    (lambda: explain(evidence_weight=1.1), ValueError, "evidence_weight within"),
    (lambda: explain(evidence_weight=torch.nan), ValueError, "evidence_weight within"),
    (lambda: explain(noise=-0.1), ValueError, "noise >= 0"),
    (lambda: explain(noise=torch.nan), ValueError, "noise >= 0"),
    (lambda: explain(smoothing=-0.1), ValueError, "smoothing"),
    (lambda: explain(smoothing=1.0), ValueError, "smoothing"),
    (lambda: explain(n_samples=3), ValueError, "even n_samples"),
    (lambda: explain(n_samples=0), ValueError, "even n_samples"),
    (lambda: explain(confidence="high"), ValueError, "'drop' or 'margin'"),
    (lambda: explain(consistency="even"), ValueError, "'mean' or 'evenness'"),
    (lambda: explain(consistency_sigma=0.0), ValueError, "consistency_sigma > 0"),
    (lambda: explain(consistency_sigma=torch.nan), ValueError, "consistency_sigma"),
    (lambda: explain(n_coalitions=0), ValueError, "n_coalitions >= 1"),
    (lambda: explain(target=None), AssertionError, "Target"),
    (lambda: explain(target=(99,) * 20), AssertionError, None),
    (lambda: explain(baselines="zero"), AssertionError, "numbers or tensors"),
    (lambda: explain(baselines=torch.zeros(4)), ValueError, "broadcasts"),
    (
        lambda: explain(feature_mask=torch.arange(3).view(1, 3, 1, 1)),
        ValueError,
        "the same for each channel",
    ),
    (
        lambda: explain(feature_mask=torch.zeros(1, 1, 5, 5)),
        ValueError,
        "broadcasts",
    ),
    (lambda: explain(model=lambda x: conv()(x)), ValueError, "feature_mask="),
    (
        lambda: explain(**scores(lambda x: x.detach().mean((1, 2, 3))), target=None),
        ValueError,
        "have a gradient",
    ),
    (
        lambda: explain(**scores(rough), target=None),
        ValueError,
        "finite gradients",
    ),
    (
        lambda: explain(**scores(lambda x: conv()(x) * torch.nan)),
        ValueError,
        "finite model outputs",
    ),
    (
        lambda: explain(**scores(lambda x: {"logits": conv()(x)})),
        TypeError,
        "a tensor",
    ),
    (
        lambda: explain(
            **scores(lambda x: conv()(x)[:, 0]), confidence="margin", target=None
        ),
        ValueError,
        "use confidence='drop'",
    ),
]


@pytest.mark.parametrize(("wrong", "error", "match"), ERRORS)
def test_errors(wrong, error, match):
    with pytest.raises(error, match=match):
        wrong()


def test_a_score_that_never_changes():
    """Nothing matters, so that all may go; and no division by zero."""
    bias = torch.ones(1, dtype=torch.float64, requires_grad=True)

    def constant(x):
        return bias.expand(len(x))

    x, mask, _ = thin()
    with pytest.warns(UserWarning, match="2 of 2 images"):
        maps = attribute(constant, x, feature_mask=mask)
    assert not maps.any() and bias.grad is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("paper", [False, True])
def test_a_gpu_has_the_same_maps(paper):
    x, mask, model = thin()
    options = {"target": 1, "feature_mask": mask, "paper": paper, "n_samples": 2}
    expected = attribute(model, x, **options)
    options["feature_mask"] = mask.cuda()
    found = attribute(model.cuda(), x.cuda(), **options)
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-5)
