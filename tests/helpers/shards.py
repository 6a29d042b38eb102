"""Small stores, and ways to interrupt what writes them."""

import hashlib
from pathlib import Path

import numpy as np
import torch

from captum_margin.scale import RowShards, _folder


def clusters(n=400, width=6, classes=3, seed=0):
    """Points around a few centres, and labels that mostly follow them."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (n,), generator=generator)
    centres = torch.randn(classes, width, generator=generator)
    x = centres[y] + 0.7 * torch.randn(n, width, generator=generator)
    flip = torch.rand(n, generator=generator) < 0.15
    return x, torch.where(flip, (y + 1) % classes, y)


def random_rows(n, k, seed, missing=0.0):
    """Distinct neighbours of each node, other than itself, and distances (n, k)."""
    rng = np.random.default_rng(seed)
    indices = np.stack(
        [rng.permutation(np.delete(np.arange(n), i))[:k] for i in range(n)]
    )
    values = rng.random((n, k)).astype(np.float32)
    indices[rng.random((n, k)) < missing] = -1
    return indices, values


def stored(path, n=50, k=4, seed=0, block_size=7, missing=0.0, **options):
    """A finished store of random neighbours."""
    indices, values = random_rows(n, k, seed, missing)
    return RowShards.from_arrays(
        path, indices, values, block_size=block_size, **options
    )


def contents(path):
    """Checksums of all arrays in a folder, by name."""
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(Path(path).rglob("*.npy"))
    }


class Crash(BaseException):
    """Stands for the death of the process: nothing may catch it."""


def crash_at(monkeypatch, count):
    """The process dies while it writes its count-th file, which is left half done."""
    replace, left = _folder.os.replace, [count]

    def dying(source, target):
        left[0] -= 1
        if left[0] == 0:
            raise Crash
        replace(source, target)

    monkeypatch.setattr(_folder.os, "replace", dying)
