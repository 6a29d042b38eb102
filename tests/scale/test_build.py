"""Neighbours on disk against exact ones, and a build that was cut anywhere."""

import sys

import numpy as np
import pytest
import scipy.sparse
import torch

from captum_margin.neighbors import FaissSearch, _lists
from captum_margin.neighbors.recall import recall_at_k
from captum_margin.scale import build, build_shards, fingerprint, recall_of
from tests.helpers.shards import Crash, clusters, contents, crash_at
from tests.reference import scale_reference as reference


@pytest.fixture
def short_lists(monkeypatch):
    monkeypatch.setattr(_lists, "_SHORTEST", 8)


def in_samples(shards):
    """Neighbours and distances by sample, (N, k) each."""
    blocks = [shards.block(b) for b in range(shards.num_blocks)]
    rows = np.concatenate([i for i, _ in blocks])
    assert (rows >= 0).all()  # every row has k neighbours
    indices = shards.order[rows]
    values = np.concatenate([v for _, v in blocks])
    place = np.argsort(shards.order)
    return indices[place], values[place]


@pytest.mark.parametrize("block_size", [64, 10**6])
def test_all_neighbours_are_found_where_all_lists_are_compared(
    tmp_path, short_lists, block_size
):
    x, _ = clusters(500)
    shards = build_shards(x, tmp_path, 7, recall=1.0, block_size=block_size)
    indices, values = in_samples(shards)
    expected, distances = reference.neighbors(x, 7)
    assert (indices == expected).all()  # all rows are pilots
    np.testing.assert_allclose(values, distances, rtol=1e-5)
    assert (np.diff(values) >= 0).all()
    assert recall_of(tmp_path) == 1


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_blocks_on_disk_hold_what_the_search_in_memory_finds(tmp_path, metric):
    x = torch.randn(3000, 8, generator=torch.Generator().manual_seed(0))
    shards = build_shards(x, tmp_path, 6, metric=metric, recall=0.8, block_size=700)
    indices, values = in_samples(shards)
    expected, distances = FaissSearch(metric, recall=0.8)(x, 6)
    np.testing.assert_array_equal(indices, expected.numpy())
    np.testing.assert_array_equal(values, distances.numpy())


def test_recall_is_what_was_asked_for(tmp_path, short_lists):
    x = torch.randn(3000, 8, generator=torch.Generator().manual_seed(0))
    shards = build_shards(x, tmp_path, 10, recall=0.8, seed=1)
    indices, _ = in_samples(shards)
    found = recall_at_k(x, torch.from_numpy(indices), n_samples=3000).value
    assert 0.77 < found < 0.9  # and not more than it takes
    assert abs(recall_of(tmp_path) - found) < 0.03


def test_cosine_is_euclidean_between_unit_rows(tmp_path):
    x, _ = clusters(300)
    x[5] = 0
    # Powers of two, which change no digit: other factors decide ties by rounding.
    generator = torch.Generator().manual_seed(0)
    factor = 2.0 ** torch.randint(-3, 4, (300, 1), generator=generator)
    a = build_shards(x * factor, tmp_path / "a", 5, metric="cosine")
    unit = x / x.norm(dim=1, keepdim=True).clamp(min=1e-30)
    b = build_shards(unit, tmp_path / "b", 5)
    np.testing.assert_allclose(in_samples(a)[1], in_samples(b)[1], atol=1e-6)


def test_far_points_keep_their_distances(tmp_path):
    x, _ = clusters(200)
    near = in_samples(build_shards(x, tmp_path / "near", 4, recall=1.0))
    far = in_samples(build_shards(x.double() + 1000, tmp_path / "far", 4, recall=1.0))
    np.testing.assert_allclose(far[1], near[1], rtol=2e-2)


def test_duplicates_are_neighbours_at_zero_and_never_oneself(tmp_path, monkeypatch):
    monkeypatch.setattr(_lists, "_LARGEST", 500)
    x = torch.zeros(1500, 3)
    x[-20:] = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    shards = build_shards(x, tmp_path, 5)
    indices, values = in_samples(shards)
    assert (indices != np.arange(len(x))[:, None]).all()
    assert (values[:-20] == 0).all()
    assert all(len(set(row)) == 5 for row in indices.tolist())
    assert (values[-20:, 0] > 0).all()


def test_without_faiss_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ValueError, match=r"pip install captum-margin\[scale\]"):
        build_shards(clusters(100)[0], tmp_path, 3)


def test_any_kind_of_features(tmp_path):
    x, _ = clusters(120)
    np.save(tmp_path / "x.npy", x.numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    given = [x, x.numpy(), mapped, tmp_path / "x.npy", str(tmp_path / "x.npy")]
    given.append(scipy.sparse.csr_array(x.numpy()))
    found = [
        contents(build_shards(features, tmp_path / str(i), 3).path)
        for i, features in enumerate(given)
    ]
    assert all(one == found[0] for one in found)


@pytest.mark.parametrize("count", [1, 2, 5, 9, 11, 14, 18, 22, 26, 31, 40, 50, 60, 70])
def test_a_death_at_any_write_loses_nothing(tmp_path, monkeypatch, short_lists, count):
    x, _ = clusters(200)
    build_shards(x, tmp_path / "whole", 3, block_size=50)
    with monkeypatch.context() as patch, pytest.raises(Crash):
        crash_at(patch, count)
        build_shards(x, tmp_path / "cut", 3, block_size=50)
        raise Crash  # count is beyond the last write
    again = build_shards(x, tmp_path / "cut", 3, block_size=50)
    assert contents(again.path) == contents(tmp_path / "whole")


def test_a_finished_build_is_read_and_not_repeated(tmp_path, monkeypatch):
    x, _ = clusters(200)
    build_shards(x, tmp_path, 3)
    monkeypatch.setattr(build, "_plan", None)
    monkeypatch.setattr(build, "nearest_members", None)
    assert build_shards(x, tmp_path, 3).num_nodes == 200


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"k": 4}, "k: wanted 4, found 3"),
        ({"metric": "cosine"}, "metric"),
        ({"seed": 1}, "seed"),
        ({"recall": 0.5}, "recall"),
    ],
)
def test_another_request_is_an_error(tmp_path, change, named):
    x, _ = clusters(100)
    build_shards(x, tmp_path, 3)
    with pytest.raises(ValueError, match=named):
        build_shards(x, tmp_path, **{"k": 3, **change})


def test_other_features_are_an_error(tmp_path):
    x, _ = clusters(100)
    build_shards(x, tmp_path, 3)
    other = x.clone()
    other[40, 2] += 1
    assert fingerprint(x) != fingerprint(other)
    with pytest.raises(ValueError, match=r"fingerprint.*another path"):
        build_shards(other, tmp_path, 3)


def test_arguments_are_checked(tmp_path):
    x, _ = clusters(100)
    for k in (0, 100, 2.0):
        with pytest.raises(ValueError, match="k in"):
            build_shards(x, tmp_path, k)
    with pytest.raises(ValueError, match="metric"):
        build_shards(x, tmp_path, 3, metric="manhattan")
    with pytest.raises(ValueError, match="recall"):
        build_shards(x, tmp_path, 3, recall=0)
    with pytest.raises(ValueError, match="block_size"):
        build_shards(x, tmp_path, 3, block_size=0)
    with pytest.raises(ValueError, match=r"\(N, F\)"):
        build_shards(x[:, 0], tmp_path, 3)
    x[3, 3] = torch.nan
    with pytest.raises(ValueError, match="finite"):
        build_shards(x, tmp_path, 3)
