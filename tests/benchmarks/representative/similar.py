"""Similar references by equation 6 beside the nearest feature maps, as in Figure 2.

Lam et al., ICCV 2021, sections 5.2 and 6.3: of the references that an image's polytope
covers those are similar whose projections on the normals of its boundaries differ
least; beside them the references whose feature maps are nearest by Euclidean distance.

Drawn for five unseen photographs of dogs and cats on SqueezeNet. Measured for all of
them: how often another network, EfficientNet-Lite0, names the reference as the same of
ImageNet's 1,000 classes (118 are dogs, 5 are cats), and the cosine of its features.

    CAPTUM_MARGIN_DATA=... python -m tests.benchmarks.representative.similar --cache DIR
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from captum_margin.attr import RepresentativeInterpretation
from tests.benchmarks.machine import machine, versions
from tests.benchmarks.networks.trained import plain_network
from tests.benchmarks.records import RESULTS
from tests.benchmarks.representative.bench import Upper
from tests.benchmarks.representative.models import Task, feature_maps, load_task

PICTURE = Path(__file__).parents[3] / "tutorials/pictures/representative_similar.png"
OUT = RESULTS / "representative_similar.json"
K = 4
DRAWN = 5
CLASSES = ("cat", "dog")
SEED = 0


def neighbors(
    explainer: RepresentativeInterpretation, references: Tensor, maps: Tensor
) -> tuple[dict[str, Tensor], list[int]]:
    """For each feature map its K references by each rule; numbers of boundaries."""
    head = explainer.forward_func.head  # type: ignore[attr-defined]
    with torch.no_grad():
        own, theirs = (
            torch.cat([head(x).argmax(dim=1) for x in part.split(256)])
            for part in (maps, references)
        )
    found = [explainer.interpret(one[None]) for one in maps]
    distances = torch.cdist(maps.flatten(1), references.flatten(1))
    generator = torch.Generator().manual_seed(SEED)
    chance = torch.rand(distances.shape, generator=generator)
    other = own[:, None] != theirs
    rules = {
        "equation 6": torch.stack([one.similar(K).indices for one in found]),
        "nearest feature maps": distances.argsort(dim=1)[:, :K],
        "drawn from those predicted alike": (chance + other).argsort(dim=1)[:, :K],
    }
    return rules, [len(one.boundaries.bias) for one in found]


@torch.no_grad()
def judged(data: Path, cache: Path) -> list[tuple[Tensor, Tensor]]:
    """Features and ImageNet classes by EfficientNet-Lite0, of references and unseen."""
    task = load_task("cats_dogs_efficientnet", data, cache)
    net = plain_network("efficientnet")
    found = []
    for part, images in {"train": task.train_images, "test": task.test_images}.items():
        maps = feature_maps(task, part, torch.arange(len(images)), cache)
        features = maps.mean(dim=(2, 3))
        found.append((F.normalize(features, dim=1), net._fc(features).argmax(dim=1)))
    return found


def draw(
    task: Task,
    chosen: list[int],
    rules: dict[str, Tensor],
    scores: dict[str, Tensor],
    path: Path,
) -> None:
    """Photographs beside their references, a row each, and what each is taken for."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 1.5 * DRAWN + 0.3), layout="constrained")
    widths = [1.0, 0.08, *[1] * K, 0.08, *[1] * K]
    axes = figure.subplots(DRAWN, len(widths), width_ratios=widths, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    shown = [rules["equation 6"], rules["nearest feature maps"]]
    for row, number in enumerate(chosen):
        pictures = {0: (task.test_images[number], scores["unseen"][number])}
        for block, indices in enumerate(shown):
            for rank, index in enumerate(indices[number].tolist()):
                column = 2 + block * (K + 1) + rank
                pictures[column] = task.train_images[index], scores["references"][index]
        for column, (picture, score) in pictures.items():
            axis = axes[row, column]
            axis.imshow(picture.permute(1, 2, 0).numpy())
            words = f"{CLASSES[int(score.argmax())]} {score.max():.3f}"
            axis.text(
                0.5, -0.04, words, transform=axis.transAxes, ha="center", va="top"
            )
    axes[0, 0].set_title("unseen")
    axes[0, 2].set_title("most similar by equation 6", loc="left")
    axes[0, 3 + K].set_title("nearest feature maps", loc="left")
    figure.savefig(path, dpi=72)


def mean_and_error(values: Tensor) -> dict[str, float]:
    error = values.std().item() / len(values) ** 0.5
    return {"mean": values.mean().item(), "standard_error": error}


def main() -> None:
    """Draws and measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*own boundary.*")

    data = Path(os.environ["CAPTUM_MARGIN_DATA"])
    task = load_task("cats_dogs_deep", data, options.cache)
    references, maps = (
        feature_maps(task, part, torch.arange(len(images)), options.cache)
        for part, images in (("train", task.train_images), ("test", task.test_images))
    )
    upper = Upper(task.model)
    explainer = RepresentativeInterpretation(upper, upper.feature_map)
    rules, n_boundaries = neighbors(
        explainer.fit(references, seed=SEED), references, maps
    )
    drawn = np.random.default_rng(SEED).permutation(len(maps))[:DRAWN].tolist()
    with torch.no_grad():
        scores = {
            part: torch.cat([task.model.head(x).softmax(1) for x in m.split(256)])
            for part, m in {"references": references, "unseen": maps}.items()
        }
    draw(task, drawn, rules, scores, options.picture)

    (features, names), (own_features, own_names) = judged(data, options.cache)
    found: dict[str, dict[str, Tensor]] = {}
    for rule, indices in rules.items():
        same = (names[indices] == own_names[:, None]).double().mean(dim=1)
        cosine = (features[indices] * own_features[:, None]).sum(dim=2).mean(dim=1)
        found[rule] = {"same_name": same, "cosine": cosine.double()}
    rows: dict[str, Any] = {
        rule: {key: mean_and_error(values) for key, values in of_rule.items()}
        for rule, of_rule in found.items()
    }
    first = found["equation 6"]
    less = {
        rule: {key: mean_and_error(first[key] - v) for key, v in of_rule.items()}
        for rule, of_rule in found.items()
        if of_rule is not first
    }
    print(json.dumps({"rules": rows, "equation_6_minus": less}, indent=1))
    words = " ".join(sys.argv[1:]).replace(str(options.cache), "DIR")
    settings = {
        "command": f"python -m tests.benchmarks.representative.similar {words}",
        "seed": SEED,
        "references": len(references),
        "unseen_images": len(maps),
        "similar": K,
        "boundaries_of_a_polytope": float(np.mean(n_boundaries)),
        "drawn": drawn,
        "versions": versions(),
        "machine": machine(),
    }
    record = {"settings": settings, "rules": rows, "equation_6_minus": less}
    options.out.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
