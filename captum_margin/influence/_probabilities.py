"""Class probabilities of somebody's model: what they must be, and what they look like.

That they are out of fold (no sample's made by a model that had learnt from it) cannot
be seen for certain; what gives it away is said.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from captum_margin._numbers import as_numbers

__all__ = ["as_probabilities", "warn_of_learnt_labels"]

# How far the sum of a row may be from one: probabilities written with three decimals.
_ROUNDING = 5e-3
# From so many samples on, and with such agreement, a model is suspected to have learnt
# the labels it is asked about.
_ENOUGH, _AGREEMENT = 100, 0.999
# How much better another order of the columns must be to be the right one. Of N samples
# whose probabilities know nothing the best of all orders is better by chance, by up to
# 2.8 / sqrt(N) for ten classes or fewer and 6.1 / sqrt(N) for a hundred (300 draws).
_BETTER, _BY_CHANCE, _BY_CHANCE_OF_MANY = 0.05, 3.0, 0.7


def as_probabilities(
    pred_probs: Any, labels: Tensor, classes: tuple[Any, ...]
) -> Tensor:
    """Checked probabilities (N, C) of the classes, in their order, float64.

    Args:
        pred_probs (array or DataFrame): Shape (N, C), each row adds up to one. Columns
            of a DataFrame that bear the names of the classes are put in their order.
        labels (Tensor): Class numbers (N,).
        classes (tuple): Names of the C classes.

    Raises:
        TypeError: If they are not numbers.
        ValueError: If they are no probabilities of these classes and samples, or the
            columns are in another order.
    """
    values = _columns(pred_probs, classes)
    n, c = len(labels), len(classes)
    if values.shape != (n, c):
        raise ValueError(
            f"expected pred_probs of shape (N, C) = ({n}, {c}), a row for each sample "
            f"and a column for each class of {_few(classes)} (got {values.shape})"
        )
    if not bool(values.isfinite().all()):
        row = int((~values.isfinite()).any(dim=1).nonzero()[0])
        raise ValueError(f"expected finite pred_probs (got NaN or infinity, row {row})")
    total = values.sum(dim=1)
    wrong = (values.amin(dim=1) < 0) | ((total - 1).abs() > _ROUNDING)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(
            "expected rows of pred_probs within [0, 1] that add up to 1 (got row "
            f"{row}: {_few(tuple(values[row].tolist()))} of sum "
            f"{float(total[row]):.3g}); take softmax of logits"
        )
    _check_order(values, labels.cpu(), classes)
    return (values / total[:, None]).to(labels.device)


def warn_of_learnt_labels(probabilities: Tensor, labels: Tensor) -> None:
    """Warns where probabilities agree with the labels as only a memory does."""
    right = probabilities.argmax(dim=1) == labels
    agreement = float(right.double().mean())
    if len(labels) >= _ENOUGH and agreement >= _AGREEMENT:
        warnings.warn(
            f"pred_probs agree with {agreement:.1%} of the labels; a model that had "
            "learnt these labels would, and cannot find their mistakes. Make them out "
            "of fold: sklearn.model_selection.cross_val_predict(..., "
            'method="predict_proba")',
            stacklevel=2,
        )


def _columns(pred_probs: Any, classes: tuple[Any, ...]) -> Tensor:
    if isinstance(pred_probs, Tensor):
        return pred_probs.detach().cpu().double()
    names = getattr(pred_probs, "columns", None)
    if names is not None and set(names) == set(classes) and len(names) == len(classes):
        pred_probs = pred_probs[list(classes)]
    try:
        array = as_numbers(pred_probs, "pred_probs")
    except TypeError:
        kind = np.asarray(pred_probs).dtype
        raise TypeError(f"expected numbers as pred_probs (got {kind})") from None
    return torch.from_numpy(array.astype(np.float64))


def _check_order(values: Tensor, labels: Tensor, classes: tuple[Any, ...]) -> None:
    """Raises where the columns fit the classes much better in another order."""
    c = len(classes)
    sums = torch.zeros(c, c, dtype=torch.float64).index_add_(0, labels, values).numpy()
    given, taken = linear_sum_assignment(-sums)  # class, column
    own, best = sums.trace() / len(labels), sums[given, taken].sum() / len(labels)
    chance = max(_BY_CHANCE, _BY_CHANCE_OF_MANY * c**0.5) / len(labels) ** 0.5
    if best < own + max(_BETTER, chance):
        return
    looks = ", ".join(
        f"column {column} as {classes[row]}"
        for row, column in zip(given.tolist(), taken.tolist(), strict=True)
        if row != column
    )
    raise ValueError(
        f"expected columns of pred_probs in the order of the classes {_few(classes)} "
        f"(their own class has {own:.0%} of the probability, and would have {best:.0%} "
        f"with {looks[:200]}); put them in that order"
    )


def _few(items: tuple[Any, ...]) -> str:
    shown = ", ".join(
        f"{item:.3g}" if isinstance(item, float) else str(item) for item in items[:8]
    )
    return f"({shown}{', ...' if len(items) > 8 else ''})"
