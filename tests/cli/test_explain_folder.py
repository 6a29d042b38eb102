"""``explain FOLDER``: everything below, resumable, and nothing done is lost."""

import csv
import json
import os

import pytest
import torch
from PIL import Image

from captum_margin import Explanation
from captum_margin.cli import main
from captum_margin.cli.explain import records
from captum_margin.cli.explain.explained import Explained
from tests.cli.test_explain import photograph, replace_margin, weights  # noqa: F401

NAMES = ["a.png", "deep/b.jpg", "deep/er/c.png", "d.v2.png"]


@pytest.fixture
def folder(tmp_path):
    """Four images, some below; and what is none."""
    root = tmp_path / "photos"
    generator = torch.Generator().manual_seed(0)
    for name in NAMES:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(256, (40, 50, 3), generator=generator)
        Image.fromarray(pixels.to(torch.uint8).numpy()).save(path)
    (root / "notes.txt").write_text("no image")
    (root / ".hidden.png").write_bytes(b"nor this")
    return root


@pytest.fixture
def calls(monkeypatch):
    """A method that costs nothing; holds its calls, and may fail at one of them."""
    seen = {"n": 0, "fail_at": None, "error": KeyboardInterrupt, "prepared": 0}

    def prepare(args, classifier):
        seen["prepared"] += 1

        def method(image, target):
            seen["n"] += 1
            if seen["n"] == seen["fail_at"]:
                raise seen["error"]("stopped")
            found = Explanation(
                image.abs(), target, "M", {"seed": args.seed}, {}, image
            )
            return Explained(found)

        return method

    replace_margin(monkeypatch, prepare)
    return seen


@pytest.fixture
def run(weights, tmp_path, capsys):  # noqa: F811
    def explain_with(*arguments, out=tmp_path / "out"):
        options = ["--weights", str(weights), "--out", str(out)]
        status = main(["explain", *map(str, arguments), *options])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return explain_with


def index(out):
    with (out / "index.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def files(out):
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*"))


def whole(out):
    """The records, each of which must be complete with its picture."""
    records = {}
    for path in sorted(out.rglob("*.json")):
        record = json.loads(path.read_text())
        with Image.open(path.with_name(record["picture"])) as picture:
            picture.load()
        records[record["image"]] = record
    return records


def test_all_images_below_and_their_index(run, folder, calls, tmp_path):
    status, output, error = run(folder)
    assert (status, error, calls["n"]) == (0, "", 4)
    stems = ["a", "d.v2", "deep/b", "deep/er/c"]
    expected = [f"{stem}{end}" for stem in stems for end in (".json", ".png")]
    assert files(tmp_path / "out") == sorted([*expected, "index.csv"])
    records = whole(tmp_path / "out")
    assert set(records) == {str(folder / name) for name in NAMES}
    rows = index(tmp_path / "out")
    assert [row["image"] for row in rows] == sorted(records)
    for row in rows:
        record = json.loads(open(row["record"]).read())
        assert record["image"] == row["image"] and row["status"] == "explained"
        assert os.path.exists(row["picture"]) and row["error"] == ""
        target = record["target"]
        assert (row["target"], row["name"]) == (str(target["index"]), target["name"])
        assert float(row["probability"]) == target["probability"]
    lines = output.splitlines()
    assert len(lines) == 5
    assert lines[0].startswith(f"{folder / 'a.png'} -> {tmp_path / 'out' / 'a.json'}: ")
    assert lines[-1].startswith("4 explained, 0 kept, 0 failed, of 4 images; see ")


def test_a_second_run_keeps_what_is_done(run, folder, calls, tmp_path, monkeypatch):
    assert run(folder)[0] == 0
    out = tmp_path / "out"
    before = {name: (out / name).read_bytes() for name in files(out)}
    status, output, _ = run(folder)
    assert (status, calls["n"], calls["prepared"]) == (0, 4, 1)  # not even prepared
    assert output.startswith("0 explained, 4 kept, 0 failed, of 4 images")
    after = {name: (out / name).read_bytes() for name in files(out)}
    assert {n for n in before if before[n] != after[n]} == {"index.csv"}
    assert [row["status"] for row in index(out)] == ["kept"] * 4
    assert index(out)[0]["name"] != ""
    assert run(folder, "--again")[1].splitlines()[-1].startswith("4 explained, 0 kept")
    assert calls["n"] == 8 and files(out) == sorted(before)


def test_what_is_no_longer_the_same_is_done_anew(run, folder, calls, tmp_path):
    out = tmp_path / "out"

    def explained(*options):
        before = calls["n"]
        assert run(folder, *options)[0] == 0
        assert files(out) == sorted(names)  # over the old, not beside it
        return calls["n"] - before

    run(folder)
    names = files(out)
    assert explained("--seed", 1) == 4
    assert explained("--seed", 1) == 0
    assert explained("--seed", 1, "--target", "7") == 4
    assert explained("--seed", 1, "--target", "7", "--n-evaluations", 20) == 4
    assert explained() == 4
    (out / "a.png").unlink()
    assert explained() == 1
    (out / "deep" / "b.json").write_text("{")
    assert explained() == 1
    with Image.open(folder / "a.png") as image:
        image.rotate(90).save(folder / "d.v2.png")
    assert explained() == 1
    names += ["new.json", "new.png"]
    with Image.open(folder / "a.png") as image:
        image.save(folder / "new.png")
    assert explained() == 1


def test_other_weights_are_another_request(run, folder, calls, weights):  # noqa: F811
    run(folder)
    state = torch.load(weights, weights_only=True)
    saved = weights.read_bytes()
    try:
        torch.save({name: value * 0.5 for name, value in state.items()}, weights)
        run(folder)
        assert calls["n"] == 8
    finally:
        weights.write_bytes(saved)


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_an_interruption_loses_nothing(run, folder, calls, tmp_path, stop):
    calls["fail_at"] = stop
    status, output, error = run(folder)
    assert (status, error) == (130, "captum-margin: interrupted\n")
    out = tmp_path / "out"
    done = whole(out)
    assert len(done) == stop - 1 and len(index(out)) == stop - 1
    assert not [name for name in files(out) if name.endswith(".part")]
    assert f"{stop - 1} explained, 0 kept, 0 failed, of 4 images" in output
    calls["fail_at"] = None
    status, output, _ = run(folder)
    assert status == 0 and f"{5 - stop} explained, {stop - 1} kept" in output
    assert calls["n"] == 5 and len(whole(out)) == 4


@pytest.mark.parametrize("what", ["picture", "record"])
def test_an_interruption_while_writing(run, folder, calls, tmp_path, monkeypatch, what):
    """A picture without a record, or half of either, does not count as done."""
    from matplotlib.figure import Figure

    original, n_written = Figure.savefig, []

    def stopped(figure, path, **options):
        original(figure, path, **options)
        n_written.append(path)
        if len(n_written) == 2:
            raise KeyboardInterrupt

    def half(path, text, **options):
        path.write_bytes(text[:20].encode())
        raise KeyboardInterrupt

    if what == "picture":
        monkeypatch.setattr(Figure, "savefig", stopped)
    else:
        monkeypatch.setattr("pathlib.Path.write_text", half)
    assert run(folder)[0] == 130
    monkeypatch.undo()
    out = tmp_path / "out"
    assert len(whole(out)) == (1 if what == "picture" else 0)
    assert not [path for path in out.rglob(".*") if path.name.endswith(".part")]


def test_bad_files_are_listed_and_skipped(run, folder, calls, tmp_path):
    (folder / "bad.jpg").write_text("this is no picture")
    calls["fail_at"], calls["error"] = 2, RuntimeError
    status, output, error = run(folder)
    assert status == 1 and "3 explained, 0 kept, 2 failed, of 5 images" in output
    lines = error.splitlines()
    assert len(lines) == 2
    assert f"cannot read {folder / 'bad.jpg'}: not an image" in error
    failed = {r["image"]: r["error"] for r in index(tmp_path / "out") if r["error"]}
    assert len(failed) == 2 and "not an image" in failed[str(folder / "bad.jpg")]
    status, output, _ = run(folder)  # what failed is tried again
    assert status == 1 and "1 explained, 3 kept, 1 failed" in output


def test_what_is_written_into_the_folder_is_not_explained(run, folder, calls):
    out = folder / "explained"
    assert run(folder, out=out)[0] == 0
    assert run(folder, out=out)[1].startswith("0 explained, 4 kept")
    assert calls["n"] == 4


def test_names_that_are_alike(run, folder, calls, tmp_path):
    with Image.open(folder / "a.png") as image:
        image.convert("L").save(folder / "a.jpg")
    assert run(folder)[0] == 0
    assert len(whole(tmp_path / "out")) == 5
    with Image.open(folder / "a.png") as image:
        image.convert("L").save(folder / "a.bmp")  # comes first by name
    assert "1 explained, 5 kept" in run(folder)[1]
    assert len(whole(tmp_path / "out")) == 6


def test_maps_are_saved(run, folder, calls, tmp_path):
    assert run(folder, "--maps")[0] == 0
    found = Explanation.load(tmp_path / "out" / "deep" / "b.npz")
    assert found.attributions.shape == (1, 3, 224, 224)
    assert torch.equal(found.attributions, found.inputs.abs())
    assert found.settings == {"seed": 0}
    (tmp_path / "out" / "a.npz").unlink()
    assert "1 explained, 3 kept" in run(folder, "--maps")[1]


def test_images_named_are_always_explained(run, photograph, calls):  # noqa: F811
    for n in (1, 2):
        status, output, _ = run(photograph)
        assert status == 0 and calls["n"] == n and "<- explained" in output


def test_an_empty_folder(run, tmp_path, calls):
    (tmp_path / "empty").mkdir()
    status, _, error = run(tmp_path / "empty")
    assert status == 1 and f"no images in the folder {tmp_path / 'empty'}" in error


def test_other_references_are_another_request(folder):
    first = records.folder_digest(folder)
    assert first == records.folder_digest(folder)
    os.utime(folder / "a.png", ns=(1, 1))
    second = records.folder_digest(folder)
    (folder / "deep" / "b.jpg").unlink()
    assert len({first, second, records.folder_digest(folder)}) == 3


def test_without_a_command_there_is_help(capsys):
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    for command in ("demo", "explain", "audit"):
        assert f"\n    {command} " in printed
