"""RepresentativeInterpretation in LayerGradCam's place on trained networks.

Insertion minus deletion of the maps of one layer, for the class the network predicts,
on held-out pictures, when no reference is predicted as that class, and when some are:

- ``without``: 500 references. For the networks of 1,000 classes these are the
  photographs that are not explained, but those predicted as a class that is, and
  mirror images of the first of them up to 500; for the transformer 500 training
  images, for each class but those predicted so.
- ``with``: references of the class. For the networks of 1,000 classes 20 crops, every
  other one mirrored, of each of ten of the pictures themselves, for there is one of a
  class: their likeness flatters the coverage. For the transformer all of the 500.

Our rows are made with three draws of the boundaries. What is in ``--cache`` is not made
again; ``--report``, in a second call, writes the network's key in the JSON and leaves
those of the others.

    export CAPTUM_MARGIN_DATA=... VIT_WEIGHTS=...
    python -m tests.benchmarks.representative.networks --network vit --cache DIR
"""

from __future__ import annotations

import argparse
import io
import json
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captum.attr import LayerAttribution, LayerGradCam
from torch import Tensor, nn

from captum_margin.attr import RepresentativeInterpretation
from captum_margin.metrics import insertion_deletion
from tests.benchmarks.machine import machine, versions
from tests.benchmarks.networks import vit
from tests.benchmarks.networks.trained import (
    NETWORKS,
    CountedNetwork,
    NetworkName,
    counted_network,
    data_folder,
    picture,
    pictures,
    plain_network,
)
from tests.benchmarks.records import RESULTS

OUT = RESULTS / "representative_networks.json"
SEEDS = (0, 1, 2)
N_STEPS, CHUNK = 20, 40
N_REFERENCES, N_CROPS, N_OF_CLASS = 500, 20, 10
LAYERS: dict[NetworkName, str] = {
    "squeezenet": "features.12",
    "efficientnet": "_conv_head",
    "vit": "what goes into the last block",
}
FORMS: dict[str, dict[str, bool]] = {
    "default": {},
    "evidence for": {"relu_attributions": True},
    "paper": {"paper": True},
}
MAIN = "insertion_minus_deletion"


@dataclass
class Bench:
    """A network whose maps are made, the same network that scores them, and a layer.

    Attributes:
        name: Which network.
        scored: The network as all benchmarks of pictures score maps with it.
        model: The network in float32, explained.
        layer: Its layer.
    """

    name: NetworkName
    scored: CountedNetwork
    model: nn.Module
    layer: nn.Module

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """The classes of images, (B,)."""
        return torch.cat([self.model(x).argmax(dim=1) for x in images.split(25)])


def load(name: NetworkName) -> Bench:
    scored = counted_network(name)
    if name == "vit":
        return Bench(name, scored, scored, scored.feature_map)
    model = plain_network(name).requires_grad_(False)
    return Bench(name, scored, model, model.get_submodule(LAYERS[name]))


def candidates(bench: Bench, explained: list[str]) -> Tensor:
    """Images that may be references, (n, 3, H, W)."""
    if bench.name != "vit":
        names = [path.stem for path in _photographs()]
        others = [name for name in names if name not in set(explained)]
        return torch.cat([picture(bench.name, name).image for name in others])
    from PIL import Image

    with zipfile.ZipFile(data_folder() / "cifar10_train.zip") as files:
        listed = sorted(n for n in files.namelist() if n.endswith(".jpg"))
        step = len(listed) // N_REFERENCES  # sorted by class: as many of each
        chosen = listed[::step][:N_REFERENCES]
        arrays = [
            np.asarray(Image.open(io.BytesIO(files.read(n))).convert("RGB"))
            for n in chosen
        ]
    images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255
    return (images - vit.MEAN) / vit.STD


def _photographs() -> list[Path]:
    return sorted((data_folder() / "imagenet_sample").glob("*.jpg"))


def without_classes(images: Tensor, classes: Tensor, explained: set[int]) -> Tensor:
    """500 of the images that are predicted as none of the classes, or their mirrors."""
    rest = images[[int(one) not in explained for one in classes]]
    mirrored = rest[: max(0, N_REFERENCES - len(rest))].flip(3)
    return torch.cat([rest, mirrored])[:N_REFERENCES]


def crops(image: Tensor, seed: int) -> Tensor:
    """Parts of a picture at its own size, every other one mirrored, (20, 3, H, W)."""
    from torchvision.transforms.functional import resized_crop

    height, width = image.shape[2:]
    generator = torch.Generator().manual_seed(seed)
    found = []
    for number in range(N_CROPS):
        share = 0.5 + 0.45 * float(torch.rand((), generator=generator))
        h, w = int(share * height), int(share * width)
        top = int(torch.randint(height - h + 1, (), generator=generator))
        left = int(torch.randint(width - w + 1, (), generator=generator))
        part = resized_crop(image[0], top, left, h, w, [height, width], antialias=True)
        found.append(part.flip(2) if number % 2 else part)
    return torch.stack(found)


@torch.no_grad()
def score(bench: Bench, image: Tensor, target: int, heat: Tensor) -> float:
    """Insertion minus deletion of a map of the layer."""
    size = tuple(image.shape[2:])
    heat = LayerAttribution.interpolate(heat.detach().float(), size, "bilinear")
    curves = insertion_deletion(
        bench.scored,
        image,
        heat,
        target,
        n_steps=N_STEPS,
        perturbations_per_eval=CHUNK,
    )
    return float(curves.insertion_auc[0] - curves.deletion_auc[0])


def peers(bench: Bench, image: Tensor, target: int, seed: int) -> dict[str, Tensor]:
    """Grad-CAM's maps, and a random one, of the layer's size."""
    cam = LayerGradCam(bench.model, bench.layer).attribute(image.clone(), target=target)
    generator = torch.Generator().manual_seed(seed)
    return {
        "Grad-CAM": cam.detach(),
        "Grad-CAM evidence for": cam.detach().clamp(min=0),
        "random": torch.rand(cam.shape, generator=generator),
    }


def explain(
    bench: Bench,
    explainers: list[RepresentativeInterpretation],
    name: str,
    number: int,
) -> dict[str, Any]:
    """Scores of one picture: peers', and ours of each draw; what ours cover."""
    image = picture(bench.name, name).image
    target = int(bench.predict(image)[0])
    scores: dict[bytes, float] = {}

    def once(heat: Tensor) -> float:  # equal maps are not scored again
        key = heat.numpy().tobytes()
        if key not in scores:
            scores[key] = score(bench, image, target, heat)
        return scores[key]

    maps = peers(bench, image, target, number)
    record: dict[str, Any] = {"rows": {k: [once(heat)] for k, heat in maps.items()}}
    heats: dict[str, list[Tensor]] = {}
    covered, purity, share = [], [], []
    for explainer in explainers:
        for form, options in FORMS.items():
            heat, details = explainer.attribute(
                image, target, **options, return_details=True
            )
            heats.setdefault(form, []).append(heat.detach())
        covered.append(len(details.covered[0]))
        purity.append(float(details.purity[0]))
        share.append(float(details.representativeness[0]))
    for form, of_form in heats.items():
        record["rows"][form] = [once(heat) for heat in of_form]
        record[f"agreement {form}"] = agreement(of_form)
    return record | {"covered": covered, "purity": purity, "representativeness": share}


def agreement(maps: list[Tensor]) -> float:
    """Mean correlation of the maps of different draws."""
    flat = torch.stack([heat.flatten() for heat in maps])
    if bool((flat.std(dim=1) == 0).any()):
        return float("nan")
    pairs = torch.corrcoef(flat)[tuple(torch.triu_indices(len(maps), len(maps), 1))]
    return float(pairs.mean())


def fitted(bench: Bench, references: Tensor) -> list[RepresentativeInterpretation]:
    """An explainer for each draw of the boundaries."""
    return [
        RepresentativeInterpretation(bench.model, bench.layer, references, seed=seed)
        for seed in SEEDS
    ]


def run(name: NetworkName, cache: Path, purpose: Any, limit: int) -> None:
    """Makes the records that are missing, of each setting and picture."""
    bench = load(name)
    names = pictures(name, purpose, limit)
    cache.mkdir(parents=True, exist_ok=True)

    def missing(setting: str, of: list[str]) -> list[str]:
        return [n for n in of if not _path(cache, name, purpose, setting, n).exists()]

    def make(setting: str, of: list[str], references: Callable[[], Tensor]) -> None:
        todo = missing(setting, of)
        if not todo:
            return
        explainers = fitted(bench, references())
        for picture_name in todo:
            record = explain(bench, explainers, picture_name, names.index(picture_name))
            path = _path(cache, name, purpose, setting, picture_name)
            path.write_text(json.dumps(record))
            print(f"{name} {setting} {picture_name}", flush=True)

    images = [picture(name, n).image for n in names]
    targets = bench.predict(torch.cat(images)).tolist()
    if missing("without", names) or (name == "vit" and missing("with", names)):
        given = candidates(bench, names)
        classes = bench.predict(given)
        groups = [set(targets)] if name != "vit" else [{t} for t in set(targets)]
        for group in groups:
            of = [n for n, t in zip(names, targets, strict=True) if t in group]
            make("without", of, lambda: without_classes(given, classes, group))  # noqa: B023
        if name == "vit":
            make("with", names, lambda: given)
    if name != "vit":
        # Any ten would do: the first.
        few = names[:N_OF_CLASS]
        parts = images[:N_OF_CLASS]
        make("with", few, lambda: torch.cat([crops(x, i) for i, x in enumerate(parts)]))


def _path(cache: Path, network: str, purpose: str, setting: str, name: str) -> Path:
    # Names of the transformer's pictures are of a folder and a file.
    return cache / f"{network}.{purpose}.{setting}.{name.replace('/', '-')}.json"


def report(name: NetworkName, cache: Path, purpose: Any, out: Path) -> None:
    """Means and standard errors over the pictures, and paired differences."""
    found = {
        setting: summary(cache, name, purpose, setting)
        for setting in ("without", "with")
        if [*cache.glob(f"{name}.{purpose}.{setting}.*.json")]
    }
    record = json.loads(out.read_text()) if out.exists() else {}
    command = "python -m tests.benchmarks.representative.networks --network NAME"
    record["settings"] = {
        "command": f"{command} --cache DIR",
        "seeds": list(SEEDS),
        "layers": LAYERS,
        "metric": "insertion minus deletion, softmax; the metric's defaults",
        "n_steps": N_STEPS,
        "paired": "the row minus Grad-CAM in the same form, mean over the draws",
        "spread": "standard deviation over the draws, mean over the pictures",
        "agreement": "correlation of the maps of two draws, mean over the pictures",
        "versions": versions(),
        "machine": machine(),
    }
    record.setdefault("networks", {})[name] = found
    out.write_text(json.dumps(record, indent=1))
    for setting, rows in found.items():
        print(name, setting, json.dumps(rows, indent=1))


def summary(cache: Path, name: str, purpose: str, setting: str) -> dict[str, Any]:
    """The rows of one setting, and what the polytopes cover."""
    paths = sorted(cache.glob(f"{name}.{purpose}.{setting}.*.json"))
    records = [json.loads(path.read_text()) for path in paths]
    if not records:
        raise ValueError(f"expected records of {name}, {setting!r} (got none); run it")
    rows: dict[str, Any] = {}
    for row in records[0]["rows"]:
        values = np.array([record["rows"][row] for record in records])
        peer = "Grad-CAM evidence for" if row == "evidence for" else "Grad-CAM"
        base = np.array([record["rows"][peer] for record in records]).mean(axis=1)
        rows[row] = {
            MAIN: mean_and_error(values.mean(axis=1)),
            "paired": mean_and_error(values.mean(axis=1) - base),
        }
        if values.shape[1] > 1:
            agreements = [record[f"agreement {row}"] for record in records]
            rows[row]["spread"] = float(values.std(axis=1, ddof=1).mean())
            rows[row]["agreement"] = float(np.nanmean(agreements))
    covered = np.array([record["covered"] for record in records])
    return {
        "pictures": len(records),
        "rows": rows,
        "covered": float(covered.mean()),
        "share_that_cover_none": float((covered == 0).mean()),
        "purity_of_those_that_cover": float(
            np.array([r["purity"] for r in records])[covered > 0].mean()
            if (covered > 0).any()
            else 0.0
        ),
        "representativeness": float(
            np.mean([record["representativeness"] for record in records])
        ),
    }


def mean_and_error(values: Any) -> dict[str, float]:
    """The mean of some values and its standard error."""
    error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return {"mean": float(values.mean()), "standard_error": float(error)}


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=NETWORKS, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--purpose", default="report", choices=["tuning", "report"])
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*too few to be representative")
    warnings.filterwarnings("ignore", message="no sampled boundary")
    if options.report:
        report(options.network, options.cache, options.purpose, options.out)
    else:
        run(options.network, options.cache, options.purpose, options.pictures)


if __name__ == "__main__":
    main()
