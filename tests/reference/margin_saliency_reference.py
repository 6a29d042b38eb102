"""Slow restatement of MarginSaliency in NumPy, from its definitions.

Dense graphs, one example, one union, one pixel at a time. Imports nothing of
captum_margin. ``score`` is a function from one example to one number.
"""

import itertools
import math

import numpy as np

from tests.reference.margin_listings import high_pass, knn_weights


def banzhaf(value, n_units):
    """Mean gain of each unit over all unions of the others; value of a 0/1 vector."""
    values = np.zeros(n_units)
    for unit in range(n_units):
        gains = []
        for code in range(2**n_units):
            union = np.array([(code >> bit) & 1 for bit in range(n_units)], float)
            if union[unit] == 0:
                with_unit = union.copy()
                with_unit[unit] = 1
                gains.append(value(with_unit) - value(union))
        values[unit] = np.mean(gains)
    return values


def cross_energy(scores, presence, sizes, kinds, n_neighbors=None):
    """Evidence (U,) of every part from N unions, with a dense graph."""
    scores, presence = np.asarray(scores, float), np.asarray(presence, float)
    n_unions, n_units = presence.shape
    deviation, centred = scores.copy(), presence.copy()
    for kind in set(kinds.tolist()):
        alike = [i for i in range(n_unions) if kinds[i] == kind]
        deviation[alike] -= scores[alike].mean()
        centred[alike] -= presence[alike].mean(axis=0)
    variance = (centred**2).mean()
    covariance = np.array(
        [(deviation * centred[:, u]).mean() / variance for u in range(n_units)]
    )
    if n_neighbors is None or n_neighbors >= n_unions - 1:
        return covariance
    weights = knn_weights(np.asarray(sizes)[:, None], n_neighbors)
    filtered = high_pass(weights, scores, "random_walk")
    filtered_presence = high_pass(weights, presence, "random_walk")
    energy = np.mean([(filtered_presence[:, u] ** 2).sum() for u in range(n_units)])
    evidence = np.array(
        [(filtered * filtered_presence[:, u]).sum() / energy for u in range(n_units)]
    )
    return evidence + (covariance.mean() - evidence.mean())


def between(values, y, x):
    """The bilinear surface through a grid of values at one place, flat outside."""
    y = min(max(y, 0.0), values.shape[0] - 1.0)
    x = min(max(x, 0.0), values.shape[1] - 1.0)
    top, left = int(np.floor(y)), int(np.floor(x))
    bottom, right = min(top + 1, len(values) - 1), min(left + 1, values.shape[1] - 1)
    down, along = y - top, x - left
    upper = (1 - along) * values[top, left] + along * values[top, right]
    lower = (1 - along) * values[bottom, left] + along * values[bottom, right]
    return (1 - down) * upper + down * lower


def shifted_grid(values, shift, size, cell, samples):
    """A shifted grid of values at the centres of (h, w) patches of an H x W image."""
    field = np.zeros(samples)
    for i in range(samples[0]):
        for j in range(samples[1]):
            y = (i + 0.5) * size[0] / samples[0]  # pixels
            x = (j + 0.5) * size[1] / samples[1]
            # The first grid point lies half a cell inside, less its shift.
            field[i, j] = between(
                values, y / cell - 0.5 + shift[0], x / cell - 0.5 + shift[1]
            )
    return field


def enlarged(coarse, size):
    """A field on patches at the pixels' centres."""
    pixels = np.zeros(size)
    for i in range(size[0]):
        for j in range(size[1]):
            y = (i + 0.5) * coarse.shape[0] / size[0] - 0.5
            x = (j + 0.5) * coarse.shape[1] / size[1] - 0.5
            pixels[i, j] = between(coarse, y, x)
    return pixels


def blurred(coarse, sigma):
    """A field under a Gaussian cut at four sigma, the edges repeated outwards."""
    radius = int(4 * sigma + 0.5)
    kernel = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    kernel = np.outer(kernel, kernel) / kernel.sum() ** 2
    padded = np.pad(coarse, radius, mode="edge")
    out = np.zeros(coarse.shape)
    for i in range(coarse.shape[0]):
        for j in range(coarse.shape[1]):
            window = padded[i : i + 2 * radius + 1, j : j + 2 * radius + 1]
            out[i, j] = (kernel * window).sum()
    return out


def focused_presence(field, focus, n_kept, strength, softness):
    """A union around a map (P,): where map and random field (P,) are highest."""
    height = field / field.std(ddof=1)
    height = height + strength * (focus - focus.mean()) / focus.std(ddof=1)
    in_order = sorted(height)
    border = in_order[len(focus) - n_kept]
    return 1 / (1 + np.exp(-(height - border) / softness))


def trust(own, scores, trusted):
    """How far a map of unions with these scores (N,) is one of the image, 0 to 1."""
    place = (own - min(scores)) / (max(scores) - min(scores))
    if place <= 0:
        return 0.0
    return 1.0 if place >= trusted else place / trusted


def masked(example, baseline, mask):
    """What a union shows: the example where the mask is one."""
    return mask * example + (1 - mask) * baseline


def regions_map(
    score, image, baseline, partitions, signed=True, sided="below", k=10, paper=False
):
    """MARGIN over single regions of S partitions (S, H, W): the map (H, W)."""
    shift = "random_walk"
    if paper:
        signed, sided, k, shift = False, "both", 30, "symmetric"
    nodes = [(scale, r) for scale, p in enumerate(partitions) for r in np.unique(p)]
    saliency, sizes = np.zeros(len(nodes)), np.zeros(len(nodes))
    for i, (scale, region) in enumerate(nodes):
        outside = (partitions[scale] != region).astype(float)
        saliency[i] = score(image) - score(masked(image, baseline, outside))
        sizes[i] = (partitions[scale] == region).sum()
    if not signed:
        saliency = np.abs(saliency)
    weights = knn_weights(saliency[:, None], k)
    filtered = high_pass(weights, sizes / sizes.max(), shift)
    influence = filtered**2
    if sided == "below":
        influence[filtered > 0] = 0
    elif sided == "above":
        influence[filtered < 0] = 0
    heat = np.zeros(partitions[0].shape)
    for y in range(heat.shape[0]):
        for x in range(heat.shape[1]):
            holds = [i for i, (s, r) in enumerate(nodes) if partitions[s][y, x] == r]
            share = np.array([1 / sizes[i] for i in holds])
            share = share / share.sum()
            heat[y, x] = (share @ saliency[holds]) * (share @ influence[holds])
    return heat


def kernel_of_axis(n_patches, deviation, smallest_share):
    """A Gaussian kernel along an axis, of its larger eigenvalues only."""
    places = np.arange(n_patches)
    kernel = np.exp(-((places[:, None] - places) ** 2) / (2 * deviation**2))
    values, vectors = np.linalg.eigh(kernel)
    total = np.zeros_like(kernel)
    for value, vector in zip(values, vectors.T, strict=True):
        if value > smallest_share * values.max():
            total += value * np.outer(vector, vector)
    return total


def drift(signals, inverse, s):
    """Slopes (K,) of s on K signals (N, K): generalised least squares, none below 0.

    Of all choices of signals whose slopes are above 0 the one that leaves the least.
    """
    count = signals.shape[1]
    best, least = np.zeros(count), s @ inverse @ s
    for chosen in itertools.product([False, True], repeat=count):
        of = signals[:, np.array(chosen, bool)]
        if not of.size:
            continue
        slopes = np.linalg.solve(of.T @ inverse @ of, of.T @ inverse @ s)
        left = s - of @ slopes
        if (slopes > 0).all() and left @ inverse @ left < least:
            least = left @ inverse @ left
            best = np.zeros(count)
            best[np.array(chosen, bool)] = slopes
    return best


def joint_evidence(
    rounds, kernel, patches_a_cell, noises, ratios, priors=None, share=10
):
    """The map (P,) that explains the scores of all rounds, its standard errors, and how
    many times as noisy as unions of kind 0 those of kind 1 are.

    A Gaussian process. ``rounds`` are (scores, presence, sizes, kinds): only unions of
    a kind are compared. ``kernel`` (P, P) is the covariance of the map before there
    are scores, and priors (K, P) give its mean, each but for a factor of its own, 0 at
    least.
    """
    alike, second = [], []
    for scores, presence, sizes, kinds in rounds:
        for kind in np.unique(kinds):
            of = kinds == kind
            if of.sum() == 1:
                continue  # nothing to be compared with
            n_neighbors = max(1, min(len(kinds) // share, of.sum() - 1))
            alike.append((scores[of], presence[of], sizes[of], n_neighbors))
            second.append(np.full(of.sum(), kind == 1))
    second = np.concatenate(second)
    if not second.any():
        ratios = (1.0,)
    filtered, filtered_presence = [], []
    for scores, presence, sizes, n_neighbors in alike:
        weights = knn_weights(np.asarray(sizes)[:, None], n_neighbors)
        filtered.append(high_pass(weights, scores, "random_walk"))
        filtered_presence.append(high_pass(weights, presence, "random_walk"))
    s, z = np.concatenate(filtered), np.concatenate(filtered_presence)
    n = len(s)
    covariance = kernel * n / np.trace(z @ kernel @ z.T)
    means = np.zeros((0, len(kernel)))
    if priors is not None:
        # What of them the kernel's fields can show.
        values, vectors = np.linalg.eigh(kernel)
        shown = vectors[:, values > 1e-9 * values.max()]
        means = (priors - priors.mean(axis=1, keepdims=True)) @ shown @ shown.T
    maps, likelihoods, variances = [], [], []
    for ratio, noise in itertools.product(ratios, noises):
        total = z @ covariance @ z.T + noise * np.diag(np.where(second, ratio, 1.0))
        inverse = np.linalg.inv(total)
        mean = drift(z @ means.T, inverse, s) @ means
        left = s - z @ mean
        # Gaussian, with the variance that makes the scores most likely.
        variance = left @ inverse @ left / n
        log_determinant = np.linalg.slogdet(total)[1]
        likelihoods.append(-(n * np.log(variance) + log_determinant) / 2)
        maps.append(mean + covariance @ z.T @ inverse @ left)
        known = covariance @ z.T @ inverse @ z @ covariance
        variances.append(variance * np.diag(covariance - known))
    odds = np.exp(np.array(likelihoods) - max(likelihoods))
    odds = odds / odds.sum()
    phi = odds @ np.array(maps)
    # The common part: the slope, over sizes, of what phi leaves of the scores.
    along, energy = 0.0, 0.0
    for scores, presence, sizes, _ in alike:
        left = scores - presence @ phi
        away = sizes - sizes.mean()
        along += (away * (left - left.mean())).sum()
        energy += (away**2).sum()
    error = np.sqrt(odds @ np.array(variances))
    found = (phi + along / energy) * patches_a_cell
    ratio = odds @ np.repeat(ratios, len(noises))
    return found, error * patches_a_cell, ratio


def noise_level(evidence, error, rate):
    """What evidence (P,) whose standard error is ``error`` must exceed to stand out.

    The lowest of its values such that noise would put no more than ``rate`` of as many
    patches there or higher, half of the highest where there is none, and one error at
    least. Half of the patches that hold noise are below zero.
    """
    enough = []
    noisy = min(len(evidence), 2 * sum(value < 0 for value in evidence))
    for level in evidence:
        by_chance = noisy * math.erfc(level / error / math.sqrt(2)) / 2
        if by_chance <= rate * sum(other >= level for other in evidence):
            enough.append(level)
    return max(error, min(enough) if enough else max(evidence) / 2)


def without_noise(evidence, above, below, not_sure):
    """Evidence, shrunk to a little where it does not exceed the level of its side."""
    found = np.zeros(evidence.shape)
    for place, value in np.ndenumerate(evidence):
        shrunk = 0.0
        if value > above:
            shrunk = value * (1 - above**2 / value**2)
        elif value < -below:
            shrunk = value * (1 - below**2 / value**2)
        found[place] = shrunk + not_sure * (value - above)
    return found
