"""The graphs on which the default form of ``select_nodes`` is chosen; none is reported.

Each has ``val_mask`` and ``test_mask`` at random (500 and 1,000 nodes); the rest is the
pool.
"""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage.feature import hog
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.preprocessing import normalize
from torch_geometric.data import Data

from tests.benchmarks.active_learning.data import blocks, knn_graph, split

SIZE = 2500  # nodes of a sample
# Shares of edges that stay in a community, in a class, or go anywhere.
MIXINGS = {
    "most edges within a class": (0.55, 0.25, 0.20),
    "half within": (0.30, 0.12, 0.58),
    "hardly more than by chance": (0.05, 0.05, 0.90),
}


def digits(part: int, root: Path) -> Data:
    """MNIST, pixels of half the resolution."""
    found = np.load(root / "mnist_train.npz")
    nodes = _sample(len(found["labels"]), part)
    images = found["images"][nodes].reshape(-1, 14, 2, 14, 2).mean((2, 4)) / 255
    return knn_graph(images.reshape(SIZE, -1), found["labels"][nodes], seed=part)


def photographs(part: int, root: Path) -> Data:
    """CIFAR-10, histograms of gradients in four by four cells."""
    with zipfile.ZipFile(root / "cifar10_train.zip") as archive:
        names = sorted(n for n in archive.namelist() if n.endswith(".jpg"))
        classes = sorted({Path(n).parent.name for n in names})
        chosen = [names[i] for i in _sample(len(names), part)]
        images = [
            np.asarray(Image.open(io.BytesIO(archive.read(n))).convert("L"))
            for n in chosen
        ]
    cells = {"orientations": 6, "pixels_per_cell": (8, 8), "cells_per_block": (1, 1)}
    features = np.stack([hog(image, **cells) for image in images])
    labels = np.array([classes.index(Path(n).parent.name) for n in chosen])
    return knn_graph(features, labels, seed=part)


def mails(part: int, root: Path) -> Data:
    """Enron, ham and spam: words that are there, neighbours by weighted ones."""
    with tarfile.open(root / "enron1.tar.xz") as archive:
        files = sorted(
            (m for m in archive.getmembers() if m.name.endswith(".txt")),
            key=lambda m: m.name,
        )
        chosen = {files[i].name for i in _sample(len(files), part)}
        texts = {
            m.name: archive.extractfile(m).read().decode("latin-1")
            for m in files
            if m.name in chosen
        }
    names = sorted(texts)
    words = CountVectorizer(max_features=1000, binary=True, stop_words="english")
    found = words.fit_transform([texts[n] for n in names])
    near = normalize(TfidfTransformer().fit_transform(found))
    labels = np.array(["/spam/" in n for n in names]).astype(np.int64)
    return knn_graph(found.toarray(), labels, seed=part, by=near)


def block_model(mixing: str, seed: int, root: Path) -> Data:
    """Words and edges of seven classes, see :func:`blocks`."""
    del root
    return split(blocks(seed, torch.tensor(MIXINGS[mixing])), seed)


GRAPHS: dict[str, Callable[[Path], Data]] = {
    **{f"digits, {i}": partial(digits, i) for i in (1, 2)},
    **{f"photographs, {i}": partial(photographs, i) for i in (1, 2)},
    **{f"mails, {i}": partial(mails, i) for i in (1, 2)},
    **{
        f"{mixing}, {i}": partial(block_model, mixing, 10 * k + i)
        for k, mixing in enumerate(MIXINGS, 1)
        for i in (1, 2)
    },
}


def _sample(count: int, part: int) -> np.ndarray:
    """The first or the second sample of one random order; they share nothing."""
    order = np.random.default_rng(0).permutation(count)
    return order[(part - 1) * SIZE : part * SIZE]
