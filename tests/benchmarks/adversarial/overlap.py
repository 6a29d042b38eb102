"""Whether the images whose scores overlap were rare before the attack.

Under its figure 7 the MARGIN paper says of the attacked and the untouched images whose
scores overlap that they are extremely rare to begin with, like the criticisms of its
case study I. Here a threshold lets 5% of the untouched images through as attacked: what
overlaps are the attacked images that stay below it ("missed"), and the untouched ones
above it ("alarms"). How much of a criticism an image is tells the influence of case
study I in the paper's form, of the 2,000 images before any attack, by pixels or by the
last hidden layer. The AUROC is the chance that a missed image is more of a criticism
than a caught one, or an alarm than another untouched image; 0.5 if they are random
draws. Standard errors are of a bootstrap over the images; nothing is said where a draw
holds no image of one of the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from captum_margin.influence import Prototypes
from tests.benchmarks.adversarial.areas import auroc

FALSE_ALARMS = 0.05
RESAMPLES = 200


def criticisms(before: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """How much of a criticism each image is, by pixels and by hidden units, (N,)."""
    return {
        name: Prototypes.from_features(before[name], paper=True)
        .self_influence()
        .double()
        .numpy()
        for name in ("pixels", "hidden")
    }


def overlap(
    score: np.ndarray, attacked: np.ndarray, rare: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """What is said above of one score.

    Args:
        score: High for suspects, one row a repetition, (R, N).
        attacked: Which images are attacked, (R, N).
        rare: How much of a criticism each image is, (N,) each.
    """
    rows = list(zip(score, attacked, strict=True))
    limits = [np.quantile(s[~a], 1 - FALSE_ALARMS) for s, a in rows]
    above = [s > limit for (s, _), limit in zip(rows, limits, strict=True)]
    missed = [np.mean(~up[a]) for up, (_, a) in zip(above, rows, strict=True)]
    record: dict[str, Any] = {"missed_share": round(float(np.mean(missed)), 4)}
    for kind, group, wanted in (
        ("missed", attacked, [~up for up in above]),
        ("alarms", ~attacked, above),
    ):
        for name, value in rare.items():
            found, error = _area(value, group, wanted)
            record[f"{kind}, by {name}"] = {"auroc": found, "standard_error": error}
    return record


def _area(value: np.ndarray, group: np.ndarray, wanted: list[np.ndarray]) -> Any:
    """Mean AUROC of the wanted within their group, and its standard error."""
    n = len(value)
    rng = np.random.default_rng(0)
    draws = [np.arange(n), *(rng.integers(0, n, n) for _ in range(RESAMPLES))]
    means = []
    for draw in draws:
        areas = []
        for inside, some in zip(group, wanted, strict=True):
            kept = draw[inside[draw]]
            areas.append(auroc(some[kept], value[kept]))
        means.append(np.mean(areas))
    if not np.isfinite(means).all():
        return None, None
    return round(float(means[0]), 4), round(float(np.std(means[1:], ddof=1)), 4)
