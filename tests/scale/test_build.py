"""Neighbours on disk against exact ones, and a build that was cut anywhere."""

import numpy as np
import pytest
import scipy.sparse
import torch

from captum_margin.neighbors.recall import recall_at_k
from captum_margin.scale import _nearby, build, build_shards, fingerprint, recall_of
from captum_margin.scale._join import MOST_ROWS, layout_of
from tests.helpers.shards import Crash, clusters, contents, crash_at
from tests.reference import scale_reference as reference


@pytest.fixture
def small_cells(monkeypatch):
    monkeypatch.setattr(build, "CELL_ROWS", 16)


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
def test_all_neighbours_are_found_where_all_cells_are_compared(
    tmp_path, small_cells, block_size
):
    x, _ = clusters(500)
    shards = build_shards(x, tmp_path, 7, recall=1.0, block_size=block_size)
    indices, values = in_samples(shards)
    expected, distances = reference.neighbors(x, 7)
    # The pilots are 400 of the 500 rows: the cells they need are enough for nearly all.
    assert (indices == expected).mean() > 0.999
    near = np.linalg.norm(x.numpy()[:, None] - x.numpy()[indices], axis=2)
    np.testing.assert_allclose(values, near, rtol=1e-5)
    assert (np.diff(values) >= 0).all()
    same = (indices == expected).all(axis=1)
    np.testing.assert_allclose(values[same], distances[same], rtol=1e-5)
    assert recall_of(tmp_path) == 1


def test_recall_is_what_was_asked_for(tmp_path, small_cells):
    x = torch.randn(3000, 8, generator=torch.Generator().manual_seed(0))
    shards = build_shards(x, tmp_path, 10, recall=0.8)
    indices, _ = in_samples(shards)
    found = recall_at_k(x, torch.from_numpy(indices), n_samples=3000).value
    assert 0.78 < found < 0.9  # and not more than it takes
    assert abs(recall_of(tmp_path) - found) < 0.03


def test_cosine_is_euclidean_between_unit_rows(tmp_path):
    x, _ = clusters(300)
    x[5] = 0
    a = build_shards(
        x * torch.rand(300, 1).add(0.1), tmp_path / "a", 5, metric="cosine"
    )
    unit = x / x.norm(dim=1, keepdim=True).clamp(min=1e-30)
    b = build_shards(unit, tmp_path / "b", 5)
    np.testing.assert_allclose(in_samples(a)[1], in_samples(b)[1], atol=1e-6)


def test_far_points_keep_their_distances(tmp_path):
    x, _ = clusters(200)
    near = in_samples(build_shards(x, tmp_path / "near", 4, recall=1.0))
    far = in_samples(build_shards(x.double() + 1000, tmp_path / "far", 4, recall=1.0))
    np.testing.assert_allclose(far[1], near[1], rtol=2e-2)


def test_duplicates_are_neighbours_at_zero_and_never_oneself(tmp_path, small_cells):
    x = torch.zeros(2 * MOST_ROWS, 3)
    x[-20:] = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    shards = build_shards(x, tmp_path, 5)
    indices, values = in_samples(shards)
    assert (indices != np.arange(len(x))[:, None]).all()
    assert (values[:-20] == 0).all()
    assert all(len(set(row)) == 5 for row in indices.tolist())
    assert (values[-20:, 0] > 0).all()


def test_large_cells_are_cut_into_equal_parts():
    starts = np.array([0, 10, 10, 10 + 3 * MOST_ROWS - 2])
    layout = layout_of(np.zeros((3, 1)), np.zeros((3, 1), int), starts)
    assert layout.first.tolist() == [0, 1, 2, 5]
    sizes = np.diff(layout.parts)
    assert sizes[:2].tolist() == [10, 0]
    assert sizes[2:].sum() == 3 * MOST_ROWS - 2
    assert sizes[2:].max() - sizes[2:].min() <= 1


def test_listed_cells_are_the_nearest(small_cells):
    from captum_margin.neighbors.cells import train

    x = torch.randn(2000, 4, generator=torch.Generator().manual_seed(0))
    cells = train(x, 120)
    listed = _nearby.listed_cells(cells, 10)
    expected = torch.cdist(cells.centres, cells.centres).argsort(dim=1)[:, :10]
    assert np.mean(listed == expected.numpy()) > 0.99  # but for rounding
    everything = _nearby.listed_cells(cells, 1000)
    assert everything.shape == (len(cells.centres),) * 2
    assert (np.sort(everything) == np.arange(len(cells.centres))).all()


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
def test_a_death_at_any_write_loses_nothing(tmp_path, monkeypatch, small_cells, count):
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
    monkeypatch.setattr(build, "join_block", None)
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
