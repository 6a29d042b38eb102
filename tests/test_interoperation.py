"""Ours beside the tools that users already have, each the real package.

Every test skips where its package is not installed. What Quantus 0.6 does wrong, and
how to go round it, is written down in its tests.
"""

import numpy as np
import pytest
import torch
from captum.attr import FeatureAblation
from torch import nn

from captum_margin import explain
from captum_margin.attr import (
    CoalitionPerturbation,
    MarginSaliency,
    RepresentativeInterpretation,
)
from captum_margin.influence import LabelNoise, Prototypes, select_nodes
from captum_margin.signal import knn_graph
from tests.helpers import models

SEEN = (slice(4, 12), slice(6, 14))
IN_BOX = torch.zeros(32, 32, dtype=torch.bool)
IN_BOX[SEEN] = True


class SeenNet(nn.Module):
    """Class 1 for bright pixels in a box, class 0 for its opposite."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.ReLU())
        self.features[0].weight.data.fill_(1.0 / 3.0)
        self.register_buffer("box", torch.zeros(32, 32))
        self.box[SEEN] = 1.0 / 64.0

    def forward(self, x):
        evidence = 8.0 * (self.features(x).mean(dim=1) * self.box).sum(dim=(1, 2))
        return torch.stack([4.0 - evidence, evidence - 4.0], dim=1)


@pytest.fixture
def net():
    return SeenNet().eval()


@pytest.fixture
def images():
    """Four dim images, the box of the first two bright."""
    generator = torch.Generator().manual_seed(0)
    images = 0.2 * torch.rand(4, 3, 32, 32, generator=generator)
    images[:2, :, SEEN[0], SEEN[1]] += 0.7
    return images


def share_in_box(heat):
    """How much of a map of shape (32, 32) lies in the box."""
    heat = torch.as_tensor(np.asarray(heat)).clamp(min=0.0)
    return float(heat[SEEN].sum() / heat.sum())


# -- Quantus ---------------------------------------------------------------------------


def quantus_callables(images):
    """Our classes as Quantus calls a method: NumPy in, NumPy out."""

    def margin(model, inputs, targets, **_):
        maps = MarginSaliency(model).attribute(
            torch.as_tensor(inputs), target=torch.as_tensor(targets), n_evaluations=200
        )
        return maps.numpy()

    def coalition(model, inputs, targets, **_):
        maps = CoalitionPerturbation(model).attribute(
            torch.as_tensor(inputs), target=torch.as_tensor(targets), n_steps=40
        )
        return maps.numpy()

    def representative(model, inputs, targets, **_):
        explainer = RepresentativeInterpretation(model, model.features, images)
        maps = explainer.attribute(
            torch.as_tensor(inputs), target=torch.as_tensor(targets)
        )
        return maps.numpy()

    return {"ours": margin, "coalition": coalition, "representative": representative}


@pytest.fixture
def quantus(monkeypatch):
    quantus = pytest.importorskip("quantus", exc_type=ImportError)
    if not hasattr(np, "trapz"):
        # Quantus 0.6.0 calls np.trapz, which NumPy 2.4 has no more: without this line
        # evaluate() prints "Failed to evaluate" and leaves the metric out.
        monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)
    return quantus


def pixel_flipping(quantus):
    return quantus.PixelFlipping(
        features_in_step=64,
        perturb_baseline="black",
        return_auc_per_sample=True,
        disable_warnings=True,
    )


@pytest.mark.filterwarnings("ignore")
def test_quantus_evaluates_our_classes(quantus, net, images):
    found = quantus.evaluate(
        metrics={"flipping": pixel_flipping(quantus)},
        xai_methods={
            **quantus_callables(images),
            "random": lambda model, inputs, targets, **_: (
                np.random.default_rng(0).random(inputs.shape).astype(np.float32)
            ),
        },
        model=net,
        x_batch=images[:2].numpy(),
        y_batch=np.array([1, 1]),
        explain_func_kwargs={},
        agg_func=np.mean,
        verbose=False,
    )
    # The box is gone after the first steps of a good map, after half of a random one.
    assert found["ours"]["flipping"] < 0.1 * found["random"]["flipping"]
    assert found["coalition"]["flipping"] < 0.1 * found["random"]["flipping"]
    assert found["representative"]["flipping"] < 0.1 * found["random"]["flipping"]
    # Its own number, by hand: flip 64 of the 3 x 32 x 32 values a step, trapezoids.
    maps = quantus_callables(images)["ours"](net, images[:2].numpy(), [1, 1])
    by_hand = []
    for image, heat in zip(images[:2], maps, strict=True):
        order = np.argsort(-heat.ravel())
        flipped, curve = image.numpy().copy(), []
        for step in np.split(order, 48):
            flipped.reshape(-1)[step] = image.min()
            with torch.no_grad():
                logits = net(torch.from_numpy(flipped)[None])
            curve.append(float(logits.softmax(dim=1)[0, 1]))
        by_hand.append(np.trapezoid(curve))
    assert found["ours"]["flipping"] == pytest.approx(np.mean(by_hand), rel=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_quantus_without_trapz_fails_for_any_method(quantus, net, images, monkeypatch):
    monkeypatch.delattr(np, "trapz", raising=False)
    with pytest.raises(AttributeError, match="trapz"):
        pixel_flipping(quantus)(
            model=net,
            x_batch=images[:2].numpy(),
            y_batch=np.array([1, 1]),
            a_batch=images[:2].numpy(),
        )


def pixels_of_all_channels(arr, indices, **kwargs):
    """ROAD's imputation for images with channels: positions instead of values."""
    from quantus import noisy_linear_imputation

    positions = np.unique(np.asarray(indices) % (arr.shape[-2] * arr.shape[-1]))
    return noisy_linear_imputation(arr, positions, **kwargs)


@pytest.mark.filterwarnings("ignore")
def test_quantus_road_of_colour_images(quantus, net, images):
    maps = quantus_callables(images)["ours"](net, images.numpy(), [1, 1, 0, 0])
    data = {"x_batch": images.numpy(), "y_batch": np.array([1, 1, 0, 0])}
    options = {"percentages": [10, 50], "noise": 0.0, "disable_warnings": True}
    # Its indices run over channels too, and its imputation has positions only.
    with pytest.raises(IndexError):
        quantus.ROAD(**options)(model=net, a_batch=maps, **data)
    road = quantus.ROAD(perturb_func=pixels_of_all_channels, **options)
    # One batch: it reports the first one's mean, whatever the others say.
    found = road(model=net, a_batch=maps, batch_size=len(images), **data)
    # Filled in from around, the bright boxes are dark and no longer class 1.
    assert found == {10: pytest.approx(0.5), 50: pytest.approx(0.5)}
    worst = road(model=net, a_batch=-maps, batch_size=len(images), **data)
    assert worst[10] == 1.0


# -- pytorch-grad-cam ------------------------------------------------------------------


class Targeted(nn.Module):
    """A model of which a target of pytorch-grad-cam picks the score, (B,)."""

    def __init__(self, model, target):
        super().__init__()
        self.model, self.target = model, target

    def forward(self, x):
        return self.target(self.model(x))


@pytest.mark.parametrize("name", ["ClassifierOutputTarget", "ClassifierOutputReST"])
def test_grad_cam_targets(net, images, name):
    targets = pytest.importorskip(
        "pytorch_grad_cam.utils.model_targets", exc_type=ImportError
    )
    target = getattr(targets, name)(1)
    found = MarginSaliency(Targeted(net, target)).attribute(
        images[:2], n_evaluations=200
    )
    # The box is 6% of the image.
    assert min(share_in_box(heat[0]) for heat in found) > 0.35
    assert all(IN_BOX.flatten()[heat[0].argmax()] for heat in found)
    if name == "ClassifierOutputTarget":
        same = MarginSaliency(net).attribute(
            images[:2], target=1, softmax=False, n_evaluations=200
        )
        torch.testing.assert_close(found, same)


def test_grad_cam_softmax_target_is_our_default(net, images):
    targets = pytest.importorskip(
        "pytorch_grad_cam.utils.model_targets", exc_type=ImportError
    )
    wrapped = Targeted(net, targets.ClassifierOutputSoftmaxTarget(1))
    options = {"n_evaluations": 200}
    found = MarginSaliency(wrapped).attribute(images[:2], **options)
    same = MarginSaliency(net).attribute(images[:2], target=1, **options)
    torch.testing.assert_close(found, same)
    ablated = FeatureAblation(wrapped).attribute(
        images[:1], feature_mask=models.tiles(32, 32, 2)
    )
    assert share_in_box(ablated[0, 0]) > 0.9
    mask = models.tiles(32, 32, 4)
    moved = CoalitionPerturbation(wrapped).attribute(images[:1], feature_mask=mask)
    here = CoalitionPerturbation(net).attribute(images[:1], target=1, feature_mask=mask)
    # A score of its own is measured by what the baseline changes, a probability not.
    top = moved[0, 0].flatten().topk(64).indices
    assert IN_BOX.flatten()[top].float().mean() > 0.7
    assert torch.corrcoef(torch.stack([moved.flatten(), here.flatten()]))[0, 1] > 0.8


def test_grad_cam_draws_our_maps(net, images):
    image_tools = pytest.importorskip(
        "pytorch_grad_cam.utils.image", exc_type=ImportError
    )
    explanation = explain(MarginSaliency(net), images[:1], target=1, n_evaluations=200)
    heat = explanation.attributions[0, 0].clamp(min=0.0)
    heat = (heat / heat.max()).numpy()
    photograph = images[0].permute(1, 2, 0).numpy()
    drawn = image_tools.show_cam_on_image(photograph, heat, use_rgb=True)
    assert drawn.shape == (32, 32, 3) and drawn.dtype == np.uint8
    plain = image_tools.show_cam_on_image(photograph, 0.0 * heat, use_rgb=True)
    # Red where the map is high, blue where there is nothing.
    red = drawn[..., 0].astype(int) - drawn[..., 2]
    peak = np.unravel_index(heat.argmax(), heat.shape)
    assert red[peak] > 0 > red[heat < 0.05].max()
    assert np.argmax(plain.astype(int).sum(axis=(0, 1))) == 2


# -- data: scikit-learn, pandas, datasets, PyG, cleanlab -------------------------------


@pytest.fixture
def clusters():
    """Two clusters in six columns of very different units; labels 3 and 40 swapped."""
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 2
    features = generator.normal(size=(60, 6)) + 4.0 * (2 * labels[:, None] - 1)
    features *= 10.0 ** np.arange(6)
    given = labels.copy()
    given[[3, 40]] = 1 - given[[3, 40]]
    return features, given


def worst_two(method):
    return sorted(method.self_influence().topk(2).indices.tolist())


@pytest.mark.parametrize("output", ["default", "pandas"])
def test_output_of_a_scikit_learn_pipeline(clusters, output):
    pytest.importorskip("sklearn")
    pytest.importorskip("pandas")
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, given = clusters
    pipeline = make_pipeline(StandardScaler(), PCA(3, random_state=0))
    made = pipeline.set_output(transform=output).fit_transform(features)
    assert hasattr(made, "columns") == (output == "pandas")
    found = LabelNoise.from_features(made, given)
    assert worst_two(found) == [3, 40]
    plain = LabelNoise.from_features(torch.tensor(np.array(made)), given.tolist())
    assert torch.equal(found.self_influence(), plain.self_influence())


def test_sparse_tfidf_of_texts():
    pytest.importorskip("sklearn")
    from sklearn.feature_extraction.text import TfidfVectorizer

    generator = np.random.default_rng(1)
    topics = (["cheap", "offer", "win", "free"], ["meeting", "gas", "report", "desk"])
    kinds = np.arange(40) % 2
    texts = [" ".join(generator.choice(topics[kind], 6)) for kind in kinds]
    names = np.array(["spam", "ham"])[kinds]
    names[[4, 11]] = ["ham", "spam"]
    sparse = TfidfVectorizer().fit_transform(texts)
    assert sparse.shape == (40, 8) and hasattr(sparse, "toarray")
    found = LabelNoise.from_features(sparse, names)
    assert worst_two(found) == [4, 11]
    dense = LabelNoise.from_features(sparse.toarray(), names)
    # Of texts equally far, which ones are joined depends on rounding.
    scores = found.self_influence(), dense.self_influence()
    torch.testing.assert_close(*scores, rtol=0, atol=0.1)
    assert worst_two(dense) == [4, 11]
    assert found.result().classes == ("ham", "spam")


def test_pandas_in_and_out(clusters):
    pandas = pytest.importorskip("pandas")
    features, given = clusters
    columns = [f"f{i}" for i in range(6)]
    table = pandas.DataFrame(features / 10.0 ** np.arange(6), columns=columns)
    table.index = table.index[::-1]  # an index of its own does not change the order
    labels = pandas.Series(given, index=table.index).map({0: "cat", 1: "dog"})
    for kind in (labels, labels.astype("category")):
        found = LabelNoise.from_features(table, kind)
        assert worst_two(found) == [3, 40]
        frame = found.result().to_pandas()
        assert frame["given_label"].tolist() == labels.tolist()
        assert sorted(frame.sort_values("rank").index[:2]) == [3, 40]
    with pytest.raises(TypeError, match="encode text columns"):
        LabelNoise.from_features(table.assign(name="x"), labels)


def test_hugging_face_dataset(clusters):
    datasets = pytest.importorskip("datasets", exc_type=ImportError)
    features, given = clusters
    scaled = (features / 10.0 ** np.arange(6)).astype(np.float32)
    table = datasets.Dataset.from_dict({"vector": scaled.tolist(), "label": given})
    numbers = table.with_format("numpy")
    found = LabelNoise.from_features(numbers["vector"][:], numbers["label"][:])
    assert worst_two(found) == [3, 40]
    tensors = table.with_format("torch")
    again = LabelNoise.from_features(tensors["vector"][:], tensors["label"][:])
    torch.testing.assert_close(again.self_influence(), found.self_influence())

    class Pairs(torch.utils.data.Dataset):
        """Rows of a Hugging Face set, dictionaries, as pairs (x, label)."""

        def __len__(self):
            return len(tensors)

        def __getitem__(self, index):
            row = tensors[index]
            return row["vector"], int(row["label"])

    through = LabelNoise(nn.Identity(), Pairs(), batch_size=16)
    torch.testing.assert_close(through.self_influence(), found.self_influence())
    with pytest.raises(TypeError):  # says what it wants instead of a dictionary
        LabelNoise(nn.Identity(), tensors, batch_size=16).self_influence()


def test_pyg_data():
    from torch_geometric.data import Data

    generator = torch.Generator().manual_seed(0)
    blocks = torch.arange(30) // 10
    features = torch.eye(3)[blocks] + 0.1 * torch.rand(30, 3, generator=generator)
    pairs = torch.combinations(torch.arange(30))
    inside = pairs[blocks[pairs[:, 0]] == blocks[pairs[:, 1]]].T
    data = Data(x=features, edge_index=torch.cat([inside, inside.flip(0)], dim=1))
    picked = select_nodes(data, 3)
    assert sorted(blocks[picked].tolist()) == [0, 1, 2]
    data.test_mask = torch.ones(30, dtype=torch.bool)
    data.test_mask[[5, 15, 25]] = False
    assert sorted(select_nodes(data, 3).tolist()) == [5, 15, 25]
    labels = blocks.clone()
    labels[7] = 2
    found = LabelNoise.from_graph(data.edge_index, labels)
    assert int(found.self_influence().argmax()) == 7


def test_cleanlab_datalab_graph(clusters):
    cleanlab = pytest.importorskip("cleanlab", exc_type=ImportError)
    pytest.importorskip("datasets", exc_type=ImportError)  # Datalab needs it
    features, given = clusters
    scaled = features / 10.0 ** np.arange(6)
    lab = cleanlab.Datalab({"label": given}, label_name="label", verbosity=0)
    lab.find_issues(features=scaled, issue_types={"outlier": {"k": 8}})
    graph = lab.get_info("statistics")["weighted_knn_graph"]
    assert graph.shape == (60, 60) and graph.nnz == 60 * 8
    found = LabelNoise.from_graph(graph, given)
    assert worst_two(found) == [3, 40]
    # The neighbours and distances are those we find ourselves.
    edges, _ = knn_graph(torch.from_numpy(scaled), k=8, metric="cosine")
    ours = {tuple(pair) for pair in edges.T.tolist()}
    theirs = {tuple(pair) for pair in found.result().graph.edge_index.T.tolist()}
    assert ours == theirs
    assert len(Prototypes.from_features(scaled, given).self_influence()) == 60


def test_releases_of_what_is_not_installed_are_left_out():
    from captum_margin._version import __version__, versions

    found = versions("torch", "no-such-package-of-this-name")
    assert [*found] == ["captum_margin", "torch", "python"]
    assert found["captum_margin"] == __version__
