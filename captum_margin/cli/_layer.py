"""The layer whose maps are explained: named by the user, or found."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from torch import Tensor, nn

from captum_margin.attr.layers import is_map, last_conv_layer, output_shapes
from captum_margin.cli._output import CommandError, did_you_mean, one_line


@dataclass(frozen=True)
class Layer:
    """A layer with an extent in space.

    Attributes:
        name (str): Its name in the model.
        module (Module): The layer.
        shape (tuple[int, ...]): Of its output for one image: (K, h, w).
    """

    name: str
    module: nn.Module
    shape: tuple[int, ...]


def choose_layer(model: nn.Module, image: Tensor, name: str | None) -> Layer:
    """Finds a layer by its name, or the last that still has an extent in space.

    By itself it takes what :func:`captum_margin.attr.last_conv_layer` finds.

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
            found = last_conv_layer(model, image)
        except ValueError as error:
            raise CommandError(
                f"{one_line(error).split(';')[0]}; name a layer with --layer"
            ) from None
        return Layer(found.name, found.layer, found.shape[1:])
    shapes, _ = output_shapes(model, (image,))
    shape = shapes.get(name, ())
    if not is_map(shape, tuple(image.shape[2:])):
        got = f"an output of shape {shape}" if shape else "no tensor"
        raise CommandError(
            f"expected a layer with maps, (1, K, h, w) (got {got} from --layer "
            f"{name}); choose another"
        )
    return Layer(name, modules[name], shape[1:])
