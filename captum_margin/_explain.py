"""From any attribution method to the one record of its explanations."""

from __future__ import annotations

import copy
import functools
import inspect
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from captum_margin._keywords import refuse_unknown
from captum_margin._model.captum import TargetType
from captum_margin._model.hooks import layer_name
from captum_margin.explanation import Explanation, Tensors, are_tensors

__all__ = ["explain"]


def explain(
    method: Any, inputs: Tensors, target: TargetType = None, **kwargs: Any
) -> Explanation:
    """Calls ``method.attribute`` and keeps all there is to know of it in one record.

    ``explain(method, inputs, target=1)`` in the place of
    ``method.attribute(inputs, target=1)`` is all that changes, for the methods of this
    package, for Captum's and for others with that interface.

    Args:
        method (Attribution): The method, made with its model (and layer, references):
            ``MarginSaliency(model)``, ``LayerGradCam(model, layer)``.
        inputs (Tensor or tuple[Tensor, ...]): As ``attribute`` takes them, B examples.
        target (int, tuple, Tensor or list, optional): As in Captum. Default: None
        **kwargs: Further arguments of ``attribute``, whatever the method names.

    Returns:
        Explanation: Attributions, target, settings, details, a copy of the inputs,
        forward passes, seconds, versions. Methods with ``return_details`` are asked for
        their details; with ``return_convergence_delta=True`` the delta is a detail.

    Raises:
        TypeError: If ``method`` has no ``attribute``, or that returns no tensors or
            knows no such argument, or the inputs are none.

    Cost: that of ``attribute``, and a copy of the inputs. A method that is fitted when
    first used (``RepresentativeInterpretation`` with references) is fitted within, and
    this is counted too; call ``fit`` before.

    Examples::

        >>> import torch
        >>> from captum.attr import LayerGradCam
        >>> from captum_margin import explain
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(),
        ...     torch.nn.Flatten(), torch.nn.Linear(4 * 14 * 14, 2)).eval()
        >>> image = torch.rand(1, 3, 16, 16)
        >>> explanation = explain(LayerGradCam(net, net[1]), image, target=1)
        >>> explanation.method, explanation.settings, explanation.n_forward
        ('LayerGradCam', {'layer': '1'}, 1)

    Segmentation, detection and other models without class scores (B, C) are explained
    through a function that returns one score an image, without a target::

        >>> from captum_margin.attr import MarginSaliency
        >>> segmenter = torch.nn.Conv2d(3, 5, 3, padding=1)  # 5 logits a pixel
        >>> segment = torch.zeros(16, 16, dtype=torch.bool)
        >>> segment[4:9, 4:9] = True
        >>> def score(images):
        ...     return segmenter(images)[:, 2, segment].mean(dim=1)
        >>> explain(MarginSaliency(score), image, n_evaluations=50).attributions.shape
        torch.Size([1, 3, 16, 16])
    """
    attribute = getattr(method, "attribute", None)
    if not callable(attribute) or isinstance(method, type):
        what = "the class " if isinstance(method, type) else ""
        name = method.__name__ if isinstance(method, type) else type(method).__name__
        raise TypeError(
            "expected a method with attribute(), such as MarginSaliency(model) (got "
            f"{what}{name})"
        )
    if not are_tensors(inputs):
        raise TypeError(
            "expected inputs as a tensor, or a tuple of tensors for several inputs "
            f"(got {type(inputs).__name__})"
        )
    parameters = inspect.signature(attribute).parameters
    if all(one.kind is not one.VAR_KEYWORD for one in parameters.values()):
        refuse_unknown(f"{type(method).__name__}.attribute()", kwargs, parameters)
    arguments = dict(kwargs)
    has_details = "return_details" in parameters
    if has_details:
        arguments["return_details"] = True
    if target is not None:  # some of Captum's methods know none
        arguments["target"] = target
    # A copy, taken before: what the record shows must stay what was explained.
    kept = _map_tensors(inputs, lambda tensor: tensor.detach().clone())
    with _counted(method) as (counted, count):
        _wait_for(kept)
        started = time.perf_counter()
        found = counted.attribute(inputs, **arguments)
        _wait_for(kept)
        seconds = time.perf_counter() - started
    details: dict[str, Any] = {}
    settings = {name: _plain(value) for name, value in kwargs.items()}
    for name in ("return_details", "show_progress"):  # which change no result
        settings.pop(name, None)
    if layer := _layer_name(method):
        settings["layer"] = layer
    if has_details:
        found, more = found
        details = _plain(more.as_dict())
        settings |= {name: _plain(value) for name, value in more.settings.items()}
    elif kwargs.get("return_convergence_delta"):
        found, delta = found
        details = {"convergence_delta": delta.detach()}
    if not are_tensors(found):
        raise TypeError(
            "expected attribute() to return a tensor or a tuple of them (got "
            f"{type(found).__name__}); explain one layer at a time"
        )
    n_examples = len(kept[0] if isinstance(kept, tuple) else kept)
    return Explanation(
        attributions=_map_tensors(found, Tensor.detach),
        target=_plain(target),
        method=_method_name(method),
        settings=settings,
        details=details,
        inputs=kept,
        n_forward=math.ceil(count[0] / n_examples) if count[0] else None,
        seconds=seconds,
    )


@contextmanager
def _counted(method: Any) -> Iterator[tuple[Any, list[int]]]:
    """The method, and how many examples its model has seen within the context."""
    count = [0]

    def add(inputs: tuple[Any, ...]) -> None:
        first = next((part for part in inputs if isinstance(part, Tensor)), None)
        if first is not None and first.dim():
            count[0] += len(first)

    model = getattr(method, "forward_func", None)
    if isinstance(model, nn.Module) and not isinstance(model, torch.jit.ScriptModule):
        handle = model.register_forward_pre_hook(lambda _, inputs: add(inputs))
        try:
            yield method, count
        finally:
            handle.remove()
    elif callable(model):

        @functools.wraps(model)
        def counting(*inputs: Any, **others: Any) -> Any:
            add(inputs)
            return model(*inputs, **others)

        # Methods look their model up when they are called, so that Captum's own
        # wrappers do the same.
        method = copy.copy(method)
        method.forward_func = counting
        yield method, count
    else:
        yield method, count


def _layer_name(method: Any) -> str | None:
    """The layer of a layer method: its name in the model, or its type."""
    layer = getattr(method, "layer", None)
    if not isinstance(layer, nn.Module):
        return None
    return layer_name(getattr(method, "forward_func", None), layer)


def _method_name(method: Any) -> str:
    inner = getattr(method, "attribution_method", None)  # of a NoiseTunnel
    name = type(method).__name__
    return name if inner is None else f"{name}({_method_name(inner)})"


def _plain(value: Any) -> Any:
    """A value that can be saved: itself, or what it is in words."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, list | tuple):
        parts = [_plain(part) for part in value]
        return parts if isinstance(value, list) else tuple(parts)
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    name = getattr(value, "__qualname__", None)
    return name if isinstance(name, str) else type(value).__name__


def _map_tensors(tensors: Tensors, change: Callable[[Tensor], Tensor]) -> Tensors:
    if isinstance(tensors, tuple):
        return tuple(map(change, tensors))
    return change(tensors)


def _wait_for(tensors: Tensors) -> None:
    """Lets a GPU come to its end, so that its time is not taken for another's."""
    first = tensors[0] if isinstance(tensors, tuple) else tensors
    if first.is_cuda:
        torch.cuda.synchronize(first.device)
