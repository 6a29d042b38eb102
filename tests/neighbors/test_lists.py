"""The search list by list against its restatement, one row at a time."""

import multiprocessing
import sys

import numpy as np
import pytest
import torch

from captum_margin.neighbors import FaissSearch, _lists
from captum_margin.neighbors._lists import (
    Lists,
    faiss_threads,
    members_of,
    nearest_members,
    place_lists,
    take_pilots,
)
from captum_margin.neighbors.rows import Rows
from tests.reference import neighbors_reference as reference

faiss = pytest.importorskip("faiss")


def points(n, width=4, seed=0):
    return np.random.default_rng(seed).standard_normal((n, width)).astype("f4")


def filled(x, lists, k, cuts=()):
    """Members of the lists in blocks that end where some lists end; rows by number."""
    home = lists.near(x)[:, 0]
    order = home.argsort(kind="stable")
    sizes = np.bincount(home, minlength=len(lists.centres))
    ends = [sizes[:cut].sum() for cut in cuts]
    return members_of(np.split(x[order], ends), sizes, k), order


@pytest.mark.parametrize("count", [1, 3, 20])
@pytest.mark.parametrize("cuts", [(), (4, 11, 11)])
@pytest.mark.parametrize("pairs", [2**22, 50])
def test_the_join_is_its_restatement(monkeypatch, count, cuts, pairs):
    monkeypatch.setattr(_lists, "_PAIRS", pairs)
    monkeypatch.setattr(_lists, "_BLOCK_NUMBERS", 2**18 if pairs > 50 else 40)
    x, lists = points(150), Lists(np.zeros(4, "f4"), points(20, seed=1))
    members, order = filled(x, lists, 6, cuts)
    near = lists.near(x, count)
    at, distance = nearest_members(
        x[order], near[order], lists, members, 6, np.arange(150)
    )
    expected, lengths = reference.in_lists(x, x, lists.centres, count, 6, True)
    assert order[at].tolist() == expected[order].tolist()
    np.testing.assert_allclose(distance, lengths[order], rtol=1e-6)
    queries = points(40, seed=2)
    at, distance = nearest_members(
        queries, lists.near(queries, count), lists, members, 6
    )
    expected, lengths = reference.in_lists(x, queries, lists.centres, count, 6, False)
    assert order[at].tolist() == expected.tolist()
    np.testing.assert_allclose(distance, lengths, rtol=1e-6)


def test_short_lists_give_k_neighbours_all_the_same():
    x = np.concatenate([points(60), points(2, seed=1) + 50])
    centres = np.stack([x[:60].mean(axis=0), x[60], x[61]])
    lists = Lists(np.zeros(4, "f4"), centres)
    members, order = filled(x, lists, 5)
    at, _ = nearest_members(
        x[order], lists.near(x)[order], lists, members, 5, np.arange(62)
    )
    expected, _ = reference.brute_force(x, 5)
    assert order[at].tolist() == expected[order].tolist()
    # As many as there are, and itself nowhere.
    at, distance = nearest_members(
        x[order], lists.near(x)[order], lists, members, 61, np.arange(62)
    )
    assert np.sort(at).tolist() == [[*range(i), *range(i + 1, 62)] for i in range(62)]
    assert np.isfinite(distance).all()


def test_ties_go_by_row():
    x = np.array([[0.0], [1.0], [-1.0], [1.0]], "f4")
    lists = Lists(np.zeros(1, "f4"), np.zeros((1, 1), "f4"))
    members, _ = filled(x, lists, 3)
    at, distance = nearest_members(x, lists.near(x), lists, members, 3, np.arange(4))
    assert at.tolist() == [[1, 2, 3], [3, 0, 2], [0, 1, 3], [1, 0, 2]]
    assert distance.tolist() == [[1, 1, 1], [0, 1, 2], [1, 2, 2], [0, 1, 2]]


def test_lists_of_very_many_are_cut(monkeypatch):
    monkeypatch.setattr(_lists, "_LARGEST", 100)
    monkeypatch.setattr(_lists, "_TIMES_AVERAGE", 1)
    sizes = np.array([100, 0, 301, 50])
    members = members_of([np.zeros((451, 1), "f4")], sizes, 5)
    # At most the average: 112.
    assert members.first.tolist() == [0, 1, 2, 5, 6]
    assert np.diff(members.parts).tolist() == [100, 0, 100, 100, 101, 50]
    # However many neighbours are wanted, a part holds twice as many rows.
    assert np.diff(members_of([], sizes, 60).parts).tolist() == [100, 0, 150, 151, 50]


def test_a_cut_list_of_duplicates_finds_duplicates(monkeypatch):
    monkeypatch.setattr(_lists, "_LARGEST", 64)
    x = torch.randn(900, 3, generator=torch.Generator().manual_seed(0))
    x[:700] = x[0]
    indices, distances = FaissSearch()(x, 5)
    assert bool((distances[:700] == 0).all()) and bool((indices[:700] < 700).all())
    assert not bool((indices == torch.arange(900)[:, None]).any())
    assert all(len({*row}) == 5 for row in indices.tolist())


def test_lists_are_k_means_of_the_rows():
    generator = torch.Generator().manual_seed(0)
    centres = 20 * torch.randn(8, 5, generator=generator)
    which = torch.randint(8, (2000,), generator=generator)
    x = centres[which] + torch.randn(2000, 5, generator=generator)
    lists = place_lists(Rows(x), seed=0)
    assert len(lists.centres) == 50  # 40 rows each
    centred = lists.centred(x)
    np.testing.assert_allclose(lists.mean, x.mean(dim=0), rtol=1e-4, atol=1e-4)
    home = lists.near(centred)[:, 0]
    expected = [reference.by_distance(a, lists.centres)[0][0] for a in centred[:200]]
    assert home[:200].tolist() == expected
    clusters = [{*which[home == c].tolist()} for c in range(50)]
    # Clusters lie apart, so a list is within one, and all of them are rarely one list.
    assert all(len(found) == 1 for found in clusters if found)
    spread = ((centred - lists.centres[home]) ** 2).sum(axis=1).mean()
    assert spread < 0.75 * 5  # of the clusters themselves: 5
    again = place_lists(Rows(x), seed=0)
    np.testing.assert_array_equal(lists.centres, again.centres)
    assert not np.array_equal(lists.centres, place_lists(Rows(x), seed=1).centres)


def test_numbers_of_near_lists_are_near():
    x = torch.rand(20_000, 2, generator=torch.Generator().manual_seed(0))
    centres = place_lists(Rows(x), seed=0).centres
    step = np.linalg.norm(np.diff(centres, axis=0), axis=1).mean()
    shuffled = np.random.default_rng(0).permutation(centres)
    assert step < 0.4 * np.linalg.norm(np.diff(shuffled, axis=0), axis=1).mean()


@pytest.mark.parametrize("recall", [0.5, 0.9, 1.0])
def test_lists_needed_by_the_pilots(monkeypatch, recall):
    monkeypatch.setattr(_lists, "_PILOTS", 30)
    x = torch.from_numpy(points(600, 6)).double()
    rows = Rows(x)
    lists = place_lists(rows, 0)
    pilots = take_pilots(rows, 5, seed=0)
    expected, _ = reference.brute_force(x, 5)
    assert pilots.true.tolist() == expected[pilots.samples].tolist()
    centred = x.numpy() - lists.mean
    wanted = reference.lists_needed(
        centred[pilots.samples],
        centred,
        pilots.true.tolist(),
        lists.centres,
        min(recall + 0.005, 1),
    )
    assert pilots.lists_needed(lists, rows, recall) == wanted
    others = take_pilots(rows, 5, 0, Rows(points(40, 6, seed=3)))
    assert others.points.shape == (30, 6) and bool((others.distances > 0).all())


def test_threads_are_as_before(monkeypatch):
    before = faiss.omp_get_max_threads()
    try:
        faiss.omp_set_num_threads(3)
        with faiss_threads() as library:
            assert library.omp_get_max_threads() == torch.get_num_threads()
        with pytest.raises(ValueError, match="finite"):
            FaissSearch()(torch.full((50, 2), torch.nan), 2)
        assert faiss.omp_get_max_threads() == 3
        monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
        with faiss_threads() as library:
            assert library.omp_get_max_threads() == 2
        with monkeypatch.context() as patch:
            patch.setattr(sys, "platform", "darwin")
            with faiss_threads() as library:
                assert library.omp_get_max_threads() == 1
        monkeypatch.setattr(multiprocessing, "parent_process", lambda: "another")
        with faiss_threads() as library:
            assert library.omp_get_max_threads() == 1
        assert faiss.omp_get_max_threads() == 3
    finally:
        faiss.omp_set_num_threads(before)
