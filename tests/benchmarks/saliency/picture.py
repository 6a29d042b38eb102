"""Draws the README's picture: scikit-image's cat as four methods explain it.

Each under its own map: what it cost, and what its map is worth on this one photograph.

CAPTUM_MARGIN_DATA=... python -m tests.benchmarks.saliency.picture
"""

from __future__ import annotations

import argparse
import os
import zipfile
from pathlib import Path

import torch
import torchvision
from captum.attr import LayerAttribution, LayerGradCam, visualization
from matplotlib.figure import Figure
from skimage.data import chelsea
from skimage.transform import resize
from torch import Tensor, nn

from captum_margin import explain
from captum_margin.attr import (
    CoalitionPerturbation,
    MarginSaliency,
    RepresentativeInterpretation,
)
from captum_margin.metrics import average_drop, insertion_deletion
from tests.benchmarks.photographs import MEAN, STD, load_image

PICTURE = Path(__file__).parents[3] / "tutorials/pictures/image_methods.png"
INCHES = (8.5, 2.5)
DPI = 105  # 892 pixels, of which the README shows some 850
N_REFERENCES = 400


def main() -> None:
    """Explains, measures and draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=PICTURE)
    out = parser.parse_args().out

    torch.set_num_threads(1)
    data = Path(os.environ["CAPTUM_MARGIN_DATA"])
    model = torchvision.models.squeezenet1_0(weights=None).eval()
    weights = data / "models/squeezenet1_0_imagenet.pt"
    model.load_state_dict(torch.load(weights, weights_only=True))
    pixels = resize(chelsea()[:, 75:375], (224, 224))
    image = torch.from_numpy(pixels).float().permute(2, 0, 1)[None]
    image = (image - MEAN) / STD
    with torch.no_grad():
        probabilities = model(image).softmax(dim=1)[0]
    target = int(probabilities.argmax())
    categories = torchvision.models.SqueezeNet1_0_Weights.DEFAULT.meta["categories"]
    label = f"{categories[target]}: {float(probabilities[target]):.2f}"

    columns = {
        name: (heat, [cost, *measured(model, image, heat, target)])
        for name, heat, cost in maps(model, image, target, cats_and_dogs(data))
    }
    for name, (_, lines) in columns.items():
        print(name, *lines, sep="\n  ")
    draw(pixels, label, columns).savefig(out, dpi=DPI)


def cats_and_dogs(data: Path) -> Tensor:
    """Photographs of what the network tells this cat from, (M, 3, 224, 224)."""
    with zipfile.ZipFile(data / "cats_dogs.zip") as archive:
        names = [name for name in sorted(archive.namelist()) if name.endswith(".jpg")]
        cats = [name for name in names if name.startswith("cat/")]
        dogs = [name for name in names if name.startswith("dog/")]
        chosen = cats[: N_REFERENCES // 2] + dogs[: N_REFERENCES // 2]
        photographs = [load_image(archive.open(name)) for name in chosen]  # type: ignore[arg-type]
    return torch.cat(photographs)


def maps(
    model: nn.Module, image: Tensor, target: int, references: Tensor
) -> list[tuple[str, Tensor, str]]:
    """Name, map (1, 1 or 3, H, W) and cost in words, by method."""
    layer = model.get_submodule("features")
    size = tuple(image.shape[2:])
    positive = {"relu_attributions": True}
    found = []

    cam = explain(LayerGradCam(model, layer), image, target, **positive)
    heat = LayerAttribution.interpolate(cam.attributions, size, "bilinear")
    found.append(("LayerGradCam", heat, f"{cam.n_forward} forward, 1 backward"))

    saliency = explain(MarginSaliency(model), image, target)
    cost = f"{saliency.n_forward} forward"
    found.append(("MarginSaliency", saliency.attributions, cost))

    explainer = RepresentativeInterpretation(model, layer)
    batches: list[int] = []
    hook = layer.register_forward_hook(lambda _, x, __: batches.append(len(x[0])))
    explainer.fit(references, seed=0)
    hook.remove()
    backward: list[int] = []
    hook = layer.register_full_backward_hook(lambda *_: backward.append(1))
    one = explain(explainer, image, target, **positive)
    hook.remove()
    heat = LayerAttribution.interpolate(one.attributions, size, "bilinear")
    cost = f"{one.n_forward} forward, {len(backward)} backward, fit {sum(batches)}"
    found.append(("RepresentativeInterpretation", heat, cost))

    coalition = explain(CoalitionPerturbation(model), image, target)
    steps = int(coalition.details["n_evaluations"][0])
    cost = f"{coalition.n_forward} forward, {steps} backward"
    found.append(("CoalitionPerturbation", coalition.attributions, cost))
    return found


def measured(model: nn.Module, image: Tensor, heat: Tensor, target: int) -> list[str]:
    """The two numbers under a map."""
    curves = insertion_deletion(model, image, heat, target)
    difference = float(curves.insertion_auc - curves.deletion_auc)
    drop = average_drop(model, image, heat, target)
    kept = float(drop.mask_mean)
    return [
        f"insertion \N{MINUS SIGN} deletion {difference:.2f}",
        f"average drop {drop.average_drop:.2f}, {kept:.0%} kept",
    ]


def draw(
    pixels: object, label: str, columns: dict[str, tuple[Tensor, list[str]]]
) -> Figure:
    """A row: the photograph, then each map over it with its lines below."""
    figure = Figure(figsize=INCHES, layout="constrained")
    axes = figure.subplots(1, 1 + len(columns))
    axes[0].imshow(pixels)
    axes[0].set_title("the photograph", fontsize=8)
    caption = f"{label}\nnumbers of this one\nphotograph, no more"
    axes[0].set_xlabel(caption, fontsize=7.5)
    for axis, (name, (heat, lines)) in zip(axes[1:], columns.items(), strict=True):
        visualization.visualize_image_attr(
            heat[0].permute(1, 2, 0).numpy(),
            pixels,
            method="blended_heat_map",
            sign="positive",
            cmap="inferno",
            plt_fig_axis=(figure, axis),
            use_pyplot=False,
        )
        axis.set_title(name, fontsize=8)
        axis.set_xlabel("\n".join(lines), fontsize=7.5)
    for axis in axes:
        axis.set(xticks=[], yticks=[])
    return figure


if __name__ == "__main__":
    main()
