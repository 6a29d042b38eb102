"""Every way in gives the same scores, in data order, and leaves things as they were."""

import numpy as np
import pytest
import scipy.sparse
import torch
from captum.influence import DataInfluence
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from captum_margin.influence import DecisionBoundary, LabelNoise
from captum_margin.signal import Graph, knn_graph
from tests.influence.test_scores import blobs, with_flips


class Net(nn.Module):
    """Feature maps, features and scores; dropout and batch norm tell the modes."""

    def __init__(self):
        super().__init__()
        self.maps = nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5)
        )
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 2)

    def forward(self, x, shift=None):
        pooled = self.maps(x).mean(dim=(2, 3))
        return self.head(self.norm(pooled if shift is None else pooled + shift))


def net(seed=0):
    torch.manual_seed(seed)
    model = Net().double()
    # The boundary of the decisions goes through the data below.
    model.head.bias.data = torch.tensor([0.0, 0.062], dtype=torch.float64)
    model.train()
    model.norm.eval()  # a mixture of modes is to come back
    model.head.weight.requires_grad_(False)
    return model


def image_data(n=23, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 1, 6, 6, generator=generator, dtype=torch.float64)
    labels = torch.arange(n) % 2
    x[labels == 1, :, :, 3:] += 1
    return x, labels


def state(model):
    return (
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        [parameter.grad for parameter in model.parameters()],
        [len(module._forward_hooks) for module in model.modules()],
        {name: value.clone() for name, value in model.state_dict().items()},
    )


def assert_same_state(before, after):
    assert before[:4] == after[:4]
    assert all(torch.equal(before[4][name], after[4][name]) for name in before[4])


def test_the_contract_of_captum():
    x, labels = blobs()
    noise = LabelNoise.from_features(x, labels)
    assert isinstance(noise, DataInfluence) and noise.get_name() == "LabelNoise"
    scores = noise.self_influence()
    assert torch.equal(noise.influence(), scores[None])
    best = noise.influence(k=5)
    assert best._fields == ("indices", "influence_scores")
    assert best.indices.shape == best.influence_scores.shape == (1, 5)
    assert torch.equal(best.influence_scores[0], scores[best.indices[0]])
    assert torch.equal(best.influence_scores[0], scores.sort(descending=True)[0][:5])
    worst = noise.influence(k=5, proponents=False)
    assert torch.equal(worst.influence_scores[0], scores.sort()[0][:5])
    assert noise.influence(k=10_000).indices.shape == (1, len(x))
    with pytest.raises(ValueError, match="k >= 1"):
        noise.influence(k=0)


@pytest.mark.parametrize("layer", ["maps", "norm", None])
@pytest.mark.parametrize("question", [LabelNoise, DecisionBoundary])
def test_model_and_features_give_the_same_scores(layer, question):
    model, (x, labels) = net(), image_data()
    before = state(model)
    data = TensorDataset(x, labels)
    module = None if layer is None else getattr(model, layer)
    audit = question(model, data, module, batch_size=5, k=6)
    scores = audit.self_influence()
    assert_same_state(before, state(model))
    assert audit.model is model and audit.train_dataset is data

    reference = net().eval()
    with torch.no_grad():
        maps = reference.maps(x).mean(dim=(2, 3))
        features = {"maps": maps, "norm": reference.norm(maps), None: reference(x)}
        decided = reference(x).argmax(dim=1)
    known = decided if question is DecisionBoundary else labels
    if question is DecisionBoundary:
        assert 0 < int(decided.sum()) < len(x)
    direct = question.from_features(features[layer], known, k=6).self_influence()
    torch.testing.assert_close(scores, direct, rtol=1e-9, atol=1e-12)
    if question is DecisionBoundary:
        given = question(model, data, module, k=6, label_source="given")
        direct = question.from_features(features[layer], labels, k=6).self_influence()
        torch.testing.assert_close(
            given.self_influence(), direct, rtol=1e-9, atol=1e-12
        )


def test_loaders_names_of_layers_and_several_inputs():
    model, (x, labels) = net(), image_data()
    data = TensorDataset(x, labels)
    scores = LabelNoise(model, data, "maps", k=6).self_influence()
    loader = DataLoader(data, batch_size=4)
    own = LabelNoise(model, loader, model.maps, k=6)
    torch.testing.assert_close(own.self_influence(show_progress=True), scores)
    flat = LabelNoise(model, data, "maps", pooling="flatten", k=6)
    assert flat.result().scores.shape == (23,)
    with_shift = TensorDataset(x, torch.zeros(23, 3, dtype=torch.float64), labels)
    torch.testing.assert_close(
        LabelNoise(model, with_shift, "maps", k=6).self_influence(), scores
    )


@pytest.mark.parametrize("count", [2, 5])
def test_decisions_have_the_names_of_the_data_if_these_are_the_models(count):
    model, (x, labels) = net(), image_data()
    names = list("abcde")[:count]
    boundary = DecisionBoundary(
        model, TensorDataset(x, labels), "maps", class_names=names, k=6
    )
    assert boundary.result().classes == (("a", "b") if count == 2 else (0, 1))


def test_another_data_set_is_asked_the_same():
    model, (x, labels) = net(), image_data()
    noise = LabelNoise(model, TensorDataset(x, labels), "maps", k=6)
    other = image_data(n=17, seed=5)
    expected = LabelNoise(model, TensorDataset(*other), "maps", k=6).self_influence()
    torch.testing.assert_close(noise.self_influence(other), expected)
    torch.testing.assert_close(
        noise.influence(DataLoader(TensorDataset(*other), 4)), expected[None]
    )
    rows = LabelNoise.from_features(*blobs(10), k=5)
    other = blobs(8, seed=4)
    expected = LabelNoise.from_features(*other, k=5).self_influence()
    torch.testing.assert_close(rows.self_influence(other), expected)


class Stream(IterableDataset):
    def __iter__(self):
        yield torch.zeros(3), 0


def test_data_in_another_order_is_refused():
    model, (x, labels) = net(), image_data()
    data = TensorDataset(x, labels)
    with pytest.raises(ValueError, match="shuffle=False"):
        LabelNoise(model, DataLoader(data, shuffle=True))
    batches = torch.utils.data.BatchSampler(range(22, -1, -1), 4, False)
    with pytest.raises(ValueError, match="shuffle=False"):
        LabelNoise(model, DataLoader(data, batch_sampler=batches))
    with pytest.raises(ValueError, match="drop_last"):
        LabelNoise(model, DataLoader(data, batch_size=4, drop_last=True))
    for stream in (Stream(), DataLoader(Stream())):
        with pytest.raises(ValueError, match="IterableDataset"):
            LabelNoise(model, stream)


def test_a_failing_model_is_left_as_found():
    model, (x, labels) = net(), image_data()
    x[20] = float("nan")
    before = state(model)
    with pytest.raises(ValueError, match="finite"):
        LabelNoise(model, TensorDataset(x, labels), "maps").self_influence()
    with pytest.raises(RuntimeError):
        wide = TensorDataset(x.expand(-1, 4, -1, -1), labels)
        LabelNoise(model, wide, "maps").self_influence()
    assert_same_state(before, state(model))
    with pytest.raises(ValueError, match="name of a layer"):
        LabelNoise(model, TensorDataset(x, labels), "nothing")
    with pytest.raises(ValueError, match="layer of the model"):
        LabelNoise(model, TensorDataset(x, labels), nn.Linear(2, 2))
    with pytest.raises(TypeError, match=r"nn\.Module"):
        LabelNoise(lambda x: x, TensorDataset(x, labels))
    with pytest.raises(TypeError, match=r"\(x, \.\.\., label\)"):
        LabelNoise(model, TensorDataset(x), "maps").self_influence()


def test_global_random_state_stays():
    model, (x, labels) = net(), image_data()
    state_before = torch.get_rng_state()
    LabelNoise(model, TensorDataset(x, labels), "maps", k=4).self_influence()
    assert torch.equal(torch.get_rng_state(), state_before)


def test_arrays_and_sparse_matrices_are_as_tensors():
    x, labels = blobs(features=12)
    x = torch.where(x < 0.5, 0, x)  # of four features whole rows would be the same
    labels, _ = with_flips(labels)
    expected = LabelNoise.from_features(x, labels).self_influence()
    before = x.clone()
    read_only = x.numpy().copy()
    read_only.setflags(write=False)
    names = np.array(["a", "b", "c"])[labels]
    for features in (x.numpy(), read_only, scipy.sparse.csr_matrix(x.numpy())):
        for given in (labels.numpy(), names, names.tolist(), labels.double(), names):
            scores = LabelNoise.from_features(features, given).self_influence()
            # Distances of sparse rows are in single precision.
            rtol = 1e-5 if scipy.sparse.issparse(features) else 0
            torch.testing.assert_close(scores, expected, rtol=rtol, atol=rtol)
    assert torch.equal(x, before)


def test_tables_of_pandas_are_as_tensors():
    pandas = pytest.importorskip("pandas")
    x, labels = blobs()
    labels, _ = with_flips(labels)
    expected = LabelNoise.from_features(x, labels).self_influence()
    frame = pandas.DataFrame(x.numpy(), index=range(100, 100 + len(x)))
    series = pandas.Series(np.array(["a", "b", "c"])[labels])
    for given in (series, series.astype("category"), pandas.Series(labels.numpy())):
        scores = LabelNoise.from_features(frame, given).self_influence()
        torch.testing.assert_close(scores, expected, rtol=0, atol=0)
    series[3] = None
    with pytest.raises(ValueError, match="first at 3"):
        LabelNoise.from_features(frame, series)
    nullable = pandas.Series(labels.tolist(), dtype="Int64")
    named = LabelNoise.from_features(frame, nullable, class_names=["a", "b", "c"])
    assert named.result().classes == ("a", "b", "c")
    nullable[5] = pandas.NA
    with pytest.raises(ValueError, match="first at 5"):
        LabelNoise.from_features(frame, nullable)
    with pytest.raises(TypeError, match="numbers as features"):
        LabelNoise.from_features(frame.assign(name="text"), labels)


def test_bad_labels_are_refused():
    x, labels = blobs(4)
    with pytest.raises(ValueError, match=r"\(N,\) = \(12,\) \(got \(11,\)\)"):
        LabelNoise.from_features(x, labels[:-1])
    with pytest.raises(ValueError, match="needs labels"):
        LabelNoise.from_features(x)
    with pytest.raises(TypeError, match="fractions"):
        LabelNoise.from_features(x, labels + 0.5)
    with pytest.raises(ValueError, match="1 missing, the first at 1"):
        LabelNoise.from_features(x, [0.0, float("nan"), *[1.0] * 10])
    with pytest.raises(ValueError, match="class name for each"):
        LabelNoise.from_features(x, labels, class_names=["a", "b"])
    with pytest.raises(ValueError, match=r"\(N, F\)"):
        LabelNoise.from_features(x[:, 0], labels)


def sorted_csr(x, k):
    """A neighbour graph as Datalab keeps it: rows by distance, zeros explicit."""
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    distance.fill_diagonal_(torch.inf)
    near = distance.sort(dim=1, stable=True)
    n = len(x)
    return scipy.sparse.csr_matrix(
        (
            near.values[:, :k].flatten().numpy(),
            near.indices[:, :k].flatten().numpy(),
            np.arange(0, n * k + 1, k),
        ),
        shape=(n, n),
    )


def test_a_neighbour_graph_of_distances_is_as_its_features():
    x, labels = blobs(10)
    x[3] = x[0]  # duplicates: a distance of zero that is an edge
    labels, _ = with_flips(labels, n=3)
    csr = sorted_csr(x, 6)
    assert (csr.data == 0).any()
    for bandwidth in (None, 0.5):
        options = {"bandwidth": bandwidth, "metric": "euclidean"}
        noise = LabelNoise.from_features(x, labels, k=6, regression=False, **options)
        expected = noise.result()
        result = LabelNoise.from_graph(csr, labels, **options).result()
        assert torch.equal(result.graph.edge_index, expected.graph.edge_index)
        torch.testing.assert_close(
            result.scores.double(), expected.scores, rtol=1e-9, atol=1e-12
        )


def test_given_edges_and_graphs():
    x, labels = blobs(10)
    edge_index, weight = knn_graph(x, 5)
    expected = LabelNoise.from_graph(Graph(edge_index, weight, 30), labels)
    bare = LabelNoise.from_graph(edge_index[:, edge_index[0] < edge_index[1]], labels)
    torch.testing.assert_close(
        bare.self_influence().double(), expected.self_influence(), rtol=0, atol=1e-5
    )
    with pytest.raises(ValueError, match="after from_graph"):
        bare.self_influence((x, labels))
    with pytest.raises(TypeError, match="SciPy sparse"):
        LabelNoise.from_graph([[0, 1]], labels)
    with pytest.raises(ValueError, match="square"):
        LabelNoise.from_graph(scipy.sparse.csr_matrix((2, 3)), [0, 1])
    with pytest.raises(ValueError, match="distances >= 0"):
        LabelNoise.from_graph(scipy.sparse.csr_matrix([[0, -1], [1, 0]]), [0, 1])
