"""Labels of any kind as class numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captum_margin._numbers import is_missing

__all__ = ["ClassNames", "as_labels"]

_LARGEST = 2.0**53  # beyond it numbers are not told apart
# What missing values become where NumPy or pandas make text of them.
_TEXTS_OF_NONE = frozenset({"nan", "NaN", "NaT", "<NA>", b"nan"})

ClassNames = Sequence[str] | Mapping[int, str]


def as_labels(
    labels: Any, num_samples: int, class_names: ClassNames | None = None
) -> tuple[Tensor, tuple[Any, ...]]:
    """Labels of any kind as class numbers (N,) and the names of the classes.

    Raises:
        TypeError: If the labels are fractions or of several types.
        ValueError: If there is not one for each sample, or one is missing or too large.
    """
    array = _as_array(labels)
    if array.shape != (num_samples,):
        raise ValueError(
            f"expected labels of shape (N,) = ({num_samples},) (got {array.shape}); "
            "one class per sample"
        )
    missing = _missing(labels, array)
    if missing.any():
        first = int(missing.argmax())
        value = array.tolist()[first]
        is_text = isinstance(value, str | bytes)
        got = f": {value!r}" if is_text else ""
        hint = ", or write it otherwise if it is a class" if is_text else ""
        raise ValueError(
            f"expected a label for every sample (got {int(missing.sum())} missing, the "
            f"first at {first}{got}); drop these samples{hint}"
        )
    if array.dtype.kind == "O":
        array = _of_one_type(array)
    if array.dtype.kind == "f":
        if not (abs(array) <= _LARGEST).all():
            place = int(abs(array).argmax())
            raise ValueError(
                f"expected class numbers within ±2**53 as labels (got {array[place]} "
                f"at {place})"
            )
        if not (array == np.trunc(array)).all():
            raise TypeError("expected classes as labels (got fractions)")
        array = array.astype(np.int64)
    elif array.dtype.kind not in "biuOUSMm":
        raise TypeError(f"expected classes as labels (got {array.dtype})")
    try:
        values, codes = np.unique(array, return_inverse=True)
    except TypeError:
        raise TypeError(
            f"expected classes as labels (got {type(array[0]).__name__}, which have no "
            "order); pass them as text"
        ) from None
    classes = tuple(values.tolist())
    if array.dtype.kind in "mM" and any(isinstance(c, int) for c in classes):
        classes = tuple(values)  # nanoseconds, which Python's own have no room for
    if class_names is not None and array.dtype.kind in "biu":
        try:
            classes = tuple(class_names[int(value)] for value in classes)
        except (IndexError, KeyError):
            raise ValueError(
                f"expected a class name for each of the labels {classes} (got "
                f"{class_names})"
            ) from None
    return torch.from_numpy(codes.astype(np.int64)), classes


def _as_array(labels: Any) -> NDArray[Any]:
    """An array of what was given; of lists none is made another type than it is."""
    if isinstance(labels, Tensor):
        if labels.layout != torch.strided:
            labels = labels.to_dense()
        if labels.is_meta:
            raise TypeError("expected labels with data (got a meta tensor)")
        labels = labels.detach().cpu()
        if labels.layout != torch.strided:
            raise TypeError(
                f"expected labels as a dense tensor (got {labels.layout}); .to_dense()"
            )
        if labels.is_floating_point():
            labels = labels.double()  # NumPy has no bfloat16
        array: NDArray[Any] = labels.numpy()
        return array
    if hasattr(labels, "to_pylist"):  # pyarrow
        labels = labels.to_pylist()
    elif hasattr(labels, "to_numpy"):  # pandas
        labels = labels.to_numpy()
    if isinstance(labels, list | tuple):
        parts = [x.item() if _is_scalar(x) else x for x in labels]
        if any(isinstance(part, list | tuple | np.ndarray | Tensor) for part in parts):
            try:
                return np.asarray(parts)  # whose shape is told
            except ValueError:
                raise TypeError("expected one class per sample (got lists)") from None
        labels = np.empty(len(parts), dtype=object)
        labels[:] = parts
    array = np.asarray(labels)
    if array.dtype.kind == "T":  # NumPy's strings of any length
        array = array.astype(object)
    return array


def _is_scalar(value: Any) -> bool:
    """Whether it is a number of NumPy, or an array or tensor without dimensions."""
    if isinstance(value, np.datetime64 | np.timedelta64):
        return False
    return hasattr(value, "item") and getattr(value, "shape", None) == ()


def _missing(labels: Any, array: NDArray[Any]) -> NDArray[np.bool_]:
    """Which labels are none, (N,): masked, None, NaN, NaT, NA, or text of these."""
    missing: NDArray[np.bool_] = np.zeros(array.shape, dtype=bool)
    if isinstance(labels, np.ma.MaskedArray):
        missing = missing | np.ma.getmaskarray(labels)
    kind = array.dtype.kind
    if kind == "f":
        missing = missing | np.isnan(array)
    elif kind in "Mm":
        missing = missing | np.isnat(array)
    elif kind in "OUS":
        values = array.tolist()
        found = [is_missing(x) or x in _TEXTS_OF_NONE for x in values]
        missing = missing | np.array(found, dtype=bool)
    return missing


def _of_one_type(array: NDArray[Any]) -> NDArray[Any]:
    """Numbers and text as such; whole numbers beside fractions are numbers.

    Objects of one other type, such as dates, stay objects.
    """
    values = array.tolist()
    kinds = sorted({type(value).__name__ for value in values})
    if len(kinds) > 1 and {*kinds} != {"float", "int"}:
        raise TypeError(f"expected labels of one type (got {', '.join(kinds)})")
    first = values[0] if values else 0
    if isinstance(first, list | tuple | np.ndarray):
        raise TypeError(f"expected one class per sample (got {kinds[0]})")
    is_plain = isinstance(first, int | float | complex | str | bytes | np.generic)
    return np.array(values) if is_plain else array
