"""Insertion and deletion: formula, ties, laws, cost."""

import json

import numpy as np
import pytest
import torch

from captum_margin.metrics import gaussian_blur, insertion_deletion
from tests.metrics import cases
from tests.reference import metrics_reference as reference

EXACT = {"rtol": 1e-10, "atol": 1e-12}
KINDS = ["dense", "regions", "sparse", "constant"]
FIELDS = ["insertion", "deletion", "insertion_auc", "deletion_auc"]


def assert_same(result, other, rows=slice(None)):
    torch.testing.assert_close(result.fractions, other.fractions, **EXACT)
    for field in FIELDS:
        torch.testing.assert_close(
            getattr(result, field)[rows], getattr(other, field), **EXACT
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_steps", [1, 4, 7, 30, 45])
@pytest.mark.parametrize("net", ["linear", "softmax", "conv"])
def test_equals_the_reference(net, kind, n_steps):
    x = cases.images()
    model = cases.conv(x) if net == "conv" else cases.linear(x)
    a, target = cases.maps(x, kind), torch.tensor([2, 0, 3])
    result = insertion_deletion(
        model, x, a, target, n_steps=n_steps, softmax=net != "linear"
    )
    row = cases.numpy_row(model, softmax=net != "linear")
    for i, (image, amap) in enumerate(zip(x.numpy(), a.numpy(), strict=True)):
        expected = reference.curves(
            lambda one, i=i: row(one)[target[i]],
            image,
            amap,
            n_steps,
            reference.blur(image),
            reference.mean_colour(image),
        )
        np.testing.assert_allclose(result.fractions, expected[0], **EXACT)
        for field, value in zip(FIELDS, expected[1:], strict=True):
            np.testing.assert_allclose(getattr(result, field)[i], value, **EXACT)


def test_linear_model_has_cumulative_curves():
    x, a = cases.images(), cases.maps(cases.images())
    model = cases.linear(x, n_outputs=1)
    weight, bias = model[1].weight.detach(), model[1].bias.detach()
    result = insertion_deletion(
        model, x, a, n_steps=30, insertion_baseline=0.0, deletion_baseline=0.0
    )
    parts = (x * weight.view(1, *x.shape[1:])).sum(dim=1).flatten(1)  # (B, P)
    order = a.sum(dim=1).flatten(1).argsort(dim=1, descending=True)
    gained = torch.nn.functional.pad(parts.gather(1, order).cumsum(dim=1), (1, 0))
    torch.testing.assert_close(result.insertion, bias + gained, **EXACT)
    torch.testing.assert_close(result.deletion, bias + gained[:, -1:] - gained, **EXACT)


def test_constant_map_gives_the_straight_line():
    x = cases.images()
    model = cases.conv(x)
    result = insertion_deletion(model, x, torch.zeros_like(x), 1, n_steps=7)
    with torch.no_grad():
        full, blurred, mean = (
            model(image).softmax(dim=1)[:, 1:2]
            for image in (
                x,
                gaussian_blur(x),
                x.mean(dim=(2, 3), keepdim=True).expand_as(x),
            )
        )
    t = result.fractions
    torch.testing.assert_close(result.insertion, (1 - t) * blurred + t * full, **EXACT)
    torch.testing.assert_close(result.deletion, (1 - t) * full + t * mean, **EXACT)
    torch.testing.assert_close(
        result.insertion_auc, ((blurred + full) / 2)[:, 0], **EXACT
    )
    torch.testing.assert_close(result.deletion_auc, ((mean + full) / 2)[:, 0], **EXACT)
    assert result.n_forward == 3


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_order_of_the_map_counts(kind):
    x = cases.images()
    model, a = cases.conv(x), cases.maps(x, kind)
    result = insertion_deletion(model, x, a, 1, n_steps=9)
    assert_same(insertion_deletion(model, x, (2 * a).exp() - 3, 1, n_steps=9), result)
    assert_same(insertion_deletion(model, x, a[:, :1], 1, n_steps=9), result)


def test_the_raster_order_of_equal_pixels_does_not_count():
    # A mirrored image with a mirrored map under a mirrored model is the same case; a
    # ranking that breaks ties by position gives other curves for sparse maps.
    x = cases.images()
    model, a = cases.linear(x), cases.maps(x, "sparse")
    result = insertion_deletion(model, x, a, 1, n_steps=9)
    mirrored = insertion_deletion(
        lambda image: model(image.flip(2, 3)), x.flip(2, 3), a.flip(2, 3), 1, n_steps=9
    )
    assert_same(mirrored, result)


def test_the_right_order_beats_all_others():
    x = cases.images()
    model = cases.linear(x, n_outputs=1, positive=True)
    right = x * model[1].weight.detach().view(1, *x.shape[1:])
    settings = {"insertion_baseline": 0.0, "deletion_baseline": 0.0, "n_steps": 30}
    best = insertion_deletion(model, x, right, **settings)
    worst = insertion_deletion(model, x, -right, **settings)
    for seed in range(5):
        other = insertion_deletion(model, x, cases.maps(x, seed=seed), **settings)
        assert (best.insertion_auc > other.insertion_auc).all()
        assert (best.deletion_auc < other.deletion_auc).all()
        assert (worst.insertion_auc < other.insertion_auc).all()
        assert (worst.deletion_auc > other.deletion_auc).all()
    # Removing the worst first leaves what inserting the best last has yet to bring.
    torch.testing.assert_close(best.insertion, worst.deletion.flip(1), **EXACT)


def test_areas_compare_over_sizes_and_steps():
    # An area is a mean height, whatever the number of pixels and of steps: Quantus'
    # sum of trapezoids of width one grows with the steps.
    areas = []
    for size, n_steps in [(4, 16), (8, 16), (8, 64), (16, 8)]:
        x = torch.ones(1, 1, size, size, dtype=torch.float64)
        ramp = torch.arange(x.numel(), dtype=torch.float64).view_as(x)
        result = insertion_deletion(
            lambda image: image.mean(dim=(1, 2, 3)),
            x,
            ramp,
            n_steps=n_steps,
            insertion_baseline=0.0,
            deletion_baseline=0.0,
        )
        areas.append((result.insertion_auc.item(), result.deletion_auc.item()))
    np.testing.assert_allclose(areas, 0.5, **EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_batch_equals_its_examples(kind):
    x = cases.images()
    model, a, target = cases.conv(x), cases.maps(x, kind), torch.tensor([2, 0, 3])
    whole = insertion_deletion(model, x, a, target, n_steps=9)
    for i in range(len(x)):
        one = insertion_deletion(
            model, x[i : i + 1], a[i : i + 1], int(target[i]), n_steps=9
        )
        assert_same(whole, one, rows=slice(i, i + 1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("perturbations_per_eval", [1, 3, 100])
def test_perturbations_per_eval_changes_memory_only(kind, perturbations_per_eval):
    x = cases.images()
    a, scale = cases.maps(x, kind), torch.tensor([0.5, 1.0, 2.0]).double()
    target = [2, 0, 3]
    plain = cases.Counted(cases.conv(x))

    def run(model, chunk):
        return insertion_deletion(
            lambda image, factor: model(image) * factor[:, None],
            x,
            a,
            target,
            scale,
            n_steps=9,
            perturbations_per_eval=chunk,
        )

    expected = run(plain, 32)
    counted = cases.Counted(plain.model)
    result = run(counted, perturbations_per_eval)
    assert_same(result, expected)
    assert counted.rows == result.n_forward * len(x) == expected.n_forward * len(x)
    assert counted.largest <= max(1, perturbations_per_eval) * len(x)


def test_equal_images_are_scored_once():
    x = cases.images(height=4, width=4)
    model = cases.linear(x)
    # No ties: 9 images a curve, of which both share one.
    assert insertion_deletion(model, x, cases.maps(x), 0, n_steps=8).n_forward == 17
    # Two groups, of 8 and 8 pixels: 3 images a curve, of which both share one.
    halves = torch.zeros_like(x)
    halves[:, :, :2] = 1.0
    for n_steps in (2, 8, 5):
        result = insertion_deletion(model, x, halves, 0, n_steps=n_steps)
        assert result.n_forward == 5


def test_gaussian_blur_equals_the_reference():
    x = cases.images(height=7, width=4)
    for sigma, size in [(5.0, 11), (1.5, 5), (0.7, 1)]:
        expected = np.stack([reference.blur(one, sigma, size) for one in x.numpy()])
        np.testing.assert_allclose(
            gaussian_blur(x, sigma, size).numpy(), expected, **EXACT
        )
    flat = torch.full((1, 1, 3, 3), 7.0)
    torch.testing.assert_close(gaussian_blur(flat), flat)
    for sigma, size in [(0.0, 11), (5.0, 4), (5.0, -1)]:
        with pytest.raises(ValueError, match="odd kernel_size"):
            gaussian_blur(x, sigma, size)


def test_given_baselines_are_used_and_named():
    x, model = cases.images(), None
    model, a = cases.linear(x), cases.maps(x)
    noise = cases.images(seed=9)
    result = insertion_deletion(
        model, x, a, 1, insertion_baseline=noise, deletion_baseline=0.25, softmax=False
    )
    with torch.no_grad():
        start, end = model(noise)[:, 1], model(torch.full_like(x, 0.25))[:, 1]
    torch.testing.assert_close(result.insertion[:, 0], start, **EXACT)
    torch.testing.assert_close(result.deletion[:, -1], end, **EXACT)
    assert result.settings["insertion_baseline"] == "tensor of shape (3, 3, 6, 5)"
    assert result.settings["deletion_baseline"] == "constant 0.25"


def test_settings_are_complete_and_plain():
    x = cases.images()
    result = insertion_deletion(cases.linear(x), x, cases.maps(x), 1, n_steps=5)
    settings = json.loads(json.dumps(result.settings))
    assert settings == result.settings
    assert settings["n_steps"] == 5
    assert settings["softmax"] is True
    assert "sigma 5" in settings["insertion_baseline"]
    assert "mean colour" in settings["deletion_baseline"]
    assert "interpolation" in settings["ties"]
    # What is installed; some builds of torch add "+cu126" to their own name only.
    release = torch.__version__.split("+")[0]
    assert settings["versions"]["torch"] in (release, torch.__version__)


def test_probabilities_under_softmax_warn():
    x = cases.images()
    model = torch.nn.Sequential(cases.linear(x), torch.nn.Softmax(dim=1))
    with pytest.warns(UserWarning, match="softmax=False"):
        insertion_deletion(model, x, cases.maps(x), 1)


@pytest.mark.parametrize("name", ["n_steps", "perturbations_per_eval"])
@pytest.mark.parametrize("bad", [0, -1, 2.5, True])
def test_counts_below_one(name, bad):
    x = cases.images()
    with pytest.raises(ValueError, match=name):
        insertion_deletion(cases.conv(x), x, x, 1, **{name: bad})


def test_progress_bar(capsys):
    x = cases.images()
    insertion_deletion(cases.conv(x), x, x, 1, show_progress=True)
    assert "insertion and deletion" in capsys.readouterr().err
