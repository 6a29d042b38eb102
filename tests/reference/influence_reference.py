"""Slow, independent NumPy restatements of the dataset questions.

Nothing here imports captum_margin. Loops over samples; the formulas as they are read.
"""

from __future__ import annotations

import numpy as np


def neighbor_weights(
    x: np.ndarray, k: int, metric: str, bandwidth: float | None
) -> np.ndarray:
    """W (N, N): an edge where either is among the k nearest of the other."""
    n = len(x)
    points = x.astype(np.float64)
    if metric == "cosine":
        points = np.array([p / max(np.sqrt((p * p).sum()), 1e-300) for p in points])
    distance = np.array(
        [[np.sqrt(((a - b) ** 2).sum()) for b in points] for a in points]
    )
    joined = np.zeros((n, n), bool)
    for i in range(n):
        others = sorted((j for j in range(n) if j != i), key=lambda j: distance[i, j])
        for j in others[:k]:
            joined[i, j] = joined[j, i] = True
    if bandwidth is None:
        return joined.astype(float)
    lengths = np.sort(distance[joined & (distance > 0)])
    sigma = bandwidth * lengths[(len(lengths) - 1) // 2]  # the lower median
    return np.where(joined, np.exp(-(distance**2) / (2 * sigma**2)), 0.0)


def shifted(weights: np.ndarray, f: np.ndarray, shift: str) -> np.ndarray:
    """A f."""
    degree = weights.sum(axis=1)
    out = np.zeros_like(f, dtype=float)
    for i in range(len(f)):
        for j in range(len(f)):
            if weights[i, j]:
                scale = degree[i]
                if shift == "symmetric":
                    scale = np.sqrt(degree[i] * degree[j])
                out[i] += weights[i, j] / scale * f[j]
    return out


def unexplained(weights: np.ndarray, labels: np.ndarray, shift: str) -> np.ndarray:
    """Squared length of f - A f of the labels as one-hot rows.

    Votes A f that add up to more than one are divided by their sum.
    """
    f = np.zeros((len(labels), int(labels.max()) + 1))
    f[np.arange(len(labels)), labels] = 1
    total = shifted(weights, np.ones((len(labels), 1)), shift)
    votes = shifted(weights, f, shift) / np.maximum(total, 1)
    return ((f - votes) ** 2).sum(axis=1)


def paper(weights: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Squared f - A f of the share of neighbours with another label, symmetric A."""
    f = np.array(
        [np.mean(labels[weights[i] > 0] != labels[i]) for i in range(len(labels))]
    )
    return (f - shifted(weights, f, "symmetric")) ** 2


def less_references(
    f: np.ndarray,
    known: np.ndarray,
    k: int,
    gamma: float,
    by: tuple[np.ndarray, np.ndarray],
    classes: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """f less the mean over the k nearest references of the class of each sample.

    A reference's value is minus the log of its mean kernel to the others of its class.
    ``known`` are latents of the references, ``by`` what is near by what.
    """
    own, other = classes
    value = np.zeros(len(known))
    for r in range(len(known)):
        rest = [s for s in range(len(known)) if s != r and other[s] == other[r]]
        kernels = [np.exp(-gamma * ((known[r] - known[s]) ** 2).sum()) for s in rest]
        density = np.mean(kernels) if rest else 1.0
        value[r] = -np.log(max(density, np.finfo(float).tiny))
    result = f.astype(float).copy()
    for i in range(len(f)):
        candidates = [r for r in range(len(known)) if other[r] == own[i]]
        candidates.sort(key=lambda r: ((by[0][i] - by[1][r]) ** 2).sum())
        if candidates:
            result[i] -= np.mean([value[r] for r in candidates[:k]])
    return result
