"""Under ``torch.autocast`` the model shall round, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar

import torch

__all__ = ["full_precision", "models_precision"]

_DEVICES = ("cpu", "cuda", "mps", "xpu")

# The autocasts that the user has entered: device types and dtypes.
_entered: ContextVar[tuple[tuple[str, torch.dtype], ...]] = ContextVar(
    "entered", default=()
)


@contextmanager
def full_precision() -> Iterator[None]:
    """Suspends autocast, for arithmetic that half precision would spoil.

    Models called within through :mod:`captum_margin._model.captum` still have it. As a
    decorator: ``@full_precision()``.
    """
    entered = tuple(
        (device, torch.get_autocast_dtype(device))
        for device in _DEVICES
        if torch.is_autocast_enabled(device)
    )
    token = _entered.set(entered or _entered.get())
    try:
        with ExitStack() as stack:
            for device, _ in entered:
                stack.enter_context(torch.autocast(device, enabled=False))
            yield
    finally:
        _entered.reset(token)


@contextmanager
def models_precision() -> Iterator[None]:
    """Enters again what :func:`full_precision` has suspended."""
    with ExitStack() as stack:
        for device, dtype in _entered.get():
            stack.enter_context(torch.autocast(device, dtype=dtype))
        yield
