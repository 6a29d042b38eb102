"""What ``audit`` says of how much it knows, and where that is nothing."""

import csv
import html
import json

import numpy as np
import pytest

from captum_margin.cli import main
from captum_margin.influence import LabelNoise


def audit(tmp_path, capsys, features, labels):
    np.savez(tmp_path / "data.npz", features=features, labels=labels)
    out = tmp_path / "out"
    arguments = [str(tmp_path / "data.npz"), "--metric", "cosine", "--out", str(out)]
    assert main(["audit", *arguments]) == 0
    with (out / "suspects.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    record = json.loads((out / "audit.json").read_text())
    page = html.unescape((out / "index.html").read_text(encoding="utf-8"))
    printed = capsys.readouterr()
    assert printed.err == ""
    return rows, record, printed.out, " ".join(page.split())


@pytest.mark.parametrize("kind", ["noise", "constant"])
def test_where_nothing_is_known_nothing_is_called_wrong(kind, tmp_path, capsys):
    generator = np.random.default_rng(0)
    features = generator.normal(size=(60, 5)) if kind == "noise" else np.ones((60, 5))
    labels = np.array(["ash", "oak"])[np.arange(60) % 2]
    rows, record, printed, page = audit(tmp_path, capsys, features, labels)
    assert {row["is_label_issue"] for row in rows} == {"False"}
    assert {row["class_is_known"] for row in rows} == {"False"}
    assert all(row["given_label"] == row["predicted_label"] for row in rows)
    influence = [float(row["influence"]) for row in rows]
    assert influence == sorted(influence, reverse=True) and len(rows) == 60
    assert record["n_suspects"] == 0
    assert record["knowledge"]["unknown_classes"] == ["ash", "oak"]
    (warning,) = record["warnings"]
    assert warning.startswith("nothing is known of the labels from these features")
    assert "suspects: 0 labels" in printed and f"warning: {warning}" in printed
    assert "known: " not in printed
    box = '<p class="note warning" role="note"><strong>Warning:</strong> '
    assert f"{box}{warning}.</p>" in page
    assert "Nothing is known of the labels of 60 samples" in page


def test_a_class_that_the_votes_do_not_know_is_named(tmp_path, capsys):
    """Two kinds apart from each other, and a third that lies among both."""
    generator = np.random.default_rng(1)
    truth = np.repeat([0, 1, 2], 40)
    features = generator.normal(size=(120, 4)) * 0.3
    side = np.where(truth == 2, np.arange(120) % 2, truth)
    features[np.arange(120), side] += 3
    names = np.array(["ash", "oak", "<i>weed</i>"])
    labels = names[truth]
    labels[5] = "oak"
    rows, record, printed, page = audit(tmp_path, capsys, features, labels)
    known = LabelNoise.from_features(features, labels, k=20).result().knowledge
    told = record["knowledge"]
    assert told["unknown_classes"] == ["<i>weed</i>"]
    for name in ("accuracy", "low", "high", "chance"):
        assert told[name] == pytest.approx(getattr(known, name), abs=1e-6)
    assert told["probably_wrong"] == known.n_wrong and record["warnings"] == []
    assert "not known, so never called wrong: <i>weed</i>" in printed
    assert f"known: {known}; probably wrong: {known.n_wrong}" in printed
    for row in rows:
        is_known = row["given_label"] != "<i>weed</i>"
        assert row["class_is_known"] == str(is_known)
        assert is_known or row["is_label_issue"] == "False"
    flagged = [row["name"] for row in rows if row["is_label_issue"] == "True"]
    assert flagged == ["sample 5"]
    assert f"{known.accuracy:.1%} of the labels can be told" in page
    assert "Of <i>weed</i> the votes know nothing. It does not stand out" in page
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "<i>" not in text.split('<script type="application/json"')[0]
