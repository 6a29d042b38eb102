"""``explain`` of small networks built as torchvision's ViT and Swin are."""

import json
import warnings

import numpy as np
import pytest
import torch
from captum.attr import LayerAttribution
from PIL import Image
from torch import nn
from torchvision.models import SwinTransformer, VisionTransformer
from torchvision.transforms._presets import ImageClassification

from captum_margin.attr import (
    CoalitionPerturbation,
    RepresentativeInterpretation,
    tokens_to_maps,
)
from captum_margin.cli import main
from captum_margin.cli.classifier import Classifier
from captum_margin.cli.explain import command as explain

SIZE, N_CLASSES = 32, 6
pytestmark = pytest.mark.filterwarnings("ignore:no sampled boundary")


def vit():
    model = VisionTransformer(SIZE, 8, 2, 2, 16, 32, num_classes=N_CLASSES)
    nn.init.normal_(model.heads.head.weight)  # it is zero
    return model, "encoder.layers.encoder_layer_1.ln_1", [16, 4, 4]


def swin():
    options = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]}
    model = SwinTransformer(
        [4, 4], window_size=[4, 4], num_classes=N_CLASSES, **options
    )
    nn.init.normal_(model.head.weight)  # nearly all images are of one class
    return model, "permute", [16, 4, 4]


@pytest.fixture(scope="module", params=[vit, swin], ids=["vit_b_16", "swin_t"])
def case(request):
    """The name in torchvision, a classifier, its layer and the shape of the maps."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model, layer, shape = request.param()
    preset = ImageClassification(crop_size=SIZE, resize_size=SIZE)
    names = [f"class {i}" for i in range(N_CLASSES)]
    classifier = Classifier(
        model.eval(), preset, list(preset.mean), list(preset.std), names, "random"
    )
    return {vit: "vit_b_16", swin: "swin_t"}[request.param], classifier, layer, shape


@pytest.fixture
def folder(tmp_path):
    """Images of noise, coarse and coloured each in its way."""
    generator = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i in range(12):
        tint = generator.uniform(0, 1, 3)
        pixels = generator.uniform(0, 255, (4, 4, 3)) * tint
        image = Image.fromarray(pixels.astype(np.uint8)).resize((SIZE, SIZE))
        image.save(tmp_path / "images" / f"{i:02}.png")
    return tmp_path / "images"


@pytest.fixture
def run(case, folder, tmp_path, capsys, monkeypatch):
    """Explains an image; gives its record and map, and what was printed."""
    monkeypatch.setattr(explain, "load", lambda *_: case[1])

    def explain_with(*options):
        out = tmp_path / "out"
        arguments = [folder / "03.png", "--model", case[0], "--maps", "--out", out]
        status = main(["explain", *map(str, [*arguments, *options])])
        printed = capsys.readouterr()
        assert (status, printed.err) == (0, "")
        with np.load(out / "03.npz") as saved:
            found = torch.from_numpy(saved["attributions"])
        return json.loads((out / "03.json").read_text()), found, printed.out

    return explain_with


def read(classifier, path):
    return classifier.preprocess(Image.open(path).convert("RGB"))


def test_representative(case, run, folder):
    _, classifier, layer, shape = case
    record, found, printed = run("--method", "representative", "--references", folder)
    assert record["settings"]["layer"] == layer
    assert record["settings"]["layer_shape"] == shape
    assert f"layer {layer} ({shape[0]} maps of {shape[1]} x {shape[2]})" in printed

    module = classifier.model.get_submodule(layer)
    tokens = tokens_to_maps if case[0] == "vit_b_16" else None
    explainer = RepresentativeInterpretation(
        classifier.model, module, reshape_transform=tokens
    )
    references = torch.stack([read(classifier, p) for p in sorted(folder.iterdir())])
    explainer.fit(references, n_boundaries=12, seed=0)
    image, target = references[3:4], record["target"]["index"]
    maps = explainer.attribute(image, target=target, relu_attributions=True)
    assert list(maps.shape) == [1, 1, *shape[1:]] and maps.std() > 0
    expected = LayerAttribution.interpolate(maps, (SIZE, SIZE), "bilinear")
    torch.testing.assert_close(found, expected.expand_as(image))


def test_a_layer_of_tokens_by_name(case, run, folder):
    layer = {"vit_b_16": "encoder.layers.encoder_layer_0.ln_2", "swin_t": "features.1"}
    options = ["--method", "representative", "--references", folder]
    record, found, _ = run(*options, "--layer", layer[case[0]])
    shapes = {"vit_b_16": [16, 4, 4], "swin_t": [8, 8, 8]}
    assert record["settings"]["layer_shape"] == shapes[case[0]]
    assert found.shape == (1, 3, SIZE, SIZE) and found.isfinite().all()


def test_coalition(case, run, folder):
    name, classifier, layer, _ = case
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the score of")
        record, found, _ = run("--method", "coalition", "--n-coalitions", "4")
        explainer = CoalitionPerturbation(classifier.model)
        if name == "vit_b_16":
            assert record["settings"]["layer"] == layer
            module = classifier.model.get_submodule(layer)
            explainer = CoalitionPerturbation(
                classifier.model, module, reshape_transform=tokens_to_maps
            )
        image = read(classifier, folder / "03.png")[None]
        target = record["target"]["index"]
        expected = explainer.attribute(image, target=target, n_coalitions=4, seed=0)
    torch.testing.assert_close(found, expected)
    assert 2 <= record["coalitions"]["n_coalitions"] <= 4
