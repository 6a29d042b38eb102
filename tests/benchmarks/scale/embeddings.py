"""Features like embeddings, with planted wrong labels, made block by block on disk.

1,000 Gaussian clusters, sizes like 1 / sqrt(rank), each flat (16 directions and a
little noise), around the centres of 10 classes. 10% of the labels are another class.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

CLUSTERS, CLASSES, RANK, SHAPES = 1000, 10, 16, 32
BLOCK = 2**16


def make(folder: Path, n: int, width: int = 64, seed: int = 0) -> None:
    """Writes features.npy (n, width) float32, labels.npy and wrong.npy (n,)."""
    done = folder / "done"
    if done.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, CLASSES, CLUSTERS)
    centres = 0.5 * rng.standard_normal((CLASSES, width))[classes]
    centres += 0.8 * rng.standard_normal((CLUSTERS, width))
    chance = (1 / np.sqrt(1 + np.arange(CLUSTERS))).cumsum()
    shape = rng.integers(0, SHAPES, CLUSTERS)
    bases = rng.standard_normal((SHAPES, RANK, width)).astype("f4") / RANK**0.5
    scale = (0.5 + rng.random(CLUSTERS)).astype("f4")
    centres = centres.astype("f4")
    features = np.lib.format.open_memmap(
        folder / "features.npy", "w+", dtype="f4", shape=(n, width)
    )
    labels, wrong = np.empty(n, np.int64), np.empty(n, bool)
    for b, start in enumerate(range(0, n, BLOCK)):
        rng = np.random.default_rng([seed, b])  # blocks do not depend on each other
        m = min(BLOCK, n - start)
        which = np.searchsorted(chance, rng.random(m) * chance[-1])
        inner = rng.standard_normal((m, RANK), dtype="f4") * scale[which, None]
        block = 0.15 * rng.standard_normal((m, width), dtype="f4") + centres[which]
        for s in range(SHAPES):
            rows = shape[which] == s
            block[rows] += inner[rows] @ bases[s]
        features[start : start + m] = block
        flip = rng.random(m) < 0.1
        other = rng.integers(1, CLASSES, m)
        labels[start : start + m] = (classes[which] + flip * other) % CLASSES
        wrong[start : start + m] = flip
    features.flush()
    np.save(folder / "labels.npy", labels)
    np.save(folder / "wrong.npy", wrong)
    done.touch()
