"""Options that count something."""

from __future__ import annotations

import operator
from numbers import Integral

__all__ = ["is_whole", "whole_number"]


def is_whole(value: object) -> bool:
    """Whether it is an int of any kind, Python's or NumPy's, and no bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def whole_number(value: object, name: str, least: int | None = None) -> int:
    """An option as an int, from any kind of whole number.

    Raises:
        ValueError: If it is none, or below the least.
    """
    floor = "" if least is None else f" of at least {least}"
    try:
        assert not isinstance(value, bool)
        number = operator.index(value)  # type: ignore[arg-type]
        assert least is None or number >= least
    except (AssertionError, TypeError):
        raise ValueError(
            f"expected {name} as a whole number{floor} (got {value!r})"
        ) from None
    return number
