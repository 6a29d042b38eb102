"""Which layer to explain, and layers of tokens as maps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from captum_margin._model.failures import refusals_explained
from captum_margin._model.forward_args import plain_args
from captum_margin._model.hooks import check_hooks, eager, uncompiled
from captum_margin._model.layouts import check_layout

__all__ = [
    "ConvLayer",
    "is_map",
    "last_conv_layer",
    "layer_of_maps",
    "maps_shape",
    "output_shapes",
    "reshape_of",
    "tokens_to_maps",
]

# They make no features: what they give is what they were given, coarser.
_POOLS = (
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.LPPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.FractionalMaxPool2d,
    nn.Identity,
    nn.modules.dropout._DropoutNd,
)


class ConvLayer(NamedTuple):
    """A layer whose output has an extent in space: :func:`last_conv_layer`.

    Args:
        name (str): Its name in the model.
        layer (Module): The layer.
        shape (tuple[int, ...]): Of its output, (B, K, h, w).
    """

    name: str
    layer: nn.Module
    shape: tuple[int, ...]


def last_conv_layer(
    model: Callable[..., Tensor],
    inputs: Tensor | tuple[Tensor, ...],
    additional_forward_args: object = None,
) -> ConvLayer:
    """Finds the last layer of a network that still has an extent in space.

    It is the last in the order of a forward pass whose output is (B, K, h, w), with h
    and w above 1 and in the proportion of the image, so that tokens and outputs with
    channels last do not count. A block counts as one layer and comes after what is in
    it: the result is the whole of ``layer4`` (ResNet) or ``features`` (VGG, DenseNet),
    with activation and pooling. Left out are single pooling and dropout layers, and
    maps of the classes themselves (SqueezeNet's head), which are scores already.

    Args:
        model (Module): The network; a function hides its layers.
        inputs (Tensor or tuple[Tensor, ...]): What it takes; one example is enough.
        additional_forward_args (Any, optional): As in Captum. Default: None

    Returns:
        ConvLayer: Name, module and shape of the output.

    Raises:
        ValueError: If there is no such layer, or the network is a transformer whose
            only maps are its patches before the first block: then name a layer, see
            :func:`tokens_to_maps`.

    Cost: one forward pass.

    Examples::

        >>> import torch
        >>> from captum.attr import LayerGradCam
        >>> from captum_margin.attr import last_conv_layer
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2),
        ...     nn.Flatten(), nn.Linear(8 * 7 * 7, 2))
        >>> image = torch.rand(1, 3, 16, 16)
        >>> name, layer, shape = last_conv_layer(net, image)
        >>> name, shape
        ('1', (1, 8, 14, 14))
        >>> LayerGradCam(net, layer).attribute(image, target=0).shape
        torch.Size([1, 1, 14, 14])
    """
    layer, reshape = layer_of_maps(model, inputs, additional_forward_args)
    if reshape is not None:
        transform = "tokens_to_maps"
        if isinstance(reshape, partial):
            grid = reshape.keywords["grid"]
            transform = f"functools.partial(tokens_to_maps, grid={grid})"
        raise ValueError(
            "cannot choose a layer by itself: the network's maps come before its "
            "layers of tokens, as in a transformer; pass "
            f"layer=model.get_submodule({layer.name!r}) or another layer of tokens, "
            f"and reshape_transform={transform}"
        )
    return layer


def layer_of_maps(
    model: Callable[..., Tensor],
    inputs: Tensor | tuple[Tensor, ...],
    additional_forward_args: object = None,
) -> tuple[ConvLayer, Callable[[Tensor], Tensor] | None]:
    """As :func:`last_conv_layer`; in a transformer the last layer that it would name.

    Returns:
        tuple: The layer, with the shape of its maps; and what makes them of its output,
        :func:`tokens_to_maps`, or None where they are its output.
    """
    check_hooks(model)
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    shapes_in = [tuple(getattr(tensor, "shape", ())) for tensor in tensors]
    size = next((shape[2:] for shape in shapes_in if len(shape) == 4), None)
    if not isinstance(model, nn.Module) or size is None:
        raise ValueError(
            "cannot choose a layer by itself: expected a Module and images "
            f"(B, C, H, W) (got {type(model).__name__} and "
            f"{shapes_in}); pass layer="
        )
    check_layout(next(tensor for tensor in tensors if tensor.dim() == 4), model)
    model = uncompiled(model)
    shapes, output = output_shapes(model, tensors, additional_forward_args)
    modules = dict(model.named_modules())
    place = {name: i for i, name in enumerate(shapes)}
    maps = [name for name, shape in shapes.items() if shape and is_map(shape, size)]
    last_learnt = max(
        (i for name, i in place.items() if _learns(modules[name])),
        default=-1,
    )

    def serves(name: str) -> bool:
        if isinstance(modules[name], _POOLS):
            return False
        of_classes = len(output) > 1 and shapes[name][1] == output[1]
        return place[name] < last_learnt or not of_classes

    found = [name for name in maps if serves(name)]
    convolutions = [name for name in maps if isinstance(modules[name], nn.Conv2d)]
    tokens = [
        name
        for name, shape in shapes.items()
        if len(shape) in (3, 4) and name not in maps and min(shape[1:3]) > 1
    ]
    if found and tokens and place[tokens[-1]] > place[found[-1]]:
        # A patch embedding, or a convolutional stem, and attention comes after it.
        attends = any(place[name] > place[found[-1]] for name in _attentions(shapes))
        if len(convolutions) <= 1 or attends:
            name = _before_attention(list(shapes), tokens)
            shape = maps_shape(shapes[name], size)
            if shape is None:
                raise ValueError(
                    "cannot choose a layer by itself: the tokens of the layer "
                    f"{name!r}, {shapes[name]}, are no grid of patches of images "
                    f"{size}; pass layer= and reshape_transform=functools.partial("
                    "tokens_to_maps, grid=(h, w))"
                )
            reshape = reshape_of(shapes[name], shape)
            return ConvLayer(name, modules[name], shape), reshape
    if not found:
        raise ValueError(
            "cannot choose a layer by itself: no layer of the model has maps "
            "(B, K, h, w); pass layer="
        )
    return ConvLayer(found[-1], modules[found[-1]], shapes[found[-1]]), None


def tokens_to_maps(values: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
    """Tokens of a transformer as maps: a ``reshape_transform``.

    Args:
        values (Tensor): Tokens (B, T, K), row by row, those that are no places first
            (class token, distillation token, registers); or maps with channels last,
            (B, h, w, K) (Swin).
        grid (tuple[int, int], optional): Places along h and w, the last h * w of the
            tokens; as a transform ``functools.partial(tokens_to_maps, grid=(14, 16))``.
            Default: None, a square behind a class token (ViT), or where T leaves no
            such grid of the class token alone, a square behind none, behind the class
            and distillation tokens (DeiT), or behind the class token and four registers
            (DINOv2).

    Returns:
        Tensor: Maps, (B, K, h, w).

    Raises:
        ValueError: If it is neither, or the grid is not given and not certain, or not
            of the values.

    Cost: none, the result is a view of the tokens.

    The class token is all that the head of a ViT reads of its last block: no score
    depends on the other tokens there. So explain the layer that goes into its last
    attention, such as ``model.encoder.layers[-1].ln_1`` of torchvision's.

    Examples::

        >>> import torch
        >>> from captum_margin.attr import tokens_to_maps
        >>> tokens_to_maps(torch.rand(2, 1 + 14 * 14, 768)).shape
        torch.Size([2, 768, 14, 14])
        >>> tokens_to_maps(torch.rand(2, 1 + 14 * 16, 768), grid=(14, 16)).shape
        torch.Size([2, 768, 14, 16])
        >>> tokens_to_maps(torch.rand(2, 7, 7, 768)).shape
        torch.Size([2, 768, 7, 7])
    """
    shape = tuple(values.shape)
    if values.dim() == 3:
        n_tokens = shape[1]
        if grid is None:
            grid = _certain_grid(n_tokens)
        n_places = math.prod(grid)
        if len(grid) != 2 or min(grid) < 1 or n_places > n_tokens:
            raise ValueError(
                f"expected a grid (h, w) of at most {n_tokens} places, as many as "
                f"there are tokens (got {tuple(grid)} for {shape})"
            )
        values = values[:, n_tokens - n_places :].unflatten(1, tuple(grid))
    elif values.dim() == 4 and grid is not None and shape[1:3] != tuple(grid):
        raise ValueError(
            f"expected maps (B, h, w, K) of the grid {tuple(grid)} (got {shape})"
        )
    if values.dim() != 4:
        raise ValueError(
            "expected tokens (B, T, K), or maps with channels last (B, h, w, K) (got "
            f"{shape}); pass a reshape_transform of your own"
        )
    return values.permute(0, 3, 1, 2)


#: How many tokens that are no places come first, the most usual number first.
_BEFORE = {
    1: "a class token",
    0: "no other token",
    2: "a class and a distillation token",
    5: "a class token and 4 registers",
}
#: Grids of longer shape are not thought of where none is given.
_LONGEST = 2.0


def _certain_grid(n_tokens: int) -> tuple[int, int]:
    """The square that so many tokens are, behind those that are no places.

    Raises:
        ValueError: If they are none, or may be a class token and another grid.
    """
    squares = {n: _square(n_tokens - n) for n in _BEFORE}
    found = {n: side for n, side in squares.items() if side}
    if 1 in found:
        return found[1], found[1]
    behind_class = [
        (h, (n_tokens - 1) // h)
        for h in range(2, math.isqrt(max(0, n_tokens - 1)) + 1)
        if (n_tokens - 1) % h == 0 and (n_tokens - 1) / h < _LONGEST * h
    ]
    if found and not behind_class:
        side = next(iter(found.values()))
        return side, side
    readings = [f"{_BEFORE[n]} and {s} x {s} places" for n, s in found.items()]
    readings += [f"{_BEFORE[1]} and {h} x {w} places" for h, w in behind_class[-1:]]
    raise ValueError(
        f"expected a grid for {n_tokens} tokens (got none; they may be "
        f"{', or '.join(readings) or 'of any'}); pass reshape_transform="
        "functools.partial(tokens_to_maps, grid=(h, w)), or one of your own"
    )


def _square(n_places: int) -> int:
    """The side of so many places, if they are a square of more than one; else 0."""
    side = math.isqrt(max(0, n_places))
    return side if side > 1 and side * side == n_places else 0


def is_map(shape: tuple[int, ...], size: tuple[int, ...]) -> bool:
    """Whether an output looks like maps (B, K, h, w) of images of a size (H, W).

    Channels may be last instead: the axes that are in the proportion of the image
    are those of space.
    """
    if len(shape) != 4 or min(shape[2:]) < 2:
        return False
    first = abs(shape[2] / size[0] - shape[3] / size[1])
    last = abs(shape[1] / size[0] - shape[2] / size[1])
    return first <= last


def maps_shape(shape: tuple[int, ...], size: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape of an output's maps, as tokens or channels last; None if it is neither.

    Tokens are the patches of the image, all of one side, behind 0, 1, 2 or 5 others.

    Args:
        shape (tuple[int, ...]): Of the output.
        size (tuple[int, ...]): Of the images, (H, W).
    """
    if len(shape) == 3:
        for n_before in _BEFORE:
            n_places = shape[1] - n_before
            side = _square(n_places) if size[0] == size[1] else 0
            if side:
                return (shape[0], shape[2], side, side)
            for patch in range(1, min(size) // 2 + 1):
                h, w = size[0] // patch, size[1] // patch
                if h * w == n_places:
                    return (shape[0], shape[2], h, w)
    if len(shape) == 4 and shape[1] > 1 and shape[1] * size[1] == shape[2] * size[0]:
        return (shape[0], shape[3], shape[1], shape[2])
    return None


def reshape_of(
    shape: tuple[int, ...], maps: tuple[int, ...]
) -> Callable[[Tensor], Tensor]:
    """What makes maps of an output of tokens, or with channels last.

    Args:
        shape (tuple[int, ...]): Of the output.
        maps (tuple[int, ...]): Of the maps, as :func:`maps_shape` has them.
    """
    if len(shape) == 3:
        try:
            certain = _certain_grid(shape[1])
        except ValueError:
            certain = None
        if certain != maps[2:]:
            return partial(tokens_to_maps, grid=(maps[2], maps[3]))
    return tokens_to_maps


def output_shapes(
    model: nn.Module, inputs: tuple[Tensor, ...], args: object = None
) -> tuple[dict[str, tuple[int, ...]], tuple[int, ...]]:
    """What the modules and the model itself give in one forward pass.

    Returns:
        tuple: The shapes of the modules' outputs by name, in the order in which they
        come (of several uses the last), and the shape of the model's own output; () for
        what is no tensor.
    """
    extra = plain_args(args, len(inputs[0])) or ()
    names = {module: name for name, module in model.named_modules() if name}
    shapes: dict[str, tuple[int, ...]] = {}

    def note(module: nn.Module, output: object) -> None:
        shapes.pop(names[module], None)
        shapes[names[module]] = _shape(output)

    handles = [
        module.register_forward_hook(lambda module, _, output: note(module, output))
        for module in names
    ]
    try:
        with torch.no_grad(), eager(), refusals_explained(model, inputs):
            # Copies, for models that change their input.
            output = model(*(tensor.clone() for tensor in inputs), *extra)
    finally:
        for handle in handles:
            handle.remove()
    return shapes, _shape(output)


def _shape(output: object) -> tuple[int, ...]:
    return tuple(output.shape) if isinstance(output, Tensor) else ()


def _learns(module: nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is not None


def _before_attention(ran: list[str], tokens: list[str]) -> str:
    """The last layer of tokens that an attention comes after."""
    attentions = _attentions(ran)
    before = [
        name
        for name in tokens
        if attentions and ran.index(name) < ran.index(attentions[-1])
    ]
    return (before or tokens)[-1]


def _attentions(names: Iterable[str]) -> list[str]:
    """Modules that are called attention, in the order in which they ran."""
    own = ((name, name.rpartition(".")[2]) for name in names)
    return [name for name, last in own if "attn" in last or "attention" in last]
