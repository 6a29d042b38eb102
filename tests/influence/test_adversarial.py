"""Adversarial statistics: formulas, planted points off the manifold, references."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from captum_margin.influence import AdversarialStatistics
from captum_margin.signal import knn_graph, leave_neighborhood_out_mmd
from tests.influence.test_inputs import assert_same_state, image_data, net, state
from tests.influence.test_prototypes import neighbours
from tests.influence.test_scores import blobs
from tests.reference import influence_reference as reference
from tests.reference import mmd_reference


def plane(n=300, seed=0):
    """Two classes on a plane in five dimensions, the first six points lifted off it."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.zeros(n, 5, dtype=torch.float64)
    x[:, :2] = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    classes = torch.arange(n) % 2
    x[:, 0] += 4 * classes
    off = x.clone()
    directions = torch.eye(3, dtype=x.dtype)
    off[:6, 2:] = 4 * torch.cat([directions, -directions])
    return x, off, classes


def expected(f, weights, paper=False):
    if paper:
        return (f - reference.shifted(weights, f, "symmetric")) ** 2
    return np.maximum(f - reference.shifted(weights, f, "random_walk"), 0) ** 2


@pytest.mark.parametrize("paper", [False, True])
@pytest.mark.parametrize("gamma", [None, 0.3])
def test_mmd_is_its_formula(paper, gamma):
    x, labels = blobs(15, spread=1.5)
    points = x.numpy()
    weights = reference.neighbor_weights(points, 7, "euclidean", None)
    mmd = mmd_reference.leave_neighborhood_out_mmd
    if paper:
        mmd = mmd_reference.whole_mmd
    f = mmd(points, neighbours(weights), gamma or mmd_reference.default_gamma(points))
    options = {"k": 7, "paper": paper, "gamma": gamma}
    # Labels take no part: the MMD is global.
    result = AdversarialStatistics.from_features(x, labels, **options).result()
    np.testing.assert_allclose(result.function.numpy(), f, rtol=1e-10)
    np.testing.assert_allclose(
        result.scores.numpy(), expected(f, weights, paper), rtol=1e-7, atol=1e-18
    )


@pytest.mark.parametrize("paper", [False, True])
@pytest.mark.parametrize("gamma", [None, 0.3])
@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize("by", ["class", "others", "cosine"])
def test_kde_is_its_formula(paper, gamma, classes, by):
    x, _ = blobs(15, spread=1.5)
    references, own = blobs(9, seed=3)
    # The last class has no reference, one has fewer than k, another a single one.
    references, own = references[:20], own[:20].clone()
    own[own == own[-1]] = 2
    own[-1] = 1 if not bool((own == 1).any()) else own[-1]
    predicted = torch.arange(len(x)) % 4
    points, others = x.numpy(), references.numpy()
    both = (predicted.numpy(), own.numpy())
    used_gamma = gamma or mmd_reference.default_gamma(others)
    density = mmd_reference.kernel_density(
        points, others, used_gamma, *(both if classes else ())
    )
    f = -np.log(np.maximum(density, np.finfo(float).tiny))
    assert classes == bool(f.max() > 700)
    options = {"k": 7, "paper": paper, "gamma": gamma}
    near, k = (points, others), len(others)  # all of the class: any distance will do
    if by != "class":
        generator = torch.Generator().manual_seed(1)
        near = tuple(
            torch.randn(len(v), 3, generator=generator, dtype=x.dtype).numpy() + 1
            for v in near
        )
        options |= {"graph_features": near[0], "graph_references": near[1]}
        k = 7
    metric = "euclidean"
    if by == "cosine":
        options["metric"] = metric = "cosine"
        near = tuple(v / np.sqrt((v * v).sum(1, keepdims=True)) for v in near)
    if classes:
        options |= {"predicted": predicted, "reference_classes": own}
    else:
        both = np.zeros(len(x)), np.zeros(len(others))
    result = AdversarialStatistics.from_features(
        x, statistic="kde", references=references, **options
    ).result()
    np.testing.assert_allclose(result.function.numpy(), f, rtol=1e-10)
    if paper:
        weights = reference.neighbor_weights(points, 7, metric, None)
        scores = expected(f, weights, paper)
    else:
        left = reference.less_references(f, others, k, used_gamma, near, both)
        np.testing.assert_allclose(result.filtered.numpy(), left, atol=1e-12)
        scores = np.maximum(left, 0) ** 2
    np.testing.assert_allclose(result.scores.numpy(), scores, rtol=1e-8, atol=1e-18)


def test_the_filter_removes_what_is_usual_for_such_a_sample():
    """Where many are attacked alike, and ordinary samples differ in how dense they lie.

    Latents: a dense and a sparse half of one class. Inputs tell the halves apart and
    are not changed by the attack, which moves every second dense sample by less than
    sparse samples lie apart.
    """
    generator = torch.Generator().manual_seed(0)
    draw = torch.rand(800, 4, generator=generator, dtype=torch.float64) * 2 - 1
    sparse = torch.arange(800) % 2 == 1
    latents = draw * torch.where(sparse, 4.0, 0.3)[:, None]
    inputs = sparse[:, None] * 10 + torch.rand(800, 2, generator=generator)
    x, known = latents[:400].clone(), latents[400:]
    attacked = torch.arange(400) % 4 == 0
    x[attacked] += 2.0
    result = AdversarialStatistics.from_features(
        x,
        statistic="kde",
        references=known,
        gamma=0.1,
        graph_features=inputs[:400],
        graph_references=inputs[400:],
    ).result()
    among_themselves = AdversarialStatistics.from_features(
        x, function=result.function, sided="above"
    ).result()
    assert attacked[result.top(100)].double().mean() > 0.9
    assert not bool(attacked[result.function.topk(100).indices].any())
    assert not bool(attacked[among_themselves.top(100)].any())


@pytest.mark.parametrize("statistic", ["mmd", "kde"])
def test_points_off_the_manifold_rank_first(statistic):
    on, x, classes = plane()
    options = {"k": 10}
    if statistic == "kde":
        options |= {"references": on[6:], "reference_classes": classes[6:]}
        options |= {"predicted": classes}
    audit = AdversarialStatistics.from_features(x, statistic=statistic, **options)
    assert sorted(audit.result().top(6).tolist()) == [0, 1, 2, 3, 4, 5]
    # High is suspicious without the graph as well.
    assert audit.result().function[:6].mean() > audit.result().function[6:].mean()


def test_kde_finds_points_among_those_of_another_class():
    """Where the features are ordinary, and only the decision is strange."""
    references, x, classes = plane()[0], plane(seed=5)[0], plane()[2]
    references[:, 0] += 4 * classes  # further apart
    x[:, 0] += 4 * classes
    decided = classes.clone()
    decided[:6] = 1 - decided[:6]
    kde = AdversarialStatistics.from_features(
        x,
        statistic="kde",
        references=references,
        reference_classes=classes,
        predicted=decided,
    )
    assert sorted(kde.result().top(6).tolist()) == [0, 1, 2, 3, 4, 5]


def test_references_are_used_without_being_asked_for():
    references, x, _ = plane(60)
    given = AdversarialStatistics.from_features(x, references=references)
    named = AdversarialStatistics.from_features(
        x, references=references, statistic="kde"
    )
    assert torch.equal(given.self_influence(), named.self_influence())
    alone = AdversarialStatistics.from_features(x, statistic="mmd")
    assert not torch.equal(given.self_influence(), alone.self_influence())


def test_classes_are_compared_by_name():
    on, x, classes = plane(60)
    names = np.array(["cat", "dog", "ox"])
    options = {"statistic": "kde", "references": on, "gamma": 0.5}
    plain = AdversarialStatistics.from_features(
        x, predicted=classes, reference_classes=classes, **options
    ).self_influence()
    # A class among the references that nothing is predicted as changes nothing.
    more = torch.cat([torch.full((1, 5), 9.0, dtype=on.dtype), on])
    options["references"] = more.numpy()
    named = AdversarialStatistics.from_features(
        x,
        predicted=names[1:][classes],
        reference_classes=["cat", *names[1:][classes]],
        **options,
    ).self_influence()
    torch.testing.assert_close(named, plain)


@pytest.mark.parametrize("as_data", [False, True])
def test_model_and_features_give_the_same_scores(as_data):
    model, (x, labels) = net(), image_data()
    train = image_data(n=31, seed=7)
    before = state(model)
    evaluated = net().eval()
    with torch.no_grad():
        latents, known = (evaluated.maps(y).mean(dim=(2, 3)) for y in (x, train[0]))
        decided = evaluated(x).argmax(dim=1)
    assert 0 < int(decided.sum()) < len(x)
    options = {"statistic": "kde", "k": 6}
    arrays = {"references": known, "reference_classes": train[1]}
    direct = AdversarialStatistics.from_features(
        latents, predicted=decided, **arrays, **options
    )
    given = {"references": TensorDataset(*train)} if as_data else arrays
    data = TensorDataset(x, labels)
    run = AdversarialStatistics(model, data, "maps", batch_size=5, **given, **options)
    torch.testing.assert_close(
        run.self_influence(), direct.self_influence(), rtol=1e-9, atol=1e-14
    )
    assert_same_state(before, state(model))
    other = image_data(n=17, seed=5)
    expected = AdversarialStatistics(
        model, TensorDataset(*other), "maps", **given, **options
    )
    torch.testing.assert_close(run.self_influence(other), expected.self_influence())
    # A layer for the neighbours, of both data sets or of the samples alone.
    with torch.no_grad():
        early = [evaluated.maps[0](y).mean(dim=(2, 3)) for y in (x, train[0])]
    by_layer = {"graph_features": "maps.0"}
    if not as_data:
        by_layer["graph_references"] = early[1]
    run = AdversarialStatistics(model, data, "maps", **by_layer, **given, **options)
    direct = AdversarialStatistics.from_features(
        latents,
        predicted=decided,
        graph_features=early[0],
        graph_references=early[1],
        **arrays,
        **options,
    )
    torch.testing.assert_close(
        run.self_influence(), direct.self_influence(), rtol=1e-9, atol=1e-14
    )
    assert_same_state(before, state(model))
    mmd = AdversarialStatistics(model, data, "maps", k=6).self_influence()
    direct = AdversarialStatistics.from_features(latents, k=6).self_influence()
    torch.testing.assert_close(mmd, direct, rtol=1e-7, atol=1e-15)


def test_random_features_come_close_and_hold_their_seed():
    x = plane()[1]
    options = {"estimate": "features", "k": 10}
    first = AdversarialStatistics.from_features(x, **options).result()
    again = AdversarialStatistics.from_features(x, **options).result()
    other = AdversarialStatistics.from_features(x, seed=1, **options).result()
    exact = AdversarialStatistics.from_features(x, k=10).result()
    assert torch.equal(first.scores, again.scores)
    assert not torch.equal(first.scores, other.scores)
    torch.testing.assert_close(first.function, exact.function, rtol=0.05, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.int64])
def test_coarse_numbers_give_finite_scores_in_order(dtype):
    x = (8 * plane()[1]).round().to(dtype)
    far = torch.full((1, 5), 60.0).to(dtype)
    x = torch.cat([x, far])
    options = {"k": 10, "statistic": "kde", "references": x[6:-1], "gamma": 0.01}
    result = AdversarialStatistics.from_features(x, **options).result()
    assert result.scores.dtype == torch.float32
    assert bool(result.scores.isfinite().all())
    assert result.top(1).tolist() == [len(x) - 1]
    assert result.function[-1] == -np.log(np.finfo(np.float32).tiny).astype("f")


def test_ends():
    one = AdversarialStatistics.from_features(torch.ones(1, 2)).self_influence()
    assert one.tolist() == [0]
    constant = AdversarialStatistics.from_features(torch.ones(9, 2)).self_influence()
    assert constant.max() < 1e-10
    x = plane(20)[1]
    few = AdversarialStatistics.from_features(x, k=19).self_influence()
    torch.testing.assert_close(
        AdversarialStatistics.from_features(x, k=99).self_influence(), few
    )
    x[3, 1] = float("nan")
    with pytest.raises(ValueError, match="finite"):
        AdversarialStatistics.from_features(x).self_influence()


def test_histograms_show_both_values_of_every_sample():
    x = plane()[1]
    attacked = torch.arange(len(x)) < 6
    audit = AdversarialStatistics.from_features(x)
    result = audit.result()
    left, right = audit.plot_histograms(attacked, bins=20).axes
    for axes, values in ((left, result.function), (right, result.filtered)):
        ordinary, strange = axes.containers
        assert sum(bar.get_height() for bar in ordinary) == len(x) - 6
        assert sum(bar.get_height() for bar in strange) == 6
        edges = np.histogram_bin_edges(values.numpy(), 20)
        counts, _ = np.histogram(values[:6].numpy(), edges)
        assert [bar.get_height() for bar in strange] == counts.tolist()
    plain = audit.plot_histograms().axes[0]
    assert sum(bar.get_height() for bar in plain.containers[0]) == len(x)
    with pytest.raises(ValueError, match="attacked of shape"):
        audit.plot_histograms([True])
    channels = AdversarialStatistics.from_features(x, function=x)
    with pytest.raises(ValueError, match="function of shape"):
        channels.plot_histograms()


def test_what_is_missing_is_said():
    on, x, classes = plane(30)
    graph, _ = knn_graph(x, 5)
    start = AdversarialStatistics.from_features
    with pytest.raises(ValueError, match="needs features"):
        AdversarialStatistics.from_graph(graph)
    f = leave_neighborhood_out_mmd(x, graph)
    own = AdversarialStatistics.from_graph(graph, function=f).self_influence()
    torch.testing.assert_close(own, start(x, k=5).self_influence())
    with pytest.raises(ValueError, match="needs references"):
        start(x, statistic="kde")
    kde = {"statistic": "kde", "references": on}
    for given in ({"predicted": classes}, {"reference_classes": classes}):
        with pytest.raises(ValueError, match="together"):
            start(x, **kde, **given).self_influence()
    with pytest.raises(ValueError, match="among those of the references"):
        start(
            x, **kde, predicted=classes, reference_classes=["a"] * 30
        ).self_influence()
    with pytest.raises(ValueError, match="one class per sample"):
        start(
            x, **kde, predicted=classes[:9], reference_classes=classes
        ).self_influence()
    with pytest.raises(ValueError, match="same layer"):
        start(x, statistic="kde", references=on[:, :2]).self_influence()
    for given, message in (
        ({"graph_features": on}, "graph_references= together"),
        ({"graph_references": on}, "graph_references= together"),
        ({"graph_features": on[:9], "graph_references": on}, "graph_features of shape"),
        ({"graph_features": on, "graph_references": on[:9]}, r"shape \(30, G\)"),
        ({"graph_features": on, "graph_references": on[:, :2]}, "the same layer"),
        ({"graph_features": on / 0, "graph_references": on}, "finite graph_features"),
    ):
        with pytest.raises(ValueError, match=message):
            start(x, **kde, **given).self_influence()
    near = {"graph_features": on, "graph_references": on}
    with pytest.raises(ValueError, match="start from_features anew"):
        start(x, **kde, **near).self_influence(x)
    ready = start(x, **kde, predicted=classes, reference_classes=classes)
    with pytest.raises(ValueError, match="start from_features anew"):
        ready.self_influence(x)
    model, data = net(), TensorDataset(*image_data())
    shuffled = DataLoader(data, shuffle=True)
    with pytest.raises(ValueError, match="shuffle=False"):
        AdversarialStatistics(
            model, data, "maps", statistic="kde", references=shuffled
        ).self_influence()
    for options in ({"statistic": "lid"}, {"estimate": "paper"}):
        with pytest.raises(ValueError, match="expected"):
            start(x, **options)
