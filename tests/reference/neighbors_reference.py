"""Neighbours in lists, one row at a time, in double precision."""

import numpy as np


def brute_force(x, k, metric="euclidean"):
    """Neighbours by distance, then index, one row at a time; distances in float64."""
    x = np.asarray(x, np.float64)
    if metric == "cosine":
        x = np.array([row / (np.sqrt((row**2).sum()) or 1.0) for row in x])
    near, distances = [], []
    for i, row in enumerate(x):
        distance = np.sqrt(((x - row) ** 2).sum(axis=1))
        distance[i] = np.inf
        order = np.lexsort((np.arange(len(x)), distance))[:k]
        near.append(order)
        distances.append(distance[order])
    return np.array(near), np.array(distances)


def by_distance(point, others):
    """Numbers of others, nearest first, ties by number, and their distances."""
    distance = np.sqrt(((others - point) ** 2).sum(axis=1))
    order = np.lexsort((np.arange(len(others)), distance))
    return order.tolist(), distance


def in_lists(x, queries, centres, count, k, itself):
    """The k nearest rows of x in the lists that each query looks into.

    It looks into the ``count`` lists whose centres are nearest, and into 4, 16, ...
    times as many while these hold fewer than k other rows.
    """
    x, queries, centres = (np.asarray(a, np.float64) for a in (x, queries, centres))
    lists = [[] for _ in centres]
    for i, row in enumerate(x):
        lists[by_distance(row, centres)[0][0]].append(i)
    found = []
    for q, query in enumerate(queries):
        order, wide = by_distance(query, centres)[0], count
        while True:
            rows = sorted(i for c in order[:wide] for i in lists[c])
            rows = [i for i in rows if not (itself and i == q)]
            if len(rows) >= k or wide >= len(centres):
                break
            wide *= 4
        near, distance = by_distance(query, x[rows])
        found.append([(rows[j], distance[j]) for j in near[:k]])
    found = np.array(found)
    return found[..., 0].astype(int), found[..., 1]


def lists_needed(points, x, true, centres, share):
    """Nearest lists that hold this share of the true neighbours of some points."""
    ranks = []
    for point, neighbours in zip(points, true, strict=True):
        order = by_distance(point, centres)[0]
        for j in neighbours:
            ranks.append(order.index(by_distance(x[j], centres)[0][0]))
    for count in range(1, len(centres) + 1):
        if np.mean([rank < count for rank in ranks]) >= share:
            return count
    return len(centres)
