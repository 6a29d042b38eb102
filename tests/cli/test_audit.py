"""``captum-margin audit``: planted mistakes are found, told and shown."""

import base64
import csv
import dataclasses
import io
import json
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models
from torchvision.transforms._presets import ImageClassification

from captum_margin.cli import classifier, main
from captum_margin.cli.audit import command as audit
from captum_margin.cli.audit import questions
from captum_margin.influence import DecisionBoundary, LabelNoise, Prototypes
from captum_margin.signal import as_undirected

SIZE = 64
N_EACH = 12
CUT = "blue & co/cut.png"
PLANTED = {"blue & co/deep/<b>red.png", "red/blue.png"}


def colour_image(colour, seed):
    generator = np.random.default_rng(seed)
    pixels = np.zeros((72, 80, 3))
    pixels[..., 0 if colour == "red" else 2] = 150 + 5 * seed
    top, left = generator.integers(0, 40, 2)
    pixels[top : top + 20, left : left + 20] += 60
    pixels += generator.normal(0, 8, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


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
def quick(monkeypatch):
    """Images of 64 x 64 pixels."""

    def load(*arguments):
        preset = ImageClassification(crop_size=SIZE, resize_size=SIZE)
        return dataclasses.replace(classifier.load(*arguments), preprocess=preset)

    monkeypatch.setattr(audit, "load", load)


@pytest.fixture
def folder(tmp_path):
    """Two classes with one image of each in the wrong one, and what is no sample."""
    root = tmp_path / "photographs"
    (root / "red").mkdir(parents=True)
    (root / "blue & co" / "deep").mkdir(parents=True)
    (root / ".hidden").mkdir()
    for seed in range(N_EACH):
        colour_image("red", seed).save(root / "red" / f"{seed}.PNG")
        colour_image("blue", seed).save(root / "blue & co" / f"{seed}.jpg")
    colour_image("red", 20).save(root / "blue & co" / "deep" / "<b>red.png")
    colour_image("blue", 20).save(root / "red" / "blue.png")
    whole = (root / "red" / "0.PNG").read_bytes()
    (root / CUT).write_bytes(whole[: len(whole) // 2])
    (root / "red" / ".0.png").write_bytes(whole)
    (root / ".hidden" / "0.png").write_bytes(whole)
    (root / "red" / "notes.txt").write_text("no image")
    return root


@pytest.fixture
def run(tmp_path, capsys):
    """Runs ``audit`` into ``out``; gives status, stdout, stderr."""

    def audit_with(*arguments):
        options = [] if "--out" in arguments else ["--out", str(tmp_path / "out")]
        status = main(["audit", *map(str, arguments), *options])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return audit_with


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class Page(HTMLParser):
    """What a page consists of; raises if an element is not closed in order."""

    VOID = ("meta", "img", "br", "input")

    def __init__(self, path):
        super().__init__()
        self.open, self.tags, self.ids, self.words = [], [], set(), []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids |= {value for key, value in attrs if key == "id"}
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & {*self.open}:
            self.words.append(data)

    def of(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    def images(self):
        return [
            Image.open(io.BytesIO(base64.b64decode(image["src"].split(",")[1])))
            for image in self.of("img")
        ]


def assert_self_contained(page, folder):
    assert not {"link", "iframe"} & {tag for tag, _ in page.tags}
    assert all("src" not in script for script in page.of("script"))
    assert all(image["src"].startswith("data:image/") for image in page.of("img"))
    assert all(image["alt"] for image in page.of("img"))
    assert page.of("html") == [{"lang": "en"}] and len(page.of("h1")) == 1
    for link in page.of("a"):
        to_section, name = link["href"].startswith("#"), link["href"].lstrip("#")
        assert name in page.ids if to_section else (folder / name).is_file()


def test_a_folder_with_planted_mistakes(run, quick, folder, weights, tmp_path):
    cosine = "--metric", "cosine"
    status, output, error = run(
        folder, "--weights", weights, "--batch-size", 5, *cosine
    )
    assert (status, error) == (0, "")
    out = tmp_path / "out"
    rows = table(out / "suspects.csv")
    assert {row["name"] for row in rows[:2]} == PLANTED
    assert [row["is_label_issue"] for row in rows] == ["True"] * 2 + ["False"] * 24
    assert {(r["given_label"], r["predicted_label"]) for r in rows[:2]} == {
        ("red", "blue & co"),
        ("blue & co", "red"),
    }
    assert "26 samples in 2 classes, 512 features each" in output
    assert (
        "suspects: 2 labels" in output and f"1 unreadable, left out: {CUT}: " in output
    )
    assert [row["name"] for row in table(out / "unreadable.csv")] == [CUT]

    # The same through the library: a model, a data set and a layer.
    model = models.squeezenet1_0()
    model.load_state_dict(torch.load(weights, weights_only=True))
    preset = ImageClassification(crop_size=SIZE, resize_size=SIZE)
    items = [
        (preset(Image.open(folder / row["name"]).convert("RGB")), row["given_label"])
        for row in rows
    ]
    noise = LabelNoise(model, items, "features", k=6)  # half of the 13 in a class
    frame = noise.result().to_pandas()
    for name in ("label_score", "influence"):
        found = [float(row[name]) for row in rows]
        np.testing.assert_allclose(found, frame[name], rtol=2e-4, atol=1e-5)
    assert [row["predicted_label"] for row in rows] == list(frame["predicted_label"])
    assert [int(row["rank"]) - 1 for row in rows] == list(frame["rank"])
    for i, row in enumerate(rows):
        near = noise.result().neighbors(i)
        alike = torch.tensor([x == row["predicted_label"] for x in near.labels])
        share = float(near.weights[alike].sum() / near.weights.sum())
        assert float(row["share"]) == pytest.approx(share, rel=1e-3)
        assert int(row["neighbors"]) == len(near.labels)
        assert int(row["neighbors_predicted"]) == int(alike.sum())
        assert int(row["neighbors_given"]) == near.labels.count(row["given_label"])

    page = Page(out / "index.html")
    assert_self_contained(page, out)
    assert "2 of 26 samples have a label that the others contradict" in page.text
    # Seen as text, so escaped: else the parser would find an element <b> in the name.
    for rank, row in enumerate(rows[:2], start=1):
        assert f"{rank}. {row['name']} Labelled {row['given_label']} , but" in page.text
    assert "blue & co (13), red (13)" in page.text
    assert CUT in page.text and "truncated" in page.text
    for row in rows[:2]:
        told = f"{row['neighbors_predicted']} of its {row['neighbors']} neighbours"
        assert told in page.text
    assert {image.format for image in page.images()} == {"JPEG"}
    suspect = page.images()[0]  # the picture of the first: its colour tells
    red, _, blue = np.asarray(suspect.convert("RGB")).mean(axis=(0, 1))
    assert (red > blue) == ("<b>red" in rows[0]["name"])

    record = json.loads((out / "audit.json").read_text())
    assert record["layer"] == "input of classifier.1"
    assert record["classes"] == {"blue & co": 13, "red": 13}
    assert (record["n_suspects"], record["n_unreadable"]) == (2, 1)
    assert record["questions"]["suspects"]["settings"]["k"] == 6
    assert record["versions"]["captum_margin"] and record["errors"] == {}

    # What was computed once serves again.
    again = tmp_path / "again"
    assert run(out / "features.npz", "--out", again, *cosine)[0] == 0
    assert table(again / "suspects.csv") == rows
    assert Page(again / "index.html").of("img") == []


def test_splits_of_a_folder_reach_tables_and_features(run, quick, weights, tmp_path):
    """Also where an image is left out; a copy in the other split is a leak."""
    root = tmp_path / "photographs"
    for split, seeds in (("train", range(8)), ("Val", range(8, 12))):
        for colour in ("red", "blue"):
            (root / split / colour).mkdir(parents=True)
            for seed in seeds:
                path = root / split / colour / f"{seed}.png"
                colour_image(colour, seed).save(path)
    colour_image("red", 3).save(root / "Val" / "red" / "again.png")
    (root / "train" / "red" / "0.png").write_bytes(b"no image")
    status, output, _ = run(root, "--weights", weights, "--batch-size", 5)
    assert status == 0
    assert "read as splits, not as classes: Val (9), train (16)" in output
    out = tmp_path / "out"
    rows = table(out / "suspects.csv")
    assert len(rows) == 24
    for row in rows:
        split, label, _ = row["name"].split("/")
        assert (row["split"], row["given_label"]) == (split, label)
    pairs = [row for row in table(out / "near_duplicates.csv") if row["group"] == "1"]
    assert [row["name"] for row in pairs] == ["Val/red/again.png", "train/red/3.png"]
    assert {row["splits_differ"] for row in pairs} == {"True"}
    assert float(pairs[0]["distance"]) < 1e-3
    page = Page(out / "index.html")
    assert "Note: read as splits, not as classes: Val (9), train (16)." in page.text
    assert run(out / "features.npz", "--out", tmp_path / "again")[0] == 0
    assert table(tmp_path / "again" / "suspects.csv") == rows


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_questions_are_those_of_the_library(run, metric, monkeypatch, tmp_path):
    generator = np.random.default_rng(0)
    labels = np.repeat([2, 10, 30], 50)
    features = generator.normal(labels[:, None] / 12, 1, (150, 6)).astype(np.float32)
    np.savez(tmp_path / "data.npz", features=features, labels=labels)
    options = "--prototypes", 9, "--metric", metric
    assert run(tmp_path / "data.npz", *options)[0] == 0
    out = tmp_path / "out"
    if metric == "euclidean":
        scaled = features.astype(float) - features.mean(axis=0, dtype=float)
        features = (scaled / scaled.std(axis=0)).astype(np.float32)
        points = features
    else:
        points = features / np.linalg.norm(features, axis=1, keepdims=True)

    def ranked(name):
        return [int(row["name"].split()[1]) for row in table(out / f"{name}.csv")]

    noise = LabelNoise.from_features(features, labels, k=25, metric=metric).result()
    assert ranked("suspects") == noise.ranking().tolist()
    decided = noise.predicted()
    boundary = DecisionBoundary.from_features(
        features, decided, k=25, metric=metric
    ).result()
    assert ranked("boundary") == boundary.ranking().tolist()
    criticisms = Prototypes.from_features(points, decided, k=2)  # 5% of 50
    assert ranked("criticisms") == criticisms.result().ranking().tolist()
    clean = (decided == noise.labels).nonzero()[:, 0]
    assert len(clean) < 150
    # Of the neighbours of all, which are searched once, the clean ones.
    length = np.linalg.norm(points[:, None] - points, axis=2)
    np.fill_diagonal(length, np.inf)
    joined = np.zeros((150, 150), bool)
    np.put_along_axis(joined, length.argsort(axis=1)[:, :25], True, axis=1)
    joined = torch.from_numpy(joined)[clean][:, clean]
    prototypes = Prototypes.from_features(points[clean], decided[clean], k=25)
    monkeypatch.setattr(
        Prototypes,
        "_neighbors",
        lambda *_: as_undirected(joined.nonzero().T, None, len(clean)),
    )
    assert set(ranked("prototypes")) == set(clean[prototypes.select(9)].tolist())
    rows = table(out / "prototypes.csv")
    assert [row["class"] for row in rows] == [row["given_label"] for row in rows]
    chosen = ranked("prototypes")
    distance = np.linalg.norm(points[:, None] - points[chosen], axis=2)
    distance[decided.numpy()[:, None] != decided.numpy()[chosen]] = np.inf
    sizes = np.bincount(distance.argmin(axis=1), minlength=9)
    assert [int(row["stands_for"]) for row in rows] == sizes.tolist()
    for row in table(out / "boundary.csv"):
        assert float(row["first_share"]) >= float(row["second_share"])
    record = json.loads((out / "audit.json").read_text())
    assert list(record["classes"]) == ["2", "10", "30"]  # not in alphabetical order
    (search,) = record["searches"].items()  # one for all questions
    assert search[0] == metric
    told = {key: search[1][key] for key in ("k", "backend", "recall")}
    assert told == {"k": 25, "backend": "exact", "recall": None}
    questions_asked = record["questions"].values()
    assert {entry["settings"]["metric"] for entry in questions_asked} == {metric}


def test_prototypes_of_very_many_are_chosen_among_some(run, monkeypatch, tmp_path):
    features = np.random.default_rng(3).normal(size=(90, 4)).astype(np.float32)
    np.savez(tmp_path / "data.npz", features=features)
    monkeypatch.setattr("captum_margin.cli.audit.questions._CHOSEN_AMONG", 40)
    assert run(tmp_path / "data.npz", "--prototypes", 5)[0] == 0
    rows = table(tmp_path / "out" / "prototypes.csv")
    drawn = torch.randperm(90, generator=torch.Generator().manual_seed(0))[:40]
    some = drawn.sort().values
    k = min(Prototypes.settings.k, 45)  # no more than half of the samples
    scaled = (features - features.mean(axis=0)) / features.std(axis=0)
    chosen = Prototypes.from_features(scaled[some], k=k).select(5)
    names = {int(row["name"].split()[1]) for row in rows}
    assert names == set(some[chosen].tolist())
    assert sum(int(row["stands_for"]) for row in rows) == 90  # of all of them
    record = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert record["questions"]["prototypes"]["settings"]["chosen_among"] == 40


@pytest.fixture
def measurements(tmp_path):
    """A table of two kinds, told apart by a column of small numbers alone."""
    generator = np.random.default_rng(1)
    kind = np.repeat([0, 1], 20)
    values = generator.normal(kind[:, None] * [0.006, 0], [0.001, 1000], (40, 2))
    kinds = ["oak" if k == 0 else "elm" for k in kind]
    kinds[7] = "elm"
    lines = ["id;small;large;kind;remark"]
    lines += [f"t{i};{a};{b};{kinds[i]};x" for i, (a, b) in enumerate(values)]
    path = tmp_path / "trees.csv"
    path.write_text("\ufeff" + "\n".join(lines) + "\n\n", encoding="utf-8")
    return path, values, kinds


def test_a_table(run, measurements, tmp_path):
    path, values, kinds = measurements
    status, output, _ = run(path, "--labels", "kind")
    assert status == 0
    assert "columns not used, for they hold text or names: remark" in output
    rows = table(tmp_path / "out" / "suspects.csv")
    assert rows[0]["name"] == "t7" and rows[0]["is_label_issue"] == "True"
    scaled = (values - values.mean(axis=0)) / values.std(axis=0)
    scaled = scaled.astype(np.float32)
    expected = LabelNoise.from_features(scaled, kinds, k=10, metric="euclidean")
    scores = {row["name"]: float(row["influence"]) for row in rows}
    found = [scores[f"t{i}"] for i in range(40)]
    np.testing.assert_allclose(found, expected.self_influence(), rtol=1e-3, atol=1e-4)
    page = Page(tmp_path / "out" / "index.html")
    assert_self_contained(page, tmp_path / "out")
    assert "1. t7 Labelled elm , but" in page.text and not page.of("img")


@pytest.mark.parametrize("form", ["grey", "last", "first", "float"])
def test_arrays_of_images_are_shown(run, form, tmp_path):
    generator = np.random.default_rng(2)
    images = generator.integers(0, 30, (24, 9, 9)).astype(np.uint8)
    images[12:, :, 5:] += 200
    labels = np.repeat([0, 1], 12)
    labels[3] = 1
    if form == "last":
        stored = np.repeat(images[..., None], 3, axis=3)
    elif form == "first":
        stored = np.repeat(images[:, None], 3, axis=1)
    else:
        stored = images if form == "grey" else images.astype(np.float32) / 7 + 3
    np.savez(tmp_path / "digits.npz", images=stored, labels=labels)
    assert run(tmp_path / "digits.npz", "--top", 1)[0] == 0
    page = Page(tmp_path / "out" / "index.html")
    assert_self_contained(page, tmp_path / "out")
    assert table(tmp_path / "out" / "suspects.csv")[0]["name"] == "sample 3"
    shown = np.asarray(page.images()[0].convert("L")).astype(float)
    expected = images[3].astype(float)
    if form == "float":  # stretched from the least to the greatest value of all
        expected = (expected - images.min()) * 255 / (int(images.max()) - images.min())
    np.testing.assert_allclose(shown, expected, atol=0.51)


def test_without_classes_there_are_prototypes_and_criticisms(
    run, quick, folder, weights, tmp_path
):
    for path, line in [
        (folder / "red", "no class folders, so no question about labels"),
        (folder.parent / "one", "one class only (photographs), so no question"),
    ]:
        if not path.exists():
            path.mkdir()
            folder.rename(path / "photographs")
        status, output, error = run(path, "--weights", weights)
        assert (status, error) == (0, "") and line in output
        names = {file.name for file in (tmp_path / "out").glob("*.csv")}
        assert {"prototypes.csv", "criticisms.csv"} <= names
        assert not {"suspects.csv", "boundary.csv"} & names
        page = Page(tmp_path / "out" / "index.html")
        assert_self_contained(page, tmp_path / "out")
        assert line in page.text and "suspects:" not in page.text


def test_a_question_that_fails_does_not_stop_the_others(
    run, measurements, monkeypatch, tmp_path
):
    def result(*_):
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr(questions.LabelNoise, "result", result)
    status, output, error = run(measurements[0], "--labels", "kind")
    assert status == 1 and "page: " in output
    assert error == "captum-margin: error: no suspects: out of memory\n"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("prototypes.csv", "criticisms.csv", "boundary.csv"),
        *("near_duplicates.csv", "audit.json", "index.html"),
    }
    page = Page(tmp_path / "out" / "index.html")
    assert "could not be answered: out of memory" in page.text
