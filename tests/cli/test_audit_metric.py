"""What samples are alike by: the same rule for every file type, and what it says."""

import csv
import json

import numpy as np
import pytest
import torch

from captum_margin.cli import main
from captum_margin.cli.audit.data import AuditData, as_classes
from captum_margin.cli.audit.metric import measured
from captum_margin.cli.output import CommandError
from captum_margin.influence import LabelNoise

N = 80


def by_units():
    """Two kinds told apart by a column of small numbers alone."""
    generator = np.random.default_rng(1)
    kind = np.arange(N) % 2
    small = generator.normal(kind * 0.006, 0.001)
    return np.stack([small, generator.normal(50, 1000, N)], axis=1), kind


def by_direction():
    """Two directions, at any length; a third column of constant value."""
    generator = np.random.default_rng(2)
    kind = np.arange(N) % 2
    angle = 0.3 + 0.9 * kind + generator.normal(0, 0.1, N)
    length = np.exp(generator.normal(0, 2, N))
    values = np.stack([np.cos(angle) * length, np.sin(angle) * length, 0 * angle])
    return values.T, kind


DATA = {"euclidean": by_units, "cosine": by_direction}


def audit(path, capsys, *options):
    out = path.parent / f"out of {path.name}"
    assert main(["audit", str(path), *options, "--out", str(out)]) == 0
    with (out / "suspects.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    record = json.loads((out / "audit.json").read_text())
    return rows, record, capsys.readouterr().out, (out / "index.html").read_text()


def as_data(values, kind):
    codes, classes = as_classes(kind)
    return AuditData("x", [*map(str, range(len(kind)))], values, "x", codes, classes)


@pytest.mark.parametrize("expected", ["euclidean", "cosine"])
def test_the_shell_and_the_library_agree_in_every_file_type(expected, tmp_path, capsys):
    values, kind = DATA[expected]()
    labels = np.array(["ash", "oak"])[kind]
    labels[6] = "oak"
    header = [f"c{i}" for i in range(values.shape[1])] + ["label"]
    with (tmp_path / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [header, *([*v, x] for v, x in zip(values, labels, strict=True))]
        )
    np.savez(tmp_path / "arrays.npz", features=values, labels=labels)
    np.savez(  # as the features of a folder of photographs are kept
        tmp_path / "features.npz",
        features=values.astype(np.float32),
        labels=labels,
        names=np.arange(N).astype(str),
    )
    if expected == "euclidean":
        known = (values - values.mean(axis=0)) / values.std(axis=0)
    else:
        known = values
    noise = LabelNoise.from_features(
        known.astype(np.float32), labels, k=20, metric=expected
    )
    for name in ("table.csv", "arrays.npz", "features.npz"):
        rows, record, printed, page = audit(tmp_path / name, capsys)
        assert record["metric"]["used"] == expected
        assert {*record["searches"]} == {expected}
        scores = {int(row["name"].split()[-1]): row["influence"] for row in rows}
        first = min(scores)  # rows are counted from one, samples from zero
        found = [float(scores[i + first]) for i in range(N)]
        np.testing.assert_allclose(found, noise.self_influence(), rtol=1e-3, atol=1e-4)
        assert [row["is_label_issue"] for row in rows[:2]] == ["True", "False"]
        told = {
            "cosine": "alike by: cosine of the features: ",
            "euclidean": "alike by: distance of the features, each scaled to variance",
        }
        assert told[expected] in printed and told[expected][10:] in page


@pytest.mark.parametrize("make", DATA.values())
def test_the_choice_is_by_the_labels_of_the_nearest(make):
    values, kind = make()
    data, choice = measured(as_data(torch.from_numpy(values), kind), "auto")
    scaled = values - values.mean(axis=0)
    scaled = scaled / np.where(scaled.std(axis=0) > 0, scaled.std(axis=0), 1)
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    for metric, points in (("cosine", unit), ("euclidean", scaled)):
        length = np.linalg.norm(points[:, None] - points, axis=2)
        np.fill_diagonal(length, np.inf)
        near = length.argsort(axis=1)[:, :10]
        share = (kind[near] == kind[:, None]).mean()
        assert choice.agreement[metric] == pytest.approx(share, abs=2e-3)
        assert f"{choice.agreement[metric]:.1%}" in choice.told()
    assert choice.metric == max(choice.agreement, key=choice.agreement.get)
    expected = scaled if choice.metric == "euclidean" else values
    torch.testing.assert_close(data.features, torch.from_numpy(expected).float())
    given, of_given = measured(as_data(torch.from_numpy(values), kind), "cosine")
    assert (given.metric, of_given.told()) == (
        "cosine",
        "cosine of the features (asked for)",
    )


def test_a_tie_goes_to_the_cosine_and_rows_are_drawn(monkeypatch):
    generator = np.random.default_rng(3)
    values = generator.normal(size=(500, 4))
    _, choice = measured(
        as_data(torch.from_numpy(values), generator.integers(0, 2, 500)), "auto"
    )
    assert choice.metric == "cosine" and (choice.rows, choice.k) == (500, 10)
    monkeypatch.setattr("captum_margin.cli.audit.metric._ROWS", 30)
    _, choice = measured(as_data(torch.from_numpy(values), np.arange(500) % 10), "auto")
    assert choice.rows == 30 and choice.k < 4  # at most half of a class of the drawn


def test_without_labels_the_distance_is_taken(tmp_path, capsys):
    values, _ = by_direction()
    np.savez(tmp_path / "data.npz", features=values)
    out = tmp_path / "out"
    assert main(["audit", str(tmp_path / "data.npz"), "--out", str(out)]) == 0
    assert "scaled to variance 1 (without labels)" in capsys.readouterr().out
    record = json.loads((out / "audit.json").read_text())
    assert record["metric"]["used"] == "euclidean"
    assert record["metric"]["agreement"] is None


def test_directions_that_digits_do_not_tell_apart_are_not_compared():
    values, kind = by_units()
    for more in (1.7e9, 1.7e12):  # a date that is the same for all
        wide = np.column_stack([values / 1000, np.full(N, more)])
        data, choice = measured(as_data(torch.from_numpy(wide), kind), "auto")
        assert choice.metric == "euclidean" and "digits" in choice.told()
        near = LabelNoise.from_features(data.features, kind, k=5).self_influence()
        expected, _ = measured(as_data(torch.from_numpy(values), kind), "euclidean")
        torch.testing.assert_close(
            near,
            LabelNoise.from_features(expected.features, kind, k=5).self_influence(),
        )


@pytest.mark.parametrize("fill", [1e8, 1e20, 9.96921e36])
def test_a_value_that_stands_for_none_takes_no_digits_from_the_others(fill):
    values, kind = by_direction()
    far = np.vstack([values, np.full((1, 3), fill)])
    labels = [*kind.tolist(), 0]
    data, _ = measured(as_data(torch.from_numpy(far), np.array(labels)), "euclidean")
    scaled = data.features[:-1].double()
    scaled = scaled - scaled.mean(dim=0)
    expected = torch.from_numpy(values - values.mean(axis=0))
    for column in range(2):
        ratio = scaled[:, column].norm() / expected[:, column].norm()
        torch.testing.assert_close(
            scaled[:, column] / ratio, expected[:, column], rtol=1e-5, atol=1e-4
        )


def test_numbers_beyond_single_precision():
    values, kind = by_units()
    huge = torch.from_numpy(values * 1e200)
    data, choice = measured(as_data(huge, kind), "auto")
    assert choice.metric == "euclidean"
    torch.testing.assert_close(
        data.features, measured(as_data(huge / 1e200, kind), "auto")[0].features
    )
    found, expected = (
        measured(as_data(x, kind), "cosine")[0].points for x in (huge, huge / 1e200)
    )
    torch.testing.assert_close(found, expected)
    apart = 1e9 + torch.from_numpy(values / abs(values).max())
    with pytest.raises(CommandError, match=r"more than their digits.*metric euclidean"):
        measured(as_data(apart, kind), "cosine")
