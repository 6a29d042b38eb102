"""Smallest region: search, decision, ties, verification."""

import json

import numpy as np
import pytest
import torch

from captum_margin.metrics import smallest_region
from tests.metrics import cases
from tests.reference import metrics_reference as reference

KINDS = ["dense", "regions", "sparse", "constant"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_steps", [1, 7, 30, 100])
@pytest.mark.parametrize("net", ["deciding", "conv", "one column", "negative column"])
def test_equals_the_reference(net, kind, n_steps):
    x = cases.images(batch=6)
    baseline = None
    if net == "conv":
        model = cases.conv(x, seed=5)
    elif net == "deciding":
        model = cases.deciding(x)
    else:
        model, baseline = cases.linear(x, n_outputs=1), 0.0
        model[1].bias.data.zero_()
        if net == "one column":
            model[1].weight.data *= -1
    with torch.no_grad():
        output = model(x)
    target = output.argmax(dim=1)
    if net == "deciding":
        target[1] = (target[1] + 1) % cases.CLASSES  # an image decided otherwise
    a = cases.maps(x, kind)
    result = smallest_region(model, x, a, target, baseline=baseline, n_steps=n_steps)
    row = cases.numpy_row(model, softmax=False)
    for i, (image, amap) in enumerate(zip(x.numpy(), a.numpy(), strict=True)):
        rest = reference.mean_colour(image) if baseline is None else 0 * image
        fraction, mask = reference.smallest_region(
            row, image, amap, rest, int(target[i]), n_steps
        )
        np.testing.assert_allclose(result.fraction[i], fraction, rtol=1e-12)
        np.testing.assert_array_equal(result.mask[i, 0], mask)
        assert bool(result.verified[i]) == (not np.isnan(fraction))


def test_finds_a_planted_region():
    x = torch.zeros(2, 1, 10, 10)
    x[0, :, 2:5, 3:7] = 1.0
    x[1, :, 5:9, 0:9] = 1.0

    def model(image):  # class 1 where at least 12 of the sum is there
        total = image.sum(dim=(1, 2, 3))
        return torch.stack([torch.full_like(total, 11.5), total], dim=1)

    result = smallest_region(model, x, x, 1, baseline=0.0)
    # The map has two values: whole groups only, so the second region is all 36.
    torch.testing.assert_close(result.fraction, torch.tensor([0.12, 0.36]))
    assert torch.equal(result.mask, x.bool())
    ramp = x * torch.linspace(1, 2, 100).view(1, 1, 10, 10)
    assert smallest_region(model, x, ramp, 1, baseline=0.0).fraction.tolist() == (
        pytest.approx([0.12, 0.12])
    )


def test_one_score_must_keep_sign_and_half_of_its_size():
    x = torch.tensor([[[[1.0, 2.0], [2.0, 1.0]]]], dtype=torch.float64)
    ramp = torch.tensor([[[[4.0, 3.0], [2.0, 1.0]]]])

    def total(image):
        return image.sum(dim=(1, 2, 3))

    for sign in (1, -1):  # of 6: -12, -8, -3, 2, 6 as more are kept
        result = smallest_region(total, sign * x, ramp, baseline=sign * -3.0)
        assert result.fraction.tolist() == [1.0]
        result = smallest_region(total, sign * x, ramp, baseline=sign * -1.0)
        assert result.fraction.tolist() == [0.75]  # -4, -2, 1, 4, 6
    assert not smallest_region(total, 0 * x, ramp).verified.any()


def test_no_decision_no_region():
    x = cases.images()
    model = cases.conv(x)
    with torch.no_grad():
        never = model(x).argmin(dim=1)
    result = smallest_region(model, x, cases.maps(x), never)
    assert torch.isnan(result.fraction).all()
    assert not result.verified.any()
    assert not result.mask.any()
    assert result.n_forward == 2  # nothing to search for


def test_a_tie_decides_nothing():
    x = cases.images()
    result = smallest_region(
        lambda image: torch.ones(len(image), 3).double(), x, x, target=0
    )
    assert not result.verified.any()


def test_zero_where_the_baseline_is_decided_already():
    x = cases.images()
    result = smallest_region(
        lambda image: torch.tensor([[0.0, 1.0]]).double().repeat(len(image), 1),
        x,
        x,
        target=1,
    )
    assert result.fraction.tolist() == [0.0] * 3
    assert result.verified.all()
    assert not result.mask.any()


def test_the_region_is_verified_by_the_model():
    x = cases.images(batch=6)
    model, a = cases.deciding(x), cases.maps(x)
    result = smallest_region(model, x, a, n_steps=30)
    assert result.fraction.unique().numel() > 3  # a case with something to find
    mean = x.mean(dim=(2, 3), keepdim=True)
    with torch.no_grad():
        kept = model(torch.where(result.mask, x, mean))
        full = model(x)
    assert torch.equal(kept.argmax(dim=1), full.argmax(dim=1))
    share = result.mask.double().mean(dim=(1, 2, 3))
    torch.testing.assert_close(result.fraction, share)


def test_pixelwise_outputs():
    x = cases.images()
    model = torch.nn.Conv2d(3, 4, 1).double()
    with torch.no_grad():
        labels = model(x)[:, :, 2, 3].argmax(dim=1)
    a = torch.zeros_like(x)
    a[:, :, 2, 3] = 1.0
    target = [(int(label), 2, 3) for label in labels]
    result = smallest_region(model, x, a, target, baseline=-5.0)
    with torch.no_grad():
        base = model(torch.full_like(x, -5.0))[:, :, 2, 3].argmax(dim=1)
    expected = torch.where(base == labels, 0.0, 1 / 30).double()
    torch.testing.assert_close(result.fraction, expected)


def test_own_class_is_the_default_target():
    x = cases.images()
    model, a = cases.deciding(x), cases.maps(x)
    with torch.no_grad():
        own = model(x).argmax(dim=1)
    default, given = (
        smallest_region(model, x, a, target=target) for target in (None, own)
    )
    assert torch.equal(default.mask, given.mask)


@pytest.mark.parametrize("kind", KINDS)
def test_batch_and_chunks_do_not_matter(kind):
    x = cases.images(batch=6)
    a = cases.maps(x, kind)
    counted = cases.Counted(cases.deciding(x))
    whole = smallest_region(counted, x, a, n_steps=20)
    assert counted.rows == whole.n_forward * len(x)
    for chunk in (1, 2, 100):
        result = smallest_region(
            counted.model, x, a, n_steps=20, perturbations_per_eval=chunk
        )
        assert torch.equal(result.mask, whole.mask)
        assert result.n_forward <= 2 * 20 + 4
    for i in range(len(x)):
        one = smallest_region(counted.model, x[i : i + 1], a[i : i + 1], n_steps=20)
        assert torch.equal(one.mask, whole.mask[i : i + 1])


def test_only_the_order_of_the_map_counts():
    x = cases.images()
    model, a = cases.deciding(x), cases.maps(x, "regions")
    masks = [smallest_region(model, x, b).mask for b in (a, a.exp(), a[:, :1])]
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], masks[2])


def test_settings_are_plain_and_tell_the_decision():
    x = cases.images()
    for n_outputs, word in [(1, "half"), (4, "largest")]:
        result = smallest_region(cases.linear(x, n_outputs), x, x)
        assert json.loads(json.dumps(result.settings)) == result.settings
        assert word in result.settings["decision"]


@pytest.mark.parametrize("name", ["n_steps", "perturbations_per_eval"])
@pytest.mark.parametrize("bad", [0, -1, 2.5, True])
def test_counts_below_one(name, bad):
    x = cases.images()
    with pytest.raises(ValueError, match=name):
        smallest_region(cases.conv(x), x, x, 1, **{name: bad})


def test_progress_bar(capsys):
    x = cases.images()
    smallest_region(cases.conv(x), x, x, show_progress=True)
    assert "smallest region" in capsys.readouterr().err
