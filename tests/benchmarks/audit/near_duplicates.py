"""How many planted near duplicates are found, and how many others are called so.

    CAPTUM_MARGIN_DATA=... python -m tests.benchmarks.audit.near_duplicates --cache DIR

Of some images copies are added: the same file, saved again as JPEG of quality 40, made
smaller by a tenth, mirrored, a twentieth cut off, a tenth darker or lighter. Features
and neighbours are those of ``captum-margin audit``: SqueezeNet's for photographs, or
pixels, cosine. The threshold was chosen on the cats and dogs, see ``thresholds``, and
is reported on the others. *False alarms* are groups among the images that were there
before, per 1,000 of these; data hold true near duplicates too, so the samples of the
first groups are on record, to be looked at: of CIFAR-10's pixels, eight of ten are true
near duplicates (and two lie on plain grounds); those of MNIST are different digits that
can hardly be told apart; the one of the cats and dogs is of two dogs behind a fence.
With pixels, mirrored and cut images are no near duplicates.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from captum_margin.influence import near_duplicates
from captum_margin.neighbors import find_neighbors
from tests.benchmarks.machine import machine, versions
from tests.benchmarks.records import RESULTS

RESULT = RESULTS / "near_duplicates.json"
_COPIES = 50  # of each kind
_BATCH = 32
_K = 30  # neighbours that the audit searches
_CHOSEN_ON = "cats and dogs"
_THRESHOLDS = 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8
_SHOWN = 10  # false alarms on record


def _resaved(image: Image.Image) -> Image.Image:
    contents = io.BytesIO()
    image.convert("RGB").save(contents, "JPEG", quality=40)
    return Image.open(contents).convert(image.mode)


def _smaller(image: Image.Image) -> Image.Image:
    width, height = image.size
    return image.resize((round(0.9 * width), round(0.9 * height)))


def _cut(image: Image.Image) -> Image.Image:
    width, height = image.size
    return image.crop((round(0.05 * width), round(0.05 * height), width, height))


def _brightness(factor: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: ImageEnhance.Brightness(image).enhance(factor)


KINDS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "same": lambda image: image,
    "JPEG 40": _resaved,
    "90% size": _smaller,
    "mirrored": ImageOps.mirror,
    "5% cut off": _cut,
    "10% darker": _brightness(0.9),
    "10% lighter": _brightness(1.1),
}


class Planted(NamedTuple):
    """Features of images and of copies of some.

    Args:
        features: Shape (N + copies, F), the copies last.
        source: Of each copy the index of its image.
        kind: Of each copy its place in ``KINDS``.
    """

    features: Tensor
    source: Tensor
    kind: Tensor


def photographs(path: Path, n: int) -> list[Image.Image]:
    """The first n images of each class folder of a ZIP."""
    taken: dict[str, int] = {}
    images = []
    with zipfile.ZipFile(path) as file:
        for name in sorted(file.namelist()):
            folder = name.rpartition("/")[0]
            if name.lower().endswith(".jpg") and taken.get(folder, 0) < n:
                taken[folder] = taken.get(folder, 0) + 1
                with file.open(name) as image:
                    images.append(Image.open(image).convert("RGB"))
    return images


def digits(path: Path, n: int) -> list[Image.Image]:
    """The first n digits."""
    with np.load(path) as file:
        return [Image.fromarray(pixels) for pixels in file["images"][:n]]


def squeezenet(data: Path) -> Callable[[list[Image.Image]], Tensor]:
    """What ``audit`` takes of a folder: the input of the last layer, pooled."""
    from captum_margin.cli.audit.folder import drop_classifier
    from captum_margin.cli.classifier import load

    weights = data / "models/squeezenet1_0_imagenet.pt"
    classifier = load("squeezenet1_0", str(weights), torch.device("cpu"))
    drop_classifier(classifier.model, torch.zeros(1, 3, 224, 224))

    def features(images: list[Image.Image]) -> Tensor:
        parts = []
        with torch.no_grad():
            for start in range(0, len(images), _BATCH):
                batch = images[start : start + _BATCH]
                inputs = torch.stack([classifier.preprocess(i) for i in batch])
                parts.append(classifier.model(inputs).flatten(1))
        return torch.cat(parts)

    return features


def pixels(images: list[Image.Image]) -> Tensor:
    """Pixels, of copies of another size at that of the first image."""
    size = images[0].size
    sized = [np.asarray(image.resize(size)).reshape(-1) for image in images]
    return torch.from_numpy(np.stack(sized)).float()


def plant(
    images: list[Image.Image], features: Callable[[list[Image.Image]], Tensor]
) -> Planted:
    """Adds copies of different images, of each kind as many."""
    generator = torch.Generator().manual_seed(0)
    n_copies = _COPIES * len(KINDS)
    source = torch.randperm(len(images), generator=generator)[:n_copies]
    kind = torch.arange(n_copies) % len(KINDS)
    change = list(KINDS.values())
    pairs = zip(source.tolist(), kind.tolist(), strict=True)
    copies = [change[k](images[i]) for i, k in pairs]
    return Planted(features(images + copies), source, kind)


def data_sets(data: Path, cache: Path) -> dict[str, Planted]:
    """The features of all sets, computed once."""
    sets: dict[str, Callable[[], Planted]] = {
        "MNIST, pixels": lambda: plant(
            digits(data / "mnist_train.npz", 10_000), pixels
        ),
        "CIFAR-10, pixels": lambda: plant(
            photographs(data / "cifar10_train.zip", 1000), pixels
        ),
        "cats and dogs": lambda: plant(
            photographs(data / "cats_dogs.zip", 400), squeezenet(data)
        ),
        "CIFAR-10": lambda: plant(
            photographs(data / "cifar10_train.zip", 100), squeezenet(data)
        ),
    }
    cache.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, make in sets.items():
        path = cache / f"{name.replace(', ', '_').replace(' ', '_')}.npz"
        if not path.exists():
            made = make()
            np.savez(path, **{k: v.numpy() for k, v in made._asdict().items()})
        with np.load(path) as file:
            found[name] = Planted(*(torch.from_numpy(file[k]) for k in Planted._fields))
    return found


def measure(planted: Planted, threshold: float | None = None) -> dict[str, Any]:
    """Recall of the copies by kind, and groups where nothing was planted.

    Args:
        planted: The features.
        threshold: Of ``near_duplicates``, without its limit by chance. None: the
            defaults.
    """
    n = len(planted.features) - len(planted.source)
    options: dict[str, float] = {}
    if threshold is not None:
        options = {"threshold": threshold, "by_chance": 1e9}
    neighbors = find_neighbors(planted.features, _K, metric="cosine")
    started = time.process_time()
    found = near_duplicates(neighbors, **options)
    seconds = time.process_time() - started
    copies, images = found.group[n:], found.group[planted.source]
    hit = (copies >= 0) & (copies == images)
    # Of all pairs within groups, those of an image and its copy.
    sizes = [len(members) for members in found.members()]
    pairs = sum(size * (size - 1) // 2 for size in sizes)
    alone = find_neighbors(planted.features[:n], _K, metric="cosine")
    others = near_duplicates(alone, **options)
    groups = others.members()
    recall = {
        name: float(hit[planted.kind == place].float().mean())
        for place, name in enumerate(KINDS)
    }
    return {
        "images": n,
        "threshold": round(found.threshold, 4),
        "recall": recall,
        "recall_of_all": float(hit.float().mean()),
        "precision_of_pairs": float(hit.sum()) / max(1, pairs),
        "false_alarms_per_1000": 1000 * len(groups) / n,
        "first_false_alarms": [members.tolist() for members in groups[:_SHOWN]],
        "cpu_seconds": round(seconds, 3),
    }


def main() -> None:
    """Runs the benchmark and writes its record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    sets = data_sets(Path(os.environ["CAPTUM_MARGIN_DATA"]), args.cache)
    chosen = {str(t): measure(sets[_CHOSEN_ON], t) for t in _THRESHOLDS}
    for threshold, row in chosen.items():
        print(threshold, row, flush=True)
    table = {}
    for name, planted in sets.items():
        table[name] = measure(planted)
        print(f"{name:20} {table[name]}", flush=True)
    record = {
        "command": "python -m "
        "tests.benchmarks.audit.near_duplicates --cache DIR/near_duplicates",
        "versions": versions(),
        "settings": {"seed": 0, "k": _K, "copies": _COPIES, "chosen_on": _CHOSEN_ON},
        "machine": machine(),
        "thresholds": chosen,
        "table": table,
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
