"""What to do when a model refuses its inputs, in words."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from captum_margin._model.layouts import check_layout

__all__ = ["refusals_explained"]


@contextmanager
def refusals_explained(
    forward_func: object, inputs: tuple[Tensor, ...], layer: nn.Module | None = None
) -> Iterator[None]:
    """Says what is wrong with inputs that a model fails on, where it can be told.

    Only then: models may convert what they are given, and take any shape.

    Raises:
        TypeError: If the inputs are of another dtype than the model.
        ValueError: If they are on another device, have their channels last, or seem to
            have no batch axis.
    """
    try:
        yield
    except RuntimeError as error:
        problem = _problem(forward_func, inputs, layer)
        if problem is None:
            raise
        raise problem from error


def _problem(
    forward_func: object, inputs: tuple[Tensor, ...], layer: nn.Module | None
) -> Exception | None:
    model = inspect.unwrap(forward_func) if callable(forward_func) else forward_func
    module = model if isinstance(model, nn.Module) else layer
    parameters = [] if module is None else list(module.parameters())
    devices = {parameter.device for parameter in parameters}
    dtypes = {p.dtype for p in parameters if p.is_floating_point()}
    # Indices, such as tokens, are integers of 64 bits for models of any dtype.
    others = {t.dtype for t in inputs} - dtypes - {torch.int64}
    for tensor in inputs:
        if devices and tensor.device not in devices:
            of_model = " and ".join(sorted(map(str, devices)))
            return ValueError(
                f"expected inputs on the model's device, {of_model} (got one on "
                f"{tensor.device}); move them with inputs.to({of_model!r})"
            )
    if dtypes and (others or not any(t.is_floating_point() for t in inputs)):
        of_model = " and ".join(sorted(map(str, dtypes)))
        got = ", ".join(str(tensor.dtype) for tensor in inputs)
        advice = (
            f"convert them with inputs.to({of_model}), or the model"
            if all(tensor.is_floating_point() for tensor in inputs)
            else "convert them as for training, mostly image.float() / 255, normalised"
        )
        return TypeError(
            f"expected inputs of the model's dtype, {of_model} (got {got}); {advice}"
        )
    if module is not None and len(inputs) == 1 and inputs[0].dim() in (4, 5):
        try:
            check_layout(inputs[0], module)
        except ValueError as problem:
            return problem
    if module is not None and len(inputs) == 1 and inputs[0].dim() != 4:
        if any(isinstance(part, nn.Conv2d) for part in module.modules()):
            return ValueError(
                f"expected images (B, C, H, W) (got {tuple(inputs[0].shape)}); add the "
                "batch axis of a single image with `inputs.unsqueeze(0)`"
            )
    return None
