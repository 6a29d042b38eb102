"""The whole run on disk against the class in memory."""

import os

import numpy as np
import pytest
import torch

from captum_margin.influence import LabelNoise
from captum_margin.scale import (
    RowShards,
    _regression,
    _rounds,
    build_shards,
    label_noise,
    undirected,
)
from captum_margin.signal import _kernel_ridge
from captum_margin.signal._kernel_ridge import AllVotes
from tests.helpers.shards import clusters, contents

OPTIONS = [
    {},
    {"regression": False},
    {"trusted": False},
    {"regression": False, "trusted": False},
    {"metric": "euclidean", "bandwidth": 1.0},
    {"bandwidth": None, "shift": "random_walk"},
    {"sided": "below"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_scores_are_those_of_the_class(tmp_path, options):
    x, y = clusters(400)
    found = label_noise(x, y, tmp_path, k=8, recall=1.0, block_size=90, **options)
    noise = LabelNoise.from_features(x, y, k=8, **options)
    expected = noise.result()
    # All neighbours were found, so the graphs are the same.
    assert torch.equal(found.edges.to_graph().edge_index, expected.graph.edge_index)
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=2e-6)
    top = found.ranking()[:20]
    assert float(expected.scores[top].min()) >= float(
        expected.scores.sort(descending=True).values[19] - 1e-5
    )


@pytest.mark.parametrize("numbers", [2**23, 300])
def test_wide_features_and_small_chunks(tmp_path, monkeypatch, numbers):
    monkeypatch.setattr(_regression, "BLOCK_NUMBERS", numbers)
    x, y = clusters(60, width=1100 if numbers > 300 else 20)
    found = label_noise(x, y, tmp_path, k=4, recall=1.0, block_size=25)
    expected = LabelNoise.from_features(x, y, k=4).self_influence()
    torch.testing.assert_close(found.scores, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("learners", [300, 120])
def test_the_regression_is_that_in_memory(tmp_path, monkeypatch, learners):
    x, y = clusters(300)
    edges = label_noise(x, y, tmp_path, k=4, metric="euclidean", block_size=70).edges
    points = _regression.BlockFolder(tmp_path / "rows" / "points")
    trust = torch.rand(300, generator=torch.Generator().manual_seed(0))
    signal = _regression.LabelSignal(
        _regression.Shared(edges.to_rows(y).numpy()),
        _regression.Shared(edges.to_rows(trust).numpy()),
        3,
    )
    monkeypatch.setattr(_kernel_ridge, "MOST_LEARNERS", learners)
    monkeypatch.setattr(_regression, "MOST_LEARNERS", learners)
    fit, *known = _regression.Learners(points, edges.order).fit(signal)
    votes = _regression.RowVotes(points, fit, *map(_regression.Shared, known))
    parts = [part for b in range(points.num_blocks) for _, part in votes.of_block(b)]
    f = trust[:, None] * torch.nn.functional.one_hot(y, 3)
    expected = AllVotes(x.double())(f.double()).clamp(0, 1).float()
    found = edges.to_samples(torch.cat(parts))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_labels_of_any_kind(tmp_path):
    x, y = clusters(100)
    names = np.array(["ant", "bee", "cat"])
    found = [
        label_noise(x, labels, tmp_path, k=4).scores
        for labels in (y, y.numpy(), names[y.numpy()], y * 7 - 3)
    ]
    assert all(torch.equal(scores, found[0]) for scores in found)


def test_other_labels_use_the_same_graph(tmp_path):
    def written():
        files = [f for f in tmp_path.rglob("*") if "scores" not in f.parts]
        return {f: f.stat().st_mtime_ns for f in files if f.is_file()}

    x, y = clusters(100)
    first = label_noise(x, y, tmp_path, k=4)
    before = written()
    flipped = y.clone()
    flipped[7] = (y[7] + 1) % 3
    again = label_noise(x, flipped, tmp_path, k=4)
    assert float(again.scores[7]) != float(first.scores[7])
    assert written() == before and len(before) > 5


def test_killed_anywhere_the_scores_are_the_same(tmp_path, monkeypatch):
    """And no more is repeated than the block at hand."""
    x, y = clusters(120)
    options = {"k": 4, "block_size": 60}
    work = []

    def counted(step, task, b):
        work.append((step.path.name, b))
        keep(step, task, b)

    keep = _rounds._keep
    monkeypatch.setattr(_rounds, "_keep", counted)
    whole = label_noise(x, y, tmp_path / "whole", **options)
    steps = [*work]
    names = ["totals", "share", "trust-1", "trust-2", "scores"]
    blocks = range(whole.edges.num_blocks)
    assert len(blocks) > 1 and steps == [(n, b) for n in names for b in blocks]
    label_noise(x, y, tmp_path / "whole", **options)
    assert work == steps  # nothing is done again

    path = tmp_path / "killed"
    build_shards(x, path / "rows", 4, metric="cosine", block_size=60)
    undirected(RowShards(path / "rows"), path / "edges")
    work.clear()
    replace, left = os.replace, [0]

    def dying(source, target):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr("captum_margin.scale._folder.os.replace", dying)
    kills, found = 0, None
    while found is None:
        left[0] = 4  # files: no more than a block or two
        try:
            found = label_noise(x, y, path, **options)
        except KeyboardInterrupt:
            kills += 1
    assert kills >= 2 * len(names) and len(work) <= len(steps) + kills
    assert torch.equal(found.scores, whole.scores)
    assert contents(path) == contents(tmp_path / "whole")


def test_other_labels_or_options_begin_the_scores_anew(tmp_path):
    x, y = clusters(100)
    other = torch.where(torch.arange(100) < 7, (y + 1) % 3, y)
    asked = [(y, {}), (other, {}), (y, {"trusted": False}), (y, {"bandwidth": 2.0})]
    asked += [(y, {"regression": False}), (y, {"sided": "above"}), (y, {})]
    for labels, options in asked:
        found = label_noise(x, labels, tmp_path / "one", k=4, **options).scores
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        assert torch.equal(found, label_noise(x, labels, path, k=4, **options).scores)


def test_one_class_has_no_suspects(tmp_path):
    x, _ = clusters(50)
    with pytest.warns(UserWarning, match="one class"):
        found = label_noise(x, torch.ones(50, dtype=torch.long), tmp_path, k=3)
    assert torch.equal(found.scores, torch.zeros(50))


def test_arguments_are_checked(tmp_path):
    x, y = clusters(50)
    with pytest.raises(ValueError, match="symmetric"):
        label_noise(x, y, tmp_path, k=3, shift="laplacian")
    with pytest.raises(ValueError, match=r"labels of shape \(N,\) = \(50,\)"):
        label_noise(x, y[:9], tmp_path, k=3)


@pytest.mark.parametrize("missing", [float("nan"), None])
def test_a_missing_label_is_no_class(tmp_path, missing):
    x, y = clusters(50)
    labels = [*torch.as_tensor(y)[:49].tolist(), missing]
    with pytest.raises(ValueError, match="1 missing, the first at 49"):
        label_noise(x, labels, tmp_path)
