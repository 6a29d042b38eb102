"""The layer whose maps are explained: named by the user, or found."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from captum_margin._model.layers import (
    is_map,
    layer_of_maps,
    maps_shape,
    output_shapes,
    reshape_of,
)
from captum_margin.cli.output import CommandError, did_you_mean, one_line


@dataclass(frozen=True)
class Layer:
    """A layer with an extent in space, of maps or of tokens.

    Attributes:
        name (str): Its name in the model.
        module (Module): The layer.
        shape (tuple[int, ...]): Of its maps for one image: (K, h, w).
        reshape (Callable, optional): What makes them of its output; None if they are.
    """

    name: str
    module: nn.Module
    shape: tuple[int, ...]
    reshape: Callable[[Tensor], Tensor] | None = None


def choose_layer(model: nn.Module, image: Tensor, name: str | None) -> Layer:
    """Finds a layer by its name, or the last that still has an extent in space.

    By itself it takes what :func:`captum_margin.attr.last_conv_layer` finds, or names
    for a transformer.

    Args:
        model (Module): The network.
        image (Tensor): What is put in to see the shapes, (1, C, H, W), square.
        name (str, optional): The dotted name of the layer.

    Raises:
        CommandError: If there is no such layer, or it has no maps.

    Cost: one forward pass.
    """
    modules = {key: module for key, module in model.named_modules() if key}
    if name is not None and name not in modules:
        close = difflib.get_close_matches(name, modules, n=3)
        children = ", ".join(key for key, _ in model.named_children())
        hint = did_you_mean(close) or f"; it has {children} and what is inside them"
        raise CommandError(f"the model has no layer {name!r} (--layer){hint}")
    if name is None:
        try:
            found, reshape = layer_of_maps(model, image)
        except ValueError as error:
            raise CommandError(
                f"{one_line(error).split(';')[0]}; name a layer with --layer"
            ) from None
        return Layer(found.name, found.layer, found.shape[1:], reshape)
    shapes, _ = output_shapes(model, (image,))
    shape, size = shapes.get(name, ()), tuple(image.shape[2:])
    if is_map(shape, size):
        return Layer(name, modules[name], shape[1:])
    maps = maps_shape(shape, size) if shape[:1] == (1,) else None
    if maps is None:
        got = f"an output of shape {shape}" if shape else "no tensor"
        raise CommandError(
            "expected a layer with maps, (1, K, h, w), or tokens, (1, T, K) (got "
            f"{got} from --layer {name}); choose another"
        )
    return Layer(name, modules[name], maps[1:], reshape_of(shape, maps))
