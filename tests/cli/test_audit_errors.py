"""``captum-margin audit``: one line for every mistake; the network's last layer."""

import csv
import os
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models

from captum_margin.cli import main
from captum_margin.cli.audit import folder
from captum_margin.cli.audit.folder import drop_classifier

DATA = os.environ.get("CAPTUM_MARGIN_DATA")


@pytest.fixture
def run(tmp_path, capsys):
    """Runs ``audit`` into ``out``; gives status, stdout, stderr."""

    def audit_with(*arguments):
        options = [] if "--out" in arguments else ["--out", str(tmp_path / "out")]
        status = main(["audit", *map(str, arguments), *options])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return audit_with


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "squeezenet.pt"
    torch.save(models.squeezenet1_1().state_dict(), path)
    return path


def assert_one_error_line(result, *parts):
    status, _, error = result
    assert status == 1
    assert error.startswith("captum-margin: error: ")
    assert error.count("\n") == 1 and error.endswith("\n")
    for part in parts:
        assert part in error


@pytest.mark.parametrize(
    ("contents", "options", "part"),
    [
        ("", [], "expected a header and rows (got none)"),
        ("a,label\n", [], "expected a header and rows (got none)"),
        ("a,label\nx,1\n", [], "no column"),
        ("a,label\n1,x\n2\n", [], "expected 2 cells in line 3"),
        ("a,label\n1,x\ntwo,x\n", [], "expected a number in column a, line 3"),
        ("a,label\n1,x\nnan,x\n", [], "(got nan in line 3, column a)"),
        ("a,label\n1,x\n2,\n", [], "no label in line 3"),
        ("a,kind\n1,x\n2,y\n", ["--labels", "kindd"], "did you mean kind?"),
        ("a,label\n1,x\n", [], "expected two samples or more (got 1)"),
        (b"a,label\n1,\xff\xfe\n", [], "cannot read"),
    ],
)
def test_tables_that_cannot_be_audited(run, contents, options, part, tmp_path):
    path = tmp_path / "data.csv"
    path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    assert_one_error_line(run(path, *options), part)


@pytest.mark.parametrize(
    ("arrays", "part"),
    [
        ({"x": np.ones((3, 2))}, "an array named features or images (got x)"),
        ({"features": np.ones(3)}, "expected numbers of shape (N, F, ...)"),
        ({"features": np.array([["a"], ["b"]])}, "expected numbers of shape"),
        ({"features": np.array([[1.0], [np.inf]])}, "(got inf in sample 1)"),
        ({"features": np.ones((3, 2)), "labels": np.ones(2)}, "labels of shape (N,)"),
        ({"features": np.ones((3, 2)), "names": np.ones(2)}, "expected 3 names"),
        ({"images": np.ones((3, 2, 2, 7))}, "expected images of shape (N, H, W)"),
        ({"features": np.array([{}, {}])}, "save it without objects"),
        ({"features": np.ones((1, 2))}, "expected two samples or more (got 1)"),
    ],
)
def test_arrays_that_cannot_be_audited(run, arrays, part, tmp_path):
    np.savez(tmp_path / "data.npz", **arrays)
    assert_one_error_line(run(tmp_path / "data.npz"), part)


def test_paths_that_are_no_data(run, tmp_path, weights):
    options = ["--weights", weights, "--model", "squeezenet1_1"]
    assert_one_error_line(run(tmp_path / "none"), "no such file or folder")
    (tmp_path / "notes.txt").write_text("x")
    assert_one_error_line(run(tmp_path / "notes.txt"), "a folder, a .csv or a .npz")
    (tmp_path / "noise.npz").write_bytes(b"PK\x03\x04 no archive")
    assert_one_error_line(run(tmp_path / "noise.npz"), "cannot read")
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("features.npy", "no array")
    assert_one_error_line(run(tmp_path / "text.npz"), "expected an array as features")
    np.save(tmp_path / "one.npy", np.ones((3, 2)))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    assert_one_error_line(run(tmp_path / "one.npz"), "expected named arrays")
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    assert_one_error_line(run(photographs, *options), "no images in")
    (photographs / "a.jpg").write_text("no image")
    assert_one_error_line(run(photographs, *options), "none of the 1 images", "a.jpg")
    Image.new("RGB", (70, 70)).save(photographs / "b.png")
    assert_one_error_line(run(photographs, *options), "two samples or more (got 1)")
    assert (tmp_path / "out" / "unreadable.csv").is_file()
    Image.new("RGB", (70, 70), "red").save(photographs / "c.png")
    unknown = [*options, "--layer", "featurs"]
    assert_one_error_line(run(photographs, *unknown), "the name of a layer")
    assert_one_error_line(
        run(photographs, "--weights", weights, "--model", "resnet18"), "do not fit"
    )
    (tmp_path / "file").write_text("in the way")
    assert_one_error_line(
        run(photographs, *options, "--out", tmp_path / "file"), "cannot write", "--out"
    )
    broken = models.squeezenet1_1().state_dict()
    broken["features.0.bias"].fill_(torch.nan)
    torch.save(broken, tmp_path / "nan.pt")
    options[1] = tmp_path / "nan.pt"
    assert_one_error_line(run(photographs, *options), "finite features", "b.png")


def test_small_and_odd_data_are_answered(run, tmp_path):
    """The counts are those that follow from the data, not a crash."""
    features = np.repeat(np.random.default_rng(0).normal(size=(2, 4)), 20, axis=0)
    alone = np.array(["a"] * 20 + ["b"] * 19 + ["c"])  # one against 19 duplicates
    rare = "not known, so never called wrong: c"  # for being rare it is not
    for name, x, y, lines in [
        ("alone", features, alone, ["40 samples in 3 classes", "suspects: 0 ", rare]),
        ("two", np.eye(2), np.array([0, 1]), ["2 samples in 2", "suspects: 0 "]),
        ("one", features, np.zeros(40), ["one class only (0)", "40 samples, 4 feat"]),
        ("same", np.ones((6, 3)), None, ["no array named labels", "6 samples, 3"]),
    ]:
        arrays = {"features": x} if y is None else {"features": x, "labels": y}
        np.savez(tmp_path / f"{name}.npz", **arrays)
        status, output, error = run(tmp_path / f"{name}.npz")
        assert (status, error) == (0, "")
        assert all(line in output for line in lines), (name, output)
        # No table of the run before is left in the same folder.
        assert (tmp_path / "out" / "suspects.csv").exists() == ("suspects" in output)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "DATA"),
        (["{csv}", "--model", "resnet18"], "--model does not go with a csv"),
        (["{csv}", "--batch-size", "4"], "--batch-size does not go with a csv"),
        (["{folder}", "--labels", "kind"], "--labels does not go with a folder"),
        (["{csv}", "--top", "0"], "expected 1 or more (got 0)"),
    ],
)
def test_wrong_usage_exits_with_two(arguments, message, tmp_path, capsys):
    (tmp_path / "data.csv").write_text("a\n1\n")
    places = {"csv": tmp_path / "data.csv", "folder": tmp_path}
    with pytest.raises(SystemExit) as stopped:
        main(["audit", *(argument.format(**places) for argument in arguments)])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_interruption_is_no_traceback(run, weights, monkeypatch, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    Image.new("RGB", (70, 70)).save(tmp_path / "a.png")
    monkeypatch.setattr(folder, "extract", interrupt)
    options = ("--weights", weights, "--model", "squeezenet1_1")
    result = run(tmp_path, *options)
    assert (result[0], result[2]) == (130, "captum-margin: interrupted\n")


def test_a_layer_can_be_named(run, weights, tmp_path):
    for name in "abc":
        Image.new("RGB", (70, 70), (80 * ord(name)) % 255).save(
            tmp_path / f"{name}.png"
        )
    options = ("--weights", weights, "--model", "squeezenet1_1")
    assert run(tmp_path, *options, "--layer", "features.3")[0] == 0
    with np.load(tmp_path / "out" / "features.npz") as file:
        assert file["features"].shape == (3, 128)
        assert file["names"].tolist() == ["a.png", "b.png", "c.png"]


@pytest.mark.parametrize(
    ("name", "layer", "n_features"),
    [
        ("alexnet", "classifier.6", 4096),
        ("convnext_tiny", "classifier.2", 768),
        ("densenet121", "classifier", 1024),
        ("googlenet", "fc", 1024),
        ("mobilenet_v3_small", "classifier.3", 1024),
        ("resnet18", "fc", 512),
        ("squeezenet1_1", "classifier.1", 512),
        ("vit_b_32", "heads.head", 768),
    ],
)
def test_features_are_what_the_last_layer_takes_in(name, layer, n_features):
    quick = {"init_weights": False} if name == "googlenet" else {}
    with torch.device("meta"):  # shapes without numbers
        model = models.get_model(name, weights=None, **quick).eval()
        image = torch.zeros(2, 3, 224, 224)
    assert drop_classifier(model, image) == layer
    with torch.no_grad():
        assert model(image).shape == (2, n_features)


@pytest.mark.slow
@pytest.mark.skipif(not DATA, reason="CAPTUM_MARGIN_DATA is not set")
def test_photographs_in_the_wrong_folder_are_found(run, tmp_path):
    """60 cats and dogs, three of each in the other's folder."""
    root = tmp_path / "animals"
    generator = random.Random(0)
    wrong = set()
    with zipfile.ZipFile(Path(DATA) / "cats_dogs.zip") as archive:
        names = sorted(archive.namelist())
        for kind, other in (("cat", "dog"), ("dog", "cat")):
            of_kind = [name for name in names if name.startswith(kind)][1:]
            for i, name in enumerate(generator.sample(of_kind, 30)):
                label = other if i < 3 else kind
                target = root / label / Path(name).name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(name))
                if i < 3:
                    wrong.add(target.relative_to(root).as_posix())
    weights = Path(DATA) / "models" / "squeezenet1_0_imagenet.pt"
    assert run(root, "--weights", weights)[0] == 0
    with (tmp_path / "out" / "suspects.csv").open(newline="") as file:
        first = [row["name"] for row in list(csv.DictReader(file))[:9]]
    assert len(wrong & set(first)) >= 5
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "://" not in page and len(page) < 2_000_000
