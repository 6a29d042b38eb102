"""Pictures as they come: of any depth, turned, passed over, named in any letters."""

import csv
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models

from captum_margin.cli import main
from captum_margin.cli.audit.arrays import _Pictures
from captum_margin.cli.images import find_references, images_in, read_image
from captum_margin.cli.output import CommandError
from captum_margin.influence._picture import image_of
from captum_margin.viz import _arrays as viz_arrays


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "squeezenet.pt"
    torch.manual_seed(0)
    torch.save(models.squeezenet1_1().state_dict(), path)
    return path


def grey(high=255, seed=0):
    """Eight-bit values up to one, (24, 30)."""
    values = np.random.default_rng(seed).integers(0, high + 1, (24, 30))
    values[0, :2] = 0, high
    return values.astype(np.uint8)


def deep_twins(values):
    """By name of the file: the same picture in other depths, as PIL writes them."""
    sixteen = Image.fromarray(values.astype(np.uint16) * 257)
    return {
        "png": ("a.png", sixteen),
        "tiff": ("a.tif", sixteen),
        "pgm": ("a.pgm", sixteen),
        "integers": ("b.tif", Image.fromarray(values.astype(np.int32))),
        "integers of 16": ("c.tif", Image.fromarray(values.astype(np.int32) * 257)),
        "fractions": ("d.tif", Image.fromarray(values.astype(np.float32) / 255)),
        "floats": ("e.tif", Image.fromarray(values.astype(np.float32))),
        "own small range": (
            "g.tif",
            Image.fromarray(values.astype(np.float32) / 2550 - np.float32(0.05)),
        ),
        "own range": (
            "f.tif",
            Image.fromarray((values.astype(np.float32) - 100) * 1000),
        ),
    }


@pytest.mark.parametrize("depth", list(deep_twins(grey())))
def test_a_deep_picture_is_as_its_twin_of_eight_bits(depth, tmp_path):
    values = grey()
    name, image = deep_twins(values)[depth]
    image.save(tmp_path / name)
    with Image.open(tmp_path / name) as file:
        assert file.mode != "L"
    found = np.asarray(read_image(tmp_path / name))
    assert np.array_equal(found, np.repeat(values[:, :, None], 3, axis=2))


def test_dark_and_light_pictures_of_sixteen_bits_are_told_apart(tmp_path):
    for level in (0, 40, 128, 255):
        flat = np.full((8, 8), level * 257, dtype=np.uint16)
        Image.fromarray(flat).save(tmp_path / "flat.png")
        assert np.unique(np.asarray(read_image(tmp_path / "flat.png"))) == [level]


def test_fractions_a_little_above_one_are_no_black_picture(tmp_path):
    values = grey().astype(np.float32) / 255
    values[0, :4] = 1.0, 1.02, 1.5, 2.0  # as resampling overshoots
    Image.fromarray(values).save(tmp_path / "a.tif")
    found = np.asarray(read_image(tmp_path / "a.tif"))[:, :, 0]
    assert np.array_equal(found, (values.clip(0, 1) * 255).round())
    Image.fromarray(values.clip(0, 1) * 3).save(tmp_path / "b.tif")
    assert np.asarray(read_image(tmp_path / "b.tif")).max() == 3  # of 255


def test_pictures_with_nan_are_refused_in_our_words(tmp_path):
    values = grey().astype(np.float32)
    values[3, 3] = np.nan
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(CommandError, match=r"a\.tif: it holds NaN or infinity"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp", "deep.png"])
def test_rotation_that_the_camera_noted_is_honoured(name, orientation, tmp_path):
    upright = np.zeros((40, 24), dtype=np.uint8)
    upright[:12, :8] = 255  # the corner is enough to tell all eight apart
    as_stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: upright.T[::-1],
        7: upright.T[::-1, ::-1],
        8: upright.T[:, ::-1],
    }[orientation]
    if name == "deep.png":
        stored = Image.fromarray(as_stored.astype(np.uint16) * 257)
    else:
        stored = Image.fromarray(np.ascontiguousarray(as_stored)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / name, exif=exif, quality=100)
    found = np.asarray(read_image(tmp_path / name)).astype(int)[:, :, 0]
    assert found.shape == upright.shape
    assert (abs(found - upright) > 60).mean() < 0.02  # but for what JPEG blurs


def test_arrays_of_pictures_of_any_depth_are_shown_alike():
    values = grey()
    expected = values / 255
    for given in (
        values,
        values.astype(np.uint16) * 257,
        values.astype(np.int32),
        values.astype(np.int32) * 257,
        torch.from_numpy(values.astype(np.int64)),
        Image.fromarray(values.astype(np.uint16) * 257),
    ):
        shown = image_of(given)
        shown = shown / 255 if shown.dtype == np.uint8 else shown
        np.testing.assert_allclose(shown, expected, atol=1e-12)
        if not isinstance(given, Image.Image):
            array = given[None] if isinstance(given, torch.Tensor) else given
            shown = viz_arrays.displayable_image(array, None, None)
            np.testing.assert_allclose(shown[:, :, 0], expected, atol=1e-12)
    shown = viz_arrays.displayable_image(values > 100, None, None)
    assert np.array_equal(shown[:, :, 0], values > 100)


def test_nan_in_one_picture_spoils_no_other():
    images = np.stack([grey(seed=i) / 255 for i in range(3)])
    clean = _Pictures(images.copy())
    images[1, 5, 5], images[1, 6, 6] = np.nan, np.inf
    pictures = _Pictures(images)
    for index in (0, 2):
        assert np.array_equal(pictures(index, 96), clean(index, 96))
    spoilt, expected = np.array(pictures(1, 96)), np.array(clean(1, 96))
    expected[5, 5], expected[6, 6] = 0, 255
    assert np.array_equal(spoilt, expected)
    colour = np.repeat(images[1][:, :, None], 3, axis=2) * 2 - 1
    colour[6, 6] = 0
    assert np.isfinite(image_of(colour)).all()


# Files passed over


def save(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    form = "JPEG" if path.suffix in (".jfif", ".jpe") else None
    Image.fromarray(grey(seed=seed)).resize((70, 70)).save(path, form)


def audit(*arguments, capsys):
    status = main(["audit", *map(str, arguments)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_files_that_are_no_images_are_counted_and_named(tmp_path, weights, capsys):
    root = tmp_path / "data"
    for i, name in enumerate(["cat/a.png", "cat/b.jfif", "dog/c.jpe", "dog/d.png"]):
        save(root / name, seed=i)
    save(root / "__background__" / "e.png")
    for name in ("cat/f.heic", "cat/g.heic", "dog/h", "dog/h.txt", "dog/Thumbs.db"):
        (root / name).write_bytes(b"none")
    (root / "bird").mkdir()
    (root / "bird" / "i.cr2").write_bytes(b"none")
    (root / "cat" / "loop").symlink_to(root, target_is_directory=True)
    (root / "dog" / "self").symlink_to(".", target_is_directory=True)
    options = ["--weights", weights, "--model", "squeezenet1_1"]
    out = tmp_path / "out"
    status, output, error = audit(root, *options, "--out", out, capsys=capsys)
    assert (status, error) == (0, "")
    assert "4 samples in 2 classes" in output
    assert (
        "4 files passed over, for their names do not end as those of images do: .heic "
        "(2), .cr2 (1), without an ending (1), such as bird/i.cr2" in output
    )
    assert "__background__ (1)" in output
    assert "1 folder holds no images, so no class: bird" in output
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "4 files passed over" in page and "__background__" in page


def test_a_folder_of_other_files_says_which(tmp_path, capsys):
    for i in range(3):
        (tmp_path / f"{i}.heic").write_bytes(b"none")
    status, _, error = audit(tmp_path, "--out", tmp_path / "out", capsys=capsys)
    assert status == 1 and "3 files passed over" in error and ".heic (3)" in error
    status = main(["explain", str(tmp_path), "--out", str(tmp_path / "out")])
    assert status == 1 and ".heic (3)" in capsys.readouterr().err
    with pytest.raises(CommandError, match=r"\.heic \(3\)"):
        find_references(tmp_path, torch.as_tensor, False)


def test_links_that_lead_back_end_and_others_are_followed(tmp_path):
    root = tmp_path / "data"
    save(root / "a" / "x.png")
    save(tmp_path / "elsewhere" / "y.png")
    (root / "a" / "up").symlink_to("..", target_is_directory=True)
    (root / "b").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert images_in(root) == [root / "a" / "x.png", root / "b" / "y.png"]


def test_folders_that_link_to_each_other_are_read_once_each_way(tmp_path):
    save(tmp_path / "a" / "x.png")
    save(tmp_path / "b" / "y.png")
    (tmp_path / "a" / "to").symlink_to(tmp_path / "b", target_is_directory=True)
    (tmp_path / "b" / "to").symlink_to(tmp_path / "a", target_is_directory=True)
    found = [path.relative_to(tmp_path).as_posix() for path in images_in(tmp_path)]
    assert found == ["a/to/y.png", "a/x.png", "b/to/x.png", "b/y.png"]


# The terminal


def shell(arguments, environment, tail=""):
    program = (
        "import sys; from captum_margin.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    quoted = " ".join(f"'{argument}'" for argument in arguments)
    command = f"'{sys.executable}' -c '{program}' {quoted}{tail}"
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        env={**os.environ, **environment},
        capture_output=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def cats(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures") / "猫"
    save(root / "0.png")
    save(root / os.fsdecode(b"\xff.png"), seed=5)
    (root / "\x1b[31mred.png").write_bytes(b"no image")
    return root


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "cp1252"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "utf-8:strict"},
    ],
)
def test_names_that_the_terminal_cannot_print(environment, cats, weights, tmp_path):
    given = [cats, cats / "none.png"]
    options = ["--weights", weights, "--model", "squeezenet1_1"]
    few = ["--n-evaluations", "64", "--out", tmp_path / "out"]
    done = shell(["explain", *given, *options, *few], environment)
    output, error = done.stdout, done.stderr
    assert b"Traceback" not in error and b"Encode" not in output + error
    assert done.returncode == 1  # one is no image, one is not there
    assert b"2 explained, 0 kept, 2 failed, of 4 images" in output
    shown = "猫".encode("ascii", "backslashreplace")
    if "utf-8:strict" in environment.values():
        shown = "猫".encode()
    if "LC_ALL" in environment:  # as Python itself reads names then
        shown = b"\\udce7\\udc8c\\udcab"
    assert shown in output and b"\\udcff.png" in output
    assert b"no such image" in error and b"\x1b" not in output + error
    with (tmp_path / "out" / "index.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 4


def test_a_pipe_that_nobody_reads_stops_nothing(cats, weights, tmp_path):
    options = ["--weights", weights, "--model", "squeezenet1_1"]
    few = ["--n-evaluations", "64", "--out", tmp_path / "out"]
    for tail in (" | true", " 2>&1 | true"):
        arguments = ["explain", cats / "0.png", cats / "0.png", *options, *few]
        done = shell(arguments, {}, tail)
        assert done.returncode == 0 and done.stderr == b""
        for name in ("0.json", "0-2.json"):
            (tmp_path / "out" / name).unlink()
    done = shell(["explain", "--help"], {}, " | true")
    assert done.returncode == 0 and done.stderr == b""


def test_no_cell_is_a_formula(tmp_path, capsys):
    names = ["=1+1", "+a", "-b", "@c", "-1", "plain", "\t=x", "+5e3"]
    rng = np.random.default_rng(0)
    arrays = {
        "features": rng.normal(size=(24, 3)),
        "names": np.array(names * 3),
        "labels": np.array(["=cmd", "-1", "-x"] * 8),
    }
    np.savez(tmp_path / "data.npz", **arrays)
    out = tmp_path / "out"
    assert audit(tmp_path / "data.npz", "--out", out, capsys=capsys)[0] == 0
    with (out / "suspects.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    safe = ["'=1+1", "'+a", "'-b", "'@c", "-1", "plain", "'\t=x", "+5e3"]
    assert {row["name"] for row in rows} == set(safe)
    assert {row["given_label"] for row in rows} == {"'=cmd", "-1", "'-x"}
    for path in out.glob("*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            for cell in (cell for row in csv.reader(file) for cell in row):
                assert not cell.startswith(("=", "@"))
