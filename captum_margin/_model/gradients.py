"""What to do about scores without a gradient, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

__all__ = ["gradients_explained", "no_gradient"]


@contextmanager
def gradients_explained(forward: Callable[[], object], of: str) -> Iterator[None]:
    """Says what is wrong with a model that runs, but not with gradients.

    Torch has many wordings of it, so that they are not looked at: what fails with
    gradients and not without them fails for their sake.

    Args:
        forward (Callable): Runs the model alone.
        of (str): What the gradient is of: "the layer", "the inputs".

    Raises:
        ValueError: If the model runs without gradients.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        try:
            with torch.no_grad():
                forward()
        except RuntimeError:  # other errors say more
            raise error from None
        raise no_gradient(of, "in-place" in _words(error)) from error


def no_gradient(of: str, in_place: bool = False) -> ValueError:
    """The error of a model whose scores have no gradient.

    Args:
        of (str): As there.
        in_place (bool, optional): Whether torch blames a change in place.
            Default: False
    """
    layer = of == "the layer"
    if in_place:
        reason = (
            "what the gradient needs is changed in place; make a copy of it first, as "
            "x = x + 1 and inplace=False do"
        )
    else:
        reason = (
            "the model must not detach them, round them, compute in whole numbers "
            "(quantised), under no_grad or outside of torch"
            + (", and must use the layer for them, not for an auxiliary head" * layer)
        )
    advice = "explain another layer; " * layer
    return ValueError(
        f"expected scores that have a gradient with respect to {of} (got some "
        f"without): {reason}; {advice}MarginSaliency needs no gradient but for a prior"
    )


def _words(error: Exception) -> str:
    return str(error).lower().replace("inplace", "in-place")
