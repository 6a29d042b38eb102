"""Numbers that people hold, in lists, tables and arrays, as arrays; and their range."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "as_numbers",
    "as_real",
    "bounded_rows",
    "check_span",
    "is_missing",
    "middle",
    "not_far_off",
]

# Squares of larger or smaller numbers leave double precision, or single.
_DOUBLE, _SINGLE = 2.0**500, 2.0**60
# Rows beyond it are brought near 1, which changes no direction.
_USUAL = 2.0**40
# What numbers must differ by, as part of their size: of directions, and of single
# precision, which keeps ten binary digits of the difference then.
_DIRECTION, _DIGITS = 1e-6, 2.0**-14
_STEPS = 8  # of the dtype, that the widest column must have
_BLOCK = 2**16
_SOME = 1024  # rows by which is found what is usual
_FAR = 2.0**7  # times the usual distance: of the 24 digits of single precision, 7


def as_numbers(values: Any, name: str) -> NDArray[Any]:
    """An array of real numbers, native and of a type that torch has.

    Lists, masked arrays and tables of pandas become one, tables of several types of
    numbers too.

    Args:
        values: Anything but a tensor or sparse matrix.
        name (str): What they are, for the message.

    Raises:
        TypeError: If there is anything but numbers.
        ValueError: If a number is missing, or rows are of different lengths.
    """
    if isinstance(values, np.ma.MaskedArray) and np.ma.getmaskarray(values).any():
        raise _missing(name, np.argwhere(np.ma.getmaskarray(values)))
    columns = getattr(values, "columns", None)
    if hasattr(values, "to_numpy"):  # pandas
        values = values.to_numpy()
    if isinstance(values, list | tuple) and any(isinstance(v, Tensor) for v in values):
        values = [v.tolist() if isinstance(v, Tensor) else v for v in values]
    try:
        array = np.asarray(values)
    except ValueError:
        raise ValueError(
            f"expected {name} of one length for all samples (got rows of several)"
        ) from None
    if array.dtype.kind == "O":
        array = _of_objects(array, columns, name)
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind not in "biuf":
        raise TypeError(
            f"expected numbers as {name} (got {array.dtype}); encode text columns "
            "first, and select numeric ones of a table"
        )
    if kind == "u" and size > 1:  # of little use to torch
        fits = size < 8 or array.size == 0 or int(array.max()) < 2**63
        array = array.astype(np.int64 if fits else np.float64)
    elif kind == "f" and size > 8:
        array = array.astype(np.float64)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if any(stride < 0 for stride in array.strides):
        array = array.copy()
    return array


def as_real(values: Tensor, name: str) -> Tensor:
    """A dense tensor of real numbers of a type that torch computes with, detached.

    Raises:
        TypeError: If it is complex, sparse, quantised, or without data.
    """
    if values.is_complex() or values.is_quantized:
        raise TypeError(f"expected real numbers as {name} (got {values.dtype})")
    if values.is_meta or values.layout != torch.strided:
        what = "meta" if values.is_meta else values.layout
        raise TypeError(
            f"expected a dense tensor with data as {name} (got {what}); call "
            ".to_dense()"
        )
    wide = {torch.uint16: torch.int32, torch.uint32: torch.int64}
    # Weights of edges have the dtype of the features: two digits would move scores.
    wide[torch.bfloat16] = torch.float32
    if values.dtype == torch.uint64:  # as far as there are integers
        fits = values.numel() == 0 or bool((values.view(torch.int64) >= 0).all())
        return values.detach().to(torch.int64 if fits else torch.float64)
    return values.detach().to(wide.get(values.dtype, values.dtype))


def _of_objects(
    array: NDArray[Any], columns: Any, name: str
) -> NDArray[np.float64 | np.int64]:
    """Numbers of several types, such as whole ones beside fractions, as one type."""
    if array.ndim == 0:
        raise TypeError(
            f"expected numbers as {name} (got {type(array.item()).__name__}); pass an "
            "array, a tensor, a table or lists"
        )
    flat = array.ravel().tolist()
    for place, value in enumerate(flat):
        if isinstance(value, numbers.Real | np.bool_) or is_missing(value):
            continue
        if array.ndim == 2 and columns is not None and len(columns) == array.shape[1]:
            where = f"{value!r:.40} in column {columns[place % array.shape[1]]!r}"
        else:
            where = f"{value!r:.40}"
        raise TypeError(
            f"expected numbers as {name} (got {where}); encode text columns first, and "
            "select numeric ones of a table"
        )
    missing = np.array([is_missing(value) for value in flat], dtype=bool)
    if missing.any():
        raise _missing(name, np.argwhere(missing.reshape(array.shape)))
    whole = all(isinstance(value, numbers.Integral | np.bool_) for value in flat)
    small = whole and all(abs(int(value)) < 2**63 for value in flat)
    return array.astype(np.int64 if small else np.float64)


def _missing(name: str, places: NDArray[Any]) -> ValueError:
    first = ", column ".join(str(int(i)) for i in places[0])
    return ValueError(
        f"expected finite {name} (got {len(places):,} missing, the first in row "
        f"{first}); fill them in or leave these samples out"
    )


def is_missing(value: Any) -> bool:
    """Whether it is None, NaN, NaT, or pandas' NA, which has no truth value."""
    if value is None or value is np.ma.masked:
        return True
    if isinstance(value, np.datetime64 | np.timedelta64):
        return bool(np.isnat(value))
    name = type(value).__name__
    return name in ("NAType", "NaTType") or (
        isinstance(value, float) and value != value
    )


def check_span(
    data: Any,
    metric: str = "euclidean",
    *,
    single: bool = False,
    most: float = _DOUBLE,
    name: str = "features",
) -> None:
    """Raises where distances of the samples would be none but rounding.

    Numbers that are not finite are for others to refuse, and samples that are all the
    same are as far as they are: at no distance.

    Args:
        data (Tensor, ndarray, memmap or SciPy sparse matrix): Shape (N, F).
        metric (str, optional): ``"euclidean"`` or ``"cosine"``, by which lengths do not
            matter. Default: ``"euclidean"``.
        single (bool, optional): Whether the distances are in single precision.
            Default: False.
        most (float, optional): What the largest number must be below, and the inverse
            of what it must be above, in double precision. Default: 2**500.
        name (str, optional): What they are, for the message. Default: ``"features"``.

    Raises:
        ValueError: If squares leave the range of numbers, or samples differ by less
            than their digits can tell.

    Cost: O(N F), a pass in blocks; nothing is copied whole.
    """
    sparse = hasattr(data, "tocsr")
    low, high, step = _extremes(data.tocsr().data[:, None] if sparse else data)
    size = np.maximum(np.abs(low), np.abs(high))
    if size.size == 0 or not np.isfinite(size).all() or not size.any():
        return
    largest, bound = float(size.max()), _SINGLE if single else most
    if metric != "cosine" and not 1 / bound < largest < bound:
        raise ValueError(
            f"expected finite {name} of squares that neither overflow nor vanish (got "
            f"{largest:.3g} as the largest); divide them by {largest:.1g} first"
        )
    if sparse:
        return  # most of it is zero: no common offset
    spread = high / largest - low / largest
    widest = int(spread.argmax())
    wide = float(spread[widest])
    if wide == 0:
        return
    needed = _STEPS * step * float(size[widest]) / largest
    if metric == "cosine":
        needed = max(needed, _DIGITS if single else 0, _DIRECTION)
    elif single:
        # What is the same in all samples is 0 when these are centred.
        needed = max(needed, _DIGITS * float(size[high > low].max()) / largest)
    if wide < needed:
        raise ValueError(
            f"expected {name} that differ by more than their digits tell (got numbers "
            f"of up to {largest:.3g} that differ by {wide * largest:.3g} at most); "
            "subtract what they have in common, such as the mean, in double precision"
        )


def _extremes(data: Any) -> tuple[NDArray[Any], NDArray[Any], float]:
    """The least and greatest of each column, and the relative step of the dtype."""
    lows, highs = [], []
    step = 0.0
    for start in range(0, len(data), _BLOCK):
        block = data[start : start + _BLOCK]
        if isinstance(block, Tensor):
            if block.is_floating_point():
                step = torch.finfo(block.dtype).eps
            low, high = torch.aminmax(block.detach().to(_ordered(block.dtype)), dim=0)
            lows.append(low.double().cpu().numpy())
            highs.append(high.double().cpu().numpy())
        else:
            if block.dtype.kind == "f":
                step = float(np.finfo(block.dtype).eps)
            lows.append(block.min(axis=0).astype(np.float64))
            highs.append(block.max(axis=0).astype(np.float64))
    if not lows:
        return np.zeros(0), np.zeros(0), step
    return np.min(lows, axis=0), np.max(highs, axis=0), step


def _ordered(dtype: torch.dtype) -> torch.dtype:
    """A dtype that has an order on every device."""
    return torch.uint8 if dtype == torch.bool else dtype


def bounded_rows(points: Tensor) -> Tensor:
    """Rows (N, F) of the same directions whose squares are within range.

    Those far from 1 are multiplied by a power of two, which is exact.
    """
    largest = points.detach().abs().amax(dim=1, keepdim=True)
    usual = (largest == 0) | ((largest > 1 / _USUAL) & (largest < _USUAL))
    if not points.is_floating_point() or bool(usual.all()):
        return points
    # Twice, for the inverse of the smallest numbers is beyond the largest.
    half = torch.frexp(largest).exponent.where(~usual, 0) / 2
    for exponent in (half.floor(), half.ceil()):
        points = points * torch.exp2(-exponent.to(points.dtype))
    return points


def middle(points: Tensor) -> Tensor:
    """The mean (F,) of those of the points (N, F), N >= 1, that are not far off.

    Less it, numbers are small, and so are rounding errors. Of sparse rows, most of
    which is zero, it is the plain mean.
    """
    if hasattr(points, "tocsr"):
        return points.mean(dim=0)
    near = not_far_off(points)
    if not bool(near.all()):
        points = points[near]
    # Rounded, the mean of equal numbers may be another: of large ones, far off.
    same = (points == points[0]).all(dim=0)
    return points[0].where(same, points.mean(dim=0))


def not_far_off(points: Tensor) -> Tensor:
    """Which of the points (N, F) may count for their mean, bool (N,).

    Beside that of others and one far off all the others lose their digits.
    """
    # By sorts, for the median of torch is not deterministic on every device.
    some = points[:: max(1, len(points) // _SOME)]
    amid = some.sort(dim=0).values[len(some) // 2]
    usual = (some - amid).abs().amax(dim=1).sort().values[len(some) // 2]
    return (points - amid).abs().amax(dim=1) <= _FAR * usual
