"""The layer whose maps are explained: named by the user, or found."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from captum_margin.cli._output import CommandError, did_you_mean


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

    By itself it takes, of all modules that have modules inside, that whose output comes
    last among the outputs (1, K, h, w) of several places. Such a module is a stage of
    the network; single modules after it do not count, for they are a pooling that
    changes nothing (VGG), or classify place by place (SqueezeNet's head, whose maps
    are classes already). Modules that hold others come after these, so it is the whole
    of ``features`` or ``layer4``, not its last block. Square crops have square maps:
    this keeps out tokens and outputs with channels last (ViT, Swin).

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
    shapes = _shapes(model, modules, image)
    if name is not None:
        shape = shapes.get(name)
        if shape is None or len(shape) != 4 or shape[2] * shape[3] == 1:
            found = "no tensor" if shape is None else f"an output of shape {shape}"
            raise CommandError(
                f"expected a layer with maps, (1, K, h, w) (got {found} from --layer "
                f"{name}); choose one that comes earlier"
            )
        return Layer(name, modules[name], shape[1:])
    maps = [
        key
        for key, shape in shapes.items()
        if len(shape) == 4 and shape[2] == shape[3] > 1
    ]
    stages = [key for key in maps if next(modules[key].children(), None) is not None]
    if not stages:
        raise CommandError(
            "found no stage of the model with maps (1, K, h, w); name a layer with "
            "--layer" + (f", such as {maps[-1]}" if maps else "")
        )
    return Layer(stages[-1], modules[stages[-1]], shapes[stages[-1]][1:])


def _shapes(
    model: nn.Module, modules: dict[str, nn.Module], image: Tensor
) -> dict[str, tuple[int, ...]]:
    """Shapes of the modules' outputs, in the order in which they come (last)."""
    shapes: dict[str, tuple[int, ...]] = {}

    names = {module: name for name, module in modules.items()}

    def note(module: nn.Module, output: object) -> None:
        shapes.pop(names[module], None)  # the last of several uses counts
        if isinstance(output, Tensor):
            shapes[names[module]] = tuple(output.shape)

    handles = [
        module.register_forward_hook(lambda module, _, output: note(module, output))
        for module in names
    ]
    try:
        with torch.no_grad():
            model(image)
    finally:
        for handle in handles:
            handle.remove()
    return shapes
