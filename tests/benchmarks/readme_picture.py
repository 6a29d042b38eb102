"""Draws the README's picture: scikit-image's cat, Grad-CAM and MarginSaliency.

CAPTUM_MARGIN_DATA=... python -m tests.benchmarks.readme_picture
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torchvision
from captum.attr import LayerAttribution, LayerGradCam
from skimage.data import chelsea
from skimage.transform import resize

from captum_margin.attr import MarginSaliency
from captum_margin.metrics import insertion_deletion
from captum_margin.viz import visualize_comparison

from .bench_saliency import MEAN, STD

PICTURE = Path(__file__).parents[2] / "tutorials/pictures/margin_saliency.png"


def main() -> None:
    """Explains and draws."""
    weights = Path(os.environ["CAPTUM_MARGIN_DATA"], "models/squeezenet1_0_imagenet.pt")
    model = torchvision.models.squeezenet1_0(weights=None).eval()
    model.load_state_dict(torch.load(weights, weights_only=True))
    pixels = resize(chelsea()[:, 75:375], (224, 224))
    image = torch.from_numpy(pixels).float().permute(2, 0, 1)[None]
    image = (image - MEAN) / STD
    with torch.no_grad():
        probabilities = model(image).softmax(dim=1)[0]
    target = int(probabilities.argmax())
    categories = torchvision.models.SqueezeNet1_0_Weights.DEFAULT.meta["categories"]

    cam = LayerGradCam(model, model.features).attribute(
        image, target, relu_attributions=True
    )
    maps = {
        "Grad-CAM": LayerAttribution.interpolate(cam, (224, 224), "bilinear").detach(),
        "MarginSaliency": MarginSaliency(model).attribute(image, target=target),
    }
    curves = {
        name: insertion_deletion(model, image, attribution, target)
        for name, attribution in maps.items()
    }
    figure, _ = visualize_comparison(
        image,
        maps,
        curves=curves,
        mean=MEAN.flatten().tolist(),
        std=STD.flatten().tolist(),
        title=f"{categories[target]}: {float(probabilities[target]):.2f}",
    )
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=90)


if __name__ == "__main__":
    main()
