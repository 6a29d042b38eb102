"""Labels of any kind as class numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["ClassNames", "as_labels"]

ClassNames = Sequence[str] | Mapping[int, str]


def as_labels(
    labels: Any, num_samples: int, class_names: ClassNames | None = None
) -> tuple[Tensor, tuple[Any, ...]]:
    """Labels of any kind as class numbers (N,) and the names of the classes.

    Raises:
        TypeError: If the labels are fractions or of several types.
        ValueError: If there is not one for each sample, or one is missing.
    """
    if isinstance(labels, Tensor):
        labels = labels.detach().cpu().numpy()
    elif hasattr(labels, "to_numpy"):
        labels = labels.to_numpy()
    array = np.asarray(labels)
    if array.shape != (num_samples,):
        raise ValueError(
            f"expected labels of shape (N,) = ({num_samples},) (got {array.shape}); "
            "one class per sample"
        )
    if array.dtype.kind in "Of":
        missing = [_is_missing(value) for value in array.tolist()]
        if any(missing):
            raise ValueError(
                f"expected a label for every sample (got {sum(missing)} missing, the "
                f"first at {missing.index(True)}); drop these samples"
            )
    if array.dtype.kind == "f":
        if not (array == np.trunc(array)).all():
            raise TypeError("expected classes as labels (got fractions)")
        array = array.astype(np.int64)
    elif array.dtype.kind == "O":
        kinds = sorted({type(value).__name__ for value in array.tolist()})
        if len(kinds) > 1:
            raise TypeError(f"expected labels of one type (got {', '.join(kinds)})")
        array = np.array(array.tolist())
    values, codes = np.unique(array, return_inverse=True)
    classes = tuple(values.tolist())
    if class_names is not None and array.dtype.kind in "biu":
        try:
            classes = tuple(class_names[int(value)] for value in classes)
        except (IndexError, KeyError):
            raise ValueError(
                f"expected a class name for each of the labels {classes} (got "
                f"{class_names})"
            ) from None
    return torch.from_numpy(codes.astype(np.int64)), classes


def _is_missing(value: Any) -> bool:
    """None, NaN, or pandas' NA, which has no truth value."""
    return value is None or type(value).__name__ == "NAType" or value != value
