"""Average drop and increase: both forms, ties, closed forms."""

import json

import numpy as np
import pytest
import torch

from captum_margin.metrics import average_drop
from tests.metrics import cases
from tests.reference import metrics_reference as reference

EXACT = {"rtol": 1e-10, "atol": 1e-12}
KINDS = ["dense", "regions", "sparse", "constant"]


def assert_same(result, other, rows=slice(None)):
    for field in ("drop", "increase", "full_scores", "kept_scores", "mask_mean"):
        torch.testing.assert_close(
            getattr(result, field)[rows], getattr(other, field), **EXACT
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep", [None, 0.2, 0.5, 1.0, 0.001])
@pytest.mark.parametrize("net", ["softmax", "conv"])
def test_equals_the_reference(net, keep, kind):
    x = cases.images()
    model = cases.conv(x) if net == "conv" else cases.linear(x)
    a, target, baseline = cases.maps(x, kind), [2, 0, 3], cases.images(seed=7)
    result = average_drop(model, x, a, target, keep=keep, baseline=baseline)
    row = cases.numpy_row(model)
    n_pixels = x[0, 0].numel()
    drops, increases = [], []
    for i, (image, amap, rest) in enumerate(
        zip(x.numpy(), a.numpy(), baseline.numpy(), strict=True)
    ):
        full = row(image)[target[i]]
        if keep is None:
            mask = reference.soft_mask(amap)
            kept = row(image * mask + rest * (1 - mask))[target[i]]
            share = mask.mean()
        else:
            count = max(1, int(np.floor(keep * n_pixels + 0.5)))
            kept = reference.score_of_count(
                lambda one, i=i: row(one)[target[i]], image, rest, amap, count
            )
            share = count / n_pixels
        drop, increase = reference.drop_and_increase(full, kept)
        np.testing.assert_allclose(result.full_scores[i], full, **EXACT)
        np.testing.assert_allclose(result.kept_scores[i], kept, **EXACT)
        np.testing.assert_allclose(result.mask_mean[i], share, **EXACT)
        np.testing.assert_allclose(result.drop[i], drop, **EXACT)
        if abs(kept - full) > 1e-12:
            assert bool(result.increase[i]) == increase
        drops.append(drop)
        increases.append(bool(result.increase[i]))
    np.testing.assert_allclose(result.average_drop, np.mean(drops), **EXACT)
    np.testing.assert_allclose(result.average_increase, np.mean(increases), **EXACT)


def test_drops_and_increases_of_a_sum():
    x = torch.tensor([[[[4.0, -2.0], [3.0, 1.0]]]])
    a = torch.tensor([[[[3.0, 0.0], [2.0, 1.0]]]])

    def total(image):
        return image.sum(dim=(1, 2, 3))

    one = average_drop(total, x, a, keep=0.25)  # keeps 4 of 6
    assert one.drop.item() == pytest.approx(1 / 3)
    assert (one.average_increase, one.mask_mean.item()) == (0.0, 0.25)
    two = average_drop(total, x, a, keep=0.5)  # keeps 7 of 6
    assert (two.average_drop, two.average_increase) == (0.0, 1.0)
    soft = average_drop(total, x, a)  # 4 * 1 + 3 * 2/3 + 1 * 1/3
    assert soft.kept_scores.item() == pytest.approx(19 / 3)
    black = average_drop(total, x, a, baseline=-1.0)  # - 1 - 1/3 - 2/3
    assert black.kept_scores.item() == pytest.approx(19 / 3 - 2)
    assert black.drop.item() == pytest.approx((6 - 13 / 3) / 6)
    assert (one.n_forward, soft.n_forward) == (2, 2)


@pytest.mark.parametrize("keep", [None, 1.0])
def test_a_map_of_ones_drops_nothing_and_shows_it(keep):
    x = cases.images()
    result = average_drop(cases.conv(x), x, torch.ones_like(x), 1, keep=keep)
    assert (result.average_drop, result.average_increase) == (0.0, 0.0)
    torch.testing.assert_close(result.mask_mean, torch.ones(3, dtype=x.dtype))


@pytest.mark.parametrize("value", [0.0, -2.0])
def test_a_constant_map_without_evidence_keeps_nothing(value):
    x = cases.images()
    model = cases.conv(x)
    result = average_drop(model, x, torch.full_like(x, value), 1)
    with torch.no_grad():
        expected = model(torch.zeros_like(x)).softmax(dim=1)[:, 1]
    torch.testing.assert_close(result.kept_scores, expected, **EXACT)
    assert (result.mask_mean == 0).all()


def test_a_constant_map_keeps_a_share_of_both_ends():
    x = cases.images()
    model = cases.conv(x)
    result = average_drop(model, x, torch.zeros_like(x), 1, keep=0.2)
    with torch.no_grad():
        full, none = (model(i).softmax(1)[:, 1] for i in (x, torch.zeros_like(x)))
    torch.testing.assert_close(result.kept_scores, 0.2 * full + 0.8 * none, **EXACT)
    assert result.n_forward == 2  # the image, known already, and the baseline


def test_laws_of_the_map():
    x = cases.images()
    model, a = cases.conv(x), cases.maps(x, "regions")
    kept = average_drop(model, x, a, 1, keep=0.3)
    assert_same(average_drop(model, x, a.exp(), 1, keep=0.3), kept)
    soft = average_drop(model, x, a, 1)
    assert_same(average_drop(model, x, 3 * a + 2, 1), soft)  # min-max scaled
    assert_same(average_drop(model, x, a[:, :1], 1), soft)


@pytest.mark.parametrize("keep", [None, 0.3])
def test_batch_equals_its_examples(keep):
    x = cases.images()
    model, a, target = cases.conv(x), cases.maps(x, "regions"), [2, 0, 3]
    whole = average_drop(model, x, a, target, keep=keep)
    for i in range(len(x)):
        rows = slice(i, i + 1)
        one = average_drop(model, x[rows], a[rows], target[i], keep=keep)
        assert_same(whole, one, rows=rows)


def test_scores_that_have_no_share():
    x = torch.ones(2, 1, 2, 2)

    def score(image):
        return image.sum(dim=(1, 2, 3)) - 4

    zero = average_drop(score, x, x, baseline=2.0, keep=0.5)
    assert zero.drop.tolist() == [0.0, 0.0]
    assert zero.increase.tolist() == [True, True]
    with pytest.raises(ValueError, match="not negative"):
        average_drop(lambda image: score(image) - 1, x, x)


@pytest.mark.parametrize("keep", [0.0, -0.1, 1.1, float("nan")])
def test_keep_outside_its_range(keep):
    x = cases.images()
    with pytest.raises(ValueError, match="keep in"):
        average_drop(cases.conv(x), x, x, 1, keep=keep)


def test_settings_are_plain_and_tell_the_form():
    x = cases.images()
    for keep, form in [(None, "soft mask"), (0.2, "top pixels kept")]:
        result = average_drop(cases.conv(x), x, x, 1, keep=keep)
        assert json.loads(json.dumps(result.settings)) == result.settings
        assert result.settings["form"] == form
        assert result.settings["baseline"] == "constant 0.0"
