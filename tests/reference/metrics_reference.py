"""Slow restatement of the image metrics in NumPy, from their definitions.

One example at a time, one image at a time, groups of equal pixels as Python lists.
Imports nothing of captum_margin. ``score`` is a function from one image (C, H, W) to
one number; ``row`` to one row of outputs.
"""

import numpy as np


def groups(attribution):
    """Lists of pixel positions of equal value, the highest value first."""
    values = attribution.sum(axis=0)
    height, width = values.shape
    by_value = {}
    for y in range(height):
        for x in range(width):
            by_value.setdefault(float(values[y, x]), []).append((y, x))
    return [by_value[value] for value in sorted(by_value, reverse=True)]


def composed(top, rest, pixels):
    """``rest`` with the given pixels of ``top``."""
    image = rest.copy()
    for y, x in pixels:
        image[:, y, x] = top[:, y, x]
    return image


def score_of_count(score, top, rest, attribution, count):
    """Score with ``count`` top pixels of ``top`` on ``rest``, ties interpolated."""
    before, pixels = 0, []
    if count == 0:
        return score(rest)
    for group in groups(attribution):
        after = before + len(group)
        if count <= after:
            at_before = score(composed(top, rest, pixels))
            at_after = score(composed(top, rest, pixels + group))
            share = (count - before) / (after - before)
            return (1 - share) * at_before + share * at_after
        before, pixels = after, pixels + group
    raise AssertionError("count above the number of pixels")


def steps(n_pixels, n_steps):
    """Whole counts nearest to equal steps, halves rounded up."""
    return [int(np.floor(n_pixels * k / n_steps + 0.5)) for k in range(n_steps + 1)]


def mean_colour(image):
    """Image of its own mean colour."""
    result = np.zeros_like(image)
    for channel in range(image.shape[0]):
        result[channel] = image[channel].sum() / image[channel].size
    return result


def blur(image, sigma=5.0, size=11):
    """Gaussian blur by a two-dimensional kernel, edges repeated."""
    half = size // 2
    kernel = np.array(
        [
            [
                np.exp(-((i - half) ** 2 + (j - half) ** 2) / (2 * sigma**2))
                for j in range(size)
            ]
            for i in range(size)
        ]
    )
    kernel /= kernel.sum()
    channels, height, width = image.shape
    result = np.zeros_like(image)
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                for i in range(size):
                    for j in range(size):
                        row = min(max(y + i - half, 0), height - 1)
                        column = min(max(x + j - half, 0), width - 1)
                        result[c, y, x] += kernel[i, j] * image[c, row, column]
    return result


def curves(score, image, attribution, n_steps, insertion_base, deletion_base):
    """Fractions, insertion, deletion, and the two areas, of one image."""
    n_pixels = image.shape[1] * image.shape[2]
    counts = steps(n_pixels, n_steps)
    fractions = [count / n_pixels for count in counts]
    insertion = [
        score_of_count(score, image, insertion_base, attribution, count)
        for count in counts
    ]
    deletion = [
        score_of_count(score, deletion_base, image, attribution, count)
        for count in counts
    ]
    areas = []
    for curve in (insertion, deletion):
        area = 0.0
        for k in range(n_steps):
            width = fractions[k + 1] - fractions[k]
            area += width * (curve[k] + curve[k + 1]) / 2
        areas.append(area)
    return fractions, insertion, deletion, areas[0], areas[1]


def soft_mask(attribution):
    """Map summed over channels, scaled to [0, 1]; constant: ones if positive."""
    values = attribution.sum(axis=0)
    if values.max() == values.min():
        return np.full(values.shape, 1.0 if values.max() > 0 else 0.0)
    return (values - values.min()) / (values.max() - values.min())


def drop_and_increase(full, kept):
    """Drop and increase of one image."""
    return max(0.0, full - kept) / full, kept > full


def keeps_decision(row, target, full_row):
    """Whether an output row decides for the target."""
    if len(row) > 1:
        return all(row[target] > row[j] for j in range(len(row)) if j != target)
    if full_row[0] > 0:
        return row[0] >= full_row[0] / 2
    return full_row[0] < 0 and row[0] <= full_row[0] / 2


def smallest_region(row, image, attribution, baseline, target, n_steps):
    """Fraction and mask of one image; NaN and an empty mask if there is none."""
    height, width = image.shape[1:]
    full_row = row(image)
    if not keeps_decision(full_row, target, full_row):
        return np.nan, np.zeros((height, width), bool)
    ordered = groups(attribution)
    ends = np.cumsum([0] + [len(group) for group in ordered])
    candidates = set()
    for count in steps(height * width, n_steps):
        candidates.add(int(max(end for end in ends if end <= count)))
        candidates.add(int(min(end for end in ends if end >= count)))
    pixels = [pixel for group in ordered for pixel in group]
    for count in sorted(candidates):
        if keeps_decision(
            row(composed(image, baseline, pixels[:count])), target, full_row
        ):
            mask = np.zeros((height, width), bool)
            for y, x in pixels[:count]:
                mask[y, x] = True
            return count / (height * width), mask
    raise AssertionError("the whole image keeps its own decision")
