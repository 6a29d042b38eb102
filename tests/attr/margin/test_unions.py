"""The nodes and their evidence, one part at a time, against NumPy."""

import math

import numpy as np
import pytest
import torch

from captum_margin.attr.margin.cross_energy import cross_energy
from captum_margin.attr.margin.domains import focused
from captum_margin.attr.margin.domains import tents as tent_domain
from captum_margin.attr.margin.domains.axes import CELLS, coarse_shape, enlarge
from captum_margin.attr.margin.domains.focused import FocusedUnions
from captum_margin.attr.margin.domains.grids import ShiftedGrids
from captum_margin.attr.margin.domains.region_unions import RegionUnions
from captum_margin.attr.margin.domains.single_regions import SingleRegions
from captum_margin.attr.margin.domains.tents import TentUnions
from tests.helpers import models
from tests.reference import margin_saliency_reference as reference

EXACT = {"rtol": 1e-10, "atol": 1e-13}
CPU, DOUBLE = torch.device("cpu"), torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draws(*shape, seed=0):
    return torch.rand(*shape, generator=seeded(seed), dtype=DOUBLE)


@pytest.mark.parametrize("n_neighbors", [1, 3, 10, 38, 39, None])
@pytest.mark.parametrize("binary", [False, True])
def test_cross_energy(n_neighbors, binary):
    presence = draws(40, 6)
    presence = (presence > 0.5).to(DOUBLE) if binary else presence
    scores, kinds = draws(40, seed=1), torch.arange(40) % 3
    sizes = presence.mean(dim=1)  # with ties where binary
    found = cross_energy(scores, presence, sizes, kinds, n_neighbors=n_neighbors)
    expected = reference.cross_energy(
        scores.numpy(), presence.numpy(), sizes.numpy(), kinds.numpy(), n_neighbors
    )
    np.testing.assert_allclose(found.evidence, expected, **EXACT)
    if n_neighbors is None or n_neighbors >= 39:  # what is left is the deviation
        means = torch.stack([scores[kinds == kind].mean() for kind in range(3)])
        torch.testing.assert_close(found.filtered, scores - means[kinds], **EXACT)


def test_cross_energy_finds_additive_parts():
    presence = (draws(400, 8) > 0.5).to(DOUBLE)
    worth = torch.linspace(-1, 2, 8, dtype=DOUBLE)
    kinds = torch.zeros(400, dtype=torch.int64)
    found = cross_energy(
        presence @ worth, presence, presence.mean(dim=1), kinds, n_neighbors=20
    )
    torch.testing.assert_close(found.evidence, worth, rtol=0, atol=0.35)


def test_cross_energy_where_like_sizes_are_one_union():
    # Nothing is left of presence: the covariance stands in.
    presence = torch.tensor([[1.0, 0.0]] * 3 + [[1.0, 1.0]] * 3, dtype=DOUBLE)
    scores, sizes = draws(6), presence.mean(dim=1)
    kinds = torch.zeros(6, dtype=torch.int64)
    found = cross_energy(scores, presence, sizes, kinds, n_neighbors=2).evidence
    expected = reference.cross_energy(
        scores.numpy(), presence.numpy(), sizes.numpy(), kinds.numpy()
    )
    np.testing.assert_allclose(found, expected, **EXACT)


def test_cross_energy_of_equal_scores_is_exactly_zero():
    presence, kinds = draws(20, 3), torch.zeros(20, dtype=torch.int64)
    scores = torch.full((20,), 0.1, dtype=DOUBLE)
    found = cross_energy(scores, presence, presence.mean(dim=1), kinds, n_neighbors=2)
    assert not found.evidence.any() and not found.filtered.any()


@pytest.mark.parametrize("size", [(21, 16), (30, 45)])
def test_tents_are_a_shifted_bilinear_grid(size):
    tents = TentUnions(6, size, seeded(), CPU, DOUBLE)
    nodes = torch.tensor([4, 1, 5])
    (masks,) = tents.masks(nodes)
    assert masks.shape == (3, 1, *size)
    cell = min(size) / CELLS[2]
    for node, mask in zip(nodes.tolist(), masks[:, 0].numpy(), strict=True):
        values, shift = tents.kept[node].numpy(), tents.grids.shifts[node].numpy()
        expected = reference.shifted_grid(values, shift, size, cell, size)
        np.testing.assert_allclose(mask, expected, **EXACT)
        samples = coarse_shape(size)
        expected = reference.shifted_grid(values, shift, size, cell, samples)
        np.testing.assert_allclose(tents.presence[node], expected.flatten(), **EXACT)
        np.testing.assert_allclose(tents.sizes[node], expected.mean(), **EXACT)


def test_tents_sum_to_one():
    grids = ShiftedGrids(3, (33, 18), (18 / 7,) * 2, seeded(), CPU, DOUBLE)
    n_points = math.prod(grids.shape)
    every = torch.eye(n_points, dtype=DOUBLE).view(n_points, *grids.shape)
    for grid in range(3):
        tents = grids.sample(every, torch.full((n_points,), grid), (33, 18))
        assert (tents >= 0).all()
        ones = torch.ones(33, 18, dtype=DOUBLE)
        torch.testing.assert_close(tents.sum(dim=0), ones, **EXACT)
        assert (tents.flatten(1).sum(dim=1) < 0.1 * ones.sum()).all()


def test_tents_are_kept_with_their_probability():
    probabilities = tent_domain.KEEP_PROBABILITIES
    tents = TentUnions(100 * len(probabilities), (28, 28), seeded(), CPU, DOUBLE)
    for kind, probability in enumerate(probabilities):
        kept = tents.kept[tents.kinds == kind]
        assert len(kept) == 100
        deviation = math.sqrt(probability * (1 - probability) / kept.numel())
        assert abs(float(kept.mean()) - probability) < 5 * deviation


def test_shifts_spread_over_a_cell():
    shifts = ShiftedGrids(2000, (28, 28), (4.0, 4.0), seeded(), CPU, DOUBLE).shifts
    assert 0 <= shifts.min() < 0.01 and 0.99 < shifts.max() < 1
    mean = torch.full((2,), 0.5, dtype=DOUBLE)
    torch.testing.assert_close(shifts.mean(dim=0), mean, rtol=0, atol=0.03)


def test_patches_are_about_square():
    assert coarse_shape((16, 20)) == (16, 20)  # never finer than pixels
    short, long = coarse_shape((224, 448))
    assert (short % CELLS[2], long) == (0, 2 * short)


def test_enlarge_is_bilinear():
    coarse = draws(2, 4, 5)
    for field, pixels in zip(coarse, enlarge(coarse, (9, 14)), strict=True):
        expected = reference.enlarged(field.numpy(), (9, 14))
        np.testing.assert_allclose(pixels, expected, **EXACT)


def test_focused_unions_against_the_restatement():
    size, n_unions = (26, 18), 8  # no size is half a patch
    patches = coarse_shape(size)
    focus = draws(math.prod(patches), seed=3)
    strengths, deleting = (-0.5, 2.0), 0.4
    unions = FocusedUnions(focus, n_unions, size, seeded(8), strengths, deleting)
    generator = seeded(8)
    cell = focused._CELLS_A_BUMP * min(size) / CELLS[2]
    shape = [math.ceil(side / cell) + 1 for side in size]
    shifts = torch.rand(n_unions, 2, generator=generator).double().numpy()
    drawn = torch.randn(n_unions, *shape, generator=generator).double().numpy()
    (masks,) = unions.masks(torch.arange(n_unions))
    assert unions.kinds.tolist() == [0, 0, 0, 0, 0, 1, 1, 1]
    for node in range(n_unions):
        deletes = node >= 5
        smallest, largest = focused._SIZES_OF_DELETION if deletes else focused._SIZES
        count, number = (3, node - 5) if deletes else (5, node)
        share = smallest + (largest - smallest) * (number + 0.5) / count
        strength = -0.5 + 2.5 * (number * (5**0.5 - 1) / 2 % 1)
        n_kept = round(share * len(focus))
        field = reference.shifted_grid(drawn[node], shifts[node], size, cell, patches)
        presence = reference.focused_presence(
            field.flatten(),
            focus.numpy(),
            n_kept,
            -strength if deletes else strength,
            focused._SOFTNESS,
        )
        np.testing.assert_allclose(unions.presence[node], presence, **EXACT)
        assert unions.sizes[node] == n_kept
        expected = reference.enlarged(presence.reshape(patches), size)
        np.testing.assert_allclose(masks[node, 0], expected, **EXACT)


def test_focused_unions_have_their_sizes_and_hold_the_focus():
    size = (24, 24)
    focus = 0.01 * draws(24, 24)  # no ties
    focus[4:10, 12:20] += 1.0
    unions = FocusedUnions(focus.flatten(), 60, size, seeded(), (2.0, 2.0))
    inside = (unions.presence > 0.5).sum(dim=1).to(DOUBLE)
    torch.testing.assert_close(inside, unions.sizes, rtol=0, atol=1.0)
    presence = unions.presence.view(-1, 24, 24)
    near, far = presence[:, 4:10, 12:20].mean(), presence[:, 14:, :10].mean()
    assert near > far + 0.3


def test_focused_unions_that_delete_leave_all_but_the_focus():
    size = (24, 24)
    focus = 0.01 * draws(24, 24)
    focus[4:10, 12:20] += 1.0
    unions = FocusedUnions(focus.flatten(), 60, size, seeded(), (2.0, 2.0), 0.5)
    smallest, largest = focused._SIZES_OF_DELETION
    left = unions.sizes[unions.kinds == 1] / focus.numel()
    assert (left >= smallest).all() and (left <= largest).all() and len(left) == 30
    presence = unions.presence[unions.kinds == 1].view(-1, 24, 24)
    near, far = presence[:, 4:10, 12:20].mean(), presence[:, 14:, :10].mean()
    assert near < far - 0.3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_unit_of_the_map_does_not_matter(dtype):
    focus = torch.rand(20 * 24, generator=seeded(3), dtype=dtype)

    def unions(of):
        return FocusedUnions(of, 30, (20, 24), seeded(), (1.0, 2.0), 0.5).presence

    expected = unions(focus)
    for power in (-110, -3, 5, 110):  # squares of the outer ones are no float32
        assert torch.equal(unions(focus * 2.0**power), expected)
    torch.testing.assert_close(unions(focus * 1e30), expected, rtol=1e-4, atol=1e-4)


def test_region_unions_are_halves_or_all():
    partition = models.tiles(9, 9, 3)[None]
    drawn = RegionUnions((partition,), 9, 400, seeded(), DOUBLE)
    assert not drawn.exhaustive and len(drawn) == 400
    assert abs(float(drawn.presence.mean()) - 0.5) < 5 * 0.5 / math.sqrt(3600)
    complete = RegionUnions((partition,), 9, 512, seeded(), DOUBLE)
    assert complete.exhaustive and len(complete) == 512
    assert len(complete.presence.unique(dim=0)) == 512


def test_single_regions_take_one_away_and_paint_by_size():
    scales = torch.stack([models.tiles(6, 5, 3), models.tiles(6, 5, 4) + 4])
    domain = SingleRegions((scales,), 8, DOUBLE)
    assert domain.sizes.tolist() == [9, 6, 9, 6, 16, 4, 8, 2]
    (masks,) = domain.masks(torch.arange(8))
    for node, mask in enumerate(masks):
        scale = scales[0] if node < 4 else scales[1]
        assert torch.equal(mask, (scale != node).to(DOUBLE))
    values = draws(8)
    (painted,) = domain.paint(values)
    for y in range(6):
        for x in range(5):
            a, b = int(scales[0, y, x]), int(scales[1, y, x])
            weights = 1 / domain.sizes[[a, b]]
            expected = (weights * values[[a, b]]).sum() / weights.sum()
            torch.testing.assert_close(painted[y, x], expected, **EXACT)
