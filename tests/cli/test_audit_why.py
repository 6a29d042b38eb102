"""``audit`` of images: where a suspect speaks for the label that others give it."""

import base64
import csv
import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import models
from torchvision.transforms._presets import ImageClassification
from torchvision.transforms.functional import to_tensor

from captum_margin.cli import classifier, main
from captum_margin.cli.audit import command as audit
from captum_margin.cli.audit.seen import SeenImages
from captum_margin.cli.audit.why import overlaid
from captum_margin.cli.preprocessing import UsersPreprocessing
from captum_margin.influence import LabelNoise

SIZE = 64


class Colours(nn.Module):
    """How much red and how much blue there is, in 8 x 8 squares and in the mean."""

    def __init__(self):
        super().__init__()
        self.look = nn.Conv2d(3, 4, 8, stride=8)
        with torch.no_grad():
            self.look.weight.zero_()
            self.look.bias.fill_(0.05)
            for channel, colour in ((0, 0), (1, 2)):
                self.look.weight[channel, colour] = 1 / 64
                self.look.weight[channel, 2 - colour] = -1 / 64
        self.positive = nn.ReLU(inplace=True)
        self.last = nn.Linear(4, 2)

    def forward(self, x):
        return self.last(self.positive(self.look(x)).mean(dim=(2, 3)))


class Normalised(Colours):
    """Whose features are no mean of maps."""

    def forward(self, x):
        z = self.positive(self.look(x)).mean(dim=(2, 3))
        return self.last(nn.functional.layer_norm(z, (4,)))


@pytest.fixture
def colours(monkeypatch):
    """A network in the place of torchvision's, that sees the middle of images."""

    def use(model):
        preset = ImageClassification(
            crop_size=SIZE, resize_size=80, mean=(0, 0, 0), std=(1, 1, 1)
        )
        loaded = classifier.Classifier(model.eval(), preset, [0], [1], ["x"], "weights")
        monkeypatch.setattr(audit, "load", lambda *_: loaded)

    return use


@pytest.fixture
def photographs(tmp_path):
    """Red and blue; one of blue is red at its right."""
    generator = np.random.default_rng(0)
    root = tmp_path / "photographs"
    for colour, channel in (("red", 0), ("<b>blue", 2)):
        (root / colour).mkdir(parents=True)
        for i in range(14):
            pixels = np.zeros((80, 80, 3))
            pixels[..., channel] = generator.uniform(120, 250)
            pixels += generator.normal(0, 20, pixels.shape)
            if colour != "red" and i == 0:
                pixels[:, 24:] = pixels[:, 24:, ::-1]
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(root / colour / f"{i}.png")
    return root


def run(root, out, *options):
    assert main(["audit", str(root), *options, "--out", str(out)]) == 0
    with (out / "suspects.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    record = json.loads((out / "audit.json").read_text())
    return rows, record, (out / "index.html").read_text(encoding="utf-8")


def shown_maps(page):
    """The pictures of the maps: how much redder than grey each pixel is."""
    found = re.findall(r'<figure class="why"[^>]*><img src="[^,]+,([^"]+)"', page)
    images = [Image.open(io.BytesIO(base64.b64decode(text))) for text in found]
    pixels = [np.asarray(image.convert("RGB")).astype(float) for image in images]
    return [(image[..., 0] - image[..., 2]) / 255 for image in pixels]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("explain", [False, True])
def test_the_part_of_the_other_class_is_coloured(
    metric, explain, colours, photographs, tmp_path
):
    colours(Colours())
    options = ["--explain"] if explain else []
    rows, record, page = run(
        photographs, tmp_path / "out", "--metric", metric, *options
    )
    assert rows[0]["name"] == "<b>blue/0.png" and rows[0]["is_label_issue"] == "True"
    flagged = [row for row in rows if row["is_label_issue"] == "True"]
    assert record["maps"]["maps"] == len(shown_maps(page)) <= len(flagged)
    by = "MarginSaliency" if explain else "slope"
    assert record["maps"]["by"] == by
    where = shown_maps(page)[0]
    side = len(where)
    seen = where[side // 8 : -side // 8]
    assert seen[:, side * 5 // 8 : side * 7 // 8].mean() > 0.3
    assert np.abs(where[:, : side * 2 // 8]).mean() < 0.1
    # The network sees the square of 64 pixels in the middle of 80: 8 are the rim.
    rim = side // 12
    assert np.abs(where[:rim]).mean() < 0.05 > np.abs(where[:, -rim:]).mean()
    assert 'speaks for\n<span class="hint">red</span>' in page
    assert 'alt="Map: where &lt;b&gt;blue/0.png speaks for red"' in page
    assert ("hiding parts of it" in page) == explain
    assert "<b>blue" not in page.split('<script type="application/json"')[0]


def test_of_a_preprocessing_of_ones_own_what_the_network_sees_is_shown(
    monkeypatch, photographs, tmp_path
):
    def strip(image):
        return to_tensor(image.crop((10, 0, 50, 80)))

    prepare = UsersPreprocessing(strip, "nets:strip")
    loaded = classifier.Classifier(Colours().eval(), prepare, [0], [1], ["x"], "w")
    monkeypatch.setattr(audit, "load", lambda *_: loaded)
    rows, _, page = run(photographs, tmp_path / "out", "--metric", "cosine")
    assert rows[0]["name"] == "<b>blue/0.png" and rows[0]["is_label_issue"] == "True"
    (text,) = re.findall(r'<figure class="why"[^>]*><img src="[^,]+,([^"]+)"', page)[:1]
    image = Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")
    side = image.size[0]
    assert image.size == (side, side)
    pixels = np.asarray(image).astype(float)
    # 40 of 80 pixels wide: a quarter is left white on either side.
    assert pixels[:, : side // 5].min() > 240 < pixels[:, -side // 5 :].min()
    # Of the strip, from column 10 to 50 of the image, red begins at 24.
    where = (pixels[..., 0] - pixels[..., 2]) / 255
    edge = side // 4 + side // 2 * 14 // 40
    assert np.abs(where[:, side // 4 + 4 : edge - 4]).mean() < 0.05
    assert where[:, edge + 4 : side * 3 // 4 - 4].mean() > 0.3


def test_the_map_is_that_of_the_library(colours, photographs, tmp_path):
    colours(Colours())
    model = Colours().eval()
    rows, _, page = run(photographs, tmp_path / "out", "--metric", "cosine")
    preset = ImageClassification(
        crop_size=SIZE, resize_size=80, mean=(0, 0, 0), std=(1, 1, 1)
    )
    names = sorted(row["name"] for row in rows)
    images = torch.stack([preset(Image.open(photographs / name)) for name in names])
    with torch.no_grad():
        maps = model.positive(model.look(images))
    labels = [name.split("/")[0] for name in names]
    noise = LabelNoise.from_features(maps.mean(dim=(2, 3)), labels, k=7)
    i = names.index(rows[0]["name"])
    heat = noise.evidence(i).positions(maps[i : i + 1])[0].clamp(min=0)
    picture = Image.open(photographs / names[i]).convert("RGB")
    expected = overlaid(picture, heat / heat.max(), 0.8)
    expected = np.asarray(expected.resize((176, 176))).astype(float)
    expected = (expected[..., 0] - expected[..., 2]) / 255
    assert np.abs(shown_maps(page)[0] - expected).mean() < 0.03


def test_without_maps_that_is_said_and_saliency_still_can(
    colours, photographs, tmp_path
):
    colours(Normalised())
    _, record, page = run(photographs, tmp_path / "out")
    reason = "the features are no mean over positions of feature maps"
    assert record["maps"]["left_out"] == reason and shown_maps(page) == []
    assert f"none, for {reason}" in page and 'class="why"' not in page
    colours(Normalised())
    _, record, page = run(photographs, tmp_path / "out", "--explain", "--top", "1")
    assert record["maps"]["maps"] == len(shown_maps(page)) == 1


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("squeezenet1_1", "classifier.2"),
        ("resnet18", "layer4"),
        ("densenet121", "features"),
        ("efficientnet_b0", "features"),
        ("convnext_tiny", None),
        ("vit_b_32", None),
    ],
)
def test_the_maps_that_features_are_the_mean_of_are_found(name, source, tmp_path):
    from captum_margin.cli.audit.folder import drop_classifier

    Image.new("RGB", (300, 250), "orange").save(tmp_path / "a.png")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = models.get_model(name, weights=None).eval()
    preset = ImageClassification(crop_size=224)
    drop_classifier(model, torch.zeros(1, 3, 224, 224))
    seen = SeenImages(model, model, preset, [tmp_path / "a.png"])
    assert seen.find_maps(0) == (source is not None)
    assert seen.maps_of is None if source is None else source in seen.maps_of
    if source is not None:
        features = seen.features(seen.image(0))
        torch.testing.assert_close(
            seen.maps(0).mean(dim=(2, 3)), features, rtol=1e-3, atol=1e-5
        )
    assert seen.side_seen == pytest.approx(224 / 256)


def test_a_map_lies_over_the_square_that_the_network_sees():
    heat = torch.zeros(2, 2)
    heat[0, 1] = 1
    picture = Image.new("RGB", (60, 40), (100, 100, 100))
    pixels = np.asarray(overlaid(picture, heat, 0.5)).astype(int)
    redder = pixels[..., 0] - pixels[..., 2]
    assert pixels.shape == (40, 60, 3)
    assert redder[10:14, 36:40].min() > 150  # upper right of the square of 20
    assert (
        not redder[:10].any() and not redder[:, :20].any() and not redder[:, 40:].any()
    )
    assert (pixels[0, 0] == 80).all()


def test_options_that_go_with_folders_alone(tmp_path, capsys):
    (tmp_path / "data.csv").write_text("a\n1\n")
    with pytest.raises(SystemExit):
        main(["audit", str(tmp_path / "data.csv"), "--explain"])
    assert "--explain does not go with a csv" in capsys.readouterr().err


def test_an_image_that_is_gone_has_no_map(colours, photographs, monkeypatch, tmp_path):
    colours(Colours())
    asked = SeenImages.find_maps

    def then_gone(seen, index):
        found = asked(seen, index)
        seen.paths[index].unlink()
        return found

    monkeypatch.setattr(SeenImages, "find_maps", then_gone)
    rows, record, page = run(photographs, tmp_path / "out", "--top", "1")
    assert rows[0]["is_label_issue"] == "True"
    assert record["maps"]["maps"] == 0 and shown_maps(page) == []
