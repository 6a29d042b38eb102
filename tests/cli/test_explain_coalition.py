"""``explain --method coalition``: one image at a time, and its coalitions."""

import dataclasses
import json
import warnings
from argparse import Namespace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models
from torchvision.transforms._presets import ImageClassification

from captum_margin.attr import CoalitionPerturbation
from captum_margin.cli import classifier, main
from captum_margin.cli.explain import command as explain
from captum_margin.cli.explain.methods import METHODS

SIZE = 64


def photograph_of(seed):
    """A red, a green and a blue field with some noise."""
    pixels = np.zeros((72, 80, 3))
    pixels[:, :40, 0] = pixels[:36, 40:, 1] = pixels[36:, 40:, 2] = 200
    pixels += np.random.default_rng(seed).normal(0, 6, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "squeezenet.pt"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(models.squeezenet1_0().state_dict(), path)
    return path


@pytest.fixture(scope="module")
def small_load():
    """``load`` with images of 64 x 64 pixels, so that the tests are quick."""

    def load(*arguments):
        preset = ImageClassification(crop_size=SIZE, resize_size=SIZE)
        return dataclasses.replace(classifier.load(*arguments), preprocess=preset)

    return load


@pytest.fixture
def run(weights, small_load, tmp_path, capsys, monkeypatch):
    """Runs the method into ``out``; gives status, stdout, stderr."""
    monkeypatch.setattr(explain, "load", small_load)

    def explain_with(*arguments):
        options = ["--method", "coalition", "--weights", weights]
        options += ["--out", tmp_path / "out"]
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            status = main(["explain", *map(str, [*arguments, *options])])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return explain_with


@pytest.fixture
def photograph(tmp_path):
    photograph_of(0).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def read_record(tmp_path, name="photo"):
    return json.loads((tmp_path / "out" / f"{name}.json").read_text())


def test_record_and_pictures(run, photograph, tmp_path):
    status, output, error = run(photograph, "--n-coalitions", 5, "--seed", 3)
    assert (status, error) == (0, "")
    record = read_record(tmp_path)
    assert record["method"] == "coalition"
    assert record["picture"] == "photo.png"
    assert record["further_pictures"] == ["photo-coalitions.png"]
    assert record["settings"]["n_coalitions"] == 5
    assert record["settings"]["seed"] == 3
    found = record["coalitions"]
    assert sum(found["coalition_sizes"]) == SIZE * SIZE
    assert 2 <= found["n_coalitions"] == len(found["coalition_sizes"]) <= 5
    # One pass finds the coalitions, two score the image and the baseline, one is made
    # at each step, and at every fifth another, of what is kept being taken away.
    steps = found["n_steps"]
    assert record["forward_passes"] == steps + steps // 5 + 3
    line = (
        f"{found['n_coalitions']} coalitions, {found['n_steps']} steps, "
        f"{found['kept']:.0%} of the image kept"
    )
    assert line in output
    for name in ("photo.png", "photo-coalitions.png", "photo.json"):
        assert str(tmp_path / "out" / name) in output
    for name in ("photo.png", "photo-coalitions.png"):
        with Image.open(tmp_path / "out" / name) as picture:
            assert np.asarray(picture.convert("RGB")).std() > 20


@pytest.mark.parametrize("count", [None, 4])
def test_it_is_the_method_as_python_runs_it(count, weights, small_load):
    classifier = small_load("squeezenet1_0", str(weights), torch.device("cpu"))
    arguments = Namespace(n_coalitions=count, seed=2)
    method = METHODS["coalition"].prepare(arguments, classifier)
    image = classifier.preprocess(photograph_of(1))[None]
    explained = method(image, 7)
    options = {} if count is None else {"n_coalitions": count}
    expected, details = CoalitionPerturbation(classifier.model).attribute(
        image, target=7, seed=2, return_details=True, **options
    )
    torch.testing.assert_close(explained.explanation.attributions, expected)
    record = explained.record["coalitions"]
    assert record["mean_of_map"] == pytest.approx(float(expected.mean()), abs=1e-5)
    assert record["kept"] == pytest.approx(float(details.kept.mean()), abs=1e-5)
    # The borders drawn are those of the coalitions, and no others.
    (draw,) = explained.pictures.values()
    plain, bordered = (np.asarray(axis.images[0].get_array()) for axis in draw().axes)
    assert np.abs(plain - shown(classifier, image)).max() < 1e-5
    changed = (plain != bordered).any(axis=2)
    assert (bordered[changed] == (1, 1, 0)).all()
    numbers = details.coalitions[0].numpy()
    across = numbers[:, 1:] != numbers[:, :-1]
    assert changed.any() and (changed[:, 1:] | changed[:, :-1])[across].all()
    even = np.pad(numbers, 1, mode="edge")
    even = np.lib.stride_tricks.sliding_window_view(even, (3, 3))
    even = even.min(axis=(2, 3)) == even.max(axis=(2, 3))
    assert not changed[even].any()


def shown(classifier, image):
    """An image as it was before it was normalised, (H, W, C)."""
    pixels = image[0].permute(1, 2, 0).double().numpy()
    pixels = pixels * np.array(classifier.std) + np.array(classifier.mean)
    return pixels.clip(0, 1)


def test_images_one_by_one(run, photograph, tmp_path):
    # The second has the name that the first one's further picture has.
    photograph_of(1).save(tmp_path / "photo-coalitions.png")
    status, _, error = run(photograph, tmp_path / "photo-coalitions.png")
    assert (status, error) == (0, "")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    stems = ("photo", "photo-coalitions-2")
    endings = (".png", "-coalitions.png", ".json")
    assert names == {stem + ending for stem in stems for ending in endings}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--n-coalitions", "4"], "--n-coalitions goes with --method coalition"),
        (["--n-coalitions", "0"], "expected 1 or more (got 0)"),
        (
            ["--method", "coalition", "--n-evaluations", "80"],
            "--n-evaluations goes with --method margin (got coalition)",
        ),
        (
            ["--method", "coalition", "--prior", "gradcam"],
            "--prior goes with --method margin (got coalition)",
        ),
    ],
)
def test_options_of_other_methods(options, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["explain", "cat.jpg", *options])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
