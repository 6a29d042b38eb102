"""Areas under the ROC curve."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata


def auroc(attacked: np.ndarray, score: np.ndarray) -> float:
    """Of the Mann-Whitney statistic; ties count half. NaN if all are of one kind."""
    ranks = rankdata(score)
    n = int(attacked.sum())
    if n in (0, len(attacked)):
        return float("nan")
    u = ranks[attacked].sum() - n * (n + 1) / 2
    return float(u / (n * (len(attacked) - n)))
