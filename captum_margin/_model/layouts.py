"""Which axis of the inputs holds the channels: the first after the batch, or the last.

A shape alone does not tell (B, 16, 16, 3) pictures from feature maps, nor 5 tokens of
32 features, (B, T, F), from a series of 5 channels, (B, C, L). The layers of the model
mostly do: a convolution takes the channels first, a linear layer or a recurrence last.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator

from torch import Tensor, nn

from captum_margin._model.segments import MIN_IMAGE_SIDE

__all__ = ["check_layout", "has_channels_first"]

#: Channels of pictures: grey, colour, colour with transparency.
_CHANNELS = (1, 3, 4)


def has_channels_first(
    forward_func: Callable[..., object] | None, tensor: Tensor
) -> bool | None:
    """Whether the model takes (B, C, ...); False if (B, ..., C); None if nothing tells.

    The first layer with a width that is one of the two axes decides, in the order in
    which the model defines its layers. Of functions the modules that they use are seen.

    Args:
        forward_func (Callable, optional): The model.
        tensor (Tensor): Inputs of three axes or more.
    """
    first, last = tensor.shape[1], tensor.shape[-1]
    if first == last:
        return None
    for module in _modules(forward_func):
        for layer in module.modules():
            of_first = getattr(layer, "in_channels", None)
            if of_first in (first, last) and isinstance(of_first, int):
                return bool(of_first == first)
            if last in _widths_of_last(layer):
                return False
    return None


def _widths_of_last(layer: nn.Module) -> tuple[object, ...]:
    """Sizes of the last axis that a layer says it takes."""
    shape = getattr(layer, "normalized_shape", ())
    return (
        getattr(layer, "in_features", None),
        getattr(layer, "input_size", None),
        *(shape if isinstance(shape, tuple) and len(shape) == 1 else ()),
    )


def _modules(forward_func: object) -> Iterator[nn.Module]:
    """The Module itself, or those that a function, a method or an object holds."""
    if isinstance(forward_func, functools.partial):
        forward_func = forward_func.func
    if callable(forward_func):
        forward_func = inspect.unwrap(forward_func)
    if inspect.ismethod(forward_func):
        yield from _modules_in([forward_func.__self__])
        forward_func = forward_func.__func__
    if inspect.isfunction(forward_func):
        try:
            used = inspect.getclosurevars(forward_func)
        except ValueError:  # a variable that is not set yet
            return
        yield from _modules_in([*used.nonlocals.values(), *used.globals.values()])
    elif forward_func is not None:
        held = getattr(forward_func, "__dict__", {})
        yield from _modules_in([forward_func, *held.values()])


def _modules_in(values: list[object]) -> Iterator[nn.Module]:
    return (value for value in values if isinstance(value, nn.Module))


def check_layout(
    tensor: Tensor, forward_func: Callable[..., object] | None = None
) -> None:
    """Refuses images and volumes whose channels are last.

    Args:
        tensor (Tensor): Inputs.
        forward_func (Callable, optional): The model, which may show that they are not.
            Default: None

    Raises:
        ValueError: If they are: the last axis has 1, 3 or 4 places, and those that
            would then be space have 16 or more each, the one of the channels too; and
            no layer of the model takes the first axis as channels.
    """
    places = tuple(tensor.shape[1:-1])
    if (
        tensor.dim() not in (4, 5)
        or tensor.shape[-1] not in _CHANNELS
        or min(places) < MIN_IMAGE_SIDE
        or has_channels_first(forward_func, tensor)
    ):
        return
    given, wanted, order = (
        ("(B, H, W, C)", "(B, C, H, W)", "0, 3, 1, 2")
        if tensor.dim() == 4
        else ("(B, D, H, W, C)", "(B, C, D, H, W)", "0, 4, 1, 2, 3")
    )
    back = "0, 2, 3, 1" if tensor.dim() == 4 else "0, 2, 3, 4, 1"
    raise ValueError(
        f"expected channels first, {wanted} (got {tuple(tensor.shape)}, which "
        f"looks like channels last, {given}); pass inputs.permute({order}), and "
        f"for a model that wants channels last lambda x: model(x.permute({back})); "
        f"if these are {places[0]} channels, pass the Module whose first layer takes "
        "so many"
    )
