"""``explain --method representative``: a folder of references, fitted once."""

import dataclasses
import json
import shutil
import warnings
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from captum.attr import LayerAttribution
from PIL import Image
from torchvision import models
from torchvision.transforms._presets import ImageClassification

from captum_margin.attr import RepresentativeInterpretation, tokens_to_maps
from captum_margin.cli import classifier, main
from captum_margin.cli.explain import command as explain
from captum_margin.cli.explain.layer import choose_layer
from captum_margin.cli.explain.methods import METHODS
from captum_margin.cli.output import CommandError

RED, BLUE, ABSENT = 7, 8, 9  # classes; no image is predicted as the last
SIZE = 64
N_EACH = 5


def colour_image(colour, seed):
    """One colour with a lighter square somewhere, and some noise."""
    generator = np.random.default_rng(seed)
    pixels = np.zeros((72, 80, 3))
    pixels[..., 0 if colour == "red" else 2] = 150 + 10 * seed
    top, left = generator.integers(0, 40, 2)
    pixels[top : top + 20, left : left + 20] += 60
    pixels += generator.normal(0, 8, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def small_load():
    """``load`` with images of 64 x 64 pixels, so that the tests are quick."""

    def load(*arguments):
        preset = ImageClassification(crop_size=SIZE, resize_size=SIZE)
        return dataclasses.replace(classifier.load(*arguments), preprocess=preset)

    return load


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """An untrained SqueezeNet whose head tells red from blue."""
    path = tmp_path_factory.mktemp("weights") / "squeezenet.pt"
    preset = ImageClassification(crop_size=SIZE, resize_size=SIZE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = models.squeezenet1_0().eval()
    pixels = torch.stack([preset(colour_image(c, 0)) for c in ("red", "blue")])
    head = model.classifier[1]
    with torch.no_grad():
        means = model.features(pixels).mean(dim=(2, 3))
        head.weight.zero_()
        head.bias.fill_(-1.0)
        head.bias[[RED, BLUE]] = 5.0
        # The scores are 15 and 5 for red, 5 and 15 for blue.
        head.weight[[RED, BLUE], :, 0, 0] = 10 * torch.linalg.pinv(means).T
    torch.save(model.state_dict(), path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Red references, in a folder within, and blue ones; other files too."""
    root = tmp_path / "references"
    (root / "deep" / "red").mkdir(parents=True)
    for seed in range(N_EACH):
        colour_image("red", seed).save(root / "deep" / "red" / f"red{seed}.PNG")
        colour_image("blue", seed).save(root / f"blue{seed}.jpg")
    (root / "labels.txt").write_text("no image")
    (root / "._blue0.jpg").write_bytes(b"what some systems leave behind")
    return root


@pytest.fixture
def photograph(tmp_path):
    path = tmp_path / "photo.png"
    colour_image("red", 20).save(path)
    return path


@pytest.fixture
def run(weights, folder, small_load, tmp_path, capsys, monkeypatch):
    """Runs the method into ``out``; gives status, stdout, stderr."""
    monkeypatch.setattr(explain, "load", small_load)

    def explain_with(*arguments):
        options = ["--method", "representative", "--weights", weights]
        if "--references" not in arguments:
            options += ["--references", folder]
        options += ["--out", tmp_path / "out"]
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            status = main(["explain", *map(str, [*arguments, *options])])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return explain_with


def read_record(tmp_path, name="photo"):
    return json.loads((tmp_path / "out" / f"{name}.json").read_text())


def args_of(folder, **others):
    given = {"references": folder, "layer": None, "n_boundaries": None, "seed": 0}
    return Namespace(**{**given, **others})


def assert_one_error_line(result, *parts):
    status, _, error = result
    assert status == 1
    assert error.startswith("captum-margin: error: ") and error.count("\n") == 1
    for part in parts:
        assert part in error


def test_record_and_pictures(run, photograph, folder, weights, tmp_path):
    status, output, error = run(photograph, "--n-boundaries", 6, "--seed", 3)
    assert (status, error) == (0, "")
    record = read_record(tmp_path)
    assert record["target"]["index"] == RED
    assert record["method"] == "representative"
    assert record["picture"] == "photo.png"
    assert record["further_pictures"] == ["photo-similar.png"]
    assert record["settings"] == {
        "layer": "features",
        "layer_shape": [512, 3, 3],
        "references": str(folder),
        "n_references": 2 * N_EACH,
        "n_boundaries": 6,
        "relu_attributions": True,
        "seed": 3,
    }
    fit = record["fit"]
    assert fit["seconds"] > 0 and record["seconds"] >= 0
    assert 0 <= fit["linearization_error"] < 1e-3
    assert record["versions"]["torch"] and record["note"] is None

    # What was planted: the polytope holds the red references, and nothing else.
    found = record["interpretation"]
    similar = found.pop("similar")
    assert found.pop("n_boundaries") >= 1
    assert found == {
        "n_predicted_alike": N_EACH,
        "n_covered": N_EACH,
        "purity": 1.0,
        "representativeness": N_EACH / 40,
        "tau": 0,
        "own_boundary": False,
    }
    assert len(similar) == 4
    for entry in similar:
        assert Path(entry["path"]).parent == folder / "deep" / "red"
    distances = [entry["distance"] for entry in similar]
    assert distances == sorted(distances)

    assert f"layer features (512 maps of 3 x 3), {2 * N_EACH} references" in output
    covered = f"covered: {N_EACH} of {N_EACH} references predicted as cock, 0 of 5"
    assert covered in output
    for name in ("photo.png", "photo-similar.png", "photo.json"):
        assert str(tmp_path / "out" / name) in output
    for name in ("photo.png", "photo-similar.png"):
        with Image.open(tmp_path / "out" / name) as picture:
            assert np.asarray(picture.convert("RGB")).std() > 20


@pytest.mark.parametrize("target", [RED, BLUE])
def test_it_is_the_method_as_python_runs_it(target, weights, folder, small_load):
    classifier = small_load("squeezenet1_0", str(weights), torch.device("cpu"))
    method = METHODS["representative"].prepare(args_of(folder), classifier)

    def read(path):
        return classifier.preprocess(Image.open(path).convert("RGB"))

    mixed = colour_image("red", 3)  # predicted as red, with evidence for blue
    mixed.paste(colour_image("blue", 3).crop((0, 0, 14, 72)), (0, 0))

    # Sorted by path: blue0 to blue4, then those in "deep".
    paths = [*sorted(folder.glob("blue?.jpg")), *sorted(folder.glob("deep/red/*"))]
    image = classifier.preprocess(mixed)[None]
    explainer = RepresentativeInterpretation(
        classifier.model, classifier.model.features
    )
    explainer.fit(torch.stack([read(path) for path in paths]), seed=0)
    expected = explainer.attribute(image, target=target, relu_attributions=True)

    explained = method(image, target)
    maps = explained.explanation.attributions
    assert maps.shape == image.shape
    upsampled = LayerAttribution.interpolate(expected, (SIZE, SIZE), "bilinear")
    assert float(upsampled.max()) > 0
    torch.testing.assert_close(maps, upsampled.expand_as(image))
    found = explained.record["interpretation"]
    if target == BLUE:
        assert found is None
        return
    one = explainer.interpret(image)
    indices, distances = one.similar(4)
    assert [entry["reference"] for entry in found["similar"]] == indices.tolist()
    assert [entry["path"] for entry in found["similar"]] == [
        str(paths[index]) for index in indices
    ]
    recorded = [entry["distance"] for entry in found["similar"]]
    np.testing.assert_allclose(recorded, distances, rtol=1e-4, atol=1e-5)
    assert found["n_boundaries"] == len(one.boundaries.bias)


def test_fitted_once_and_every_pass_is_counted(
    run, photograph, tmp_path, monkeypatch, small_load
):
    fits, passes = [], []
    fit = RepresentativeInterpretation.fit

    def counting_fit(self, *args, **kwargs):
        fits.append(1)
        return fit(self, *args, **kwargs)

    def counting_load(*args):
        classifier = small_load(*args)
        classifier.model.register_forward_pre_hook(
            lambda model, inputs: passes.append(len(inputs[0]))
        )
        return classifier

    monkeypatch.setattr(RepresentativeInterpretation, "fit", counting_fit)
    monkeypatch.setattr(explain, "load", counting_load)
    # The second has the name that the first one's further picture has.
    names = ("photo", "photo-similar", "blue")
    colour_image("blue", 21).save(tmp_path / "blue.png")
    shutil.copy(photograph, tmp_path / "photo-similar.png")
    status, _, error = run(*(tmp_path / f"{name}.png" for name in names))
    assert (status, error) == (0, "")
    assert len(fits) == 1
    stems = ("photo", "photo-similar-2", "blue")
    records = [read_record(tmp_path, stem) for stem in stems]
    assert [record["target"]["index"] for record in records] == [RED, RED, BLUE]
    assert all(record["fit"] == records[0]["fit"] for record in records)
    assert len(list((tmp_path / "out").iterdir())) == 9
    # Beside what is recorded: the layer's shape; and for every image its
    # classification, and the maps of the image and four references to draw.
    recorded = sum(record["forward_passes"] for record in records)
    recorded += records[0]["fit"]["forward_passes"]
    assert sum(passes) == recorded + 1 + 3 * (1 + 5)


def test_a_class_that_is_not_predicted(run, photograph, tmp_path):
    status, output, error = run(photograph, "--target", BLUE)
    assert (status, error) == (0, "")
    record = read_record(tmp_path)
    assert record["interpretation"] is None and record["further_pictures"] == []
    assert not (tmp_path / "out" / "photo-similar.png").exists()
    assert "no picture of similar references: hen is not predicted" in record["note"]
    assert "most similar of the 5 references predicted as hen" in record["note"]
    assert record["note"] in output

    assert run(photograph, "--target", ABSENT)[0] == 0
    note = read_record(tmp_path)["note"]
    assert "own boundary" in note and "0 references are predicted as ostrich" in note


def test_references_of_one_class_leave_the_images_own_boundary(
    run, photograph, folder, tmp_path
):
    red = folder / "deep"
    status, output, error = run(photograph, "--references", red)
    assert (status, error) == (0, "")
    record = read_record(tmp_path)
    assert record["interpretation"]["own_boundary"] is True
    assert record["settings"]["n_boundaries"] == N_EACH  # there are no more
    assert "own boundary" in record["note"] and record["note"] in output
    assert record["further_pictures"] == ["photo-similar.png"]


def test_references_without_the_class_name_those_nearest(
    run, photograph, folder, tmp_path
):
    shutil.rmtree(folder / "deep")  # the red ones
    status, output, error = run(photograph)
    assert (status, error) == (0, "")
    record = read_record(tmp_path)
    found = record["interpretation"]
    assert (found["n_predicted_alike"], found["purity"]) == (0, 0.0)
    assert found["representativeness"] == 0.0
    note = record["note"]
    assert note.endswith("nearest classes among the references: hen")
    assert note in output and "Grad-CAM's" in note
    assert record["further_pictures"] == ["photo-similar.png"]


def test_unreadable_references_are_listed_and_left_out(
    run, photograph, folder, tmp_path
):
    (folder / "a.jpg").write_text("no picture")
    noise = np.random.default_rng(0).integers(256, size=(90, 90, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "whole.jpg")
    contents = (folder / "whole.jpg").read_bytes()
    (folder / "whole.jpg").unlink()
    (folder / "cut.jpg").write_bytes(contents[: len(contents) // 2])
    with Image.open(folder / "cut.jpg") as cut:
        cut.verify()  # PIL's quick look sees nothing wrong
    status, _, error = run(photograph)
    assert status == 0
    first, second = error.splitlines()
    assert first == (
        f"captum-margin: reference left out: cannot read {folder / 'a.jpg'}: "
        "not an image"
    )
    assert f"cannot read {folder / 'cut.jpg'}: " in second and "truncated" in second
    record = read_record(tmp_path)
    assert record["settings"]["n_references"] == 2 * N_EACH
    for entry in record["interpretation"]["similar"]:
        assert "red" in Path(entry["path"]).name


def test_bad_folders(run, photograph, tmp_path):
    empty, broken = tmp_path / "empty", tmp_path / "broken"
    empty.mkdir()
    broken.mkdir()
    (empty / "notes.txt").write_text("no image")
    (broken / "a.png").write_text("no image")
    for given, part in [
        (tmp_path / "none", "no folder: --references"),
        (photograph, "expected a folder (got a file)"),
        (empty, "no images in --references"),
    ]:
        assert_one_error_line(run(photograph, "--references", given), part, str(given))
    status, _, error = run(photograph, "--references", broken)
    assert status == 1
    assert error.splitlines()[1:] == [
        f"captum-margin: error: none of the 1 images in {broken} can be read"
    ]


def test_layers_by_name(run, photograph, tmp_path):
    assert run(photograph, "--layer", "features.9.expand3x3")[0] == 0
    assert read_record(tmp_path)["settings"]["layer"] == "features.9.expand3x3"
    for name, parts in {
        "feature": ("no layer 'feature'", "did you mean features"),
        "zzz": ("no layer 'zzz'", "it has features, classifier"),
        "classifier": ("expected a layer with maps", "(1, 1000, 1, 1)"),
    }.items():
        assert_one_error_line(run(photograph, "--layer", name), *parts)


TOKENS = "encoder.layers.encoder_layer_%d.ln_1"


@pytest.mark.parametrize(
    ("name", "given", "layer", "shape"),
    [
        ("squeezenet1_0", None, "features", (512, 13, 13)),
        ("resnet18", None, "layer4", (512, 7, 7)),
        ("swin_t", None, "permute", (768, 7, 7)),
        ("vit_b_16", None, TOKENS % 11, (768, 14, 14)),
        ("vit_b_16", TOKENS % 5, TOKENS % 5, (768, 14, 14)),
        ("swin_t", "features.5", "features.5", (384, 14, 14)),  # channels last
    ],
)
def test_the_layer_found_is_the_last_with_maps(name, given, layer, shape):
    with torch.device("meta"):  # shapes without numbers
        image = torch.zeros(1, 3, 224, 224)
        found = choose_layer(models.get_model(name).eval(), image, given)
    assert (found.name, found.shape) == (layer, shape)
    of_tokens = name == "vit_b_16" or given is not None
    assert found.reshape is (tokens_to_maps if of_tokens else None)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("vit_b_16", ["heads", "encoder.layers.encoder_layer_0.self_attention"]),
        ("swin_t", ["head", "avgpool"]),
    ],
)
def test_layers_without_maps(name, wrong):
    with torch.device("meta"):
        model, image = models.get_model(name).eval(), torch.zeros(1, 3, 224, 224)
        for layer in wrong:
            with pytest.raises(CommandError, match="expected a layer with maps"):
                choose_layer(model, image, layer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--references", "a"], "--references goes with --method representative"),
        (["--layer", "a"], "--layer goes with --method representative"),
        (["--n-boundaries", "5"], "--n-boundaries goes with"),
        (["--method", "representative"], "representative needs --references"),
        (
            ["--method", "representative", "--n-evaluations", "80"],
            "--n-evaluations goes with --method margin (got representative)",
        ),
        (["--n-boundaries", "0"], "expected 1 or more (got 0)"),
    ],
)
def test_options_of_other_methods(options, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["explain", "cat.jpg", *options])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
