"""What the localisation benchmarks rest on: known masks, kept maps, marks."""

import pytest
import torch

from tests.benchmarks.localisation import rows, shapes, table
from tests.benchmarks.localisation.rows import OURS
from tests.benchmarks.saliency.methods import Photograph
from tests.benchmarks.saliency.rows import ROWS, Method


@pytest.fixture(scope="module", params=shapes.PROBLEMS)
def problem(request):
    return request.param, shapes.made(request.param, "evaluation")


def test_the_mask_is_an_eighth_and_off_the_grid():
    mask = shapes.mask()
    assert mask.sum() == 128  # two shapes of four squares of 4 x 4
    assert not (shapes.place(shapes.T) & shapes.place(shapes.L)).any()
    # A square of an 8 x 8 grid over the border of a shape holds pixels of both kinds.
    squares = mask.float().unfold(0, 4, 4).unfold(1, 4, 4).mean(dim=(2, 3))
    assert squares[(squares > 0) & (squares < 1)].numel() > 16
    assert not (squares == 1).any()


def test_pictures_are_the_same_at_every_call_and_splits_are_others(problem):
    name, made = problem
    again = shapes.made(name, "evaluation")
    assert torch.equal(made.images, again.images)
    assert torch.equal(made.classes, again.classes)
    training = shapes.made(name, "training").images[: len(made.images)]
    assert (training - made.images).abs().max() > 1
    assert 0.45 < made.classes.float().mean() < 0.55
    for channel in (1, 2):
        assert torch.equal(made.images[:, 0], made.images[:, channel])


def test_only_the_places_of_the_shapes_tell_the_class(problem):
    """Means over 500 pictures a class: noise of 1, so a standard error of .06."""
    name, made = problem
    t, l = (shapes.place(shape) for shape in (shapes.T, shapes.L))  # noqa: E741
    grey = made.images[:, 0]
    first, second = (grey[made.classes == c].mean(dim=0) for c in (0, 1))
    if name == "linear":
        assert (first - second)[t].mean() > 0.5
        assert (first - second)[l].mean() < -0.5
        outside = torch.ones_like(t)
        outside[2:20, 2:20] = outside[14:32, 14:32] = False  # shapes and their blur
        assert (first - second)[outside].abs().max() < 0.4
    else:
        assert (first - second).abs().max() < 0.4  # no pixel alone tells anything
        of_t, of_l = grey[:, t].mean(dim=1), grey[:, l].mean(dim=1)
        same = (of_t * of_l > 0).long()
        assert (same == made.classes).float().mean() > 0.8


def test_a_map_is_made_once_for_each_image(tmp_path, monkeypatch):
    calls = []

    def make(photo):
        calls.append(photo.target)
        photo.model.n_forward += 7
        return photo.image[0, 0] * 2

    class Net:
        n_forward = 100

    monkeypatch.setitem(ROWS, "twice", Method("twice", make, "no model"))
    image = torch.rand(1, 3, 4, 4)
    photo = Photograph(Net(), image, 1, torch.zeros(1, 4, 4), 0)
    for _ in range(2):
        found = rows.kept_map(photo, "twice", tmp_path, "begin")
        assert torch.equal(found["map"], image[0, 0] * 2)
        assert found["n_forward"] == 7
    assert calls == [1]
    for other in (
        Photograph(Net(), image, 2, photo.segments, 0),
        Photograph(Net(), image + 1, 2, photo.segments, 0),
    ):
        rows.kept_map(other, "twice", tmp_path, "begin")
    assert calls == [1, 2, 2]
    assert not list(tmp_path.glob("*.part"))


def test_differences_are_paired_and_the_mark_asks_for_two_standard_errors():
    generator = torch.Generator().manual_seed(0)
    control = torch.rand(50, generator=generator)
    noise = torch.randn(50, generator=generator)
    noise = (noise - noise.mean()) / noise.std()
    of = {
        OURS: {"score": control + 1.0 + 0.1 * noise},
        "LayerGradCam": {"score": control + 0.01 * (noise + 0.9 * 2 / 50**0.5)},
        "RISE-800": {"score": control + 0.01 * (noise + 1.1 * 2 / 50**0.5)},
        "random": {"score": control - 0.5},
        "edges": {"score": control},
    }
    found = rows.summarised(of)
    assert found["RISE-800"]["it_minus_control"]["score"]["control"] == "edges"
    assert found["edges"]["ours_minus_it"]["score"]["mean"] == pytest.approx(1.0)
    assert found["edges"]["it_minus_control"] == {}
    better = {name: rows.beats_controls(row, "score") for name, row in found.items()}
    assert better == {
        OURS: True,
        "LayerGradCam": False,
        "RISE-800": True,
        "random": False,
        "edges": False,
    }


def test_tables_mark_what_is_no_better_than_no_model(monkeypatch):
    of = {
        name: {key: torch.tensor(values) for key in ("score", "above_mean")}
        for name, values in {
            "LayerGradCam": [0.3, 0.2, 0.25],
            "RISE-800": [0.8, 0.7, 0.9],
            "random": [0.25, 0.25, 0.25],
        }.items()
    }
    made = rows.summarised(of)
    for row in made.values():
        row["n_forward"] = 3.0
    record = {"networks": {"squeezenet": {"rows": made}}}
    monkeypatch.setattr(table, "load", lambda name: record)
    lines = table.grid_pointing().splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| RISE, black box, our budget",
        "| Captum LayerGradCam, white box",
        "| random, no model",
    ]
    assert [line.count(table.NOT_BETTER) for line in lines[2:]] == [0, 2, 0]
    assert "**0.800 ± 0.058**" in lines[2]
