"""Sparse features: the answers are those of dense ones, which are never made."""

import numpy as np
import pytest
import scipy.sparse
import torch

from captum_margin.influence import (
    AdversarialStatistics,
    DecisionBoundary,
    LabelNoise,
    Prototypes,
)
from captum_margin.signal import _kernel_ridge, _mmd_new

N = 90


def documents(width, n=N, seed=0):
    """Weights of words, of which each of three kinds prefers some."""
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    words = generator.poisson(0.8 * 30 / width, (n, width)).astype(float)
    words[:, :30] += generator.poisson(
        0.2 + 1.5 * (labels[:, None] == np.arange(30) % 3)
    )
    labels[[4, 7]] = (labels[[4, 7]] + 1) % 3
    words = (words * generator.uniform(50, 150, words.shape)).round()  # few ties
    return words, torch.from_numpy(labels)


@pytest.fixture
def never_dense(monkeypatch):
    """No more than a few rows of features become dense at once."""
    monkeypatch.setattr(_kernel_ridge, "BLOCK_NUMBERS", 4 * 2048)
    monkeypatch.setattr(_mmd_new, "BLOCK_NUMBERS", 1)
    for kind in (scipy.sparse.csr_matrix, scipy.sparse.csr_array):
        plain = kind.toarray

        def checked(self, *args, plain=plain, **options):
            assert self.shape[0] <= 12 or self.shape[1] <= N + 12, self.shape
            return plain(self, *args, **options)

        monkeypatch.setattr(kind, "toarray", checked)
        monkeypatch.setattr(kind, "todense", None)
    return monkeypatch


def of_kde(x, labels):
    given = {"references": x[:40], "reference_classes": labels[:40]}
    return {"statistic": "kde", "predicted": labels, **given}


CASES = [  # and how many landmarks there are at most
    (LabelNoise, {"metric": "cosine"}, 2048),
    (LabelNoise, {"metric": "cosine"}, 20),
    (LabelNoise, {"metric": "euclidean", "bandwidth": None}, 20),
    (LabelNoise, {"paper": True}, 2048),
    (DecisionBoundary, {}, 2048),
    (Prototypes, {}, 2048),
    (Prototypes, {"estimate": "features", "local": False}, 2048),
    (Prototypes, {"estimate": "paper", "sided": "both"}, 2048),
    (AdversarialStatistics, {}, 2048),
    (AdversarialStatistics, {"statistic": "kde"}, 2048),
]


@pytest.mark.parametrize(("question", "options", "most"), CASES)
@pytest.mark.parametrize(
    ("dtype", "form"),
    [
        (np.float64, scipy.sparse.csr_matrix),
        (np.float32, scipy.sparse.csr_array),
        (np.int64, scipy.sparse.coo_array),
    ],
)
def test_answers_are_those_of_dense_features(
    never_dense, question, options, most, dtype, form
):
    never_dense.setattr(_kernel_ridge, "MOST_LANDMARKS", most)
    width = 120
    words, labels = documents(width)
    new, new_labels = documents(width, 12, seed=1)
    sparse, other = form(words.astype(dtype)), form(new.astype(dtype))
    dense, options = words, {"k": 6, **options}
    if options.get("statistic") == "kde":
        expected = question.from_features(
            dense, labels, **options | of_kde(dense, labels)
        )
        options |= of_kde(sparse.tocsr(), labels)
        given = {"predicted": new_labels}
    else:
        expected = question.from_features(dense, labels, **options)
        given = {} if question is AdversarialStatistics else {"labels": new_labels}
    found = question.from_features(sparse, labels, **options)
    wanted, result = expected.result(), found.result()
    assert torch.equal(result.graph.edge_index, wanted.graph.edge_index)
    close = {"rtol": 1e-4, "atol": 1e-5} if dtype is np.float32 else {}
    for name in ("function", "filtered", "scores"):
        values = (getattr(r, name).double() for r in (result, wanted))
        torch.testing.assert_close(*values, **close or {"rtol": 1e-5, "atol": 5e-7})
    never_dense.undo()  # the search for neighbours of new samples has blocks of 1024
    never_dense.setattr(_kernel_ridge, "MOST_LANDMARKS", most)
    scores = found.score(other, **given).double(), expected.score(new, **given).double()
    torch.testing.assert_close(*scores, **close or {"rtol": 1e-4, "atol": 1e-6})


def test_an_empty_document_has_a_score():
    words, labels = documents(120)
    words[5] = 0
    sparse = scipy.sparse.csr_matrix(words)
    scores = LabelNoise.from_features(sparse, labels, k=6).self_influence()
    expected = LabelNoise.from_features(words, labels, k=6).self_influence()
    others = torch.arange(N) != 5  # it is as far from every other one
    torch.testing.assert_close(scores[others], expected[others], rtol=0.05, atol=0.02)
    assert bool(scores.isfinite().all())


@pytest.mark.parametrize("form", [scipy.sparse.csr_matrix, scipy.sparse.csr_array])
@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("rule", ["cells", "paper"])
def test_prototypes_are_those_of_dense_features(never_dense, form, local, rule):
    words, labels = documents(120)
    sparse = form(words)
    sparse.indices = sparse.indices.astype(np.int64)
    chosen = [
        # Few, or some cells have two samples, both as far from their mean.
        Prototypes.from_features(x, labels, k=6, local=local).select(6, rule=rule)
        for x in (sparse, words)
    ]
    assert torch.equal(*chosen)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_refused(bad):
    words, labels = documents(120)
    words[7, 3] = bad
    for question in (LabelNoise, Prototypes):
        with pytest.raises(ValueError, match="finite"):
            question.from_features(scipy.sparse.csr_matrix(words), labels).result()
    with pytest.raises(TypeError, match="numbers as features"):
        LabelNoise.from_features(scipy.sparse.csr_matrix(words + 1j), labels)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.uint8])
def test_a_memory_map_is_not_copied(tmp_path, dtype):
    words, labels = documents(40)
    np.save(tmp_path / "x.npy", words.astype(dtype))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    noise = LabelNoise.from_features(mapped, labels, k=4)
    kept = noise._samples.features
    assert (
        kept.data_ptr() == mapped.ctypes.data and kept.dtype.itemsize == mapped.itemsize
    )
    expected = LabelNoise.from_features(words.astype(dtype), labels, k=4)
    assert torch.equal(noise.self_influence(), expected.self_influence())
    assert np.array_equal(np.load(tmp_path / "x.npy"), words.astype(dtype))
