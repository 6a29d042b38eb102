"""All searches against brute force, and what each must do with awkward points."""

import importlib.util
import sys
import warnings

import numpy as np
import pytest
import scipy.sparse
import torch

from captum_margin.neighbors import (
    ExactSearch,
    FaissSearch,
    Neighbors,
    PyNNDescentSearch,
    find_neighbors,
    neighbors_among,
    recall_at_k,
)
from captum_margin.neighbors import find as find_module
from captum_margin.signal import knn_graph
from tests.reference.neighbors_reference import brute_force


def installed(name):
    return importlib.util.find_spec(name) is not None


needs_pynndescent = pytest.mark.skipif(
    not installed("pynndescent"), reason="needs pynndescent"
)
SEARCHES = [ExactSearch, FaissSearch]


def points(n=700, width=6, seed=0, clusters=9):
    generator = torch.Generator().manual_seed(seed)
    centres = 4 * torch.randn(clusters, width, generator=generator)
    which = torch.randint(clusters, (n,), generator=generator)
    return centres[which] + torch.randn(n, width, generator=generator)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("sparse", [False, True])
def test_exact_search_is_brute_force(metric, sparse):
    x = points(120)
    x[5] = x[17] = x[60]
    expected, lengths = brute_force(x, 4, metric)
    given = scipy.sparse.csr_matrix(x.double().numpy()) if sparse else x.double()
    indices, distances = ExactSearch(metric)(given, 4)
    assert indices.tolist() == expected.tolist()
    assert distances.numpy() == pytest.approx(lengths, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_distances_are_those_of_the_listed_rows(search, metric):
    x = points()
    indices, distances = search(metric)(x, 5)
    assert indices.dtype == torch.int64 and distances.dtype == torch.float32
    y = x / x.norm(dim=1, keepdim=True) if metric == "cosine" else x
    expected = (y[:, None] - y[indices]).norm(dim=2)
    torch.testing.assert_close(distances, expected, rtol=1e-5, atol=1e-6)
    assert bool((distances.diff(dim=1) >= 0).all())
    assert not bool((indices == torch.arange(len(x))[:, None]).any())


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_the_wanted_recall_is_reached(metric):
    x = points(2500, width=10, clusters=20)
    near, _ = brute_force(x, 6, metric)
    for wanted in (0.8, 0.99):
        indices, _ = FaissSearch(metric, recall=wanted)(x, 6)
        hits = [len({*a} & {*b}) for a, b in zip(near, indices.tolist(), strict=True)]
        assert np.mean(hits) / 6 >= wanted - 0.02


@pytest.mark.parametrize("given", ["float32", "float64", "int64", "sparse", "memmap"])
def test_a_recall_of_one_is_brute_force(given, tmp_path):
    x = points(450)  # all of them are pilots
    if given == "int64":
        x = (100 * x).round()
    expected, lengths = brute_force(x, 5)
    np.save(tmp_path / "x.npy", x.numpy())
    kinds = {
        "float32": x,
        "float64": x.double(),
        "int64": x.long().numpy(),
        "sparse": scipy.sparse.csr_array(x.numpy()),
        "memmap": np.load(tmp_path / "x.npy", mmap_mode="r"),
    }
    indices, distances = FaissSearch(recall=1.0)(kinds[given], 5)
    np.testing.assert_allclose(distances, lengths, rtol=1e-6)
    if given != "int64":  # which has ties
        assert indices.tolist() == expected.tolist()


@pytest.mark.parametrize("search", SEARCHES)
def test_more_duplicates_than_neighbours(search):
    x = points(3000)
    x[:1500] = x[0]
    indices, distances = search()(x, 5)
    assert bool((distances[:1500] == 0).all())
    assert bool((indices[:1500] < 1500).all())
    assert not bool((indices == torch.arange(len(x))[:, None]).any())
    listed = indices.sort(dim=1).values
    assert not bool(((listed.diff(dim=1) == 0) & (listed[:, 1:] >= 0)).any())


@pytest.mark.parametrize("search", SEARCHES)
def test_identical_points(search):
    indices, distances = search()(torch.ones(700, 3), 4)
    assert bool((distances == 0).all())
    assert bool(((indices >= 0) & (indices != torch.arange(700)[:, None])).all())


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("n", [1, 2, 4])
def test_fewer_points_than_neighbours(search, n):
    x = torch.arange(float(n))[:, None]
    indices, distances = search()(x, 4)
    assert indices.shape == distances.shape == (n, 4)
    assert bool((indices[:, n - 1 :] == -1).all())
    assert bool(distances[:, n - 1 :].isinf().all())
    for i in range(n):
        assert set(indices[i, : n - 1].tolist()) == set(range(n)) - {i}


@pytest.mark.parametrize("search", SEARCHES)
def test_the_same_seed_gives_the_same_result(search):
    x = points(2000)
    state = torch.get_rng_state()
    first, again = search()(x, 5), search()(x, 5)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("search", SEARCHES)
def test_a_memory_map_is_read_as_the_array(search, tmp_path):
    x = points(1500)
    np.save(tmp_path / "x.npy", x.numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    for given in (mapped, x.numpy().astype(np.float64)):
        assert torch.equal(search()(given, 5)[0], search()(x, 5)[0])


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e30])
def test_values_that_are_no_numbers(search, value):
    x = points(300)
    x[200, 2] = value
    if search is ExactSearch and value == 1e30:
        return  # its squares are finite in double precision
    with pytest.raises(ValueError, match="expected finite features"):
        search()(x, 3)


@pytest.mark.parametrize("search", SEARCHES)
def test_rows_of_zeros_have_no_direction(search):
    x = points(400)
    x[10] = x[20] = 0
    indices, distances = search("cosine")(x, 3)
    assert indices[10, 0] == 20 and distances[10, 0] == 0
    torch.testing.assert_close(distances[10, 1:], torch.ones(2))


def test_lists_far_from_the_origin():
    x = points(1500) + 1000
    near, _ = brute_force(x, 5)
    indices, _ = FaissSearch(recall=0.99)(x, 5)
    hits = [len({*a} & {*b}) for a, b in zip(near, indices.tolist(), strict=True)]
    assert np.mean(hits) / 5 > 0.97


@pytest.mark.parametrize("far", [1e6, 1e10, 1e15])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_point_far_off_takes_no_digits_from_the_others(far, dtype):
    x, queries = points(900).to(dtype), points(150, seed=5).to(dtype)
    near, _ = brute_force(x, 5)
    true = neighbors_among(x, queries, 5)[0]
    assert torch.equal(true, torch.cdist(queries, x).topk(5, largest=False).indices)
    off = torch.full_like(x[:1], far)
    assert torch.equal(neighbors_among(x, torch.cat([queries, off]), 5)[0][:-1], true)
    assert torch.equal(neighbors_among(torch.cat([x, off]), queries, 5)[0], true)
    found = FaissSearch(recall=0.99)(torch.cat([x, off]), 5)[0][:-1].tolist()
    hits = [len({*a} & {*b}) for a, b in zip(near, found, strict=True)]
    assert np.mean(hits) / 5 > 0.97


def test_a_large_column_that_is_the_same_everywhere_costs_no_digits():
    x = points(6000, width=3)
    wide = torch.cat([x, torch.full_like(x[:, :1], 1.7e9)], dim=1)
    found, expected = (FaissSearch(recall=0.9)(v, 5) for v in (wide, x))
    assert (found[0] == expected[0]).double().mean() > 0.97
    near, _ = brute_force(x[:1500], 5)
    found = neighbors_among(wide[:1500], wide[:1500], 6)[0][:, 1:]
    assert found.tolist() == near.tolist()


def test_find_neighbors_chooses_by_size(monkeypatch):
    x = points(600)
    found = find_neighbors(x, 4)
    assert isinstance(found, Neighbors)
    assert (found.backend, found.recall) == ("exact", None)
    edges = knn_graph(x, 4)[0]
    listed = torch.stack(
        [found.indices.flatten(), torch.arange(600).repeat_interleave(4)]
    )
    assert {*map(tuple, edges.T.tolist())} == {
        pair for a, b in listed.T.tolist() for pair in ((a, b), (b, a))
    }
    monkeypatch.setattr(find_module, "EXACT_UP_TO", 500)
    found = find_neighbors(x, 4)
    assert found.backend == "faiss"
    assert found.recall is not None and found.recall.value > 0.93
    assert find_neighbors(scipy.sparse.csr_array(x.numpy()), 4).backend == "exact"


def test_what_is_installed_decides(monkeypatch):
    x = points(600)
    monkeypatch.setattr(find_module, "EXACT_UP_TO", 500)
    monkeypatch.setitem(sys.modules, "faiss", None)
    chosen = find_module._choice(find_module.Rows(x))
    if installed("pynndescent"):
        assert chosen == "pynndescent"
    monkeypatch.setitem(sys.modules, "pynndescent", None)
    with pytest.warns(UserWarning, match=r"600 rows.*captum-margin\[scale\]") as said:
        found = find_neighbors(x, 4)
    assert len(said) == 1 and said[0].filename == __file__
    assert (found.backend, found.recall) == ("exact", None)
    assert found.indices.tolist() == ExactSearch()(x, 4)[0].tolist()
    monkeypatch.setattr(find_module, "_FEW_QUERIES", 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        near, _ = neighbors_among(x, x[:20] + 0.01, 3)
    assert near.shape == (20, 3)


def test_less_than_the_wanted_recall_is_told(monkeypatch):
    x = torch.randn(3000, 16, generator=torch.Generator().manual_seed(0))
    pilots = "captum_margin.neighbors._lists.Pilots.lists_needed"
    monkeypatch.setattr(pilots, lambda *_: 1)
    with pytest.warns(UserWarning, match=r"by faiss have a recall of 0\..*not 0.95"):
        found = find_neighbors(x, 5, backend="faiss")
    assert found.recall == recall_at_k(x, found.indices, seed=2)
    monkeypatch.setattr(pilots, lambda *a: 75 if a[-1] > 0.95 else 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find_neighbors(x, 5, backend="faiss").recall.value > 0.99


def test_a_bar_if_wanted(capsys):
    find_neighbors(points(200), 3, backend="faiss", show_progress=True)
    assert "neighbours" in capsys.readouterr().err


def test_a_search_of_ones_own_is_checked():
    x = points(300)

    def wrong(x, k):
        return (torch.arange(len(x))[:, None] + 1 + torch.arange(k)) % len(x), (
            torch.zeros(len(x), k)
        )

    with pytest.warns(UserWarning, match="have a recall of 0"):
        assert find_neighbors(x, 3, backend=wrong).backend == "function"
    with pytest.raises(ValueError, match="no row among its own neighbours"):
        find_neighbors(
            x,
            1,
            backend=lambda x, k: (torch.arange(len(x))[:, None], torch.zeros(300, 1)),
        )
    with pytest.raises(ValueError, match=r"expected indices of shape \(N, k\)"):
        find_neighbors(x, 2, backend=lambda x, k: (torch.zeros(3), torch.zeros(3)))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"k": 0}, ValueError, "expected k >= 1"),
        ({"k": 1.5}, TypeError, "expected an integer k"),
        ({"metric": "manhattan"}, ValueError, "expected metric"),
        ({"backend": "annoy"}, ValueError, "expected backend"),
        ({"recall": 0.0}, ValueError, "expected recall"),
    ],
)
def test_wrong_options(options, error, message):
    with pytest.raises(error, match=message):
        find_neighbors(points(20), **{"k": 2, **options})
    with pytest.raises(error, match=message):
        neighbors_among(points(20), points(3), **{"k": 2, **options})


@pytest.mark.parametrize("x", [torch.ones(3), torch.ones(0, 2), np.array([["a"]])])
def test_wrong_points(x):
    with pytest.raises((ValueError, TypeError), match="expected"):
        find_neighbors(x, 2)


@pytest.mark.parametrize("backend", ["auto", "faiss"])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_neighbours_of_other_points(backend, metric):
    x, queries = points(900), points(150, seed=5)
    queries[3] = x[700]  # not itself: it is listed
    near, distance = neighbors_among(x, queries, 5, metric=metric, backend=backend)
    a, b = (
        v / v.norm(dim=1, keepdim=True) if metric == "cosine" else v
        for v in (queries, x)
    )
    true = torch.cdist(a.double(), b.double()).sort(dim=1, stable=True)
    hits = (near[:, :, None] == true.indices[:, None, :5]).any(dim=2).double().mean()
    assert hits == 1 if backend == "auto" else hits > 0.93
    assert near[3, 0] == 700 and distance[3, 0] == 0
    expected = (a[:, None] - b[near]).norm(dim=2)
    torch.testing.assert_close(distance, expected, rtol=1e-5, atol=1e-6)


def test_recall_counts_by_distance():
    x = torch.tensor([[0.0], [1.0], [-1.0], [5.0]])
    # Rows 1 and 2 are equally near to row 0; one listed twice counts once.
    exact = torch.tensor([[1], [0], [0], [1]])
    assert recall_at_k(x, exact) == (1.0, 0.0)
    assert recall_at_k(x, torch.tensor([[2], [0], [0], [1]])).value == 1
    assert recall_at_k(x, torch.tensor([[3], [0], [0], [-1]])).value == 0.5
    twice = torch.tensor([[1, 1], [0, 2], [0, 1], [1, 0]])
    assert recall_at_k(x, twice).value == pytest.approx(7 / 8)
    itself = torch.tensor([[0, 1], [0, 2], [0, 1], [1, 0]])
    assert recall_at_k(x, itself).value == pytest.approx(7 / 8)
    with pytest.raises(ValueError, match="expected integer indices"):
        recall_at_k(x, itself.float())


def test_recall_of_a_sample_has_its_standard_error():
    x = points(500)
    indices, _ = ExactSearch()(x, 4)
    indices[:250, 2:] = -1  # half of the neighbours of half of the rows
    value, error = recall_at_k(x, indices, n_samples=200)
    assert abs(value - 0.75) < 4 * error
    assert error == pytest.approx(0.25 / 200**0.5, rel=0.05)


@needs_pynndescent
@pytest.mark.slow
def test_pynndescent_is_of_the_same_form():
    x = points(600)
    x[:20] = x[0]
    threads = torch.get_num_threads()
    for metric in ("euclidean", "cosine"):
        indices, distances = PyNNDescentSearch(metric)(x, 5)
        assert torch.get_num_threads() == threads
        y = x / x.norm(dim=1, keepdim=True) if metric == "cosine" else x
        expected = (y[:, None] - y[indices]).norm(dim=2)
        torch.testing.assert_close(distances, expected, rtol=1e-4, atol=1e-3)
        assert not bool((indices == torch.arange(600)[:, None]).any())
        assert recall_at_k(x, indices, metric=metric).value > 0.9


@needs_pynndescent
def test_pynndescent_leaves_the_threads_of_torch(monkeypatch):
    """Numba sets them when it starts, once in a process."""
    before = torch.get_num_threads()

    def starting(*_args, n_jobs, **_options):
        assert n_jobs == before
        torch.set_num_threads(before + 1)
        raise ArithmeticError

    monkeypatch.setattr("pynndescent.NNDescent", starting)
    try:
        with pytest.raises(ArithmeticError):
            PyNNDescentSearch()(points(100), 3)
        assert torch.get_num_threads() == before
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["faiss", "pynndescent"])
def test_a_library_that_is_not_installed(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        ValueError, match=f"pip install .*{'scale' if name == 'faiss' else name}"
    ):
        find_neighbors(points(200), 3, backend=name)
