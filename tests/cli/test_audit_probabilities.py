"""``audit --pred-probs``: probabilities of somebody's model as a further vote."""

import csv
import json

import numpy as np
import pytest

from captum_margin.cli import main
from captum_margin.influence import LabelNoise

N = 60
CLASSES = ["<b>elm</b>", "ash", "oak"]
WRONG = 7


@pytest.fixture
def data(tmp_path):
    """Features of noise, labels with a mistake, and probabilities that know it."""
    generator = np.random.default_rng(0)
    truth = np.arange(N) % 3
    features = generator.normal(size=(N, 5)).astype(np.float32)
    probabilities = np.full((N, 3), 0.1)
    probabilities[np.arange(N), truth] = 0.8
    probabilities += generator.uniform(0, 0.05, (N, 3))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    given = truth.copy()
    given[WRONG] = (truth[WRONG] + 1) % 3
    labels = np.array(CLASSES)[given]
    names = np.array([f"tree {i}" for i in range(N)])
    path = tmp_path / "data.npz"
    np.savez(path, features=features, labels=labels, names=names)
    return path, features, labels, names, probabilities


@pytest.fixture
def run(tmp_path, capsys):
    def audit_with(*arguments):
        status = main(["audit", *map(str, arguments), "--out", str(tmp_path / "out")])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return audit_with


def scores(folder):
    with (folder / "suspects.csv").open(newline="", encoding="utf-8") as file:
        return {row["name"]: float(row["influence"]) for row in csv.DictReader(file)}


def write_csv(path, header, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.mark.parametrize("form", ["npz", "alone", "shuffled npz", "csv", "counted"])
def test_they_are_those_of_the_library_in_every_form(run, data, form, tmp_path):
    path, features, labels, names, probabilities = data
    order = np.random.default_rng(1).permutation(N)
    if form == "npz":
        given = tmp_path / "p.npz"
        np.savez(given, pred_probs=probabilities, other=np.ones(3))
    elif form == "alone":
        given = tmp_path / "p.npz"
        np.savez(given, anything=probabilities)
    elif form == "shuffled npz":
        given = tmp_path / "p.npz"
        np.savez(
            given,
            pred_probs=probabilities[order][:, [2, 0, 1]],
            names=names[order],
            classes=np.array(CLASSES)[[2, 0, 1]],
        )
    elif form == "csv":
        given = tmp_path / "p.csv"
        rows = [
            [*probabilities[i, [1, 2]], names[i], probabilities[i, 0]] for i in order
        ]
        rows.append([0.2, 0.3, "a tree of another table", 0.5])
        write_csv(given, ["ash", "oak", "file", CLASSES[0]], rows)
    else:  # as pandas writes it
        given = tmp_path / "p.csv"
        write_csv(
            given, ["", *CLASSES], [[i, *row] for i, row in enumerate(probabilities)]
        )
    status, output, _ = run(path, "--pred-probs", given, "--metric", "cosine")
    assert status == 0
    noise = LabelNoise.from_features(
        features, labels, pred_probs=probabilities, class_names=None, k=10
    )
    found = scores(tmp_path / "out")
    np.testing.assert_allclose(
        [found[name] for name in names], noise.self_influence(), rtol=1e-4, atol=1e-5
    )
    assert next(iter(found)) == f"tree {WRONG}"
    assert "known: the votes name" in output and "suspects: 1 " in output
    record = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert record["pred_probs"] == str(given)
    assert record["questions"]["suspects"]["settings"]["pred_probs"] is True
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert f"<dd>{given}</dd>" in page


def test_an_image_that_cannot_be_read_needs_no_row(run, data, tmp_path):
    """Rows are matched by name; without names so many are too many."""
    from captum_margin.cli.audit.data import AuditData, as_classes
    from captum_margin.cli.audit.probabilities import read_probabilities
    from captum_margin.cli.output import CommandError

    _, features, labels, names, probabilities = data
    import torch

    codes, classes = as_classes(labels[:-1])
    images = AuditData(
        "images",
        names[:-1].tolist(),
        torch.from_numpy(features[:-1]),
        "",
        codes,
        classes,
        unreadable=[("tree 59", "damaged")],
    )
    np.savez(tmp_path / "p.npz", pred_probs=probabilities, names=names)
    found = read_probabilities(tmp_path / "p.npz").of(images)
    np.testing.assert_allclose(found, probabilities[:-1], atol=1e-6)
    np.savez(tmp_path / "p.npz", pred_probs=probabilities)
    with pytest.raises(CommandError, match=r"expected 59 rows .* \(got 60"):
        read_probabilities(tmp_path / "p.npz").of(images)


@pytest.mark.parametrize(
    ("contents", "part"),
    [
        ("", "expected a header with the names of the classes"),
        ("name,ash\n", "expected a header with the names of the classes"),
        ("a,b\n1\n", "expected 2 cells in line 2"),
        ("a,b\n1,x\n", "expected probabilities in line 2"),
        ("ash,oak\n.5,.5\n", "(got none for <b>elm</b>)"),
        (f"{','.join(CLASSES)},yew\n.5,.5,0,0\n", "yew, which no sample is labelled"),
        (f"{','.join(CLASSES)},ash\n.5,.5,0,0\n", "(got ash more than once)"),
        (f"{','.join(CLASSES)}\n.5,.5,0\n", "expected 60 rows of probabilities"),
        (f"name,{','.join(CLASSES)}\ntree 1,.5,.5,0\n", "no row for 59 of 60 samples"),
        (
            f"name,{','.join(CLASSES)}\ntree 1,.5,.5,0\ntree 1,.5,.5,0\n",
            "(got tree 1 more than once)",
        ),
    ],
)
def test_tables_that_are_no_probabilities(run, data, contents, part, tmp_path):
    (tmp_path / "p.csv").write_text(contents, encoding="utf-8")
    assert_one_error_line(run(data[0], "--pred-probs", tmp_path / "p.csv"), part)


@pytest.mark.parametrize(
    ("arrays", "part"),
    [
        ({}, "expected an array pred_probs in"),
        ({"a": np.ones((N, 3)), "b": np.ones(3)}, "(got a, b)"),
        ({"pred_probs": np.ones(N)}, "expected numbers of shape (N, C)"),
        ({"pred_probs": np.ones((N, 2))}, "expected 3 columns of probabilities"),
        ({"pred_probs": np.ones((N, 3))}, "that add up to 1 (got row 0"),
        ({"pred_probs": np.ones((N, 3)), "names": ["a"]}, "expected 60 names"),
        ({"pred_probs": np.ones((N, 3)), "classes": ["a"]}, "expected 3 classes"),
        ({"pred_probs": np.array([{}])}, "save it without objects"),
    ],
)
def test_arrays_that_are_no_probabilities(run, data, arrays, part, tmp_path):
    np.savez(tmp_path / "p.npz", **arrays)
    assert_one_error_line(run(data[0], "--pred-probs", tmp_path / "p.npz"), part)


def test_files_that_are_no_probabilities(run, data, tmp_path):
    path, features, labels, *_ = data
    assert_one_error_line(run(path, "--pred-probs", "none.csv"), "no such file")
    (tmp_path / "p.txt").write_text("x")
    assert_one_error_line(
        run(path, "--pred-probs", tmp_path / "p.txt"), ".csv or a .npz"
    )
    (tmp_path / "p.npz").write_bytes(b"no archive")
    assert_one_error_line(run(path, "--pred-probs", tmp_path / "p.npz"), "cannot read")
    np.savez(
        tmp_path / "p.npz",
        pred_probs=np.array(CLASSES[1:] + CLASSES[:1]) == labels[:, None],
    )
    assert_one_error_line(
        run(path, "--pred-probs", tmp_path / "p.npz"), "in the order of the classes"
    )
    np.savez(tmp_path / "bare.npz", features=features)
    assert_one_error_line(
        run(tmp_path / "bare.npz", "--pred-probs", tmp_path / "p.npz"), "needs labels"
    )


def test_a_model_that_had_learnt_the_labels_is_named(run, tmp_path):
    generator = np.random.default_rng(0)
    labels = np.arange(120) % 2
    features = generator.normal(size=(120, 3)) + 2 * labels[:, None]
    np.savez(tmp_path / "data.npz", features=features, labels=labels)
    np.savez(tmp_path / "p.npz", pred_probs=np.eye(2)[labels])
    status, output, error = run(
        tmp_path / "data.npz", "--pred-probs", tmp_path / "p.npz"
    )
    assert (status, error) == (0, "")
    assert "warning: pred_probs agree with 100.0% of the labels" in output
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "pred_probs agree with 100.0% of the labels" in page
    record = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert len(record["warnings"]) == 1


def assert_one_error_line(result, *parts):
    status, _, error = result
    assert status == 1
    assert error.startswith("captum-margin: error: ")
    assert error.count("\n") == 1 and error.endswith("\n")
    for part in parts:
        assert part in error
