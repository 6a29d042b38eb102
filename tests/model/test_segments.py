"""Superpixels, the partitions, and the door to Captum."""

import pytest
import torch

from captum_margin._model.arguments import (
    expand_baselines,
    expand_feature_mask,
    number_regions,
)
from captum_margin._model.captum import (
    format_inputs,
    format_output,
    select_rows,
    target_outputs,
    target_scores,
)
from captum_margin._model.segments import element_partition, is_image
from captum_margin.attr import MarginSaliency, slic_segments
from tests.helpers import models


def colours(channels=3):
    """Four quarters of four colours."""
    image = torch.zeros(channels, 32, 32)
    image[0, :16, 16:] = 1.0
    image[-1, 16:, :16] = 0.6
    image[:, 16:, 16:] = 0.3
    return image


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_superpixels_follow_the_edges(channels):
    (segments,) = slic_segments(colours(channels), n_segments=4, compactness=0.1)
    assert segments.dtype == torch.int64
    quarters = [
        segments[rows, columns].unique()
        for rows in (slice(0, 16), slice(16, 32))
        for columns in (slice(0, 16), slice(16, 32))
    ]
    assert all(len(quarter) == 1 for quarter in quarters)
    assert sorted(int(quarter) for quarter in quarters) == [0, 1, 2, 3]


def test_scales_are_one_partition_each():
    image = models.images(1, 3, 40, 48)[0]
    several = slic_segments(image, [5, 20, 60])
    assert several.shape == (3, 40, 48)
    counts = []
    for scale, n_segments in zip(several, [5, 20, 60], strict=True):
        assert torch.equal(scale, slic_segments(image, n_segments)[0])
        ids = scale.unique()
        assert torch.equal(ids, torch.arange(len(ids)))
        counts.append(len(ids))
    assert counts == sorted(set(counts))
    assert len(slic_segments(image)) == 6


def test_normalisation_of_the_image_does_not_matter():
    image = models.images(1, 3, 32, 32)[0]
    expected = slic_segments(image, 30)
    assert torch.equal(slic_segments(8 * image - 4, 30), expected)


def test_a_constant_image_has_a_regular_grid():
    (segments,) = slic_segments(torch.full((3, 32, 32), -2.5), n_segments=4)
    sizes = segments.flatten().bincount()
    assert len(sizes) == 4 and 220 <= sizes.min() and sizes.max() <= 290


def test_the_image_is_not_touched():
    image = models.images(1)[0].requires_grad_()
    before = image.detach().clone()
    slic_segments(image, 4)
    assert torch.equal(image.detach(), before)


@pytest.mark.parametrize("shape", [(32, 32), (1, 3, 32, 32)])
def test_one_image_at_a_time(shape):
    with pytest.raises(ValueError, match=r"expected an image of shape \(C, H, W\)"):
        slic_segments(torch.zeros(shape))


@pytest.mark.parametrize("n_segments", [0, [10, 0], []])
def test_at_least_one_superpixel(n_segments):
    with pytest.raises(ValueError, match="expected n_segments of at least 1"):
        slic_segments(torch.zeros(3, 32, 32), n_segments)


def test_what_is_an_image():
    assert is_image(torch.zeros(1, 3, 16, 16))
    assert not is_image(torch.zeros(1, 3, 15, 40))
    assert not is_image(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    assert not is_image(torch.zeros(3, 32, 32))


def test_every_element_by_default():
    one, two = element_partition((torch.zeros(2, 2, 3), torch.zeros(2, 4)))
    assert one.tolist() == [[[0, 1, 2], [3, 4, 5]]]
    assert two.tolist() == [[6, 7, 8, 9]]


def test_regions_are_numbered_through_all_inputs():
    masks = (torch.tensor([[7, 7, -1]]), torch.tensor([[30], [7]]))
    (one, two), n_regions = number_regions(masks)
    assert (one.tolist(), two.tolist(), n_regions) == ([[1, 1, 0]], [[2], [1]], 3)


def test_masks_are_broadcast_from_the_right():
    images = torch.zeros(4, 3, 16, 18)
    mask = models.tiles(16, 18, 4)
    expected = mask[None, None]
    for form in (mask, mask[None], mask[None, None], mask.float()):
        assert torch.equal(expand_feature_mask(form, (images,))[0], expected)
    pair = torch.stack([mask, mask + 1])[:, None]
    (repeated,) = expand_feature_mask(pair, (images,))
    assert torch.equal(repeated, pair[[0, 0, 1, 1]])


def test_baselines():
    images, flags = models.images(2, 3, 16, 16), torch.ones(2, 5, dtype=torch.int64)
    mean, zero = expand_baselines(None, (images, flags))
    expected = images.mean(dim=(2, 3), keepdim=True).expand_as(images)
    torch.testing.assert_close(mean, expected)
    assert torch.equal(zero, torch.zeros_like(flags))
    number, row = expand_baselines((0.1, torch.arange(5)[None]), (images, flags))
    assert (number == 0.1).all()  # not 0.1 in single precision
    assert torch.equal(row, torch.arange(5).expand(2, 5))


def test_inputs_become_a_tuple_and_outputs_what_came_in():
    x = torch.zeros(2, 3)
    assert format_inputs(x)[0] is x and format_inputs((x,))[0] is x
    assert format_output(False, (x,)) is x
    assert format_output(True, (x,))[0] is x


def test_rows_of_targets_and_arguments():
    rows = torch.tensor([2, 0, 0])
    per_example, scalar = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor(5.0)
    other = torch.arange(4)
    target, args = select_rows([4, 5, 6], (per_example, scalar, other, "x"), rows, 3)
    assert target == [6, 4, 4]
    assert args[0].tolist() == [[3.0], [1.0], [1.0]]
    assert args[1] is scalar and args[2] is other and args[3] == "x"
    pairs = [(0, 1), (1, 0), (1, 1)]
    assert select_rows(pairs, None, rows, 3) == ([(1, 1), (0, 1), (0, 1)], None)
    target, _ = select_rows(torch.tensor([4, 5, 6]), None, rows, 3)
    assert target.tolist() == [6, 4, 4]
    one = torch.tensor([1])
    for same in (None, 3, -1, (0, 1), one, torch.tensor(2)):
        assert select_rows(same, None, rows, 3)[0] is same


def test_scores_of_targets():
    logits = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]])

    def model(x):
        return logits[: len(x)]

    x = (torch.zeros(2, 4),)
    probability = logits.softmax(dim=1)
    for softmax, table in ((True, probability), (False, logits)):
        found = target_scores(model, x, [2, 0], softmax=softmax)
        assert torch.equal(found, table[[0, 1], [2, 0]])
        found = target_scores(model, x, 1, softmax=softmax)
        assert torch.equal(found, table[:, 1])
    column = target_scores(lambda x: logits[:, :1], x, None)  # a score, not a logit
    assert torch.equal(column, logits[:, 0])
    assert torch.equal(target_scores(lambda x: logits[:, 0], x, None), logits[:, 0])
    with pytest.raises(AssertionError, match="Target not provided"):
        target_scores(model, x, None)


def test_outputs_that_cannot_be_scored():
    x = (torch.zeros(2, 4),)
    with pytest.raises(TypeError, match="forward_func to return a tensor"):
        target_outputs(lambda x: {"logits": x}, x)
    with pytest.raises(ValueError, match="finite model outputs"):
        target_outputs(lambda x: x / 0, x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.uint8])
def test_own_regions_suit_any_size_and_type(dtype):
    # Below 16 pixels, and of integers, there are no built-in regions but the user's.
    images = (100 * models.images(2, 1, 12, 8)).to(dtype)
    tiles = models.tiles(12, 8, 4)

    def model(x):
        return x[:, :, :4, 4:].double().mean(dim=(1, 2, 3)).sqrt()

    found = MarginSaliency(model, lambda image: tiles[None]).attribute(
        images, 0, n_evaluations=65
    )
    expected = model(images)[:, None, None, None] * (tiles == 1)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
