"""Slow, independent NumPy restatements of the kernel functions on nodes.

Nothing here imports captum_margin. The MMD is taken literally, between two sets that
share most of their members, from the full kernel matrices between and within the sets:
no simplification is shared with the package.
"""

from __future__ import annotations

import numpy as np


def kernel(x: np.ndarray, y: np.ndarray, gamma: float) -> np.ndarray:
    """exp(-gamma |x - y|²) of every pair, from differences."""
    square = np.array([[((a - b) ** 2).sum() for b in y] for a in x])
    return np.exp(-gamma * square.reshape(len(x), len(y)))


def default_gamma(x: np.ndarray) -> float:
    """One over the mean squared distance of all pairs, a sample with itself too."""
    mean = np.mean([[((a - b) ** 2).sum() for b in x] for a in x])
    return 1 / mean if mean > 0 else 1.0


def mmd(x: np.ndarray, y: np.ndarray, gamma: float) -> float:
    """The biased MMD of two sets: root of mean k(x,x') - 2 k(x,y) + k(y,y')."""
    square = (
        kernel(x, x, gamma).mean()
        - 2 * kernel(x, y, gamma).mean()
        + kernel(y, y, gamma).mean()
    )
    return float(np.sqrt(max(square, 0.0)))


def leave_neighborhood_out_mmd(
    x: np.ndarray,
    neighbours: list[set[int]],
    gamma: float,
    labels: np.ndarray | None = None,
    paper: bool = False,
) -> np.ndarray:
    """MMD of the samples outside {i} and N_i, and of the same with i, node by node.

    With labels only samples of the class of i take part. ``paper``: the means of
    k(x_i, .) over the two sets with a plus sign between them.
    """
    result = []
    for i in range(len(x)):
        others = [
            j
            for j in range(len(x))
            if j != i
            and j not in neighbours[i]
            and (labels is None or labels[j] == labels[i])
        ]
        if not others:
            result.append(0.0)
            continue
        without, joined = x[others], x[[*others, i]]
        if paper:
            own = x[i : i + 1]
            value = (
                kernel(own, without, gamma).mean() + kernel(own, joined, gamma).mean()
            )
            result.append(float(value))
        else:
            result.append(mmd(without, joined, gamma))
    return np.array(result)


def whole_mmd(x: np.ndarray, neighbours: list[set[int]], gamma: float) -> np.ndarray:
    """MMD of all samples, and of those outside {i} and N_i, node by node."""
    result = []
    for i in range(len(x)):
        left = [j for j in range(len(x)) if j != i and j not in neighbours[i]]
        result.append(mmd(x, x[left], gamma) if left else 0.0)
    return np.array(result)


def kernel_density(
    x: np.ndarray,
    references: np.ndarray,
    gamma: float,
    classes: np.ndarray | None = None,
    reference_classes: np.ndarray | None = None,
) -> np.ndarray:
    """Mean kernel of each sample to the references of its class; 0 without any."""
    result = []
    for i in range(len(x)):
        mine = [
            r
            for j, r in enumerate(references)
            if classes is None or reference_classes[j] == classes[i]
        ]
        values = kernel(x[i : i + 1], np.array(mine), gamma) if mine else np.zeros(1)
        result.append(float(values.mean()))
    return np.array(result)


def cell_loss(
    x: np.ndarray,
    prototypes: list[int],
    labels: np.ndarray | None = None,
    temperature: float = 0.05,
) -> float:
    """What prototypes leave: squared distances, or smoothed relative margins.

    With labels a sample is not its own prototype, and a prototype that does not exist
    is further away than any that does: four times the radius, plus one.
    """
    far = 4 * np.sqrt(((x - x.mean(axis=0)) ** 2).sum(axis=1)).max() + 1
    total = 0.0
    for i in range(len(x)):
        distance = {p: np.sqrt(((x[i] - x[p]) ** 2).sum()) for p in prototypes}
        if labels is None:
            total += min(distance.values()) ** 2
            continue
        same = [d for p, d in distance.items() if labels[p] == labels[i] and p != i]
        other = [d for p, d in distance.items() if labels[p] != labels[i]]
        a, b = min([*same, far]), min([*other, far])
        total += 1 / (1 + np.exp(-(a - b) / (a + b) / temperature))
    return total
