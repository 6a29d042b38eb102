"""One search for several questions, and what a result says of its neighbours."""

import numpy as np
import pytest
import torch

from captum_margin.influence import (
    ActiveLearning,
    AdversarialStatistics,
    DecisionBoundary,
    LabelNoise,
    Prototypes,
)
from captum_margin.influence import settings as settings_module
from captum_margin.neighbors import ExactSearch, find_neighbors
from tests.influence.test_inputs import image_data, net
from tests.influence.test_scores import blobs, with_flips

QUESTIONS = [
    (LabelNoise, {"metric": "cosine"}),
    (LabelNoise, {"metric": "euclidean", "paper": True}),
    (DecisionBoundary, {"metric": "cosine"}),
    (Prototypes, {}),
    (AdversarialStatistics, {"metric": "euclidean"}),
    (ActiveLearning, {"metric": "euclidean"}),
]


@pytest.fixture
def data():
    """Three kinds, some flips, and points so often there that distances tie."""
    x, labels = blobs(40, spread=1.5)
    x[5:25] = x[5]
    return x.float(), with_flips(labels, n=6)[0]


@pytest.mark.parametrize(("question", "options"), QUESTIONS)
@pytest.mark.parametrize("k", [1, 7, 12])
def test_the_first_of_one_search_are_those_of_a_search_for_each(
    monkeypatch, data, question, options, k
):
    x, labels = data
    metric = options.get("metric", "euclidean")
    found = find_neighbors(x, 12, metric=metric)
    expected = question.from_features(x, labels, k=k, **options).result()
    monkeypatch.setattr(settings_module, "find_neighbors", None)  # no other search
    monkeypatch.setattr(settings_module, "knn_graph", None)
    shared = question.from_features(x, labels, k=k, backend=found, **options)
    given = shared.result()
    assert torch.equal(given.graph.edge_index, expected.graph.edge_index)
    # The distances that a search returns are in single precision.
    for name in ("scores", "function", "filtered"):
        values = getattr(given, name), getattr(expected, name)
        torch.testing.assert_close(*values, rtol=1e-5, atol=2e-6)
    weights = given.graph.edge_weight, expected.graph.edge_weight
    torch.testing.assert_close(*weights, rtol=2e-6, atol=0)


def test_new_samples_against_neighbours_found_before(data):
    x, labels = data
    found = find_neighbors(x, 9, metric="cosine")
    noise = [
        LabelNoise.from_features(x, labels, k=6, backend=b) for b in (found, "auto")
    ]
    new, own = blobs(4, seed=5)
    scores = [question.score(new.float(), own) for question in noise]
    torch.testing.assert_close(*scores, rtol=1e-5, atol=1e-6)


def test_a_model_with_neighbours_found_before():
    model, (x, labels) = net(), image_data()
    items = list(zip(x, labels.tolist(), strict=True))
    expected = LabelNoise(model, items, "maps", k=4)
    scores = expected.self_influence()
    found = find_neighbors(expected._samples.features, 5, metric="cosine")
    shared = LabelNoise(model, items, "maps", k=4, backend=found)
    torch.testing.assert_close(shared.self_influence(), scores, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="backend= of other samples"):
        shared.self_influence((x, labels))


def test_neighbours_that_do_not_fit_are_refused(data):
    x, labels = data
    found = find_neighbors(x, 5)
    for given, k in ((found, 6), (find_neighbors(x[1:], 6), 6)):
        with pytest.raises(ValueError, match=r"shape \(N, k\) = \(120, 6\) or wider"):
            LabelNoise.from_features(x, labels, k=k, backend=given).result()


class HalfFound:
    """The nearest, and instead of the others the farthest."""

    def __call__(self, x, k):
        indices, distances = ExactSearch()(x, len(x) - 1)
        return indices[:, [0, -1]], distances[:, [0, -1]]


def test_a_result_tells_the_recall(data):
    x, labels = blobs(40)
    boundary = DecisionBoundary.from_features(
        x, labels, k=2, metric="euclidean", backend=HalfFound()
    )
    with pytest.warns(UserWarning, match="recall of 0.500"):
        result = boundary.result()
    # All 120 rows are checked: one of two is found in each.
    assert (result.backend, result.recall) == ("HalfFound", (0.5, 0.0))
    edges = result.graph.edge_index.size(1) // 2
    assert repr(result) == (
        f"InfluenceResult(DecisionBoundary, 120 samples, {edges} edges, neighbours by "
        "HalfFound search, recall 0.500 ± 0.000)"
    )


def test_a_result_of_exact_neighbours_or_none_tells_that(data):
    x, labels = data
    exact = LabelNoise.from_features(x, labels, k=3).result()
    assert (exact.backend, exact.recall) == ("exact", None)
    knows = str(exact.knowledge)
    assert repr(exact).endswith(f"edges, neighbours by exact search, {knows})")
    given = LabelNoise.from_graph(exact.graph, labels).result()
    assert (given.backend, given.recall) == (None, None)
    assert repr(given).endswith(f"edges, {given.knowledge})")
    boundary = DecisionBoundary.from_features(x, labels, k=3).result()
    assert repr(boundary).endswith("edges, neighbours by exact search)")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("given", [False, True])
def test_long_edges_keep_a_weight(dtype, given):
    """Two far ends of a chain: exp(-d² / 2 σ²) underflows, the edges stay."""
    x = torch.cat([torch.arange(8.0), torch.tensor([900.0])])[:, None].to(dtype)
    backend = find_neighbors(x, 2) if given else "auto"
    options = {"k": 2, "bandwidth": 0.5, "metric": "euclidean", "backend": backend}
    noise = LabelNoise.from_features(x, [0, 1] * 4 + [0], regression=False, **options)
    graph = noise.result().graph
    assert graph.edge_weight.dtype == dtype
    assert bool((graph.edge_weight > 0).all())
    degree = torch.zeros(9).index_add_(
        0, graph.edge_index[1], graph.edge_weight.float()
    )
    assert float(degree[8]) == pytest.approx(2 * torch.finfo(dtype).tiny, rel=1e-3)
    ones = noise.result().graph.edge_weight[graph.edge_index[0] == 0]
    expected = np.exp(-0.5 * (np.array([1.0, 2.0]) / 0.5) ** 2)
    np.testing.assert_allclose(ones.double(), expected, rtol=2e-3)
