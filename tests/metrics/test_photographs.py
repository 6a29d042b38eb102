"""On real photographs, Grad-CAM is better than a random map."""

import os
from pathlib import Path

import pytest
import torch

from captum_margin.metrics import average_drop, insertion_deletion, smallest_region

DATA = os.environ.get("CAPTUM_MARGIN_DATA")


@pytest.mark.skipif(DATA is None, reason="needs CAPTUM_MARGIN_DATA")
def test_grad_cam_beats_a_random_map():
    torchvision = pytest.importorskip("torchvision")
    from captum.attr import LayerAttribution, LayerGradCam
    from PIL import Image

    paths = sorted(Path(DATA, "imagenet_sample").glob("*.jpg"))[5:125:40]
    transforms = torchvision.transforms
    load = transforms.Compose(
        [
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    x = torch.stack([load(Image.open(path).convert("RGB")) for path in paths])
    model = torchvision.models.squeezenet1_0().eval()
    weights = Path(DATA, "models", "squeezenet1_0_imagenet.pt")
    model.load_state_dict(torch.load(weights, weights_only=True))
    with torch.no_grad():
        target = model(x).argmax(dim=1)

    cam = LayerGradCam(model, model.features[12]).attribute(
        x, target, relu_attributions=True
    )
    cam = LayerAttribution.interpolate(cam.detach(), (224, 224), "bilinear")
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(len(x), 1, 224, 224, generator=generator)

    gain, area = {}, {}
    for name, amap in {"cam": cam, "noise": noise}.items():
        curves = insertion_deletion(
            model, x, amap, target, n_steps=7, perturbations_per_eval=4
        )
        gain[name] = (curves.insertion_auc - curves.deletion_auc).mean()
        area[name] = smallest_region(
            model, x, amap, target, n_steps=8, perturbations_per_eval=4
        ).fraction.mean()
    assert gain["cam"] > gain["noise"] + 0.2
    assert area["cam"] < area["noise"] - 0.2
    kept = {
        name: average_drop(model, x, amap, target, keep=0.2).average_drop
        for name, amap in {"cam": cam, "noise": noise}.items()
    }
    assert kept["cam"] < kept["noise"]
