"""Class probabilities of a model of one's own, as a further vote or the only one."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from captum_margin.influence import LabelNoise
from captum_margin.signal import knn_graph
from tests.influence.test_scores import blobs, with_flips
from tests.reference import label_noise_reference as reference
from tests.reference.influence_reference import neighbor_weights


def probabilities(labels, classes=3, sure=2.0, seed=0):
    """Softmax of noise, and so much more for the class."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(labels), classes, generator=generator).double()
    logits[torch.arange(len(labels)), labels] += sure
    return logits.softmax(dim=1)


def average_precision(scores, wrong):
    """Mean of the precision at each wrong label that is found."""
    hits = wrong[scores.argsort(descending=True)].double()
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)
    return float((precision * hits).sum() / hits.sum())


@pytest.fixture
def samples():
    """Features (float64), labels with mistakes, where these are, probabilities."""
    x, clean = blobs(10, spread=1.2)
    labels, wrong = with_flips(clean, n=4)
    return x, labels, wrong, probabilities(clean)


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("regression", [True, False])
def test_they_are_a_vote_beside_the_others(samples, trusted, regression):
    x, labels, _, p = samples
    weights = neighbor_weights(x.numpy(), 5, "euclidean", 0.5)
    points = x.numpy() if regression else None
    expected = reference.label_noise(
        weights, labels.numpy(), "symmetric", trusted, points, p.numpy()
    )
    options = {"k": 5, "metric": "euclidean", "trusted": trusted}
    noise = LabelNoise.from_features(
        x, labels, pred_probs=p, regression=regression, **options
    )
    scores = noise.self_influence()
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-5, atol=1e-6)
    if not regression:  # of a graph there is none
        graph = noise.result().graph
        given = LabelNoise.from_graph(graph, labels, pred_probs=p, trusted=trusted)
        torch.testing.assert_close(given.self_influence(), scores)


def test_they_are_a_vote_beside_a_models_features(samples):
    x, labels, _, p = samples
    data = TensorDataset(x.float(), labels)
    scores = LabelNoise(nn.Identity(), data, pred_probs=p, k=5).self_influence()
    expected = LabelNoise.from_features(x.float(), labels, pred_probs=p, k=5)
    torch.testing.assert_close(scores, expected.self_influence())


def test_they_are_the_only_vote(samples):
    _, labels, _, p = samples
    noise = LabelNoise.from_probabilities(p, labels)
    hot = nn.functional.one_hot(labels).double()
    # Two channels: the given class, and all others as one.
    expected = 2 * (1 - (hot * p).sum(dim=1)).square()
    torch.testing.assert_close(noise.self_influence().double(), expected)
    order = expected.argsort(descending=True).tolist()
    assert noise.result().ranking().tolist() == order
    with pytest.raises(ValueError, match=r"expected pred_probs of shape \(N, C\)"):
        LabelNoise.from_probabilities(None, labels)


def test_forms_of_probabilities_and_labels(samples):
    _, labels, _, p = samples
    expected = LabelNoise.from_probabilities(p, labels).self_influence()
    names = np.array(["ape", "bat", "cat"])[labels]
    for given in (p.numpy(), p.tolist(), p.numpy().astype(np.float32)):
        for y in (labels.tolist(), names, names.tolist(), labels.numpy() + 7):
            scores = LabelNoise.from_probabilities(given, y).self_influence()
            torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-6)
    named = LabelNoise.from_probabilities(p, labels, class_names=["a", "b", "c"])
    assert named.result().classes == ("a", "b", "c")


def test_columns_of_a_table_are_taken_by_name():
    pandas = pytest.importorskip("pandas")
    labels = torch.arange(120) % 3
    p = probabilities(labels)
    classes = ["ape", "bat", "cat"]
    names = np.array(classes)[labels]
    table = pandas.DataFrame(p.numpy(), columns=classes)
    expected = LabelNoise.from_probabilities(p, names).self_influence()
    for order in (classes, classes[::-1], ["bat", "cat", "ape"]):
        scores = LabelNoise.from_probabilities(table[order], names).self_influence()
        assert torch.equal(scores, expected)
    other = table.set_axis(["x", "y", "z"], axis=1)  # these say nothing
    scores = LabelNoise.from_probabilities(other, names).self_influence()
    assert torch.equal(scores, expected)
    with pytest.raises(ValueError, match="in the order of the classes"):
        LabelNoise.from_probabilities(other[["z", "x", "y"]], names).self_influence()


def test_what_is_no_probabilities_is_refused(samples):
    _, labels, _, p = samples

    def asked(values, error, message):
        for start in (
            lambda: LabelNoise.from_probabilities(values, labels),
            lambda: LabelNoise.from_features(p, labels, pred_probs=values, k=3),
        ):
            with pytest.raises(error, match=message):
                start().self_influence()

    shape = r"shape \(N, C\) = \(30, 3\), a row for each sample and a column for each"
    asked(p[:-1], ValueError, shape)
    asked(p[:, :2], ValueError, shape + r" class of \(0, 1, 2\) \(got")
    asked(p[:, 0], ValueError, shape)
    for bad in (float("nan"), float("inf")):
        broken = p.clone()
        broken[4, 1] = bad
        asked(broken, ValueError, r"expected finite pred_probs \(got NaN.*row 4\)")
    negative = p.clone()
    negative[5] = torch.tensor([-0.1, 0.6, 0.5])
    asked(negative, ValueError, r"got row 5: \(-0.1, 0.6, 0.5\) of sum 1\)")
    asked(3 * p, ValueError, r"add up to 1 \(got row 0: .* of sum 3\); take softmax")
    rounded = (p * 1000).round() / 1000  # as written into a file
    scores = LabelNoise.from_probabilities(rounded, labels).self_influence()
    expected = LabelNoise.from_probabilities(p, labels).self_influence()
    torch.testing.assert_close(scores, expected, rtol=0, atol=5e-3)
    asked(np.array([["a"] * 3] * 30), TypeError, r"expected numbers .*\(got <U1\)")


@pytest.mark.parametrize("order", [[1, 0, 2], [1, 2, 0]])
def test_columns_in_another_order_are_noticed(order):
    labels = torch.arange(120) % 3
    p = probabilities(labels)
    names = np.array(["ape", "bat", "cat"])[labels]
    with pytest.raises(ValueError) as error:
        LabelNoise.from_probabilities(p[:, order], names).self_influence()
    said = str(error.value)
    assert "in the order of the classes (ape, bat, cat)" in said
    # Which column looks like which class: the one in whose place it stands.
    for column, c in enumerate(order):
        named = f"column {column} as {('ape', 'bat', 'cat')[c]}"
        assert (named in said) == (column != c)


@pytest.mark.parametrize("classes", [2, 3, 10, 50])
def test_useless_probabilities_are_in_no_other_order(classes):
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(classes, (60,), generator=generator)
        labels[:classes] = torch.arange(classes)
        guess = torch.randint(classes, (60,), generator=generator)
        p = nn.functional.one_hot(guess, classes).double()  # sure of anything
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that nothing is known
            scores = LabelNoise.from_probabilities(p, labels).self_influence()
        # Taken in the order they have: certainty for the label or against it.
        assert scores.tolist() == (2.0 * (guess != labels)).tolist()


def test_probabilities_of_learnt_labels_are_warned_of():
    labels = torch.arange(120) % 3
    p = nn.functional.one_hot(labels).double() * 0.9 + 0.1 / 3
    with pytest.warns(UserWarning, match=r"agree with 100.0% of the labels.*fold"):
        LabelNoise.from_probabilities(p, labels).self_influence()
    p[5] = p[6]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LabelNoise.from_probabilities(p, labels).self_influence()
        few = torch.arange(30)  # so few may be right by merit
        LabelNoise.from_probabilities(p[90:], labels[few + 90]).self_influence()


def test_good_probabilities_find_what_features_do_not():
    generator = torch.Generator().manual_seed(0)
    clean = torch.arange(300) % 3
    labels, wrong = with_flips(clean, n=30)
    is_wrong = torch.zeros(300, dtype=torch.bool).index_fill(0, wrong, True)
    x = torch.randn(300, 8, generator=generator, dtype=torch.float64)
    p = nn.functional.one_hot(clean).double() * 0.97 + 0.01
    with pytest.warns(UserWarning, match="nothing is known"):
        alone = LabelNoise.from_features(x, labels).self_influence()
    assert average_precision(alone, is_wrong) < 0.3
    result = LabelNoise.from_features(x, labels, pred_probs=p).result()
    assert average_precision(result.scores, is_wrong) == 1
    assert torch.equal(result.predicted()[wrong], clean[wrong])


def test_useless_probabilities_do_not_spoil_good_features():
    for seed in range(3):
        x, clean = blobs(60, seed=seed, spread=1.0)
        labels, wrong = with_flips(clean, n=18)
        is_wrong = torch.zeros(180, dtype=torch.bool).index_fill(0, wrong, True)
        p = probabilities(clean, sure=0.0, seed=seed)
        found = [
            average_precision(
                LabelNoise.from_features(x, labels, pred_probs=given).self_influence(),
                is_wrong,
            )
            for given in (None, p)
        ]
        assert found[1] >= found[0] - 0.02, found


def test_on_isolated_samples_only_the_probabilities_vote():
    labels = torch.arange(60) % 3
    flipped = labels.clone()
    flipped[50] = 0
    p = probabilities(labels, sure=5.0)
    edges = torch.tensor([[0, 3, 1, 4], [3, 6, 4, 7]])
    graph = LabelNoise.from_graph(edges, [0, 1] * 4, k=1)._samples.graph
    graph = graph._replace(num_nodes=60)
    noise = LabelNoise.from_graph(graph, flipped, pred_probs=p)
    expected = LabelNoise.from_probabilities(p, flipped).self_influence()
    scores = noise.self_influence()
    torch.testing.assert_close(scores[10:], expected[10:])
    assert noise.result().top(1).tolist() == [50]
    # Without any vote they score 0 and prove nothing.
    with pytest.warns(UserWarning, match="nothing is known"):
        bare = LabelNoise.from_graph(graph, flipped).result()
    assert not bare.scores[10:].any() and bare.knowledge.accuracy == 6 / 60
    kept = LabelNoise.from_graph(graph, flipped, isolated="keep")
    with pytest.warns(UserWarning, match="nothing is known"):
        assert (kept.self_influence()[10:] == 1).all()


def test_what_a_result_of_probabilities_alone_says():
    labels = torch.arange(60) % 3
    flipped = labels.clone()
    flipped[50] = 0
    images = torch.rand(60, 5, 5)
    p = probabilities(labels, sure=5.0)
    names = ["ape", "bat", "cat"]
    noise = LabelNoise.from_probabilities(p, flipped, class_names=names)
    result = noise.result()
    assert result.explain(50) == (
        "sample 50 is labelled ape; the votes are for cat, and it has no neighbours"
    )
    assert result.explain(3) == "sample 3 is labelled ape; it has no neighbours"
    assert result.neighbors(50).indices.tolist() == []
    assert repr(result) == (
        f"InfluenceResult(LabelNoise, 60 samples, 0 edges, {result.knowledge})"
    )
    (axes,) = result.plot().axes
    assert sum(patch.get_height() for patch in axes.patches) == 60
    assert len(result.plot(3, images=images).axes) == 3
    pytest.importorskip("pandas")
    table = result.to_pandas()
    assert table.index[table.is_label_issue].tolist() == [50]
    assert table.predicted_label[50] == "cat" and table["rank"][50] == 0


def test_where_they_have_no_part_they_are_refused(samples):
    x, labels, _, p = samples
    data = TensorDataset(x.float(), labels)
    for options in ({"paper": True}, {"function": x[:, 0]}):
        for start in (
            lambda **o: LabelNoise.from_features(x, labels, **o),
            lambda **o: LabelNoise.from_graph(knn_graph(x, 3)[0], labels, **o),
            lambda **o: LabelNoise(nn.Identity(), data, **o),
        ):
            with pytest.raises(ValueError, match="expected pred_probs=None with paper"):
                start(pred_probs=p, **options)
    noise = LabelNoise.from_features(x, labels, pred_probs=p, k=5)
    with pytest.raises(ValueError, match="not known of new samples"):
        noise.score(x[:2], labels[:2])
    for ask in (noise.result, noise.self_influence):
        with pytest.raises(ValueError, match="inputs=None with pred_probs"):
            ask((x, labels))


def test_of_one_class_there_is_nothing_to_say():
    with pytest.warns(UserWarning, match="one class"):
        noise = LabelNoise.from_probabilities(torch.ones(5, 1), ["a"] * 5)
        assert not noise.self_influence().any()
