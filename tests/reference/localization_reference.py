"""Slow restatement of the localisation metrics, from their definitions.

One example, one pixel at a time; choices among equal pixels are all written out.
Imports nothing of captum_margin.
"""

import itertools
import math


def energy(values, mask):
    """Share of the positive part inside; 0 where there is none."""
    inside = total = 0.0
    for row, of_mask in zip(values, mask, strict=True):
        for value, is_inside in zip(row, of_mask, strict=True):
            if value > 0:
                total += value
                inside += value * bool(is_inside)
    return inside / total if total else 0.0


def pointing(values, mask, tolerance=0.0):
    """Mean over the highest pixels of whether one of the mask is near."""
    places = [(y, x) for y in range(len(mask)) for x in range(len(mask[0]))]
    highest = max(values[y][x] for y, x in places)
    inside = [(y, x) for y, x in places if mask[y][x]]
    hits = [
        any(math.hypot(y - v, x - u) <= tolerance for v, u in inside)
        for y, x in places
        if values[y][x] == highest
    ]
    return sum(hits) / len(hits)


def iou(values, mask):
    """Mean over all choices of the mask's number of highest pixels."""
    places = [(y, x) for y in range(len(mask)) for x in range(len(mask[0]))]
    inside = {(y, x) for y, x in places if mask[y][x]}
    count = len(inside)
    last = sorted((values[y][x] for y, x in places), reverse=True)[count - 1]
    above = [(y, x) for y, x in places if values[y][x] > last]
    equal = [(y, x) for y, x in places if values[y][x] == last]
    found = []
    for some in itertools.combinations(equal, count - len(above)):
        top = {*above, *some}
        found.append(len(top & inside) / len(top | inside))
    return sum(found) / len(found)


def cell_share(values, n_cells, cell):
    """Share of the positive part in one cell of a grid, cells counted row by row."""
    height, width = len(values), len(values[0])
    row, column = cell // n_cells, cell % n_cells
    mask = [
        [
            height * row // n_cells <= y < height * (row + 1) // n_cells
            and width * column // n_cells <= x < width * (column + 1) // n_cells
            for x in range(width)
        ]
        for y in range(height)
    ]
    return energy(values, mask)
