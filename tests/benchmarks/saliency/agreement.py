"""How far a map agrees with Grad-CAM's, and how sparse it is.

The paper of MARGIN claims of its maps that they corroborate Grad-CAM's, and are
specific and sparse (case study II, figures 3 and 4); it shows pictures, no figures:

- Spearman's rank correlation with Grad-CAM over the pixels, Grad-CAM's negative part
  cut off and its map enlarged bilinearly;
- the Gini index of the positive part of a map (Hurley & Rickard 2009; of attributions
  Chalasani et al. 2020): 0 if all pixels have the same, near 1 if one has all;
- the smallest share of the pixels that holds half of the positive part.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import spearmanr


def gini(values: np.ndarray) -> float:
    """Gini index of what is positive, 0 for a constant; NaN where nothing is."""
    x = np.sort(np.clip(values, 0, None), axis=None)
    n, total = x.size, x.sum()
    if total == 0:
        return float("nan")
    weights = n - np.arange(1, n + 1) + 0.5
    return float(1 - 2 * (x * weights).sum() / (n * total))


def half_share(values: np.ndarray) -> float:
    """Smallest share of the pixels with half of what is positive."""
    x = np.sort(np.clip(values, 0, None), axis=None)[::-1].cumsum()
    if x[-1] == 0:
        return float("nan")
    return float((np.searchsorted(x, x[-1] / 2) + 1) / x.size)


def measures(values: np.ndarray, grad_cam: np.ndarray) -> dict[str, float]:
    """All of a map (H, W)."""
    values, grad_cam = values.astype(np.float64), grad_cam.astype(np.float64)
    return {
        "spearman_with_grad_cam": float(spearmanr(values, grad_cam, axis=None)[0]),
        "gini": gini(values),
        "half_share": half_share(values),
    }
