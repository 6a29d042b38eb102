"""``audit`` of splits: near duplicates are told, and labels with HTML in them shown."""

import csv
import json

import numpy as np
import pytest

from captum_margin.cli import main
from captum_margin.influence import near_duplicates
from captum_margin.neighbors import find_neighbors
from tests.cli.test_audit import Page, assert_self_contained
from tests.cli.test_audit_page import block

MARKUP = "<b>cat</b> & co"
N = 60


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def arrays():
    """Two classes in two splits, with four groups of copies."""
    generator = np.random.default_rng(7)
    features = generator.normal(size=(N, 16)).astype(np.float32)
    features[: N // 2, 1] += 12
    features[N // 2 :, 0] += 12
    labels = np.repeat([MARKUP, "dog"], N // 2)
    splits = np.where(np.arange(N) % 3 == 0, "val", "train")

    def copy(i, *copies):
        for at, j in enumerate(copies, start=1):
            features[j] = features[i] + 0.01 * at

    copy(1, 2)  # one label, one split
    copy(4, 6)  # across splits
    copy(34, 35, 37)  # three of one label
    copy(50, 8)  # another label
    return {"features": features, "labels": labels, "splits": splits}


@pytest.fixture(scope="module")
def out(arrays, tmp_path_factory):
    folder = tmp_path_factory.mktemp("duplicates")
    np.savez(folder / "data.npz", **arrays)
    assert main(["audit", str(folder / "data.npz"), "--out", str(folder / "out")]) == 0
    return folder / "out"


def test_the_table_names_the_groups_the_gravest_first(out, arrays):
    rows = table(out / "near_duplicates.csv")
    listed = [(int(row["group"]), int(row["name"].split()[1])) for row in rows]
    groups = (8, 50), (4, 6), (34, 35, 37), (1, 2)
    assert listed == [(at, i) for at, group in enumerate(groups, 1) for i in group]
    found = near_duplicates(find_neighbors(arrays["features"], 15, metric="cosine"))
    for row, (_, i) in zip(rows, listed, strict=True):
        assert row["split"] == arrays["splits"][i]
        assert row["given_label"] == arrays["labels"][i]
        assert float(row["distance"]) == pytest.approx(float(found.distance[i]), 1e-4)
    differ = [(row["labels_differ"], row["splits_differ"]) for row in rows]
    assert arrays["splits"][8] == arrays["splits"][50]
    assert differ == [
        *[("True", "False")] * 2,
        *[("False", "True")] * 2,
        *[("False", "False")] * 5,
    ]


def test_all_tables_tell_the_split(out, arrays):
    for name in ("suspects", "prototypes", "criticisms", "boundary"):
        rows = table(out / f"{name}.csv")
        assert list(rows[0])[:4] == ["rank", "name", "split", "given_label"]
        for row in rows:
            assert row["split"] == arrays["splits"][int(row["name"].split()[1])]


def test_suspects_say_which_duplicates_contradict_them(out):
    group = {1: {8, 50}, 2: {4, 6}, 3: {34, 35, 37}, 4: {1, 2}}
    for row in table(out / "suspects.csv"):
        i = int(row["name"].split()[1])
        expected = [str(number) for number, members in group.items() if i in members]
        assert row["near_duplicates"] == "".join(expected)
        assert row["near_duplicate_of_other_label"] == str(i in (8, 50))


def test_the_record_and_the_output(out, arrays, capsys, tmp_path):
    record = json.loads((out / "audit.json").read_text())
    assert record["near_duplicates"] == {
        "groups": 4,
        "samples": 9,
        "groups_of_several_labels": 1,
        "groups_in_several_splits": 1,
    }
    assert record["splits"] == {"train": 40, "val": 20}
    settings = record["questions"]["near duplicates"]["settings"]
    assert settings["k"] == 15 and 0 < settings["threshold"] <= 0.65
    np.savez(tmp_path / "data.npz", **arrays)
    assert main(["audit", str(tmp_path / "data.npz"), "--out", str(tmp_path)]) == 0
    line = (
        "near duplicates: 4 groups of 9 samples; 1 group under several labels; 1 group "
        "in several splits, which is a leak"
    )
    assert line in capsys.readouterr().out.splitlines()


def test_the_page_shows_groups_and_labels_as_text(out):
    page = Page(out / "index.html")
    assert_self_contained(page, out)
    assert "9 near duplicates in 4 groups" in page.text
    assert f"Group 1: 2 samples, labelled {MARKUP} and dog" in page.text
    assert "Group 2: 2 samples, in train and val" in page.text
    assert "1 group in several splits, which is a leak" in page.text
    # Had a label become markup, the parser would have met an element <b> around it.
    assert MARKUP in page.text and "cat & co" not in page.words
    data = block(out / "index.html")
    assert data["groups"] == [[8, 50], [4, 6], [34, 35, 37], [1, 2]]
    assert (data["contradicted"], data["leaking"]) == ([8, 50], [4, 6])
    assert data["splits"] == ["train", "val"]
    assert data["split"] == [int(i % 3 == 0) for i in range(N)]


def test_a_suspect_is_told_of_its_duplicate(out):
    """Sample 8 lies among the dogs; sample 50 is no suspect, and counted apart."""
    page = Page(out / "index.html")
    rows = [r for r in table(out / "suspects.csv") if r["is_label_issue"] == "True"]
    assert [row["name"] for row in rows] == ["sample 8"]
    assert "A near duplicate has another label." in page.text
    assert "1 more sample has a near duplicate with another label" in page.text


def test_without_duplicates_that_is_said(tmp_path):
    features = np.random.default_rng(0).normal(size=(40, 16))
    np.savez(tmp_path / "data.npz", features=features)
    assert main(["audit", str(tmp_path / "data.npz"), "--out", str(tmp_path)]) == 0
    assert table(tmp_path / "near_duplicates.csv") == []
    assert "No near duplicates" in Page(tmp_path / "index.html").text
    record = json.loads((tmp_path / "audit.json").read_text())
    assert record["near_duplicates"]["groups"] == 0 and record["splits"] == {}


def test_splits_must_be_one_per_sample(tmp_path, capsys):
    np.savez(tmp_path / "data.npz", features=np.ones((3, 2)), splits=np.array(["a"]))
    assert main(["audit", str(tmp_path / "data.npz"), "--out", str(tmp_path)]) == 1
    assert "expected 3 splits, one per sample (got 1)" in capsys.readouterr().err
