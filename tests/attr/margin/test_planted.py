"""Models whose right answer is known, in every form of the method."""

from statistics import fmean

import pytest
import torch

from captum_margin.attr import MarginSaliency
from tests.helpers import models


def two_scales(image):
    return torch.stack([models.tiles(32, 32, side) for side in (4, 6)])


FORMS = {
    "default": (None, {}),
    "feature_mask": (None, {"feature_mask": models.tiles(32, 32, 4)}),
    "segmentation_func": (two_scales, {}),
    "regions": (None, {"domain": "regions"}),
    "regions both": (None, {"domain": "regions", "sided": "both"}),
}
over_forms = pytest.mark.parametrize(
    "segmentation_func, options", FORMS.values(), ids=FORMS.keys()
)


def heat(model, image, segmentation_func, options):
    found = MarginSaliency(model, segmentation_func).attribute(
        image, target=0, n_evaluations=300, **options
    )
    return found[0, 0]


def boxed(box):
    """True in a box (rows, columns) of a 32 x 32 map."""
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[box] = True
    return inside


def near(box):
    """True in a box and 3 pixels around it: superpixels, windows overlap its edge."""
    return boxed(tuple(slice(max(0, s.start - 3), s.stop + 3) for s in box))


@over_forms
@pytest.mark.parametrize("channels", [1, 3])
def test_evidence_for_is_high_and_against_is_negative(
    segmentation_func, options, channels
):
    image, for_it, against = models.corners(channels)
    model = models.Planted(for_it, against)
    found = heat(model, image, segmentation_func, options)
    good, bad = boxed(for_it), boxed(against)
    assert near(for_it).flatten()[found.argmax()]
    assert near(against).flatten()[found.argmin()]
    elsewhere = found[~(good | bad)].mean().abs()
    assert found[good].mean() > 5 * elsewhere
    assert found[bad].mean() < -5 * elsewhere


@over_forms
def test_what_the_model_does_not_see_counts_little(segmentation_func, options):
    image, seen, unseen = models.corners()
    found = heat(models.Planted(seen), image, segmentation_func, options)
    assert near(seen).flatten()[found.argmax()]
    assert found[seen].mean() > 6 * found[unseen].mean().abs()


def test_the_papers_form_finds_both_without_a_sign():
    image, for_it, against = models.corners()
    model = models.Planted(for_it, against)
    found = heat(model, image, None, {"paper": True})
    assert (found >= 0).all()
    elsewhere = found[~(boxed(for_it) | boxed(against))].mean()
    assert min(found[for_it].mean(), found[against].mean()) > 10 * elsewhere


def test_one_superpixel_alone():
    # Tiles of two sizes; the model looks at one small tile among large ones.
    image, _, _ = models.corners()
    mask = models.tiles(32, 32, 8)
    mask[8:12, 8:12] = 99
    model = models.Planted((slice(8, 12), slice(8, 12)), gain=5.0)
    image[:, :, 8:12, 8:12] = 1.0
    for options in ({}, {"domain": "regions"}, {"paper": True}):
        found = heat(model, image, None, {"feature_mask": mask, **options})
        inside = boxed((slice(8, 12), slice(8, 12)))
        assert found[inside].min() == found.max() > 0
        assert found[~inside].abs().max() < 0.25 * found.max()


def test_each_example_has_its_own_answer():
    image, for_it, against = models.corners()
    images = image.repeat(2, 1, 1, 1)
    model = models.Planted(for_it, against)
    found = MarginSaliency(model).attribute(images, target=[0, 1], n_evaluations=200)
    first, second = found[:, 0]
    assert near(for_it).flatten()[first.argmax()]
    assert near(against).flatten()[second.argmax()]
    assert near(for_it).flatten()[second.argmin()]


def test_a_small_object_is_found_to_its_edge():
    # The object is smaller than a cell of the tents; later rounds draw its outline,
    # which they do better with some draws than with others.
    image, seen, _ = models.corners(side=64)
    inside = torch.zeros(64, 64, dtype=torch.bool)
    inside[seen] = True
    overlap = []
    for seed in range(3):
        found = MarginSaliency(models.Planted(seen)).attribute(
            image, target=0, n_evaluations=800, seed=seed
        )[0, 0]
        top = found.flatten().topk(int(inside.sum())).indices
        overlap.append(float(inside.flatten()[top].double().mean()))
    assert min(overlap) > 0.5
    assert fmean(overlap) > 0.65  # coarse maps, of 200 evaluations, have less than 0.5
