"""The command line as its user meets it: files, printed lines, exit status."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models

import captum_margin
from captum_margin import Explanation
from captum_margin.cli import classifier, main
from captum_margin.cli.demo import command as demo
from captum_margin.cli.explain import command as explain
from captum_margin.cli.explain import methods
from captum_margin.cli.explain.explained import Explained

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of untrained SqueezeNet weights."""
    path = tmp_path_factory.mktemp("weights") / "squeezenet.pt"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = models.squeezenet1_0()
    torch.save(model.state_dict(), path)
    return path


@pytest.fixture
def photograph(tmp_path):
    """An image of two colours, wider than high."""
    pixels = np.zeros((60, 90, 3), dtype=np.uint8)
    pixels[20:40, 30:60] = (255, 200, 0)
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    return path


def replace_margin(monkeypatch, prepare):
    method = dataclasses.replace(methods.METHODS["margin"], prepare=prepare)
    monkeypatch.setitem(methods.METHODS, "margin", method)


@pytest.fixture
def stand_in(monkeypatch):
    """A method that costs nothing; holds the arguments of its calls."""
    calls = []

    def prepare(args, classifier):
        settings = {"n_evaluations": args.n_evaluations, "seed": args.seed}

        def method(image, target):
            calls.append((target, *settings.values()))
            return Explained(Explanation(image.abs(), 0, "M", settings, n_forward=17))

        return method

    replace_margin(monkeypatch, prepare)
    return calls


@pytest.fixture
def run(weights, tmp_path, capsys):
    """Runs ``explain`` with the weights, into ``out``; gives status, stdout, stderr."""

    def explain_with(*arguments):
        options = [] if "--weights" in arguments else ["--weights", str(weights)]
        if "--out" not in arguments:
            options += ["--out", str(tmp_path / "out")]
        status = main(["explain", *map(str, arguments), *options])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return explain_with


def assert_one_error_line(error, *parts):
    assert error.startswith("captum-margin: error: ")
    assert error.count("\n") == 1 and error.endswith("\n")
    for part in parts:
        assert part in error


def assert_not_blank(path):
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape[1] > 500
    assert pixels.std() > 20


def test_picture_record_and_top_classes(
    run, photograph, weights, stand_in, tmp_path, capsys
):
    status, output, error = run(
        photograph, "--target", "7", "--n-evaluations", 60, "--seed", 3
    )
    assert (status, error) == (0, "")
    assert stand_in == [(7, 60, 3)]
    assert_not_blank(tmp_path / "out" / "photo.png")

    # The same classification by hand, with the standard ImageNet preprocessing.
    model = models.squeezenet1_0()
    model.load_state_dict(torch.load(weights, weights_only=True))
    preset = models.SqueezeNet1_0_Weights.IMAGENET1K_V1.transforms()
    pixels = preset(Image.open(photograph).convert("RGB"))[None]
    with torch.no_grad():
        probabilities = model.eval()(pixels).softmax(dim=1)[0]
    names = models.SqueezeNet1_0_Weights.IMAGENET1K_V1.meta["categories"]

    record = json.loads((tmp_path / "out" / "photo.json").read_text())
    assert record.pop("seconds") >= 0 and record.pop("request")["seed"] == 3
    assert record.pop("image_sha256") == sha256(photograph.read_bytes()).hexdigest()
    versions = record.pop("versions")
    assert versions["captum_margin"] == captum_margin.__version__
    assert versions["captum"] and versions["torch"] and versions["python"]
    top = record.pop("top_classes")
    values, indices = probabilities.topk(5)
    assert [entry["index"] for entry in top] == indices.tolist()
    assert [entry["name"] for entry in top] == [names[i] for i in indices]
    found = [entry["probability"] for entry in top]
    np.testing.assert_allclose(found, values, atol=1e-6)
    assert record.pop("target") == {
        "index": 7,
        "name": "cock",
        "probability": pytest.approx(float(probabilities[7]), abs=1e-6),
    }
    assert record == {
        "image": str(photograph),
        "picture": "photo.png",
        "model": "squeezenet1_0",
        "weights": str(weights),
        "device": "cpu",
        "input_shape": [1, 3, 224, 224],
        "method": "margin",
        "settings": {"n_evaluations": 60, "seed": 3},
        "forward_passes": 17,
    }
    for rank, entry in enumerate(top, start=1):
        line = f"  {rank}. {entry['probability']:.3f}  {entry['name']} "
        assert line in output
    assert re.search(r"cock \(7\)  <- explained", output)


def test_the_real_method_explains_the_same_twice(run, photograph, tmp_path):
    records = []
    for folder in ("first", "second"):
        options = ("--n-evaluations", 48, "--seed", 5, "--out", tmp_path / folder)
        assert run(photograph, *options)[0] == 0
        assert_not_blank(tmp_path / folder / "photo.png")
        records.append(json.loads((tmp_path / folder / "photo.json").read_text()))
    pictures = [(tmp_path / f / "photo.png").read_bytes() for f in ("first", "second")]
    assert pictures[0] == pictures[1]
    assert records[0]["forward_passes"] == records[1]["forward_passes"] == 48
    assert records[0]["settings"] == records[1]["settings"]
    settings = records[0]["settings"]
    assert (settings["n_evaluations"], settings["seed"]) == (48, 5)
    assert (settings["domain"], settings["softmax"]) == ("unions", True)


def test_grad_cam_as_a_prior(run, photograph, tmp_path):
    settings = []
    for options in ((), ("--prior", "gradcam")):
        out = tmp_path / str(len(options))
        given = ("--n-evaluations", 48, "--out", out, "--maps")
        assert run(photograph, *given, *options)[0] == 0
        record = json.loads((out / "photo.json").read_text())
        assert record["forward_passes"] == 48
        assert record["request"]["options"]["prior"] == record["settings"]["prior"]
        settings.append(record["settings"]["prior"])
    assert settings == [None, "gradcam"]
    maps = [
        captum_margin.Explanation.load(tmp_path / folder / "photo.npz").attributions
        for folder in ("0", "2")
    ]
    assert not torch.equal(*maps)


def test_default_target_is_the_top_class(run, photograph, stand_in, tmp_path):
    status, output, _ = run(photograph)
    record = json.loads((tmp_path / "out" / "photo.json").read_text())
    assert status == 0
    assert record["target"] == record["top_classes"][0]
    assert stand_in[0][0] == record["target"]["index"]
    assert output.count("<- explained") == 1


def test_target_by_name(run, photograph, stand_in):
    assert run(photograph, "--target", "Golden Retriever")[0] == 0
    assert stand_in[0][0] == 207


def test_curves_are_recorded(run, photograph, stand_in, tmp_path):
    assert run(photograph, "--curves")[0] == 0
    record = json.loads((tmp_path / "out" / "photo.json").read_text())
    curves = record["curves"]
    assert curves["fractions"][0] == 0 and curves["fractions"][-1] == 1
    # Both curves pass through the image's own score: kept whole, or untouched.
    whole = record["target"]["probability"]
    assert curves["insertion"][-1] == pytest.approx(whole, abs=2e-6)
    assert curves["deletion"][0] == pytest.approx(whole, abs=2e-6)
    area = np.trapezoid(curves["deletion"], curves["fractions"])
    assert curves["deletion_auc"] == pytest.approx(area, rel=1e-4)
    assert curves["settings"]["n_steps"] == len(curves["fractions"]) - 1
    assert curves["forward_passes"] > 0


def test_a_bad_image_does_not_stop_the_others(run, photograph, stand_in, tmp_path):
    text = tmp_path / "text.jpg"
    text.write_text("this is no picture")
    noise = torch.randint(256, (64, 64, 3), dtype=torch.uint8)
    Image.fromarray(noise.numpy()).save(tmp_path / "whole.png")
    cut = tmp_path / "cut.png"
    cut.write_bytes((tmp_path / "whole.png").read_bytes()[:4000])
    status, output, error = run(
        tmp_path / "none.jpg", text, photograph, cut, tmp_path / "whole.png"
    )
    assert status == 1
    lines = error.splitlines()
    assert len(lines) == 3
    assert lines[0].endswith(f"no such image: {tmp_path / 'none.jpg'}")
    assert lines[1].endswith(f"cannot read {text}: not an image")
    assert f"cannot read {cut}: " in lines[2]
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["photo.json", "photo.png", "whole.json", "whole.png"]
    assert "photo.json" in output and "whole.json" in output


def test_an_error_of_the_method_is_one_line_and_others_go_on(
    run, photograph, monkeypatch, tmp_path
):
    def method(image, target):
        if not calls:
            calls.append(1)
            raise RuntimeError("out of\nmemory")
        return Explained(Explanation(image, target, "M"))

    calls = []
    replace_margin(monkeypatch, lambda args, classifier: method)
    status, _, error = run(photograph, photograph)
    assert status == 1
    assert_one_error_line(error, f"cannot explain {photograph}: out of memory")
    assert len(list((tmp_path / "out").glob("*.json"))) == 1


def test_images_of_one_name_do_not_overwrite_each_other(
    run, photograph, stand_in, tmp_path
):
    other = tmp_path / "other" / "photo.png"
    other.parent.mkdir()
    Image.open(photograph).convert("L").save(other)
    assert run(photograph, other)[0] == 0
    records = [
        json.loads((tmp_path / "out" / f"{stem}.json").read_text())["image"]
        for stem in ("photo", "photo-2")
    ]
    assert records == [str(photograph), str(other)]


def test_unknown_models_classes_and_devices(run, photograph, stand_in):
    error = run(photograph, "--model", "squeezenet")[2]
    assert_one_error_line(error, "'squeezenet'", "did you mean squeezenet1_")
    assert_one_error_line(run(photograph, "--model", "zzz")[2], "torchvision has alex")
    for target, part in [
        ("goldn retriever", "did you mean golden retriever"),
        ("1000", "expected a class from 0 to 999 (got 1000)"),
        ("Cardigan", "2 classes are named 'Cardigan'; give an index: 264, 474"),
        ("zzzzzz", "no class is named 'zzzzzz'"),
    ]:
        status, _, error = run(photograph, "--target", target)
        assert status == 1
        assert_one_error_line(error, part)
    for device in ("toaster", "cuda:99"):
        status, _, error = run(photograph, "--device", device)
        assert status == 1
        assert_one_error_line(error, f"cannot use the device {device}")
    assert stand_in == []


def test_bad_weights(run, photograph, weights, stand_in, tmp_path):
    state = torch.load(weights, weights_only=True)
    del state["classifier.1.bias"]
    files = {
        "noise.pt": b"\x80\x02no pickle",
        "empty.pt": b"",
        "list.pt": [1, 2],
        "short.pt": state,
        "names.pt": {1: 2},
        "code.pt": models.squeezenet1_0,
    }
    for name, contents in files.items():
        if isinstance(contents, bytes):
            (tmp_path / name).write_bytes(contents)
        else:
            torch.save(contents, tmp_path / name)
    expected = {
        "none.pt": "no such weights file",
        "noise.pt": "cannot read the weights",
        "empty.pt": "cannot read the weights",
        "code.pt": "cannot read the weights",
        "list.pt": "expected a state dict",
        "short.pt": "do not fit squeezenet1_0",
        "names.pt": "expected a state dict",
    }
    for name, part in expected.items():
        status, _, error = run(photograph, "--weights", tmp_path / name)
        assert status == 1
        assert_one_error_line(error, part, str(tmp_path / name))
    assert stand_in == []


def test_a_failed_download_is_one_line(run, photograph, monkeypatch, stand_in):
    def no_network(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(models, "get_model", no_network)
    status, _, error = run(photograph, "--weights", "DEFAULT")
    assert status == 1
    assert_one_error_line(
        error, "cannot download", "no route to host", "--weights FILE"
    )


@pytest.mark.parametrize("command", ["demo", "explain"])
def test_a_folder_that_cannot_be_written_is_one_line(
    command, photograph, weights, tmp_path, capsys, stand_in
):
    (tmp_path / "file").write_text("in the way")
    images = [str(photograph)] if command == "explain" else []
    for folder in ("file", "file/below"):
        status = main([command, *images, "--out", str(tmp_path / folder)])
        assert status == 1
        assert_one_error_line(capsys.readouterr().err, "cannot write", "--out")
    assert stand_in == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND"),
        (["paint"], "invalid choice"),
        (["explain"], "IMAGE"),
        (["explain", "a.jpg", "--n-evaluations", "0"], "16 forward passes or more"),
        (["explain", "a.jpg", "--prior", "rise"], "(choose from"),
        (["explain", "a.jpg", "--n-evaluations", "many"], "or more (got many)"),
        (["explain", "a.jpg", "--method", "guess"], "invalid choice"),
    ],
)
def test_wrong_usage_exits_with_two(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_interruption_is_no_traceback(run, photograph, monkeypatch):
    def method(*args):
        raise KeyboardInterrupt

    replace_margin(monkeypatch, lambda args, classifier: method)
    status, _, error = run(photograph)
    assert (status, error) == (130, "captum-margin: interrupted\n")


def test_weights_file_takes_the_architectures_own_image_size(weights):
    device = torch.device("cpu")
    loaded = classifier.load("squeezenet1_0", str(weights), device)
    assert loaded.preprocess.crop_size == [224]
    assert loaded.mean == [0.485, 0.456, 0.406] and loaded.std == [0.229, 0.224, 0.225]
    assert not loaded.model.training
    known = models.get_model_weights("vit_b_16")
    smallest = min(known, key=lambda entry: entry.transforms().crop_size[0])
    assert smallest.transforms().crop_size == [224]


def test_demo_writes_one_page_of_pictures(tmp_path, capsys):
    state = torch.get_rng_state()
    assert main(["demo", "--out", str(tmp_path / "page")]) == 0
    assert torch.equal(torch.get_rng_state(), state)
    output = capsys.readouterr().out
    accuracy = float(re.search(r"names ([\d.]+)% of 360", output)[1])
    assert accuracy > 95
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    pictures = re.findall(r'<img src="([^"]+)"', page)
    assert pictures == [f"digit-{digit}.png" for digit in demo._DIGITS]
    for picture in pictures:
        assert f"wrote {tmp_path / 'page' / picture}" in output
        assert_not_blank(tmp_path / "page" / picture)
    assert f"{accuracy}%" in page and "Grad-CAM" in page and "<td>400</td>" in page
    assert "http" not in page  # nothing is fetched when it is opened


def test_the_program_in_a_process_of_its_own(tmp_path):
    def captum_margin_command(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "captum_margin", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )

    version = captum_margin_command("--version")
    assert version.stdout == f"captum-margin {captum_margin.__version__}\n"
    failed = captum_margin_command("explain", "cat.jpg", "--model", "squeeznet1_0")
    assert failed.returncode == 1 and failed.stdout == ""
    assert_one_error_line(failed.stderr, "did you mean squeezenet1_0")


def test_the_help_names_the_options(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["explain", "--help"])
    assert stopped.value.code == 0
    help_text = capsys.readouterr().out
    for option in ("--weights", "--target", "--curves", "--references", "--device"):
        assert option in help_text
    assert explain._DESCRIPTION in help_text
