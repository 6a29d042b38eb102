"""The grid pointing game: reference, laws, how grids are drawn, errors."""

import json
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from captum.attr import LayerAttribution, LayerGradCam
from torch import nn

from captum_margin.metrics import grid_pointing
from tests.reference import localization_reference as reference

COLOURS = 12


def colours(n=24, size=6, seed=0):
    """Images of one channel each, and the class that this channel is."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(n) % COLOURS
    x = 0.1 * torch.rand(n, COLOURS, size, size, generator=generator)
    x[torch.arange(n), classes] += 1.0
    return x.double(), classes


def names_colours(x):
    return 40 * x.mean(dim=(2, 3))


def finds_colours(x, target):
    """Positive only where the image of the class is: a perfect map."""
    return (x[torch.arange(len(x)), target][:, None] > 0.5).double()


def noise(x, target, seed=0):
    generator = torch.Generator().manual_seed(seed + int(target[0]))
    return torch.randn(len(x), 1, *x.shape[2:], generator=generator)


def test_a_perfect_map_has_one_and_its_complement_none():
    x, _ = colours()
    for size in ("full", "shrunk"):
        found = grid_pointing(names_colours, finds_colours, x, cell_size=size)
        assert found.scores.unique().tolist() == [1.0]
        assert found.mean_score == 1.0
        wrong = grid_pointing(
            names_colours,
            lambda grid, target: 1 - finds_colours(grid, target),
            x,
            cell_size=size,
        )
        assert wrong.scores.unique().tolist() == [0.0]
        assert wrong.n_empty == 0


@pytest.mark.parametrize(("n_cells", "chance"), [(2, 1 / 4), (3, 1 / 9)])
def test_constant_and_random_maps_have_chance(n_cells, chance):
    x, _ = colours()
    options = {"n_cells": n_cells, "n_grids": 20}

    def flat(grid, target):
        return torch.full((len(grid), 1, *grid.shape[2:]), 0.3)

    found = grid_pointing(names_colours, flat, x, **options)
    torch.testing.assert_close(found.scores, torch.full_like(found.scores, chance))
    # 12 x 12 pixels or more, all cells of 20 grids: the error is below .006.
    random = grid_pointing(names_colours, noise, x, **options)
    assert random.mean_score == pytest.approx(chance, abs=0.02)


@pytest.mark.parametrize("cell_size", ["full", "shrunk"])
@pytest.mark.parametrize("n_cells", [2, 3])
def test_equals_the_reference(n_cells, cell_size):
    x, classes = colours(size=7)
    seen = []

    def attribute(grid, target):
        value = noise(grid, target) + 2 * finds_colours(grid, target)
        seen.append((grid, value, target))
        return value

    found = grid_pointing(
        names_colours,
        attribute,
        x,
        classes.tolist(),
        n_cells=n_cells,
        n_grids=3,
        cell_size=cell_size,
    )
    n = n_cells**2
    assert found.scores.shape == found.cells.shape == (3, n)
    for number, (grid, value, target) in enumerate(seen):
        row, cell = divmod(number, n)
        assert target.tolist() == [found.targets[row, cell]]
        expected = reference.cell_share(value[0, 0].tolist(), n_cells, cell)
        np.testing.assert_allclose(found.scores[row, cell], expected, rtol=1e-12)
        side = 7 * n_cells if cell_size == "full" else 7
        assert grid.shape == (1, COLOURS, side, side)
        if cell_size == "full":
            for place in range(n):
                y, x_ = 7 * (place // n_cells), 7 * (place % n_cells)
                part = grid[0, :, y : y + 7, x_ : x_ + 7]
                assert torch.equal(part, x[found.images[row, place]])
    np.testing.assert_allclose(found.mean_score, found.scores.mean(), rtol=1e-12)
    means = found.scores.mean(dim=1).numpy()
    np.testing.assert_allclose(
        found.standard_error, means.std(ddof=1) / 3**0.5, rtol=1e-12
    )


def test_no_grid_has_a_class_twice_and_no_image_is_used_twice():
    x, classes = colours(n=30)
    for seed in range(5):
        found = grid_pointing(names_colours, finds_colours, x, seed=seed)
        assert found.images.shape == (7, 4)  # 28 of 30
        assert found.images.unique().numel() == 28
        assert torch.equal(found.targets, classes[found.images])
        assert all(row.unique().numel() == 4 for row in found.targets)
    again = grid_pointing(names_colours, finds_colours, x, seed=4)
    assert torch.equal(again.images, found.images)
    other = grid_pointing(names_colours, finds_colours, x, seed=3)
    assert not torch.equal(other.images, found.images)
    # Right cells are spread over the grid, not always the commonest class first.
    corner = Counter(found.targets[:, 0].tolist())
    assert len(corner) > 1


def test_as_many_grids_as_can_be_are_made_of_different_images():
    """Of one class many, of the others few: the large one has to be in every grid."""
    x, classes = colours(n=36)
    keep = torch.tensor([c == 0 or c in (1, 2, 3, 4, 5, 6) for c in classes.tolist()])
    x = torch.cat([x[keep], x[classes == 0]])
    found = grid_pointing(names_colours, finds_colours, x)
    assert (found.targets == 0).sum() == 6
    assert len(found.images) == 6  # 24 images, 6 of one class: one in each grid


def test_images_are_used_again_when_more_grids_are_asked_for():
    x, _ = colours(n=12)
    found = grid_pointing(names_colours, finds_colours, x, n_grids=8)
    counts = Counter(found.images.flatten().tolist())
    assert len(found.images) == 8
    assert set(counts.values()) <= {2, 3}


def test_only_confident_and_right_images_are_candidates():
    x, classes = colours(n=24)
    x[:3] *= 0.05  # pale: named, without confidence
    targets = classes.clone()
    targets[5] = 0  # the model decides otherwise
    found = grid_pointing(names_colours, finds_colours, x, targets, min_score=0.9)
    assert found.n_candidates == 20
    assert not set(found.images.flatten().tolist()) & {0, 1, 2, 5}
    assert found.settings["min_score"] == 0.9
    all_of_them = grid_pointing(names_colours, finds_colours, x, min_score=0.0)
    assert all_of_them.n_candidates == 24


def test_shrunk_images_must_be_confident_at_that_size():
    """Fine stripes are a class of their own that a smaller picture does not show."""
    x, classes = colours(n=24)
    stripes = torch.ones(6).double()
    stripes[::2] = -1.0
    x[:4] = 0.0
    x[torch.arange(4), classes[:4]] = stripes

    def sees_stripes(image):
        return 40 * image.clamp(min=0).mean(dim=(2, 3))

    full = grid_pointing(sees_stripes, finds_colours, x)
    assert full.n_candidates == 24
    shrunk = grid_pointing(sees_stripes, finds_colours, x, cell_size="shrunk")
    assert shrunk.n_candidates == 20
    assert not set(shrunk.images.flatten().tolist()) & {0, 1, 2, 3}


def test_maps_without_evidence_count_as_nothing_and_are_counted():
    x, _ = colours()

    def attribute(grid, target):
        value = finds_colours(grid, target)
        return value if int(target) % 2 else -value

    found = grid_pointing(names_colours, attribute, x, n_grids=6)
    even = found.targets % 2 == 0
    assert torch.equal(found.is_empty, even)
    assert torch.equal(found.scores, (~even).double())
    assert found.n_empty == int(even.sum()) > 0
    assert f"n_empty={found.n_empty}" in repr(found)


def test_laws_of_the_map():
    x, _ = colours()

    def scores(change, **options):
        def attribute(grid, target):
            return change(noise(grid, target) + finds_colours(grid, target))

        return grid_pointing(names_colours, attribute, x, n_grids=3, **options).scores

    expected = scores(lambda a: a)
    torch.testing.assert_close(scores(lambda a: 9 * a), expected)
    torch.testing.assert_close(scores(lambda a: torch.where(a < 0, 5 * a, a)), expected)
    torch.testing.assert_close(scores(lambda a: (a,)), expected)
    torch.testing.assert_close(scores(lambda a: a.expand(-1, 3, -1, -1)), expected)
    torch.testing.assert_close(scores(lambda a: a.requires_grad_()), expected)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_maps_of_any_resolution(mode):
    x, _ = colours()

    def coarse(grid, target):
        return noise(grid[:, :, ::3, ::3], target)

    def fine(grid, target):
        return LayerAttribution.interpolate(
            coarse(grid, target), tuple(grid.shape[2:]), mode
        )

    one, other = (
        grid_pointing(names_colours, method, x, n_grids=3, interpolate_mode=mode)
        for method in (coarse, fine)
    )
    torch.testing.assert_close(one.scores, other.scores, rtol=1e-5, atol=1e-6)


def test_batches_and_single_grids_agree():
    x, _ = colours(n=12)
    torch.manual_seed(0)
    layer = nn.Conv2d(COLOURS, COLOURS, 3).double()
    head = nn.Sequential(layer, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = lambda a: names_colours(a) + head(a)  # noqa: E731
    method = LayerGradCam(nn.Sequential(layer, nn.ReLU(), Head()), layer)
    results = [
        grid_pointing(
            model,
            method.attribute,
            x,
            attribute_options={"relu_attributions": True},
            batch_size=size,
        )
        for size in (1, 3, 50)
    ]
    for result in results[1:]:
        torch.testing.assert_close(result.scores, results[0].scores)
        torch.testing.assert_close(result.grid_scores, results[0].grid_scores)
    assert 0 < results[0].mean_score < 1


class Head(nn.Module):
    def forward(self, x):
        return names_colours(x)


def test_some_cells_only():
    x, _ = colours()
    found = grid_pointing(names_colours, finds_colours, x, n_grids=40, n_explained=1)
    assert found.scores.shape == found.cells.shape == (40, 1)
    assert set(found.cells.flatten().tolist()) == {0, 1, 2, 3}
    assert found.scores.unique().tolist() == [1.0]
    assert found.grid_scores.shape == (40, 4)
    two = grid_pointing(names_colours, finds_colours, x, n_grids=9, n_explained=2)
    assert (two.cells[:, 0] < two.cells[:, 1]).all()


def test_more_grids_begin_with_the_same():
    x, _ = colours()
    few, many = (
        grid_pointing(names_colours, finds_colours, x, n_grids=n, n_explained=1)
        for n in (3, 9)
    )
    assert torch.equal(few.images, many.images[:3])
    assert torch.equal(few.cells, many.cells[:3])


def test_scores_of_the_grids_are_the_models():
    x, _ = colours()
    seen = []

    def attribute(grid, target):
        seen.append(grid)
        return grid

    found = grid_pointing(names_colours, attribute, x, n_grids=3, n_explained=1)
    for grid, row, classes in zip(seen, found.grid_scores, found.targets, strict=True):
        expected = names_colours(grid).softmax(dim=1)[0, classes]
        torch.testing.assert_close(row, expected)


class OfOneSize(nn.Module):
    """A network that flattens: it takes 6 x 6 images and no others."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(COLOURS * 36, COLOURS).double()
        weight = torch.eye(COLOURS).repeat_interleave(36, dim=1) * 40 / 36
        self.linear.weight.data = weight.double()
        self.linear.bias.data.zero_()

    def forward(self, x):
        return self.linear(x.flatten(1))


def test_a_model_of_one_size_is_told_what_to_do():
    x, _ = colours()
    with pytest.raises(ValueError, match=r'12 x 12 .*cell_size="shrunk"'):
        grid_pointing(OfOneSize(), finds_colours, x)
    found = grid_pointing(OfOneSize(), finds_colours, x, cell_size="shrunk")
    assert found.mean_score == 1.0
    assert found.settings["grid_size"] == [6, 6]


def test_nothing_is_changed_and_nothing_printed(capsys):
    x, _ = colours()
    x.requires_grad_()
    model, rng = OfOneSize(), torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = grid_pointing(model, finds_colours, x, cell_size="shrunk")
    assert torch.equal(torch.get_rng_state(), rng)
    assert model.linear.weight.grad is None
    assert x.grad is None
    assert not found.scores.requires_grad
    assert torch.is_grad_enabled()
    assert capsys.readouterr().err == ""
    assert json.loads(json.dumps(found.settings)) == found.settings
    grid_pointing(names_colours, finds_colours, x, n_grids=1, show_progress=True)
    assert "grid pointing" in capsys.readouterr().err


def test_too_few_images_or_classes():
    x, classes = colours(n=24)
    with pytest.raises(ValueError, match="got 3 of 3 images, of 3 classes"):
        grid_pointing(names_colours, finds_colours, x[:3])
    with pytest.raises(ValueError, match="0 of 24 images"):
        grid_pointing(names_colours, finds_colours, x, min_score=1.1)
    same = x[classes < 3]
    with pytest.raises(ValueError, match="6 of 6 images, of 3 classes"):
        grid_pointing(names_colours, finds_colours, same)


def test_bad_options():
    x, classes = colours()

    def run(*arguments, **options):
        return grid_pointing(names_colours, finds_colours, x, *arguments, **options)

    for bad in (
        {"n_cells": 1},
        {"n_cells": 2.0},
        {"n_grids": 0},
        {"n_explained": 0},
        {"n_explained": 5},
        {"batch_size": 0},
    ):
        (name,) = bad
        with pytest.raises(ValueError, match=name):
            run(**bad)
    with pytest.raises(ValueError, match="cell_size to be"):
        run(cell_size="small")
    with pytest.raises(ValueError, match="at least 7 x 7"):
        run(cell_size="shrunk", n_cells=7)
    with pytest.raises(ValueError, match="interpolate_mode"):
        run(interpolate_mode="area")
    with pytest.raises(TypeError, match="targets to be integers"):
        run(classes.double())
    with pytest.raises(ValueError, match=r"targets of shape \(N,\) = \(24,\)"):
        run(classes[:5])
    with pytest.raises(ValueError, match="targets from 0 to 11"):
        run(classes + 1)


def test_bad_methods_models_and_images():
    x, _ = colours()
    with pytest.raises(TypeError, match="attribute to be callable"):
        grid_pointing(names_colours, "LayerGradCam", x)
    with pytest.raises(TypeError, match="one tensor"):
        grid_pointing(names_colours, lambda a, target: a.numpy(), x)
    with pytest.raises(ValueError, match="finite attributions"):
        grid_pointing(names_colours, lambda a, target: a / 0, x)
    with pytest.raises(ValueError, match="expected attributions of shape"):
        grid_pointing(names_colours, lambda a, target: a[:, 0], x)
    with pytest.raises(ValueError, match="outputs of shape"):
        grid_pointing(lambda a: a.mean(dim=(1, 2, 3)), finds_colours, x)
    with pytest.raises(ValueError, match="finite model outputs"):
        grid_pointing(lambda a: names_colours(a) / 0, finds_colours, x)
    with pytest.raises(ValueError, match="one batch of images"):
        grid_pointing(names_colours, finds_colours, x[0])
    with pytest.raises(TypeError, match="floating-point"):
        grid_pointing(names_colours, finds_colours, x.int())
