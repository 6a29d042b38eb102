"""The data sets of the label-noise benchmark and the labels planted in them.

Every set is features (N, F) in float32 and true labels (N,). Which samples belong to a
set is fixed: the seeds of the benchmark change the planted labels only.
"""

from __future__ import annotations

import io
import lzma
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

Data = tuple[Tensor, Tensor]

SAMPLES = 5000  # of USPS and of MNIST
NOISE = {"10% symmetric": 0.1, "40% symmetric": 0.4, "30% pairwise": 0.3}


def load(name: str, root: Path, cache: Path) -> Data:
    """A data set by its name; features of a network are read from the cache or made."""
    if name in ("usps", "mnist"):
        return digits(root, name)
    if name in ("enron", "enron-paper"):
        return enron(root, paper=name == "enron-paper")
    path = cache / f"{name}.npz"
    if not path.exists():
        features, labels = photographs(name, root)
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(path, features=features, labels=labels)
    stored = np.load(path)
    # Not class after class: folds that follow the order of the samples would then have
    # all flips from one class to another in one fold, and train the rest without them.
    order = np.random.default_rng(0).permutation(len(stored["labels"]))
    x, y = stored["features"][order], stored["labels"][order]
    return torch.from_numpy(x), torch.from_numpy(y)


def digits(root: Path, name: str) -> Data:
    """A subset of a training set: pixels in [0, 1]."""
    data = np.load(root / f"{name}_train.npz")
    x = data["images"].reshape(len(data["images"]), -1).astype(np.float32)
    x = (x - x.min()) / (x.max() - x.min())
    kept = np.random.default_rng(0).permutation(len(x))[:SAMPLES]
    return torch.from_numpy(x[kept]), torch.from_numpy(data["labels"][kept]).long()


def enron(root: Path, paper: bool) -> Data:
    """80% of Enron1, ham or spam.

    As tf-idf reduced to 128 dimensions, or as in the MARGIN paper: counts of the 500
    most frequent words reduced to 100.
    """
    from sklearn.decomposition import PCA, TruncatedSVD
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

    texts, labels = [], []
    with lzma.open(root / "enron1.tar.xz") as file, tarfile.open(fileobj=file) as tar:
        for member in tar:
            folder = Path(member.name).parent.name
            if member.isfile() and folder in ("ham", "spam"):
                stream = tar.extractfile(member)
                assert stream is not None
                texts.append(stream.read().decode("latin-1"))
                labels.append(folder == "spam")
    kept = np.random.default_rng(0).permutation(len(texts))[: int(0.8 * len(texts))]
    texts = [texts[i] for i in kept]
    if paper:
        counts = CountVectorizer(max_features=500).fit_transform(texts)
        x = PCA(100, random_state=0).fit_transform(counts.toarray().astype(float))
    else:
        tf_idf = TfidfVectorizer(min_df=3, sublinear_tf=True).fit_transform(texts)
        x = TruncatedSVD(128, random_state=0).fit_transform(tf_idf)
    y = torch.tensor(labels).long()[torch.from_numpy(kept)]
    return torch.from_numpy(x.astype(np.float32)), y


def photographs(name: str, root: Path) -> tuple[np.ndarray, np.ndarray]:
    """Penultimate features (N, 512) of SqueezeNet: the pooled output of ``features``.

    ``cats-dogs``: all 3,000, centre crop of 224 pixels. ``cifar``: 500 training images
    of each class, enlarged to 128 pixels. ``cifar-choice``: another 500 of each.
    """
    import torchvision
    from PIL import Image

    model = torchvision.models.squeezenet1_0()
    weights = root / "models" / "squeezenet1_0_imagenet.pt"
    model.load_state_dict(torch.load(weights, weights_only=True))
    model.eval()
    archive = "cats_dogs" if name == "cats-dogs" else "cifar10_train"
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    parts = []
    with zipfile.ZipFile(root / f"{archive}.zip") as file:
        names = members(file, name)
        for start in range(0, len(names), 32):
            batch = []
            for member in names[start : start + 32]:
                image: Any = Image.open(io.BytesIO(file.read(member))).convert("RGB")
                if name == "cats-dogs":
                    left, top = (image.width - 224) // 2, (image.height - 224) // 2
                    image = image.crop((left, top, left + 224, top + 224))
                else:
                    image = image.resize((128, 128), Image.Resampling.BICUBIC)
                pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
                batch.append((pixels - mean) / std)
            with torch.no_grad():
                parts.append(model.features(torch.stack(batch)).mean(dim=(2, 3)))
    _, labels = np.unique([m.split("/")[0] for m in names], return_inverse=True)
    return torch.cat(parts).numpy(), labels.astype(np.int64)


def members(file: zipfile.ZipFile, name: str) -> list[str]:
    """Names of the photographs of a set within their archive."""
    names = sorted(n for n in file.namelist() if n.endswith(".jpg"))
    if name == "cats-dogs":
        return names
    first = {"cifar": 0, "cifar-choice": 500}[name]
    by_class: dict[str, list[str]] = {}
    for member in names:
        by_class.setdefault(member.split("/")[0], []).append(member)
    return [m for group in by_class.values() for m in group[first : first + 500]]


def flipped(labels: Tensor, noise: str, seed: int) -> tuple[Tensor, np.ndarray]:
    """Labels of which a share of each class is wrong, and which are.

    Symmetric: one of the other classes, each as likely; pairwise: the next class.
    """
    rate = NOISE[noise]
    rng = np.random.default_rng(seed)
    old, classes = labels.numpy(), int(labels.max()) + 1
    new, wrong = old.copy(), np.zeros(len(old), bool)
    for c in range(classes):
        of_class = np.flatnonzero(old == c)
        bad = rng.choice(of_class, round(rate * len(of_class)), replace=False)
        step = 1 if "pairwise" in noise else rng.integers(1, classes, len(bad))
        new[bad], wrong[bad] = (old[bad] + step) % classes, True
    return torch.from_numpy(new), wrong
