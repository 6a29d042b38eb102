"""Losses, clustering and search of coalition perturbation, slow and plain, in NumPy."""

import numpy as np

ROUNDING = 1e-4  # a rise of the score by less still has a gradient


def extent(p):
    """Minus the mean of p (C, H, W)."""
    return -sum(float(value) for value in p.ravel()) / p.size


def margin(scores, target):
    """How far other classes are above the target: a mean over all classes."""
    above = [max(0.0, score - scores[target]) for score in scores]
    return sum(above) / len(above)


def drop(score, reference, scale=1.0):
    return max(0.0, (reference - score) / scale)


def log_softmax(scores):
    shifted = np.asarray(scores) - max(scores)
    return shifted - np.log(np.exp(shifted).sum())


def gaussian(sigma=1.0):
    """A square Gaussian that ends at 3 sigma and sums to 1."""
    radius = round(3 * sigma)
    side = range(-radius, radius + 1)
    kernel = {
        (dy, dx): np.exp(-(dy * dy + dx * dx) / (2 * sigma**2))
        for dy in side
        for dx in side
    }
    total = sum(kernel.values())
    return {offset: value / total for offset, value in kernel.items()}


def smoothed(plane, sigma=1.0):
    """A plane (H, W) convolved with the Gaussian, zero outside."""
    out = np.zeros_like(plane, dtype=float)
    height, width = plane.shape
    for (dy, dx), weight in gaussian(sigma).items():
        for y in range(height):
            for x in range(width):
                if 0 <= y + dy < height and 0 <= x + dx < width:
                    out[y, x] += weight * plane[y + dy, x + dx]
    return out


def coalition(p, coalitions, sigma=1.0):
    """Minus the sum over coalitions (H, W) of their mean blurred perturbation."""
    total = 0.0
    for number in np.unique(coalitions):
        inside = coalitions == number
        sums = [smoothed(plane * inside, sigma).sum() for plane in p]
        total += np.mean(sums) / inside.sum()
    return -total


def evenness(p, coalitions, sigma=1.0):
    """Squared differences of p (C, H, W) between the pixels of each coalition (H, W).

    By the Gaussian of how far they are apart, every pair once; the mean over the
    channels, per pixel of the coalition, summed over coalitions.
    """
    weights, total = gaussian(sigma), 0.0
    for number in np.unique(coalitions):
        pixels = [tuple(place) for place in np.argwhere(coalitions == number).tolist()]
        for i, (y, x) in enumerate(pixels):
            for other_y, other_x in pixels[:i]:
                weight = weights.get((y - other_y, x - other_x), 0.0)
                apart = p[:, y, x] - p[:, other_y, other_x]
                total += weight * np.mean(apart**2) / len(pixels)
    return total


def similarity(responses):
    """Mean cross entropy of rows (N, L) with their own largest."""
    return -np.mean([log_softmax(row)[row.argmax()] for row in responses])


def continuity(responses):
    """Mean absolute differences of (H, W, L) down, and across, summed."""
    height, width, channels = responses.shape
    down = [
        abs(responses[y + 1, x, c] - responses[y, x, c])
        for y in range(height - 1)
        for x in range(width)
        for c in range(channels)
    ]
    across = [
        abs(responses[y, x + 1, c] - responses[y, x, c])
        for y in range(height)
        for x in range(width - 1)
        for c in range(channels)
    ]
    return sum(np.mean(part) for part in (down, across) if part)


def gradient(function, point, step=1e-6):
    """Central differences."""
    slope = np.zeros_like(point)
    for index in np.ndindex(point.shape):
        high, low = point.copy(), point.copy()
        high[index] += step
        low[index] -= step
        slope[index] = (function(high) - function(low)) / (2 * step)
    return slope


def responses(features, weight):
    """Features (N, d) mapped and normalised over the pixels, (N, L)."""
    mapped = features @ weight
    spread = np.sqrt(((mapped - mapped.mean(0)) ** 2).mean(0) + 1e-5)
    return (mapped - mapped.mean(0)) / spread


def learnt_responses(features, size, start, steps, weight_of_continuity, k, least):
    """Responses after steps of gradient descent with momentum 0.9 at rate 0.1.

    They end at k clusters or fewer; ``least``: at k, or before there are fewer.
    """
    features = features / features.std(ddof=1)
    weight, moment = start.copy(), np.zeros_like(start)

    def loss(weight):
        of_pixels = responses(features, weight)
        picture = of_pixels.reshape(*size, -1)
        return similarity(of_pixels) + weight_of_continuity * continuity(picture)

    def n_clusters(weight):
        return len(set(responses(features, weight).argmax(1).tolist()))

    for _ in range(steps):
        if n_clusters(weight) <= k:
            break
        moment = 0.9 * moment + gradient(loss, weight)
        if least and n_clusters(weight - 0.1 * moment) < k:
            break
        weight = weight - 0.1 * moment
    return responses(features, weight)


def bilinear(small, large):
    """Matrix (large, small) of linear interpolation between centres of cells."""
    matrix = np.zeros((large, small))
    for row in range(large):
        place = min(max((row + 0.5) * small / large - 0.5, 0), small - 1)
        left = min(int(place), small - 1)
        right = min(left + 1, small - 1)
        matrix[row, left] += 1 - (place - left)
        matrix[row, right] += place - left
    return matrix


def edge_smoothing(size, sigma):
    """Matrix (size, size) of a Gaussian cut at 3 sigma; edges go on outside."""
    matrix = np.zeros((size, size))
    radius = max(1, round(3 * sigma)) if sigma > 0 else 0
    weights = [np.exp(-0.5 * (d / max(sigma, 1e-9)) ** 2) for d in range(radius + 1)]
    total = 2 * sum(weights) - 1
    for row in range(size):
        for d in range(-radius, radius + 1):
            matrix[row, min(max(row + d, 0), size - 1)] += weights[abs(d)] / total
    return matrix


class Adam:
    """The published rule, for one array."""

    def __init__(self, rate):
        self.rate, self.time, self.mean, self.square = rate, 0, 0.0, 0.0

    def step(self, value, slope):
        self.time += 1
        self.mean = 0.9 * self.mean + 0.1 * slope
        self.square = 0.999 * self.square + 0.001 * slope**2
        mean = self.mean / (1 - 0.9**self.time)
        square = self.square / (1 - 0.999**self.time)
        return value - self.rate * mean / (np.sqrt(square) + 1e-8)


def search(scores, image, baseline, target, coalitions, noises, options):
    """The search for one image (C, H, W); ``scores`` are logits of a classifier.

    Args:
        scores: From an image to a vector of logits.
        noises: Of every step: arrays (C, H, W) of unit variance.
        options: learning_rate, mask_size, smoothing, noise, weights, confidence,
            consistency, consistency_sigma, move_coalitions, deletion; and decay, of the
            average.

    Returns:
        The averaged perturbation, the evidence, and the three losses of each step.
    """
    _, height, width = image.shape
    side, move = options["mask_size"], options["move_coalitions"]
    amplitude = options["noise"] * image.std()
    reference = log_softmax(scores(image))[target]
    inside = [coalitions == i for i in range(coalitions.max() + 1)]
    sigma = options["smoothing"] * min(height, width)
    rows, columns = edge_smoothing(height, sigma), edge_smoothing(width, sigma)
    if side is None:
        grid = np.zeros_like(image)
    else:
        down = bilinear(min(side, height), height)
        across = bilinear(min(side, width), width)
        grid = np.zeros((down.shape[1], across.shape[1]))
    offsets = np.zeros(len(inside))
    of_grid, of_offsets = Adam(options["learning_rate"]), Adam(options["learning_rate"])

    def confidence(p, noise, kink=True):
        score = scores(image + p * (baseline - image + amplitude * noise))
        if options["confidence"] == "margin":
            return margin(score, target)
        value = log_softmax(score)[target]
        return drop(value, reference) if kink else reference - value

    def slope_of_confidence(p, noise):
        smooth = options["confidence"] == "drop"
        if smooth and confidence(p, noise, kink=False) < -ROUNDING:
            return np.zeros_like(p)
        return gradient(lambda q: confidence(q, noise, kink=not smooth), p)

    def mean_slope(p, of_step, channels):
        slope = np.mean([slope_of_confidence(p, n) for n in of_step], axis=0)
        return slope.sum(axis=0, keepdims=True) if channels == 1 else slope

    def consistency(p):
        loss = {"mean": coalition, "evenness": evenness}[options["consistency"]]
        return loss(p, coalitions, options["consistency_sigma"])

    average, losses, decay = 0.0, [], options["decay"]
    resisted, missed = 0.0, 0.0
    for number, of_step in enumerate(noises, 1):
        p = grid if side is None else (down @ grid @ across.T)[None]
        if move:
            p = p + sum(o * m for o, m in zip(offsets, inside, strict=True))
        p = (rows @ p @ columns.T).clip(0, 1)
        full = np.broadcast_to(p, image.shape)
        terms = [
            extent(p),
            np.mean([confidence(full, noise) for noise in of_step]),
            consistency(p),
        ]
        losses.append(terms)
        average = decay * average + (1 - decay) * p
        slope = mean_slope(full, of_step, len(p))
        resisted = resisted + slope
        if options["deletion"] and number in range(5, 1000, 5):
            missed = missed + mean_slope(1 - full, of_step, len(p))
        weights = options["weights"]
        total = weights[1] * slope
        total = total + weights[0] * gradient(extent, p)
        total = total + weights[2] * gradient(consistency, p)
        total = rows.T @ total @ columns
        grid = of_grid.step(
            grid, total if side is None else down.T @ total[0] @ across
        ).clip(-1.0 if move else 0.0, 1)
        if move:
            pulls = np.array([(total * m).sum() for m in inside])
            offsets = of_offsets.step(offsets, pulls).clip(0, 1)
    # Means over the cells of the grid, by how much of each pixel is theirs.
    enlarge = np.eye(height) if side is None else down
    enlarge = rows @ enlarge, columns @ (np.eye(width) if side is None else across)
    found = 0.0
    for slopes in (resisted, missed) if options["deletion"] else (resisted,):
        of_planes = np.stack([evidence(plane, *enlarge) for plane in slopes])
        found = found + of_planes / (of_planes.max() or 1.0)
    found = found / (found.max() or 1.0)
    return average / (1 - decay ** len(noises)), found, np.array(losses)


def evidence(slope, down, across):
    """A slope (H, W) as means over cells, spread over the pixels again; 0 where < 0.

    ``down`` (H, s) and ``across`` (W, s) are what a cell's value adds to each pixel.
    """
    shares = np.einsum("ya,xb->abyx", down, across)
    sums, sizes = (shares * slope).sum((2, 3)), shares.sum((2, 3))
    return np.einsum("abyx,ab->yx", shares, sums / sizes).clip(0)


def attribution(p, found, eta):
    """The map of a perturbation and the evidence, arrays of one shape."""
    maps = np.zeros_like(p)
    for index in np.ndindex(p.shape):
        kept = min(max(1 - p[index], 0.0), 1.0)
        maps[index] = kept ** (1 - eta) * ((0.2 + found[index]) / 1.2) ** eta
    return maps


def principal_features(maps, directions=16):
    """Maps (K, h, w) as centred rows (h w, d) along their main directions.

    The mean square length of the rows was 1 before directions were left out.
    """
    rows = maps.reshape(len(maps), -1).T
    rows = rows - rows.mean(0)
    if abs(rows).max() <= 1e-9 * abs(maps).max():
        return np.zeros((len(rows), 1))
    rows = rows / np.sqrt((rows**2).sum(1).mean())
    left, values, _ = np.linalg.svd(rows, full_matrices=False)
    return left[:, :directions] * values[:directions]
