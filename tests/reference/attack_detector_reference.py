"""The attack detector sample by sample, in NumPy, float64: slow and plain."""

from __future__ import annotations

import numpy as np


def whitening(z, y):
    """Inverse square root of the covariance within classes, lifted by a tenth."""
    rest = z.copy()
    for c in set(y.tolist()):
        rest[y == c] -= z[y == c].mean(0)
    covariance = rest.T @ rest / len(z)
    value, vector = np.linalg.eigh(covariance)
    return vector / np.sqrt(value + 0.1 * value.mean())


def functions(x, c, z, y, k, skip=None):
    """Log mean distance to class c and to the others; the k nearest of class c."""
    distance = np.sqrt(((z - x) ** 2).sum(1))
    own = [r for r in np.argsort(distance) if y[r] == c and r != skip][:k]
    other = [r for r in np.argsort(distance) if y[r] != c and r != skip][:k]
    return np.log([distance[own].mean(), distance[other].mean()]), own


def log_gap(outputs):
    """Of the two largest scores of the network."""
    largest = np.sort(outputs, 1)
    return np.log(largest[:, -1] - largest[:, -2])


def scores(layers, outputs, new, new_outputs, k):
    """Scores of new samples, and of the references.

    Args:
        layers: Latents of references by layer, (M, F) each, all classified rightly.
        outputs: What the network says of them, (M, C).
        new: Latents of new samples by layer, (N, F) each.
        new_outputs: What the network says of these, (N, C).
        k: Neighbours.
    """
    y, predicted = outputs.argmax(1), new_outputs.argmax(1)
    usual, found, ratios, new_ratios = [], [], 0.0, 0.0
    for z, x in zip(layers, new, strict=True):
        w = whitening(z, y)
        z, x = z @ w, x @ w
        at = [functions(z[i], y[i], z, y, k, skip=i) for i in range(len(z))]
        value = np.stack([f for f, _ in at])
        usual.append(np.stack([f - value[own].mean(0) for f, own in at]))
        rows = [functions(a, c, z, y, k) for a, c in zip(x, predicted, strict=True)]
        found.append(np.stack([f - value[own].mean(0) for f, own in rows]))
        ratio = value[:, 0] - value[:, 1]
        other = np.array([f[0] - f[1] for f, _ in rows])
        ratios = ratios + (ratio - ratio.mean()) / ratio.std()
        new_ratios = new_ratios + (other - ratio.mean()) / ratio.std()
    usual, found = np.concatenate(usual, 1), np.concatenate(found, 1)
    precision = np.linalg.inv(np.cov(usual.T, bias=True))
    mean, gap = usual.mean(0), log_gap(outputs)
    result = []
    for s, ratio, own in (
        (found, new_ratios, log_gap(new_outputs)),
        (usual, ratios, gap),
    ):
        energy = np.einsum("ni,ij,nj->n", s - mean, precision, s - mean)
        near = (gap.mean() - own) / gap.std()
        result.append(energy / s.shape[1] / 2 + ratio / ratios.std() + near)
    return tuple(result)
