"""Slow, independent NumPy restatements of the graph-signal core.

Nothing here imports captum_margin. The dense filter and the brute-force graph are the
definitions. The two listings restate, in our words, what the code printed in MARGIN
computes: at the end of the arXiv edition the filter alone, in the journal's (section
"Python Implementation of Margin") the filter after a smoothing. Both have p = 1 as
their default. Slips are marked SLIP.
"""

from __future__ import annotations

import numpy as np


def shift_matrix(weights: np.ndarray, shift: str) -> np.ndarray:
    """The dense shift A (N, N) of a weight matrix W whose rows are targets."""
    degree = weights.sum(axis=1)
    inverse = np.array([1 / d if d > 0 else 0.0 for d in degree])
    if shift == "random_walk":
        return np.diag(inverse) @ weights
    if shift == "symmetric":
        return np.diag(np.sqrt(inverse)) @ weights @ np.diag(np.sqrt(inverse))
    if shift == "adjacency":
        return weights
    if shift == "laplacian":
        return np.eye(len(weights)) - (np.diag(degree) - weights)
    raise KeyError(shift)


def high_pass(
    weights: np.ndarray, f: np.ndarray, shift: str, hops: int = 1
) -> np.ndarray:
    """f - A^p f with a dense matrix power."""
    power = np.linalg.matrix_power(shift_matrix(weights, shift), hops)
    return f - power @ f


def support_normalized(
    weights: np.ndarray, f: np.ndarray, shift: str, hops: int = 1
) -> np.ndarray:
    """f - (A^p f) / M, M the positive entries in each row of A^p, 1 where none."""
    power = np.linalg.matrix_power(shift_matrix(weights, shift), hops)
    count = np.array([max(int((row > 0).sum()), 1) for row in power])
    return f - ((power @ f).T / count).T


def listing_arxiv(weights: np.ndarray, f: np.ndarray, p: int = 1) -> np.ndarray:
    """The arXiv edition's listing, which filters f; influence in [0, 1], shape (N,).

    - SLIP: degrees are numbers of edges, whatever the weights, so that a weighted
      graph is not normalised.
    - SLIP: an isolated node divides by zero (here as there: do not pass one).
    - SLIP: P f is divided by the positive entries of each row although P is already
      normalised, so that almost nothing is subtracted.
    - SLIP: a function without high-pass part divides by zero at the end.
    - The absolute value, scaled to a maximum of one, stands for the squared norm.
    """
    degree = (weights > 0).sum(axis=1)
    root = np.diag(1 / np.sqrt(degree))
    power = np.linalg.matrix_power(root @ weights @ root, p)
    count = (power > 0).sum(axis=1)
    filtered = f - (power @ f) / count
    return np.abs(filtered) / np.abs(filtered).max()


def listing_journal(weights: np.ndarray, f: np.ndarray, p: int = 1) -> np.ndarray:
    """The journal's listing, which first smooths f likewise; slips as above.

    - SLIP: its power is taken element by element; here it is that of the matrix, as in
      the other listing. With p = 1 they are the same.
    - SLIP: smoothing with the divided operator also shrinks f by about the number of
      nodes within p hops, so well-connected nodes count less.
    """
    degree = (weights > 0).sum(axis=1)
    root = np.diag(1 / np.sqrt(degree))
    power = np.linalg.matrix_power(root @ weights @ root, p)
    count = (power > 0).sum(axis=1)
    smooth = (power @ f) / count
    filtered = smooth - (power @ smooth) / count
    return np.abs(filtered) / np.abs(filtered).max()


def knn_weights(
    x: np.ndarray,
    k: int,
    metric: str = "euclidean",
    weight: str = "none",
    bandwidth: float | None = None,
) -> np.ndarray:
    """Weights (N, N) of the k-nearest-neighbour graph, by full sorting of each row."""
    x = np.asarray(x, dtype=np.float64)
    if metric == "cosine":
        x = x / np.sqrt((x**2).sum(axis=1))[:, None]
    n = len(x)
    distance = np.array([[np.sqrt(((a - b) ** 2).sum()) for b in x] for a in x])
    linked = np.zeros((n, n), dtype=bool)
    for i in range(n):
        others = [j for j in range(n) if j != i]
        others.sort(key=lambda j: (distance[i, j], j))
        for j in others[:k]:
            linked[i, j] = linked[j, i] = True
    if weight == "none":
        return linked.astype(np.float64)
    if bandwidth is None:
        lengths = sorted(distance[linked & (distance > 0)])
        bandwidth = lengths[(len(lengths) - 1) // 2] if lengths else 1.0
    return np.where(linked, np.exp(-(distance**2) / (2 * bandwidth**2)), 0.0)


def label_disagreement(labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """1 - (neighbours of the same label) / (neighbours), node by node."""
    result = []
    for i in range(len(labels)):
        neighbours = [j for j in range(len(labels)) if weights[i, j] > 0]
        same = [j for j in neighbours if labels[j] == labels[i]]
        result.append(1 - len(same) / len(neighbours) if neighbours else 0.0)
    return np.array(result)
