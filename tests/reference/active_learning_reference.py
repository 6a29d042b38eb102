"""Choosing nodes to label, restated densely and slowly in NumPy."""

from __future__ import annotations

import numpy as np


def norms(x):
    """Length of each row."""
    return np.array([np.sqrt(sum(value**2 for value in row)) for row in x])


def unit(x):
    """Rows of norm one; zeros stay."""
    return np.array([row / np.linalg.norm(row) if row.any() else row for row in x])


def propagated(x, adjacency, steps):
    """Unit rows, averaged over each node and its neighbours, so many times."""
    weights = adjacency + np.eye(len(x))
    mean = np.diag(1 / weights.sum(axis=1)) @ weights
    return np.linalg.matrix_power(mean, steps) @ unit(x)


def centred(z):
    """Seen from the mean of all rows."""
    return np.array([row - sum(z) / len(z) for row in z])


def similarity(points):
    """The cosine of every pair, 0 where it is negative, by the definition."""
    n = len(points)
    s = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            lengths = np.linalg.norm(points[i]) * np.linalg.norm(points[j])
            if lengths > 0:
                s[i, j] = max(0.0, points[i] @ points[j] / lengths)
    return s


def coverage(s, weight, picks):
    """F(S): how alike the most alike pick is, summed over what is weighted."""
    return sum(w * max(s[i, j] for i in picks) for j, w in enumerate(weight) if w)


def greedy(s, weight, n, candidates, chosen=(), groups=None):
    """The definition of greedy: F from scratch for every candidate at every step."""
    picks, left = [], [i for i in candidates if i not in set(chosen)]
    groups = {i: 0 for i in left} if groups is None else groups
    taken = {groups[i]: 0 for i in left}
    while True:
        left = [i for i in left if i not in picks and taken[groups[i]] < n]
        if not left:
            return picks
        values = [coverage(s, weight, [*chosen, *picks, i]) for i in left]
        picks.append(left[int(np.argmax(values))])
        taken[groups[picks[-1]]] += 1


def highest_energy(norms, adjacency, candidates):
    """The paper: squared high-pass part of the norm under the symmetric shift."""
    degree = adjacency.sum(axis=1)
    scale = np.array([d**-0.5 if d > 0 else 0.0 for d in degree])
    energy = (norms - scale * (adjacency @ (scale * norms))) ** 2
    return sorted(candidates, key=lambda i: (-energy[i], i)), energy
