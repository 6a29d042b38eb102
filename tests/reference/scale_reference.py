"""The union of directed neighbours, with dictionaries."""

import numpy as np


def union(indices, values, larger=False):
    """Value of every undirected edge (i, j), in both directions."""
    edges = {}
    for i, row in enumerate(indices.tolist()):
        for j, value in zip(row, values[i].tolist(), strict=True):
            if j < 0 or j == i:
                continue
            for pair in ((i, j), (j, i)):
                old = edges.get(pair, value)
                edges[pair] = max(old, value) if larger else min(old, value)
    return edges


def neighbors(x, k):
    """The k nearest rows of each row, ties by number, and distances."""
    x = np.asarray(x, dtype=np.float64)
    indices, distances = [], []
    for i in range(len(x)):
        apart = np.sqrt(((x - x[i]) ** 2).sum(axis=1))
        apart[i] = np.inf
        nearest = np.argsort(apart, kind="stable")[:k]
        indices.append(nearest)
        distances.append(apart[nearest])
    return np.array(indices), np.array(distances)
