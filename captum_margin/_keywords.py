"""Wrong keywords, answered with the right ones that are nearest to them."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

__all__ = ["check_keywords", "refuse_unknown"]

P = ParamSpec("P")
T = TypeVar("T")


def refuse_unknown(name: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Lets keywords pass that are known.

    Args:
        name (str): What was called.
        given (Iterable[str]): The keywords it was called with.
        known (Iterable[str]): Those it takes.

    Raises:
        TypeError: If one is not known; it names the nearest that is.
    """
    known = sorted(known)
    unknown = sorted(set(given) - set(known))
    if not unknown:
        return
    nearest = [
        match for word in unknown for match in difflib.get_close_matches(word, known, 1)
    ]
    meant = f"did you mean {' and '.join(map(repr, nearest))}? " if nearest else ""
    raise TypeError(f"{name} got unknown options {unknown}; {meant}it knows {known}")


def check_keywords(function: Callable[P, T]) -> Callable[P, T]:
    """Lets a function of named keywords answer others with :func:`refuse_unknown`.

    Python does so by itself only since release 3.13.
    """
    known = [name for name in inspect.signature(function).parameters if name != "self"]

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        refuse_unknown(f"{function.__qualname__}()", kwargs, known)
        return function(*args, **kwargs)

    return checked
