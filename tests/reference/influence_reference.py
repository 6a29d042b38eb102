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


def linear_votes(points: np.ndarray, f: np.ndarray) -> np.ndarray:
    """Every row of f by a ridge regression on all others, anew for each.

    The penalties are 4^-7, .., 4^2 times the largest eigenvalue of the scatter matrix;
    the one of the smallest error counts.
    """
    n, width = points.shape
    centred = points - points.mean(axis=0)
    largest = np.linalg.eigvalsh(centred.T @ centred).max()
    x = np.hstack([points, np.ones((n, 1))])
    best, least = f, np.inf
    for power in range(-7, 3):
        penalty = np.diag([4.0**power * largest] * width + [0.0])  # not the constant
        votes = np.zeros_like(f)
        for i in range(n):
            rest = np.arange(n) != i
            normal = x[rest].T @ x[rest] + penalty
            votes[i] = x[i] @ np.linalg.solve(normal, x[rest].T @ f[rest])
        if ((f - votes) ** 2).sum() < least:
            best, least = votes, ((f - votes) ** 2).sum()
    return best


def label_noise(
    weights: np.ndarray,
    labels: np.ndarray,
    shift: str,
    trusted: bool,
    points: np.ndarray | None = None,
) -> np.ndarray:
    """Squared length of f - V T f, with T = 1 or the trust in each label.

    V f is A f, or with points s A f + (1 - s) L f, L f being their linear votes within
    [0, 1], and s what brings V f nearest to f before there is trust.
    """
    f = np.zeros((len(labels), int(labels.max()) + 1))
    f[np.arange(len(labels)), labels] = 1
    near = shifted(weights, f, shift)
    votes, share = near, 1.0
    if points is not None:
        line = linear_votes(points, f).clip(0, 1)
        share = least_squares_share(f, near, line)
        votes = share * near + (1 - share) * line
    if trusted:
        trust = np.ones(len(labels))
        for j, label in enumerate(labels):
            trust[j] = votes[j, label] / votes[j].max()
        votes = share * shifted(weights, trust[:, None] * f, shift)
        if points is not None:
            line = linear_votes(points, trust[:, None] * f).clip(0, 1)
            votes = votes + (1 - share) * line
    return ((f - votes) ** 2).sum(axis=1)


def least_squares_share(f: np.ndarray, near: np.ndarray, line: np.ndarray) -> float:
    """The s in [0, 1] of the smallest |f - s near - (1 - s) line|²."""
    difference, target = (near - line).ravel(), (f - line).ravel()
    (share,) = np.linalg.lstsq(difference[:, None], target, rcond=None)[0]
    return float(np.clip(share, 0, 1))


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
