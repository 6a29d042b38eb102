"""What the votes know: accuracy, interval, classes, and the number of wrong labels."""

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, mannwhitneyu

from captum_margin.influence import Knowledge, LabelNoise
from captum_margin.influence import _knowledge as knowledge_module
from captum_margin.influence._knowledge import contradicted, knowledge
from tests.influence.test_scores import blobs, with_flips
from tests.reference import label_noise_reference as reference
from tests.reference.influence_reference import neighbor_weights


def votes_on(labels, classes, strength, seed=0):
    """Random votes, larger by the strength for the given class."""
    generator = torch.Generator().manual_seed(seed)
    votes = torch.rand(len(labels), classes, generator=generator, dtype=torch.float64)
    votes[torch.arange(len(labels)), labels] += strength
    return votes / votes.sum(dim=1, keepdim=True)


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("classes", [2, 5])
def test_it_is_counted_by_hand(strength, classes):
    generator = torch.Generator().manual_seed(4)
    labels = torch.randint(classes, (80,), generator=generator)
    first = votes_on(labels, classes, strength)
    votes = 0.9 * votes_on(labels, classes, strength, seed=1)
    found = knowledge(labels, first, votes)
    y, p = labels.numpy(), first.numpy()
    right = sum(int(row.argmax() == label) for row, label in zip(p, y, strict=True))
    assert found.accuracy == right / 80
    z = 1.959963984540054
    middle = (right + z**2 / 2) / (80 + z**2)
    half = z / (80 + z**2) * np.sqrt(right * (80 - right) / 80 + z**2 / 4)
    assert found.low == pytest.approx(middle - half)
    assert found.high == pytest.approx(middle + half)
    assert found.low == binomtest(right, 80).proportion_ci(method="wilson").low
    assert found.chance == np.bincount(y).max() / 80
    pairs = [(p[y == c, c], p[y != c, c]) for c in range(classes)]
    z = 3.090232306167813  # so certain of being above chance, half a chance suffices
    middle = (right + z**2 / 2) / (80 + z**2)
    half = z / (80 + z**2) * np.sqrt(right * (80 - right) / 80 + z**2 / 4)
    level = 0.5 if middle - half > found.chance else 0.001
    assert found.known.tolist() == [reference.mann_whitney(*q) < level for q in pairs]
    wrong = reference.number_wrong(y, votes.numpy())
    assert found.n_wrong == wrong and (wrong > 0) == (strength < 1)


def test_the_restated_test_is_scipys():
    generator = np.random.default_rng(0)
    for ties in (False, True):
        mine, others = generator.normal(0.5, 1, 30), generator.normal(0, 1, 50)
        if ties:
            mine, others = mine.round(), others.round()
        test = mannwhitneyu(mine, others, alternative="greater", method="asymptotic")
        assert reference.mann_whitney(mine, others) == pytest.approx(test.pvalue)


@pytest.mark.parametrize("seed", range(5))
def test_the_number_wrong_is_that_of_the_confident_joint(seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (100,), generator=generator)
    labels[labels == 2] = 3  # nobody is of class 2
    votes = votes_on(labels, 4, 0.6, seed)
    votes[:7] = 0  # nobody votes
    found = knowledge_module._n_wrong(labels, votes, labels.bincount(minlength=4))
    joint = reference.confident_joint(labels.numpy(), votes.numpy())
    assert found == round(joint.sum() - np.trace(joint)) > 0
    assert knowledge(labels, votes, votes).n_wrong == found


def test_few_samples_that_are_all_named_are_known():
    """Three of a class are too few for a test of the class alone."""
    labels = torch.arange(9) % 3
    votes = votes_on(labels, 3, 5.0)
    assert knowledge(labels, votes, votes).known.all()


def test_the_joint_agrees_with_cleanlabs():
    count = pytest.importorskip("cleanlab.count")
    labels = torch.arange(120) % 3
    votes = votes_on(labels, 3, 0.5)
    expected = count.compute_confident_joint(labels.numpy(), votes.numpy())
    joint = reference.confident_joint(labels.numpy(), votes.numpy())
    np.testing.assert_allclose(joint, expected, atol=1)  # it rounds the counts


def test_votes_that_tie_name_no_label():
    labels = torch.tensor([0, 1, 0, 1])
    even = torch.full((4, 2), 0.5, dtype=torch.float64)
    found = knowledge(labels, even, even)
    assert (found.accuracy, found.chance) == (0, 0.5)
    assert found.known.tolist() == [False, False]


def test_large_classes_are_compared_by_samples_of_them(monkeypatch):
    labels = torch.arange(600) % 2
    votes = votes_on(labels, 2, 0.4)
    known = knowledge(labels, votes, votes).known
    sizes = []

    def counted(mine, others, **options):
        sizes.append((len(mine), len(others)))
        return mannwhitneyu(mine, others, **options)

    monkeypatch.setattr(knowledge_module, "_OTHERS", 100)
    monkeypatch.setattr(knowledge_module, "mannwhitneyu", counted)
    fewer = knowledge(labels, votes, votes).known
    assert known.tolist() == fewer.tolist() == [True, True]
    assert sizes == [(100, 100)] * 2


def test_called_wrong_are_the_most_suspect_of_known_classes():
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    votes = torch.tensor(
        [
            [0.1, 0.9, 0.0],  # a known class against another
            [0.4, 0.6, 0.0],  # the same, less suspect
            [0.0, 0.1, 0.9],  # the others' class is not known
            [0.5, 0.5, 0.0],  # as many for its own
            [0.9, 0.1, 0.0],
            [0.9, 0.0, 0.1],  # its own class is not known
            [0.0, 0.0, 1.0],
        ]
    )
    scores = torch.tensor([1.6, 0.7, 1.9, 0.5, 1.5, 1.7, 0.0])
    known = torch.tensor([True, True, False])
    for n_wrong, expected in ((0, []), (1, [0]), (2, [0, 4]), (3, [0, 1, 4])):
        of = Knowledge(0.5, 0.4, 0.6, 0.3, known, n_wrong)
        called = contradicted(labels, votes, scores, of)
        assert called.nonzero().flatten().tolist() == expected
    of = Knowledge(0.5, 0.4, 0.6, 0.3, known, 100)
    called = contradicted(labels, votes, scores, of)
    assert called.nonzero().flatten().tolist() == [0, 1, 4]


def test_it_is_put_in_words():
    known = Knowledge(0.8714, 0.86, 0.8821, 0.25, torch.tensor([True]), 3)
    assert str(known) == (
        "the votes name 87.1% (86.0% to 88.2%) of the labels; always the commonest "
        "class: 25.0%"
    )
    x, labels = blobs()
    result = LabelNoise.from_features(x, with_flips(labels)[0]).result()
    assert str(result.knowledge) in repr(result)


def test_what_the_votes_know_is_what_each_says_without_the_samples_label():
    """Of the first round: later ones trust those more who agree with the label."""
    x, labels = blobs(15, spread=1.5)
    result = LabelNoise.from_features(x, labels, k=6, regression=False).result()
    weights = neighbor_weights(x.numpy(), 6, "cosine", 0.5)
    hot = np.eye(3)[labels]
    votes = reference.neighbor_votes(weights, hot, "symmetric")
    expected = (votes.argmax(axis=1) == labels.numpy()).mean()
    assert result.knowledge.accuracy == pytest.approx(expected)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.3])
@pytest.mark.parametrize("classes", [3, 6])
def test_as_many_are_called_wrong_as_are(share, classes):
    for seed in range(2):
        x, labels = blobs(60, classes=classes, features=8, seed=seed, spread=0.6)
        generator = torch.Generator().manual_seed(seed)
        wrong = torch.randperm(len(x), generator=generator)[: int(share * len(x))]
        given = labels.clone()
        given[wrong] = (labels[wrong] + 1) % classes
        result = LabelNoise.from_features(x, given).result()
        called = result.predicted() != given
        assert 0.8 <= int(called.sum()) / len(wrong) <= 1.25
        assert int(called.sum()) <= result.knowledge.n_wrong
        assert called[wrong].double().mean() >= 0.8
