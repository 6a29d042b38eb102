"""Maps against masks and boxes: reference, laws, empty and equal values, errors."""

import json

import numpy as np
import pytest
import torch
from captum.attr import LayerAttribution

from captum_margin.metrics import localization
from tests.reference import localization_reference as reference

EXACT = {"rtol": 1e-9, "atol": 1e-12}
SCORES = ("energy", "pointing", "iou", "area")


def masks(batch=3, height=5, width=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(batch, height, width, generator=generator) < 0.35
    mask[:, 1, 1] = True
    return mask


def maps(mask, levels=None, seed=1, channels=1):
    """Values all different, or of few whole levels."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(mask), channels, *mask.shape[1:])
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    return values if levels is None else (levels * values).round()


def assert_same(result, other, rows=slice(None), **tolerance):
    for name in (*SCORES, "is_empty"):
        torch.testing.assert_close(
            getattr(result, name)[rows], getattr(other, name), **(tolerance or EXACT)
        )


@pytest.mark.parametrize("tolerance", [0.0, 1.0, 1.5])
@pytest.mark.parametrize("levels", [None, 0.4, 1.0, 0.0])
def test_equals_the_reference(levels, tolerance):
    mask = masks()
    a = maps(mask, levels)
    found = localization(a, mask, tolerance=tolerance)
    for i, (values, inside) in enumerate(
        zip(a[:, 0].tolist(), mask.tolist(), strict=True)
    ):
        np.testing.assert_allclose(
            [found.energy[i], found.pointing[i], found.iou[i], found.area[i]],
            [
                reference.energy(values, inside),
                reference.pointing(values, inside, tolerance),
                reference.iou(values, inside),
                np.mean(inside),
            ],
            **EXACT,
        )


def test_a_perfect_map_and_its_complement():
    mask = masks()
    perfect = localization(mask[:, None].double(), mask)
    for name in ("energy", "pointing", "iou"):
        assert getattr(perfect, name).tolist() == [1.0] * 3
    wrong = localization((~mask)[:, None].double(), mask)
    for name in ("energy", "pointing"):
        assert getattr(wrong, name).tolist() == [0.0] * 3
    smaller = mask.flatten(1).sum(1) * 2 <= mask[0].numel()
    assert smaller.any()
    assert (wrong.iou[smaller] == 0).all()


@pytest.mark.parametrize("value", [0.1, 3.0])
def test_a_constant_positive_map_has_the_share_of_the_area(value):
    mask = masks()
    found = localization(torch.full((3, 1, 5, 4), value), mask)
    torch.testing.assert_close(found.energy, found.area, **EXACT)
    torch.testing.assert_close(found.pointing, found.area, **EXACT)
    assert not found.is_empty.any()


@pytest.mark.parametrize("value", [0.0, -2.0])
def test_a_map_without_evidence_is_said_to_be_empty(value):
    mask = masks()
    found = localization(torch.full((3, 1, 5, 4), value), mask)
    assert found.is_empty.tolist() == [True] * 3
    assert found.energy.tolist() == [0.0] * 3
    torch.testing.assert_close(found.pointing, found.area, **EXACT)
    for score in (found.energy, found.pointing, found.iou):
        assert torch.isfinite(score).all()


def test_random_maps_have_the_area_and_area_over_two_minus_area():
    mask = torch.zeros(400, 40, 40, dtype=torch.bool)
    mask[:, :20, :32] = True  # two fifths
    generator = torch.Generator().manual_seed(3)
    found = localization(torch.rand(400, 1, 40, 40, generator=generator), mask)
    # Standard errors: .0004 of the energy, .0003 of the overlap, .024 of pointing.
    assert found.energy.mean().item() == pytest.approx(0.4, abs=0.002)
    assert found.iou.mean().item() == pytest.approx(0.4 / 1.6, abs=0.002)
    assert found.pointing.mean().item() == pytest.approx(0.4, abs=0.08)


def test_scale_and_negative_values_do_not_count():
    mask = masks()
    a = maps(mask)
    expected = localization(a, mask)
    assert_same(localization(7.5 * a, mask), expected)
    deeper = torch.where(a < 0, 3 * a, a)
    found = localization(deeper, mask)
    torch.testing.assert_close(found.energy, expected.energy, **EXACT)
    torch.testing.assert_close(found.pointing, expected.pointing, **EXACT)


def test_batch_equals_its_examples():
    mask = masks()
    a = maps(mask, 1.0)
    whole = localization(a, mask, tolerance=1.0)
    for i in range(3):
        rows = slice(i, i + 1)
        one = localization(a[rows], mask[rows], tolerance=1.0)
        assert_same(whole, one, rows=rows)


def test_forms_of_maps_and_masks():
    mask = masks()
    a = maps(mask, channels=3)
    expected = localization(a.sum(dim=1, keepdim=True), mask)
    for form in (mask[:, None], mask.int(), mask.double()[:, None]):
        assert_same(localization((a,), form), expected)
    assert_same(
        localization(a.float(), mask), expected, rtol=1e-5, atol=1e-6
    )  # float32
    assert localization(a.bfloat16(), mask).energy.dtype == torch.float64


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_maps_are_resized_as_captum_does(mode):
    mask = masks(height=9, width=12)
    a = maps(masks(height=3, width=5))
    large = LayerAttribution.interpolate(a, (9, 12), mode)
    found = localization(a, mask, interpolate_mode=mode)
    tolerance = {"rtol": 1e-6, "atol": 1e-7}
    assert_same(found, localization(large, mask), **tolerance)


@pytest.mark.parametrize("size", [(2, 3), (4, 6), (7, 5), (40, 30)])
def test_a_constant_map_of_any_resolution_stays_one(size):
    """Rounding in the weights must not make a ranking out of equal pixels."""
    mask = masks(height=20, width=15)
    found = localization(torch.full((3, 1, *size), 0.1, dtype=torch.float64), mask)
    torch.testing.assert_close(found.pointing, found.area, **EXACT)
    torch.testing.assert_close(found.energy, found.area, **EXACT)


def test_larger_maps_lose_no_pixel():
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, :2] = True
    a = torch.zeros(1, 1, 32, 32)
    a[0, 0, 3, 3] = 1.0  # between the points that a plain downsizing would look at
    assert localization(a, mask).energy.item() == pytest.approx(1.0)


def test_boxes_hold_the_pixels_with_their_centres_inside():
    a = maps(masks(height=6, width=8))
    mask = torch.zeros(3, 6, 8, dtype=torch.bool)
    mask[0, 1:4, 2:7] = True
    mask[1] = True
    mask[2, 5, 0] = True
    boxes = torch.tensor([[2.0, 1, 7, 4], [0, 0, 8, 6], [0.4, 4.6, 1.4, 9.0]])
    assert_same(localization(a, boxes=boxes), localization(a, mask))
    coarse = a[:, :, ::2, ::2]
    assert_same(
        localization(coarse, boxes=boxes, image_size=(6, 8)), localization(coarse, mask)
    )
    assert localization(a, boxes=boxes).settings["given"] == "boxes"


def test_tolerance_is_a_distance():
    mask = torch.zeros(1, 7, 7, dtype=torch.bool)
    mask[0, 3, 3] = True
    a = torch.zeros(1, 1, 7, 7)
    a[0, 0, 1, 1] = 1.0  # 2.83 pixels away
    hits = [localization(a, mask, tolerance=t).pointing.item() for t in (0, 2.5, 2.9)]
    assert hits == [0.0, 0.0, 1.0]
    assert localization(a, mask, tolerance=2.9).energy.item() == 0.0


def test_a_map_on_many_equal_pixels_of_a_large_image():
    """The mean over orders is exact for as many pixels as photographs have."""
    mask = torch.zeros(1, 224, 224, dtype=torch.bool)
    mask[0, :112] = True
    found = localization(torch.zeros(1, 1, 224, 224), mask)
    # Twice differentiated at the mean, the spread adds about 1e-5.
    assert found.iou.item() == pytest.approx(1 / 3, abs=2e-5)
    assert found.iou.item() != 1 / 3


def test_settings_are_plain():
    found = localization(maps(masks()), masks(), tolerance=2)
    assert json.loads(json.dumps(found.settings)) == found.settings
    assert found.settings["tolerance"] == 2.0
    assert found.settings["image_size"] == [5, 4]


def test_bad_masks_and_boxes():
    mask = masks()
    a = maps(mask)
    empty = mask.clone()
    empty[[0, 2]] = False
    with pytest.raises(ValueError, match="none in examples 0, 2"):
        localization(a, empty)
    for box in ([3, 3, 3, 4], [3, 3, 2, 4], [9, 9, 12, 12], [1.6, 1.6, 2.4, 2.4]):
        with pytest.raises(ValueError, match="none in examples 0"):
            localization(a[:1], boxes=torch.tensor([box]))
    with pytest.raises(ValueError, match="masks of 0 and 1"):
        localization(a, mask * 255)
    with pytest.raises(ValueError, match="expected masks of shape"):
        localization(a, mask[0])
    with pytest.raises(ValueError, match="expected boxes of shape"):
        localization(a, boxes=torch.zeros(3, 1, 4))
    with pytest.raises(ValueError, match="finite boxes"):
        localization(a[:1], boxes=torch.tensor([[0, 0, float("nan"), 1]]))
    with pytest.raises(ValueError, match="neither"):
        localization(a)
    with pytest.raises(ValueError, match="both"):
        localization(a, mask, boxes=torch.zeros(3, 4))
    with pytest.raises(ValueError, match="image_size with boxes only"):
        localization(a, mask, image_size=(5, 4))
    with pytest.raises(ValueError, match="image_size as"):
        localization(a, boxes=torch.ones(3, 4), image_size=(5, 0))
    with pytest.raises(TypeError, match="masks to be a tensor"):
        localization(a, mask.numpy())
    with pytest.raises(TypeError, match="boxes to be a tensor"):
        localization(a, boxes=[[0, 0, 1, 1]] * 3)


def test_bad_maps_and_options():
    mask = masks()
    a = maps(mask)
    for bad in (a[:2], a[:, 0], a[None]):
        with pytest.raises(ValueError, match="expected attributions of shape"):
            localization(bad, mask)
    with pytest.raises(TypeError, match="one tensor"):
        localization(a.numpy(), mask)
    with pytest.raises(ValueError, match="finite attributions"):
        localization(a / 0, mask)
    with pytest.raises(ValueError, match="interpolate_mode to be one of"):
        localization(a, mask, interpolate_mode="bicubic")
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="tolerance"):
            localization(a, mask, tolerance=bad)
    with pytest.raises(ValueError, match="expected attributions of shape"):
        localization(a[0, 0], boxes=torch.ones(3, 4))
