"""What a result says about a score: neighbours, words, table, picture."""

import dataclasses
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from captum_margin.influence import DecisionBoundary, LabelNoise
from captum_margin.influence._picture import image_of
from captum_margin.signal import Graph
from tests.influence.test_scores import blobs, with_flips

LABELS = ["dog", "cat", "cat", "dog", "cat", "dog"]


def star(weights=(0.2, 0.9, 0.5, 0.9), **options):
    """Sample 0 joined to 1 .. 4; sample 5 alone."""
    edges = torch.tensor([[0, 0, 0, 0], [1, 2, 3, 4]])
    graph = Graph(edges, torch.tensor(weights), 6)
    return LabelNoise.from_graph(graph, LABELS, **options)


def test_neighbours_come_by_weight():
    around = star().result().neighbors(0)
    assert around.indices.tolist() == [2, 4, 3, 1]
    assert around.labels == ("cat", "cat", "dog", "cat")
    torch.testing.assert_close(around.weights, torch.tensor([0.9, 0.9, 0.5, 0.2]))
    assert star().result().neighbors(5).indices.tolist() == []
    with pytest.raises(IndexError, match=r"\[0, 6\)"):
        star().result().neighbors(6)


def test_scores_are_put_in_words():
    result = star().result()
    says = "sample 0 is labelled dog; 3 of its 4 neighbours are cat"
    assert result.explain(0) == says
    says = "sample 1 is labelled cat; 1 of its 1 neighbour is dog"
    assert result.explain(1) == says
    assert result.explain(-1) == "sample 5 is labelled dog; it has no neighbours"
    plain = LabelNoise.from_features(torch.eye(3), function=torch.ones(3)).result()
    assert plain.explain(1) == "sample 1 has the score 0 among its 2 neighbours"


def test_predicted_is_the_weighted_majority_and_ties_are_for_the_given():
    noise = star()
    names = DecisionBoundary.from_graph(noise.result().graph, LABELS).result()
    assert [names.classes[c] for c in names.predicted().tolist()] == [
        "cat",
        "dog",
        "dog",
        "dog",
        "dog",
        "dog",
    ]
    edges = torch.tensor([[0, 0], [1, 2]])
    tied = DecisionBoundary.from_graph(edges, [1, 0, 1]).result()
    assert tied.predicted().tolist() == [1, 1, 1]
    # Votes of which nothing is known call no label wrong.
    with pytest.warns(UserWarning, match="nothing is known of the labels"):
        result = star().result()
    assert torch.equal(result.predicted(), result.labels)


def test_predicted_is_by_the_votes_that_the_scores_are_of():
    """Those of a planted mistake's neighbours may not be alone in the vote."""
    x, labels = blobs(30, spread=0.6)
    flipped, wrong = with_flips(labels, n=9)
    for options in ({}, {"regression": False}, {"trusted": False}):
        result = LabelNoise.from_features(x, flipped, k=8, **options).result()
        votes, known = result.function - result.filtered, result.knowledge
        assert known.known.all()
        outvoted = votes.argmax(dim=1) != flipped
        ranking = result.scores.argsort(descending=True).tolist()
        called = [i for i in ranking if outvoted[i]][: known.n_wrong]
        expected = flipped.clone()
        expected[called] = votes.argmax(dim=1)[called]
        assert result.predicted().tolist() == expected.tolist()
        # As many as the votes are sure of: two of the nine lie between the clusters.
        assert len({*called} & {*wrong.tolist()}) >= 7
        assert int((result.predicted()[wrong] == labels[wrong]).sum()) >= 7
    paper = LabelNoise.from_features(x, flipped, k=8, paper=True).result()
    source, target = paper.graph.edge_index
    count = torch.zeros(len(x), 3).index_put_(
        (target, flipped[source]), torch.tensor(1.0), accumulate=True
    )
    own = count.gather(1, flipped[:, None])[:, 0]
    expected = torch.where(own == count.amax(1), flipped, count.argmax(1))
    assert paper.predicted().tolist() == expected.tolist()


def test_a_result_keeps_every_step_and_does_not_change():
    x, labels = blobs()
    labels, wrong = with_flips(labels)
    noise = LabelNoise.from_features(x, labels)
    result = noise.result()
    assert result is noise.result()
    torch.testing.assert_close(result.scores, result.filtered.square().sum(dim=1))
    assert torch.equal(result.function.argmax(dim=1), labels)
    assert sorted(result.ranking()[: len(wrong)].tolist()) == wrong.tolist()
    assert torch.equal(result.ranking()[:4], result.top(4))
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.scores = result.scores + 1


def test_the_table_has_datalabs_columns():
    pandas = pytest.importorskip("pandas")
    x, labels = blobs()
    labels, wrong = with_flips(labels)
    noise = LabelNoise.from_features(x, labels, class_names=["a", "b", "c"])
    table = noise.result().to_pandas()
    assert list(table.columns[:4]) == [
        "is_label_issue",
        "label_score",
        "given_label",
        "predicted_label",
    ]
    assert np.flatnonzero(table.is_label_issue).tolist() == wrong.tolist()
    assert table.is_label_issue.dtype == bool
    assert table.label_score.between(0, 1).all()
    by_score = table.label_score.argsort(kind="stable").tolist()
    assert by_score == noise.result().ranking().tolist()
    assert table["rank"].argsort().tolist() == by_score
    assert table.given_label.tolist() == [("a", "b", "c")[c] for c in labels]
    np.testing.assert_allclose(table.influence, noise.self_influence())
    bound = max(2, table.influence.max())  # the symmetric shift may exceed 2
    np.testing.assert_allclose(table.label_score, 1 - table.influence / bound)
    assert isinstance(table, pandas.DataFrame)
    boundary = DecisionBoundary.from_features(x, labels).result().to_pandas()
    assert {"is_boundary_issue", "boundary_score"} <= set(boundary.columns)
    bare = LabelNoise.from_features(x, function=labels).result().to_pandas()
    assert list(bare.columns) == ["influence", "rank"]


def test_without_pandas_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        star().result().to_pandas()


class Pictures(Dataset):
    """Images that count how often they are read."""

    classes = ("cat", "dog")

    def __init__(self, n=30):
        self.read = []
        self.x = torch.rand(n, 3, 5, 5, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        self.read.append(index)
        return self.x[index], index % 2


def test_the_contact_sheet_shows_samples_beside_their_neighbours():
    data = Pictures()
    noise = LabelNoise(nn.Flatten(), data, k=4)
    result = noise.result()
    data.read.clear()
    figure = result.plot(3, n_neighbors=2)
    top = result.top(3).tolist()
    shown = [j for i in top for j in [i, *result.neighbors(i).indices[:2].tolist()]]
    assert data.read == shown
    titles = [axis.get_title() for axis in figure.axes]
    first = top[0]
    assert titles[0] == f"{first}: {('cat', 'dog')[first % 2]}"
    colors = [axis.title.get_color() for axis in figure.axes]
    for axis, j in enumerate(shown):
        same = j % 2 == top[axis // 3] % 2
        assert colors[axis] == ("black" if same else "tab:red")
    np.testing.assert_allclose(
        figure.axes[1].images[0].get_array(), data.x[shown[1]].permute(1, 2, 0)
    )
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_without_images_scores_are_drawn_as_a_histogram():
    x, labels = blobs()
    result = LabelNoise.from_features(x, labels).result()
    (axes,) = result.plot().axes
    assert sum(patch.get_height() for patch in axes.patches) == len(x)
    images = torch.rand(len(x), 5, 5)
    with_images = LabelNoise.from_features(x, labels, images=images).result()
    assert len(with_images.plot(2, n_neighbors=3).axes) == 8
    with pytest.raises(ValueError, match="n >= 1"):
        result.plot(0)


def test_images_of_every_kind():
    gray, colour = torch.rand(4, 5), torch.rand(3, 4, 5)
    assert image_of((gray[None], 1)).shape == (4, 5)
    assert image_of(colour).shape == (4, 5, 3)
    assert image_of(colour.permute(1, 2, 0).numpy()).shape == (4, 5, 3)
    stretched = image_of(4 * colour - 2)
    assert stretched.min() == 0 and stretched.max() == 1
    with pytest.raises(ValueError, match="1 or 3 channels"):
        image_of(torch.rand(5, 4, 4))
